"""How well a fleet is packed: arrays with a value a host in, shares of capacity out."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from commonplace.core.keeper_events import HostSpec
from commonplace.core.records.control import Flavor

Ints = NDArray[np.int64]


class State(Struct, frozen=True, kw_only=True):
    """A fleet at one moment. Shares are of its capacity, by resource class, 0 to 1.

    `stranded`: VCPU that is free on hosts without memory for the smallest flavor, MEMORY_MB on hosts without a vCPU for it.
    """

    answered: int
    allocated: dict[str, float]
    hosts_used: int
    hosts_empty: int
    stranded: dict[str, float]


class Figures(Struct, kw_only=True):
    """What one contender made of a case. `half` is the fleet when half of its capacity was asked for."""

    contender: str
    replicas: int = 1
    half: State | None = None
    first_refusal: State | None = None
    end: State | None = None
    placed: int = 0
    refused: int = 0
    reasons: dict[str, int] = {}
    conflict_fraction: float = 0.0
    retries: int = 0
    failed_builds: int = 0
    seconds: float = 0.0


def column(hosts: Iterable[HostSpec], name: str) -> Ints:
    """Capacity of a class by host."""
    return np.array([h.inventory[name].capacity if name in h.inventory else 0 for h in hosts], np.int64)


def capacities(hosts: Sequence[HostSpec]) -> dict[str, Ints]:
    """Capacity by class and host."""
    return {name: column(hosts, name) for name in sorted({name for host in hosts for name in host.inventory})}


def state(
    capacity: Mapping[str, Ints], free: Mapping[str, Ints], instances: Ints, flavors: Iterable[Flavor], answered: int
) -> State:
    """Measure a fleet of which so much is free, by class and host, and which holds so many instances, by host."""
    known = list(flavors)
    least = {name: min(f.resources.get(name, 0) for f in known) for name in ("VCPU", "MEMORY_MB")}
    used = int(np.count_nonzero(instances))
    return State(
        answered=answered,
        allocated={name: share(column - free[name], column) for name, column in capacity.items()},
        hosts_used=used,
        hosts_empty=len(instances) - used,
        stranded={
            name: share(np.where(free[other] < least[other], free[name], 0), capacity[name])
            for name, other in (("VCPU", "MEMORY_MB"), ("MEMORY_MB", "VCPU"))
        },
    )


def share(part: Ints, whole: Ints) -> float:
    """Sum of a part as a share of the sum of the whole."""
    return round(float(part.sum() / max(1, whole.sum())), 5)


Look = Callable[[int], State]
"""Measures a fleet now, given how many requests were answered."""


class Watch:
    """Takes a fleet's state when half of its capacity was asked for and at the first refusal; `look` measures it."""

    def __init__(self, figures: Figures, half_at: int) -> None:
        self.figures, self.half_at, self.answered = figures, half_at, 0

    def placed(self, look: Look) -> None:
        """A request got its host."""
        self.figures.placed += 1
        self._answered(look)

    def refused(self, reason: str, look: Look) -> None:
        """A request got none."""
        figures = self.figures
        figures.refused += 1
        figures.reasons[reason] = figures.reasons.get(reason, 0) + 1
        if figures.first_refusal is None:
            figures.first_refusal = look(self.answered)
        self._answered(look)

    def _answered(self, look: Look) -> None:
        self.answered += 1
        if self.answered == self.half_at:
            self.figures.half = look(self.answered)
