"""The demo's load, a process of its own: starter flavors at a rate, confirmed, some released, and one request that cannot fit.

Tells what goes on as JSON lines on stdout, each with `load`: progress, refusal, done.
"""

import os
import random
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
import numpy as np

from commonplace.core.records.control import Flavor
from commonplace.core.records.decisions import Decision
from commonplace.core.records.requests import Build
from commonplace.errors import CommonplaceError
from commonplace.frontend import Frontend
from commonplace.kafka.control import STARTER_FLAVORS
from commonplace.ops.replay import fleet
from commonplace.ops.replay.book import Book, why
from commonplace.ops.replay.drive import Driver
from commonplace.ops.replay.formats import Arrival
from commonplace.ops.replay.run import figures
from commonplace.ops.replay.schedule import events
from commonplace.settings import Settings

WEIGHTS: Final = (10, 20, 30, 25, 15)
"""How often each starter flavor is asked for, tiny to xlarge: 3.1 vCPU on average, so that the default fleet is two thirds full."""

RELEASED_SHARE: Final = 0.25
LIFETIME_S: Final = (2.0, 6.0)
"""A quarter of the instances live so short that the demo sees them go; the others stay."""

GIANT: Final = Flavor(
    name="demo.giant", resources={"VCPU": 1024, "MEMORY_MB": 4_194_304}, traits_required=("HW_CPU_X86_AVX512F",)
)
"""More than any host of the built-in mixes has, with a trait that few have: its refusal has something to explain."""

GIANT_AT: Final = 1 / 3
"""When it is asked for, as a share of the demo: the fleet is in use, and there is time to read the answer."""

RECENT: Final = 500
"""Answers that the latency of a progress line is taken from."""

Tell = Callable[[dict[str, Any]], None]


def run(settings: Settings, *, rate: float, seconds: float, seed: int, tell: Tell) -> None:
    """Load the pool for `seconds` at `rate` requests a second; blocks until every request is answered."""
    book = Book(fleet.capacity(fleet.read_hosts(settings)))
    with Frontend(settings) as frontend:
        giant = _Giant(frontend, lambda: book.requests >= rate * seconds * GIANT_AT, tell)

        def watch() -> None:
            giant.look()
            tell({"load": "progress", **_progress(book)})

        run_id = f"demo-{os.urandom(3).hex()}"
        driver = Driver(
            frontend, book, run_id=run_id, in_flight_max=settings.frontend.in_flight_max, speed=1.0, watch=watch
        )
        driver.run(events(arrivals(rate, seconds, seed), tail=False))
        giant.finish(book)
        frontend.flush()
    full = {"at_first_refusal": msgspec.to_builtins(book.first_refusal), "at_end": book.shares()}
    tell({"load": "done", **figures(book, driver.busy_s), "full": full})


def arrivals(rate: float, seconds: float, seed: int) -> Iterator[Arrival]:
    """Requests at random moments, `rate` a second on average; the same for the same seed."""
    rng = random.Random(seed)
    at_s = rng.expovariate(rate)
    number = 0
    while at_s < seconds:
        flavor = rng.choices(STARTER_FLAVORS, WEIGHTS)[0]
        lifetime_s = rng.uniform(*LIFETIME_S) if rng.random() < RELEASED_SHARE else None
        yield Arrival(
            id=f"{number:05}",
            at_s=at_s,
            flavor=flavor.name,
            resources=flavor.resources,
            lifetime_s=lifetime_s,
            project=rng.choice(("blue", "green", "red")),
        )
        number += 1
        at_s += rng.expovariate(rate)


class _Giant:
    """The one request that cannot fit, sent once it is due; its answer is told and counted with the others."""

    def __init__(self, frontend: Frontend, due: Callable[[], bool], tell: Tell) -> None:
        self._frontend, self._due, self._tell = frontend, due, tell
        self._pending: Any = None
        self._told = False

    def look(self) -> None:
        """Send it when it is due, tell its answer when it is there."""
        if self._pending is None and self._due():
            self._pending = self._frontend.submit(self._build())
        if self._pending is not None and not self._told and isinstance(answer := self._pending.answer(), Decision):
            self._told = True
            self._tell({"load": "refusal", "decision": msgspec.to_builtins(answer)})

    def finish(self, book: Book) -> None:
        """Wait for its answer and count it; it says nothing of how full the fleet was, so it is no first refusal."""
        if self._pending is None:
            self._pending = self._frontend.submit(self._build())
        book.requests += 1
        try:
            answer = self._pending.result()
        except CommonplaceError as e:
            book.unanswered += 1
            book.reasons[type(e).__name__] += 1
            return
        self.look()
        if answer.result == "placed":  # a fleet of giants
            book.placed += 1
            self._frontend.release(answer)
        else:
            book.refused += 1
            book.reasons[why(answer)] += 1

    def _build(self) -> Build:
        return self._frontend.request(GIANT.name, project="blue")


def _progress(book: Book) -> dict[str, Any]:
    recent = np.frombuffer(book.latencies_s)[-RECENT:].copy()
    p50, p99 = np.percentile(recent, (50, 99)) * 1000 if len(recent) else (None, None)
    return {
        "at_s": time.monotonic(),
        "requests": book.requests,
        "placed": book.placed,
        "refused": book.refused,
        "unanswered": book.unanswered,
        "confirmed": book.confirmed,
        "released": book.released,
        "conflicts": book.conflicts,
        "granted": book.granted,
        "p50_ms": p50 if p50 is None else round(float(p50), 2),
        "p99_ms": p99 if p99 is None else round(float(p99), 2),
    }
