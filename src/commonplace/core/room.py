"""How many more instances of a flavor each host has room for: the filters once, then whole-number division.

Builds in progress are taken to be done, since they soon are; so their limits do not count here. What lies on NUMA cells is not divided:
who counts that places instances one by one.
"""

import numpy as np
from msgspec.structs import replace

from commonplace.core import facts
from commonplace.core.aggregate_filters import instances_max
from commonplace.core.columns import Bools, Ints
from commonplace.core.filter_table import canonical
from commonplace.core.filters import FILTERS
from commonplace.core.records.fields import ALLOCATIONS_MAX
from commonplace.core.request_filters import is_device
from commonplace.core.rules import Wishes
from commonplace.core.view import View

PASSING = {"aggregate_io_ops"}
"""Filters that only count builds in progress."""


INSTANCES = "instances"
"""Names the bound that limits of instances set."""

PLAIN = {"VCPU", "MEMORY_MB", "DISK_GB"}
"""Classes of which an instance without cells takes no certain piece."""


def divisible(view: View, wishes: Wishes) -> bool:
    """Whether division tells the room for a request: it asks for no cells and devices, and nothing else that hosts keep in cells."""
    flavor = wishes.flavor
    if flavor.cells or flavor.devices or flavor.groups:
        return False
    return {name for name, _ in wishes.ask.resources} <= PLAIN or not any(row.host.cells for row in view.by_index)


def room(view: View, wishes: Wishes) -> Ints:
    """Instances of the request that each host still takes, by row; 0 where a filter turns the request away."""
    least: Ints = np.min(list(bounds(view, wishes).values()), axis=0)
    return np.maximum(least, 0)


def bounds(view: View, wishes: Wishes) -> dict[str, Ints]:
    """The same by what sets the bound, the least of which counts: `instances`, and each resource class."""
    view.write()
    columns, n = view.columns, view.columns.rows
    passes = _passes(view, wishes)
    found = {INSTANCES: np.where(passes, _instances_left(view, wishes), 0)}
    for name, amount in wishes.ask.resources:
        free = columns.free[name][:n] if name in columns.free else np.zeros(n, np.int64)
        if is_device(name):  # devices are not oversubscribed, whatever the inventory's ratio
            whole = np.array([facts.total(row, name) - facts.used(row, name) for row in view.by_index], np.int64)
            free = np.minimum(free, whole)
        found[name] = np.where(passes, free // amount, 0)
    return found


def _passes(view: View, wishes: Wishes) -> Bools:
    n = view.columns.rows
    ask = replace(wishes.ask, builds_max=0)
    passed: Bools = np.ones(n, np.bool_)
    for _, _, column in FILTERS:
        passed = passed & column(view, slice(None), ask)
    concerned = [one for one in wishes.concerned() if one.name not in PASSING]
    for index in np.flatnonzero(passed).tolist() if concerned else ():
        row = view.by_index[index]
        passed[index] = not any(one.plain(view, row, wishes) for one in concerned)
    return passed


def _instances_left(view: View, wishes: Wishes) -> Ints:
    """What the limits of instances leave: the profile's, the aggregates' where the profile asks them, and a report's."""
    n = view.columns.rows
    held = view.columns.instances[:n]
    if "aggregate_num_instances" in {canonical(one.name) for one in wishes.rules.filters}:
        limits = np.array([_limit(instances_max(row, wishes)) for row in view.by_index], np.int64)
        return np.minimum(limits, ALLOCATIONS_MAX) - held
    return np.int64(min(wishes.ask.instances_max or ALLOCATIONS_MAX, ALLOCATIONS_MAX)) - held


def _limit(most: int | None) -> int:
    return ALLOCATIONS_MAX if most is None else most
