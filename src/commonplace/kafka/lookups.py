"""Asking a broker where a partition begins and ends, until there is an answer.

A broker that restarts, or gives a partition away, refuses in many passing ways; librdkafka goes on asking with the leader epoch that it
knows. So a question is asked again after a look at the metadata, for as long as a restart takes.
"""

import logging
import time
from collections.abc import Callable
from typing import Final, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException

from commonplace.errors import CommonplaceError, TopicsNotReady
from commonplace.kafka import client
from commonplace.settings import Settings

TIMEOUT_S: Final = 15.0
"""How long a lookup may take, with its retries; a broker that restarts answers within it."""

RETRY_S: Final = 0.1
METADATA_TIMEOUT_S: Final = 2.0

A = TypeVar("A")

_LOG: Final = logging.getLogger(__name__)


def answer(asker: Consumer, settings: Settings, topic: str, ask: Callable[[Consumer, float], A]) -> A:
    """What `ask`, given the consumer and the seconds left, is told. Blocks, at most about TIMEOUT_S.

    Raises `TopicsNotReady` for a topic that is not there, else the typed error of the last refusal.
    """
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            return ask(asker, max(RETRY_S, deadline - time.monotonic()))
        except KafkaException as e:
            error: KafkaError = e.args[0]
            if time.monotonic() > deadline or not (error.retriable() or error.code() in _PASSING):
                raise _explained(topic, e, settings) from e
            _LOG.info("%s: asked again: %s", topic, error.str())
        time.sleep(RETRY_S)
        _refresh(asker, topic)


def _refresh(asker: Consumer, topic: str) -> None:
    """Learn a partition's leader and its epoch anew."""
    try:
        asker.list_topics(topic, timeout=METADATA_TIMEOUT_S)
    except KafkaException as e:
        _LOG.info("%s: no metadata: %s", topic, e.args[0].str())


def _explained(topic: str, error: KafkaException, settings: Settings) -> CommonplaceError:
    if error.args[0].code() in MISSING:
        return TopicsNotReady(f"{topic}: missing at {settings.bootstrap}: run `{client.creation(settings)}`")
    return client.explained(error, settings)


_PASSING: Final = {
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TIMED_OUT,
    KafkaError._DESTROY_BROKER,  # the connection that the question waited on was given up, and its broker is known anew
    KafkaError.FENCED_LEADER_EPOCH,  # after a restart: our metadata is of the leader before
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError.KAFKA_STORAGE_ERROR,  # its disk is full or broken: it ends, and comes back when somebody has mended that
}
MISSING: Final = {
    KafkaError._UNKNOWN_PARTITION,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.UNKNOWN_TOPIC_ID,
}
"""How a broker, or librdkafka, says that a topic or partition is not there."""
