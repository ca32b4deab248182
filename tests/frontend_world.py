"""A scripted world for frontend tests: real topics, and one thread that plays replica and host."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from confluent_kafka import Consumer, Producer, TopicPartition

from commonplace.core.codec import decode, encode
from commonplace.core.partition import partition_of
from commonplace.core.records.claims import Confirm, Release
from commonplace.core.records.control import Flavor
from commonplace.core.records.decisions import Decision, Placed, Position
from commonplace.core.records.hosts import Delta, Settled, Start
from commonplace.core.records.requests import Build, Cancel
from commonplace.core.requests import content_digest
from commonplace.kafka import client
from commonplace.kafka.topic_creation import create
from commonplace.kafka.topics import TopicFacts, Topics, facts, specs
from commonplace.settings import Settings, load
from kafka_fixtures import KafkaUnderTest

HOST = "host-0001"
FLAVOR = Flavor(name="m1.small", resources={"VCPU": 1, "MEMORY_MB": 2048})
SPREAD_FLAVOR = Flavor(name="m1.hot", resources={"VCPU": 1}, spread=4)


def settings_on(kafka: KafkaUnderTest, prefix: str, **frontend: object) -> Settings:
    """Settings of a test with topics of its own."""
    flags: dict[str, dict[str, object]] = {
        "kafka": {"bootstrap.servers": kafka.bootstrap},
        "topics": {"prefix": prefix},
        "frontend": {"timeout_s": 20.0, **frontend},
    }
    return load(flags=flags, environ={})


def make_topics(kafka: KafkaUnderTest, settings: Settings) -> None:
    """Create all topics of the settings, and the flavors of the tests."""
    broker = client.require_broker(settings, timeout_s=20)
    if broker.embedded:
        for spec in specs(settings):
            kafka.create_topic(spec.name, spec.partitions)
    else:
        create(client.admin(settings), settings, broker)
    write_flavors(settings, FLAVOR, SPREAD_FLAVOR)


def write_flavors(settings: Settings, *flavors: Flavor) -> None:
    """Put flavors on `control`."""
    producer = client.producer(settings)
    control = Topics(settings.topics.prefix, settings.topics.pool).control
    for flavor in flavors:
        producer.produce(control, encode(flavor), f"flavor/{flavor.name}", 0)
    assert producer.flush(20) == 0


def placed(build: Build, partition: int, offset: int, **changes: object) -> Decision:
    """The decision of a replica that places everything on one host."""
    fields: dict[str, object] = {
        "request": build.id,
        "result": "placed",
        "content": content_digest(build),
        "position": Position(partition, offset),
        "flavor": build.flavor,
        "count": build.count,
        "placed": [
            Placed(index=i, instance=f"{build.id}.{i}", host=HOST, allocation=f"a-{build.id}-{i}", grant=Position(0, 0))
            for i in range(build.count)
        ],
        "confirm_within_ms": 60_000,
    }
    return Decision(**{**fields, **changes})  # type: ignore[arg-type]


Decide = Callable[[Build, int, int], list[Decision]]


class FakeReplica:
    """Decides requests by a function, and reports for HOST what becomes of confirms and releases."""

    def __init__(self, settings: Settings, decide: Decide) -> None:
        self.requests: list[tuple[int, bytes, Build | Cancel]] = []
        self.claims: list[Confirm | Release] = []
        self.claim_partitions: set[int] = set()
        self.lapsed: set[str] = set()
        self._decide = decide
        broker = client.require_broker(settings, timeout_s=20)
        self._settings = settings = client.settings_for(settings, broker)
        self._names = Topics(settings.topics.prefix, settings.topics.pool)
        self._facts: dict[str, TopicFacts] = facts(client.admin(settings), settings, broker)
        self._producer: Producer = client.producer(settings)
        self._consumer: Consumer = client.consumer(settings)
        self._held: set[str] = set()
        self._generation = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fake-replica")

    def __enter__(self) -> "FakeReplica":
        self.report(Start(host=HOST), f"{HOST}/start")
        topics = (self._names.requests, self._names.claims)
        self._consumer.assign([TopicPartition(t, p, 0) for t in topics for p in range(self._facts[t].partitions)])
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._consumer.close()

    def pause(self, seconds: float) -> None:
        """Let the thread go on for a moment."""
        self._stop.wait(seconds)

    def say(self, decision: Decision, partition: int) -> None:
        """Write a decision as a replica would."""
        self.say_raw(decision.request.encode(), encode(decision), partition)

    def say_raw(self, key: bytes, value: bytes, partition: int) -> None:
        """Write anything on `decisions`."""
        self._producer.produce(self._names.decisions, value, key, partition)
        self._producer.flush(20)

    def report(self, record: Start | Delta, key: str) -> None:
        """Write a host record on the host's partition."""
        partition = partition_of(HOST, self._facts[self._names.hosts].partitions)
        self._producer.produce(self._names.hosts, encode(record), key, partition)
        assert self._producer.flush(20) == 0

    def _run(self) -> None:
        while not self._stop.is_set():
            message = self._consumer.poll(0.05)
            if message is None:
                continue
            assert message.error() is None, message.error()
            partition, offset = message.partition(), message.offset()
            key, value = message.key(), message.value()
            assert partition is not None and offset is not None  # noqa: PT018
            assert isinstance(key, bytes) and isinstance(value, bytes)  # noqa: PT018
            if message.topic() == self._names.requests:
                self._request(partition, offset, key, value)
            else:
                self.claim_partitions.add(partition)
                self._claim(offset, decode("claims", value))

    def _request(self, partition: int, offset: int, key: bytes, value: bytes) -> None:
        record = decode("requests", value)
        self.requests.append((partition, key, record))
        if isinstance(record, Build):
            for decision in self._decide(record, partition, offset):
                self._held |= {p.allocation for p in decision.placed}
                self.say(decision, partition)

    def _claim(self, offset: int, record: Confirm | Release) -> None:
        self.claims.append(record)
        here = record.allocation in self._held - self.lapsed
        if isinstance(record, Confirm):
            verdict = "confirmed" if here else "late"
        else:
            verdict = "released" if here else "ignored"
            self._held.discard(record.allocation)
        self._generation += 1
        delta = Delta(
            host=HOST,
            epoch=0,
            generation=self._generation,
            base_generation=0,
            claims_topic=self._facts[self._names.claims].topic_id,
            claims_through=offset,
            hash="0" * 16,
            settled=[Settled(offset=offset, verdict=verdict, allocation=record.allocation)],  # type: ignore[arg-type]
        )
        self.report(delta, f"{HOST}/0/delta")


@contextmanager
def fake_replica(settings: Settings, decide: Decide | None = None) -> Iterator[FakeReplica]:
    """A running FakeReplica; without `decide` it places everything."""
    logging.getLogger("commonplace.kafka.librdkafka").setLevel(logging.ERROR)
    with FakeReplica(settings, decide or (lambda build, p, o: [placed(build, p, o)])) as replica:
        yield replica
