"""Fleets as copies for plans: hosts report to a log in memory, and the copy takes what they said."""

from collections.abc import Sequence
from typing import Any

from commonplace.core.codec import encode
from commonplace.core.records.control import Aggregate, Flavor, Profile
from commonplace.core.records.hosts import Allocation, Snapshot, Start
from commonplace.core.replica_events import ReplicaSettings
from commonplace.core.resources import Inventory
from commonplace.ops.plan_copy import Copy, Moment
from commonplace.ops.plan_trial import Trial
from peer.fleet import NOW_MS, Fleet

SETTINGS = ReplicaSettings()


def inventory(vcpus: int = 16, memory_mb: int = 65_536, **more: Any) -> dict[str, Inventory]:
    return {"VCPU": Inventory(total=vcpus, **more), "MEMORY_MB": Inventory(total=memory_mb)}


class Log(Fleet):
    """A fleet whose records are kept, besides being folded."""

    def __init__(self) -> None:
        super().__init__()
        self.raw: list[tuple[str, tuple[int, int, bytes | None, bytes | None]]] = []

    def _fold(self, key: bytes, record: Start | Snapshot, at_ms: int) -> None:
        self.raw.append(("hosts", (self._offset, at_ms, key, encode(record))))
        super()._fold(key, record, at_ms)

    def say(self, *records: Flavor | Profile | Aggregate, at_ms: int = NOW_MS) -> None:
        """Operators' words."""
        for record in records:
            key = f"{type(record).__name__.lower()}/{record.name}".encode()
            self.raw.append(("control", (len(self.raw), at_ms, key, encode(record))))

    def copy(self, moment: Moment | None = None) -> Copy:
        """What a reader of the log has copied."""
        made = Copy(1, moment)
        for topic, record in self.raw:
            made.take(topic, 0, record)
        return made

    def trial(self) -> Trial:
        """A trial on the copy."""
        return Trial(self.copy(), SETTINGS)


def held(*amounts: tuple[int, int], **fields: Any) -> Sequence[Allocation]:
    """Allocations of so many vCPU and MB."""
    return [
        Allocation(
            id=f"{fields.get('group', 'a')}-{index}-{vcpus}",
            request=f"r-{index}",
            instance=f"i-{index}",
            resources={"VCPU": vcpus, "MEMORY_MB": memory_mb},
            **fields,
        )
        for index, (vcpus, memory_mb) in enumerate(amounts)
    ]
