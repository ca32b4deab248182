"""Which cells of a host a request takes, and how much of each: what its claim names.

The best cell comes first: the one with fewest free devices unless devices are asked for, so that these stay for who needs them; then the
one with least room, so that others stay whole. Of the ways to lay all cells the first in that order that also has the devices.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence

from msgspec import Struct

from commonplace.core import grouping
from commonplace.core.cells import CPUS, DEDICATED, MEMORY, PAGES, Cells, Terms, exclusive, taken_of
from commonplace.core.grouping import Units, place, units_of
from commonplace.core.numa import Cell, Ratios, device_room, lay, misfit, page_kb
from commonplace.core.records.control import CellAsk, DeviceAsk, Flavor
from commonplace.core.records.fields import Threads
from commonplace.core.resources import RATIO_SCALE, Resources

_KB = 1024


def asks_cells(flavor: Flavor) -> bool:
    """Whether a flavor asks for cells, devices or dedicated cpus, so that a host's sums do not say whether it fits."""
    return bool(flavor.cells or flavor.devices or flavor.groups or DEDICATED in flavor.resources)


class Wanted(Struct, frozen=True):
    """Devices of one class, counted in shares: of each device `shares`, 0: as many as it has."""

    resource_class: str
    amount: int
    shares: int
    policy: str


class Layout(Struct, frozen=True):
    """What a request asks of a host's cells."""

    cells: tuple[CellAsk, ...] = ()
    devices: tuple[Wanted, ...] = ()
    groups: Units = ()
    isolate: bool = False  # no two groups on one cell

    @property
    def terms(self) -> Terms:
        """What the claim says beside amounts."""
        threads: Threads = next((ask.threads for ask in self.cells if ask.cpus_dedicated), "prefer")
        return Terms(threads, {one.resource_class: one.shares for one in self.devices if one.shares})


def layout_of(flavor: Flavor | None, resources: Resources, cells: Cells) -> Layout:
    """What a flavor (None: one that names neither cells nor devices) comes to on a host with these cells.

    Dedicated cpus without cells are one cell with all that the flavor asks; devices it does not describe may lie anywhere.
    """
    if flavor is not None and flavor.groups:
        return Layout(groups=units_of(flavor), isolate=flavor.group_policy == "isolate")
    asks: tuple[CellAsk, ...] = flavor.cells if flavor else ()
    named: tuple[DeviceAsk, ...] = flavor.devices if flavor else ()
    by_number = exclusive(cells)
    if not asks and DEDICATED in by_number and resources.get(DEDICATED):
        asks = (
            CellAsk(
                cpus=resources.get(CPUS, 0), cpus_dedicated=resources[DEDICATED], memory_mb=resources.get(MEMORY, 0)
            ),
        )
    devices = [Wanted(one.resource_class, one.count * one.shares, one.shares, one.policy) for one in named]
    known = {one.resource_class for one in named} | {DEDICATED}
    devices += [
        Wanted(name, amount, 0, "preferred")
        for name, amount in resources.items()
        if name in by_number - known and amount
    ]
    return Layout(asks, tuple(devices))


def plan(
    cells: Cells, layout: Layout, ratios: Ratios, networks: Collection[str] = ()
) -> dict[str, dict[str, int]] | None:
    """Amounts by cell and class that a claim names, when there is a way to lay all of it, else None."""
    asks = layout.cells
    order = _best_first(cells, asks, bool(layout.devices or layout.groups), ratios)
    if layout.groups:
        return place(order, layout.groups, layout.isolate, ratios, networks)
    for devices in _by_preference(layout.devices):

        def served(chosen: Sequence[str], devices: Sequence[Wanted] = devices) -> bool:
            return all(_room(order, one, chosen) >= one.amount for one in devices)

        seats = lay(order, asks, ratios, networks, served if devices else None)
        if seats or (not asks and served(())):
            return _amounts(order, asks, seats, devices)
    return None


def _by_preference(devices: tuple[Wanted, ...]) -> Iterator[list[Wanted]]:
    """First as if what is preferred were required, then without."""
    strict = [
        Wanted(d.resource_class, d.amount, d.shares, "required") if d.policy == "preferred" else d for d in devices
    ]
    yield strict
    if strict != list(devices):
        yield list(devices)


