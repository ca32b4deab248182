"""Granular groups of a flavor: resources that must come from one cell of a host together, and whether groups may share a cell.

    groups ──those beside one another become one──▶ units ──each to one cell, all ways tried──▶ amounts by cell

A host's ledger is told the sums per cell, so a way is good when the sum of the units on each cell fits it.
"""

from collections.abc import Collection, Iterator, Mapping

from commonplace.core.cells import CPUS, DEDICATED, MEMORY, Cells
from commonplace.core.numa import Cell, Ratios, device_room, misfit
from commonplace.core.records.control import CellAsk, Flavor, GroupAsk

Amounts = Mapping[str, int]
Units = tuple[tuple[tuple[str, int], ...], ...]
"""What each unit takes, by class."""


def units_of(flavor: Flavor) -> Units:
    """The groups of a flavor whose `misuse` has nothing to say, those beside one another as one."""
    by_name = {one.name: one for one in flavor.groups}
    units: dict[str, dict[str, int]] = {}
    for one in flavor.groups:
        unit = units.setdefault(_root(one, by_name), {})
        for name, amount in one.resources.items():
            unit[name] = unit.get(name, 0) + amount
    return tuple(tuple(sorted(unit.items())) for unit in units.values())


def _root(one: GroupAsk, by_name: Mapping[str, GroupAsk]) -> str:
    while one.beside:
        one = by_name[one.beside]
    return one.name


def place(
    cells: Cells, units: Units, isolate: bool, ratios: Ratios, networks: Collection[str] = ()
) -> dict[str, dict[str, int]] | None:
    """Amounts by cell and class, when there is a way to give each unit a cell, no cell twice where they isolate; else None.

    The first way in the order of `cells`. Of cells that are alike one is tried, so that empty hosts cost no search.
    """
    near = [{name for name, cell in cells.items() if one in cell.networks} for one in networks]
    near = [names for names in near if names]
    # those with dedicated cpus first: a cell that gives some is weighed by other rules, so none may come to a cell later
    order = sorted(range(len(units)), key=lambda i: (DEDICATED not in dict(units[i]), -sum(n for _, n in units[i])))
    load: dict[str, dict[str, int]] = {}

    def seat(depth: int) -> bool:
        if depth == len(order):
            return all(not names.isdisjoint(load) for names in near)
        met: list[tuple[object, object]] = []
        for name, cell in cells.items():
            if isolate and name in load:
                continue
            before = load.get(name)
            alike = (cell, before)
            if not near and alike in met:
                continue
            met.append(alike)
            both = _sum(before or {}, units[order[depth]])
            if fits(cell, both, ratios):
                load[name] = both
                if seat(depth + 1):
                    return True
                if before is None:
                    del load[name]
                else:
                    load[name] = before
        return False

    return {name: load[name] for name in cells if name in load} if seat(0) else None


def _sum(one: Amounts, other: tuple[tuple[str, int], ...]) -> dict[str, int]:
    total = dict(one)
    for name, amount in other:
        total[name] = total.get(name, 0) + amount
    return total


def fits(cell: Cell, amounts: Amounts, ratios: Ratios) -> bool:
    """Whether a cell has all of some amounts free together."""
    return not next(_lacks(cell, amounts, ratios), "")


def _lacks(cell: Cell, amounts: Amounts, ratios: Ratios) -> Iterator[str]:
    for name, amount in amounts.items():
        if name not in (CPUS, DEDICATED, MEMORY) and (room := device_room(cell, name, 0)) < amount:
            yield f"needs {amount} {name} in one cell, {room} free"
    cpus, dedicated, memory = (amounts.get(name, 0) for name in (CPUS, DEDICATED, MEMORY))
    if cpus or dedicated or memory:
        yield misfit(cell, CellAsk(cpus=cpus, cpus_dedicated=dedicated, memory_mb=memory), ratios)


def why_not(cells: Cells, units: Units, isolate: bool, ratios: Ratios) -> str:
    """Why `place` found no way, in words."""
    if isolate and len(units) > len(cells):
        return f"has {len(cells)} cells for {len(units)} groups, which isolate"
    for unit in units:
        reasons = [next(filter(None, _lacks(cell, dict(unit), ratios)), "") for cell in cells.values()]
        if all(reasons):
            return reasons[0]
    return "its groups fit one by one, not together or not near the networks"


def misuse(flavor: Flavor) -> str:
    """Why a flavor's groups cannot be served as they stand: what, and what to do; "" when they can."""
    if not flavor.groups:
        return (
            "its group_policy says how groups lie, and it has none: name groups, or drop it"
            if flavor.group_policy
            else ""
        )
    if flavor.cells or flavor.devices:
        return "it has groups beside cells or devices, which would take the same resources twice: describe it by groups alone, or without"
    by_name = {one.name: one for one in flavor.groups}
    if len(by_name) < len(flavor.groups):
        names = [one.name for one in flavor.groups]
        twice = next(name for name in names if names.count(name) > 1)
        return f"two groups are called {twice}: give each its own name"
    for one in flavor.groups:
        if why := _beside(one, by_name, flavor.group_policy):
            return why
    total: dict[str, int] = {}
    for one in flavor.groups:
        total = _sum(total, tuple(one.resources.items()))
    for name, parts in total.items():
        whole = flavor.resources.get(name, 0)
        if parts > whole or (name not in (CPUS, MEMORY) and parts < whole):
            return f"its groups take {parts} {name}, its resources name {whole}: set resources {name} to {parts}"
    return ""


def _beside(one: GroupAsk, by_name: Mapping[str, GroupAsk], policy: str) -> str:
    if not one.beside:
        return ""
    if policy == "isolate":
        return f"group {one.name} is to lie beside {one.beside}, and group_policy isolate keeps groups apart: drop one of the two"
    met = [one.name]
    while one.beside:
        if one.beside not in by_name:
            return f"group {one.name} is to lie beside {one.beside}, which is no group of it: name one of {', '.join(by_name)}"
        one = by_name[one.beside]
        if one.name in met:
            return f"groups go round in a circle, {' beside '.join([*met[met.index(one.name) :], one.name])}: drop one beside"
        met.append(one.name)
    return ""
