"""Many schedules, over several processes: what they did, added up, and the seeds that failed."""

import gc
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Final

from msgspec import Struct, field

from commonplace.sim.run import Outcome, run_seed

CHUNK: Final = 50
"""Schedules of one task: a few seconds, so that progress is seen and no process waits long for the last one."""

COLLECT_EVERY: Final = 50
"""Schedules between two collections: worlds dissolve when they are over, and little is left to collect."""

FAILURES_MAX: Final = 100
"""Failing seeds that are kept with their first violation; the rest is counted."""

Progress = Callable[[int, int], None]
"""Told how many schedules have run, and how many of them failed."""


class Failure(Struct, frozen=True):
    """A seed that violated an invariant, and how."""

    seed: int
    invariant: int
    sentence: str
    places: tuple[tuple[str, int, int], ...] = ()


class Tally(Struct, kw_only=True):
    """Schedules, added up."""

    schedules: int = 0
    failed: int = 0
    events: int = 0
    virtual_s: float = 0.0
    cpu_s: float = 0.0
    requests: int = 0
    digests: int = 0
    results: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)

    def add(self, other: "Tally") -> None:
        """Add another's figures to these."""
        for name in ("schedules", "failed", "events", "virtual_s", "cpu_s", "requests", "digests"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.results = dict(Counter(self.results) + Counter(other.results))
        self.faults = dict(Counter(self.faults) + Counter(other.faults))
        self.failures = sorted([*self.failures, *other.failures], key=lambda f: f.seed)[:FAILURES_MAX]


def outcomes(first: int, last: int, profile: str = "swarm") -> Generator[Outcome, None, None]:
    """Run the seeds from `first` to `last`, both included, one by one in this process, which collects no garbage meanwhile."""
    gc.collect()
    gc.freeze()  # what is here stays
    gc.disable()
    try:
        for seed in range(first, last + 1):
            yield run_seed(seed, profile)
            if seed % COLLECT_EVERY == 0:
                gc.collect()
    finally:
        gc.enable()
        gc.unfreeze()


def run_range(first: int, last: int, profile: str) -> Tally:
    """Run the seeds from `first` to `last`, both included, in this process."""
    tally, started = Tally(), time.process_time()
    for outcome in outcomes(first, last, profile):
        one = Tally(
            schedules=1,
            failed=int(bool(outcome.violations)),
            events=outcome.events,
            virtual_s=outcome.virtual_ms / 1_000,
            requests=outcome.requests,
            digests=outcome.digests,
            results=outcome.results,
            faults=outcome.counts,
        )
        if outcome.violations:
            violation = outcome.violations[0]
            one.failures = [Failure(outcome.seed, violation.invariant, violation.sentence, violation.places)]
        tally.add(one)
    tally.cpu_s = time.process_time() - started
    return tally


def run_seeds(
    first: int,
    last: int,
    profile: str,
    jobs: int,
    progress: Progress,
    found: Callable[[Failure], None],
    seconds: float = math.inf,
) -> Tally:
    """Run the seeds from `first` to `last` in `jobs` processes; blocks. The same whatever `jobs` is, but for `cpu_s`.

    `found` is told of a failing seed once the chunk that it belongs to has run.
    After so many `seconds` nothing more is begun: what has run by then are the first of the seeds, without a gap, and a chunk at least.
    """
    total = Tally()
    for tally in _chunks(first, last, profile, jobs, time.monotonic() + seconds):
        if tally.schedules:
            total.add(tally)
            for failure in tally.failures:
                found(failure)
            progress(total.schedules, total.failed)
    return total


def _chunks(first: int, last: int, profile: str, jobs: int, until: float) -> Iterator[Tally]:
    starts = range(first, last + 1, CHUNK)
    tasks = [(at, min(at + CHUNK - 1, last), profile, until if at > first else math.inf) for at in starts]
    if jobs <= 1 or len(tasks) == 1:
        yield from map(_run_task, tasks)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(_run_task, tasks)


def _run_task(task: tuple[int, int, str, float]) -> Tally:
    """A chunk, or nothing past its time: the clock is the machine's, the same in every process, and chunks begin in their order."""
    first, last, profile, until = task
    return run_range(first, last, profile) if time.monotonic() < until else Tally()


def cores() -> int:
    """Processes that this machine can run at once."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def to_dict(tally: Tally, wall_s: float) -> dict[str, Any]:
    """The figures for people and machines; rates are per second of one core."""
    cpu_s = max(tally.cpu_s, 1e-9)
    return {
        "schedules": tally.schedules,
        "failed": tally.failed,
        "events": tally.events,
        "events_per_schedule": round(tally.events / max(1, tally.schedules)),
        "schedules_per_core_s": round(tally.schedules / cpu_s, 1),
        "events_per_core_s": round(tally.events / cpu_s),
        "wall_s": round(wall_s, 1),
        "cpu_s": round(tally.cpu_s, 1),
        "virtual_h": round(tally.virtual_s / 3_600, 1),
        "requests": tally.requests,
        "digests_compared": tally.digests,
        "answers": dict(sorted(tally.results.items())),
        "faults": dict(sorted(tally.faults.items())),
        "failures": [
            {"seed": f.seed, "invariant": f.invariant, "violated": f.sentence, "places": [list(p) for p in f.places]}
            for f in tally.failures
        ],
    }
