"""A host's state as its reports tell it: snapshot, cumulative delta, state hash and use, each computed anew."""

from collections.abc import Mapping

from msgspec import Struct, field
from msgspec.structs import replace

from commonplace.ops.audit.hashes import MODULUS, allocation_hash, host_hash
from commonplace.ops.audit.wire_hosts import Allocation, Delta, HostCell, Item, Snapshot
from commonplace.ops.audit.wire_terms import numbers

IN_CELL = " of cell "


class Facts(Struct, frozen=True):
    """What a host is apart from its allocations, with the hash of it."""

    inventory: Mapping[str, Item]
    traits: frozenset[str]
    labels: Mapping[str, str]
    status: str
    cells: Mapping[str, HostCell]
    hash: int

    def capacity(self, name: str) -> int:
        """Amount of a class that may be allocated; of a part of a cell (`amounts_of`) what the cell has."""
        if IN_CELL in name:
            part, _, cell = name.partition(IN_CELL)
            return self._part(part, self.cells[cell]) if cell in self.cells else 0
        item = self.inventory.get(name)
        if item is None:
            return 0
        return max(0, (item.total - item.reserved) * item.allocation_ratio_thousandths // 1000)

    def _part(self, name: str, cell: HostCell) -> int:
        """What a cell has of one part: a class by the host's ratio, a cpu or a device by its number."""
        kind, _, which = name.partition(" ")
        if kind == "cpu":
            return int(int(which) in numbers(cell.cpus_dedicated))
        if kind == "device":
            return sum(device.shares for device in cell.devices if device.id == which)
        item = self.inventory.get(name)
        ratio = item.allocation_ratio_thousandths if item else 1000
        if name == "VCPU":
            return len(numbers(cell.cpus)) * ratio // 1000
        if name == "MEMORY_MB":
            return cell.memory_mb * ratio // 1000
        if name == "PCPU":
            return len(numbers(cell.cpus_dedicated))
        if name.startswith("PAGES_"):
            return sum(count for size, count in cell.pages.items() if f"PAGES_{size}" == name)
        return sum(device.shares for device in cell.devices if device.kind == name)


class Held(Struct, frozen=True, gc=False):
    """An allocation with its hash."""

    allocation: Allocation
    hash: int


class View(Struct):
    """A host at one report. `facts` is None before its first; `sum` is the sum of the allocations' hashes, `used` of their amounts."""

    facts: Facts | None = None
    gap: bool = False
    held: dict[str, Held] = field(default_factory=dict)
    sum: int = 0
    used: dict[str, int] = field(default_factory=dict)

    @property
    def hash(self) -> int:
        """The state hash, recomputed."""
        return (self.sum + (self.facts.hash if self.facts else 0)) % MODULUS

    def add(self, held: Held) -> None:
        """Put an allocation in, in place of one of the same id."""
        self.drop(held.allocation.id)
        self.held[held.allocation.id] = held
        self.sum += held.hash
        used = self.used
        for name, amount in amounts_of(held.allocation).items():
            used[name] = used.get(name, 0) + amount

    def drop(self, allocation: str) -> Held | None:
        """Take an allocation out, if it is there."""
        held = self.held.pop(allocation, None)
        if held is not None:
            self.sum -= held.hash
            for name, amount in amounts_of(held.allocation).items():
                self.used[name] -= amount
        return held

    def copy(self) -> "View":
        """A view to be changed while this one stays."""
        return View(self.facts, self.gap, dict(self.held), self.sum, dict(self.used))


def amounts_of(allocation: Allocation) -> Mapping[str, int]:
    """What an allocation holds: classes, parts of cells (`VCPU of cell 0`), and by number `cpu 3 of cell 0`, `device X of cell 0`."""
    if not allocation.cells:
        return allocation.resources
    amounts = dict(allocation.resources)
    for cell, parts in allocation.cells.items():
        amounts |= {f"{name}{IN_CELL}{cell}": amount for name, amount in parts.items()}
    return amounts | numbered(allocation)


def numbered(allocation: Allocation) -> dict[str, int]:
    """What an allocation holds by number: each cpu once, of each device its shares."""
    given: dict[str, int] = {}
    for cell, assigned in (allocation.assigned or {}).items():
        given |= {f"cpu {cpu}{IN_CELL}{cell}": 1 for cpu in numbers(assigned.cpus)}
        given |= {f"device {name}{IN_CELL}{cell}": shares for name, shares in assigned.devices.items()}
    return given


def of_snapshot(record: Snapshot, before: View | None) -> View:
    """The state a snapshot shows; `before` only saves hashing again what did not change."""
    view = View(
        _facts(record.inventory, frozenset(record.traits), record.labels, record.status, record.cells, before),
        record.gap,
    )
    for allocation in record.allocations:
        view.add(hold(allocation, before))
    return view


def of_delta(record: Delta, base: View, before: View | None) -> View:
    """The state a delta shows: its base with what the delta names replaced."""
    view = base.copy()
    was = base.facts
    assert was is not None, "a base is the view of a snapshot"
    if any(part is not None for part in (record.inventory, record.traits, record.labels, record.status, record.cells)):
        view.facts = _facts(
            was.inventory if record.inventory is None else record.inventory,
            was.traits if record.traits is None else frozenset(record.traits),
            was.labels if record.labels is None else record.labels,
            was.status if record.status is None else record.status,
            was.cells if record.cells is None else record.cells,
            before,
        )
    if record.gap is not None:
        view.gap = record.gap
    for gone in record.removed:
        view.drop(gone)
    for allocation in record.upserts:
        view.add(hold(allocation, before))
    return view


def hold(allocation: Allocation, before: View | None) -> Held:
    """An allocation with its hash, taken from the state before where nothing that is hashed changed."""
    known = before.held.get(allocation.id) if before else None
    if known is not None:
        if known.allocation == allocation:
            return known
        if same_shape(known.allocation, allocation):
            return Held(allocation, known.hash)
    return Held(allocation, allocation_hash(allocation.id, allocation.resources, allocation.group, allocation.cells))


def same_shape(one: Allocation, other: Allocation) -> bool:
    """Whether two allocations of one id are equal in all that is hashed."""
    return one.resources == other.resources and one.group == other.group and one.cells == other.cells


def becomes(part: Allocation, shown: Allocation | None) -> bool:
    """Whether what is shown is what an allocation that replaces another becomes once that is gone."""
    whole = part.becomes
    return (
        whole is not None
        and shown is not None
        and shown.becomes is None
        and (shown.resources, shown.group, shown.cells) == (whole.resources, part.group, whole.cells)
    )


def alone(part: Allocation) -> Allocation:
    """What an allocation that replaces another becomes once that is gone, apart from what it is given by number."""
    whole = part.becomes
    return (
        part
        if whole is None
        else replace(part, resources=whole.resources, cells=whole.cells, replaces="", becomes=None)
    )


def _facts(
    inventory: Mapping[str, Item],
    traits: frozenset[str],
    labels: Mapping[str, str],
    status: str,
    cells: Mapping[str, HostCell],
    before: View | None,
) -> Facts:
    known = before.facts if before else None
    if known and (known.inventory, known.traits, known.labels, known.status, known.cells) == (
        inventory, traits, labels, status, cells,
    ):  # fmt: skip
        return known
    return Facts(inventory, traits, labels, status, cells, host_hash(inventory, traits, labels, status, cells))
