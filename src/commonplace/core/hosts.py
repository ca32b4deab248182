"""Fold of one host's records: start, snapshot, cumulative delta, tombstone (rule 1).

    start ──▶ stale ──snapshot──▶ good ──delta on this snapshot──▶ good
                                   │ bad record, other base, hash mismatch
                                   ▼
                                 stale ──good record of that key, or a snapshot──▶ good

The same fold serves replicas (replay) and agents (restart from the host's own last report).
"""

import sys
from typing import Final

from commonplace.core import hashing
from commonplace.core.cells import cells_of
from commonplace.core.codec import REPORTS, Bad, decode
from commonplace.core.host_keys import NO_EPOCH, Key
from commonplace.core.records.hosts import Allocation, HostDelta, Settled, Snapshot, Start
from commonplace.core.report_checks import check_names
from commonplace.core.reported_sums import NO_HOST_CELLS, ReportedSums
from commonplace.core.resources import Inventory
from commonplace.core.shared import Shape, part_of, share, shared_shape, shared_status
from commonplace.core.upserts import Upserts, upserts_of

APPLIED: Final = "applied"
SUPERSEDED: Final = "superseded"
"""A duplicate, or void: of an epoch or generation that a newer one replaced."""
QUARANTINED: Final = "quarantined"


_UNNAMED: Final = (None, None, None, None, None, None)
_NOTHING: Final[dict[int, Allocation]] = {}
_NONE_SETTLED: Final[list[Settled]] = []
_NO_LOAD: Final[dict[str, float]] = {}
_NO_GONE: Final[list[str]] = []
NOTHING_FRESH: Final[list[Allocation]] = []
"""Shared by all hosts with nothing fresh, as others above are: an empty list for each takes 56 bytes."""


