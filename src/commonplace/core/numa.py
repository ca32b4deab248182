"""Whether an instance's NUMA cells fit the cells of a host, exactly: if there is a way to lay them, it is found.

    dedicated cpus   are free ones of the cell, by the thread policy; with them memory is not oversubscribed either
    shared cpus      cell's cpus × ratio, memory × ratio; never more than the cell has for one instance
    pages            free pages of the size asked for; memory a multiple of it
    networks         where cells of the host are near one that is asked for, one of them is among those taken

A host's cells stand in its labels: `numa.N.shared`, `.dedicated`, `.pinned` (cpu lists as in `0-3,8`), `.siblings` (such lists,
separated by `;`), `.memory_mb`, `.pages` (`SIZE_KB:TOTAL`, separated by commas), `.networks` (names, separated by commas). What is
used of them is in the cells of the host's allocations: VCPU, MEMORY_MB, PAGES_<SIZE_KB>.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import combinations

from msgspec import Struct

from commonplace.core.records import CellAsk
from commonplace.core.resources import RATIO_SCALE

CELLS_MAX = 16
"""Cells of one host: 8 sockets in two halves each."""
CPUS_MAX = 4096
CELL_PREFIX = "numa."
_KB = 1024

Cpus = frozenset[int]


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


class Ratios(Struct, frozen=True):
    """How far shared cpus and memory may be oversubscribed, in thousandths."""

    cpu: int = RATIO_SCALE
    memory: int = RATIO_SCALE


def lay(
    cells: Mapping[str, Cell], asks: tuple[CellAsk, ...], ratios: Ratios, networks: Collection[str] = ()
) -> tuple[str, ...]:
    """Which host cell each cell of the instance goes to, when there is a way that fits all of them, else ()."""
    fits = [{name for name, cell in cells.items() if not misfit(cell, ask, ratios)} for ask in asks]
    near = [{name for name, cell in cells.items() if one in cell.networks} for one in networks]
    near = [names for names in near if names]
    if not near:
        return _seats(fits, set(cells))
    for chosen in combinations(cells, len(asks)):  # at most 12,870 of 16 cells, and only where networks are asked for
        if all(names & set(chosen) for names in near) and (seats := _seats(fits, set(chosen))):
            return seats
    return ()


def _seats(fits: Sequence[set[str]], open_to: set[str]) -> tuple[str, ...]:
    """A cell of `open_to` for each ask, no cell twice (Kuhn's matching); () when there is no such way."""
    taken: dict[str, int] = {}

    def seat(index: int, met: set[str]) -> bool:
        for name in sorted(fits[index] & open_to):
            if name not in met:
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
        _dedicated_misfit(cell, ask) if ask.cpus_dedicated else _shared_misfit(cell, ask, ratios)
    )


def _memory_misfit(cell: Cell, ask: CellAsk) -> str:
    sizes = sorted(size for size, _, _ in cell.pages)
    if ask.page_kb:
        wanted = {-1: sizes[:1], -2: sizes[1:], -3: sizes}.get(ask.page_kb, [ask.page_kb])
        if any(size in wanted and _in_pages(ask, size, free) for size, free, _ in cell.pages):
            return ""
        return f"no free pages of {'/'.join(map(str, wanted)) or 'that size'} kB for {ask.memory_mb} MB"
    if cell.pages:
        return (
            ""
            if any(size == sizes[0] and _in_pages(ask, size, total) for size, _, total in cell.pages)
            else f"{ask.memory_mb} MB are more than its pages of {sizes[0]} kB hold"
        )
    return f"needs {ask.memory_mb} MB, a cell has {cell.memory_mb}" if ask.memory_mb > cell.memory_mb else ""


def _in_pages(ask: CellAsk, size_kb: int, count: int) -> bool:
    return ask.memory_mb * _KB <= size_kb * count and ask.memory_mb * _KB % size_kb == 0


def _shared_misfit(cell: Cell, ask: CellAsk, ratios: Ratios) -> str:
    if ask.cpus > len(cell.shared):
        return f"needs {ask.cpus} shared cpus, a cell has {len(cell.shared)}"
    if (cell.shared_used + ask.cpus) * RATIO_SCALE > len(cell.shared) * ratios.cpu:
        return f"needs {ask.cpus} shared cpus beside the {cell.shared_used} used of {len(cell.shared)}"
    if (cell.memory_used_mb + ask.memory_mb) * RATIO_SCALE > cell.memory_mb * ratios.memory:
        return f"needs {ask.memory_mb} MB beside the {cell.memory_used_mb} used of {cell.memory_mb}"
    return ""


