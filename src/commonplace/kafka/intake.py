"""Membership in the group that shares the request partitions: who owns what, and what is committed.

The group's consumer fetches nothing: its partitions are paused at once, and the one data consumer (tail.py) reads them, so that a single
wait serves a replica. Safety never rests on the assignment (a zombie goes on for a while): it only says where to begin and when to stop.
"""

import logging
from typing import Final

from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, TopicPartition
from msgspec import Struct

from commonplace.errors import CommonplaceError
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
    """One member of the pool's group; owned by one thread, which calls `poll` often.

    A commit carries the topic's id: offsets of a topic that was deleted and made again say nothing of the new one. `refused` says
    why the broker keeps it out, "" when it does not; it is asked again all the time.
    """

    def __init__(self, settings: Settings, topic: str, topic_id: str = "") -> None:
        self._settings, self._topic, self._topic_id = settings, topic, topic_id
        self._changes: list[Gained | Ceded] = []
        self._leaving = False
        self._unanswered: CommonplaceError | None = None
        self.owned: set[int] = set()
        self.refused = self._trouble = self._fatal = ""
        self._consumer = client.consumer(
            settings, client.replica_group(settings), required={"error_cb": self._broker_trouble}
        )

    def join(self) -> None:
        """Ask for a share of the partitions."""
        self._consumer.subscribe(
            [self._topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke
        )

    def poll(self) -> list[Gained | Ceded]:
        """Serve the group; returns what changed, in order.

        Raises `BrokerUnavailable` or `Denied` when the committed offsets can't be asked for, `CommonplaceError` when this member
        can't go on.
        """
        message = self._consumer.poll(0)
        if self._unanswered is not None:
            unanswered, self._unanswered = self._unanswered, None
            raise unanswered
        error = message.error() if message is not None else None
        if error is not None:
            self._broker_trouble(error)
        if self._fatal:
            raise CommonplaceError(self._fatal)
        changes, self._changes = self._changes, []
        return changes

    def commit(self, offsets: dict[int, int], wait: bool = False) -> None:
        """Commit offsets of owned partitions; without `wait` nobody looks at the answer, because a later commit covers it."""
        positions = [
            TopicPartition(self._topic, p, offset, metadata=self._topic_id)
            for p, offset in offsets.items()
            if p in self.owned
        ]
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
        """Leave the group, so that others take over at once; what was gained meanwhile is not taken up."""
        self._leaving = True
        try:
            self._consumer.close()
        except KafkaException as e:  # of a callback, which closing serves too
            _LOG.warning("%s: left without an answer of the group: %s", self._topic, e)
        self.owned.clear()

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if self._leaving:
            consumer.incremental_assign([])  # nothing is asked of a broker that may be the reason why we leave
            return
        try:
            committed = consumer.committed(partitions, timeout=LOOKUP_TIMEOUT_S) if partitions else []
        except KafkaException as e:
            # for `poll` to raise: the client may turn what a callback raises into something that nobody can catch
            self._unanswered = client.explained(e, self._settings)
            consumer.incremental_assign([])
            return
        self.refused = ""
        consumer.incremental_assign([TopicPartition(p.topic, p.partition, OFFSET_END) for p in partitions])
        consumer.pause(partitions)
        for place in committed:
            self.owned.add(place.partition)
            self._changes.append(Gained(place.partition, self._committed(place)))

    def _committed(self, place: TopicPartition) -> int:
        """The offset to go on from; one that names another topic id, or no offset, is none."""
        if place.metadata and place.metadata != self._topic_id:
            _LOG.error(
                "%s [%d]: offset %d was committed for a topic of that name made before: reading it from its first record",
                place.topic,
                place.partition,
                place.offset,
            )
            return -1
        return place.offset if place.offset >= 0 else -1

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        consumer.incremental_unassign(partitions)
        for place in partitions:
            self.owned.discard(place.partition)
            self._changes.append(Ceded(place.partition))

    def _broker_trouble(self, error: KafkaError) -> None:
        if error.fatal():
            self._fatal = f"group of {self._topic}: this member can't go on: {error.str()}"
        elif error.code() in _DENIED:
            self.refused = (
                f"the broker keeps this replica out of the group of {self._topic}: {error.str()}; see the ACLs"
            )
        if error.name() != self._trouble:
            self._trouble = error.name()
            _LOG.warning("group of %s: %s (%s)", self._topic, error.str(), error.name())


_DENIED: Final = {KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError.TOPIC_AUTHORIZATION_FAILED}