class HostState(ReportedSums):
    """What the log says of one host. `stale` names why it must not be ranked, "" when it may.

    `base` is the content of the snapshot that deltas rest on; it is the same object as `allocations` until a delta came.
    """

    __slots__ = (
        "agent",
        "base",
        "base_cells",
        "base_generation",
        "base_status",
        "claims_through",
        "claims_topic",
        "epoch",
        "fresh",
        "gap",
        "generation",
        "gone",
        "host_changed",
        "inventory",
        "labels",
        "load",
        "log_time_ms",
        "name",
        "removed",
        "settled",
        "snapshot_inventory",
        "stale",
        "status",
        "told",
        "traits",
        "version",
    )  # fmt: skip

    def __init__(self, name: str) -> None:
        self.name = name
        self.epoch = NO_EPOCH
        self.log_time_ms = 0
        self.clear("no report yet")

    def clear(self, stale: str) -> None:
        """Forget all content; the epoch stays."""
        self.generation = -1
        self.base_generation = -1
        self.stale = stale
        self.removed = False
        self.version = 0
        self.agent = ""
        self.inventory: dict[str, Inventory] = {}
        self.traits: frozenset[str] = frozenset()
        self.labels: dict[str, str] = {}
        self.status = "enabled"
        self.gap = False
        self.load: dict[str, float] = {}
        self.settled: list[Settled] = []
        self.claims_topic = ""
        self.claims_through = -1
        self.hold_nothing()
        self.base = self.allocations
        self.base_status: tuple[str, bool] = ("enabled", False)
        self.snapshot_inventory: Shape = ({}, frozenset(), {})
        self.base_cells = self.reported_cells
        self.host_changed = False  # by a delta, against the snapshot
        # of the last delta on this base: digests of its upserts as bytes, with what they say, and what it removed
        self.told: dict[int, Allocation] = _NOTHING
        self.gone: list[str] = _NO_GONE
        self.fresh = NOTHING_FRESH  # what the last report showed and the one before did not

    # -- one record ---------------------------------------------------------------------------------------------------------------------

    def start(self, offset: int, removed: bool, log_time_ms: int) -> str:
        """A start record: fences every lower epoch; the host is stale until the snapshot of this one.

        The content stays, because a restarting agent goes on from the report before its start record; a removed host has none.
        """
        if offset <= self.epoch:
            return SUPERSEDED
        self.epoch, self.log_time_ms = offset, max(log_time_ms, self.log_time_ms)
        if removed:
            self.clear("removed")
            self.removed = True
            return APPLIED
        self.removed = False
        # generation −1: any report of the new epoch is newer; base −2: no delta can rest on a snapshot that this epoch has not sent
        self.generation, self.base_generation, self.stale = -1, -2, "starting"
        return APPLIED

    def void(self, epoch: int, generation: int) -> bool:
        """Whether a report is one that a newer epoch or generation replaced."""
        return epoch < self.epoch or (epoch == self.epoch and (generation <= self.generation or self.removed))

    def bad(self, key: Key, offset: int, reason: str, newer: int, log_time_ms: int) -> str:
        """A record under this host's key that cannot be used: stale until a good one of that key.

        A start record of a newer version fences all the same, or its agent's clearing up would look like the host's removal.
        """
        if key.kind != "start" and (key.epoch < self.epoch or self.removed):
            return SUPERSEDED
        if key.kind == "start" and newer:
            self.start(offset, False, log_time_ms)
        self.stale, self.version = reason, newer
        if key.kind != "delta":  # deltas go on without a bad delta, but never past a bad snapshot or start record
            self.base_generation = -2
        self.log_time_ms = max(log_time_ms, self.log_time_ms)
        return APPLIED if newer else QUARANTINED

    def snapshot(self, record: Snapshot, log_time_ms: int) -> str:
        """Apply a full report."""
        if self.void(record.epoch, record.generation):
            return SUPERSEDED
        self.epoch, self.generation, self.base_generation = record.epoch, record.generation, record.generation
        self.stale, self.version, self.removed = "", 0, False
        if record.agent != self.agent:
            self.agent = sys.intern(record.agent)
        self.snapshot_inventory = shared_shape(record)
        self.inventory, self.traits, self.labels = self.snapshot_inventory
        self.status, self.gap = record.status, record.gap
        self.base_status = shared_status(record.status, record.gap)
        self.host_changed = False
        self.reported_cells = self.base_cells = record.cells or NO_HOST_CELLS
        self.cells = cells_of(self.reported_cells)
        self.host_hash = part_of(self.snapshot_inventory, record)
        known = self.allocations
        self.allocations = self.base = {a.id: a for a in record.allocations}
        self.fresh = (
            [a for a in record.allocations if a.id not in known] if known else record.allocations
        ) or NOTHING_FRESH
        self.told, self.gone = _NOTHING, _NO_GONE
        self.count_all()
        self._watermark(record, log_time_ms)
        return APPLIED

    def delta(self, record: HostDelta, upserts: Upserts, log_time_ms: int) -> str:
        """Apply a cumulative delta: the base with what it names replaced, whatever earlier deltas said."""
        if self.void(record.epoch, record.generation):
            return SUPERSEDED
        if record.epoch > self.epoch or record.base_generation != self.base_generation:
            if record.epoch > self.epoch:
                # its start record may be compacted away: whatever was removed before, the host is there
                self.epoch, self.base_generation, self.removed = record.epoch, -2, False
            self.generation = record.generation
            self.stale = f"delta rests on snapshot {record.base_generation}, which was not seen"
            self.log_time_ms = max(log_time_ms, self.log_time_ms)
            return APPLIED
        self.generation, self.stale, self.version = record.generation, "", 0
        named = (
            record.inventory, record.traits, record.labels, record.status, record.gap, record.cells
        ) != _UNNAMED  # fmt: skip
        if named or self.host_changed:
            self.host_changed = named
            self._host_part(record)
        self._allocations(record.removed, upserts)
        self._watermark(record, log_time_ms)
        return APPLIED

    def _host_part(self, record: HostDelta) -> None:
        inventory, traits, labels = self.snapshot_inventory
        status, gap = self.base_status
        new = (
            inventory if record.inventory is None else record.inventory,
            traits if record.traits is None else frozenset(record.traits),
            labels if record.labels is None else record.labels,
            status if record.status is None else record.status,
            self.base_cells if record.cells is None else record.cells,
        )
        self.gap = gap if record.gap is None else record.gap
        if new != (self.inventory, self.traits, self.labels, self.status, self.reported_cells):
            if new[4] != self.reported_cells:
                self.reported_cells = new[4]
                self.lay_all()
            self.inventory, self.traits, self.labels, self.status, self.reported_cells = new
            part = hashing.host_part(*new)
            self.hash = (self.hash - self.host_hash + part) & hashing.MASK
            self.host_hash = part

    def _allocations(self, removed: list[str], upserts: Upserts) -> None:
        now, before, gone_before = self.allocations, self.told, self.gone
        if now is self.base and (upserts.new or removed):
            now = self.allocations = dict(now)
        fresh: list[Allocation] = []
        for gone in removed:  # first, because an upsert of the same id puts it in place again
            if gone in now:
                self.put(gone, None)
        for allocation in upserts.new:
            old = now.get(allocation.id)
            if old == allocation:
                continue
            tail = share(allocation)
            if old is None:
                fresh.append(allocation)
            else:
                self.count(old, -1)
            self.count(allocation, 1, tail)
            now[allocation.id] = allocation
        self.fresh = fresh or NOTHING_FRESH
        self.told, self.gone = upserts.told, removed or _NO_GONE
        if not (before.keys() <= upserts.told.keys()) or (gone_before and gone_before != removed):
            self._undo({a.id for a in before.values()}.union(gone_before), upserts.named.union(removed))
            if self.cells and any(a.cells for a in upserts.new):  # one of them may have cpus of what is undone
                self.lay_all()

    def _undo(self, before: set[str], named: set[str]) -> None:
        """What the delta before named and this one does not is as in the base again."""
        for undone in before - named:
            self.put(undone, self.base.get(undone))

    def _watermark(self, record: Snapshot | HostDelta, log_time_ms: int) -> None:
        if record.claims_topic != self.claims_topic:
            self.claims_topic = sys.intern(record.claims_topic)
        self.claims_through = record.claims_through
        self.settled, self.load = record.settled or _NONE_SETTLED, record.load or _NO_LOAD
        if log_time_ms > self.log_time_ms:
            self.log_time_ms = log_time_ms
        if hashing.to_hex(self.hash) != record.hash:
            self.stale = f"hash {hashing.to_hex(self.hash)} recomputed, {record.hash} reported"
            if isinstance(record, Snapshot):
                self.base_generation = -2

    def tombstone(self, key: Key) -> str:
        """A deleted key: the current epoch's snapshot gone means that the host is; others were replaced before."""
        if key.kind == "snapshot" and key.epoch == self.epoch and not self.removed:
            epoch = self.epoch
            self.clear("removed")
            self.epoch, self.removed = epoch, True
            return APPLIED
        return SUPERSEDED