def _dedicated_misfit(cell: Cell, ask: CellAsk) -> str:
    wanted, free = ask.cpus_dedicated, cell.dedicated - cell.pinned
    if wanted > len(free):
        return f"needs {wanted} dedicated cpus, {len(free)} free"
    if ask.cpus > len(cell.shared):
        return f"needs {ask.cpus} shared cpus, a cell has {len(cell.shared)}"
    if ask.memory_mb > cell.memory_mb - cell.memory_used_mb:
        return f"needs {ask.memory_mb} MB, {cell.memory_mb - cell.memory_used_mb} free"
    cores = cell.siblings or tuple(frozenset({cpu}) for cpu in cell.dedicated)
    threads = max(map(len, cores), default=1)
    idle = [len(core & free) for core in cores]
    if ask.threads == "require":
        most = max((n * sum(count >= n for count in idle) for n in range(2, threads + 1)), default=0)
        return f"needs {wanted} threads on shared cores, {most} free" if most < wanted else ""
    if ask.threads == "isolate":
        if threads > 1 and cell.dedicated != cell.shared:
            return "has several threads a core: a core cannot be held by one of them"
        whole = sum(count == threads for count in idle)
        return f"needs {wanted} whole cores, {whole} free" if whole < wanted else ""
    return ""


def cells_of(labels: Mapping[str, str], used: Iterable[Mapping[str, Mapping[str, int]]]) -> dict[str, Cell]:
    """The cells that a host's labels describe, by number, less what its allocations hold of each; unreadable ones are left out."""
    lines = tuple(sorted((name, text) for name, text in labels.items() if name.startswith(CELL_PREFIX)))
    cells = dict(_cells(lines))
    for allocated in used:
        for name, amounts in allocated.items():
            if name in cells:
                cells[name] = _without(cells[name], amounts)
    return cells


def _without(cell: Cell, amounts: Mapping[str, int]) -> Cell:
    return Cell(
        cell.shared,
        cell.dedicated,
        cell.pinned,
        cell.siblings,
        cell.memory_mb,
        tuple((size, free - amounts.get(f"PAGES_{size}", 0), total) for size, free, total in cell.pages),
        cell.shared_used + amounts.get("VCPU", 0),
        cell.memory_used_mb + amounts.get("MEMORY_MB", 0),
        cell.networks,
    )


@lru_cache(maxsize=4096)
def _cells(lines: tuple[tuple[str, str], ...]) -> tuple[tuple[str, Cell], ...]:
    """Hosts of one shape share their parsed cells."""
    texts: dict[str, dict[str, str]] = {}
    for label, text in lines:
        number, _, field = label.removeprefix(CELL_PREFIX).partition(".")
        texts.setdefault(number, {})[field] = text
    cells = []
    for number, said in sorted(texts.items())[:CELLS_MAX]:
        try:
            cells.append((number, _cell(said)))
        except ValueError:
            continue
    return tuple(cells)


def _cell(said: Mapping[str, str]) -> Cell:
    pages = [text.split(":") for text in said.get("pages", "").split(",") if text]
    return Cell(
        cpus(said.get("shared", "")),
        cpus(said.get("dedicated", "")),
        cpus(said.get("pinned", "")),
        tuple(cpus(text) for text in said.get("siblings", "").split(";") if text),
        int(said.get("memory_mb", "0")),
        tuple((int(size), int(total), int(total)) for size, total in pages),
        networks=frozenset(name for name in said.get("networks", "").split(",") if name),
    )


def cpus(text: str) -> Cpus:
    """The cpus of a list as in `0-3,8`; ValueError for anything else."""
    found: set[int] = set()
    for part in text.split(","):
        if part:
            first, _, last = part.partition("-")
            low, high = int(first), int(last or first)
            if not 0 <= low <= high < CPUS_MAX:
                raise ValueError(f"cpu list {text!r}: {part!r} is no range within 0-{CPUS_MAX - 1}")
            found.update(range(low, high + 1))
    return frozenset(found)
