"""Turns of the scheduler's shell between topics in memory: when requests wait, and what is read first after a pause."""

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from commonplace.core.codec import encode
from commonplace.core.host_keys import snapshot_key, start_key
from commonplace.core.records.hosts import Start
from commonplace.core.replica import Replica
from commonplace.core.replica_events import CaughtUp
from commonplace.errors import BrokerUnavailable
from commonplace.kafka.tail import Batch, Raw
from commonplace.kafka.topics import TopicFacts, Topics
from commonplace.scheduler import shell
from commonplace.scheduler.metrics import SchedulerFigures
from commonplace.settings import LimitsSettings, SchedulerSettings, Settings
from hosts_written import reported

HOSTS = "commonplace.default.hosts"
SILENT_MS = 60_000
LATE_MS = 10 * SILENT_MS


class FakeTail:
    """The hosts topic of one partition: `log` is what stands in it, `at_once` records a turn, none in a turn that is `empty`."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.log: list[tuple[int, bytes, bytes]] = []
        self.read = self.empty = self.asked = 0
        self.at_once = 1
        self.away = False
        self.holding: set[str] = set()

    def turn(self, _timeout_s: float) -> list[Batch]:
        if self.empty or self.read == len(self.log):
            self.empty = max(0, self.empty - 1)
            return []
        first, self.read = self.read, self.read + self.at_once
        records: list[Raw] = [(offset, *self.log[offset]) for offset in range(first, self.read)]
        return [Batch(HOSTS, 0, records, self.read)]

    def ends(self, _places: Iterable[Any]) -> dict[tuple[str, int], int]:
        self.asked += 1
        if self.away:
            raise BrokerUnavailable("no broker answers")
        return {(HOSTS, 0): len(self.log)}

    def behind(self, ends: Mapping[tuple[str, int], int]) -> dict[tuple[str, int], int]:
        return {place: end for place, end in ends.items() if self.read < end}

    def held(self, topic: str) -> bool:
        return topic in self.holding

    def hold(self, topic: str) -> None:
        self.holding.add(topic)

    def go_on(self, topic: str) -> None:
        self.holding.discard(topic)

    def position(self, *_: Any) -> int:
        return self.read

    def lag(self, _topic: str) -> int:
        return 0


class Place:
    """A replica that serves, its clock and its topics; `host` reports when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1_000_000
        self.stopped, self.anew, self.flushed = False, "", 0
        self.waited = True  # whether the last flush did
        monkeypatch.setattr(shell, "steady_ms", lambda: self.now)
        monkeypatch.setattr(shell, "wall_s", lambda: self.now / 1000)
        monkeypatch.setattr(shell, "Tail", FakeTail)
        monkeypatch.setattr(shell, "Intake", lambda *_: SimpleNamespace(poll=list, refused=""))
        outbox = SimpleNamespace(send=lambda *_: None, flush_turn=self._flush, limits=LimitsSettings())
        monkeypatch.setattr(shell, "Outbox", lambda *_: outbox)
        topics = Topics("commonplace", "default")
        facts = {name: TopicFacts(name, "id", 1) for name in (topics.hosts, topics.claims, topics.requests)}
        settings = Settings(scheduler=SchedulerSettings(liveness_timeout_s=SILENT_MS / 1000, unacknowledged_max=10))
        figures = SchedulerFigures("r1", "default")
        self.shell = shell.Scheduler("r1", settings, facts, figures, lambda: self.stopped, lambda: self.anew)
        assert isinstance(self.shell.tail, FakeTail)
        self.tail = self.shell.tail
        self.tail.log.append((self.now, start_key("h1"), encode(Start(host="h1", agent="agent-1", nonce="n"))))
        self.generation = 0
        self.report()
        for _ in range(2):
            self.shell._receive_batches(self.tail.turn(0))
        self.shell._receive(CaughtUp())
        self.shell._turn(0)

    def report(self) -> None:
        """What the host says stands in its topic."""
        self.generation += 1
        report = reported("h1", 0, generation=self.generation)
        self.tail.log.append((self.now, snapshot_key("h1", 0), encode(report)))

    def _flush(self, *, wait: bool = True) -> None:
        self.flushed += 1
        self.waited = wait

    @property
    def alive(self) -> bool:
        """Whether the host is ranked."""
        return bool(self.shell.replica.view.columns.alive[0])


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(monkeypatch)


def test_after_a_pause_what_hosts_said_meanwhile_is_read_before_any_is_called_silent(place: Place) -> None:
    for _ in range(3):
        place.now += LATE_MS // 3
        place.report()
    place.tail.empty = 2  # nothing fetched yet when the pause ends
    place.shell._turn(0)
    assert place.tail.behind({(HOSTS, 0): len(place.tail.log)}) == {}
    assert place.alive


def test_a_host_that_said_nothing_during_the_pause_is_silent_after_it(place: Place) -> None:
    place.now += LATE_MS
    place.shell._turn(0)
    assert place.tail.asked == 1
    assert not place.alive


def test_a_turn_within_the_bound_asks_nobody_for_ends(place: Place) -> None:
    for _ in range(3):
        place.now += shell.STOOD_STILL_MS
        place.shell._turn(0)
    assert place.tail.asked == 0
    place.now += shell.STOOD_STILL_MS + 1
    place.shell._turn(0)
    place.shell._turn(0)
    assert place.tail.asked == 1


def test_while_no_broker_says_where_hosts_end_nothing_is_judged_and_the_next_turn_asks_again(place: Place) -> None:
    place.tail.away = True
    flushed = place.flushed
    for _ in range(2):
        place.now += LATE_MS
        place.shell._turn(0)
    assert (place.tail.asked, place.flushed - flushed) == (2, 2)
    assert place.alive
    place.tail.away = False
    place.report()
    place.tail.empty = 1
    place.shell._turn(0)
    assert place.tail.asked == 3
    assert place.alive


@pytest.mark.parametrize("how", ["stopped", "anew"])
def test_reading_on_ends_where_the_replica_is_stopped_or_its_topic_made_anew(place: Place, how: str) -> None:
    place.now += LATE_MS
    place.report()
    place.tail.empty = 1_000_000  # as of a log whose records never come
    if how == "stopped":
        place.stopped = True
        assert place.shell._read_on(LATE_MS)
        assert place.tail.read < len(place.tail.log)
    else:
        place.anew = HOSTS
        with pytest.raises(shell.Rebuild, match="was made anew"):
            place.shell._turn(0)


def test_requests_wait_past_the_bound_of_unacknowledged_answers_until_half_of_them_are_acknowledged(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = []
    for unacknowledged in (0, 10, 11, 12, 6, 5, 6, 10, 11, 0):
        monkeypatch.setattr(Replica, "unacknowledged", unacknowledged)
        place.shell._regulate()
        held.append(place.tail.held("commonplace.default.requests"))
    assert held == [False, False, True, True, True, False, False, False, True, False]
    assert place.shell.figures.intake_pauses == 2
    assert not place.tail.held(HOSTS)


@pytest.mark.parametrize(("records", "waits"), [(shell.FULL_TURN - 1, True), (shell.FULL_TURN, False)])
def test_a_full_turn_does_not_wait_for_what_it_sent(place: Place, records: int, waits: bool) -> None:
    for _ in range(records):
        place.report()
    place.tail.at_once = records
    place.shell._turn(0)
    assert place.waited is waits
    place.shell._turn(0)
    assert place.waited
