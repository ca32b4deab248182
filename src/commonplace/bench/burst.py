"""A burst: so many builds asked for at once, as when a site comes back; how long until all of them are decided."""

import time
from statistics import median
from typing import Any, Final

from msgspec import Struct

from commonplace.bench.flavors import profile
from commonplace.bench.load import Load, open_loop
from commonplace.bench.loop import answers, decided
from commonplace.bench.system import Reading, Setup, Tell, fill, read, resident_mib, run_on, used
from commonplace.errors import TimedOut
from commonplace.frontend.client import Frontend
from commonplace.ops.stack import Stack
from commonplace.words import counted

ANSWERED_TIMEOUT_S: Final = 60.0
"""Past the deadline of every request: each has its answer, if only that it expired."""
SETTLED_S: Final = 3.0
"""Between bursts: what was placed is released, and the hosts have reported so."""


class Plan(Struct, frozen=True, kw_only=True):
    """`builds` at once, so often; at most `builds_max` builds in progress a host (0: any number)."""

    builds: int = 1_000
    bursts: int = 5
    builds_max: int = 8
    placement: str = "pack"
    rate: float = 100.0
    warmup_s: float = 10.0


def run(setup: Setup, plan: Plan, tell: Tell) -> dict[str, Any]:
    """Start, warm up at a rate, measure bursts one after the other on a fleet that is empty before each; returns the report."""

    def measure(stack: Stack) -> dict[str, Any]:
        with Frontend(stack.settings) as frontend:
            load = Load(frontend, [flavor.name for flavor in setup.made()], hold_s=float("inf"))
            tell(f"warming up for {plan.warmup_s:g} s")
            open_loop(load, plan.rate, time.monotonic() + plan.warmup_s)
            _settle(load)
            return _bursts(stack, load, setup, plan, tell)

    return {"benchmark": "burst", **run_on(setup, profile(plan.placement, plan.builds_max), tell, measure)}


def _bursts(stack: Stack, load: Load, setup: Setup, plan: Plan, tell: Tell) -> dict[str, Any]:
    load.measuring = True
    decided_ms: list[float] = []
    before = after = read(stack)
    fullest: dict[str, Any] = {}
    for number in range(1, plan.bursts + 1):
        tell(f"burst {number} of {plan.bursts}: {counted(plan.builds, 'build')}")
        seen = len(load.latencies_ms)
        load.submit([time.monotonic()] * plan.builds)
        _await_answers(load)
        decided_ms.append(max(load.latencies_ms[seen:]))
        after = read(stack)
        if number == plan.bursts:
            fullest = fill(stack, setup.made()[0])
        _settle(load)
    stack.check()
    return {
        "builds": plan.builds,
        "builds_max": plan.builds_max,
        "placement": plan.placement,
        "all_decided_ms": {"median": round(median(decided_ms), 1), "bursts": [round(ms, 1) for ms in decided_ms]},
        **_figures(load, before, after),
        **fullest,
        "rss_mib": resident_mib(stack),
    }


def _figures(load: Load, before: Reading, after: Reading) -> dict[str, Any]:
    figures = answers(load, after.at_s - before.at_s)
    figures.pop("decisions_per_s")  # over pauses between bursts it would say nothing
    return {**figures, **used(before, after, decided(load))}


def _await_answers(load: Load) -> None:
    until = time.monotonic() + ANSWERED_TIMEOUT_S
    while load.answered < load.submitted:
        if time.monotonic() > until:
            missing = load.submitted - load.answered
            silent = counted(missing, "request has", "requests have")
            raise TimedOut(f"{silent} no answer after {ANSWERED_TIMEOUT_S:g} s: see the replicas' logs")
        time.sleep(0.001)


def _settle(load: Load) -> None:
    """Give everything back, and let the hosts report it."""
    _await_answers(load)
    load.release_all()
    load.frontend.flush()
    time.sleep(SETTLED_S)
