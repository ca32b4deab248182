"""When an agent reads `hosts`: a tail that only notes what it was told, and a clock that the test moves."""

import pytest

from commonplace.agent.looks import CLAIMED_MS, LOOK_EVERY_MS, LOOK_MS, Looks

START_MS = 1_000_000


class NotedTail:
    """Knows whether its topic is held."""

    def __init__(self) -> None:
        self.is_held = False
        self.changes = 0

    def held(self, topic: str) -> bool:
        return self.is_held

    def hold(self, topic: str) -> None:
        assert not self.is_held
        self.is_held, self.changes = True, self.changes + 1

    def go_on(self, topic: str) -> None:
        assert self.is_held
        self.is_held, self.changes = False, self.changes + 1


class World:
    def __init__(self) -> None:
        self.tail, self.now_ms, self.awaits = NotedTail(), START_MS, False
        self.looks = Looks(self.tail, "hosts", lambda: self.awaits)  # type: ignore[arg-type]  # what it uses of a Tail

    def turn(self, after_ms: int = 1, *, claimed: bool = False, read: bool = False) -> bool:
        """Whether the topic is read after a turn that ends so much later."""
        self.now_ms += after_ms
        self.looks.turned(self.now_ms, claimed=claimed, read=read)
        return not self.tail.is_held


@pytest.fixture
def quiet() -> World:
    """An agent that took its last claim long ago."""
    world = World()
    assert world.turn(claimed=True)
    assert not world.turn(CLAIMED_MS, read=True)
    return world


def test_a_topic_is_read_on_while_claims_may_be_followed_by_others() -> None:
    world = World()
    assert world.turn()  # also at the start, before any claim
    assert world.turn(CLAIMED_MS - 1, claimed=True, read=True)
    assert world.turn(CLAIMED_MS - 1, read=True)
    assert not world.turn(1, read=True)


def test_a_topic_is_read_on_while_something_is_to_be_read_back(quiet: World) -> None:
    quiet.awaits = True
    assert quiet.turn()
    assert quiet.turn(LOOK_MS + LOOK_EVERY_MS, read=True)
    quiet.awaits = False
    assert not quiet.turn(read=True)


def test_a_claim_makes_it_read_on_at_once(quiet: World) -> None:
    assert quiet.turn(claimed=True)


def test_a_quiet_agent_looks_now_and_then_until_something_came(quiet: World) -> None:
    assert not quiet.turn(LOOK_EVERY_MS - 1)
    assert quiet.turn(1)
    assert quiet.turn(LOOK_MS - 1)
    assert not quiet.turn(1, read=True)
    assert not quiet.turn(LOOK_EVERY_MS - 1)
    assert quiet.turn(1)


def test_a_look_that_brings_nothing_ends(quiet: World) -> None:
    assert quiet.turn(LOOK_EVERY_MS)
    assert quiet.turn(LOOK_MS - 1)
    assert not quiet.turn(1)


def test_turns_in_between_tell_the_tail_nothing(quiet: World) -> None:
    changes = quiet.tail.changes
    for _ in range(100):
        quiet.turn(LOOK_EVERY_MS // 200)
    assert quiet.tail.changes == changes
