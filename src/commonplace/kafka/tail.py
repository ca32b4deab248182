"""One data consumer for all partitions that a component follows: assigned by hand, read in log order, positions counted.

One consumer means one fetch session and one wait: a poll ends when any partition has something. A turn is
`poll(t)`, which can be interrupted and wakes on the first record, then `consume(n, 0)`, which takes what else is there.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, TypeVar

from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, Message, TopicPartition
from msgspec import Struct

from commonplace.errors import CommonplaceError, Denied, TimedOut, TopicsNotReady
from commonplace.kafka import client, lookups
from commonplace.kafka.headers import trace_of
from commonplace.settings import Settings

TURN_RECORDS_MAX: Final = 1_000
"""Most records one turn takes beyond the first; a larger batch only makes the first record of it wait longer."""

ENDS_ASKED_S: Final = 1.0
"""Captured ends that are not reached are asked for again so often: a log that lost its tail has nothing up to there."""

STALL_TIMEOUT_S: Final = 30.0
"""Reading to captured ends without coming nearer to any: longer than a broker's fail-over."""

A = TypeVar("A")

Place = tuple[str, int]
"""A topic's full name and a partition of it."""

Raw = tuple[int, int, bytes | None, bytes | None]
"""One record as read: offset, log time in ms, key, value."""

_LOG: Final = logging.getLogger(__name__)


class Batch(Struct, frozen=True, gc=False):
    """What a turn read of one partition, in log order; `position` is the next offset, past gaps too. `records` may be empty."""

    topic: str
    partition: int
    records: list[Raw]
    position: int
    traces: dict[int, str] | None = None
    """Offset → trace context, of the records that bear one."""


class Lost(CommonplaceError):
    """The position to read from is gone: records may be missing, so the owner must rebuild from the log's start."""

    def __init__(self, topic: str, partition: int, position: int) -> None:
        super().__init__(
            f"{topic} [{partition}]: offset {position} is no longer in the log: rebuilding from what the log holds"
        )
        self.topic, self.partition, self.position = topic, partition, position


