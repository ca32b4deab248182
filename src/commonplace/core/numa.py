"""Whether an instance's NUMA cells fit the cells of a host, exactly: if there is a way to lay them, it is found.

    dedicated cpus   are free ones of the cell, by the thread policy; with them memory is not oversubscribed either
    shared cpus      cell's cpus × ratio, memory × ratio; never more than the cell has for one instance
    pages            free pages of the size asked for; memory a multiple of it
    networks         where cells of the host are near one that is asked for, one of them is among those taken

What is used of a cell is in the cells of the host's allocations (VCPU, PCPU, MEMORY_MB, PAGES_<SIZE_KB>, classes of devices), and which
cpus and devices in what the ledger assigned them (cells.py).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import combinations

from msgspec import Struct

from commonplace.core.cpu_lists import Cpus
from commonplace.core.records.control import CellAsk
from commonplace.core.resources import RATIO_SCALE

_KB = 1024


class DeviceRoom(Struct, frozen=True, gc=False):
    """One device of a cell: how many of its shares are free, and how many it has."""

    resource_class: str
    id: str
    free: int
    shares: int


class Cell(Struct, frozen=True):
    """One cell of a host and what is used of it; `pages`: size in kB, free pages, all pages."""

    shared: Cpus = frozenset()
    dedicated: Cpus = frozenset()
    pinned: Cpus = frozenset()
    siblings: tuple[Cpus, ...] = ()
    memory_mb: int = 0
    pages: tuple[tuple[int, int, int], ...] = ()
    shared_used: int = 0
    memory_used_mb: int = 0
    networks: frozenset[str] = frozenset()
    devices: tuple[DeviceRoom, ...] = ()
    socket: int = -1

    @property
    def free_dedicated(self) -> Cpus:
        """Dedicated cpus that no instance has."""
        return self.dedicated - self.pinned


class Ratios(Struct, frozen=True):
    """How far shared cpus and memory may be oversubscribed, in thousandths."""

    cpu: int = RATIO_SCALE
    memory: int = RATIO_SCALE


def lay(
    cells: Mapping[str, Cell],
    asks: tuple[CellAsk, ...],
    ratios: Ratios,
    networks: Collection[str] = (),
    also: Callable[[tuple[str, ...]], bool] | None = None,
) -> tuple[str, ...]:
    """Which host cell each cell of the instance goes to, when there is a way that fits all of them, else ().

    Each in turn takes the first of `cells` that leaves the others a place. `also` says whether a set of host cells will do.
    """
    by_ask = {ask: {name for name, cell in cells.items() if not misfit(cell, ask, ratios)} for ask in set(asks)}
    if not all(by_ask.values()):
        return ()
    fits = [by_ask[ask] for ask in asks]
    near = [{name for name, cell in cells.items() if one in cell.networks} for one in networks]
    near = [names for names in near if names]
    if not near and also is None:
        return _seats(fits, tuple(cells))
    for chosen in combinations(
        cells, len(asks)
    ):  # at most 12,870 of 16 cells, and only where networks or devices are asked for
        if (
            all(not names.isdisjoint(chosen) for names in near)
            and (also is None or also(chosen))
            and (seats := _seats(fits, chosen))
        ):
            return seats
    return ()


def _seats(fits: Sequence[set[str]], open_to: tuple[str, ...]) -> tuple[str, ...]:
    """A cell of `open_to` for each ask, no cell twice (Kuhn's matching); () when there is no such way."""
    taken: dict[str, int] = {}

    def seat(index: int, met: set[str]) -> bool:
        for name in open_to:
            if name in fits[index] and name not in met:
                met.add(name)
                if name not in taken or seat(taken[name], met):
                    taken[name] = index
                    return True
        return False

    if not all(seat(index, set()) for index in range(len(fits))):
        return ()
    return tuple(sorted(taken, key=taken.__getitem__))


def misfit(cell: Cell, ask: CellAsk, ratios: Ratios) -> str:
    """Why a cell of an instance does not fit a cell of a host, or ""."""
    return _memory_misfit(cell, ask) or (
        _dedicated_misfit(cell, ask, ratios) if ask.cpus_dedicated else _shared_misfit(cell, ask, ratios)
    )


def _memory_misfit(cell: Cell, ask: CellAsk) -> str:
    if ask.page_kb:
        if page_kb(cell, ask):
            return ""
        wanted = _sizes(cell, ask)
        return f"no free pages of {'/'.join(map(str, wanted)) or 'that size'} kB for {ask.memory_mb} MB"
    if cell.pages:
        smallest = min(size for size, _, _ in cell.pages)
        return (
            ""
            if any(size == smallest and _in_pages(ask, size, total) for size, _, total in cell.pages)
            else f"{ask.memory_mb} MB are more than its pages of {smallest} kB hold"
        )
    return f"needs {ask.memory_mb} MB, a cell has {cell.memory_mb}" if ask.memory_mb > cell.memory_mb else ""


def page_kb(cell: Cell, ask: CellAsk) -> int:
    """Size of the pages that an instance gets: the largest that it takes and the cell has enough of; 0 when there are none."""
    wanted = _sizes(cell, ask)
    return max((size for size, free, _ in cell.pages if size in wanted and _in_pages(ask, size, free)), default=0)


def _sizes(cell: Cell, ask: CellAsk) -> list[int]:
    sizes = sorted(size for size, _, _ in cell.pages)
    return {-1: sizes[:1], -2: sizes[1:], -3: sizes}.get(ask.page_kb, [ask.page_kb])


def _in_pages(ask: CellAsk, size_kb: int, count: int) -> bool:
    return ask.memory_mb * _KB <= size_kb * count and ask.memory_mb * _KB % size_kb == 0


def _cpus_misfit(cell: Cell, ask: CellAsk, ratios: Ratios) -> str:
    if ask.cpus > len(cell.shared):
        return f"needs {ask.cpus} shared cpus, a cell has {len(cell.shared)}"
    if (cell.shared_used + ask.cpus) * RATIO_SCALE > len(cell.shared) * ratios.cpu:
        return f"needs {ask.cpus} shared cpus beside the {cell.shared_used} used of {len(cell.shared)}"
    return ""


def _shared_misfit(cell: Cell, ask: CellAsk, ratios: Ratios) -> str:
    if why := _cpus_misfit(cell, ask, ratios):
        return why
    if (cell.memory_used_mb + ask.memory_mb) * RATIO_SCALE > cell.memory_mb * ratios.memory:
        return f"needs {ask.memory_mb} MB beside the {cell.memory_used_mb} used of {cell.memory_mb}"
    return ""


def _dedicated_misfit(cell: Cell, ask: CellAsk, ratios: Ratios) -> str:
    wanted, free = ask.cpus_dedicated, cell.free_dedicated
    # who has cpus that the host gives nobody any more counts all the same
    room = len(free) - len(cell.pinned - cell.dedicated)
    if wanted > room:
        return f"needs {wanted} dedicated cpus, {max(0, room)} free"
    if ask.cpus and (why := _cpus_misfit(cell, ask, ratios)):
        return why
    if ask.memory_mb > cell.memory_mb - cell.memory_used_mb:
        return f"needs {ask.memory_mb} MB, {cell.memory_mb - cell.memory_used_mb} free"
    cores = cell.siblings or tuple(frozenset({cpu}) for cpu in cell.dedicated)
    threads = max(map(len, cores), default=1)
    idle = [len(core & free) for core in cores]
    if ask.threads == "require":
        most = max((side * sum(count >= side for count in idle) for side in range(2, threads + 1)), default=0)
        return f"needs {wanted} threads on shared cores, {most} free" if most < wanted else ""
    if ask.threads == "isolate":
        if threads > 1 and cell.dedicated != cell.shared:
            return "has several threads a core: a core cannot be held by one of them"
        whole = sum(count == threads for count in idle)
        return f"needs {wanted} whole cores, {whole} free" if whole < wanted else ""
    return ""


def pick_cpus(cell: Cell, wanted: int, threads: str) -> Cpus:
    """The dedicated cpus that an instance for which `misfit` has nothing to say gets, the same for the same cell.

    Whole cores as far as they go, then the core with least to spare; `require` takes as many threads of each core as it can, `isolate`
    whole cores, whose other threads stay idle. Of equal cores the one with the lowest cpu.
    """
    free = cell.free_dedicated
    cores = cell.siblings or tuple(frozenset({cpu}) for cpu in cell.dedicated)
    idle = [sorted(core & free) for core in cores]
    most = max(map(len, cores), default=1)
    if threads == "isolate":
        whole = sorted(cpus for cpus in idle if len(cpus) == most)
        return frozenset(cpu for core in whole[:wanted] for cpu in core)
    if threads == "require":
        side = max(n for n in range(2, most + 1) if n * sum(len(cpus) >= n for cpus in idle) >= wanted)
        roomy = sorted((cpus for cpus in idle if len(cpus) >= side), key=lambda cpus: (len(cpus), cpus))
        return frozenset([cpu for cpus in roomy for cpu in cpus[:side]][:wanted])
    idle.extend([cpu] for cpu in free.difference(*cores))
    return _packed([cpus for cpus in idle if cpus], wanted)


def _packed(idle: list[list[int]], wanted: int) -> Cpus:
    taken: list[int] = []
    while left := wanted - len(taken):
        fitting = [cpus for cpus in idle if len(cpus) <= left]
        core = (
            min(fitting, key=lambda cpus: (-len(cpus), cpus))
            if fitting
            else min(idle, key=lambda cpus: (len(cpus), cpus))
        )
        taken.extend(core[:left])
        idle.remove(core)
    return frozenset(taken)


def device_room(cell: Cell, resource_class: str, shares: int) -> int:
    """Shares of a class that can be had in a cell when each device gives exactly `shares` (0: as many as it has free)."""
    free = (device.free for device in cell.devices if device.resource_class == resource_class)
    return sum(shares for one in free if one >= shares) if shares else sum(free)


def pick_devices(cell: Cell, resource_class: str, amount: int, shares: int) -> dict[str, int]:
    """Shares by device that an instance gets, `amount` in all, at most `device_room`: from the devices with least to spare, then by id."""
    devices = sorted(
        (d for d in cell.devices if d.resource_class == resource_class and d.free >= max(shares, 1)),
        key=lambda d: (d.free, d.id),
    )
    taken: dict[str, int] = {}
    for device in devices:
        if amount <= 0:
            break
        taken[device.id] = min(shares or device.free, amount)
        amount -= taken[device.id]
    return taken
