"""The benchmark's load: an open loop starts each request when it is due, and counts from then."""

import time
from collections.abc import Sequence
from typing import Any, cast

import pytest

from commonplace.bench import load as bench_load
from commonplace.bench.load import open_loop, rising_loop


class Noted:
    """A load that notes when each request was to start and when it did, in seconds."""

    def __init__(self) -> None:
        self.intended: list[float] = []
        self.started: list[float] = []
        self.calls = 0

    def submit(self, intended: Sequence[float]) -> None:
        self.intended += intended
        self.started += [time.monotonic()] * len(intended)
        self.calls += 1

    def release_due(self) -> None:
        """Nothing is held."""


def test_an_open_loop_counts_from_the_moment_that_a_request_is_due() -> None:
    load, rate = Noted(), 5.0
    open_loop(cast(Any, load), rate, time.monotonic() + 0.95)
    assert 1 < len(load.intended) <= 5
    gaps = [after - before for before, after in zip(load.intended, load.intended[1:], strict=False)]
    assert all(abs(gap - 1 / rate) < 1e-6 for gap in gaps)
    assert all(begun >= due for due, begun in zip(load.intended, load.started, strict=True))
    assert load.started[0] - load.intended[0] < 1 / rate  # not one interval late


def test_what_falls_due_within_a_millisecond_goes_together_and_is_counted_one_by_one() -> None:
    load, rate = Noted(), 10_000.0
    open_loop(cast(Any, load), rate, time.monotonic() + 0.1)
    assert len(load.intended) > load.calls  # on a machine that stood still all of them at once
    gaps = [after - before for before, after in zip(load.intended, load.intended[1:], strict=False)]
    assert all(abs(gap - 1 / rate) < 1e-6 for gap in gaps)
    assert all(begun >= due for due, begun in zip(load.intended, load.started, strict=True))


def test_a_warm_up_rises_to_its_rate_and_stays_there_for_half_of_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    driven: list[tuple[float, float]] = []
    monkeypatch.setattr(bench_load, "open_loop", lambda _, rate, until: driven.append((rate, until - time.monotonic())))
    rising_loop(cast(Any, Noted()), 800.0, 16.0)
    assert [rate for rate, _ in driven] == [*(100.0 * step for step in range(1, 9)), 800.0]
    assert [seconds for _, seconds in driven] == pytest.approx([1.0] * 8 + [8.0], abs=0.5)
