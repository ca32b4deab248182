"""Hosts as they stand in their racks, with what runs on them."""

from commonplace.core.keeper_events import HostSpec
from commonplace.core.ledger_events import Found
from commonplace.core.records.hosts import HostCell
from commonplace.core.resources import Inventory
from commonplace.sim.plan import Config
from commonplace.sim.shapes import cells_of, inventory_of


class Machine:
    """A host as it stands in its rack: what it has, and what runs on it that no claim brought. It outlives its agents."""

    __slots__ = ("changes", "config", "found", "labels", "name", "reserved", "traits", "vcpus")

    def __init__(self, name: str, config: Config, traits: tuple[str, ...], rack: str = "") -> None:
        self.name, self.config, self.traits = name, config, traits
        self.vcpus, self.reserved = config.vcpus, config.reserved
        self.labels = {"rack": rack} if rack else {}
        self.found: dict[str, Found] = {}
        self.changes = 0

    def spec(self) -> HostSpec:
        """The host as its driver describes it."""
        return HostSpec(
            name=self.name, inventory=self.inventory(), traits=self.traits, labels=self.labels, cells=self.cells()
        )

    def inventory(self) -> dict[str, Inventory]:
        """What it has."""
        return inventory_of(self.config, self.vcpus, self.reserved)

    def cells(self) -> dict[str, HostCell]:
        """Its NUMA cells."""
        return cells_of(self.config, self.vcpus)