def read(key: Key, offset: int, value: bytes) -> Start | Snapshot | HostDelta | Bad:
    """Decode a host record, of a delta's allocations only the bytes, and hold it against its key: key and payload must agree."""
    record: Start | Snapshot | HostDelta | Bad = decode(REPORTS, value)
    if (
        isinstance(record, HostDelta)
        and key.kind == "delta"
        and record.host == key.host
        and record.epoch == key.epoch < offset
    ):
        return record  # as most are; what follows says of the others what is wrong
    if isinstance(record, Bad):
        return record
    if record.host != key.host:
        return Bad(f"key is of host {key.host!r}, record of {record.host[:128]!r}")
    if isinstance(record, Start):
        return record if key.kind == "start" else Bad(f"start record under a {key.kind} key")
    if key.kind != ("snapshot" if isinstance(record, Snapshot) else "delta") or record.epoch != key.epoch:
        return Bad(f"{type(record).__name__.lower()} of epoch {record.epoch} under key of {key.kind} {key.epoch}")
    if record.epoch >= offset:
        return Bad(f"epoch {record.epoch} is not below the record's own offset {offset}")
    return record


def fold(state: HostState, key: Key, offset: int, log_time_ms: int, value: bytes | None) -> tuple[str, str]:
    """Fold one record of this host; returns the outcome (APPLIED, SUPERSEDED or QUARANTINED) and, for a bad one, the reason."""
    if value is None:
        return state.tombstone(key), ""
    record = read(key, offset, value)
    if isinstance(record, HostDelta):
        upserts = upserts_of(state.told, record)
        if isinstance(upserts, Upserts):
            return state.delta(record, upserts, log_time_ms), ""
        record = upserts
    elif isinstance(record, Snapshot):
        reason = check_names(record.allocations, value)
        if not reason:
            return state.snapshot(record, log_time_ms), ""
        record = Bad(reason)
    elif isinstance(record, Start):
        return state.start(offset, record.removed, log_time_ms), ""
    return state.bad(key, offset, record.reason, record.newer, log_time_ms), record.reason
