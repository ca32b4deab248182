"""NUMA cells and devices of a host, judged: exact fit, and nothing given twice.

    flavor, host ──▶ what a claim takes of which cell (`as_asked`) ──▶ what the ledger gives of it by number (`misgiven`)

A part of a cell is a class (`VCPU of cell 0`), a cpu by number (`cpu 3 of cell 0`) or a device (`device X of cell 0`), as in the audit,
whose reading of cells this shares, as the decoding of records: of the ledger's and the ranking's own nothing.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, Final

from commonplace.core.records.claims import Claim
from commonplace.core.records.control import Flavor
from commonplace.core.records.hosts import Allocation, Whole
from commonplace.ops.audit import state, wire_hosts, wire_terms
from commonplace.ops.audit.state import IN_CELL
from commonplace.sim.model import Facts, Held

BY_AMOUNT: Final = ("VCPU", "PCPU", "MEMORY_MB")
PAGES: Final = "PAGES_"

Amounts = Mapping[str, int]


def amounts_of(allocation: Allocation) -> Amounts:
    """What a claim asks for of a host: classes, and those of cells."""
    if not allocation.cells:
        return allocation.resources
    parts = {
        f"{name}{IN_CELL}{cell}": amount for cell, asked in allocation.cells.items() for name, amount in asked.items()
    }
    return {**allocation.resources, **parts}


# --- what is claimed ---------------------------------------------------------------------------------------------------------------------


def as_asked(allocation: Allocation, flavors: Iterable[Flavor], cells: Mapping[str, wire_hosts.HostCell]) -> bool:
    """Whether what a claim takes in all, and of a host's cells, is what one of the flavors asks for.

    A host without cells may have had some when it was ranked: it was forgotten since, or a report was forged in its name.
    """
    whole = allocation.becomes or allocation
    alike = (flavor for flavor in flavors if _same(whole.resources, flavor.resources))
    return any(not cells or _laid(whole, flavor, cells) for flavor in alike)


def _same(one: Amounts, other: Amounts) -> bool:
    return {n: amount for n, amount in one.items() if amount} == {n: amount for n, amount in other.items() if amount}


def _laid(whole: Allocation | Whole, flavor: Flavor, cells: Mapping[str, wire_hosts.HostCell]) -> bool:
    """Each cell asked for is one of the host's, with just its amounts, and devices lie beside them as their policy says."""
    if not whole.cells.keys() <= cells.keys():
        return False
    seats = {cell: _by_amount(parts) for cell, parts in whole.cells.items() if _by_amount(parts)}
    if Counter(map(_hashable, seats.values())) != Counter(map(_hashable, _seats(flavor))):
        return False
    for ask in flavor.devices:
        name = ask.resource_class
        where = {cell for cell, parts in whole.cells.items() if parts.get(name)}
        apart = {cell for cell in where if not (cells[cell].cpus or cells[cell].cpus_dedicated)}
        allowed = seats.keys() | (apart if ask.policy == "legacy" else set())
        if sum(parts.get(name, 0) for parts in whole.cells.values()) != ask.count * ask.shares:
            return False
        if seats and ask.policy in ("required", "legacy") and not where <= allowed:
            return False
    return True


def _by_amount(parts: Amounts) -> dict[str, int]:
    return {name: n for name, n in parts.items() if n and (name in BY_AMOUNT or name.startswith(PAGES))}


def _hashable(amounts: Amounts) -> frozenset[tuple[str, int]]:
    return frozenset(amounts.items())


def _seats(flavor: Flavor) -> Iterator[dict[str, int]]:
    """What a flavor takes of each cell; dedicated cpus without cells come from one, with all the rest."""
    if not flavor.cells and flavor.resources.get("PCPU"):
        yield _by_amount(flavor.resources)
    for ask in flavor.cells:
        taken = {"VCPU": ask.cpus, "PCPU": ask.cpus_dedicated, "MEMORY_MB": ask.memory_mb}
        if ask.page_kb > 0:
            taken[f"{PAGES}{ask.page_kb}"] = ask.memory_mb * 1024 // ask.page_kb
        yield _by_amount(taken)


