"""What a ledger tells in its reports: all that it holds, or what differs from the snapshot before, and what became of claims (rule 4)."""

from typing import Any

from msgspec import Raw

from commonplace.core import hashing
from commonplace.core.codec import encode
from commonplace.core.holdings import Holdings
from commonplace.core.ledger_events import Bounds
from commonplace.core.records.hosts import HostDelta, Reason, Settled, Snapshot, Status, Verdict


class ReportedHoldings(Holdings):
    """What a host holds, with what the next report tells of it. `base` and what begins with it say what deltas rest on."""

    __slots__ = (
        "base", "base_host", "base_host_hash", "base_ids", "base_status", "bounds", "claims_through", "claims_topic", "epoch", "gap",
        "generation", "host", "load", "removed", "settled", "settled_omitted", "upserted",
    )  # fmt: skip

    def __init__(self, host: str, epoch: int, claims_topic: str, claims_through: int, bounds: Bounds) -> None:
        super().__init__()
        self.host, self.epoch, self.bounds = host, epoch, bounds
        self.claims_topic, self.claims_through = claims_topic, claims_through
        self.generation = 0
        self.gap = False
        self.load: dict[str, float] = {}
        self.settled: list[Settled] = []
        self.settled_omitted = 0
        self.base = 0  # generation of the snapshot that deltas rest on
        self.base_ids: frozenset[str] = frozenset()
        self.base_host: tuple[Any, ...] = ()
        self.base_host_hash = 0
        self.base_status: tuple[Status, bool] = ("enabled", False)
        self.upserted: dict[str, Raw | None] = {}
        """What deltas carry, each as it was written last, None where it has changed since; in order, so that the same events give the same
        bytes."""
        self.removed: dict[str, None] = {}

    # -- what the next report tells -----------------------------------------------------------------------------------------------------

    def upsert(self, allocation_id: str) -> None:
        """The next delta carries this allocation; an id that went and came again is no longer gone."""
        self.upserted[allocation_id] = None
        self.removed.pop(allocation_id, None)

    def drop(self, allocation_id: str) -> None:
        """The next delta says that this allocation is gone, if the snapshot that it rests on has it."""
        self.upserted.pop(allocation_id, None)
        if allocation_id in self.base_ids:
            self.removed[allocation_id] = None

    def settle(self, offset: int, verdict: Verdict, reason: Reason, allocation: str = "", detail: str = "") -> None:
        """The next report lists what became of a claim or a lease, or counts it where the list is full."""
        if len(self.settled) >= self.bounds.settled_max:
            self.settled_omitted += 1
            return
        self.settled.append(
            Settled(offset=offset, verdict=verdict, reason=reason, allocation=allocation, detail=detail)
        )

    # -- reports ------------------------------------------------------------------------------------------------------------------------

    @property
    def changes(self) -> int:
        """How many allocations the next delta would carry."""
        return len(self.upserted) + len(self.removed)

    def snapshot(self, agent: str) -> Snapshot:
        """The next report in full; deltas rest on it from now on."""
        self.generation += 1
        self.base = self.generation
        self.base_ids = frozenset(self.allocations)
        self.base_host = (self.inventory, self.traits, self.labels, self.reported_cells)
        self.base_host_hash = self.host_hash
        self.base_status = (self.status, self.gap)
        self.upserted, self.removed = {}, {}
        settled, omitted = self._told()
        return Snapshot(
            host=self.host,
            epoch=self.epoch,
            generation=self.generation,
            claims_topic=self.claims_topic,
            claims_through=self.claims_through,
            hash=hashing.to_hex(self.hash),
            agent=agent[:128],
            status=self.status,
            gap=self.gap,
            inventory=dict(self.inventory),
            traits=self.traits,
            labels=dict(self.labels),
            allocations=list(self.allocations.values()),
            settled=settled,
            settled_omitted=omitted,
            load=self.load,
            cells=dict(self.reported_cells),
        )

    def delta(self) -> HostDelta:
        """The next report as what differs from the snapshot it rests on: an allocation that has not changed is not encoded again."""
        self.generation += 1
        settled, omitted = self._told()
        told = HostDelta(
            host=self.host,
            epoch=self.epoch,
            generation=self.generation,
            base_generation=self.base,
            claims_topic=self.claims_topic,
            claims_through=self.claims_through,
            hash=hashing.to_hex(self.hash),
            upserts=self._upserts(),
            removed=list(self.removed),
            settled=settled,
            settled_omitted=omitted,
            load=self.load,
        )
        if (self.host_hash, self.gap) != (self.base_host_hash, self.base_status[1]):
            self._host_changes(told)
        return told

    def _upserts(self) -> list[Raw]:
        told: list[Raw] = []
        for name, written in self.upserted.items():
            if written is None:
                written = self.upserted[name] = Raw(encode(self.allocations[name]))
            told.append(written)
        return told

    def _host_changes(self, told: HostDelta) -> None:
        """What of the host itself differs from the snapshot that the delta rests on."""
        inventory, traits, labels, cells = self.base_host
        status, gap = self.base_status
        told.status = None if self.status == status else self.status
        told.gap = None if self.gap == gap else self.gap
        told.inventory = None if self.inventory == inventory else dict(self.inventory)
        told.traits = None if self.traits == traits else self.traits
        told.labels = None if self.labels == labels else dict(self.labels)
        told.cells = None if self.reported_cells == cells else dict(self.reported_cells)

    def _told(self) -> tuple[list[Settled], int]:
        told, omitted = self.settled, self.settled_omitted
        self.settled, self.settled_omitted = [], 0
        return told, omitted
