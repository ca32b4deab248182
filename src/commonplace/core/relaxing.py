"""What would make a request fit: each single constraint dropped or relaxed, and how many hosts it then has.

Only hosts that one filter alone turns away can be won so; of a filter with several parts (traits, hints, aggregates) each part is tried.
"""

from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from commonplace.core.columns import Bools
from commonplace.core.rows import Row
from commonplace.core.rules import Rules, Wishes
from commonplace.core.turned_away import Failures
from commonplace.core.view import View

ZONES_SHOWN = 3
VOLUMES = "DISK_GB"
"""The class that a request booted from a volume does not ask of its host."""
FORBIDDEN = "!"
"""Begins the part that names a forbidden trait."""


class Relaxed(Struct, frozen=True, kw_only=True):
    """One constraint asked otherwise: `part` of what `filter` goes by becomes `to` ("": dropped), and `hosts` pass everything."""

    filter: str
    part: str = ""
    to: str = ""
    hosts: int


Parts = Iterator[tuple[str, Wishes]]
"""Parts of a constraint by name, each with the request that lacks it."""


def relaxations(view: View, wishes: Wishes, failed: Failures) -> list[Relaxed]:
    """Every single change that wins at least one host, most hosts first; within a filter its parts."""
    times = np.sum([mask for _, mask in failed.masks], axis=0)
    found: list[Relaxed] = []
    for name, mask in failed.masks:
        alone = mask & (times == 1)
        if alone.any():
            found += _BY_FILTER.get(name, _dropped)(view, wishes, name, alone)
    return sorted((one for one in found if one.hosts), key=lambda one: -one.hosts)


def _rows(view: View, mask: Bools) -> list[Row]:
    return [view.by_index[index] for index in np.flatnonzero(mask).tolist()]


# --- by filter ---------------------------------------------------------------------------------------------------------


def _dropped(view: View, wishes: Wishes, name: str, alone: Bools) -> list[Relaxed]:
    """Part by part where the filter goes by several, else the whole filter."""
    if name not in _PARTS:
        return [Relaxed(filter=name, hosts=int(alone.sum()))]
    rows = _rows(view, alone)
    plain = next(one for one in wishes.rules.filters if one.name == name)
    return [
        Relaxed(
            filter=name,
            part=part,
            hosts=sum(not plain.applies(without) or plain.plain(view, row, without) == "" for row in rows),
        )
        for part, without in _PARTS[name](wishes)
    ]


def _status(view: View, wishes: Wishes, name: str, alone: Bools) -> list[Relaxed]:
    said = Counter(_standing(row) for row in _rows(view, alone))
    return [Relaxed(filter=name, part=standing, hosts=hosts) for standing, hosts in said.items()]


def _standing(row: Row) -> str:
    """Why a host is not ranked, in one word: reasons of stale ones differ from host to host."""
    if row.host.version:
        return "newer"
    return "stale" if row.host.stale else row.status


def _traits(view: View, wishes: Wishes, name: str, alone: Bools) -> list[Relaxed]:
    required, forbidden = wishes.ask.traits_required, wishes.ask.traits_forbidden
    single: Counter[str] = Counter()
    for row in _rows(view, alone):
        in_the_way = [one for one in required if one not in row.host.traits]
        in_the_way += [FORBIDDEN + one for one in forbidden if one in row.host.traits]
        if len(in_the_way) == 1:
            single[in_the_way[0]] += 1
    return [Relaxed(filter=name, part=part, hosts=hosts) for part, hosts in single.items()]


def _capacity(view: View, wishes: Wishes, name: str, alone: Bools) -> list[Relaxed]:
    """Per class the largest amount that a host has which lacks nothing else, less than what is asked; disk may also be a volume's."""
    rooms = {resource: _room(view, resource) for resource, _ in wishes.ask.resources}
    short = {resource: rooms[resource] < amount for resource, amount in wishes.ask.resources}
    for resource, amount in wishes.ask.resources:  # a host may have the room, and still not allow this amount
        short[resource] |= ~_allowed(view, resource, amount)
    count = np.sum(list(short.values()), axis=0)
    found = []
    for resource, amount in wishes.ask.resources:
        only = alone & short[resource] & (count == 1)
        if resource == VOLUMES:
            found.append(Relaxed(filter=name, part=resource, hosts=int(only.sum())))
        room = np.where(only, rooms[resource], 0)
        most = int(room.max(initial=0))
        if 0 < most < amount:
            found.append(Relaxed(filter=name, part=resource, to=str(most), hosts=int((room == most).sum())))
    return found


