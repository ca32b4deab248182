"""What a host's report may say beyond what its record's types allow: names fit for terminals, labels and the bytes that are hashed."""

from collections.abc import Iterable
from typing import Final

from commonplace.core.names import is_cell_name, is_class_name, printable
from commonplace.core.records.hosts import Allocation

_classes: Final[set[tuple[str, ...]]] = set()
"""Names of resource classes as allocations list them, found good."""
_CLASSES_MAX: Final = 65_536

_BACKSLASH: Final = 0x5C
_DEL: Final = 0x7F
"""As numbers, because bytes looks for a bytes of length one by way of an exception (0.15 us each, CPython 3.11)."""


def check_names(allocations: Iterable[Allocation], raw: bytes | None = None) -> str:
    """Which name of an allocation must not reach terminals, labels and the bytes that are hashed, or "".

    `raw`, where it is at hand, is the record that they were decoded from: most are seen to hold nothing unprintable at a glance.
    """
    plain = raw is not None and _is_plain(raw)
    for a in allocations:
        if (
            not plain
            and not (a.id + a.request + a.instance + a.flavor + a.project + a.user + a.kind + a.group).isprintable()
        ):
            return f"allocation {a.id!r} has a name with control characters"
        if a.cells or a.image or a.replaces or a.becomes or tuple(a.resources) not in _classes:
            wrong = _rare_names(a)
            if wrong:
                return f"allocation {a.id!r} {wrong}"
    return ""


def _is_plain(raw: bytes) -> bool:
    """Whether JSON is of visible ASCII alone: without escapes its strings have no control characters, and DEL is the only other."""
    return raw.isascii() and _BACKSLASH not in raw and _DEL not in raw


def _rare_names(a: Allocation) -> str:
    """The same for its image, its cells and their classes, and for classes not met before."""
    if not printable(a.replaces, *a.image):
        return "has an image or replaces something with control characters"
    parts = (a, a.becomes) if a.becomes else (a,)
    for cell in (cell for part in parts for cell in part.cells):
        if not is_cell_name(cell):
            return f"lies in the cell {cell!r}, which no cell is called"
    for amounts in (amounts for part in parts for amounts in (part.resources, *part.cells.values())):
        wrong = _no_class(tuple(amounts))
        if wrong is not None:
            return f"holds {wrong!r}, which no resource class is called"
    return ""


def _no_class(names: tuple[str, ...]) -> str | None:
    """The first name that is no resource class's, None where all are; allocations of a flavor name the same ones."""
    wrong = next((name for name in names if not is_class_name(name)), None)
    if wrong is None and len(_classes) < _CLASSES_MAX:
        _classes.add(names)
    return wrong
