"""The wall clock that a test may set wrong."""

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
