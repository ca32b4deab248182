"""A replica's clock: the one by which it judges whether a lease surely holds."""

import time

import pytest

from commonplace.scheduler import shell


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="this system has no clock that counts suspend")
def test_a_replicas_clock_counts_the_time_that_its_machine_slept(monkeypatch: pytest.MonkeyPatch) -> None:
    slept = {time.CLOCK_MONOTONIC: 1.0, time.CLOCK_BOOTTIME: 601.0}
    monkeypatch.setattr(time, "clock_gettime", slept.__getitem__)
    assert shell._now_ms() == 601_000
