"""Requests and their effective decisions as the log has them: for commands that did not submit what they ask about.

Reads the topics, so it costs what they hold: about a microsecond a record it passes over, a few for one it decodes.
"""

import time
from collections.abc import Iterator
from typing import Final

from confluent_kafka import Consumer, TopicPartition
from msgspec import Struct

from commonplace.core.codec import Bad, decode
from commonplace.core.records.decisions import ID_REUSED, Decision
from commonplace.core.records.requests import Build, Cancel
from commonplace.errors import UsageError
from commonplace.frontend import history
from commonplace.frontend.checks import shown
from commonplace.kafka import client as kafka_client
from commonplace.kafka.topics import Topics, pools, require_topics
from commonplace.settings import Settings

WATCH_POLL_S: Final = 0.5
AMBIGUOUS_SHOWN: Final = 5


class NothingFound(UsageError):
    """Nothing in a pool's log bears the name."""


class Entry(Struct):
    """One request id on one partition, as far as it was read: first request, effective decision, how many came after.

    The offsets are those of the first request and the effective decision. `earlier`: what the id stood for before, where it was used again
    past the idempotency window.
    """

    request: str
    partition: int
    build: Build | None = None
    requested_at_ms: int | None = None
    cancelled: bool = False
    decision: Decision | None = None
    decided_at_ms: int | None = None
    void: int = 0
    id_reused: int = 0
    request_offset: int | None = None
    decision_offset: int | None = None
    earlier: "Entry | None" = None

    def uses(self) -> "Iterator[Entry]":
        """The entry of each use of the id, newest first."""
        entry: Entry | None = self
        while entry is not None:
            yield entry
            entry = entry.earlier


class Book:
    """Entries by (partition, request id), of the newest use of each id; `take` folds one record and returns the entry it changed."""

    def __init__(self, window_ms: int, wanted: bytes = b"") -> None:
        self.entries: dict[tuple[int, bytes], Entry] = {}
        self._wanted = wanted  # prefix of a request or allocation id: what does not hold it is not decoded
        self._window_ms = window_ms
        self._again: dict[tuple[int, int], tuple[int, Build]] = {}  # where a used id was asked again → when, and what

    def request(self, partition: int, row: history.Row) -> Entry | None:
        """Fold a record of `requests`."""
        offset, at_ms, _, value = row
        if value is None or self._wanted not in value:
            return None
        record: Build | Cancel | Bad = decode("requests", value)
        if isinstance(record, Bad):  # replicas quarantine it
            return None
        entry = self._entry(partition, record.id.encode())
        if isinstance(record, Cancel):
            entry.cancelled = True
        elif entry.build is None:
            entry.build, entry.requested_at_ms, entry.request_offset = record, at_ms, offset
        else:
            self._again[partition, offset] = at_ms, record
        return entry

    def decision(self, partition: int, row: history.Row) -> Entry | None:
        """Fold a record of `decisions`: the first that is no `id_reused` is effective, for the idempotency window."""
        offset, at_ms, key, value = row
        if key is None or value is None or self._wanted not in value:
            return None
        record: Decision | Bad = decode("decisions", value)
        if isinstance(record, Bad) or record.request.encode() != key:
            return None
        entry = self._entry(partition, key)
        if record.reason == ID_REUSED:
            entry.id_reused += 1
            return entry
        said = entry.decision
        if said is None:
            entry.decision, entry.decided_at_ms, entry.decision_offset = record, at_ms, offset
        elif (again := self._used_again(entry, said, record)) is not None:
            again.decision, again.decided_at_ms, again.decision_offset = record, at_ms, offset
            entry = self.entries[partition, key] = again
        elif record.placed != said.placed or record.result != said.result:
            entry.void += 1
        return entry

    def _used_again(self, entry: Entry, said: Decision, record: Decision) -> Entry | None:
        """A new entry where the decision answers a request made past the window of the one before; None: it is that again, or void."""
        if (record.placed, record.result, record.content) == (said.placed, said.result, said.content):
            return None
        at = record.position.offset
        first = (entry.requested_at_ms, entry.build) if entry.request_offset == at else (None, None)
        at_ms, build = self._again.get((entry.partition, at), first)
        if at_ms is None or at_ms <= (entry.decided_at_ms or 0) + self._window_ms:
            return None
        return Entry(entry.request, entry.partition, build, at_ms, request_offset=at, earlier=entry)

    def matching(self, prefix: str) -> list[Entry]:
        """The entries of the one request whose id, or an allocation's, begins with `prefix`; an exact id goes first.

        Raises `UsageError` naming some when several match, or none.
        """
        found = [e for e in self.entries.values() if any(_matches(use, prefix) for use in e.uses())]
        exact = [e for e in found if e.request == prefix]
        requests = sorted({e.request for e in exact or found})
        if not requests:
            raise NothingFound(
                f"nothing in the log begins with {shown(prefix)}: `commonplace requests` lists recent ones"
            )
        if len(requests) > 1:
            some = ", ".join(requests[:AMBIGUOUS_SHOWN])
            raise UsageError(f"{shown(prefix)} is ambiguous: {len(requests)} requests match ({some}): write more of it")
        return exact or found

    def _entry(self, partition: int, name: bytes) -> Entry:
        return self.entries.setdefault((partition, name), Entry(name.decode(errors="replace"), partition))


