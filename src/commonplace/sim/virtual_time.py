"""Virtual time: a heap of things that happen, each at its ms, in the order in which they were put there; and the broker's clock."""

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, Final, Protocol

from commonplace.sim.trace import Trace

BROKER_EPOCH_MS: Final = 1_000_000_000_000
"""The broker's clock at the beginning; nothing may depend on it."""


class Mortal(Protocol):
    """Who does nothing more once it is dead."""

    alive: bool


class VirtualTime:
    """`now` moves to the next thing that is due, never by itself. A trace is told what time it is."""

    def __init__(self, trace: Trace | None = None) -> None:
        self.trace = trace
        self.now = 0
        self.events = 0
        self.timers = 0  # things that must have happened before the world comes to rest
        self.broker_ahead_ms = 0
        self._heap: list[tuple[int, int, Callable[..., object], tuple[Any, ...]]] = []
        self._serial = 0

    def at(self, when_ms: int, what: Callable[..., object], *told: Any) -> None:
        """Have something happen at a time."""
        self._serial += 1
        heappush(self._heap, (when_ms, self._serial, what, told))

    def later(self, delay_ms: int, what: Callable[[], object]) -> None:
        """Have something done later; the world does not settle before."""
        self.timers += 1
        self.at(self.now + max(1, delay_ms), self._due, None, what)

    def after(self, delay_ms: int, who: Mortal, what: Callable[[], object]) -> None:
        """The same of a process, if it lives by then."""
        self.timers += 1
        self.at(self.now + max(1, delay_ms), self._due, who, what)

    def _due(self, who: Mortal | None, what: Callable[[], object]) -> None:
        self.timers -= 1
        if who is None or who.alive:
            what()

    def run_until(self, until_ms: int) -> None:
        """Let everything happen that is due by then."""
        heap, pop = self._heap, heappop
        trace = self.trace
        events = 0
        while heap and heap[0][0] <= until_ms:
            self.now, _, what, told = pop(heap)
            if trace is not None:
                trace.now = self.now
            events += 1
            what(*told)
        self.events += events
        self.now = until_ms
        if trace is not None:
            trace.now = until_ms

    def wall(self) -> int:
        """The broker's clock, which dates records; those of processes are near it."""
        return BROKER_EPOCH_MS + self.now + self.broker_ahead_ms

    def true_ms(self) -> int:
        """The time that has really passed, on the broker's clock if that had never jumped: checkers count in it."""
        return BROKER_EPOCH_MS + self.now
