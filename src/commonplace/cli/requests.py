"""`commonplace requests`: recent requests with their effective decisions."""

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from commonplace.cli import common
from commonplace.cli.output import Column, emit, emit_line, until_stopped

if TYPE_CHECKING:
    from commonplace.frontend.lookup import Entry

app = typer.Typer()

COLUMNS = (
    "request",
    "flavor",
    "count",
    "project",
    "age",
    "result",
    "reason",
    "hosts",
    Column("replica", wide=True),
    Column("attempts", wide=True),
    Column("latency_ms", wide=True),
)
HOSTS_SHOWN = 3


@app.command(epilog="\b\nExamples:\n  commonplace requests --since 60\n  commonplace requests --watch -o json")
def requests(
    name: Annotated[str, typer.Argument(metavar="ID", help="Only ids that begin so.")] = "",
    since: Annotated[float, typer.Option(metavar="MINUTES", min=0, max=1e9, help="How far to look back.")] = 15.0,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="The newest N.")] = 100,
    watch: Annotated[bool, typer.Option("--watch", help="Go on, a line for every change.")] = False,
) -> None:
    """List recent requests and what was decided."""
    from commonplace.frontend.lookup import Reader

    reader = Reader(common.settings(), since * 60, wanted=name)
    with until_stopped(watch):
        entries = [e for e in reader.read().entries.values() if e.request.startswith(name)]
        entries.sort(key=lambda e: e.requested_at_ms or e.decided_at_ms or 0)
        rows = [_row(e) for e in entries[-limit:]]
        if not watch:
            emit(rows, columns=COLUMNS, name="request")
            return
        for row in rows:
            _line(row)
        for entry in reader.follow():
            if entry.request.startswith(name):
                _line(_row(entry))


def _line(row: dict[str, Any]) -> None:
    parts = [str(row[key]) for key in ("request", "flavor", "count", "result", "reason") if row[key] not in ("", None)]
    emit_line(row, lines=["  ".join([*parts, *row["hosts"][:HOSTS_SHOWN]])])


def _row(entry: "Entry") -> dict[str, Any]:
    from commonplace.ops import render

    build, decision = entry.build, entry.decision
    asked = build or decision
    began = entry.requested_at_ms or entry.decided_at_ms or 0
    return {
        "request": entry.request,
        "flavor": asked.flavor if asked else "",
        "count": asked.count if asked else 0,
        "project": asked.project if asked else "",
        "age": render.duration(max(0.0, time.time() - began / 1000)) if began else "",
        "result": decision.result if decision else _undecided(entry),
        "reason": decision.reason if decision else "id_reused" if entry.id_reused else "",
        "hosts": sorted({p.host for p in decision.placed}) if decision else [],
        "replica": decision.replica if decision else "",
        "attempts": decision.attempts if decision else 0,
        "latency_ms": _latency_ms(entry),
    }


def _undecided(entry: "Entry") -> str:
    if entry.id_reused:  # on this partition the id stood for other content only
        return "rejected"
    return "cancelling" if entry.cancelled else "undecided"


def _latency_ms(entry: "Entry") -> int | None:
    if entry.requested_at_ms is None or entry.decided_at_ms is None:
        return None
    return entry.decided_at_ms - entry.requested_at_ms
