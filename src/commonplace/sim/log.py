"""A topic as Kafka keeps it, in memory and in virtual time: segments, compaction, tombstones, retention, truncation.

    offsets   begin ──────────────────── first dirty ─────────── cleanable ──────────── active segment ── end
              cleaned: last of each key  │ what the next pass maps │ younger than the lag │ never cleaned
              and tombstones for a while

Nothing here is random and nothing happens by itself: who calls decides when a cleaner or the retention passes. What a pass may take is
Kafka's rule (UnifiedLog.roll, LogCleanerManager.cleanableOffsets, Cleaner.shouldRetainRecord of Kafka 4); a pass here comes whenever it is
called, without Kafka's dirty ratio and back-off, so whatever a real log may lack, this one can be made to lack
(tests/test_sim_log_kafka.py holds it against a broker).
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable

from msgspec import Struct

from commonplace.core.replica_events import Raw as Raw  # offset, log time in ms, key, value: what the cores take

Subscriber = Callable[[str, str, int, Raw], None]
"""Told topic name, topic id, partition and record at each append."""


class Rules(Struct, frozen=True, kw_only=True):
    """A topic's settings. `retention_ms` None keeps for ever; a segment is closed when it is full or older than `segment_ms`."""

    compact: bool = False
    retention_ms: int | None = None
    min_compaction_lag_ms: int = 0
    delete_retention_ms: int = 86_400_000
    segment_records: int = 1_000_000
    segment_ms: int = 604_800_000


class OutOfRange(Exception):
    """A read before the log's begin or past its end."""

    def __init__(self, begin: int, end: int) -> None:
        super().__init__(f"the log holds offsets {begin} to {end - 1}: read from {begin} or wait at {end}")
        self.begin, self.end = begin, end


class NoKey(Exception):
    """A record without a key for a compacted topic, which Kafka refuses to append."""


class _Segment:
    """Where a segment begins, when its first record came and its newest, and how many came."""

    __slots__ = ("base", "count", "first_ms", "newest_ms")

    def __init__(self, base: int) -> None:
        self.base, self.count, self.first_ms, self.newest_ms = base, 0, 0, 0


class _Partition:
    """`records` are those a reader meets, `ever` those it would without a cleaner; `dirty` is where the next pass begins to map.

    `horizons`: when a tombstone that a pass has met may go, by its offset.
    """

    __slots__ = ("active", "begin", "closed", "dirty", "end", "ever", "horizons", "records")

    def __init__(self) -> None:
        self.begin = self.end = self.dirty = 0
        self.records: list[Raw] = []
        self.ever: list[Raw] = []
        self.closed: list[_Segment] = []
        self.active = _Segment(0)
        self.horizons: dict[int, int] = {}


