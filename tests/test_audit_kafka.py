"""The audit on a broker: reads raw topics to the ends captured at start; the command's exit codes and output."""

import json
import logging
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer

from audit_logs import CLAIMS_ID, Pool
from cli import assert_one_line, run
from commonplace.errors import CommonplaceError, ExitCode
from commonplace.kafka import client, lookups, topic_creation, topics
from commonplace.kafka.topics import Topics, specs
from commonplace.ops import audit
from commonplace.ops.audit import read
from commonplace.ops.audit.hashes import partition_of
from commonplace.settings import Settings, TopicsSettings
from kafka_fixtures import KafkaUnderTest
from topics_changed import delete_before

FLUSH_S = 20.0
HOST = next(name for name in (f"host-{n}" for n in range(100)) if partition_of(name, 4) == 0)


@pytest.fixture
def settings(kafka: KafkaUnderTest, prefix: str) -> Settings:
    """Settings of a pool of its own, with its topics made."""
    settings = Settings(kafka={"bootstrap.servers": kafka.bootstrap}, topics=TopicsSettings(prefix=prefix))
    broker = client.require_broker(settings)
    if kafka.embedded is not None:
        for spec in specs(settings):
            kafka.create_topic(spec.name, spec.partitions)
    else:
        topic_creation.create(client.admin(settings), settings, broker)
    return settings


def good() -> Pool:
    """A request placed and confirmed on HOST."""
    pool = Pool()
    pool.start(HOST)
    pool.snapshot(HOST)
    pool.placed("r-1", "a-1", host=HOST)
    pool.confirmed("r-1", "a-1", host=HOST)
    return pool


def write(settings: Settings, pool: Pool, since_ms: int = 0) -> None:
    """Write the pool's records in the order of their log times, one by one, because the broker sets its own."""
    facts = topics.facts(client.admin(settings), settings, client.require_broker(settings))
    names = Topics(settings.topics.prefix, settings.topics.pool)
    claims_id = facts[names.claims].topic_id.encode()
    producer = Producer({"bootstrap.servers": settings.bootstrap}, logger=logging.getLogger("test"))
    entries = [(entry, topic) for topic, log in pool.logs.items() for entry in log if entry.timestamp_ms >= since_ms]
    for entry, topic in sorted(entries, key=lambda item: item[0].timestamp_ms):
        value = entry.value.replace(CLAIMS_ID.encode(), claims_id) if entry.value else entry.value
        producer.produce(getattr(names, topic), value, entry.key, entry.partition)
        assert producer.flush(FLUSH_S) == 0


def test_topics_without_records_are_nothing_to_check(settings: Settings) -> None:
    assert audit.run(settings).verdict == "nothing"


def test_raw_topics_of_a_good_pool_are_clean_and_a_breach_is_found(settings: Settings) -> None:
    pool = good()
    write(settings, pool)
    report = audit.run(settings)
    assert report.to_dict()["audit"] == "clean", report.to_dict()
    assert report.tallies[3].checked == 1
    assert report.tallies[6].checked == 2
    assert not any(tally.unprovable for tally in report.tallies.values())
    before_ms = pool.now_ms
    at = pool.placed("r-2", "a-2", host=HOST, expected="0" * 16)
    write(settings, pool, before_ms)
    report = audit.run(settings)
    assert [(v.topic, v.partition, v.offset) for v in report.tallies[6].violations] == [
        (Topics(settings.topics.prefix, settings.topics.pool).hosts, 0, at)
    ]


@pytest.mark.real_kafka
def test_operator_audits_and_the_exit_code_tells(settings: Settings) -> None:
    where = ["-b", settings.bootstrap, "--prefix", settings.topics.prefix]
    assert run("topics", "create", *where).returncode == 0
    nothing = run("audit", *where)
    assert nothing.returncode == 6, nothing.stderr
    assert "nothing to check" in nothing.stderr
    pool = good()
    write(settings, pool)
    clean = run("audit", *where, "-o", "json")
    assert clean.returncode == 0, clean.stderr
    told = json.loads(clean.stdout)
    assert told["audit"] == "clean"
    assert set(told["invariants"]) == {"1", "2", "3", "5", "6", "9", "10", "11", "12"}
    assert told["figures"]["placed"] == 1
    before_ms = pool.now_ms
    at = pool.placed("r-2", "a-2", host=HOST, vcpu=99)
    write(settings, pool, before_ms)
    violated = run("audit", *where)
    assert violated.returncode == 8, violated.stderr
    assert "past capacity: 2 + 99 of 8 VCPU" in violated.stderr
    assert f"{settings.topics.prefix}.default.hosts [0] @{at}" in violated.stderr
    rows = {line.split()[0]: line.split()[1:5] for line in violated.stdout.splitlines()[1:]}
    assert rows["1"][1] == "1"
    assert "audit: violated" in violated.stderr


