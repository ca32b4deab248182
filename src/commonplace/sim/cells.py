"""NUMA cells and devices of a host, judged: no part of a cell is given away twice, and what was claimed of one was given by number.

A part of a cell is a class (`VCPU of cell 0`), a cpu by number (`cpu 3 of cell 0`) or a device (`device X of cell 0`), as in the audit,
whose reading of cells this shares, as the decoding of records: of the ledger's own nothing.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from commonplace.core.records import Allocation
from commonplace.ops.audit import state
from commonplace.ops.audit.state import IN_CELL
from commonplace.sim.model import Facts, Held


def amounts_of(allocation: Allocation) -> Mapping[str, int]:
    """What a claim asks for of a host: classes, and those of cells."""
    if not allocation.cells:
        return allocation.resources
    parts = {
        f"{name}{IN_CELL}{cell}": amount for cell, asked in allocation.cells.items() for name, amount in asked.items()
    }
    return {**allocation.resources, **parts}


def misgiven(allocation: Allocation, held: Held, facts: Facts) -> Iterator[str]:
    """What an allocation was given by number that is not there, is somebody else's, or is not as much as was claimed."""
    given = _numbered(allocation)
    for name, amount in given.items():
        used = amount + sum(_numbered(other).get(name, 0) for other in held.values() if other.id != allocation.id)
        if used > facts.capacity(name):
            yield f"gave {allocation.id} {name}: {used} of {facts.capacity(name)} are used"
    for cell, parts in allocation.cells.items():
        here = facts.cells.get(cell)
        kinds = {device.id: device.kind for device in here.devices} if here else {}
        got: dict[str, int] = {}
        for name, amount in given.items():
            part, _, where = name.partition(IN_CELL)
            if where == cell:
                kind = "PCPU" if part.startswith("cpu ") else kinds.get(part.removeprefix("device "), "")
                got[kind] = got.get(kind, 0) + amount
        for kind in sorted({"PCPU", *kinds.values()}):
            wanted, has = parts.get(kind, 0), got.get(kind, 0)
            if has < wanted or (kind != "PCPU" and has > wanted):  # who isolates cores has their other threads too
                yield f"gave {allocation.id} {has} of the {wanted} {kind} of cell {cell} by number"


def _numbered(allocation: Any) -> dict[str, int]:
    return state.numbered(allocation)
