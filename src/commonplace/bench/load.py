"""The load: requests at a rate or so many in flight, what was answered, and how long that took from when each was due."""

import math
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Final

from commonplace.core.records.decisions import Decision
from commonplace.core.records.requests import Build
from commonplace.frontend.client import Frontend
from commonplace.frontend.pending import Pending

BATCH_MAX: Final = 64
"""Most requests handed over at once by a closed loop: answers free places one by one."""


@dataclass
class Load:
    """What was asked and answered; written by the frontend's reader thread and by the loop that submits.

    `hold_s` says when what is placed is given back; None: its lease lapses. So many requests one after the other are a `group_size`
    of hard anti-affinity; 0: of no group. Answers count while `measuring`.
    """

    frontend: Frontend
    names: list[str]
    hold_s: float | None = None
    confirm: bool = False
    group_size: int = 0
    measuring: bool = False
    submitted: int = 0
    answered: int = 0
    placed: int = 0
    refused: int = 0
    unanswered: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    latencies_ms: list[float] = field(default_factory=list)
    held: deque[tuple[float, Decision]] = field(default_factory=deque)
    room: threading.Semaphore | None = None

    def submit(self, count: int, intended: float) -> None:
        """Submit `count` requests that should have started at `intended` (monotonic seconds)."""
        builds = [self._request(number) for number in range(self.submitted, self.submitted + count)]
        self.submitted += count
        for pending in self.frontend.submit_many(builds):
            pending.add_done_callback(lambda p: self._done(p, intended))

    def _request(self, number: int) -> Build:
        name = self.names[number % len(self.names)]
        if not self.group_size:
            return self.frontend.request(name)
        return self.frontend.request(name, group=f"g{number // self.group_size}", group_max=1)

    def _done(self, pending: Pending, intended: float) -> None:
        now = time.monotonic()
        if self.room is not None:
            self.room.release()
        answer = pending.answer()
        if self.measuring:
            self.latencies_ms.append((now - intended) * 1000)
            self._count(answer)
        if isinstance(answer, Decision) and answer.result == "placed":
            if self.confirm:
                self.frontend.confirm(answer)
            if self.hold_s is not None:
                self.held.append((now + self.hold_s, answer))
        self.answered += 1

    def _count(self, answer: object) -> None:
        if not isinstance(answer, Decision):
            self.unanswered += 1
            self.reasons[type(answer).__name__] += 1
        elif answer.result == "placed":
            self.placed += 1
        else:
            self.refused += 1
            self.reasons[f"{answer.result}: {answer.reason}"] += 1

    def release_due(self) -> None:
        """Release what was held for long enough."""
        self._release(time.monotonic())

    def release_all(self) -> None:
        """Release everything that is held."""
        self._release(math.inf)

    def _release(self, until: float) -> None:
        while self.held and self.held[0][0] <= until:
            self.frontend.release(self.held.popleft()[1])


def closed_loop(load: Load, window: int, until: float) -> None:
    """Keep `window` requests in flight."""
    room = load.room = load.room or threading.Semaphore(window)
    while time.monotonic() < until:
        if not room.acquire(timeout=0.05):
            load.release_due()
            continue
        count = 1
        while count < BATCH_MAX and room.acquire(blocking=False):
            count += 1
        load.submit(count, time.monotonic())
        load.release_due()


def open_loop(load: Load, rate: float, until: float) -> None:
    """Submit at a fixed rate, whatever the answers do."""
    start, sent = time.monotonic(), 0
    while (now := time.monotonic()) < until:
        due = int((now - start) * rate) + 1  # the first one at once: request n is due n / rate after the start
        while sent < due:
            load.submit(1, start + sent / rate)
            sent += 1
        load.release_due()
        time.sleep(max(0.0, min(0.001, start + sent / rate - time.monotonic())))
