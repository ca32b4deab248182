"""Allocations that replace another of their instance, judged: with that one they hold what they become, and then stand alone."""

from collections.abc import Iterator, Mapping, Set

from msgspec.structs import replace

from commonplace.core.records.hosts import Allocation, Whole
from commonplace.sim.model import Held


def becomes(part: Allocation, shown: Allocation) -> bool:
    """Whether what is shown is what an allocation that replaces another becomes once that is gone."""
    whole = part.becomes
    return whole is not None and (shown.resources, shown.group, shown.cells, shown.becomes) == (
        whole.resources, part.group, whole.cells, None,
    )  # fmt: skip


def alone(part: Allocation) -> Allocation:
    """The same allocation once what it replaces is gone, apart from what it is given by number."""
    whole = part.becomes
    return (
        part
        if whole is None
        else replace(part, resources=whole.resources, cells=whole.cells, replaces="", becomes=None)
    )


def short(asked: Allocation, held: Held, confirmed: Set[str]) -> Iterator[str]:
    """Why an allocation must not have replaced what it names, or was granted less than the difference."""
    if not asked.replaces and asked.becomes is None:
        return
    old = held.get(asked.replaces)
    if old is None or asked.becomes is None:
        yield f"it replaces {asked.replaces or 'nothing'}, which is not held"
        return
    if (old.instance, old.project) != (asked.instance, asked.project) or old.origin == "found":
        yield f"it replaces {asked.replaces}, which is none of its instance's"
    if old.state != "active" and old.id not in confirmed:
        yield f"it replaces {asked.replaces}, which is not active"
    had, more = _amounts(old), _amounts(asked)
    for name, amount in _amounts(asked.becomes).items():
        if had.get(name, 0) + more.get(name, 0) < amount:
            yield f"{had.get(name, 0)} and {more.get(name, 0)} more are not the {amount} {name} that it becomes"


def _amounts(one: Allocation | Whole) -> Mapping[str, int]:
    """Amounts by class, and by class and cell."""
    return {
        **one.resources,
        **{f"{name} of cell {cell}": n for cell, part in one.cells.items() for name, n in part.items()},
    }
