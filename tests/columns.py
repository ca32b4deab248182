"""Whether two views of the same log are the same in all that ranking reads."""

from collections import Counter

from commonplace.core.columns import AMOUNT_BOUND
from commonplace.core.rows import Row
from commonplace.core.view import View


def unequal(one: View, other: View) -> list[str]:
    """What differs between two views, host by host; silence is not compared, because it is a matter of when one looks."""
    found = []
    if one.rows.keys() != other.rows.keys():
        return [f"hosts {one.rows.keys() ^ other.rows.keys()}"]
    for name, row in one.rows.items():
        mine, theirs = figures(one, row), figures(other, other.rows[name])
        found += [f"{name}: {what} {mine.get(what)} and {theirs.get(what)}"
                  for what in mine.keys() | theirs.keys() if mine.get(what) != theirs.get(what)]  # fmt: skip
    return found


def figures(view: View, row: Row) -> dict[str, object]:
    """A host's row as ranking reads it.

    A class of which it has no capacity is left out: nothing of it fits, whether another host's inventory ever made a column or not.
    """
    view.write()
    columns, i = view.columns, row.index
    found: dict[str, object] = {"usable": bool(columns.usable[i])}
    if not columns.usable[i]:  # what it held once may be read or compacted away: nothing is placed there
        return found
    found |= {"builds": int(columns.builds[i]), "instances": int(columns.instances[i]), "hash": row.host.hash}
    for name in columns.free:
        if columns.capacity[name][i]:
            units = (columns.unit_min[name][i], columns.unit_max[name][i], columns.unit_step[name][i])
            found[name] = (int(columns.free[name][i]), int(columns.capacity[name][i]), *map(int, units))
    found |= {f"trait {name}": True for name in view.traits if view.trait_column(name)[i]}
    return found | {f"group {group}": members[i] for group, members in view.groups.items() if i in members}


def wrong_columns(view: View) -> list[str]:
    """Where the columns are not what a plain look at the hosts and the claims laid over them says."""
    view.write()
    found = []
    for row in view.by_index:
        seen = columns_of(view, row)
        for name, plain in plainly(view, row).items():
            if seen.get(name) != plain:
                found.append(f"{row.host.name}: {name} is {seen.get(name)} in the columns and {plain} plainly")
    traits = Counter(trait for row in view.by_index for trait in row.host.traits)
    groups: dict[str, Counter[int]] = {}
    for row in view.by_index:
        held = [a.group for a in row.host.allocations.values()] + [overlay.group for overlay in row.pending]
        for group in filter(None, held):
            groups.setdefault(group, Counter())[row.index] += 1
    if (view.traits, view.groups) != (traits, groups):
        found.append(f"traits {view.traits} and groups {view.groups} are {traits} and {groups} plainly")
    return found


def columns_of(view: View, row: Row) -> dict[str, object]:
    """All that the columns hold of a host."""
    columns, i = view.columns, row.index
    found: dict[str, object] = {
        "usable": bool(columns.usable[i]),
        "builds": int(columns.builds[i]),
        "instances": int(columns.instances[i]),
    }
    for name in columns.free:
        units = (columns.unit_min[name][i], columns.unit_max[name][i], columns.unit_step[name][i])
        found[name] = (int(columns.free[name][i]), int(columns.capacity[name][i]), *map(int, units))
    return found | {f"trait {name}": bool(view.trait_column(name)[i]) for name in view.traits}


def plainly(view: View, row: Row) -> dict[str, object]:
    """What the columns must hold of a host, worked out from its state alone."""
    host, pending = row.host, row.pending
    held = [a.resources for a in host.allocations.values()] + [overlay.resources for overlay in pending]
    found: dict[str, object] = {
        "usable": not host.stale and not host.removed and row.status == "enabled",
        "builds": sum(a.building for a in host.allocations.values()) + len(pending),
        "instances": len(host.allocations) + len(pending),
    }
    for name in view.columns.free:
        item = host.inventory.get(name)
        capacity = min(item.capacity, AMOUNT_BOUND) if item else 0
        free = max(capacity - sum(resources.get(name, 0) for resources in held), -AMOUNT_BOUND)
        found[name] = (free, capacity, item.min_unit, item.unit_max, item.step_size) if item else (free, 0, 0, 0, 0)
    return found | {f"trait {name}": name in host.traits for name in view.traits}
