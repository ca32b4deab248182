"""Pace: flushes end some room apart, and nobody who comes after a rest is held up."""

from itertools import pairwise

import pytest

from commonplace.kafka import pace
from commonplace.kafka.pace import FULL, FULL_GAP_S, GAP_S, Pace


class Clock:
    """The `time` of the module under test: it moves by hand, and by sleeping."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.slept_s: list[float] = []

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(pace, "time", made)
    return made


def test_a_flush_after_a_rest_is_followed_by_none(clock: Clock) -> None:
    paced = Pace()
    for _ in range(3):
        clock.now_s += 1.0
        paced.rest(1)
    assert clock.slept_s == []


def test_flushes_close_together_end_a_gap_apart(clock: Clock) -> None:
    paced, ends = Pace(), []
    for _ in range(5):
        clock.now_s += 0.0005  # the flush itself
        paced.rest(1)
        ends.append(clock.now_s)
    assert [after - before for before, after in pairwise(ends)] == pytest.approx([GAP_S] * 4)


def test_a_full_flush_leaves_more_room_and_a_small_one_less_again(clock: Clock) -> None:
    paced = Pace()
    paced.rest(FULL)  # the first ever
    began_s = clock.now_s
    paced.rest(FULL)
    assert clock.now_s - began_s == pytest.approx(FULL_GAP_S)
    paced.rest(FULL - 1)
    assert clock.now_s - began_s == pytest.approx(FULL_GAP_S + GAP_S)
