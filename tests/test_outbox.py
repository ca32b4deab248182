"""The outbox, on whichever broker this session has."""

import time
from collections.abc import Iterator

import msgspec
import pytest

from commonplace.core.records.quarantine import Quarantined
from commonplace.errors import TimedOut
from commonplace.kafka.embedded import EmbeddedBroker
from commonplace.kafka.outbox import Outbox, QuarantineWriter, reason_kind
from commonplace.kafka.tail import Tail
from commonplace.settings import LimitsSettings, Settings
from kafka_fixtures import KafkaUnderTest
from test_tail import read_until, settings_of

WAIT_S = 20.0


@pytest.fixture
def tail(kafka: KafkaUnderTest) -> Iterator[Tail]:
    tail = Tail(settings_of(kafka))
    yield tail
    tail.close()


def test_reports_name_the_offset_and_records_keep_their_order(kafka: KafkaUnderTest, prefix: str, tail: Tail) -> None:
    kafka.create_topic(prefix, 2)
    outbox = Outbox(settings_of(kafka))
    told: list[tuple[int, str]] = []
    for n in range(50):
        outbox.send(prefix, 1, b"k", f"{n}".encode(), lambda offset, error: told.append((offset, error)))
        outbox.flush_turn()
    outbox.send(prefix, 1, b"k", None)
    assert outbox.close(WAIT_S) == 0

    tail.add(prefix, 1, 0)
    records = [r for b in read_until(tail, {(prefix, 1): 51}) for r in b.records]
    assert told == [(n, "") for n in range(50)]
    assert [r[3] for r in records] == [*(f"{n}".encode() for n in range(50)), None]


def test_what_a_turn_does_not_wait_for_goes_out_while_the_next_one_is_under_way(
    kafka: KafkaUnderTest, prefix: str
) -> None:
    kafka.create_topic(prefix, 1)
    outbox = Outbox(settings_of(kafka))
    told: list[int] = []
    outbox.send(prefix, 0, b"k", b"v", lambda offset, _: told.append(offset))
    deadline = time.monotonic() + WAIT_S
    while not told and time.monotonic() < deadline:
        outbox.flush_turn(wait=False)
        time.sleep(0.01)
    assert told == [0]


def test_with_errors_only_a_delivered_record_calls_nobody(kafka: KafkaUnderTest, prefix: str) -> None:
    kafka.create_topic(prefix, 1)
    outbox = Outbox(settings_of(kafka), errors_only=True)
    told: list[str] = []
    outbox.send(prefix, 0, b"k", b"v", lambda _, error: told.append(error))
    assert outbox.close(WAIT_S) == 0
    assert told == []
    assert outbox.failures == 0


@pytest.mark.parametrize("errors_only", [True, False])
def test_a_record_that_is_not_delivered_reaches_its_callback_and_is_counted(errors_only: bool) -> None:
    broker = EmbeddedBroker()
    broker.start()
    settings = Settings(kafka={"bootstrap.servers": broker.bootstrap, "message.timeout.ms": "300"})
    outbox = Outbox(settings, errors_only=errors_only)
    broker.stop()
    told: list[tuple[int, str]] = []
    outbox.send("t", 0, b"k", b"v", lambda offset, error: told.append((offset, error)))
    outbox.close(WAIT_S)
    assert [offset for offset, _ in told] == [-1]
    assert told[0][1]
    assert outbox.failures == 1


def test_a_record_above_the_limit_fails_alone(kafka: KafkaUnderTest, prefix: str) -> None:
    kafka.create_topic(prefix, 1)
    settings = msgspec.structs.replace(settings_of(kafka), limits=LimitsSettings(record_bytes_max=1_000))
    outbox = Outbox(settings)
    told: list[tuple[int, str]] = []
    outbox.send(prefix, 0, b"k", b"x" * 50_000, lambda offset, error: told.append((offset, error)))
    outbox.send(prefix, 0, b"k", b"small", lambda offset, error: told.append((offset, error)))
    outbox.close(WAIT_S)
    assert told[0][0] == -1
    assert told[1] == (0, "")


def test_a_full_outbox_waits_for_room_and_gives_up_after_its_bound() -> None:
    broker = EmbeddedBroker()
    broker.start()
    limits = LimitsSettings(outbox_records_max=2, outbox_wait_s=0.2)
    outbox = Outbox(Settings(kafka={"bootstrap.servers": broker.bootstrap}, limits=limits))
    broker.stop()
    outbox.send("t", 0, b"k", b"1")
    outbox.send("t", 0, b"k", b"2")
    before = time.monotonic()
    with pytest.raises(TimedOut, match=r"t \[0\]: 2 records wait"):
        outbox.send("t", 0, b"k", b"3")
    assert time.monotonic() - before >= 0.2
    assert len(outbox) == 2


def test_a_full_outbox_of_a_living_broker_loses_nothing(kafka: KafkaUnderTest, prefix: str) -> None:
    kafka.create_topic(prefix, 1)
    limits = LimitsSettings(outbox_records_max=10)
    outbox = Outbox(msgspec.structs.replace(settings_of(kafka), limits=limits))
    offsets: list[int] = []
    for _ in range(200):
        outbox.send(prefix, 0, b"k", b"v", lambda offset, _: offsets.append(offset))
    assert outbox.close(WAIT_S) == 0
    assert offsets == list(range(200))


def test_an_outbox_full_of_bytes_waits_for_room_too() -> None:
    broker = EmbeddedBroker()
    broker.start()
    limits = LimitsSettings(outbox_kbytes_max=1, outbox_wait_s=0.2)
    outbox = Outbox(Settings(kafka={"bootstrap.servers": broker.bootstrap}, limits=limits))
    broker.stop()
    outbox.send("t", 0, b"k", b"x" * 1_000)
    with pytest.raises(TimedOut, match=r"t \[0\]: 1 record waits"):
        outbox.send("t", 0, b"k", b"x" * 1_000)


def test_garbage_is_put_aside_up_to_a_bound_each_second_and_all_of_it_counted(
    kafka: KafkaUnderTest, prefix: str, tail: Tail
) -> None:
    kafka.create_topic(prefix, 1)
    limits = LimitsSettings(quarantined_per_s_max=3)
    outbox = Outbox(msgspec.structs.replace(settings_of(kafka), limits=limits))
    quarantine = QuarantineWriter(outbox, prefix)
    for second in (1, 2):
        for n in range(5):
            record = Quarantined(topic="x.hosts", partition=0, offset=n, reason="not a hosts record: …")
            quarantine.put(record, second * 1000 + n)
    assert outbox.close(WAIT_S) == 0
    assert tail.range(prefix, 0)[1] == 6
    assert quarantine.counts == {("x.hosts", "undecodable"): 10}
    assert quarantine.dropped == 4


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("record of 2000000 bytes, at most 1000000 are read", "too_large"),
        ("version 7 is newer than 1", "version"),
        ("not a hosts record: Input data was truncated", "undecodable"),
        ("key is of host 'a', record of 'b'", "key"),
        ("belongs on partition 2", "partition"),
        ("allocation 'x' has a name with control characters", "name"),
        ("anything else", "other"),
    ],
)
def test_a_reason_has_a_kind_for_metrics(reason: str, kind: str) -> None:
    assert reason_kind(reason) == kind
