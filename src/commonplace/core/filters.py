"""Filters: which hosts may take an ask. Each has a plain form over one row and a column form over many; tests hold them equal.

Status and liveness come first, because they say most about an empty answer; capacity comes after traits, as Placement orders them.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from commonplace.core.columns import Bools
from commonplace.core.resources import misfit
from commonplace.core.rows import Row
from commonplace.core.rules import Ask
from commonplace.core.view import View

Rows = NDArray[np.intp] | slice
Plain = Callable[[View, Row, Ask], str]
Column = Callable[[View, Rows, Ask], Bools]


def status(view: View, row: Row, ask: Ask) -> str:
    """Pass enabled hosts whose state is known."""
    if row.host.removed:
        return "removed"
    return row.host.stale or ("" if row.status == "enabled" else row.status)


def status_column(view: View, rows: Rows, ask: Ask) -> Bools:
    """`status` over columns."""
    return view.columns.usable[: view.columns.rows][rows]


def liveness(view: View, row: Row, ask: Ask) -> str:
    """Pass hosts that reported within the liveness timeout."""
    return "" if view.columns.alive[row.index] else "silent"


def liveness_column(view: View, rows: Rows, ask: Ask) -> Bools:
    """`liveness` over columns."""
    return view.columns.alive[: view.columns.rows][rows]


def traits(view: View, row: Row, ask: Ask) -> str:
    """Pass hosts with every required and no forbidden trait."""
    for name in ask.traits_required:
        if name not in row.host.traits:
            return f"lacks {name}"
    for name in ask.traits_forbidden:
        if name in row.host.traits:
            return f"has {name}, which is forbidden"
    return ""


def traits_column(view: View, rows: Rows, ask: Ask) -> Bools:
    """`traits` over columns."""
    n = view.columns.rows
    passed: Bools = np.ones(n, np.bool_)[rows]
    for name in ask.traits_required:
        passed = passed & view.trait_column(name)[:n][rows]
    for name in ask.traits_forbidden:
        passed = passed & ~view.trait_column(name)[:n][rows]
    return passed


def capacity(view: View, row: Row, ask: Ask) -> str:
    """Pass hosts where every class fits beside what is allocated and claimed, in the units that its inventory allows."""
    for name, amount in ask.resources:
        used = row.host.used.get(name, 0) + sum(o.resources.get(name, 0) for o in row.pending)
        why = misfit(row.host.inventory.get(name), used, amount)
        if why:
            return f"{name}: {why}"
    return ""


def capacity_column(view: View, rows: Rows, ask: Ask) -> Bools:
    """`capacity` over columns."""
    columns, n = view.columns, view.columns.rows
    passed: Bools = np.ones(n, np.bool_)[rows]
    for name, amount in ask.resources:
        if name not in columns.free:
            return np.zeros_like(passed)
        passed = (
            passed
            & (columns.free[name][:n][rows] >= amount)
            & (columns.unit_min[name][:n][rows] <= amount)
            & (columns.unit_max[name][:n][rows] >= amount)
            & (amount % np.maximum(columns.unit_step[name][:n][rows], 1) == 0)
        )
    return passed


def io_ops(view: View, row: Row, ask: Ask) -> str:
    """Pass hosts with fewer builds in progress than the limit."""
    builds = row.host.builds + len(row.pending)
    return f"{builds} builds in progress, at most {ask.builds_max}" if 0 < ask.builds_max <= builds else ""


def io_ops_column(view: View, rows: Rows, ask: Ask) -> Bools:
    """`io_ops` over columns."""
    builds = view.columns.builds[: view.columns.rows][rows]
    return builds < ask.builds_max if ask.builds_max else np.ones_like(builds, np.bool_)


def instances(view: View, row: Row, ask: Ask) -> str:
    """Pass hosts with fewer instances than the limit."""
    count = len(row.host.allocations) + len(row.pending)
    return f"{count} instances, at most {ask.instances_max}" if 0 < ask.instances_max <= count else ""


def instances_column(view: View, rows: Rows, ask: Ask) -> Bools:
    """`instances` over columns."""
    count = view.columns.instances[: view.columns.rows][rows]
    return count < ask.instances_max if ask.instances_max else np.ones_like(count, np.bool_)


FILTERS: tuple[tuple[str, Plain, Column], ...] = (
    ("status", status, status_column),
    ("liveness", liveness, liveness_column),
    ("traits", traits, traits_column),
    ("io_ops", io_ops, io_ops_column),
    ("instances", instances, instances_column),
    ("capacity", capacity, capacity_column),
)
"""Name, plain form, column form, in the order they are asked. `group` (anti-affinity) is per request and joins in ranking.py."""
