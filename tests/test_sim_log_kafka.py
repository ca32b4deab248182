"""The simulated topic is no kinder than Kafka: the same records in both, under the same settings, while a real cleaner works.

A log that Kafka shows is one that some schedule of passes leaves on the model. Said exactly: cut time into moments between which the
model's cleanable part does not change; for each, `most` is what one pass then leaves, `least` what a pass at every moment so far leaves.
A reader of the real log met each record, or its absence, at moments that never go back, such that

    a record it met is in `most`, and a record it missed is not in `least`, of the moment.

So whatever a reader of the real log may miss, the model can be made to miss. And the other way, so that the model invents no losses: once
the broker has nothing left to do, it holds just the values that the model holds after a pass; its tombstones may be more, because
it runs no pass for their sake alone.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from random import Random
from typing import NamedTuple

import pytest
from confluent_kafka import (
    OFFSET_BEGINNING,
    TIMESTAMP_LOG_APPEND_TIME,
    Consumer,
    KafkaError,
    Message,
    Producer,
    TopicPartition,
)
from msgspec.structs import replace

from commonplace.sim.log import Raw, Rules, Topic
from kafka_fixtures import KafkaUnderTest

SEGMENT_MS = 300
SEGMENT_PAUSE_S = 0.32
PARTITIONS = 8
ROUNDS, ROUNDS_MAX = 30, 120
QUIET_TIMEOUT_S = 40
DAY_MS = 86_400_000
pytestmark = [pytest.mark.real_kafka, pytest.mark.timeout(180)]
COMPACTED = {
    "at-once": Rules(compact=True, segment_ms=SEGMENT_MS, delete_retention_ms=0),
    "lagging": Rules(compact=True, segment_ms=SEGMENT_MS, delete_retention_ms=1_000, min_compaction_lag_ms=1_500),
    "tombstones-stay": Rules(compact=True, segment_ms=SEGMENT_MS, delete_retention_ms=DAY_MS),
}
EXPIRING = Rules(segment_ms=SEGMENT_MS, retention_ms=1_500)


Envelope = tuple[int, set[int], set[int]]
"""A moment, and the offsets that are left then at the most and at the least."""


class Written:
    """What one real partition was sent, as its broker dated and numbered it; an append without a key is a transaction's marker."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.appends: list[Raw] = []
        self.earliest: dict[
            int, int
        ] = {}  # marker → when it may have come at the earliest; its append says when it was seen

    @property
    def records(self) -> list[Raw]:
        return [raw for raw in self.appends if raw[2] is not None]

    def with_early_markers(self) -> "Written":
        """The same, had every marker come as soon as it may have."""
        early = Written(self.rules)
        early.appends = [(raw[0], self.earliest.get(raw[0], raw[1]), *raw[2:]) for raw in self.appends]
        return early

    def moments(self) -> list[int]:
        """The times at which a pass can find more to do than one before, and the last ms before each."""
        lag, delete, retention = (
            self.rules.min_compaction_lag_ms,
            self.rules.delete_retention_ms,
            self.rules.retention_ms or 0,
        )
        ages = {0, lag, delete, lag + delete, retention + 1}
        return sorted({at_ms + age + before for _, at_ms, _, _ in self.appends for age in ages for before in (-1, 0)})

    def replay(self, upto_ms: int, each: Callable[[Topic, int], object], rules: Rules | None = None) -> Topic:
        """The model after the appends up to a time, with `each` called at every moment until then and at that time."""
        topic, due = Topic("t", 1, rules or self.rules), iter(self.moments())
        moment = next(due)
        for _, at_ms, key, value in self.appends:
            while moment < min(at_ms, upto_ms):
                each(topic, moment)
                moment = next(due)
            if at_ms > upto_ms:
                break
            topic.append(0, key, value, at_ms, marker=key is None)
        for later in (moment, *due):
            if later < upto_ms:
                each(topic, later)
        each(topic, upto_ms)
        return topic

    def envelopes(self, rules: Rules | None = None) -> list[Envelope]:
        """In order of time, those that differ."""
        least_at: dict[int, set[int]] = {}

        def clean(topic: Topic, at_ms: int) -> None:
            topic.clean(0, at_ms)
            least_at[at_ms] = _left(topic)

        self.replay(self.moments()[-1], clean, rules)
        found: list[Envelope] = [(0, self.offsets(), self.offsets())]
        for moment, least in least_at.items():
            later = {offset for offset, at_ms, _, _ in self.records if at_ms > moment}
            most = _left(self.replay(moment, partial(_clean_once, moment), rules))
            if (most | later, least | later) != found[-1][1:]:
                found.append((moment, most | later, least | later))
        return found

    def offsets(self) -> set[int]:
        return {raw[0] for raw in self.records}

    def values(self, offsets: set[int]) -> set[int]:
        """Those of the offsets that are no tombstones'."""
        return {raw[0] for raw in self.records if raw[3] is not None and raw[0] in offsets}


