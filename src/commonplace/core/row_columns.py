"""What a row says in the columns: of its inventory when that changes, of what is held and claimed there before each ranking."""

from collections.abc import Mapping

from commonplace.core.columns import AMOUNT_BOUND, Columns
from commonplace.core.resources import Inventory
from commonplace.core.rows import Row

Values = tuple[tuple[memoryview, ...], tuple[int, int, int, int]]
"""A class's columns, and what a host has there: least, most and step of one allocation, capacity."""


def values_of(columns: Columns, inventory: Mapping[str, Inventory]) -> list[Values]:
    """What the columns of each class are to say of a host with this inventory: of one shape there are many, one after the other."""
    found: list[Values] = []
    for name, cells in columns.at.items():
        item = inventory.get(name)
        if item is None:
            values = (0, 0, 0, 0)
        else:
            values = (item.min_unit, item.unit_max, item.step_size, min(item.capacity, AMOUNT_BOUND))
        if values[0] > 1 or values[2] > 1:
            columns.uneven.add(name)
        found.append((cells, values))
    return found


def write_row(columns: Columns, row: Row) -> bool:
    """Write a row's columns anew from its state and its overlay; whether any changed: what a grant shows was mostly laid over it before."""
    host, i = row.host, row.index
    used, claimed, pending = host.used, row.claimed, len(row.pending)
    changed = False
    for name, (free, _, _, _, capacity) in columns.at.items():
        left = capacity[i] - used.get(name, 0)
        if claimed:
            left -= claimed.get(name, 0)
        if free[i] != left:
            free[i] = left if left > -AMOUNT_BOUND else -AMOUNT_BOUND
            changed = True
    builds, instances = host.builds + pending, len(host.allocations) + pending
    usable = not host.stale and not host.removed and row.status == "enabled"
    if columns.builds_at[i] != builds:
        columns.builds_at[i], changed = builds, True
    if columns.instances_at[i] != instances:
        columns.instances_at[i], changed = instances, True
    if columns.usable_at[i] != usable:
        columns.usable_at[i], changed = usable, True
    return changed
