"""A host's NUMA cells as they stand: what its allocations hold of each, what a ledger may still give, and which cpus and devices it gives.

reported cells ──parse──▶ cells ──allocations in and out──▶ cells as they stand ──a claim──▶ refusal, or what is assigned
"""

from collections.abc import Mapping

from msgspec import Struct

from commonplace.core.cpu_lists import parse, text_of
from commonplace.core.hashing import cells_bytes
from commonplace.core.numa import Cell, DeviceRoom, Ratios, device_room, misfit, pick_cpus, pick_devices
from commonplace.core.records.control import CellAsk
from commonplace.core.records.fields import Threads
from commonplace.core.records.hosts import Assigned, HostCell, Reason
from commonplace.core.resources import RATIO_SCALE, Inventory

PAGES = "PAGES_"
"""Class of pages of a size in kB, counted in cells only: PAGES_2048."""

CPUS, DEDICATED, MEMORY = "VCPU", "PCPU", "MEMORY_MB"
_SHAPES_MAX = 4096

Cells = Mapping[str, Cell]
Amounts = Mapping[str, int]
NO_CELLS: Cells = {}
_NOTHING = Assigned()
_shapes: dict[bytes, dict[str, Cell]] = {}


def cells_of(reported: Mapping[str, HostCell]) -> Cells:
    """The cells that a host reports, with nothing used. Hosts of one shape share them."""
    if not reported:
        return NO_CELLS
    shape = cells_bytes(reported)
    cells = _shapes.get(shape)
    if cells is None:
        if len(_shapes) >= _SHAPES_MAX:
            _shapes.clear()
        cells = _shapes[shape] = {name: _cell(said) for name, said in reported.items()}
    return cells


def _cell(said: HostCell) -> Cell:
    return Cell(
        shared=parse(said.cpus),
        dedicated=parse(said.cpus_dedicated),
        siblings=tuple(parse(text) for text in said.siblings),
        memory_mb=said.memory_mb,
        pages=tuple((size, count, count) for size, count in sorted(said.pages.items())),
        networks=frozenset(said.networks),
        devices=tuple(DeviceRoom(d.resource_class, d.id, d.shares, d.shares) for d in said.devices),
        socket=said.socket,
    )


def after(cells: Cells, held: Mapping[str, Amounts], assigned: Mapping[str, Assigned] | None, sign: int) -> Cells:
    """The cells with an allocation counted in (sign 1) or out (−1); cells that the host does not report are passed over."""
    changed = dict(cells)
    for name, amounts in held.items():
        if name in changed:
            changed[name] = _counted(changed[name], amounts, (assigned or {}).get(name, _NOTHING), sign)
    return changed


def _counted(cell: Cell, amounts: Amounts, given: Assigned, sign: int) -> Cell:
    cpus, shares = parse(given.cpus), given.devices
    return Cell(
        cell.shared,
        cell.dedicated,
        cell.pinned | cpus if sign > 0 else cell.pinned - cpus,
        cell.siblings,
        cell.memory_mb,
        tuple((size, free - sign * amounts.get(f"{PAGES}{size}", 0), total) for size, free, total in cell.pages),
        cell.shared_used + sign * amounts.get(CPUS, 0),
        cell.memory_used_mb + sign * amounts.get(MEMORY, 0),
        cell.networks,
        tuple(DeviceRoom(d.resource_class, d.id, d.free - sign * shares.get(d.id, 0), d.shares) for d in cell.devices)
        if shares
        else cell.devices,
        cell.socket,
    )


def ratios_of(inventory: Mapping[str, Inventory]) -> Ratios:
    """How far a host's inventory lets shared cpus and memory be oversubscribed, in each cell as in all."""
    both = (inventory.get(name) for name in (CPUS, MEMORY))
    return Ratios(*(item.allocation_ratio_thousandths if item else RATIO_SCALE for item in both))


class Terms(Struct, frozen=True):
    """What a claim says of dedicated cpus and devices beside their number."""

    threads: Threads
    shares: Amounts


