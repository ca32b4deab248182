"""What is injected when: drawn from a seed before anything starts, so that a run can be told, and told again."""

import random
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

from msgspec import Struct

from commonplace.failpoints import AGENT, SCHEDULER

REPLICAS: Final = ("r1", "r2", "r3")
AGENTS: Final = ("fleet", "a1", "a2")
FRONTENDS: Final = ("f1", "f2")
EVERYBODY: Final = (*REPLICAS, *AGENTS, *FRONTENDS)
BROKER: Final = "broker"
TOPICS: Final = ("hosts", "claims", "requests", "decisions", "control", "replicas", "commands", "quarantine")

CYCLE_S: Final = 60.0
CALM_S: Final = 10.0
"""At the end of each cycle nothing new is injected: faults that never end hide what goes wrong between them."""

ON_SHARE: Final = 0.75
"""Swarm: a run has three quarters of the kinds, and each more or less often, so that runs differ in more than their order."""


class Kind(NamedTuple):
    """A kind of fault: whom it may befall, how long it lasts, and its weight in the draw."""

    name: str
    targets: tuple[str, ...]
    weight: float = 1.0
    least_s: float = 0.0
    most_s: float = 0.0
    amount: tuple[int, int] = (0, 0)
    """Bounds of a number that the kind has a meaning for: records, milliseconds, the pass of a failpoint."""


class Injection(Struct, frozen=True):
    """One fault of a plan. `at_s` counts from the beginning of the load; `nth` makes its own choices repeatable."""

    nth: int
    at_s: float
    kind: str
    target: str
    for_s: float
    amount: int


KINDS: Final = (
    # replicas
    Kind("replica killed", REPLICAS, 2),
    Kind("replica stopped", REPLICAS, 1),
    *(Kind(f"replica killed at {name}", REPLICAS, 0.7, amount=(1, 40)) for name in SCHEDULER),
    Kind("replica paused", REPLICAS, 2, 0.1, 3),
    Kind("replica paused past its session", REPLICAS, 1.5, 7, 14),
    Kind("replica paused past the tombstones", REPLICAS, 0.15, 62, 70),
    Kind("replica paused at 10 Hz", REPLICAS, 1, 3, 6),
    Kind("replica's clock set", REPLICAS, 0.7, amount=(-25_000, 25_000)),
    # agents
    Kind("agent killed", AGENTS, 2),
    Kind("agent stopped", AGENTS, 0.7),
    *(Kind(f"agent killed at {name}", AGENTS, 1, amount=(1, 60)) for name in AGENT),
    Kind("agent paused", AGENTS, 2, 0.1, 3),
    Kind("agent paused past its leases", AGENTS, 1, 9, 14),
    Kind("second agent", AGENTS, 1.5),
    # frontends
    Kind("frontend killed", FRONTENDS, 1),
    Kind("frontend paused", FRONTENDS, 1, 1, 12),
    Kind("frontend's clock set", FRONTENDS, 0.5, amount=(-3_600_000, 3_600_000)),
    Kind("burst", FRONTENDS, 0.7, amount=(500, 1500)),
    # broker
    Kind("broker stopped", (BROKER,), 0.5, 0, 4),
    Kind("broker killed", (BROKER,), 0.5, 0, 4),
    Kind("broker paused", (BROKER,), 1, 0.5, 5),
    Kind("broker paused for 30 s", (BROKER,), 0.15, 30, 30),
    Kind("broker's disk full", (BROKER,), 0.4, 2, 6),
    # links between a client and the broker
    Kind("link delayed", EVERYBODY, 2, 2, 10, amount=(5, 400)),
    Kind("link loses connections", EVERYBODY, 2, 2, 10, amount=(1, 50)),
    Kind("link half-open", EVERYBODY, 2, 1, 12),
    Kind("link cut towards the broker", EVERYBODY, 2, 1, 12),
    Kind("link cut from the broker", EVERYBODY, 2, 1, 12),
    Kind("link cut", EVERYBODY, 1, 1, 12),
    Kind("link refuses", EVERYBODY, 1, 1, 8),
    # topics
    *(Kind(f"garbage on {topic}", (topic,), 0.6, amount=(1, 20)) for topic in TOPICS),
    Kind("requests repeated", ("requests",), 2, amount=(1, 40)),
    Kind("ids reused", ("requests",), 1, amount=(1, 10)),
    Kind("topic settings changed", ("claims", "requests", "decisions", "control"), 0.7, 3, 8),
)
BY_NAME: Final[Mapping[str, Kind]] = {kind.name: kind for kind in KINDS}


def plan(
    seed: int, seconds: float, gap_s: float, *, swarm: bool = True, without: Collection[str] = ()
) -> list[Injection]:
    """The injections of a run: one every `gap_s` on average, none in the last part of each cycle.

    Without `swarm` every kind is on with its own weight, and the first injections are one of each in turn.
    """
    rng = random.Random(f"chaos/{seed}")
    kinds = [kind for kind in KINDS if kind.name not in without]
    on = [kind for kind in kinds if rng.random() < ON_SHARE] if swarm else kinds
    weights = [kind.weight * (rng.uniform(0.3, 2.0) if swarm else 1.0) for kind in on]
    each = [] if swarm else rng.sample(on, len(on))
    injections: list[Injection] = []
    at_s = rng.expovariate(1 / gap_s)
    while at_s < seconds:
        if at_s % CYCLE_S < CYCLE_S - CALM_S:
            kind = each.pop() if each else rng.choices(on, weights)[0]
            injections.append(_draw(rng, kind, len(injections), at_s))
        at_s += rng.expovariate(1 / gap_s)
    return injections


def _draw(rng: random.Random, kind: Kind, nth: int, at_s: float) -> Injection:
    # short ones are more often what breaks something, and long ones cost a run its time
    for_s = kind.least_s + (kind.most_s - kind.least_s) * rng.random() ** 2
    low, high = kind.amount
    return Injection(nth, round(at_s, 2), kind.name, rng.choice(kind.targets), round(for_s, 2), rng.randint(low, high))
