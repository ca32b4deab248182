"""What allocations have of cells by number, cpus and devices (invariants 1 and 6): checks that say what is wrong with what a host did."""

from collections.abc import Iterator

from commonplace.ops.audit.state import IN_CELL, View, numbered
from commonplace.ops.audit.wire_hosts import Allocation


def misgiven(view: View, allocation: Allocation) -> Iterator[str]:
    """What is given by number is there, is nobody else's, and is as much as was asked for."""
    assert view.facts is not None, "a view of a report has facts"
    given = numbered(allocation)
    for name in given:
        if view.used[name] > view.facts.capacity(name):
            yield f"gave {allocation.id} {name}: {view.used[name]} of {view.facts.capacity(name)} are used"
    for cell, parts in allocation.cells.items():
        here = view.facts.cells.get(cell)
        kinds = {device.id: device.kind for device in here.devices} if here else {}
        got: dict[str, int] = {}
        for name, amount in given.items():
            part, _, where = name.partition(IN_CELL)
            if where == cell:
                kind = "PCPU" if part.startswith("cpu ") else kinds.get(part.removeprefix("device "), "")
                got[kind] = got.get(kind, 0) + amount
        for kind in {"PCPU", *kinds.values()}:
            wanted = parts.get(kind, 0)
            # an instance that isolates its cores has their other threads too
            if got.get(kind, 0) < wanted or (kind != "PCPU" and got.get(kind, 0) > wanted):
                yield f"gave {allocation.id} {got.get(kind, 0)} of the {wanted} {kind} of cell {cell} by number"


def not_of_either(before: View, part: Allocation, whole: Allocation) -> Iterator[str]:
    """What replaced another has of cpus and devices by number only what one of the two had."""
    old = before.held.get(part.replaces)
    had = {**numbered(part), **(numbered(old.allocation) if old else {})}
    for name in numbered(whole):
        if old is not None and name not in had:
            yield f"gave {whole.id} {name}, which neither it nor {part.replaces} had"
