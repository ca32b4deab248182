"""The clock by which everybody judges whether a lease surely holds, and the wall clock, which a test may set wrong."""

import time

import pytest

from commonplace import clock
from commonplace.errors import SettingsError


def test_unset_it_is_the_system_clock_itself() -> None:
    assert clock.clock("") is time.time


@pytest.mark.parametrize("offset_ms", [-3_600_000, 25_000])
def test_it_is_off_by_as_much_as_it_is_told(offset_ms: int) -> None:
    before = time.time()
    told = clock.clock(str(offset_ms))()
    assert before <= told - offset_ms / 1000 <= time.time()


def test_an_offset_that_is_no_number_names_the_variable() -> None:
    with pytest.raises(SettingsError, match=r"COMMONPLACE_CLOCK_OFFSET_MS: '1h'"):
        clock.clock("1h")


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="this system has no clock that counts suspend")
def test_the_clock_of_leases_counts_the_time_that_its_machine_slept(monkeypatch: pytest.MonkeyPatch) -> None:
    slept = {time.CLOCK_MONOTONIC: 1.0, time.CLOCK_BOOTTIME: 601.0}
    monkeypatch.setattr(time, "clock_gettime", slept.__getitem__)
    assert clock.steady_ms() == 601_000
