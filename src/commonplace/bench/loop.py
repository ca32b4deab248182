"""The whole loop: broker, fleet, one or more replicas and the load on one machine, claims granted by real ledgers.

    saturate   as many decisions a second as it goes: so many requests in flight
    churn      the same, every instance confirmed and later released
    rate       latency at a fixed rate, open loop, counted from the intended start

Leases are short where nothing is confirmed, so that they lapse and the fleet never fills.
"""

from time import monotonic
from typing import Any, Literal

from msgspec import Struct

from commonplace.bench.facts import percentiles
from commonplace.bench.flavors import GROUP_SIZE, INSTANCES_MAX, profile
from commonplace.bench.load import Load, closed_loop, open_loop, rising_loop
from commonplace.bench.system import Setup, Tell, fill, late_replica, read, resident_mib, run_on, used
from commonplace.frontend.client import Frontend
from commonplace.ops.stack import Stack

Mode = Literal["saturate", "churn", "rate"]


class Plan(Struct, frozen=True, kw_only=True):
    """How the load goes. `window`: requests in flight, `rate`: requests a second, `hold_s`: how long an instance lives in `churn`.

    No host is given more than `instances_max`.
    """

    mode: Mode = "saturate"
    placement: str = "spread"
    rate: float = 1000.0
    window: int = 1024
    warmup_s: float = 30.0
    seconds: float = 60.0
    hold_s: float = 15.0
    instances_max: int = INSTANCES_MAX


def run(setup: Setup, plan: Plan, tell: Tell) -> dict[str, Any]:
    """Start, warm up, measure, audit; returns the report."""

    def measure(stack: Stack) -> dict[str, Any]:
        with Frontend(stack.settings) as frontend:
            churns = plan.mode == "churn"
            load = Load(
                frontend,
                [flavor.name for flavor in setup.made()],
                hold_s=plan.hold_s if churns else None,
                confirm=churns,
                group_size=GROUP_SIZE if setup.asks == "anti-affinity" else 0,
            )
            figures = _measure(stack, load, plan, tell)
        tell("reading the fleet, starting one more replica")
        return {**figures, **fill(stack, setup.made()[0]), "late_replica": late_replica(stack)}

    return {
        "benchmark": "loop",
        **run_on(setup, profile(plan.placement, instances_max=plan.instances_max), tell, measure),
    }


def _measure(stack: Stack, load: Load, plan: Plan, tell: Tell) -> dict[str, Any]:
    tell(f"warming up for {plan.warmup_s:g} s")
    if plan.mode == "rate":
        rising_loop(load, plan.rate, plan.warmup_s)
    else:
        _drive(load, plan, plan.warmup_s)
    tell(f"measuring for {plan.seconds:g} s")
    before = read(stack)
    load.measuring = True
    _drive(load, plan, plan.seconds)
    load.measuring = False
    after = read(stack)
    stack.check()
    return {
        **told(plan),
        **answers(load, after.at_s - before.at_s),
        **used(before, after, decided(load)),
        "rss_mib": resident_mib(stack),
    }


def _drive(load: Load, plan: Plan, seconds: float) -> None:
    until = monotonic() + seconds
    if plan.mode == "rate":
        open_loop(load, plan.rate, until)
    else:
        closed_loop(load, plan.window, until)


def told(plan: Plan) -> dict[str, Any]:
    """What was asked of the load."""
    asked = {"rate": plan.rate} if plan.mode == "rate" else {"window": plan.window}
    held = {"hold_s": plan.hold_s} if plan.mode == "churn" else {}
    bounds = {"instances_max": plan.instances_max, "warmup_s": plan.warmup_s}
    return {"mode": plan.mode, "placement": plan.placement, **asked, **held, **bounds}


def decided(load: Load) -> int:
    """Requests that got a decision while it was measured."""
    return load.placed + load.refused


def answers(load: Load, seconds: float) -> dict[str, Any]:
    """What became of the requests that were answered while it was measured, in the words of `replay`."""
    return {
        "seconds": round(seconds, 1),
        "requests": decided(load) + load.unanswered,
        "placed": load.placed,
        "refused": load.refused,
        "unanswered": load.unanswered,
        "reasons": dict(load.reasons.most_common()),
        "decisions_per_s": round(decided(load) / seconds, 1),
        "latency_ms": percentiles(load.latencies_ms),
    }
