"""Membership in the group that shares the request partitions: who owns what, and what is committed.

The group's consumer fetches nothing: its partitions are paused at once, and the one data consumer (tail.py) reads them, so that a single
wait serves a replica. Safety never rests on the assignment (a zombie goes on for a while): it only says where to begin and when to stop.
"""

import logging
from typing import Final

from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, TopicPartition
from msgspec import Struct

from commonplace.kafka import client
from commonplace.settings import Settings

LOOKUP_TIMEOUT_S: Final = 15.0
_LOG: Final = logging.getLogger(__name__)


class Gained(Struct, frozen=True):
    """A partition is ours; `committed` is the lowest undecided offset, −1 where nobody ever committed one."""

    partition: int
    committed: int


class Ceded(Struct, frozen=True):
    """A partition is ours no more."""

    partition: int


class Intake:
    """One member of the pool's group; owned by one thread, which calls `poll` often."""

    def __init__(self, settings: Settings, topic: str) -> None:
        self._topic = topic
        self._changes: list[Gained | Ceded] = []
        self.owned: set[int] = set()
        self._trouble = ""
        group = f"{settings.topics.prefix}.{settings.topics.pool}.replicas"
        self._consumer = client.consumer(settings, group, required={"error_cb": self._broker_trouble})

    def join(self) -> None:
        """Ask for a share of the partitions."""
        self._consumer.subscribe(
            [self._topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke
        )

    def poll(self) -> list[Gained | Ceded]:
        """Serve the group; returns what changed, in order."""
        message = self._consumer.poll(0)
        error = message.error() if message is not None else None
        if error is not None:
            self._broker_trouble(error)
        changes, self._changes = self._changes, []
        return changes

    def commit(self, offsets: dict[int, int], wait: bool = False) -> None:
        """Commit offsets of owned partitions; without `wait` nobody looks at the answer, because a later commit covers it."""
        positions = [TopicPartition(self._topic, p, offset) for p, offset in offsets.items() if p in self.owned]
        if not positions:
            return
        try:
            if wait:
                self._consumer.commit(offsets=positions, asynchronous=False)
            else:
                self._consumer.commit(offsets=positions, asynchronous=True)
        except KafkaException as e:
            _LOG.warning("%s: offsets not committed: %s; the next owner decides those requests again", self._topic, e)

    def leave(self) -> None:
        """Leave the group, so that others take over at once."""
        self._consumer.close()
        self.owned.clear()

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        committed = consumer.committed(partitions, timeout=LOOKUP_TIMEOUT_S)
        consumer.incremental_assign([TopicPartition(p.topic, p.partition, OFFSET_END) for p in partitions])
        consumer.pause(partitions)
        for place in committed:
            self.owned.add(place.partition)
            self._changes.append(Gained(place.partition, place.offset if place.offset >= 0 else -1))

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        consumer.incremental_unassign(partitions)
        for place in partitions:
            self.owned.discard(place.partition)
            self._changes.append(Ceded(place.partition))

    def _broker_trouble(self, error: KafkaError) -> None:
        if error.name() != self._trouble:
            self._trouble = error.name()
            _LOG.warning("group of %s: %s (%s)", self._topic, error.str(), error.name())
