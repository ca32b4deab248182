"""The caller's end of a submit: a future, but one that costs a tenth of `concurrent.futures.Future`.

A Future makes a condition variable each; a Pending makes an event only when somebody blocks on it, so 10,000 a second
with callbacks wake no thread.
"""

import logging
import threading
from collections.abc import Callable

from commonplace.core.records.decisions import Decision
from commonplace.core.records.requests import Build
from commonplace.errors import CommonplaceError, TimedOut

_log = logging.getLogger(__name__)

_lock = threading.Lock()  # one for all: it is held for a few attribute writes


class Pending:
    """The decision of one submitted request, once there is one; thread-safe."""

    __slots__ = ("_answer", "_callbacks", "_waiter", "request", "token")

    def __init__(self, request: Build, token: int) -> None:
        self.request = request
        self.token = token
        self._answer: Decision | CommonplaceError | None = None
        self._callbacks: list[Callable[[Pending], object]] = []
        self._waiter: threading.Event | None = None

    def done(self) -> bool:
        """Whether there is an answer."""
        return self._answer is not None

    def answer(self) -> Decision | CommonplaceError | None:
        """The decision or the error, or None while there is neither; never blocks."""
        return self._answer

    def result(self, timeout: float | None = None) -> Decision:
        """Block until the decision, at most `timeout` seconds; raises the typed error of a request that got none."""
        if self._answer is None:
            with _lock:
                if self._answer is None and self._waiter is None:
                    self._waiter = threading.Event()
            if self._answer is None and self._waiter is not None and not self._waiter.wait(timeout):
                raise TimedOut(f"no decision for {self.request.id} within {timeout} s: the outcome is unknown as yet")
        answer = self._answer
        assert answer is not None
        if isinstance(answer, CommonplaceError):
            raise answer
        return answer

    def add_done_callback(self, call: "Callable[[Pending], object]") -> None:
        """Call it with this Pending once answered: at once if it is, else on the client's reading or writing thread.

        It holds that thread up; what it raises is logged.
        """
        with _lock:
            if self._answer is None:
                self._callbacks.append(call)
                return
        self._call(call)

    def resolve(self, answer: Decision | CommonplaceError) -> None:
        """Give the answer; the first one stands. For the client."""
        with _lock:
            if self._answer is not None:
                return
            self._answer = answer
            callbacks, waiter = self._callbacks, self._waiter
        if waiter is not None:
            waiter.set()
        for call in callbacks:
            self._call(call)

    def _call(self, call: "Callable[[Pending], object]") -> None:
        try:
            call(self)
        except Exception:  # noqa: BLE001 (of whoever waits for this one: no other may lose an answer by it)
            _log.exception("a callback of request %s failed", self.request.id)