def could_leave(envelopes: list[Envelope], written: set[int], met: set[int], until_ms: int) -> bool:
    """Whether passes up to a time can have left a reader, who goes from the first offset to the last, with just these."""
    at = 0
    for offset in sorted(written):
        while True:
            moment, most, least = envelopes[at]
            if moment > until_ms:
                return False
            if offset in most if offset in met else offset not in least:
                break
            at += 1
            if at == len(envelopes):
                return False
    return met <= written


def _clean_once(when_ms: int, topic: Topic, at_ms: int) -> None:
    if at_ms == when_ms:
        topic.clean(0, at_ms)


def _left(topic: Topic) -> set[int]:
    return {raw[0] for raw in topic.read(0, topic.begin(0), 10_000)[0]}


# --- the real side -------------------------------------------------------------------------------------------------


class Real:
    """Topics on the broker, written record by record so that each has a batch, hence a log time, of its own."""

    def __init__(self, kafka: KafkaUnderTest, prefix: str, random: Random) -> None:
        self.kafka, self.random = kafka, random
        common = {"bootstrap.servers": kafka.bootstrap, "linger.ms": 0, "batch.num.messages": 1, "acks": "all"}
        self.plain = Producer(common)
        self.transactional = Producer({**common, "transactional.id": prefix})
        self.transactional.init_transactions(20)
        self.watcher = Consumer({"bootstrap.servers": kafka.bootstrap, "group.id": "none"})
        self.written: dict[tuple[str, int], Written] = {}
        for name, rules in [*COMPACTED.items(), ("expiring", EXPIRING)]:
            topic = f"{prefix}-{name}"
            kafka.create_topic(topic, PARTITIONS, _config(rules))
            for partition in range(PARTITIONS):
                self.written[topic, partition] = Written(rules)

    def write_some(self) -> None:
        """A burst on every partition; some in a transaction.

        Nobody is told when a marker came. So it comes after a pause that lets it begin a segment, and another, after it stands,
        lets the next record begin one: which records share segments is then known.
        """
        marked = self.random.random() < 0.3
        producer = self.transactional if marked else self.plain
        if marked:
            producer.begin_transaction()
        touched = set()
        for at in self.written:
            for _ in range(self.random.choice((0, 0, 1, 1, 2, 4))):
                touched.add(at)
                key = self.random.choice((b"a", b"b", b"c", b"d"))
                value = self.random.choice((b"one", b"two", b"three", None))
                producer.produce(at[0], value, key, at[1], on_delivery=self._stands)
        assert producer.flush(20) == 0
        if not marked:
            return
        time.sleep(SEGMENT_PAUSE_S)
        begun_ms = now_ms()
        producer.commit_transaction(20)
        for topic, partition in sorted(touched):
            appends = self.written[topic, partition].appends
            marker = appends[-1][0] + 1
            while self.watcher.get_watermark_offsets(TopicPartition(topic, partition), 10)[1] <= marker:
                time.sleep(0.01)  # a commit is acknowledged before its markers are written
            appends.append((marker, now_ms(), None, None))
            self.written[topic, partition].earliest[marker] = begun_ms
        time.sleep(SEGMENT_PAUSE_S)

    def _stands(self, error: KafkaError | None, message: Message) -> None:
        assert error is None, error
        kind, at_ms = message.timestamp()
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        assert kind == TIMESTAMP_LOG_APPEND_TIME
        assert topic is not None
        assert partition is not None
        assert offset is not None
        self.written[topic, partition].appends.append((offset, at_ms, message.key(), message.value()))

    def read(self) -> dict[tuple[str, int], set[int]]:
        """The offsets that a reader of everything meets now, partition by partition."""
        met: dict[tuple[str, int], set[int]] = defaultdict(set)
        left = {at for at, written in self.written.items() if written.rules.compact}
        reader = Consumer({
            "bootstrap.servers": self.kafka.bootstrap, "group.id": "none", "enable.partition.eof": True,
            "enable.auto.commit": False, "auto.offset.reset": "error", "fetch.wait.max.ms": 10,
        })  # fmt: skip
        try:
            reader.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for topic, partition in left])
            while left:
                for message in reader.consume(500, 0.05):
                    error, topic, partition = message.error(), message.topic(), message.partition()
                    assert topic is not None
                    assert partition is not None
                    if error is None:
                        met[topic, partition].add(message.offset() or 0)
                    else:
                        assert error.code() == KafkaError._PARTITION_EOF, error
                        left.discard((topic, partition))
        finally:
            reader.close()
        return met

    def begins(self) -> dict[tuple[str, int], tuple[int, int]]:
        """Begin and end of the partitions that are deleted by age."""
        return {
            at: self.watcher.get_watermark_offsets(TopicPartition(*at), 10)
            for at, written in self.written.items()
            if not written.rules.compact
        }