def uneven(claim: Claim, facts: Facts) -> Iterator[str]:
    """What of a claim no host with these cells can give to one allocation, whatever is free."""
    for asked in claim.allocations:
        whole = asked.becomes or asked
        for cell, parts in whole.cells.items():
            here = facts.cells.get(cell)
            if here is None:
                yield f"the host has no cell {cell}"
            elif parts.get("VCPU", 0) > len(wire_terms.numbers(here.cpus)):
                yield f"{parts['VCPU']} VCPU are more than cell {cell} has cpus"
            for name in parts:
                if name.startswith(PAGES) and parts[name] * int(name[len(PAGES) :]) != parts.get("MEMORY_MB", 0) * 1024:
                    yield f"{parts[name]} {name} are not the {parts.get('MEMORY_MB', 0)} MB of cell {cell}"
        for name in _by_number(facts):
            parted = sum(parts.get(name, 0) for parts in whole.cells.values())
            if parted != whole.resources.get(name, 0):
                yield f"of {whole.resources.get(name, 0)} {name} {parted} are of a cell"


def _by_number(facts: Facts) -> set[str]:
    """Classes that the cells give by number."""
    dedicated = {"PCPU"} if any(cell.cpus_dedicated for cell in facts.cells.values()) else set()
    return dedicated | {device.kind for cell in facts.cells.values() for device in cell.devices}


# --- what is given -----------------------------------------------------------------------------------------------------------------------


def misgiven(
    allocation: Allocation, claim: Claim | None, held: Held, facts: Sequence[Facts], *before: Allocation | None
) -> Iterator[str]:
    """What an allocation was given by number that is not there, is somebody else's, or is not as was claimed, whichever facts held.

    What it and the one that it replaced had `before` it may keep, though the host offers it no more.
    """
    kept = {name: amount for one in before if one is not None for name, amount in _numbered(one).items()}
    found = [list(_misgiven(allocation, claim, held, one, kept)) for one in facts]
    if all(found):
        yield from found[-1]


def _misgiven(allocation: Allocation, claim: Claim | None, held: Held, facts: Facts, kept: Amounts) -> Iterator[str]:
    given = _numbered(allocation)
    for name, amount in given.items():
        used = amount + sum(_numbered(other).get(name, 0) for other in held.values() if other.id != allocation.id)
        if used > max(facts.capacity(name), kept.get(name, 0)):
            yield f"gave {allocation.id} {name}: {used} of {facts.capacity(name)} are used"
    for cell, parts in allocation.cells.items():
        here = facts.cells.get(cell)
        kinds = {device.id: device.kind for device in here.devices} if here else {}
        got: Counter[str] = Counter()
        for name, amount in given.items():
            part, _, where = name.partition(IN_CELL)
            if where == cell:
                got["PCPU" if part.startswith("cpu ") else kinds.get(part.removeprefix("device "), "")] += amount
        isolated = claim is not None and claim.threads == "isolate"  # who isolates cores has their other threads too
        for kind in sorted({"PCPU", *kinds.values()}):
            wanted, has = parts.get(kind, 0), got[kind]
            if has < wanted or (has > wanted and not (kind == "PCPU" and isolated)):
                yield f"gave {allocation.id} {has} of the {wanted} {kind} of cell {cell} by number"
        if here is not None and claim is not None:
            assigned = (allocation.assigned or {}).get(cell)
            cpus = frozenset(wire_terms.numbers(assigned.cpus)) if assigned else frozenset[int]()
            yield from _by_threads(allocation.id, cell, here, cpus, parts.get("PCPU", 0), claim.threads)
            for device, shares in assigned.devices.items() if assigned else ():
                each = claim.shares.get(kinds.get(device, ""), 0)
                if each and shares != each:
                    yield f"gave {allocation.id} {shares} shares of device {device} of cell {cell}, it asks for {each} of each"


def _by_threads(
    identity: str, cell: str, here: wire_hosts.HostCell, cpus: Set[int], wanted: int, threads: str
) -> Iterator[str]:
    """`require`: threads of one core go together, but perhaps the last; `isolate`: so many cores, whole."""
    if not wanted or threads == "prefer":
        return
    cores = [frozenset(wire_terms.numbers(text)) for text in here.siblings] or [
        frozenset({cpu}) for cpu in wire_terms.numbers(here.cpus_dedicated)
    ]
    taken = [cpus & core for core in cores if cpus & core]
    if threads == "require" and sum(len(part) == 1 for part in taken) > wanted % 2:
        yield f"gave {identity} cpus {sorted(cpus)} of cell {cell}, which are not threads of the same cores"
    if threads == "isolate" and (len(taken) != wanted or any(part not in cores for part in taken)):
        yield f"gave {identity} cpus {sorted(cpus)} of cell {cell}, which are not {wanted} whole cores"


def _numbered(allocation: Any) -> dict[str, int]:
    return state.numbered(allocation)