def _room(view: View, resource: str) -> np.ndarray:
    """The largest amount of a class that one allocation may take now, per host."""
    columns, n = view.columns, view.columns.rows
    if resource not in columns.free:
        return np.zeros(n, np.int64)
    room = np.minimum(columns.free[resource][:n], columns.unit_max[resource][:n])
    room -= room % np.maximum(columns.unit_step[resource][:n], 1)
    return np.where(room >= np.maximum(columns.unit_min[resource][:n], 1), room, 0)


def _allowed(view: View, resource: str, amount: int) -> Bools:
    columns, n = view.columns, view.columns.rows
    if resource not in columns.free:
        return np.zeros(n, np.bool_)
    in_steps: Bools = amount % np.maximum(columns.unit_step[resource][:n], 1) == 0
    return in_steps & (columns.unit_min[resource][:n] <= amount) & (columns.unit_max[resource][:n] >= amount)


def _zone(view: View, wishes: Wishes, name: str, alone: Bools) -> list[Relaxed]:
    zones = Counter(wishes.aggregates.zone(row) for row in _rows(view, alone))
    asked = wishes.build.zone
    named = [Relaxed(filter=name, part=asked, to=zone, hosts=n) for zone, n in zones.most_common(ZONES_SHOWN)]
    return [Relaxed(filter=name, part=asked, hosts=zones.total()), *named]


def _group(view: View, wishes: Wishes, name: str, alone: Bools) -> list[Relaxed]:
    """The limit that would do on the hosts with the fewest members."""
    members = view.groups.get(wishes.build.group, {})
    counts = Counter(members.get(index, 0) + 1 for index in np.flatnonzero(alone).tolist())
    least = min(counts)
    return [Relaxed(filter=name, part=wishes.build.group, to=str(least), hosts=counts[least])]


_BY_FILTER: dict[str, Callable[[View, Wishes, str, Bools], list[Relaxed]]] = {
    "status": _status,
    "traits": _traits,
    "capacity": _capacity,
    "availability_zone": _zone,
    "group": _group,
}


# --- part by part ------------------------------------------------------------------------------------------------------


def _asked(wishes: Wishes, **changes: object) -> Wishes:
    return Wishes(replace(wishes.build, **changes), wishes.ask, wishes.rules)


def _flavored(wishes: Wishes, **changes: object) -> Wishes:
    old = wishes.rules
    rules = Rules(replace(old.flavor, **changes), old.profile, old.aggregates, old.filters, -1, old.mix)
    return Wishes(wishes.build, wishes.ask, rules)


def _ignored(wishes: Wishes) -> Parts:
    hosts = wishes.build.hosts_ignored
    for host in hosts:
        yield host, _asked(wishes, hosts_ignored=tuple(one for one in hosts if one != host))


def _members(wishes: Wishes) -> Parts:
    items = wishes.build.member_of
    for item in items:
        yield item, _asked(wishes, member_of=tuple(one for one in items if one != item))


def _any_of(wishes: Wishes) -> Parts:
    sets = wishes.build.traits_any_of
    for index, names in enumerate(sets):
        yield ", ".join(names), _asked(wishes, traits_any_of=(*sets[:index], *sets[index + 1 :]))


def _specs(wishes: Wishes) -> Parts:
    specs = wishes.flavor.extra_specs
    for key, value in specs.items():
        yield f"{key}={value}", _flavored(wishes, extra_specs={k: v for k, v in specs.items() if k != key})


def _properties(wishes: Wishes) -> Parts:
    properties = wishes.build.image_properties
    for key, value in properties.items():
        rest = {k: v for k, v in properties.items() if k != key}
        yield f"{key}={value}", _asked(wishes, image_properties=rest)


_PARTS: dict[str, Callable[[Wishes], Parts]] = {
    "ignored_hosts": _ignored,
    "member_of": _members,
    "traits_any_of": _any_of,
    "compute_capabilities": _specs,
    "aggregate_instance_extra_specs": _specs,
    "image_properties": _properties,
    "aggregate_image_properties_isolation": _properties,
}
"""Filters that go by several things, any of which may be what is in the way."""
