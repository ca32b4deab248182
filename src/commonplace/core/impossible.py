"""Requests that no host of the pool could ever take, whatever becomes free: said at once, with what is nearest to what was asked.

Looked at for refusals only. Hosts that are silent, stale or disabled count: they may come back.
"""

import difflib
from collections.abc import Collection, Iterable

import numpy as np

from commonplace.core.aggregates import NO_AGGREGATES
from commonplace.core.cells import Cells, cells_of, ratios_of
from commonplace.core.columns import Ints
from commonplace.core.laying import asks_cells, layout_of, plan, why_not
from commonplace.core.numa import Cell, Ratios
from commonplace.core.records.requests import Build
from commonplace.core.rules import Ask
from commonplace.core.view import View

NAMES_SHOWN = 5
SHAPES_MAX = 32
"""Shapes of hosts that are tried for cells: a search each, and a fleet of more is one of many kinds, where one may well do."""


def impossible(view: View, ask: Ask, build: Build) -> str:
    """Why no host could ever take an instance of a request: what, and what to do; "" while one could, or none is known at all."""
    view.write()
    if not any(not row.host.removed for row in view.by_index):
        return ""
    return (
        _host(view, build)
        or _zone(view, ask, build)
        or _traits(view, ask, build)
        or _size(view, ask)
        or _cells(view, ask)
    )


def _host(view: View, build: Build) -> str:
    row = view.rows.get(build.host)
    if not build.host or (row is not None and not row.host.removed):
        return ""
    known = [row.host.name for row in view.by_index if not row.host.removed]
    return f"no host {build.host!r} reports to this pool: {_near(build.host, known, 'see `commonplace hosts`')}"


def _zone(view: View, ask: Ask, build: Build) -> str:
    if not build.zone:
        return ""
    aggregates = ask.rules.aggregates if ask.rules is not None else NO_AGGREGATES
    zones = {aggregates.zone(row) for row in view.by_index if not row.host.removed}
    if build.zone in zones:
        return ""
    return f"no host is in zone {build.zone!r}: {_near(build.zone, zones, f'there are {_listed(zones)}')}"


def _traits(view: View, ask: Ask, build: Build) -> str:
    for name in ask.traits_required:
        if name not in view.traits:
            return f"no host has trait {name}: {_near(name, view.traits, 'see `commonplace host show`')}"
    for names in build.traits_any_of:
        if names and not view.traits.keys() & set(names):
            return f"no host has any of the traits {_listed(names)}: {_near(names[0], view.traits, 'ask for one that hosts have')}"
    return ""


def _size(view: View, ask: Ask) -> str:
    """A class that no host has, an amount that none takes, or amounts that none takes together."""
    most: dict[str, Ints] = {}
    for name, amount in ask.resources:
        if name not in view.columns.free or not (takes := _most(view, name)).any():
            return f"no host has any {name}: {_near(name, view.columns.free, 'see `commonplace hosts -o wide`')}"
        most[name] = takes
        if amount > (largest := int(takes.max())):
            host = view.by_index[int(takes.argmax())].host.name
            return f"no host could ever hold {amount} {name}: the largest, {host}, takes {largest}: ask for less, or add larger hosts"
    fits = np.all([most[name] >= amount for name, amount in ask.resources], axis=0)
    if fits.any():
        return ""
    lacks = np.sum([np.maximum(amount - most[name], 0) / amount for name, amount in ask.resources], axis=0)
    nearest = int(lacks.argmin())
    has = ", ".join(f"{int(most[name][nearest])} {name}" for name, _ in ask.resources)
    return (
        f"no host could ever hold all of it at once: {view.by_index[nearest].host.name} comes closest, with {has}: "
        "ask for less, or add larger hosts"
    )


def _cells(view: View, ask: Ask) -> str:
    """Cells, devices or groups that no host could lay on its cells, were they empty; hosts of one shape are asked once."""
    flavor = ask.rules.flavor if ask.rules is not None else None
    if flavor is None or not asks_cells(flavor):
        return ""
    shapes: dict[tuple[int, Ratios], tuple[str, Cells]] = {}
    for row in view.by_index:
        if not row.host.removed:
            cells, ratios = cells_of(row.host.reported_cells), ratios_of(row.host.inventory)
            shapes.setdefault((id(cells), ratios), (row.host.name, cells))
            if len(shapes) > SHAPES_MAX:
                return ""
    for (_, ratios), (_, cells) in shapes.items():
        if not cells and not (flavor.cells or flavor.devices or flavor.groups):
            return ""  # counts dedicated cpus in sum only
        if cells and plan(cells, layout_of(flavor, flavor.resources, cells), ratios) is not None:
            return ""
    (_, ratios), (host, largest) = max(shapes.items(), key=lambda item: max(map(_cpus, item[1][1].values()), default=0))
    if not largest:
        return f"no host says its cells, which flavor {flavor.name} asks for: have agents report them, or ask without"
    why = why_not(largest, layout_of(flavor, flavor.resources, largest), ratios)
    return f"no host could ever lay it on its cells: {host}, with the largest, {why}: ask for smaller cells, or add larger hosts"


def _cpus(cell: Cell) -> int:
    return len(cell.shared) + len(cell.dedicated)


def _most(view: View, name: str) -> Ints:
    """The largest amount of a class that one allocation could take of each host, were it empty."""
    columns, n = view.columns, view.columns.rows
    most: Ints = np.minimum(columns.capacity[name][:n], columns.unit_max[name][:n])
    return most


def _near(name: str, known: Iterable[str], otherwise: str) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else otherwise


def _listed(names: Collection[str]) -> str:
    shown = sorted(names)[:NAMES_SHOWN]
    return ", ".join(shown) + (" …" if len(names) > len(shown) else "")
