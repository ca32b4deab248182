"""Weighers: which of the hosts that pass is preferred. Raw values on absolute scales, so that one host's change moves no other's score.

A free share is that of the capacity left once the ask is placed: (free − asked) / capacity, in 0..1. A positive multiplier spreads, a
negative one packs. A relative profile weighs by raw values instead (raw_weighers.py).
"""

from collections.abc import Callable

import numpy as np

from commonplace.core.columns import Floats
from commonplace.core.filters import Rows
from commonplace.core.fragments import increase, increase_column
from commonplace.core.rows import Row
from commonplace.core.rules import Ask
from commonplace.core.view import View

Plain = Callable[[View, Row, Ask], float]
Column = Callable[[View, Rows, Ask], Floats]


def free_share(name: str) -> Plain:
    """Share of one resource class that stays free, 0 where the host has none."""

    def plain(view: View, row: Row, ask: Ask) -> float:
        item = row.host.inventory.get(name)
        if item is None or item.capacity == 0:
            return 0.0
        used = row.host.used.get(name, 0) + sum(o.resources.get(name, 0) for o in row.pending)
        return (item.capacity - used - dict(ask.resources).get(name, 0)) / item.capacity

    return plain


def free_share_column(name: str) -> Column:
    """`free_share` over columns."""

    def column(view: View, rows: Rows, ask: Ask) -> Floats:
        n = view.columns.rows
        if name not in view.columns.free:
            return np.zeros(n)[rows]
        amount = next((a for c, a in ask.resources if c == name), 0)
        capacity = view.columns.capacity[name][:n][rows]
        share: Floats = (view.columns.free[name][:n][rows] - amount) / np.maximum(capacity, 1)
        return np.where(capacity > 0, share, 0.0)

    return column


def io_ops(view: View, row: Row, ask: Ask) -> float:
    """Builds in progress."""
    return float(row.host.builds + len(row.pending))


def io_ops_column(view: View, rows: Rows, ask: Ask) -> Floats:
    """`io_ops` over columns."""
    return view.columns.builds[: view.columns.rows][rows].astype(np.float64)


def num_instances(view: View, row: Row, ask: Ask) -> float:
    """Instances on the host."""
    return float(len(row.host.allocations) + len(row.pending))


def num_instances_column(view: View, rows: Rows, ask: Ask) -> Floats:
    """`num_instances` over columns."""
    return view.columns.instances[: view.columns.rows][rows].astype(np.float64)


def fgd(view: View, row: Row, ask: Ask) -> float:
    """Growth of what is free of devices and of no use to the profile's mix of flavors; −1 packs by it."""
    return increase(view, row, ask)


WEIGHERS: dict[str, tuple[Plain, Column]] = {
    "cpu": (free_share("VCPU"), free_share_column("VCPU")),
    "ram": (free_share("MEMORY_MB"), free_share_column("MEMORY_MB")),
    "disk": (free_share("DISK_GB"), free_share_column("DISK_GB")),
    "io_ops": (io_ops, io_ops_column),
    "num_instances": (num_instances, num_instances_column),
    "fgd": (fgd, increase_column),
}
"""Name, plain form, column form: those of weigher_names.INCREMENTAL."""