class Reader:
    """Both topics of a pool, read from a log time on; `since_s` None is all that retention left."""

    def __init__(self, settings: Settings, since_s: float | None = None, wanted: str = "") -> None:
        broker, facts, _ = require_topics(settings)
        self.settings = kafka_client.settings_for(settings, broker)
        window_ms = round(settings.scheduler.idempotency_window_s * 1000)
        # what is no UTF-8 is in no record: nothing is found
        self.book = Book(window_ms, wanted.encode(errors="surrogatepass"))
        names = Topics(settings.topics.prefix, settings.topics.pool)
        self._topics = {names.requests: facts[names.requests], names.decisions: facts[names.decisions]}
        self._requests = names.requests
        # the embedded broker has no lookup by time
        self._since_ms = None if since_s is None or broker.embedded else round((time.time() - since_s) * 1000)
        self._ends: dict[str, dict[int, int]] = {}

    def read(self) -> Book:
        """Read up to the ends of now."""
        consumer = kafka_client.consumer(self.settings)
        try:
            for topic, facts in self._topics.items():
                partitions = range(facts.partitions)
                starts = history.since(consumer, self.settings, topic, partitions, self._since_ms)
                self._ends[topic] = history.ends(consumer, self.settings, topic, partitions)
                for partition, rows in history.read(self.settings, topic, starts, self._ends[topic]):
                    for row in rows:
                        self._take(topic, partition, row)
        finally:
            consumer.close()
        return self.book

    def follow(self) -> Iterator[Entry]:
        """Entries as they change, after `read`; without end."""
        consumer: Consumer = kafka_client.consumer(self.settings)
        try:
            consumer.assign([TopicPartition(t, p, end) for t, ends in self._ends.items() for p, end in ends.items()])
            while True:
                for message in history.batch(consumer, WATCH_POLL_S):
                    history.check(message, self.settings)
                    if message.error() is None:
                        entry = self._take(message.topic() or "", message.partition() or 0, history.row(message))
                        if entry is not None:
                            yield entry
        finally:
            consumer.close()

    def _take(self, topic: str, partition: int, row: history.Row) -> Entry | None:
        return self.book.request(partition, row) if topic == self._requests else self.book.decision(partition, row)


def find(settings: Settings, prefix: str) -> Entry:
    """The entry of the one request that `prefix` names, preferring a decided one: the newest use of its id, or an allocation's own."""
    entries = Reader(settings, wanted=prefix).read().matching(prefix)
    request = entries[0].request
    if not request.startswith(prefix):
        # by an allocation's id: an earlier decision of the request, which would be the effective one, need not name it
        entries = Reader(settings, wanted=request).read().matching(request)
    named = [use for entry in entries for use in entry.uses() if _matches(use, prefix)]
    return next((e for e in [*named, *entries] if e.decision is not None), entries[0])


def find_anywhere(settings: Settings, prefix: str) -> tuple[Settings, Entry]:
    """As `find`, in the settings' pool and then in the others of the prefix; returns the settings of the pool that knows it."""
    known = pools(settings)
    home = settings.topics.pool
    others = [theirs for pool, theirs in known.items() if pool != home]
    missing: NothingFound | None = None
    for candidate in [settings, *others] if home in known or not others else others:
        try:
            return candidate, find(candidate, prefix)
        except NothingFound as e:
            missing = missing or e
    assert missing is not None, "a pool is always asked"
    raise missing


def _matches(entry: Entry, prefix: str) -> bool:
    placed = entry.decision.placed if entry.decision else []
    return entry.request.startswith(prefix) or any(p.allocation.startswith(prefix) for p in placed)
