"""Conflicts: replicas that race for the same hosts in virtual time (racing.py), and how many of their claims are turned down.

Nothing leaves, every instance is confirmed. CPU is that of the replicas' cores; what they spend on folding reports and writing columns is
told apart, because every replica folds everything and only the rest is shared among them.
"""

import random
from collections.abc import Callable
from typing import Any

from msgspec import Struct, to_builtins

from commonplace.bench.cases import Case, fleet_of
from commonplace.bench.facts import machine
from commonplace.bench.flavors import HOST_SHAPE, flavors, profile
from commonplace.bench.racing import Pace, Race, race
from commonplace.core.records.control import Flavor
from commonplace.ops.replay.formats import Arrival
from commonplace.ops.replay.schedule import Arrive
from commonplace.words import counted


class Plan(Struct, frozen=True, kw_only=True):
    """`rate` requests a second of virtual time for `seconds`, all replicas together; readers are 1/8 of `delay_ms` to `delay_ms` late."""

    hosts: int = 10_000
    replicas: int = 8
    flavors: int = 8
    rate: float = 1000.0
    seconds: float = 10.0
    delay_ms: int = 40
    mode: str = "strict"
    placements: tuple[str, ...] = ("pack", "spread")
    seed: int = 1


def run(plan: Plan, tell: Callable[[str], None]) -> dict[str, Any]:
    """Race under each placement and return the report."""
    case = case_of(plan)
    pace = Pace(rate=plan.rate, delay_ms=(max(1, plan.delay_ms // 8), plan.delay_ms), mode=plan.mode)
    found = {}
    for placement in plan.placements:
        racers = counted(plan.replicas, f"replica {placement}s", f"replicas {placement}")
        tell(f"{racers} {counted(case.arrivals, 'request')} on {counted(plan.hosts, 'host')}")
        found[placement] = _figures(race(case, profile(placement), plan.replicas, pace, plan.seed))
    return {
        "benchmark": "conflicts",
        "machine": machine(),
        **{name: value for name, value in to_builtins(plan).items() if name != "placements"},
        "requests": case.arrivals,
        "conflict_fraction": {name: one.pop("conflict_fraction") for name, one in found.items()},
        "by_placement": found,
    }


def _figures(of: Race) -> dict[str, Any]:
    figures = of.figures
    decided = figures.placed + figures.refused
    all_us, folds_us = of.spent_ns / 1_000 / decided, of.folding_ns / 1_000 / decided
    assert figures.end is not None
    return {
        "conflict_fraction": figures.conflict_fraction,
        "rejected_claims": figures.retries,
        "placed": figures.placed,
        "refused": figures.refused,
        "reasons": figures.reasons,
        "hosts_used": figures.end.hosts_used,
        "allocated": figures.end.allocated,
        "replica_cpu_us_a_decision": {
            "all": round(all_us, 1),
            "folds": round(folds_us, 1),
            "apart_from_folds": round(all_us - folds_us, 1),
        },
    }


def case_of(plan: Plan) -> Case:
    """A fleet, and requests for it in the order of a seed."""
    rng = random.Random(f"conflicts/{plan.seed}")
    known = flavors(plan.flavors, spread=64)
    asked = [rng.choice(known) for _ in range(round(plan.rate * plan.seconds))]
    return Case(
        name="drawn",
        hosts=fleet_of(HOST_SHAPE, plan.hosts),
        flavors={flavor.name: flavor for flavor in known},
        events=tuple(Arrive(number, _arrival(number, flavor)) for number, flavor in enumerate(asked)),
        arrivals=len(asked),
        half_at=len(asked) // 2,
        impossible=0,
    )


def _arrival(number: int, flavor: Flavor) -> Arrival:
    return Arrival(id=f"vm-{number}", at_s=float(number), flavor=flavor.name, resources=flavor.resources)
