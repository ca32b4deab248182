"""The tail, on whichever broker this session has."""

import logging
import subprocess
import time
from collections import deque
from collections.abc import Iterator

import pytest
from confluent_kafka import OFFSET_END, Producer, TopicPartition

from commonplace.errors import TimedOut, TopicsNotReady
from commonplace.kafka.embedded import EmbeddedBroker
from commonplace.kafka.tail import Batch, Lost, Tail
from commonplace.settings import Settings
from kafka_fixtures import KafkaUnderTest, needs_kcat
from topics_changed import delete_before

WAIT_S = 20.0


def settings_of(kafka: KafkaUnderTest) -> Settings:
    own = {} if kafka.real else {"fetch.wait.max.ms": "1"}
    return Settings(kafka={"bootstrap.servers": kafka.bootstrap, **own})


@pytest.fixture
def tail(kafka: KafkaUnderTest) -> Iterator[Tail]:
    tail = Tail(settings_of(kafka))
    yield tail
    tail.close()


def write(kafka: KafkaUnderTest, topic: str, values: list[tuple[int, bytes]]) -> None:
    producer = Producer(
        {"bootstrap.servers": kafka.bootstrap, "enable.idempotence": True}, logger=logging.getLogger("test")
    )
    for partition, value in values:
        producer.produce(topic, value, b"k", partition)
    assert producer.flush(WAIT_S) == 0


def read_until(tail: Tail, done: dict[tuple[str, int], int]) -> list[Batch]:
    """Turn until every position is reached."""
    batches: list[Batch] = []
    deadline = time.monotonic() + WAIT_S
    while any(tail.position(*place) < end for place, end in done.items()):
        assert time.monotonic() < deadline, f"at {[tail.position(*p) for p in done]}, wanted {done}"
        batches += tail.turn(0.1)
    return batches


def test_records_come_by_partition_in_log_order_with_their_next_position(
    kafka: KafkaUnderTest, prefix: str, tail: Tail
) -> None:
    kafka.create_topic(f"{prefix}.a", 2)
    kafka.create_topic(f"{prefix}.b", 1)
    write(kafka, f"{prefix}.a", [(n % 2, f"{n}".encode()) for n in range(3000)])
    write(kafka, f"{prefix}.b", [(0, b"only")])
    for topic, partition in ((f"{prefix}.a", 0), (f"{prefix}.a", 1), (f"{prefix}.b", 0)):
        tail.add(topic, partition, 0)

    ends = tail.ends([(f"{prefix}.a", 0), (f"{prefix}.a", 1), (f"{prefix}.b", 0)])
    batches = read_until(tail, ends)

    assert ends == {(f"{prefix}.a", 0): 1500, (f"{prefix}.a", 1): 1500, (f"{prefix}.b", 0): 1}
    for partition in (0, 1):
        read = [r for b in batches if (b.topic, b.partition) == (f"{prefix}.a", partition) for r in b.records]
        assert [r[0] for r in read] == list(range(1500))
        assert [int(r[3] or b"") for r in read] == list(range(partition, 3000, 2))
        assert all(r[2] == b"k" and abs(r[1] - time.time() * 1000) < 3_600_000 for r in read)
    assert all(b.position == b.records[-1][0] + 1 for b in batches if b.records)


def test_a_partition_added_later_is_read_from_the_offset_named_and_a_removed_one_no_more(
    kafka: KafkaUnderTest, prefix: str, tail: Tail
) -> None:
    kafka.create_topic(prefix, 2)
    write(kafka, prefix, [(p, f"{p} {n}".encode()) for n in range(10) for p in (0, 1)])
    tail.add(prefix, 0, 0)
    read_until(tail, {(prefix, 0): 10})

    tail.add(prefix, 1, 7)
    batches = read_until(tail, {(prefix, 1): 10})
    tail.remove(prefix, 0)
    write(kafka, prefix, [(0, b"unseen"), (1, b"seen")])
    batches += read_until(tail, {(prefix, 1): 11})

    assert [r[3] for b in batches for r in b.records] == [b"1 7", b"1 8", b"1 9", b"seen"]
    assert tail.position(prefix, 0) == -1