@pytest.mark.real_kafka
@pytest.mark.parametrize("gone", [1, 2], ids=["in part", "whole"])
def test_retention_that_overtakes_the_audit_leaves_facts_unprovable(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, gone: int
) -> None:
    pool = good()
    write(settings, pool)
    claims = Topics(settings.topics.prefix, settings.topics.pool).claims
    captured = read._log

    def overtaken(consumer: Consumer, at: Settings, name: str, topic_id: str, partitions: int) -> audit.Log:
        log = captured(consumer, at, name, topic_id, partitions)
        if name == claims:
            delete_before(settings.bootstrap, claims, 0, gone)
        return log

    monkeypatch.setattr(read, "_log", overtaken)
    report = audit.run(settings)
    assert report.clean, report.to_dict()
    assert report.tallies[6].unprovable == 1


class Refusing:
    """A consumer of one record at offset 0, whose broker refuses look-ups and reads in some ways first."""

    def __init__(self, lookups: list[int], reads: list[int]) -> None:
        self.lookups, self.reads = lookups, reads

    def get_watermark_offsets(self, place: object, timeout: float) -> tuple[int, int]:
        if self.lookups:
            raise KafkaException(KafkaError(self.lookups.pop(0)))
        return 0, 1

    def poll(self, timeout: float) -> object:
        error = KafkaError(self.reads.pop(0)) if self.reads else None
        place = None if error else 0
        return SimpleNamespace(
            **{name: (lambda said=said: said) for name, said in {
                "error": error, "partition": place, "offset": place, "timestamp": (1, 7), "key": b"k", "value": b"v", "topic": None,
            }.items()}
        )  # fmt: skip

    def consume(self, most: int, timeout: float) -> list[object]:
        return []

    def assign(self, places: object) -> None:
        pass

    incremental_unassign = assign

    def list_topics(self, topic: str, timeout: float) -> None:
        pass


def test_what_a_broker_refuses_in_passing_is_asked_and_read_again() -> None:
    consumer: Any = Refusing(
        [KafkaError.NOT_LEADER_FOR_PARTITION], [KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN]
    )
    log = read._log(consumer, Settings(), "claims", "", 1)
    assert (log.low, log.high) == ({0: 0}, {0: 1})
    assert list(log.records) == [audit.Entry(0, 0, 7, b"k", b"v")]


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [(KafkaError.TOPIC_AUTHORIZATION_FAILED, ExitCode.DENIED), (KafkaError._TRANSPORT, ExitCode.NOT_READY)],
)
def test_a_refusal_and_a_broker_that_stays_away_are_told_by_their_exit_codes(
    monkeypatch: pytest.MonkeyPatch, code: int, exit_code: ExitCode
) -> None:
    monkeypatch.setattr(read, "SILENCE_S", -1.0)
    monkeypatch.setattr(lookups, "TIMEOUT_S", -1.0)
    consumer: Any = Refusing([code], [code])
    with pytest.raises(CommonplaceError) as told:
        read._log(consumer, Settings(), "claims", "", 1)
    assert told.value.exit_code == exit_code
    with pytest.raises(CommonplaceError) as told:
        list(read._records(consumer, Settings(), "claims", {0: 0}, {0: 1}))
    assert told.value.exit_code == exit_code


@pytest.mark.real_kafka
def test_missing_topics_are_one_line_and_exit_code_6(kafka: KafkaUnderTest, prefix: str) -> None:
    assert_one_line(run("audit", "-b", kafka.bootstrap, "--prefix", prefix), 6, f"{prefix}.default.", "topics create")


def test_no_broker_is_one_line_and_exit_code_6() -> None:
    assert_one_line(run("audit", "-b", "127.0.0.1:1"), 6, "no broker at 127.0.0.1:1")
