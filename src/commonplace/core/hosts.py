"""Fold of one host's records: start, snapshot, cumulative delta, tombstone (rule 1).

    start ──▶ stale ──snapshot──▶ good ──delta on this snapshot──▶ good
                                   │ bad record, other base, hash mismatch
                                   ▼
                                 stale ──good record of that key, or a snapshot──▶ good

The same fold serves replicas (replay) and agents (restart from the host's own last report).
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from commonplace.core import hashing
from commonplace.core.cells import NO_CELLS, Cells, after, cells_of
from commonplace.core.codec import REPORTS, Bad, decode
from commonplace.core.host_keys import NO_EPOCH, Key
from commonplace.core.records.hosts import Allocation, HostCell, HostDelta, Settled, Snapshot, Start
from commonplace.core.report_checks import check_names
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
_NO_HOST_CELLS: Final[dict[str, HostCell]] = {}
_NO_GONE: Final[list[str]] = []
_NO_GROUPS: Final[dict[str, int]] = {}
NOTHING_FRESH: Final[list[Allocation]] = []
"""Shared by all hosts with nothing fresh, as others above are: an empty list for each takes 56 bytes."""


class HostState:
    """What the log says of one host. `stale` names why it must not be ranked, "" when it may; `used` sums the allocations per class.

    `base` is the content of the snapshot that deltas rest on; it is the same object as `allocations` until a delta came. `cells` are
    the NUMA cells as they stand, with what the allocations hold of them; empty for a host that reports none.
    """

    __slots__ = (
        "agent",
        "allocations",
        "base",
        "base_cells",
        "base_generation",
        "base_status",
        "builds",
        "cells",
        "claims_through",
        "claims_topic",
        "epoch",
        "fresh",
        "gap",
        "generation",
        "gone",
        "groups",
        "hash",
        "host_changed",
        "host_hash",
        "inventory",
        "labels",
        "load",
        "log_time_ms",
        "name",
        "removed",
        "reported_cells",
        "settled",
        "snapshot_inventory",
        "stale",
        "status",
        "told",
        "traits",
        "used",
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
        self.host_hash = self.hash = 0
        self.allocations: dict[str, Allocation] = {}
        self.base = self.allocations
        self.base_status: tuple[str, bool] = ("enabled", False)
        self.snapshot_inventory: Shape = ({}, frozenset(), {})
        self.reported_cells: dict[str, HostCell] = _NO_HOST_CELLS
        self.base_cells = self.reported_cells
        self.cells: Cells = NO_CELLS
        self.host_changed = False  # by a delta, against the snapshot
        # of the last delta on this base: digests of its upserts as bytes, with what they say, and what it removed
        self.told: dict[int, Allocation] = _NOTHING
        self.gone: list[str] = _NO_GONE
        self.fresh = NOTHING_FRESH  # what the last report showed and the one before did not
        self.used: dict[str, int] = {}
        self.groups = _NO_GROUPS
        self.builds = 0

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
        self.reported_cells = self.base_cells = record.cells or _NO_HOST_CELLS
        self.cells = cells_of(self.reported_cells)
        self.host_hash = part_of(self.snapshot_inventory, record)
        known = self.allocations
        self.allocations = self.base = {a.id: a for a in record.allocations}
        self.fresh = (
            [a for a in record.allocations if a.id not in known] if known else record.allocations
        ) or NOTHING_FRESH
        self.told, self.gone = _NOTHING, _NO_GONE
        self._count_all()
        self._watermark(record, log_time_ms)
        return APPLIED

    def _count_all(self) -> None:
        """Count every allocation anew, as `_count` would one by one; amounts of a flavor are added once for all that have them."""
        used: dict[str, int] = {}
        self.used, self.groups, self.builds, self.hash = used, _NO_GROUPS, 0, self.host_hash
        total = builds = 0
        alike: dict[
            int, tuple[dict[str, int], bytes, list[str]]
        ] = {}  # by identity of their resources: ids, and what they share
        for allocation in self.allocations.values():
            tail = share(allocation)
            if not tail:  # of a group, or in cells
                self._count(allocation, 1)
                continue
            builds += allocation.building
            those = alike.get(id(allocation.resources))
            if those is None:
                those = alike[id(allocation.resources)] = (allocation.resources, tail, [])
            those[2].append(allocation.id)
        for resources, tail, ids in alike.values():
            total += hashing.id_hashes(ids, tail)
            for name, amount in resources.items():
                used[name] = used.get(name, 0) + amount * len(ids)
        self.builds += builds
        self.hash = (self.hash + total) & hashing.MASK

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
                self._lay_all()
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
                self._put(gone, None)
        for allocation in upserts.new:
            old = now.get(allocation.id)
            if old == allocation:
                continue
            tail = share(allocation)
            if old is None:
                fresh.append(allocation)
            else:
                self._count(old, -1)
            self._count(allocation, 1, tail)
            now[allocation.id] = allocation
        self.fresh = fresh or NOTHING_FRESH
        self.told, self.gone = upserts.told, removed or _NO_GONE
        if not (before.keys() <= upserts.told.keys()) or (gone_before and gone_before != removed):
            self._undo({a.id for a in before.values()}.union(gone_before), upserts.named.union(removed))
            if self.cells and any(a.cells for a in upserts.new):  # one of them may have cpus of what is undone
                self._lay_all()

    def _lay_all(self) -> None:
        self.cells = cells_of(self.reported_cells)
        for allocation in self.allocations.values():
            self.cells = after(self.cells, allocation.cells, allocation.assigned, 1)

    def _undo(self, before: set[str], named: set[str]) -> None:
        """What the delta before named and this one does not is as in the base again."""
        for undone in before - named:
            self._put(undone, self.base.get(undone))

    def _put(self, allocation_id: str, allocation: Allocation | None) -> None:
        old = self.allocations.pop(allocation_id, None)
        if old is not None:
            self._count(old, -1)
        if allocation is not None:
            self._count(allocation, 1)
            self.allocations[allocation_id] = allocation

    def _count(self, allocation: Allocation, sign: int, tail: bytes = b"") -> None:
        """Count an allocation in or out; `tail` are its canonical bytes after the id, where they are at hand."""
        tail = tail or hashing.tail_bytes(allocation.resources, allocation.group, allocation.cells)
        self.hash = (self.hash + sign * hashing.id_hash(allocation.id, tail)) & hashing.MASK
        used = self.used
        for name, amount in allocation.resources.items():
            used[name] = used.get(name, 0) + sign * amount
        if allocation.building:
            self.builds += sign
        if allocation.cells and self.cells:
            self.cells = after(self.cells, allocation.cells, allocation.assigned, sign)
        if allocation.group:
            self._member(allocation.group, sign)

    def _member(self, group: str, sign: int) -> None:
        if self.groups is _NO_GROUPS:
            self.groups = {}
        left = self.groups.get(group, 0) + sign
        if left:
            self.groups[group] = left
        else:
            del self.groups[group]

    @contextmanager
    def without(self, gone: Allocation) -> Iterator[None]:
        """The host as if it did not hold one of its allocations, for as long as the context lasts."""
        held = self.allocations
        self.allocations = {name: one for name, one in held.items() if name != gone.id}
        self._count(gone, -1)
        try:
            yield
        finally:
            self._count(gone, 1)
            self.allocations = held

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
        if not isinstance(upserts, Bad):
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
