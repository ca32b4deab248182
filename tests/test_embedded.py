"""The embedded mock: what the demo and fast tests rest on."""

import logging

import pytest
from confluent_kafka import Consumer, Producer

from commonplace.kafka.embedded import EmbeddedBroker
from commonplace.kafka.jars import BrokerError

QUIET = logging.getLogger("test-client")


def test_topic_has_the_partitions_it_was_made_with() -> None:
    with EmbeddedBroker() as broker:
        broker.create_topic("seven", 7)
        producer = Producer({"bootstrap.servers": broker.bootstrap}, logger=QUIET)
        assert len(producer.list_topics("seven", timeout=10).topics["seven"].partitions) == 7


def test_topic_made_twice_keeps_its_partitions() -> None:
    with EmbeddedBroker() as broker:
        broker.create_topic("three", 3)
        broker.create_topic("three", 5)
        producer = Producer({"bootstrap.servers": broker.bootstrap}, logger=QUIET)
        assert len(producer.list_topics("three", timeout=10).topics["three"].partitions) == 3


def test_topic_without_partitions_is_refused() -> None:
    with EmbeddedBroker() as broker, pytest.raises(BrokerError, match="can't have 0 partitions"):
        broker.create_topic("none", 0)


def test_group_member_reads_what_was_produced_before_it_joined() -> None:
    with EmbeddedBroker() as broker:
        broker.create_topic("records", 1)
        producer = Producer({"bootstrap.servers": broker.bootstrap}, logger=QUIET)
        producer.produce("records", b"value", b"key")
        assert producer.flush(10) == 0
        consumer = Consumer(
            {
                "bootstrap.servers": broker.bootstrap,
                "group.id": "readers",
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 1,
            },
            logger=QUIET,
        )
        consumer.subscribe(["records"])
        message = consumer.poll(10)
        consumer.close()
    assert message is not None
    assert (message.key(), message.value(), message.offset()) == (b"key", b"value", 0)


def test_stopped_broker_no_longer_answers_and_forgets() -> None:
    broker = EmbeddedBroker()
    broker.start()
    broker.create_topic("gone", 7)
    broker.stop()
    with pytest.raises(BrokerError, match="does not run"):
        _ = broker.bootstrap
    broker.start()
    try:
        producer = Producer({"bootstrap.servers": broker.bootstrap}, logger=QUIET)
        assert "gone" not in producer.list_topics(timeout=10).topics
    finally:
        broker.stop()


def test_starting_twice_is_refused() -> None:
    with EmbeddedBroker() as broker, pytest.raises(BrokerError, match="runs already"):
        broker.start()


def test_stopping_twice_is_harmless() -> None:
    broker = EmbeddedBroker()
    broker.start()
    broker.stop()
    broker.stop()


def test_its_own_description_says_it_is_not_kafka() -> None:
    assert "It is not Kafka" in (EmbeddedBroker.__doc__ or "")