def _config(rules: Rules) -> dict[str, str]:
    config = {"message.timestamp.type": "LogAppendTime", "segment.ms": str(rules.segment_ms)}
    if rules.retention_ms is not None:
        return {**config, "cleanup.policy": "delete", "retention.ms": str(rules.retention_ms)}
    return {
        **config,
        "cleanup.policy": "compact",
        "min.cleanable.dirty.ratio": "0.01",
        "min.compaction.lag.ms": str(rules.min_compaction_lag_ms),
        "delete.retention.ms": str(rules.delete_retention_ms),
    }


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Seen(NamedTuple):
    """What a reader met on a partition: how many appends there had been, and when it was done. `begin` and `end` of the log."""

    done_ms: int
    written: int
    met: set[int]
    begin: int = 0
    end: int = 0


@pytest.fixture(scope="module")
def seen(kafka: KafkaUnderTest) -> dict[tuple[str, int], tuple[Written, list[Seen]]]:
    """Each partition, and what readers met of it while records were written in rounds and until the broker came to rest."""
    random = Random(time.time_ns())
    real = Real(kafka, f"sim-log-{random.getrandbits(32):08x}", random)
    found: dict[tuple[str, int], list[Seen]] = {at: [] for at in real.written}

    def look() -> None:
        met, ranges, done_ms = real.read(), real.begins(), now_ms()
        for at, seen in found.items():
            seen.append(Seen(done_ms, len(real.written[at].appends), met.get(at, set()), *ranges.get(at, (0, 0))))

    for number in range(ROUNDS_MAX):
        real.write_some()
        time.sleep(random.choice((0, 0.02, 0.1, SEGMENT_MS / 1000)))
        if random.random() < 0.4:
            look()
            if number >= ROUNDS and any(_tombstones_gone(real.written[at], reads[-1]) for at, reads in found.items()):
                break
    deadline = time.monotonic() + QUIET_TIMEOUT_S
    look()
    while time.monotonic() < deadline and not all(_at_rest(real.written[at], seen[-1]) for at, seen in found.items()):
        time.sleep(0.5)
        look()
    real.watcher.close()
    return {at: (real.written[at], seen) for at, seen in found.items()}