class Tail:
    """Follows partitions chosen by hand; owned by one thread. Errors that a person must act on are raised by `turn`.

    Of the topic `traced` it reads the trace context beside the records too.
    """

    def __init__(self, settings: Settings, traced: str = "") -> None:
        self._settings, self._traced = settings, traced
        self._positions: dict[Place, int] = {}
        self._held: set[str] = set()
        self._errors: list[CommonplaceError] = []
        self._trouble = ""
        self._lookups: Consumer | None = None
        self._ends_asked_s = 0.0
        self._times_kept: bool | None = None  # not asked yet
        # the end of a partition is told as an event, because its last records may be compacted away and never come
        self._consumer = client.consumer(
            settings, required={"enable.partition.eof": True, "error_cb": self._broker_trouble}
        )

    def add(self, topic: str, partition: int, offset: int) -> None:
        """Read a partition from `offset` on."""
        assert (topic, partition) not in self._positions, f"{topic} [{partition}] is read already"
        assert offset >= 0, f"{topic} [{partition}]: no offset {offset}"
        self._positions[topic, partition] = offset
        self._consumer.incremental_assign([TopicPartition(topic, partition, offset)])
        if topic in self._held:
            self._consumer.pause([TopicPartition(topic, partition)])

    def remove(self, topic: str, partition: int) -> None:
        """Read a partition no more; nothing of it is returned after this."""
        if self._positions.pop((topic, partition), None) is not None:
            self._consumer.incremental_unassign([TopicPartition(topic, partition)])

    def hold(self, topic: str) -> None:
        """Read no more of a topic, whatever partitions of it are added, until `go_on`; positions stay."""
        self._held.add(topic)
        self._consumer.pause(self._places(topic))

    def go_on(self, topic: str) -> None:
        """Read a topic again that was held."""
        self._held.discard(topic)
        self._consumer.resume(self._places(topic))

    def held(self, topic: str) -> bool:
        """Whether the topic is held."""
        return topic in self._held

    def _places(self, topic: str) -> list[TopicPartition]:
        return [TopicPartition(name, partition) for name, partition in self._positions if name == topic]

    def position(self, topic: str, partition: int) -> int:
        """The next offset of a partition that is read; −1 when it is not."""
        return self._positions.get((topic, partition), -1)

    def lag(self, topic: str) -> int:
        """Records of a topic that the last fetch knew of and no turn has returned; asks nobody."""
        behind = 0
        for (name, partition), position in self._positions.items():
            if name == topic:
                known = self._consumer.get_watermark_offsets(TopicPartition(name, partition), cached=True)
                behind += max(0, known[1] - position) if known else 0
        return behind

    def turn(self, timeout_s: float) -> list[Batch]:
        """What came, by partition, waiting at most `timeout_s` for the first of it. Blocks.

        Raises `Lost`, `TopicsNotReady` or `Denied` for a partition that can't be read on; the partition is then no longer read.
        """
        if self._errors:
            raise self._errors.pop(0)
        first = self._consumer.poll(timeout_s)
        if first is None:
            if self._lookups is not None:
                self._lookups.poll(0)  # it reads nothing; what it has to tell of its connection must not pile up
            return []
        messages = self._consumer.consume(TURN_RECORDS_MAX, 0)
        messages.insert(0, first)
        batches = self._grouped(messages)
        if not batches and self._errors:
            raise self._errors.pop(0)
        return batches

    def _grouped(self, messages: list[Message]) -> list[Batch]:
        positions, traced = self._positions, self._traced
        runs: dict[Place, list[Raw]] = {}
        traces: dict[Place, dict[int, str]] = {}
        moved: dict[Place, int] = {}  # ends told by an event, past the last record
        topic, partition = "", -1
        records: list[Raw] = []
        for m in messages:
            if m.error() is not None:
                self._event(m, moved)
                continue
            if m.partition() != partition or m.topic() != topic:  # records of a partition come in runs
                topic, partition = str(m.topic()), int(m.partition() or 0)
                records = runs.setdefault((topic, partition), [])
            records.append((m.offset(), m.timestamp()[1], m.key(), m.value()))  # type: ignore[arg-type]  # a record has them
            if topic == traced and (trace := trace_of(m)):
                traces.setdefault((topic, partition), {})[records[-1][0]] = trace
        batches = []
        for place, read in runs.items():
            if place in positions:  # else removed meanwhile
                positions[place] = max(read[-1][0] + 1, moved.pop(place, 0))
                batches.append(Batch(place[0], place[1], read, positions[place], traces.get(place)))
        for place, end in moved.items():
            if end > positions.get(place, end):
                positions[place] = end
                batches.append(Batch(place[0], place[1], [], end))
        return batches

    def _event(self, message: Message, moved: dict[Place, int]) -> None:
        error = message.error()
        assert error is not None
        partition = message.partition()
        place = (message.topic() or "", -1 if partition is None else partition)
        code = error.code()
        if code == KafkaError._PARTITION_EOF:
            moved[place] = message.offset() or 0
        elif code in _LOST:
            self._stop(place, Lost(*place, self._positions.get(place, -1)))
        elif code in lookups.MISSING:
            self._stop(
                place, TopicsNotReady(f"{place[0]} [{place[1]}]: {error.str()}: run `commonplace topics verify`")
            )
        elif code in _DENIED:
            self._stop(place, Denied(f"{place[0]}: the broker at {self._settings.bootstrap} refuses: {error.str()}"))
        else:
            self._broker_trouble(error)

    def _stop(self, place: Place, error: CommonplaceError) -> None:
        """Read the partition no more, and have a turn raise why: once."""
        if place in self._positions:
            self.remove(*place)
            self._errors.append(error)

    def _broker_trouble(self, error: KafkaError) -> None:
        """What librdkafka retries by itself: told when it changes, not at every try."""
        if error.name() != self._trouble:
            self._trouble = error.name()
            _LOG.warning("broker at %s: %s (%s)", self._settings.bootstrap, error.str(), error.name())

    def _asker(self) -> Consumer:
        """A connection of its own for lookups: on that of the data they queue behind long polls (measured: 170 ms against 1)."""
        if self._lookups is None:
            self._lookups = client.consumer(self._settings, required={"error_cb": self._broker_trouble})
        return self._lookups

    # -- lookups ------------------------------------------------------------------------------------------------------

    def range(self, topic: str, partition: int) -> tuple[int, int]:
        """First offset and end of a partition, asked of the broker now. Blocks for a round trip."""
        place = TopicPartition(topic, partition)
        self._ends_asked_s = time.monotonic()
        answer = self._answer(topic, lambda asker, timeout_s: asker.get_watermark_offsets(place, timeout=timeout_s))
        assert answer is not None
        return answer

    def ends(self, places: Iterable[Place]) -> dict[Place, int]:
        """The end of each partition, captured now: whatever was acknowledged before the call lies below it. Blocks."""
        return {place: self.range(*place)[1] for place in places}

    def behind(self, ends: Mapping[Place, int]) -> dict[Place, int]:
        """Those of captured ends that no position has reached. Blocks now and then, and raises what `ends` does.

        An unclean election may have taken what stood below a captured end, and nothing need ever be written there again: an end beyond
        the log's of now is brought back to that.
        """
        left = {place: end for place, end in ends.items() if self.position(*place) < end}
        if not left or time.monotonic() - self._ends_asked_s < ENDS_ASKED_S:
            return left
        now = self.ends(left)
        return {place: min(end, now[place]) for place, end in left.items() if self.position(*place) < now[place]}

    def up_to(self, ends: Mapping[Place, int]) -> Iterator[Batch]:
        """What turns bring until every captured end is reached, or gone with its log's tail. Blocks.

        Raises what `turn` and `ends` do, and `TimedOut` where none of the ends comes nearer for STALL_TIMEOUT_S, whatever else is read.
        """
        nearer_s = time.monotonic()
        while ends := self.behind(ends):
            batches = self.turn(1.0)
            yield from batches
            if any((batch.topic, batch.partition) in ends for batch in batches):
                nearer_s = time.monotonic()
            elif time.monotonic() - nearer_s > STALL_TIMEOUT_S:
                topic, partition = next(iter(ends))
                raise TimedOut(
                    f"{topic} [{partition}]: nothing could be read for {STALL_TIMEOUT_S:g} s at {self._settings.bootstrap}: see the broker"
                )

    def offset_for_time(self, topic: str, partition: int, time_ms: int) -> int:
        """The first offset whose log time is at least `time_ms`, where there is none the end as it was before the look-up. Blocks.

        On the embedded broker, which keeps no times, the first offset there is.
        """
        wanted = TopicPartition(topic, partition, time_ms)
        low, end = self.range(topic, partition)  # first: what is appended from here on lies at its end or beyond

        def ask(asker: Consumer, timeout_s: float) -> TopicPartition:
            found = asker.offsets_for_times([wanted], timeout_s)[0]
            if found.error is not None:
                raise KafkaException(found.error)
            return found

        found = self._answer(topic, ask)
        if found.offset >= 0:
            return max(low, found.offset)
        return end if low == end or (found.offset == OFFSET_END and self._keeps_times()) else low

    def _keeps_times(self) -> bool:
        """Whether the broker can say that no record is so young: the embedded one says so of every time. Blocks at the first call."""
        if self._times_kept is None:
            self._times_kept = not client.require_broker(self._settings).embedded
        return self._times_kept

    def _answer(self, topic: str, ask: Callable[[Consumer, float], A]) -> A:
        return lookups.answer(self._asker(), self._settings, topic, ask)

    def close(self) -> None:
        """Leave; nothing was committed."""
        self._consumer.close()
        if self._lookups is not None:
            self._lookups.close()


_LOST: Final = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}
_DENIED: Final = {KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError._AUTHENTICATION}