def refusal(
    cells: Cells, resources: Amounts, taken: Mapping[str, Amounts], terms: Terms, ratios: Ratios
) -> tuple[Reason, str]:
    """Why an allocation of `resources` that takes these amounts by cell must not be granted on these cells, or two times ""."""
    for name, amounts in taken.items():
        cell = cells.get(name)
        if cell is None:
            return "constraint", f"the host has no cell {ascii(name)[1:-1]}"[:128]
        reason, why = _cell_refusal(cell, amounts, terms, ratios)
        if reason:
            return reason, f"cell {name}: {why}"[:128]
    return _uneven(cells, resources, taken)


def _cell_refusal(cell: Cell, amounts: Amounts, terms: Terms, ratios: Ratios) -> tuple[Reason, str]:
    devices = {device.resource_class for device in cell.devices}
    sizes = {f"{PAGES}{size}": size for size, _, _ in cell.pages}
    for name, amount in amounts.items():
        if name in devices:
            each, room = terms.shares.get(name, 0), device_room(cell, name, terms.shares.get(name, 0))
            if each and amount % each:
                return "constraint", f"{amount} {name} are no multiple of {each} shares"
            if amount > room:
                return "full", f"{name}: needs {amount}, {room} free" + (f" by {each} a device" if each else "")
        elif name not in (CPUS, DEDICATED, MEMORY) and name not in sizes:
            return "constraint", f"has no {ascii(name)[1:-1]}"
    paged = [name for name in sizes if amounts.get(name)]
    ask = CellAsk(
        cpus=amounts.get(CPUS, 0),
        cpus_dedicated=amounts.get(DEDICATED, 0),
        memory_mb=amounts.get(MEMORY, 0),
        page_kb=sizes[paged[0]] if paged else 0,
        threads=terms.threads,
    )
    if len(paged) > 1 or (paged and amounts[paged[0]] * ask.page_kb != ask.memory_mb * 1024):
        return "constraint", f"{', '.join(paged)} are not the pages of {ask.memory_mb} MB"
    if not (ask.cpus or ask.cpus_dedicated or ask.memory_mb):
        return "", ""
    why = misfit(cell, ask, ratios)
    return ("full" if why else ""), why


def _uneven(cells: Cells, resources: Amounts, taken: Mapping[str, Amounts]) -> tuple[Reason, str]:
    """What is given by number must come from cells in full, and no cell gives what the whole does not name."""
    for name in exclusive(cells):
        whole, parts = resources.get(name, 0), taken_of(taken, name)
        if whole != parts:
            return "constraint", f"{whole} {name} in all, {parts} from cells: name the cells of all of them"
    for name in (CPUS, DEDICATED, MEMORY) if taken else ():
        whole, parts = resources.get(name, 0), taken_of(taken, name)
        if parts > whole:
            return "constraint", f"{parts} {name} from cells, {whole} in all"
    return "", ""


def exclusive(cells: Cells) -> set[str]:
    """Classes that a host's cells give by number: dedicated cpus, and the classes of devices."""
    found = {device.resource_class for cell in cells.values() for device in cell.devices}
    return found | {DEDICATED} if any(cell.dedicated for cell in cells.values()) else found


def taken_of(held: Mapping[str, Amounts], name: str) -> int:
    """Amount of a class over all cells."""
    return sum(amounts.get(name, 0) for amounts in held.values())


def assign(cells: Cells, held: Mapping[str, Amounts], terms: Terms) -> dict[str, Assigned] | None:
    """Which cpus and devices an allocation that fits gets, the same for the same cells; None when it gets none by number."""
    assigned = {}
    for name, amounts in held.items():
        cell, devices = cells[name], dict[str, int]()
        for resource_class in sorted({d.resource_class for d in cell.devices}):
            if amount := amounts.get(resource_class, 0):
                devices |= pick_devices(cell, resource_class, amount, terms.shares.get(resource_class, 0))
        wanted = amounts.get(DEDICATED, 0)
        if wanted or devices:
            cpus = text_of(pick_cpus(cell, wanted, terms.threads)) if wanted else ""
            assigned[name] = Assigned(cpus=cpus, devices=devices)
    return assigned or None