def _at_rest(written: Written, last: Seen) -> bool:
    """Whether the broker has done all that the model does."""
    if not written.rules.compact:
        return last.begin == last.end
    model = _left(written.replay(last.done_ms, partial(_clean_once, last.done_ms)))
    return written.values(model) == written.values(last.met)


def _tombstones_gone(written: Written, read: Seen) -> int:
    """How many tombstones that were the last of their key a reader of a compacted partition did not meet."""
    if not written.rules.compact:
        return 0
    missed = {raw[0] for raw in written.appends[: read.written] if raw[2]} - read.met
    last = {raw[2]: raw[0] for raw in written.records}
    return len((missed - written.values(missed)) & set(last.values()))


def test_what_a_reader_of_kafka_misses_the_model_can_be_made_to_miss(
    seen: dict[tuple[str, int], tuple[Written, list[Seen]]],
) -> None:
    superseded = tombstones = 0
    for at, (written, reads) in seen.items():
        if not written.rules.compact:
            continue
        envelopes = written.envelopes()
        for read in reads:
            offsets = {raw[0] for raw in written.appends[: read.written] if raw[2]}
            assert could_leave(envelopes, offsets, read.met, read.done_ms), (at, written.records, read)
            missed = offsets - read.met
            superseded += len(written.values(missed))
            tombstones += _tombstones_gone(written, read)
    assert superseded > 100, "the broker cleaned too little to compare with"
    assert tombstones, "no tombstone that was the last of its key was seen to go"


def test_at_rest_kafka_holds_just_the_values_that_the_model_holds(
    seen: dict[tuple[str, int], tuple[Written, list[Seen]]],
) -> None:
    for at, (written, reads) in seen.items():
        assert _at_rest(written, reads[-1]), (at, written.records, reads[-1])


def test_a_kinder_model_would_have_been_noticed(seen: dict[tuple[str, int], tuple[Written, list[Seen]]]) -> None:
    """Longer lag, longer segments, longer lives of tombstones: what Kafka showed is then out of reach."""
    noticed: Counter[str] = Counter()
    for written, reads in seen.values():
        if not written.rules.compact:
            continue
        for kinder in (
            {"min_compaction_lag_ms": written.rules.min_compaction_lag_ms + 3_000},
            {"segment_ms": DAY_MS},
            {"delete_retention_ms": DAY_MS},
        ):
            envelopes = written.envelopes(replace(written.rules, **kinder))
            for read in reads:
                offsets = {raw[0] for raw in written.appends[: read.written] if raw[2]}
                noticed[next(iter(kinder))] += not could_leave(envelopes, offsets, read.met, read.done_ms)
    assert set(+noticed) == {"min_compaction_lag_ms", "segment_ms", "delete_retention_ms"}


def test_kafkas_logs_begin_where_retention_can_let_the_models_begin(
    seen: dict[tuple[str, int], tuple[Written, list[Seen]]],
) -> None:
    for at, (written, reads) in seen.items():
        if written.rules.compact or not written.records:
            continue
        begins = {(0, 0)}  # when, and where the log begins from then on

        def expire(topic: Topic, at_ms: int, begins: set[tuple[int, int]] = begins) -> None:
            topic.expire(0, at_ms)
            begins.add((at_ms, topic.begin(0)))

        for version in (written, written.with_early_markers()):
            version.replay(reads[-1].done_ms, expire)
        for read in reads:
            assert read.begin in {begin for when, begin in begins if when <= read.done_ms}, (at, written.appends, read)
        assert len({begin for _, begin in begins}) > 1