def _best_first(cells: Cells, asks: tuple[CellAsk, ...], devices: bool, ratios: Ratios) -> dict[str, Cell]:
    dedicated = any(ask.cpus_dedicated for ask in asks)

    def key(item: tuple[str, Cell]) -> tuple[int, int, int, int, str]:
        name, cell = item
        cpus = (
            len(cell.free_dedicated) if dedicated else len(cell.shared) * ratios.cpu // RATIO_SCALE - cell.shared_used
        )
        spare = 0 if devices else sum(device.free > 0 for device in cell.devices)
        return spare, cpus, cell.memory_mb - cell.memory_used_mb, len(name), name

    return dict(sorted(cells.items(), key=key))


def _allowed(cells: Cells, one: Wanted, chosen: Sequence[str]) -> Iterator[str]:
    """The cells that may give a device to an instance on the chosen ones, these first."""
    yield from chosen
    sockets = {cells[name].socket for name in chosen} - {-1}
    for name, cell in cells.items():
        if name not in chosen and (
            not chosen
            or one.policy == "preferred"
            or (one.policy == "legacy" and not (cell.shared or cell.dedicated or cell.memory_mb))
            or (one.policy == "socket" and cell.socket in sockets)
        ):
            yield name


def _room(cells: Cells, one: Wanted, chosen: Sequence[str]) -> int:
    return sum(device_room(cells[name], one.resource_class, one.shares) for name in _allowed(cells, one, chosen))


def _amounts(
    cells: Cells, asks: tuple[CellAsk, ...], seats: tuple[str, ...], devices: Sequence[Wanted]
) -> dict[str, dict[str, int]]:
    taken: dict[str, dict[str, int]] = {name: {} for name in seats}
    for name, ask in zip(seats, asks, strict=True):
        amounts = {CPUS: ask.cpus, DEDICATED: ask.cpus_dedicated, MEMORY: ask.memory_mb}
        if ask.page_kb and (size := page_kb(cells[name], ask)):
            amounts[f"{PAGES}{size}"] = ask.memory_mb * _KB // size
        taken[name] = {resource: amount for resource, amount in amounts.items() if amount}
    for one in devices:
        left = one.amount
        for name in _allowed(cells, one, seats):
            given = min(left, device_room(cells[name], one.resource_class, one.shares))
            if given:
                taken.setdefault(name, {})[one.resource_class] = given
                left -= given
    return {name: amounts for name, amounts in taken.items() if amounts}


def why_not(cells: Cells, layout: Layout, ratios: Ratios) -> str:
    """Why `plan` found no way, in words."""
    asks = layout.cells
    if layout.groups:
        return grouping.why_not(cells, layout.groups, layout.isolate, ratios)
    if len(asks) > len(cells):
        return f"has {len(cells)} cells for {len(asks)}"
    for ask in asks:
        reasons = [misfit(cell, ask, ratios) for cell in cells.values()]
        if all(reasons):
            return reasons[0]
    for one in layout.devices:
        if (room := _room(cells, one, ())) < one.amount:
            return f"needs {one.amount} {one.resource_class}, {room} free" + (
                f" by {one.shares} a device" if one.shares > 1 else ""
            )
    return "its cells fit one by one, not together or not near the networks or devices"


def misuse(flavor: Flavor) -> str:
    """Why a flavor's cells and devices cannot be served as they stand: what, and what to do; "" when they can."""
    if flavor.groups or flavor.group_policy:
        return grouping.misuse(flavor)
    asks = flavor.cells
    held: Mapping[str, Mapping[str, int]] = {
        str(index): {CPUS: ask.cpus, DEDICATED: ask.cpus_dedicated, MEMORY: ask.memory_mb}
        for index, ask in enumerate(asks)
    }
    for name in (CPUS, DEDICATED, MEMORY) if asks else ():
        whole, parts = flavor.resources.get(name, 0), taken_of(held, name)
        if parts > whole or (name == DEDICATED and parts < whole):
            return f"its cells take {parts} {name}, its resources name {whole}: set resources {name} to {parts}"
    if len({ask.threads for ask in asks if ask.cpus_dedicated}) > 1:
        return "its cells have several thread policies: give all of them the same"
    for one in flavor.devices:
        name, parts = one.resource_class, one.count * one.shares
        if sum(other.resource_class == name for other in flavor.devices) > 1:
            return f"it asks for devices {name} twice: ask once, with their count"
        if flavor.resources.get(name, 0) != parts:
            return f"its devices take {parts} {name}, its resources name {flavor.resources.get(name, 0)}: set resources {name} to {parts}"
    return ""
