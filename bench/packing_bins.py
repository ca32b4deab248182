"""A fleet as plain sums, for the contenders that are not commonplace: what is free by class and host, and of each device."""

from collections.abc import Callable, Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from commonplace.bench.cases import Case
from commonplace.bench.fullness import Ints, State, capacities, state
from commonplace.core.keeper_events import HostSpec
from commonplace.core.ranking import first_best
from commonplace.core.records.control import Flavor

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Placement(Struct, frozen=True):
    """Where an instance went, and which of the host's devices give how much."""

    host: int
    flavor: Flavor
    devices: tuple[int, ...]


class Bins:
    """What is free on every host. Devices are of one class; a host has some of the columns of `devices`."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.capacity = capacities(case.hosts)
        self.free = {name: column.copy() for name, column in self.capacity.items()}
        self.instances: Ints = np.zeros(len(case.hosts), np.int64)
        self.devices = _devices(case.hosts)

    def copy(self) -> "Bins":
        """The same fleet, to be changed apart."""
        other = object.__new__(Bins)
        other.case, other.capacity = self.case, self.capacity
        other.free = {name: column.copy() for name, column in self.free.items()}
        other.instances, other.devices = self.instances.copy(), self.devices.copy()
        return other

    def fits(self, flavor: Flavor) -> Bools:
        """Which hosts have room."""
        found: Bools = np.ones(len(self.instances), np.bool_)
        for name, amount in flavor.resources.items():
            found &= self.free[name] >= amount
        for ask in flavor.devices:
            found &= np.count_nonzero(self.devices >= ask.shares, axis=1) >= ask.count
        return found

    def take(self, host: int, flavor: Flavor) -> Placement:
        """Put an instance on a host that has room; devices are those with least to spare."""
        for name, amount in flavor.resources.items():
            self.free[name][host] -= amount
        self.instances[host] += 1
        given: list[int] = []
        for ask in flavor.devices:
            row = self.devices[host]
            order = sorted((int(free), at) for at, free in enumerate(row) if free >= ask.shares)
            for _, at in order[: ask.count]:
                row[at] -= ask.shares
                given.append(at)
        return Placement(host, flavor, tuple(given))

    def give(self, placed: Placement) -> None:
        """Take an instance off again."""
        for name, amount in placed.flavor.resources.items():
            self.free[name][placed.host] += amount
        self.instances[placed.host] -= 1
        for at in placed.devices:
            self.devices[placed.host, at] += placed.flavor.devices[0].shares

    def state(self, answered: int) -> State:
        """Measure it."""
        return state(self.capacity, self.free, self.instances, self.case.flavors.values(), answered)


Policy = Callable[[Bins, Flavor, Bools], Floats]
"""Scores of hosts, of which the best that fits is taken."""


def best_fit(bins: Bins, flavor: Flavor, fits: Bools) -> Floats:
    """The host that has the least left, over the classes that are asked for."""
    left: Floats = np.zeros(len(fits))
    for name, amount in flavor.resources.items():
        left -= (bins.free[name] - amount) / np.maximum(bins.capacity[name], 1)
    return left


def worst_fit(bins: Bins, flavor: Flavor, fits: Bools) -> Floats:
    """The host that has the most left."""
    return -best_fit(bins, flavor, fits)


def first_fit(bins: Bins, flavor: Flavor, fits: Bools) -> Floats:
    """The first host."""
    return np.zeros(len(fits))


def choose(bins: Bins, flavor: Flavor, policy: Policy, start: int = 0, barred: Sequence[int] = ()) -> int:
    """The best host that fits, of equal ones the first at or after `start`; −1: none."""
    fits = bins.fits(flavor)
    fits[list(barred)] = False
    if not fits.any():
        return -1
    return first_best(np.where(fits, policy(bins, flavor, fits), -np.inf), start)


def _devices(hosts: Sequence[HostSpec]) -> Ints:
    """Free shares by host and device."""
    rows = [[d.shares for cell in host.cells.values() for d in cell.devices] for host in hosts]
    width = max(map(len, rows))
    return np.array([row + [0] * (width - len(row)) for row in rows], np.int64).reshape(len(rows), width)
