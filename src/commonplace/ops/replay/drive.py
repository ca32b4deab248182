"""Drive a frontend with a trace: submit when due, confirm what is placed, release what departs.

Open loop at a speed: a request is sent when the trace says so, however late the answers are, and its latency counts
from that moment. Without a speed: as fast as answers come, a bounded number in flight.
"""

import time
from collections.abc import Callable, Container, Iterable
from queue import Empty, SimpleQueue
from typing import Final, Protocol

from commonplace.core.records.decisions import Decision
from commonplace.core.records.requests import Build
from commonplace.errors import CommonplaceError, StateChanged
from commonplace.ops.replay.book import Book
from commonplace.ops.replay.formats import Arrival
from commonplace.ops.replay.schedule import Arrive, Event

PATIENCE_S: Final = 0.2
"""Time between two calls of `watch`: how soon a dead process or Ctrl-C is noticed."""


FOUNDED_BY: Final = "spread"
"""Profile for groups that stay on one host: who comes first takes the emptiest, since all others must find room beside it."""


class Answered(Protocol):
    """A submitted request, as the frontend library returns it."""

    request: Build

    def answer(self) -> Decision | CommonplaceError | None:
        """The answer, None while there is none."""


class Submits(Protocol):
    """What a replay needs of the frontend library."""

    def submit(self, build: Build, *, fresh: bool) -> "WithCallback":
        """Submit one request; `fresh` vouches that its id is new."""

    def confirm(self, decision: Decision) -> object:
        """Send a confirm; StateChanged when it is too late for one."""

    def release(self, decision: Decision) -> object:
        """Send a release."""


class WithCallback(Answered, Protocol):
    """An `Answered` that says when it is."""

    def add_done_callback(self, call: Callable[["WithCallback"], object]) -> None:
        """Call it once answered, on any thread."""


class Driver:
    """One replay through one frontend; `run` may be called for one part of the events after the other."""

    def __init__(
        self,
        frontend: Submits,
        book: Book,
        *,
        run_id: str,
        in_flight_max: int,
        domains: bool = False,
        together: Container[str] = (),
        speed: float = 0.0,
        watch: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        assert in_flight_max >= 1, f"in_flight_max {in_flight_max}"
        self._frontend = frontend
        self._book = book
        self._prefix = f"{run_id}-"
        self._in_flight_max = in_flight_max
        self._domains = domains
        self._together = together
        self._speed = speed
        self._watch = watch
        self._clock = clock
        self._answers: SimpleQueue[tuple[WithCallback, float]] = SimpleQueue()
        self._zero: float | None = None
        self._watch_at = 0.0
        self.busy_s = 0.0
        """Time from the first submit to the last answer, without what lay between two parts."""

    def run(self, sequence: Iterable[Event]) -> None:
        """Send the events in their order and block until every request among them is answered."""
        begun = self._clock()
        for event in sequence:
            due = self._await_due(event.at_s)
            if isinstance(event, Arrive):
                self._await_room()
                self._submit(event.arrival, due or self._clock())
            else:
                self._release(self._book.depart(event.id))
            self._take(0.0)
            self._look_around()
        while self._book.in_flight:
            self._take(PATIENCE_S)
            self._look_around()
        self.busy_s += self._clock() - begun

    def _look_around(self) -> None:
        """Call `watch`, now and then: it draws and asks after processes, which costs more than an answer does."""
        if self._clock() >= self._watch_at:
            self._watch_at = self._clock() + PATIENCE_S
            self._watch()

    def _await_due(self, at_s: float) -> float:
        """Block until the trace is there; returns the moment on our clock, 0 where there is no speed to keep."""
        if not self._speed:
            return 0.0
        if self._zero is None:
            self._zero = self._clock() - at_s / self._speed
        due = self._zero + at_s / self._speed
        while (left := due - self._clock()) > 0:
            self._take(min(left, PATIENCE_S))
            self._look_around()
        return due

    def _await_room(self) -> None:
        """An open loop has the frontend's own bound only; a closed one waits for answers."""
        while not self._speed and self._book.in_flight >= self._in_flight_max:
            self._take(PATIENCE_S)
            self._look_around()

    def _submit(self, arrival: Arrival, due: float) -> None:
        self._book.ask(arrival, due)
        apart, together = arrival.strategy == "anti-affinity", arrival.group in self._together
        build = Build(
            id=self._prefix + arrival.id,
            flavor=arrival.flavor,
            project=arrival.project,
            group=arrival.group if apart or together else "",
            group_max=1 if apart else 0,
            group_policy="affinity" if together else "",
            profile=FOUNDED_BY if together else "",
            member_of=(arrival.domain,) if arrival.domain and self._domains else (),
        )
        self._frontend.submit(build, fresh=True).add_done_callback(self._answered)

    def _answered(self, pending: WithCallback) -> None:
        """On the frontend's thread: note the time, and leave the rest to ours."""
        self._answers.put((pending, self._clock()))

    def _take(self, timeout_s: float) -> None:
        """Handle the answers that are there; where there is none, wait for one up to `timeout_s`."""
        try:
            answered, at = self._answers.get(timeout=timeout_s) if timeout_s else self._answers.get_nowait()
            while True:
                self._settle(answered, at)
                answered, at = self._answers.get_nowait()
        except Empty:
            return

    def _settle(self, pending: WithCallback, at: float) -> None:
        vm = pending.request.id.removeprefix(self._prefix)
        answer = pending.answer()
        assert answer is not None
        if self._book.answer(vm, answer, at):
            assert isinstance(answer, Decision)
            self._confirm(answer)
        self._release(self._book.overdue(vm))

    def _confirm(self, decision: Decision) -> None:
        try:
            self._frontend.confirm(decision)
            self._book.confirmed += 1
        except StateChanged:  # we were too slow: the host takes it back when its lease is over
            self._book.reasons["confirm too late"] += 1

    def _release(self, decision: Decision | None) -> None:
        if decision is not None:
            self._frontend.release(decision)
