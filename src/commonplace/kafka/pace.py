"""Room between flushes: what comes meanwhile goes out together, so that a busy writer asks less of the broker and of all who read it."""

import time
from typing import Final

GAP_S: Final = 0.002
"""Least time between the ends of two flushes: one that comes after a rest is not held up, and the second after it waits."""

FULL: Final = 8
FULL_GAP_S: Final = 0.005
"""The same after a turn with so many records: where thousands come a second, four hops are spared wake-ups (docs/results.md)."""


class Pace:
    """Keeps one writer's flushes apart; owned by one thread."""

    def __init__(self) -> None:
        self._ended_s = 0.0

    def rest(self, records: int) -> None:
        """Sleep after the flush of a turn with so many records, until the gap to the flush before is kept. Blocks for 5 ms at most."""
        left_s = self._ended_s + (FULL_GAP_S if records >= FULL else GAP_S) - time.monotonic()
        if left_s > 0:
            time.sleep(left_s)
        self._ended_s = time.monotonic()
