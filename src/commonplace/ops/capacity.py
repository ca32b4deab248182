"""What a pool has room for: per flavor how many more instances, in which zones and host classes, and what of the free amounts is of no use.

    fragmented   share of a class's free amount that stands on hosts where an instance drawn from the mix does not fit
                 (Weng et al., ATC'23, section 3: the fragment of a host is what its expected task cannot use)
    stranded     free amount on hosts where no flavor of the pool fits any more

The mix is that of the instances which the pool holds, of flavors that are known; all flavors alike while it holds none.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from msgspec import Struct

from commonplace.core.catalog import Catalog
from commonplace.core.columns import Bools, Ints
from commonplace.core.explaining import wishes_of
from commonplace.core.records.control import Flavor
from commonplace.core.records.requests import Build
from commonplace.core.room import bounds, divisible
from commonplace.core.rows import Row
from commonplace.core.view import View

MB_PER_GB = 1024

Count = Callable[[View, Catalog, Build], Ints]
"""Counts what each host has room for where division does not tell, by row."""


class FlavorRoom(Struct, frozen=True, kw_only=True):
    """How many more instances of one flavor fit while nothing else is placed; `refusal` says why it cannot be asked for.

    `bound_by` has the hosts by what runs out first on them, a resource class or `instances`, the profile's limit; empty where not known.
    """

    flavor: str
    resources: dict[str, int]
    fits: int
    hosts: int
    zones: dict[str, int]
    classes: dict[str, int]
    bound_by: dict[str, int]
    mix: float
    refusal: str = ""


class ClassRoom(Struct, frozen=True, kw_only=True):
    """One resource class over the hosts that may be ranked: in the class's unit, and shares of what is free."""

    resource: str
    capacity: int
    free: int
    usable: int
    fragmented: float
    stranded: int
    stranded_share: float


class Capacity(Struct, frozen=True, kw_only=True):
    """A pool's room. Figures of flavors are alternatives: what one takes, the others lose."""

    pool: str
    hosts: int
    ready: int
    flavors: list[FlavorRoom]
    resources: list[ClassRoom]
    zones: dict[str, int]
    classes: dict[str, int]
    elsewhere: int


def capacity(view: View, catalog: Catalog, count_cells: Count, only: Sequence[str] = ()) -> Capacity:
    """Count the room of a pool for its flavors, or for those named in `only`; the mix is of all."""
    view.write()
    rows = [row for row in view.by_index if not row.host.removed]
    ready = view.columns.usable[: view.columns.rows] & view.columns.alive[: view.columns.rows]
    served = {f.name: f for f in catalog.flavors.values() if catalog.pool_of(f) == catalog.pool}
    mix = mix_of(rows, served)
    found = {name: _room(view, catalog, flavor, count_cells) for name, flavor in served.items()}
    rooms = {name: one.counts for name, one in found.items()}
    zones = [catalog.aggregates.zone(row) for row in view.by_index]
    classes = [host_class(row) for row in view.by_index]
    return Capacity(
        pool=catalog.pool,
        hosts=len(rows),
        ready=int(ready.sum()),
        flavors=[
            FlavorRoom(
                flavor=name,
                resources=dict(served[name].resources),
                fits=int(rooms[name].sum()),
                hosts=int(np.count_nonzero(rooms[name])),
                zones=_by(zones, rooms[name]),
                classes=_by(classes, rooms[name]),
                bound_by=found[name].bound_by,
                mix=mix[name],
                refusal=found[name].refusal,
            )
            for name in sorted(served)
            if not only or name in only
        ],
        resources=_classes(view, ready, rooms, mix),
        zones=dict(Counter(zones[row.index] for row in rows if ready[row.index])),
        classes=dict(Counter(classes[row.index] for row in rows if ready[row.index])),
        elsewhere=len(catalog.flavors) - len(served),
    )


def mix_of(rows: Sequence[Row], flavors: Mapping[str, Flavor]) -> dict[str, float]:
    """Share of each flavor among the instances held; equal shares while none of the flavors is held."""
    held = Counter(one.flavor for row in rows for one in row.host.allocations.values() if one.flavor in flavors)
    if not held:
        return {name: 1 / len(flavors) for name in flavors}
    return {name: held[name] / held.total() for name in flavors}


def host_class(row: Row) -> str:
    """Hosts with the same inventory are of one class: `64vcpu:256gb:2000gb`, other resource classes by name."""
    inventory = row.host.inventory
    parts = []
    for name, unit in (("VCPU", "vcpu"), ("MEMORY_MB", "mb"), ("DISK_GB", "gb")):
        if name not in inventory:
            continue
        total = inventory[name].total
        whole = name == "MEMORY_MB" and total % MB_PER_GB == 0
        parts.append(f"{total // MB_PER_GB}gb" if whole else f"{total}{unit}")
    parts += [f"{name}={inventory[name].total}" for name in sorted(inventory.keys() - {"VCPU", "MEMORY_MB", "DISK_GB"})]
    return ":".join(parts) or "no inventory"


class _Counted(Struct, frozen=True):
    counts: Ints
    bound_by: dict[str, int] = {}
    refusal: str = ""


def _room(view: View, catalog: Catalog, flavor: Flavor, count_cells: Count) -> _Counted:
    build = Build(id="capacity", flavor=flavor.name)
    wishes = wishes_of(catalog, build)
    if isinstance(wishes, str):
        return _Counted(np.zeros(view.columns.rows, np.int64), refusal=wishes)
    if not divisible(view, wishes):
        return _Counted(count_cells(view, catalog, build))
    by_bound = bounds(view, wishes)
    least = np.min(list(by_bound.values()), axis=0)
    first = np.argmin(list(by_bound.values()), axis=0)[least > 0]
    names = list(by_bound)
    bound_by = Counter(names[index] for index in first.tolist())
    return _Counted(np.maximum(least, 0), dict(bound_by.most_common()))


def _by(names: Sequence[str], rooms: Ints) -> dict[str, int]:
    """Sums by name, most first; names without room are left out."""
    sums: Counter[str] = Counter()
    for index in np.flatnonzero(rooms).tolist():
        sums[names[index]] += int(rooms[index])
    return dict(sums.most_common())


def _classes(view: View, ready: Bools, rooms: Mapping[str, Ints], mix: Mapping[str, float]) -> list[ClassRoom]:
    columns, n = view.columns, view.columns.rows
    fits_nothing = ready.copy()
    unused = np.zeros(n)  # share of the mix that does not fit, per host
    for name, counts in rooms.items():
        fits_nothing &= counts == 0
        unused += mix[name] * (counts == 0)
    found = []
    for resource in columns.free:
        free = np.where(ready, np.maximum(columns.free[resource][:n], 0), 0)
        whole, stranded = int(free.sum()), int(free[fits_nothing].sum())
        fragments = float((free * unused).sum()) if rooms else 0.0
        found.append(
            ClassRoom(
                resource=resource,
                capacity=int(columns.capacity[resource][:n][ready].sum()),
                free=whole,
                usable=whole - round(fragments),
                fragmented=round(fragments / whole, 4) if whole else 0.0,
                stranded=stranded,
                stranded_share=round(stranded / whole, 4) if whole else 0.0,
            )
        )
    return found
