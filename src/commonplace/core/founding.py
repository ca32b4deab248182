"""Where a request for several instances that must stand together founds its group: on a host that takes all of them, where there is one."""

import numpy as np

from commonplace.core import room
from commonplace.core.cells import after, assign, ratios_of
from commonplace.core.columns import Ints
from commonplace.core.laying import layout_of, plan
from commonplace.core.rows import Row
from commonplace.core.rules import Wishes
from commonplace.core.view import View

LAID_MAX = 64
"""Hosts on whose cells all instances are laid in trial: the first that takes them is mostly among the first few."""


def too_small(view: View, wishes: Wishes, wanted: int, at_least: int) -> list[int]:
    """Rows of hosts that take fewer than `wanted` instances, or than `at_least` where none takes so many; none where all do not.

    Builds in progress count: all instances are claimed at once.
    """
    if wanted < 2 or wishes.build.group_policy != "affinity" or wishes.standing is None or wishes.standing.rows:
        return []
    takes = np.minimum(room.room(view, wishes), _builds_left(view, wishes))
    for most in (wanted, at_least):
        fitting = np.flatnonzero(takes >= most) if most > 1 else np.empty(0, np.intp)
        if not room.divisible(view, wishes):
            fitting = np.array([i for i in fitting[:LAID_MAX] if _lays(view.by_index[i], wishes, most)], np.intp)
        if len(fitting):
            small = np.ones(len(takes), np.bool_)
            small[fitting] = False
            return [int(index) for index in np.flatnonzero(small)]
    return []


def _builds_left(view: View, wishes: Wishes) -> Ints:
    most = wishes.ask.builds_max or np.iinfo(np.int64).max
    left: Ints = most - view.columns.builds[: view.columns.rows]
    return left


def _lays(row: Row, wishes: Wishes, wanted: int) -> bool:
    """Whether so many instances can be laid on a host's cells, one after another as they will be claimed."""
    cells, resources = row.cells, dict(wishes.ask.resources)
    layout = layout_of(wishes.flavor, resources, cells)
    for _ in range(wanted if cells else 0):
        taken = plan(cells, layout, ratios_of(row.host.inventory), wishes.build.networks)
        if taken is None:
            return False
        cells = after(cells, taken, assign(cells, taken, layout.terms), 1)
    return True
