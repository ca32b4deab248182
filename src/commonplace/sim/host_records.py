"""A record of `hosts` by itself: how it contradicts its key, and whether its names can be told."""

import re
from typing import Any, Final

from commonplace.core.codec import Bad
from commonplace.core.records.hosts import Delta, Snapshot, Start
from commonplace.sim.model import Host

_CLASS: Final = re.compile(r"[A-Z][A-Z0-9_]{0,63}")


def disagreement(record: Any, host: Host, kind: str, epoch: int, offset: int) -> str:
    """How a record contradicts its key, or ""."""
    if record.host != host.name:
        return f"its key is of host {host.name}, the record of {record.host}"
    if isinstance(record, Start):
        return "" if kind == "start" else f"a start record under the key of a {kind}"
    if kind != ("snapshot" if isinstance(record, Snapshot) else "delta") or record.epoch != epoch:
        return f"a report of epoch {record.epoch} under the key of {kind} {epoch}"
    return "" if record.epoch < offset else f"its epoch {record.epoch} is not below its own offset"


def unprintable(record: Any) -> Bad | None:
    """Names of allocations reach terminals and metric labels, so control characters in them make a record bad; so do other classes."""
    shown = record.allocations if isinstance(record, Snapshot) else record.upserts if isinstance(record, Delta) else ()
    for a in shown:
        names = (a.id, a.request, a.instance, a.flavor, a.project, a.user, a.kind, a.group, *a.image)
        if not "".join(names).isprintable():
            return Bad("a name with control characters")
        if not all(map(_CLASS.fullmatch, (*a.resources, *(name for amounts in a.cells.values() for name in amounts)))):
            return Bad("a name that no resource class has")
        if not all(cell.isascii() and cell.isprintable() and cell and " " not in cell for cell in a.cells):
            return Bad("a name that no cell has")
    return None