def test_a_captured_end_that_the_log_no_longer_has_is_not_waited_for(
    kafka: KafkaUnderTest, prefix: str, tail: Tail, monkeypatch: pytest.MonkeyPatch
) -> None:
    kafka.create_topic(prefix, 2)
    write(kafka, prefix, [(p, b"x") for _ in range(3) for p in (0, 1)])
    tail.add(prefix, 0, 0)
    tail.add(prefix, 1, 0)
    read_until(tail, {(prefix, 0): 3, (prefix, 1): 3})
    captured = {(prefix, 0): 5, (prefix, 1): 3}  # offsets 3 and 4 stood there, until an election

    assert tail.range(prefix, 0) == (0, 3)
    assert tail.behind(captured) == {(prefix, 0): 5}  # asked just now: not again
    monkeypatch.setattr("commonplace.kafka.tail.ENDS_ASKED_S", 0.0)
    assert tail.behind(captured) == {}


def test_an_end_that_the_log_has_is_waited_for(
    kafka: KafkaUnderTest, prefix: str, tail: Tail, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("commonplace.kafka.tail.ENDS_ASKED_S", 0.0)
    kafka.create_topic(prefix, 1)
    write(kafka, prefix, [(0, b"x")] * 4)
    tail.add(prefix, 0, 0)
    assert tail.behind({(prefix, 0): 4}) == {(prefix, 0): 4}
    assert tail.behind({(prefix, 0): 9}) == {(prefix, 0): 4}
    read_until(tail, {(prefix, 0): 4})
    assert tail.behind({(prefix, 0): 4}) == {}


def test_reading_up_to_captured_ends_gives_all_below_them_and_waits_for_none_that_the_log_lost(
    kafka: KafkaUnderTest, prefix: str, tail: Tail, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("commonplace.kafka.tail.ENDS_ASKED_S", 0.0)
    kafka.create_topic(prefix, 2)
    write(kafka, prefix, [(p, b"x") for _ in range(3) for p in (0, 1)])
    tail.add(prefix, 0, 0)
    tail.add(prefix, 1, 0)
    batches = list(tail.up_to({(prefix, 0): 5, (prefix, 1): 3}))
    assert sorted((b.partition, r[0]) for b in batches for r in b.records) == [(p, n) for p in (0, 1) for n in range(3)]


def test_reading_up_to_an_end_that_comes_no_nearer_is_given_up_though_others_talk(
    kafka: KafkaUnderTest, prefix: str, tail: Tail, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("commonplace.kafka.tail.STALL_TIMEOUT_S", 0.2)
    monkeypatch.setattr("commonplace.kafka.tail.ENDS_ASKED_S", 60.0)
    kafka.create_topic(prefix, 1)
    tail.add(prefix, 0, 0)
    assert tail.range(prefix, 0) == (0, 0)
    monkeypatch.setattr(tail, "turn", lambda timeout_s: [Batch("other", 0, [], 1)])
    with pytest.raises(TimedOut, match=f"{prefix} \\[0\\]: nothing could be read for 0.2 s"):
        deque(tail.up_to({(prefix, 0): 2}), maxlen=0)


def test_a_turn_with_nothing_to_read_ends_in_its_time(kafka: KafkaUnderTest, prefix: str, tail: Tail) -> None:
    kafka.create_topic(prefix, 1)
    tail.add(prefix, 0, 0)
    assert [b.records for _ in range(5) for b in tail.turn(0.05)] == []
    assert tail.position(prefix, 0) == 0


@needs_kcat
def test_trace_contexts_are_read_of_the_traced_topic_and_no_header_stops_the_reading(
    kafka: KafkaUnderTest, prefix: str
) -> None:
    kafka.create_topic(prefix, 1)
    good = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    for headers in (
        [b"traceparent=" + good],
        [b"\xff\xfe=1", b"traceparent=" + good],  # a name that is no text: the client can give none of them
        [b"traceparent=\xff"],
        [b"traceparent"],
        [b"other=1", b"Traceparent=" + good],
        [],
    ):
        options = [part for header in headers for part in (b"-H", header)]
        kcat = [b"kcat", b"-P", b"-q", b"-b", kafka.bootstrap.encode(), b"-t", prefix.encode(), b"-p", b"0"]
        subprocess.run([*kcat, *options], input=b"v", check=True)
    for traced, wanted in ((prefix, {0: good.decode(), 4: good.decode()}), ("", {})):
        tail = Tail(settings_of(kafka), traced=traced)
        tail.add(prefix, 0, 0)
        batches = read_until(tail, {(prefix, 0): 6})
        tail.close()
        assert [value for batch in batches for *_, value in batch.records] == [b"v"] * 6
        assert {o: trace for batch in batches for o, trace in (batch.traces or {}).items()} == wanted


def test_a_missing_topic_is_named_with_what_to_do(kafka: KafkaUnderTest, prefix: str, tail: Tail) -> None:
    if not kafka.real:
        pytest.skip("the embedded broker makes a topic for whoever asks")
    with pytest.raises(TopicsNotReady, match=rf"{prefix}: missing .* topics create"):
        tail.range(prefix, 0)


@pytest.mark.real_kafka
def test_a_position_that_retention_took_is_lost_once_and_the_others_are_read_on(
    kafka: KafkaUnderTest, prefix: str, tail: Tail
) -> None:
    kafka.create_topic(prefix, 2)
    write(kafka, prefix, [(p, b"x") for _ in range(10) for p in (0, 1)])
    delete_before(kafka.bootstrap, prefix, 0, 6)
    tail.add(prefix, 0, 3)
    tail.add(prefix, 1, 0)

    lost: list[Lost] = []
    deadline = time.monotonic() + WAIT_S
    while (not lost or tail.position(prefix, 1) < 10) and time.monotonic() < deadline:
        try:
            tail.turn(0.1)
        except Lost as error:
            lost.append(error)

    assert [(e.topic, e.partition, e.position) for e in lost] == [(prefix, 0, 3)]
    assert tail.position(prefix, 0) == -1
    assert tail.position(prefix, 1) == 10
    assert tail.range(prefix, 0) == (6, 10)


@pytest.mark.real_kafka
def test_a_position_past_the_end_is_lost(kafka: KafkaUnderTest, prefix: str, tail: Tail) -> None:
    kafka.create_topic(prefix, 1)
    write(kafka, prefix, [(0, b"x")])
    tail.add(prefix, 0, 50)
    with pytest.raises(Lost, match="offset 50"):
        read_until(tail, {(prefix, 0): 51})


@pytest.mark.real_kafka
def test_the_position_passes_an_end_whose_last_record_is_never_handed_out(
    kafka: KafkaUnderTest, prefix: str, tail: Tail
) -> None:
    kafka.create_topic(prefix, 1)
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "enable.idempotence": True})
    # a transaction's marker takes the last offset and is never handed out
    transactional = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": prefix})
    producer.produce(prefix, b"x", b"k", 0)
    producer.flush(WAIT_S)
    transactional.init_transactions(WAIT_S)
    transactional.begin_transaction()
    transactional.produce(prefix, b"y", b"k", 0)
    transactional.commit_transaction(WAIT_S)

    deadline = time.monotonic() + WAIT_S  # the marker is written after the commit has returned
    while (end := tail.ends([(prefix, 0)])[prefix, 0]) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    tail.add(prefix, 0, 0)
    batches = read_until(tail, {(prefix, 0): end})

    assert end == 3
    assert max(r[0] for b in batches for r in b.records) == 1
    assert batches[-1].position == 3


@pytest.mark.real_kafka
def test_an_offset_is_found_by_log_time(kafka: KafkaUnderTest, prefix: str, tail: Tail) -> None:
    kafka.create_topic(prefix, 1, {"message.timestamp.type": "LogAppendTime"})
    write(kafka, prefix, [(0, b"x")])
    time.sleep(0.05)
    write(kafka, prefix, [(0, b"y")])
    tail.add(prefix, 0, 0)
    records = [r for b in read_until(tail, {(prefix, 0): 2}) for r in b.records]
    assert tail.offset_for_time(prefix, 0, 0) == 0
    assert tail.offset_for_time(prefix, 0, records[1][1]) == 1
    assert tail.offset_for_time(prefix, 0, records[1][1] + 1) == 2


class Appended:
    """Answers lookups as a broker whose partition gets a record, younger than any time asked for, after each of them."""

    def __init__(self, end: int) -> None:
        self._end = end

    def get_watermark_offsets(self, place: TopicPartition, timeout: float) -> tuple[int, int]:
        self._end += 1
        return 0, self._end - 1

    def offsets_for_times(self, wanted: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        self._end += 1
        return [TopicPartition(place.topic, place.partition, OFFSET_END) for place in wanted]


def test_a_record_appended_during_a_look_up_by_log_time_is_not_skipped(
    tail: Tail, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = Appended(end=7)
    monkeypatch.setattr(tail, "_times_kept", True)
    monkeypatch.setattr(tail, "_asker", lambda: broker)
    assert tail.offset_for_time("t", 0, 1) == 7  # and not past the record that came between the two questions


def test_where_no_times_are_kept_a_look_up_by_log_time_gives_the_first_record() -> None:
    broker = EmbeddedBroker()
    broker.start()
    broker.create_topic("t", 1)
    tail = Tail(Settings(kafka={"bootstrap.servers": broker.bootstrap, "fetch.wait.max.ms": "1"}))
    producer = Producer({"bootstrap.servers": broker.bootstrap}, logger=logging.getLogger("test"))
    assert tail.offset_for_time("t", 0, 1) == 0
    producer.produce("t", b"x", b"k", 0)
    assert producer.flush(WAIT_S) == 0
    assert tail.offset_for_time("t", 0, 1) == 0  # and not 1, which would skip what stands there
    tail.close()
    broker.stop()


def test_a_broker_that_ends_is_told_once_and_not_spun_on(caplog: pytest.LogCaptureFixture) -> None:
    broker = EmbeddedBroker()
    broker.start()
    broker.create_topic("t", 1)
    tail = Tail(Settings(kafka={"bootstrap.servers": broker.bootstrap, "fetch.wait.max.ms": "1"}))
    tail.add("t", 0, 0)
    tail.turn(0.5)
    broker.stop()
    with caplog.at_level(logging.WARNING, logger="commonplace.kafka.tail"):
        turns = 0
        end = time.monotonic() + 2
        while time.monotonic() < end:
            tail.turn(0.2)
            turns += 1
    told = [r for r in caplog.records if r.name == "commonplace.kafka.tail"]
    assert turns < 100
    assert 1 <= len(told) <= 4
    tail.close()


def test_a_topic_that_is_held_gives_nothing_until_it_goes_on_and_loses_nothing(
    kafka: KafkaUnderTest, prefix: str, tail: Tail
) -> None:
    held, other = f"{prefix}.a", f"{prefix}.b"
    kafka.create_topic(held, 2)
    kafka.create_topic(other, 1)
    tail.add(held, 0, 0)
    tail.hold(held)
    tail.add(held, 1, 0)  # added while it is held
    tail.add(other, 0, 0)
    write(kafka, held, [(n % 2, f"{n}".encode()) for n in range(10)])
    write(kafka, other, [(0, b"x")])
    seen = read_until(tail, {(other, 0): 1})
    for _ in range(20):
        seen += tail.turn(0.02)
    assert {batch.topic for batch in seen if batch.records} == {other}
    assert (tail.held(held), tail.held(other)) == (True, False)
    tail.go_on(held)
    batches = read_until(tail, {(held, 0): 5, (held, 1): 5})
    for partition in (0, 1):
        values = [value for b in batches if b.partition == partition for _, _, _, value in b.records]
        assert values == [f"{n}".encode() for n in range(partition, 10, 2)]
