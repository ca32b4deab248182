"""Answers of a client's reading threads as futures of one event loop."""

import asyncio
from collections import deque

from commonplace.core.records.decisions import Decision
from commonplace.frontend.pending import Pending


class Crossing:
    """Brings the answers of `Pending`s into an event loop, which is woken once for all that wait for it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._answered: deque[tuple[Pending, asyncio.Future[Decision]]] = deque()
        self._scheduled = False

    def future(self, pending: Pending) -> "asyncio.Future[Decision]":
        """The answer as a future; to be called in the loop. Cancelling it leaves the request submitted."""
        future: asyncio.Future[Decision] = self._loop.create_future()
        pending.add_done_callback(lambda done: self._hand_over(done, future))
        return future

    def _hand_over(self, pending: Pending, future: "asyncio.Future[Decision]") -> None:
        """On a reading thread."""
        self._answered.append((pending, future))
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._scheduled = False
        while self._answered:
            pending, future = self._answered.popleft()
            answer = pending.answer()
            if future.done():  # its waiter was cancelled
                continue
            if isinstance(answer, Decision):
                future.set_result(answer)
            elif answer is not None:
                future.set_exception(answer)
