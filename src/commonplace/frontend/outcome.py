"""Waiting for hosts to say what became of confirms and releases: the I/O around `settling`."""

import threading
import time
from typing import Literal

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from commonplace.core.partition import partition_of
from commonplace.core.records.decisions import Decision
from commonplace.errors import BrokerUnavailable, Denied, TimedOut
from commonplace.frontend import history
from commonplace.frontend.events import SendClaimRecord
from commonplace.frontend.settling import Outcome, Settling, Watched
from commonplace.kafka import client as kafka_client
from commonplace.kafka.topics import TopicFacts
from commonplace.settings import Settings

POLL_S = 0.1


class Acknowledged:
    """Collects where `count` confirms or releases stand in the log, or that a cancel does; filled by the writing thread."""

    def __init__(self, count: int) -> None:
        self._left = count
        self._done = threading.Event()
        self._placed: list[tuple[SendClaimRecord, int]] = []
        self._error: KafkaError | None = None

    def receive(self, record: SendClaimRecord, error: KafkaError | None, message: Message) -> None:
        """A delivery report."""
        if error is None:
            self._placed.append((record, message.offset() or 0))
        self.note(error, message)

    def note(self, error: KafkaError | None, _message: Message) -> None:
        """A delivery report of a record of which nobody asks where it stands."""
        self._error = error or self._error
        self._left -= 1
        if self._left == 0:
            self._done.set()

    def wait(self, what: Literal["confirm", "release"], deadline: float) -> list[Watched]:
        """Block until all stand in the log; raises what `all_stand` does."""
        self.all_stand(what, deadline)
        return [Watched(what, r.key.decode(), r.allocation, offset) for r, offset in self._placed]

    def all_stand(self, what: str, deadline: float) -> None:
        """Block until all stand in the log; raises `TimedOut`, `Denied` or `BrokerUnavailable`."""
        if not self._done.wait(max(0.0, deadline - time.monotonic())):
            raise TimedOut(f"the broker did not acknowledge the {what} in time: it may stand in the log all the same")
        if self._error is None:
            return
        if self._error.code() in kafka_client.DENIED:
            raise Denied(f"the broker refuses the {what}: {self._error.str()}; see the ACLs and [kafka]")
        raise BrokerUnavailable(f"the {what} was not acknowledged: {self._error.str()}; try again")


def watch_from(settings: Settings, hosts: TopicFacts, decision: Decision) -> Consumer:
    """A consumer on the hosts' partitions, from the grants on or from the ends, whichever is earlier.

    From the grant on it meets every start record since, so a zombie agent's report can't pass for an answer.
    """
    consumer = kafka_client.consumer(settings)
    partitions = {partition_of(p.host, hosts.partitions) for p in decision.placed}
    starts = history.ends(consumer, settings, hosts.name, partitions)
    for placed in decision.placed:
        if placed.grant.partition in starts:
            starts[placed.grant.partition] = min(starts[placed.grant.partition], placed.grant.offset)
    lows = history.since(consumer, settings, hosts.name, partitions, None)
    consumer.assign([TopicPartition(hosts.name, p, max(start, lows[p])) for p, start in starts.items()])
    return consumer


def await_outcomes(
    reports: Consumer, watched: list[Watched], claims_topic: str, partitions: int, settings: Settings, deadline: float
) -> list[Outcome]:
    """Block until every host has answered, in the order of `watched`; raises `TimedOut` naming hosts that did not.

    `partitions` are those of `hosts`, to which the consumer `reports` is assigned.
    """
    settling = Settling(watched, claims_topic, partitions)
    while not settling.done:
        if time.monotonic() > deadline:
            silent = settling.open_hosts
            raise TimedOut(
                f"{silent[0]} (of {len(silent)}) did not answer in time: see `commonplace host show {silent[0]}`"
            )
        for message in history.batch(reports, POLL_S):
            history.check(message, settings)
            if message.error() is None:
                settling.receive(message.partition() or 0, [history.row(message)])
    return [settling.outcomes[w.allocation] for w in watched]
