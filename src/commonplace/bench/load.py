"""The load: requests at a rate or so many in flight, what was answered, and how long that took from when each was due."""

import math
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from typing import Final

from commonplace.core.records.decisions import Decision
from commonplace.core.records.requests import Build
from commonplace.frontend.client import Frontend
from commonplace.frontend.pending import Pending

BATCH_MAX: Final = 64
"""Most requests handed over at once by a closed loop: answers free places one by one."""

TOGETHER_S: Final = 0.001
"""An open loop hands over at once what falls due within so long."""

RISING_STEPS: Final = 8
"""A warm-up comes to its rate in so many steps."""

PAUSE_S: Final = 0.01
"""Longest sleep of an open loop: what is held is to be released in time, too."""


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
    room: SimpleQueue[None] | None = None
    """Free places of a closed loop; a semaphore, which is written in Python, takes 20 times as long (0.9 µs)."""

    def submit(self, intended: Sequence[float]) -> None:
        """Submit one request for each moment (monotonic seconds) at which one should have started."""
        builds = [self._request(number) for number in range(self.submitted, self.submitted + len(intended))]
        self.submitted += len(builds)
        for pending, when in zip(self.frontend.submit_many(builds), intended, strict=True):
            pending.add_done_callback(partial(self._done, when))

    def _request(self, number: int) -> Build:
        name = self.names[number % len(self.names)]
        if not self.group_size:
            return self.frontend.request(name)
        return self.frontend.request(name, group=f"g{number // self.group_size}", group_max=1)

    def _done(self, intended: float, pending: Pending) -> None:
        now = time.monotonic()
        if self.room is not None:
            self.room.put(None)
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
    room = load.room
    if room is None:
        room = load.room = SimpleQueue()
        for _ in range(window):
            room.put(None)
    while time.monotonic() < until:
        try:
            room.get(timeout=0.05)
        except Empty:
            load.release_due()
            continue
        count = 1
        while count < BATCH_MAX and not room.empty():
            room.get()
            count += 1
        load.submit([time.monotonic()] * count)
        load.release_due()


def open_loop(load: Load, rate: float, until: float) -> None:
    """Submit at a fixed rate, whatever the answers do: request n is due n / rate after the start, and the first at once.

    Above 1,000 a second those of a millisecond go together, when the last of them is due: to wake for each costs more than they do.
    """
    start, sent = time.monotonic(), 0
    together = math.ceil(rate * TOGETHER_S)
    while (now := time.monotonic()) < until:
        due = int((now - start) * rate) + 1
        if due > sent:
            load.submit([start + number / rate for number in range(sent, due)])
            sent = due
        load.release_due()
        time.sleep(max(0.0, min(PAUSE_S, start + (sent + together - 1) / rate - time.monotonic())))


def rising_loop(load: Load, rate: float, seconds: float) -> None:
    """Warm up: a rate that rises in steps over half of the time, then stays.

    What a cold system cannot take as it comes would be waited for long after, at a rate near its limit to the end.
    """
    for step in range(1, RISING_STEPS + 1):
        open_loop(load, rate * step / RISING_STEPS, time.monotonic() + seconds / 2 / RISING_STEPS)
    open_loop(load, rate, time.monotonic() + seconds / 2)
