"""The shortest schedule that still fails: fewer kinds of faults, then fewer faults, then less to do, then plainer bounds.

Each part is thinned by halves, then one by one (delta debugging: Zeller, Hildebrandt, 2002). A shortened schedule counts as failing when
it violates one of the invariants that the whole one violated, so that what is found stays the same story.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from msgspec.structs import asdict, replace

from commonplace.sim.plan import Config, Schedule
from commonplace.sim.run import run

T = TypeVar("T")
Fails = Callable[[Schedule], bool]

PLAINER: Final[tuple[dict[str, Any], ...]] = (
    {"partial": 0, "skip": 0},
    {"drift": 0},
    {"frontends": 1},
    {"replicas": 1},
    {"replicas": 2},
    {"agents": 1},
    {"hosts": 1},
    {"hosts": 2},
    {"hosts": 3},
    {"partitions": 1},
    {"request_partitions": 1},
    {"spread": 1},
    {"latency_ms": 10},
    {"boot_failures": 0},
)
"""Tried one after the other, and kept where the schedule still fails."""


def shrink(schedule: Schedule, tell: Callable[[str], None] = lambda text: None) -> Schedule:
    """The shortest failing schedule that these steps find; the schedule itself where it does not fail. Blocks, for a minute or two."""
    invariants = {violation.invariant for violation in run(schedule).violations}
    if not invariants:
        return schedule

    def fails(candidate: Schedule) -> bool:
        return any(violation.invariant in invariants for violation in run(candidate).violations)

    while True:
        before = schedule
        schedule = _kinds(schedule, fails)
        schedule = replace(schedule, faults=_thin(schedule.faults, lambda f, s=schedule: fails(replace(s, faults=f))))  # type: ignore[misc]
        tell(f"{len(schedule.faults)} faults")
        schedule = replace(schedule, items=_thin(schedule.items, lambda i, s=schedule: fails(replace(s, items=i))))  # type: ignore[misc]
        tell(f"{len(schedule.faults)} faults, {len(schedule.items)} items")
        schedule = _plainer(schedule, fails)
        if schedule == before:
            return schedule


def _kinds(schedule: Schedule, fails: Fails) -> Schedule:
    for kind in sorted({fault.kind for fault in schedule.faults}):
        without = replace(schedule, faults=tuple(fault for fault in schedule.faults if fault.kind != kind))
        if fails(without):
            schedule = without
    return schedule


def _thin(parts: tuple[T, ...], fails: Callable[[tuple[T, ...]], bool]) -> tuple[T, ...]:
    """Take out runs of parts, long ones first, as long as the rest fails."""
    size = max(1, len(parts) // 2)
    while parts:
        at = 0
        while at < len(parts):
            without = parts[:at] + parts[at + size :]
            if fails(without):
                parts = without
            else:
                at += size
        if size == 1:
            break
        size = max(1, size // 2)
    return parts


def _plainer(schedule: Schedule, fails: Fails) -> Schedule:
    for changes in PLAINER:
        config: Config = replace(schedule.config, **changes)
        candidate = replace(schedule, config=config)
        if config != schedule.config and _smaller(config, schedule.config) and fails(candidate):
            schedule = candidate
    return schedule


def _smaller(one: Config, other: Config) -> bool:
    return all(a <= b for a, b in zip(_numbers(one), _numbers(other), strict=True))


def _numbers(config: Config) -> Sequence[int]:
    return [value for name, value in asdict(config).items() if isinstance(value, int) and name != "latency_ms"]
