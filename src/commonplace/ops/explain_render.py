"""A request held against the fleet as a person reads it: pure, text in lines."""

from collections.abc import Sequence
from typing import Final

from commonplace.core.explaining import Candidate, Table
from commonplace.core.relaxing import FORBIDDEN, Relaxed
from commonplace.ops import render
from commonplace.words import counted

GAP: Final = "   "
WOULD_FIT_SHOWN: Final = 6


def table(found: Table) -> list[str]:
    """Filters with counts and a sample each, the closest miss, what would make it fit, the best candidates."""
    if found.refusal:
        return [f"refused before any host is looked at: {found.refusal}"]
    lines = [f"{found.passing} of {found.evaluated} hosts pass every filter"]
    if found.filters:
        lines += _filters(found)
    if found.never:
        lines.append(found.never)
    elif found.closest is not None and not found.passing:
        lines.append(f"closest: {found.closest.host}, {render.short(found.closest)}")
    if found.would_fit:
        told = "; ".join(f"{change(one)} ({counted(one.hosts, 'host')})" for one in found.would_fit[:WOULD_FIT_SHOWN])
        lines.append(f"{'would fit' if not found.passing else 'more would fit'}: {told}")
    if found.candidates:
        lines += ["", *_candidates(found)]
    return lines


def grid(head: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Rows under a heading, columns as wide as they must be, those at `right` set to the right."""
    cells = [list(head), *(list(row) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    return [
        GAP.join(text.rjust(w) if i in right else text.ljust(w) for i, (text, w) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in cells
    ]  # fmt: skip


def change(one: Relaxed) -> str:
    """A constraint asked otherwise, in words."""
    match one.filter:
        case "capacity" if not one.to:
            return "booted from a volume"
        case "capacity":
            return f"with {render.amount(int(one.to), one.part)}"
        case "traits" if one.part.startswith(FORBIDDEN):
            return f"allowing {one.part.removeprefix(FORBIDDEN)}"
        case "status":
            return f"on {one.part} hosts"
        case "availability_zone":
            return f"in zone {one.to}" if one.to else "in any zone"
        case "requested_host":
            return "on any host"
        case "group":
            return f"with {one.to} of group {one.part} on one host"
        case "ignored_hosts":
            return f"without ignoring {one.part}"
        case "member_of":
            return f"without member_of {one.part}"
    if one.part:
        return f"without {one.part}"
    return render.WAIVED.get(one.filter, f"without {one.filter}")


def _filters(found: Table) -> list[str]:
    rows = []
    for line in found.filters:
        sample = line.sample
        had = f"{sample.host}: {render.short(sample)}"
        if sample.resource:
            had = f"{sample.host}: needs {render.amount(sample.needed, sample.resource)}, {sample.had} free"
            had += f"; {sample.detail}" if sample.detail else ""
        rows.append((str(line.hosts), str(line.alone), line.filter, line.needed or "-", had))
    return grid(("HOSTS", "ALONE", "FILTER", "NEEDED", "SAMPLE"), rows, right=(0, 1))


def _candidates(found: Table) -> list[str]:
    names = list(dict.fromkeys(name for one in found.candidates for name in one.weighers))
    head = ("BEST", "SCORE", *(name.upper() for name in names))
    rows = [(one.host, f"{one.score:.4g}", *(_weight(one, name) for name in names)) for one in found.candidates]
    what = "raw → normalised" if found.scale == "relative" else "raw → share"
    what += " × multiplier = weighted"
    return [
        *grid(head, rows, right=(1,)),
        f"a cell is {what}; the score is the sum of the weighted ({found.scale} scale)",
    ]


def _weight(one: Candidate, name: str) -> str:
    weight = one.weighers.get(name)
    if weight is None:
        return "-"
    return f"{weight.raw:g} → {weight.normalised:.4g} × {weight.multiplier:g} = {weight.weighted + 0.0:.4g}"  # −0 is 0
