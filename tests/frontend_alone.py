"""The shipped `Frontend` with both its threads and no broker: what it writes is kept here, what it reads is put here."""

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from confluent_kafka import KafkaError

from commonplace.core.codec import decode, encode
from commonplace.core.records.decisions import Decision
from commonplace.core.records.requests import Build
from commonplace.frontend import Frontend, client, following, history
from commonplace.kafka import client as kafka_client
from commonplace.kafka.client import Broker
from commonplace.kafka.topics import TOPICS, TopicFacts, Topics
from commonplace.settings import load
from frontend_world import FLAVOR, placed

WAIT_S = 10.0


@dataclass
class FakeMessage:
    """A record as a consumer returns it, or as a delivery report names it."""

    of: str
    at: int
    held: tuple[bytes | None, bytes | None] = (None, None)

    def error(self) -> None:
        return None

    def topic(self) -> str:
        return self.of

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return self.at

    def timestamp(self) -> tuple[int, int]:
        return 1, 0

    def key(self) -> bytes | None:
        return self.held[0]

    def value(self) -> bytes | None:
        return self.held[1]


class FakeProducer:
    """Reports at the next flush while `reports` is set, `error` if there is one; `refuse` says what `produce` raises for a record."""

    def __init__(self) -> None:
        self.reports = threading.Event()
        self.reports.set()
        self.error: KafkaError | None = None
        self.written: list[tuple[str, bytes]] = []
        self.refuse: Callable[[str, bytes], Exception | None] = lambda topic, value: None
        self._unacknowledged: list[tuple[Callable[..., None], FakeMessage]] = []

    def produce(
        self, topic: str, value: bytes, key: Any = None, partition: int = -1, on_delivery: Any = None, headers: Any = None
    ) -> None:  # fmt: skip
        error = self.refuse(topic, value)
        if error is not None:
            raise error
        self.written.append((topic, value))
        if on_delivery is not None:
            self._unacknowledged.append((on_delivery, FakeMessage(topic, len(self.written))))

    def flush(self, timeout: float) -> int:
        if not self.reports.wait(timeout):
            return len(self)
        reports, self._unacknowledged = self._unacknowledged, []
        for report, message in reports:
            report(self.error, message)
        return 0

    def purge(self) -> None:
        pass

    def __len__(self) -> int:
        return len(self._unacknowledged)


class FakeConsumer:
    """Returns what was put into it."""

    def __init__(self) -> None:
        self.coming: queue.Queue[FakeMessage | Exception] = queue.Queue()

    def poll(self, timeout: float) -> FakeMessage | None:
        try:
            found = self.coming.get(timeout=timeout)
        except queue.Empty:
            return None
        if isinstance(found, Exception):
            raise found
        return found

    def consume(self, most: int, timeout: float) -> list[FakeMessage]:
        return []

    def close(self) -> None:
        pass


class Alone:
    """A frontend, what it wrote, and the decisions that it reads; every topic has one partition."""

    def __init__(self, prefix: str) -> None:
        self.names = Topics(prefix, "default")
        self.producer, self.consumer = FakeProducer(), FakeConsumer()
        self.log: list[history.Row] = []
        self.looked_back: list[threading.Thread] = []
        self.frontend: Frontend

    def say(self, decision: Decision) -> None:
        """Write a decision, which the frontend then reads."""
        self.say_raw(decision.request.encode(), encode(decision))

    def say_raw(self, key: bytes, value: bytes) -> None:
        """Write anything on `decisions`."""
        self.consumer.coming.put(FakeMessage(self.names.decisions, len(self.log), (key, value)))
        self.log.append((len(self.log), 0, key, value))

    def place(self, build: Build, **changes: object) -> Decision:
        """Write that a request was placed, and return it."""
        decision = placed(build, 0, len(self.log), **changes)
        self.say(decision)
        return decision

    @property
    def requested(self) -> list[str]:
        """Ids of the requests that were written."""
        return [decode("requests", value).id for topic, value in self.producer.written if topic == self.names.requests]

    def read(self) -> None:
        """Wait until the frontend has read all decisions."""
        until(lambda: self.frontend._positions[0] == len(self.log))


def until(true: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.005)


def in_thread(call: Callable[[], object]) -> threading.Thread:
    """Run something that may block beside the test, which `join`s it."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


def ended(thread: threading.Thread) -> bool:
    """Whether a thread comes to its end."""
    thread.join(WAIT_S)
    return not thread.is_alive()


@contextmanager
def alone(monkeypatch: pytest.MonkeyPatch, **settings: object) -> Iterator[Alone]:
    """A frontend without a broker; `settings` are those of [frontend]."""
    made = load(flags={"frontend": {"timeout_s": 20.0, **settings}}, environ={})
    world = Alone(made.topics.prefix)
    facts = {name: TopicFacts(name, "T", 1) for name in world.names.all(TOPICS)}
    monkeypatch.setattr(client, "require_topics", lambda _: (Broker("alone", 1, embedded=False), facts, []))
    monkeypatch.setattr(kafka_client, "producer", lambda *_, **__: world.producer)
    monkeypatch.setattr(kafka_client, "consumer", lambda *_, **__: FakeConsumer())
    monkeypatch.setattr(history, "since", lambda *_: {0: 0})

    def follow(*_: object) -> tuple[FakeConsumer, list[history.Row], dict[int, int]]:
        return world.consumer, [(0, 0, f"flavor/{FLAVOR.name}".encode(), encode(FLAVOR))], {0: 0}

    def read(_: object, __: str, starts: Mapping[int, int], stops: Mapping[int, int]) -> Iterator[tuple[int, object]]:
        world.looked_back.append(threading.current_thread())
        yield 0, world.log[starts[0] : stops[0]]

    monkeypatch.setattr(history, "read", read)
    monkeypatch.setattr(following, "follow", follow)
    with Frontend(made) as world.frontend:
        yield world
