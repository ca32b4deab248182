"""A replica's view of the fleet: the fold of `hosts`, as objects and as columns, with the replica's own pending claims laid over it.

A host is a row; what ranking reads stands in numpy columns, one value a row, in the unit of its class. Every change of a row is noted in
`changed`, from which score rows (ranking.py) bring themselves up to date.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from commonplace.core import hashing
from commonplace.core.columns import Bools, Columns
from commonplace.core.host_keys import Key, parse_key
from commonplace.core.hosts import APPLIED, QUARANTINED, HostState, fold
from commonplace.core.names import is_host_name
from commonplace.core.partition import partition_of
from commonplace.core.records.control import HostControl
from commonplace.core.records.hosts import Allocation
from commonplace.core.resources import Inventory, Resources
from commonplace.core.row_columns import Values, values_of, write_row
from commonplace.core.rows import NONE_PENDING, NOTHING_CLAIMED, Overlay, Row

PUT_BACK_MS = 5_000
"""By more than this a partition's log goes back in time if its broker's clock was put back; by less where two leaders' clocks differ."""

CHANGES_MAX = 65_536
"""Changes remembered before score rows start afresh: past it a full rescan of a row costs less than the list."""


class View:
    """The whole fleet in memory. `fold` changes it, `lay` and `lift` the overlay; nothing else does."""

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions
        self.columns = Columns()
        self.rows: dict[str, Row] = {}
        self.by_index: list[Row] = []
        self.controls: dict[str, HostControl] = {}
        self.groups: dict[str, dict[int, int]] = {}  # group → row → allocations of it there, pending ones included
        self.traits: dict[str, int] = {}  # trait → how many hosts have it
        self._plan: tuple[Mapping[str, Inventory], object, list[Values]] = ({}, None, [])  # of the last inventory
        self._traitless = np.zeros(0, np.bool_)
        self._unwritten: list[Row] = []  # rows whose columns are behind their state
        self._stamps = 0  # sum of the rows' stamps
        self._unstamped: list[Row] = []
        self._keys: dict[bytes, tuple[Key, Row]] = {}  # keys of deltas met before, parsed
        self.changed: list[int] = []
        self.changed_from = 0  # serial number of changed[0]
        self.newest_log_time_ms = 0
        self._last_ms: dict[int, int] = {}  # log time of the last record, by partition; those of requests below 0
        self.outcomes = {"applied": 0, "superseded": 0, "quarantined": 0}

    # -- fold ---------------------------------------------------------------------------------------------------------------------------

    def fold(
        self, partition: int, offset: int, log_time_ms: int, key: bytes | None, value: bytes | None, now_ms: int
    ) -> tuple[Row | None, str]:
        """Fold one record of `hosts`; returns the row it changed, if any, and why it must be quarantined, or ""."""
        last_ms = self._last_ms.get(partition, 0)
        self._last_ms[partition] = log_time_ms
        if log_time_ms > self.newest_log_time_ms:
            self.newest_log_time_ms = log_time_ms
        elif log_time_ms < last_ms - PUT_BACK_MS:
            self._put_back(log_time_ms)
        met = self._keys.get(key) if key is not None else None
        if met is not None and met[1].partition == partition:
            return self._fold(met[0], met[1], offset, log_time_ms, value, now_ms)
        parsed = parse_key(key)
        if parsed is None:
            self.outcomes[QUARANTINED] += 1
            return None, f"key {key!r:.80} is none of host/start, host/EPOCH, host/EPOCH/delta"
        row = self.rows.get(parsed.host)
        if row is None:
            if not is_host_name(parsed.host):
                self.outcomes[QUARANTINED] += 1
                return None, f"key {key!r:.80} names no host: letters, digits and . _ : -"
            if partition_of(parsed.host, self.partitions) != partition:
                self.outcomes[QUARANTINED] += 1
                return None, f"host {parsed.host!r} belongs on partition {partition_of(parsed.host, self.partitions)}"
            if value is None:
                self.outcomes["superseded"] += 1
                return None, ""
            row = self._add(parsed.host, partition)
        elif row.partition != partition:
            self.outcomes[QUARANTINED] += 1
            return None, f"host {parsed.host!r} belongs on partition {row.partition}"
        if parsed.kind == "delta" and key is not None:  # what most records are; of the others one comes now and then
            if len(self._keys) > 2 * len(self.rows) + 64:  # that of this epoch, and some of others
                self._keys.clear()
            self._keys[key] = (parsed, row)
        return self._fold(parsed, row, offset, log_time_ms, value, now_ms)

    def _fold(
        self, parsed: Key, row: Row, offset: int, log_time_ms: int, value: bytes | None, now_ms: int
    ) -> tuple[Row | None, str]:
        host = row.host
        inventory, traits, groups, cells = host.inventory, host.traits, host.groups, host.cells
        had_groups = bool(groups)
        before = dict(groups) if had_groups else {}  # the fold may change it in place
        content = (host.hash, host.builds, len(host.allocations), host.stale, host.removed)
        outcome, reason = fold(host, parsed, offset, log_time_ms, value)
        self.outcomes[outcome] += 1
        if outcome == APPLIED or reason:
            if host.inventory is not inventory:
                self._inventory(row)
            if host.traits is not traits:
                self._traits(row, traits)
            if had_groups or host.groups:
                self._groups(row, before)
            if host.cells is not cells:
                self._note(row.index)
            # a report that says nothing new is most of what a fleet at rest sends
            if content != (host.hash, host.builds, len(host.allocations), host.stale, host.removed):
                self._touch(row)
            if row.stamped:
                row.stamped = False
                self._unstamped.append(row)
            row.offset = offset
            columns, i = self.columns, row.index
            if outcome == APPLIED and log_time_ms >= columns.log_time_ms_at[i]:
                columns.log_time_ms_at[i] = log_time_ms
                columns.seen_ms_at[i] = now_ms
                if not columns.alive_at[i]:
                    columns.alive_at[i] = True
                    self._note(i)
            return row, reason if outcome == QUARANTINED else ""
        return None, ""

    def _add(self, name: str, partition: int) -> Row:
        row = Row(HostState(name), self.columns.add_row(), partition)
        row.control = self.controls.get(name)
        self.rows[name] = row
        self.by_index.append(row)
        return row

    def _inventory(self, row: Row) -> None:
        columns, i = self.columns, row.index
        for name in row.host.inventory:
            if name not in columns.free:
                self._add_class(name)
        if self._plan[0] is not row.host.inventory or self._plan[1] is not columns.at:
            self._plan = (row.host.inventory, columns.at, values_of(columns, row.host.inventory))
        for (_, least, most, step, capacity), values in self._plan[2]:
            least[i], most[i], step[i], capacity[i] = values
        self._note(i)

    def _add_class(self, name: str) -> None:
        self.columns.add_class(name)
        free = self.columns.free[name]
        for row in self.by_index:  # allocations may hold a class that no inventory had so far
            free[row.index] = -row.host.used.get(name, 0)

    def _traits(self, row: Row, before: frozenset[str]) -> None:
        counts, columns = self.traits, self.columns.trait
        for name in before ^ row.host.traits:
            has = name in row.host.traits
            counts[name] = counts.get(name, 0) + (1 if has else -1)
            if name in columns:
                columns[name][row.index] = has
            if not counts[name]:
                del counts[name]
                columns.pop(name, None)
        self._note(row.index)

    def _groups(self, row: Row, before: Mapping[str, int]) -> None:
        after = row.host.groups
        for group in before.keys() | after.keys():
            self._group(group, row.index, after.get(group, 0) - before.get(group, 0))

    def _group(self, group: str, index: int, change: int) -> None:
        if change:
            members = self.groups.setdefault(group, {})
            members[index] = members.get(index, 0) + change
            if members[index] == 0:
                del members[index]
                if not members:
                    del self.groups[group]

    def _touch(self, row: Row) -> None:
        """Note that a row's columns are behind; they are written once before the next ranking, whatever happens to it till then."""
        if row.written:
            row.written = False
            self._unwritten.append(row)

    def write(self) -> None:
        """Bring the columns up to date with every row's state and overlay. Whoever reads columns calls this first."""
        if self._unwritten:
            rows, self._unwritten = self._unwritten, []
            columns = self.columns
            for row in rows:
                row.written = True
                if write_row(columns, row):
                    self._note(row.index)

    def _note(self, index: int) -> None:
        if len(self.changed) >= CHANGES_MAX:
            self.changed_from += len(self.changed)
            self.changed = []
        self.changed.append(index)

    # -- overlay ------------------------------------------------------------------------------------------------------------------------

    def lay(self, row: Row, overlay: Overlay) -> None:
        """Lay a pending claim over a host, after those already there."""
        if row.pending:
            row.pending.append(overlay)
            _count(row.claimed, overlay.resources, 1)
        else:
            row.pending, row.claimed = [overlay], dict(overlay.resources)
        row.pending_hash = (row.pending_hash + overlay.hash) & hashing.MASK
        if overlay.group:
            self._group(overlay.group, row.index, 1)
        self._touch(row)

    def lift(self, row: Row, overlay: Overlay) -> None:
        """Take a settled claim off; a granted one is in the folded state by now, and counted twice until here."""
        row.pending.remove(overlay)
        if row.pending:
            _count(row.claimed, overlay.resources, -1)
        else:
            row.pending, row.claimed = NONE_PENDING, NOTHING_CLAIMED
        row.pending_hash = (row.pending_hash - overlay.hash) & hashing.MASK
        if overlay.group:
            self._group(overlay.group, row.index, -1)
        self._touch(row)

    @contextmanager
    def without(self, row: Row, gone: Allocation) -> Iterator[None]:
        """The fleet as if a host did not hold one of its allocations: what it looks like to what is to replace that."""
        groups = dict(row.host.groups)
        try:
            with row.host.without(gone):
                self._changed(row, groups)
                groups = dict(row.host.groups)
                yield
        finally:
            self._changed(row, groups)

    def _changed(self, row: Row, groups: Mapping[str, int]) -> None:
        self._groups(row, groups)
        self._note(row.index)
        self._touch(row)

    # -- operators, liveness, shards ----------------------------------------------------------------------------------------------------

    def control(self, record: HostControl | None, name: str) -> None:
        """What operators say of a host, None when they took it back."""
        if record is None:
            self.controls.pop(name, None)
        else:
            self.controls[name] = record
        row = self.rows.get(name)
        if row is not None:
            row.control = record
            self._touch(row)

    def request_time(self, partition: int, log_time_ms: int) -> None:
        """A request of this log time was read, for the first time: requests may be the first to tell of a clock that was put back."""
        place = -1 - partition
        if log_time_ms < self._last_ms.get(place, 0) - PUT_BACK_MS:
            self._put_back(log_time_ms)
        self._last_ms[place] = log_time_ms

    def _put_back(self, log_time_ms: int) -> None:
        """A partition's log goes back in time, so its broker's clock was put back: what is known is as old as before, on the new time.

        Otherwise every request would be taken for old, and every host for silent, until the log's time has come up with what it was.
        """
        back_ms = self.newest_log_time_ms - log_time_ms
        if back_ms > PUT_BACK_MS:
            self.newest_log_time_ms = log_time_ms
            self.columns.log_time_ms[: self.columns.rows] -= back_ms

    def liveness(self, timeout_ms: int, now_ms: int) -> int:
        """Mark hosts silent by rule 1: against the newest log time, or by our own clock since their report; returns how many are."""
        columns, n = self.columns, self.columns.rows
        alive = (columns.log_time_ms[:n] >= self.newest_log_time_ms - timeout_ms) & (
            columns.seen_ms[:n] >= now_ms - timeout_ms
        )
        for index in (alive != columns.alive[:n]).nonzero()[0].tolist():
            columns.alive[index] = alive[index]
            self._note(index)
        return int(n - np.count_nonzero(alive))

    def shard(self, mine: Bools | None) -> None:
        """Set which rows this replica prefers; None: all. Score rows start afresh."""
        n = self.columns.rows
        self.columns.mine[:n] = True if mine is None else mine
        self.changed_from += CHANGES_MAX + 1
        self.changed = []

    def trait_column(self, name: str) -> Bools:
        """Which hosts have a trait; made at its first use, so that only traits that hosts have and somebody asks for cost anything."""
        column = self.columns.trait.get(name)
        if column is None:
            if name not in self.traits:
                if len(self._traitless) != self.columns.room:
                    self._traitless = np.zeros(self.columns.room, np.bool_)
                return self._traitless
            column = np.zeros(self.columns.room, np.bool_)
            for row in self.by_index:
                column[row.index] = name in row.host.traits
            self.columns.trait[name] = column
        return column

    # -- reading ------------------------------------------------------------------------------------------------------------------------

    def allocations_of(self, requests: Iterable[str]) -> dict[str, list[tuple[Row, Allocation]]]:
        """Every allocation of the given requests, by one pass over the fleet (~20 ms at 100,000 allocations: takeovers only)."""
        wanted = set(requests)
        found: dict[str, list[tuple[Row, Allocation]]] = {}
        for row in self.by_index:
            for allocation in row.host.allocations.values():
                if allocation.request in wanted:
                    found.setdefault(allocation.request, []).append((row, allocation))
        return found

    def digest(self, apart_from: Collection[str] = ()) -> int:
        """State digest of the hosts that are not stale: equal on every replica at the same positions (invariant 8).

        Costs what the hosts do that changed since they were stamped: a pass over 10,000 would stop the loop for 20 ms.
        """
        self.stamp(len(self._unstamped))
        apart = sum(self.rows[name].stamp for name in set(apart_from) if name in self.rows)
        return (self._stamps - apart) & hashing.MASK

    def stamp(self, most: int) -> None:
        """Bring the digest up to date by at most so many of the hosts that changed, those that changed first before others."""
        rows, self._unstamped = self._unstamped[:most], self._unstamped[most:]
        for row in rows:
            stamp = _stamp(row.host)
            self._stamps += stamp - row.stamp
            row.stamp, row.stamped = stamp, True

    def statuses(self) -> dict[str, int]:
        """How many hosts are in each state, for metrics."""
        counts = {
            "enabled": 0,
            "disabled": 0,
            "draining": 0,
            "stale": 0,
            "silent": 0,
            "removed": 0,
            "newer": 0,
            "gap": 0,
        }
        # first the rows, then their columns: another thread may be adding hosts, and a column has room before its row is there
        rows, alive = list(self.by_index), self.columns.alive
        for row in rows:
            host = row.host
            if host.removed:
                counts["removed"] += 1
            elif host.version:
                counts["newer"] += 1
            elif host.stale:
                counts["stale"] += 1
            elif not alive[row.index]:
                counts["silent"] += 1
            else:
                counts[row.status] += 1
            counts["gap"] += host.gap
        return counts

    def __iter__(self) -> Iterator[HostState]:
        return (row.host for row in self.by_index)


def _count(sums: dict[str, int], amounts: Resources, sign: int) -> None:
    for name, amount in amounts.items():
        sums[name] = sums.get(name, 0) + sign * amount


def _stamp(host: HostState) -> int:
    """A host's share of the state digest; 0 for one that must not be ranked."""
    if host.stale or host.removed:
        return 0
    text = f"{host.name} {host.epoch} {host.generation} {host.claims_through} {host.builds} {host.hash:016x}"
    return hashing.digest64(text.encode())
