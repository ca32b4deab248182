"""The benchmark's load: an open loop starts each request when it is due, and counts from then."""

import time
from typing import Any, cast

from commonplace.bench.load import open_loop


class Noted:
    """A load that notes when each request was to start and when it did, in seconds."""

    def __init__(self) -> None:
        self.intended: list[float] = []
        self.started: list[float] = []

    def submit(self, count: int, intended: float) -> None:
        self.intended += [intended] * count
        self.started += [time.monotonic()] * count

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
