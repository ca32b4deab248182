"""Python's cycle collector and free memory in a process that holds a fleet."""

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

YOUNG_MAX: Final = 200_000
"""Objects more than at the look before, for another look at the young: more than 4,096 requests under way are made of, some 30 each. Each
look walks all of them: at 50,000 it was two a second of 20 ms each, 4 % of a busy replica's time, and found nothing."""
MIDDLE_MAX: Final = 50
OLD_MAX: Final = 1_000
"""Looks at the middle before one at everything."""


@contextmanager
def paused() -> Iterator[None]:
    """No looks at all, for as long as the context lasts: for filling the memory with what stays. What stayed before goes first, if it may.

    A collector that looks on takes a tenth of the time in which a replica folds 20,000 hosts with ten instances each (measured), and more
    the more there are.
    """
    gc.unfreeze()  # a replica that begins anew leaves a fleet behind, which is one big ring
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def calm() -> None:
    """Take what is in memory now out of the collector's sight, and let it look rarely.

    The fleet's state is no garbage, and the loop makes no cycles that outlive a request. At the default thresholds the
    collector took a fifth of a replica's CPU time at 10,000 hosts (measured by sampling), in pauses of tens of ms.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_MAX, MIDDLE_MAX, OLD_MAX)


def give_back() -> None:
    """Give memory that is free back to the operating system, where the C library can (glibc): catching up needs more than what it leaves.

    Of a replica's 9.5 KB a host with ten instances this takes 3 (measured, RSS at 10,000 hosts).
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def calmed() -> Iterator[None]:
    """The same for as long as the context lasts: where a process measures what another would serve."""
    thresholds = gc.get_threshold()
    calm()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
