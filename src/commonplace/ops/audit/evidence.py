"""What is handed to the audit, and which of it compaction and retention left."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from msgspec import Struct


class Entry(NamedTuple):
    """One Kafka record. `value` None is a tombstone."""

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None


class Log(Struct):
    """One topic: its full name and id, per partition the first offset kept and the end captured at start, and its records.

    Records of a partition come in order of offset; partitions may be mixed.
    """

    name: str
    topic_id: str
    low: Mapping[int, int]
    high: Mapping[int, int]
    records: Iterable[Entry]

    @property
    def partitions(self) -> int:
        return len(self.high)


class Options(Struct, frozen=True):
    """Tolerances of the audit, in milliseconds of log time.

    `deadline_default_ms` is the scheduler's, for requests that name none. `slack_ms` is granted to deadlines and leases; `heartbeat_ms`
    and `lapse_ms` more to leases, because agents look for those that ran out only so often and the next report tells. `grace_ms` is the
    time a reader has to quarantine a bad record; it writes at most `quarantined_per_s_max` notices and only counts the rest.
    `idempotency_window_ms` is the schedulers': past it, and the slack, a repeated id is a new request. `skew_ms` is how far the clocks of
    brokers may differ: 0 where there is one broker.
    """

    slack_ms: int = 30_000
    heartbeat_ms: int = 20_000
    lapse_ms: int = 5_000
    deadline_default_ms: int = 30_000
    grace_ms: int = 30_000
    quarantined_per_s_max: int = 100
    idempotency_window_ms: int = 900_000
    skew_ms: int = 0


class Seen:
    """Which offsets of a topic were read, and which were gone."""

    def __init__(self, low: Mapping[int, int]) -> None:
        self._low = dict(low)
        self._next = dict(low)
        self._holes: dict[int, list[tuple[int, int]]] = {partition: [] for partition in low}
        self._gone = dict.fromkeys(low, 0)

    def take(self, partition: int, offset: int) -> None:
        """Note that the record at `offset` was read; what lies between it and the one before is gone."""
        expected = self._next.get(partition, 0)
        if offset > expected:
            self._holes.setdefault(partition, []).append((expected, offset))
            self._gone[partition] = self._gone.get(partition, 0) + offset - expected
        self._next[partition] = offset + 1

    def close(self, high: Mapping[int, int]) -> None:
        """All was read: what lies before the captured ends and did not come is gone too."""
        for partition, end in high.items():
            if end > self._next.get(partition, 0):
                self.take(partition, end - 1)
                self._holes[partition].append((end - 1, end))
                self._gone[partition] += 1

    def gone(self, partition: int) -> int:
        """How many offsets of the partition were gone so far, retention not counted."""
        return self._gone.get(partition, 0)

    def whole(self, partition: int) -> bool:
        """Whether everything ever written to the partition was read so far."""
        return not self._low.get(partition, 0) and not self.gone(partition)

    def lost(self, partition: int, offset: int) -> bool:
        """Whether the record at `offset` existed and is gone."""
        if offset < self._low.get(partition, 0):
            return True
        holes = self._holes.get(partition, [])
        at = bisect_right(holes, (offset, 1 << 62)) - 1
        return at >= 0 and holes[at][0] <= offset < holes[at][1]
