"""Hunting planted bugs: how many schedules it takes the checkers to notice each, from several seeds on."""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext
from statistics import median
from typing import Any, Final

from msgspec import Struct

from commonplace.sim.planted import BUGS, bug, planted
from commonplace.sim.run import run_seed

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


class Found(Struct, frozen=True, kw_only=True):
    """All hunts of one bug. `schedules` is their median; one that noticed nothing counts as all it tried."""

    number: int
    name: str
    breaks: str
    caught: int
    schedules: int
    invariant: int
    sentence: str
    seeds: list[int]


def hunt(number: int, first: int, schedules_max: int = SCHEDULES_MAX) -> Catch:
    """Run schedules with a bug from seed `first` on, until one is caught."""
    with planted(bug(number)):
        for seed in range(first, first + schedules_max):
            violations = run_seed(seed).violations
            if violations:
                return Catch(number, first, seed, seed - first + 1, violations[0].invariant, violations[0].sentence)
    return Catch(number, first, -1, schedules_max)


def clean_processes() -> ForkServerContext:
    """Processes that start clean and fast: what a patch leaves in caches must not outlive its bug."""
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def hunts(number: int, schedules_max: int = SCHEDULES_MAX) -> list[Catch]:
    """Hunt a bug from each seed of RANGES on."""
    return [hunt(number, first, schedules_max) for first in RANGES]


def hunt_all(jobs: int, schedules_max: int = SCHEDULES_MAX, numbers: tuple[int, ...] = ()) -> Iterator[list[Catch]]:
    """Hunt every bug, in `jobs` processes; yields the hunts of one bug as they end, in the order of the list."""
    wanted = numbers or tuple(bug.number for bug in BUGS)
    with ProcessPoolExecutor(jobs, mp_context=clean_processes(), max_tasks_per_child=1) as pool:
        futures = [pool.submit(hunts, number, schedules_max) for number in wanted]
        for future in futures:
            yield future.result()


def table(catches: list[Catch]) -> list[Found]:
    """The hunts, bug by bug."""
    rows = []
    for planted_bug in BUGS:
        mine = [catch for catch in catches if catch.number == planted_bug.number]
        if not mine:
            continue
        hits = sorted((catch for catch in mine if catch.seed >= 0), key=lambda catch: catch.schedules)
        typical = hits[len(hits) // 2] if hits else None
        invariants = [catch.invariant for catch in hits]
        rows.append(
            Found(
                number=planted_bug.number,
                name=planted_bug.name,
                breaks=planted_bug.breaks,
                caught=len(hits),
                schedules=int(median(catch.schedules for catch in mine)),
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
                "invariant": row.invariant,
                "violated": row.sentence,
                "seeds": row.seeds,
            }
            for row in rows
        ],
        "wall_s": round(wall_s, 1),
    }
