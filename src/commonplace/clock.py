"""The two clocks: one that leases and timeouts run by, and the wall's, which a test may set wrong.

COMMONPLACE_CLOCK_OFFSET_MS=-25000   this process's wall clock is 25 s behind; unset it is `time.time` itself and costs nothing

Leases, timeouts and deadlines run by monotonic clocks and never by the wall's. That is compared with log times only: how far back to
look, and how far behind a reader is.
"""

import os
import time
from collections.abc import Callable
from typing import Final

from commonplace.errors import SettingsError

VARIABLE: Final = "COMMONPLACE_CLOCK_OFFSET_MS"


def clock(text: str) -> Callable[[], float]:
    """A wall clock in seconds, off by the milliseconds in `text`; raises `SettingsError` for what is no whole number."""
    if not text:
        return time.time
    try:
        offset_s = int(text) / 1000
    except ValueError as e:
        raise SettingsError(f"{VARIABLE}: {text!r} is no whole number of milliseconds; for tests only: unset it") from e
    return lambda: time.time() + offset_s


wall_s: Callable[[], float] = clock(os.environ.get(VARIABLE, ""))
"""Seconds since the epoch; chosen when this module is imported."""

_STEADY: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def steady_ms() -> int:
    """Milliseconds that only grow and count suspend (on Linux): who slept must not think that leases still hold (rule 6)."""
    return int(time.clock_gettime(_STEADY) * 1000)
