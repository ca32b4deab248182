"""An allocation that replaces another of its instance on the same host: a resize in place (docs/decisions/0011).

    old ─────────────────────────────── confirm ──▶ gone
    new: what it takes beyond the old ── confirm ──▶ whole          so that sums of allocations stay sums at every moment
                                  │ lapse, release ──▶ gone: the old stays as it was

While both stand they hold, class by class and cell by cell, the larger of the two.
"""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext

from msgspec.structs import replace

from commonplace.core.cells import CPUS, DEDICATED, MEMORY, PAGES, Cells, Terms, ratios_of, refusal, taken_of
from commonplace.core.cpu_lists import parse, text_of
from commonplace.core.numa import Cell, pick_cpus
from commonplace.core.records.hosts import Allocation, Assigned, Reason, Whole
from commonplace.core.records.requests import Build
from commonplace.core.rows import Row
from commonplace.core.view import View

_NOTHING = Assigned()
_ANY: Mapping[str, int] = {}

Amounts = dict[str, int]


def standing_at(view: View, build: Build, instance: str) -> tuple[Row, Allocation] | None:
    """The request's source, and the allocation that its instance has there by a request before, if another may take its place."""
    row = view.rows.get(build.source)
    if row is None:
        return None
    held = row.host.allocations.values()
    taken = {one.replaces for one in held}
    mine = (one for one in held if (one.instance, one.project) == (instance, build.project))
    old = next((one for one in mine if one.request != build.id and one.id not in taken and _stands(one)), None)
    return None if old is None else (row, old)


def as_if_gone(view: View, build: Build, instance: str) -> AbstractContextManager[None]:
    """The fleet as a request's instance is ranked on it: without what it has on the request's source."""
    home = standing_at(view, build, instance) if build.source else None
    return nullcontext() if home is None else view.without(*home)


def _stands(one: Allocation) -> bool:
    return one.state == "active" and one.origin == "claim" and not one.replaces


def difference(
    old: Allocation, whole: Whole, terms: Terms | None, here: Cells
) -> tuple[Amounts, dict[str, Amounts]] | None:
    """What `whole` takes beyond `old`, in all and by cell; None where what was given by number would have to be given anew.

    In a cell that both lie in, devices are as many as before, each with as many shares as the terms say, and dedicated cpus as many
    too unless any will do (`threads` is `prefer`). `here` are the host's cells.
    """
    threads, shares = (terms.threads, terms.shares) if terms else ("prefer", _ANY)
    cells: dict[str, Amounts] = {}
    for cell, amounts in whole.cells.items():
        had = old.cells.get(cell, {})
        if any(_given_anew(name, had.get(name, 0), amount, threads) for name, amount in amounts.items()):
            return None
        if any(_shared_otherwise(old, here, cell, name, shares.get(name, 0)) for name in amounts):
            return None
        alike = _pages(had) == _pages(amounts)  # else none of the memory that it has is of the right pages
        more = {n: amount - (had.get(n, 0) if n != MEMORY or alike else 0) for n, amount in amounts.items()}
        if grown := {name: amount for name, amount in more.items() if amount > 0}:
            cells[cell] = grown
    resources = {}
    for name, amount in whole.resources.items():
        beyond = max(amount - old.resources.get(name, 0), taken_of(cells, name))
        if beyond > 0:
            resources[name] = beyond
    return resources, cells


def has_room_beside(row: Row, more: tuple[Amounts, dict[str, Amounts]], terms: Terms | None) -> bool:
    """Whether a host's cells have what an instance grows by while what it grows from still stands; `terms` None: it lies in none.

    They need not where the whole would fit in its place: of what the old one holds, cpus of whole cores beyond those that it asked for, and
    memory in other pages, are no part of the new one until the confirm.
    """
    return terms is None or not refusal(row.cells, *more, terms, ratios_of(row.host.inventory))[0]


def _given_anew(name: str, had: int, amount: int, threads: str) -> bool:
    if not had or name in (CPUS, MEMORY) or name.startswith(PAGES):
        return False
    return threads != "prefer" if name == DEDICATED else amount != had


def _shared_otherwise(old: Allocation, here: Cells, cell: str, name: str, each: int) -> bool:
    """Whether a device of that class, of which it is to have so many shares (0: any), gives it another number of them."""
    given = (old.assigned or {}).get(cell, _NOTHING).devices if each and cell in here else {}
    return any(
        d.resource_class == name and given.get(d.id, each) != each for d in (here[cell].devices if given else ())
    )


def _pages(amounts: Mapping[str, int]) -> set[str]:
    return {name for name in amounts if name.startswith(PAGES)}


def wrong(held: Mapping[str, Allocation], asked: list[Allocation], terms: Terms, here: Cells) -> tuple[Reason, str]:
    """Why what is asked cannot replace what it names, whatever room there is; two times "" where it can or names nothing."""
    one = asked[0]
    for other in asked:
        if other.becomes is not None or other.replaces:
            break
    else:
        return "", ""
    if len(asked) > 1 or one.becomes is None or not one.replaces:
        return "constraint", "what replaces an allocation is claimed alone, with what it becomes"
    old = held.get(one.replaces)
    if old is None:
        return "stale", f"it replaces {one.replaces}, which is not held"[:128]
    if not one.instance or (old.instance, old.project) != (one.instance, one.project) or old.request == one.request:
        return "constraint", f"it replaces {one.replaces}, which is of another instance or of the same request"[:128]
    if not _stands(old) or any(other.replaces == old.id for other in held.values()):
        return "constraint", f"it replaces {one.replaces}, which is not active, or being replaced"[:128]
    if difference(old, one.becomes, terms, here) != (one.resources, one.cells):
        return "constraint", f"it asks for other than the difference to {one.replaces}"[:128]
    return "", ""


def alone(part: Allocation, old: Allocation | None, cells: Cells) -> Allocation:
    """What an allocation is once the one that it replaces is gone: with what it was given, and of the other's what it still needs."""
    whole = part.becomes
    assert whole is not None, f"allocation {part.id} replaces nothing"
    before = (old.assigned if old is not None else None) or {}
    given: dict[str, Assigned] = {}
    for cell, amounts in whole.cells.items():
        was, got = before.get(cell, _NOTHING), (part.assigned or {}).get(cell, _NOTHING)
        cpus = _cpus(cells.get(cell), was, got, amounts.get(DEDICATED, 0))
        devices = _devices(cells.get(cell), was, got, set(amounts) - set(part.cells.get(cell, ())))
        if cpus or devices:
            given[cell] = Assigned(cpus=cpus, devices=devices)
    return replace(
        part, resources=whole.resources, cells=whole.cells, assigned=given or None, replaces="", becomes=None
    )


def _cpus(cell: Cell | None, was: Assigned, got: Assigned, wanted: int) -> str:
    """New cpus first, then as many of those before as are wanted, whole cores as far as they go."""
    new, old = parse(got.cpus), parse(was.cpus)
    left = wanted - len(new)
    if left <= 0:
        return got.cpus if wanted else ""
    if left < len(old) and cell is not None and old <= cell.dedicated:
        old = pick_cpus(replace(cell, pinned=cell.dedicated - old), left, "prefer")
    return text_of(new.union(sorted(old)[:left]))


def _devices(cell: Cell | None, was: Assigned, got: Assigned, kept: Iterable[str]) -> dict[str, int]:
    classes = {device.id: device.resource_class for device in cell.devices} if cell is not None else {}
    return {name: n for name, n in was.devices.items() if classes.get(name) in set(kept)} | dict(got.devices)
