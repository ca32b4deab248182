"""Hunting planted bugs: how many schedules it takes the checkers to notice each, from several seeds on."""

import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import closing
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext
from statistics import median
from typing import Any, Final

from msgspec import Struct

from commonplace.sim.batch import outcomes
from commonplace.sim.planted import BUGS, bug, planted

RANGES: Final = (1_000_001, 2_000_001, 3_000_001, 4_000_001, 5_000_001)
"""Where hunts begin: far from the seeds of runs without bugs, and from each other."""

SCHEDULES_MAX: Final = 2_000
"""A bug that is not noticed in so many schedules shows a hole in workload, faults or checkers."""


class Catch(Struct, frozen=True):
    """One hunt: the seed that noticed the bug, −1 where none did, after how many schedules, and what was violated."""

    number: int
    first: int
    seed: int
    schedules: int
    invariant: int = 0
    sentence: str = ""
    cpu_s: float = 0.0


class Found(Struct, frozen=True, kw_only=True):
    """All hunts of one bug. `schedules` is their median, `most` the longest; one that noticed nothing counts as all it tried."""

    number: int
    name: str
    breaks: str
    caught: int
    schedules: int
    most: int
    cpu_s: float
    invariant: int
    sentence: str
    seeds: list[int]


def hunt(number: int, first: int, schedules_max: int = SCHEDULES_MAX) -> Catch:
    """Run schedules with a bug from seed `first` on, until one is caught."""
    started = time.process_time()
    with planted(bug(number)), closing(outcomes(first, first + schedules_max - 1, bug(number).profile)) as schedules:
        for tried, outcome in enumerate(schedules, 1):
            if outcome.violations:
                found = outcome.violations[0]
                cpu_s = time.process_time() - started
                return Catch(number, first, outcome.seed, tried, found.invariant, found.sentence, cpu_s)
    return Catch(number, first, -1, schedules_max, cpu_s=time.process_time() - started)


def clean_processes() -> ForkServerContext:
    """Processes that start clean and fast: what a patch leaves in caches must not outlive its bug."""
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def hunt_all(jobs: int, schedules_max: int = SCHEDULES_MAX, numbers: tuple[int, ...] = ()) -> Iterator[Catch]:
    """Hunt every bug from each seed of RANGES on, in `jobs` processes; yields hunts as they end."""
    wanted = numbers or tuple(bug.number for bug in BUGS)
    with ProcessPoolExecutor(jobs, mp_context=clean_processes(), max_tasks_per_child=1) as pool:
        hunts = [pool.submit(hunt, number, first, schedules_max) for number in wanted for first in RANGES]
        for ended in as_completed(hunts):
            yield ended.result()


def table(catches: list[Catch]) -> list[Found]:
    """The hunts, bug by bug."""
    rows = []
    for planted_bug in BUGS:
        mine = [catch for catch in catches if catch.number == planted_bug.number]
        if not mine:
            continue
        hits = sorted((catch for catch in mine if catch.seed >= 0), key=lambda catch: (catch.schedules, catch.first))
        typical = hits[len(hits) // 2] if hits else None
        invariants = [catch.invariant for catch in hits]
        rows.append(
            Found(
                number=planted_bug.number,
                name=planted_bug.name,
                breaks=planted_bug.breaks,
                caught=len(hits),
                schedules=int(median(catch.schedules for catch in mine)),
                most=max(catch.schedules for catch in mine),
                cpu_s=round(sum(catch.cpu_s for catch in mine), 1),
                invariant=max(set(invariants), key=invariants.count) if invariants else 0,
                sentence=typical.sentence if typical else "",
                seeds=[catch.seed for catch in hits],
            )
        )
    return rows


def to_dict(rows: list[Found], wall_s: float) -> dict[str, Any]:
    """The table for machines."""
    return {
        "bugs": [
            {
                "bug": row.number,
                "name": row.name,
                "breaks": row.breaks,
                "caught": row.caught,
                "of": len(RANGES),
                "schedules": row.schedules,
                "most": row.most,
                "cpu_s": row.cpu_s,
                "invariant": row.invariant,
                "violated": row.sentence,
                "seeds": row.seeds,
            }
            for row in rows
        ],
        "wall_s": round(wall_s, 1),
        "cpu_s": round(sum(row.cpu_s for row in rows), 1),
    }
