"""The partitions of `requests` that are a replica's own, as its tail reads them: from where on, and no further than their history is known.

gained ─▶ read from the committed offset ─▶ requests came: held back ─▶ their decisions read to an end captured then ─▶ read on
ceded ─▶ not read
"""

from collections.abc import Callable

from commonplace.core.replica_events import Assigned, HistoryRead, Lost, ReadHistory
from commonplace.kafka.intake import Gained
from commonplace.kafka.tail import Tail
from commonplace.kafka.topics import Topics


class Partitions:
    """Has the tail read what the replica asks for; what it returns is for the replica to receive.

    `alarm` is called with what operators must hear.
    """

    def __init__(self, tail: Tail, names: Topics, alarm: Callable[[str], None]) -> None:
        self.histories: dict[int, int] = {}  # partition of `decisions` → end it must be read to
        self._tail, self._names, self._alarm = tail, names, alarm
        self._requests_from: dict[int, int] = {}  # partition → where to go on once its history is read

    def gained(self, change: Gained) -> Assigned:
        """Read a partition from its lowest undecided request on."""
        topic, partition = self._names.requests, change.partition
        low, end = self._tail.range(topic, partition)
        if change.committed > end:
            self._alarm(
                f"{topic} [{partition}]: committed offset {change.committed} lies beyond its end {end}: "
                "reading it from its first record"
            )
        start = change.committed if low <= change.committed <= end else low
        if 0 <= change.committed < low:
            self._alarm(f"{topic} [{partition}]: offsets {change.committed} to {low - 1} expired undecided")
        self._tail.add(topic, partition, start)
        return Assigned(partition, end)

    def ceded(self, partition: int) -> Lost:
        """Read no more of a partition."""
        self._tail.remove(self._names.requests, partition)
        self._tail.remove(self._names.decisions, partition)
        self.histories.pop(partition, None)
        self._requests_from.pop(partition, None)
        return Lost(partition)

    def read_history(self, effect: ReadHistory) -> list[HistoryRead]:
        """Requests wait in the log until the decisions of the idempotency window before them are read."""
        topic, partition = self._names.requests, effect.partition
        self._requests_from[partition] = self._tail.position(topic, partition)
        self._tail.remove(topic, partition)
        offset = self._tail.offset_for_time(self._names.decisions, partition, max(0, effect.from_ms))
        end = self._tail.range(self._names.decisions, partition)[1]
        self._tail.add(self._names.decisions, partition, offset)
        self.histories[partition] = end
        return self.decisions_read(partition, offset)

    def decisions_read(self, partition: int, position: int) -> list[HistoryRead]:
        """A partition of `decisions` was read to a position: if that is all of its history, its requests are read on."""
        end = self.histories.get(partition)
        if end is None or position < end or partition not in self._requests_from:
            return []
        del self.histories[partition]
        self._tail.add(self._names.requests, partition, self._requests_from.pop(partition))
        return [HistoryRead(partition)]

    def histories_cut(self) -> list[HistoryRead]:
        """An unclean election may have taken the decisions that we wait for, and nobody but us writes more."""
        ends = {(self._names.decisions, partition): end for partition, end in self.histories.items()}
        if not ends:
            return []
        behind = self._tail.behind(ends)
        reached = [(partition, end) for (topic, partition), end in ends.items() if (topic, partition) not in behind]
        return [event for partition, end in reached for event in self.decisions_read(partition, end)]
