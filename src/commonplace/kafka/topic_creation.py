"""Creating the topics on a broker, as topic_rules.py has them."""

import time
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from commonplace.errors import TopicsNotReady
from commonplace.kafka.client import Broker
from commonplace.kafka.embedded import EmbeddedBroker
from commonplace.kafka.topic_rules import IN_SYNC_WANTED, REPLICATION_WANTED, TopicSpec, specs
from commonplace.kafka.topics import ADMIN_TIMEOUT_S, topic_error
from commonplace.settings import Settings


def create(client: AdminClient, settings: Settings, broker: Broker) -> list[str]:
    """Create the topics that are missing and return their names; blocks until the broker has them.

    Existing topics are left as they are; `verify` says what is wrong with them. Raises `TopicsNotReady`, which names
    the topic.
    """
    if broker.embedded:
        raise TopicsNotReady(
            f"the embedded broker at {settings.bootstrap} has no admin calls: `commonplace broker --embedded` makes "
            "the topics of its own --prefix and --pool when it starts"
        )
    replication = settings.topics.replication_factor or min(REPLICATION_WANTED, broker.brokers)
    created = []
    for name, future in client.create_topics(
        [_new_topic(spec, replication) for spec in specs(settings)],
        operation_timeout=ADMIN_TIMEOUT_S,
        request_timeout=ADMIN_TIMEOUT_S,
    ).items():
        if _was_created(name, future, settings):
            created.append(name)
    _await_leaders(client, settings, created)
    return created


def create_embedded(broker: EmbeddedBroker, settings: Settings) -> list[str]:
    """Make the topics on an embedded broker, which only its owner can; returns their names."""
    for spec in specs(settings):
        broker.create_topic(spec.name, spec.partitions)
    return [spec.name for spec in specs(settings)]


def _await_leaders(client: AdminClient, settings: Settings, names: Sequence[str]) -> None:
    """The controller answers before the brokers serve: wait until the leader of every partition tells its offsets."""
    wanted = [spec for spec in specs(settings) if spec.name in names]
    missing = {TopicPartition(spec.name, number) for spec in wanted for number in range(spec.partitions)}
    until = time.monotonic() + ADMIN_TIMEOUT_S
    while missing := _not_serving(client, missing):
        if time.monotonic() > until:
            late = min(missing)
            raise TopicsNotReady(
                f"{late.topic}: created, but partition {late.partition} has no leader after {ADMIN_TIMEOUT_S:g} s: "
                "see the brokers"
            )
        with suppress(KafkaException):
            client.list_topics(timeout=1.0)  # a client that saw the topic gone goes by that else, and asks no broker
        time.sleep(0.05)


def _not_serving(client: AdminClient, partitions: set[TopicPartition]) -> set[TopicPartition]:
    if not partitions:
        return set()
    earliest = OffsetSpec.earliest()  # type: ignore[no-untyped-call]  # confluent-kafka 2.16 left it untyped
    asked = client.list_offsets(dict.fromkeys(partitions, earliest), request_timeout=ADMIN_TIMEOUT_S)
    return {partition for partition, future in asked.items() if future.exception() is not None}


def _new_topic(spec: TopicSpec, replication: int) -> NewTopic:
    config = spec.config
    if replication >= REPLICATION_WANTED:
        config["min.insync.replicas"] = str(IN_SYNC_WANTED)
    return NewTopic(spec.name, num_partitions=spec.partitions, replication_factor=replication, config=config)


def _was_created(name: str, future: "Future[None]", settings: Settings) -> bool:
    try:
        future.result()
    except KafkaException as e:
        error: KafkaError = e.args[0]
        if error.code() == KafkaError.TOPIC_ALREADY_EXISTS:
            return False
        raise topic_error(name, "cannot be created", e, settings) from e
    return True