class Topic:
    """One topic; its times are the broker's clock (LogAppendTime), whatever value the caller's clock has."""

    __slots__ = ("_logs", "_serial", "_subscribers", "id", "name", "partitions", "rules")

    def __init__(self, name: str, partitions: int, rules: Rules) -> None:
        self.name, self.partitions, self.rules = name, partitions, rules
        self._subscribers: list[Subscriber] = []
        self._serial = 0
        self._make()

    def _make(self) -> None:
        self._serial += 1
        self.id = f"{self.name}-{self._serial}"
        self._logs = [_Partition() for _ in range(self.partitions)]

    def subscribe(self, fn: Subscriber) -> None:
        """Tell `fn` of every record appended from now on; markers are no records. For checkers."""
        self._subscribers.append(fn)

    # -- producers and consumers --------------------------------------------------------------------------------------------------------

    def append(
        self, partition: int, key: bytes | None, value: bytes | None, now_ms: int, *, marker: bool = False
    ) -> int:
        """Append a record and return its offset; a `marker` of a transaction takes an offset that no reader meets. Raises NoKey."""
        rules, log = self.rules, self._logs[partition]
        offset, segment = log.end, log.active
        count = segment.count
        if count and (count >= rules.segment_records or now_ms - segment.first_ms > rules.segment_ms):
            log.closed.append(segment)
            segment = log.active = _Segment(offset)
            count = 0
        if not marker and key is None and rules.compact:
            raise NoKey(f"{self.name} is compacted and takes no record without a key")
        if not count:
            segment.first_ms = segment.newest_ms = now_ms
        elif now_ms > segment.newest_ms:
            segment.newest_ms = now_ms
        segment.count = count + 1
        log.end = offset + 1
        if not marker:
            raw = (offset, now_ms, key, value)
            log.records.append(raw)
            log.ever.append(raw)
            for fn in self._subscribers:
                fn(self.name, self.id, partition, raw)
        return offset

    def read(self, partition: int, offset: int, most: int, now_ms: int = 0) -> tuple[list[Raw], int]:
        """At most `most` (≥ 1) records from `offset` on, and the next position: the end, once nothing is left. Raises OutOfRange.

        `now_ms` changes nothing: a log loses records when it is cleaned, not when it is read.
        """
        log = self._logs[partition]
        records, end = log.records, log.end
        if not log.begin <= offset <= end:
            raise OutOfRange(log.begin, end)
        if offset == end:
            return [], end
        first = len(records) - end + offset  # its place if no record from here on is gone
        if first < 0 or records[first][0] != offset:
            first = bisect_left(records, (offset,))
        if first + most >= len(records):
            return records[first:], end
        found = records[first : first + most]
        return found, found[-1][0] + 1

    def begin(self, partition: int) -> int:
        """The first offset that may be read: retention moves it, compaction does not."""
        return self._logs[partition].begin

    def end(self, partition: int) -> int:
        """The offset of the next record."""
        return self._logs[partition].end

    def offset_at(self, partition: int, at_ms: int) -> int:
        """The first offset whose record's log time is `at_ms` or later; the end where there is none."""
        log = self._logs[partition]
        return next((raw[0] for raw in log.records if raw[1] >= at_ms), log.end)

    # -- the broker's housekeeping ------------------------------------------------------------------------------------------------------

    def clean(self, partition: int, now_ms: int) -> int:
        """One pass of the log cleaner; returns how many records went.

        Below the first segment that is active, or holds a record younger than the lag, the last record of each key stays. A tombstone
        stays too, until a pass comes `delete_retention_ms` after the first one that met it.
        """
        rules, log = self.rules, self._logs[partition]
        upto = _cleanable(log, now_ms - rules.min_compaction_lag_ms) if rules.compact else 0
        if upto <= log.dirty and not any(when <= now_ms for when in log.horizons.values()):
            return 0
        records, horizons = log.records, log.horizons
        split = bisect_left(records, (upto,))
        last: dict[bytes | None, int] = {}
        for offset, _, key, _ in records[bisect_left(records, (log.dirty,)) : split]:
            last[key] = offset
        kept = []
        for raw in records[:split]:
            offset, _, key, value = raw
            if last.get(key, offset) > offset or (value is None and horizons.get(offset, now_ms + 1) <= now_ms):
                horizons.pop(offset, None)
                continue
            if value is None:
                horizons.setdefault(offset, now_ms + rules.delete_retention_ms)
            kept.append(raw)
        gone = split - len(kept)
        if gone:
            log.records = kept + records[split:]
        log.dirty = max(log.dirty, upto)
        return gone

    def roll(self, partition: int) -> None:
        """Close the active segment, as the first append does once it is old; a cleaner may pass over all that was written before."""
        log = self._logs[partition]
        if log.active.count:
            log.closed.append(log.active)
            log.active = _Segment(log.end)

    def expire(self, partition: int, now_ms: int) -> int:
        """One pass of retention by time: old segments go whole, from the first on, the active one too; returns how many records went."""
        log = self._logs[partition]
        if self.rules.retention_ms is None:
            return 0
        limit = now_ms - self.rules.retention_ms
        while log.closed and log.closed[0].newest_ms < limit:
            del log.closed[0]
        if not log.closed and log.active.count and log.active.newest_ms < limit:
            log.active = _Segment(log.end)
        log.begin = max(log.begin, log.closed[0].base if log.closed else log.active.base)
        return self._forget_below(log, log.begin)

    def _forget_below(self, log: _Partition, begin: int) -> int:
        gone = bisect_left(log.records, (begin,))
        del log.records[:gone]
        log.dirty = max(log.dirty, begin)
        log.horizons = {offset: when for offset, when in log.horizons.items() if offset >= begin}
        return gone

    # -- disasters ----------------------------------------------------------------------------------------------------------------------

    def truncate(self, partition: int, end: int) -> None:
        """An unclean election lost every record from `end` on; their offsets are given again."""
        log = self._logs[partition]
        if end >= log.end:
            return
        segments = [*log.closed, log.active]
        at = max(0, bisect_right([s.base for s in segments], end) - 1)
        log.active = segments[at]
        log.closed = segments[:at]
        log.active.base = min(log.active.base, end)
        log.active.count = max(0, end - log.active.base)
        for records in (log.records, log.ever):
            del records[bisect_left(records, (end,)) :]
        log.end, log.begin, log.dirty = end, min(log.begin, end), min(log.dirty, log.active.base)
        log.horizons = {offset: when for offset, when in log.horizons.items() if offset < end}

    def recreate(self, now_ms: int) -> None:
        """The topic is deleted and made anew: the same name, another id, empty. `now_ms` is for the caller's trace only."""
        self._make()

    # -- checkers -----------------------------------------------------------------------------------------------------------------------

    def everything(self, partition: int) -> list[Raw]:
        """All records appended since the topic was made, cleaned or expired since or not; without those lost to truncation."""
        return self._logs[partition].ever


def _cleanable(log: _Partition, limit_ms: int) -> int:
    """Where the cleanable part ends: at the first segment with a record younger than the lag, at the latest at the active one."""
    for segment in log.closed:
        if segment.newest_ms > limit_ms and segment.base >= log.dirty:
            return segment.base
    return log.active.base
