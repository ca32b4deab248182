"""The agent process from one life to the next, without a broker: what it waits for, what ends it, what a life that is over still says."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from commonplace.agent import process
from commonplace.agent.crew import Crew
from commonplace.agent.figures import AgentFigures
from commonplace.errors import CommonplaceError, Denied, Fenced, NotReady
from commonplace.kafka.client import Broker
from commonplace.settings import Settings

REFUSES = Denied("claims: the broker refuses: topic authorization failed")


class Waits(threading.Event):
    """A stop that comes when the lives are used up; waits take no time and are noted."""

    def __init__(self) -> None:
        super().__init__()
        self.waited: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.waited.append(timeout)
        return self.is_set()


class Lives:
    """Agents that end as told, one after another: whether it served, and why it ended; past the last one the process is told to stop."""

    def __init__(self, stop: Waits, *ends: tuple[bool, CommonplaceError | None]) -> None:
        self.stop, self.ends, self.begun = stop, list(ends), 0

    def __call__(self, *arguments: Any) -> Any:
        figures = arguments[4]
        figures.rebuilds += 1
        serves, error = self.ends[self.begun]
        self.begun += 1

        class Life:
            def __init__(self) -> None:
                self.serves = serves

            def run(life) -> None:
                figures.reason = "leaving"
                if self.begun == len(self.ends):
                    self.stop.set()
                if error is not None:
                    raise error

        return Life()


@pytest.fixture
def figures() -> AgentFigures:
    return AgentFigures("a", "default")


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch, figures: AgentFigures) -> Callable[..., tuple[Lives, Waits]]:
    """Run the process through these lives, its topics being in order."""

    def run(*ends: tuple[bool, CommonplaceError | None]) -> tuple[Lives, Waits]:
        stop = Waits()
        lives = Lives(stop, *ends)
        monkeypatch.setattr(process, "Agent", lives)
        embedded = Broker("", 1, True)
        monkeypatch.setattr(process, "require_topics", lambda settings: (embedded, {}, []))
        monkeypatch.setattr(process, "settings_for", lambda settings, broker: settings)
        process._run("a", Settings(), Crew({}), figures, stop)
        return lives, stop

    return run


def test_an_agent_that_served_outlives_a_refusal_of_the_broker(
    live: Callable[..., tuple[Lives, Waits]], figures: AgentFigures
) -> None:
    lives, stop = live((True, REFUSES), (True, None))
    assert lives.begun == 2
    assert stop.waited == [process.REBUILD_WAIT_S]
    assert figures.alarms == 1


def test_while_the_broker_refuses_every_life_the_pauses_between_them_grow_to_a_bound(
    live: Callable[..., tuple[Lives, Waits]],
) -> None:
    _, stop = live((True, REFUSES), *[(False, REFUSES)] * 6, (True, REFUSES), (True, None))
    assert stop.waited == [1, 2, 4, 8, 16, 30, 30, 1]


@pytest.mark.parametrize("error", [REFUSES, Fenced("host h was taken over by b"), CommonplaceError("cannot go on")])
def test_an_agent_that_never_served_is_ended_by_what_a_person_must_act_on(
    live: Callable[..., tuple[Lives, Waits]], error: CommonplaceError
) -> None:
    with pytest.raises(type(error)):
        live((False, error), (True, None))


def test_a_takeover_ends_an_agent_that_served(live: Callable[..., tuple[Lives, Waits]]) -> None:
    with pytest.raises(Fenced):
        live((True, Fenced("host h was taken over by b")), (True, None))


def test_what_a_watcher_of_a_life_that_is_over_finds_is_not_told(
    monkeypatch: pytest.MonkeyPatch, figures: AgentFigures
) -> None:
    done, figures.reason = threading.Event(), ""

    def slow(settings: Settings) -> Any:
        done.set()  # while it asked, the next life has begun
        raise NotReady("no broker answers")

    monkeypatch.setattr(process, "TOPICS_CHECK_S", 0.0)
    monkeypatch.setattr(process, "require_topics", slow)
    process._watch_topics(Settings(), {}, figures, threading.Event(), done)
    assert figures.reason == ""
