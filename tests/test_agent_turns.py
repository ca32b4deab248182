"""Turns of the agent's shell between topics in memory: when it rests, so that reports go out together."""

from typing import Any

import pytest

from commonplace.agent import shell
from commonplace.agent.crew import Crew
from commonplace.agent.drivers import StaticDriver
from commonplace.agent.figures import AgentFigures
from commonplace.core.codec import encode
from commonplace.core.records.claims import Release
from commonplace.core.resources import Inventory
from commonplace.kafka.tail import Batch
from commonplace.kafka.topics import TopicFacts, Topics
from commonplace.settings import Settings

TOPICS = Topics("commonplace", "default")


class FakeTail:
    """Brings what stands in `comes`, once."""

    def __init__(self, _: Settings) -> None:
        self.comes: list[Batch] = []

    def turn(self, _timeout_s: float) -> list[Batch]:
        comes, self.comes = self.comes, []
        return comes

    def held(self, _topic: str) -> bool:
        return False

    def hold(self, _topic: str) -> None:
        pass


class FakeOutbox:
    """Takes what it is given; a turn flushes when something was sent in it."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.limits = Settings().limits
        self.sent = False

    def send(self, *_: Any) -> None:
        self.sent = True

    def flush_turn(self) -> bool:
        flushed, self.sent = self.sent, False
        return flushed


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch) -> shell.Agent:
    """An agent of one host, between a tail and an outbox in memory."""
    monkeypatch.setattr(shell, "Tail", FakeTail)
    monkeypatch.setattr(shell, "Outbox", FakeOutbox)
    facts = {topic: TopicFacts(topic, f"id-of-{topic}", 1) for topic in (TOPICS.hosts, TOPICS.claims)}
    crew = Crew({"h": StaticDriver({"VCPU": Inventory(total=8)})})
    return shell.Agent("a", Settings(), facts, crew, AgentFigures("a", "default"), lambda: False)


@pytest.fixture
def rests(agent: shell.Agent, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of records that the agent rested for."""
    rested: list[int] = []
    monkeypatch.setattr(agent._pace, "rest", rested.append)
    return rested


def claims(count: int) -> Batch:
    """Claims on a host of another agent."""
    value = encode(Release(host="other", request="r", allocation="a"))
    return Batch(TOPICS.claims, 0, [(offset, 0, b"other", value) for offset in range(count)], count)


def read(agent: shell.Agent, *batches: Batch) -> None:
    assert isinstance(agent.tail, FakeTail)
    agent.tail.comes = list(batches)
    agent._turn()


def test_an_agent_rests_after_a_flush_by_the_claims_that_it_read(agent: shell.Agent, rests: list[int]) -> None:
    agent._do(agent.keeper.begin(0))  # start records: something to flush
    read(agent, claims(3), Batch(TOPICS.hosts, 0, [], 1), claims(9))
    assert rests == [12]


def test_an_agent_that_wrote_nothing_does_not_rest(agent: shell.Agent, rests: list[int]) -> None:
    agent._tick_ms = 1 << 62  # no tick comes, which might have something to report
    read(agent, claims(9))
    assert rests == []
