"""`commonplace hosts`: every host of the pool, as its own reports show it."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from commonplace.cli import common
from commonplace.cli.output import Column, emit, emit_line, say, until_stopped
from commonplace.errors import UsageError
from commonplace.words import counted

if TYPE_CHECKING:
    from commonplace.ops.fleet_view import FleetView, HostLine

app = typer.Typer()

SHOWN_CLASSES: Final = ("VCPU", "MEMORY_MB", "DISK_GB")
WATCH_S: Final = 1.0
CLEAR: Final = "\x1b[H\x1b[J"
STATUSES: Final = ("enabled", "disabled", "draining", "newer", "stale", "silent", "gap", "ready")

SORTS: Final[dict[str, "Callable[[HostLine], Any]"]] = {
    "name": lambda line: line.name,
    "used": lambda line: -_used_share(line),
    "free": lambda line: _used_share(line),
    "instances": lambda line: -line.instances,
    "age": lambda line: -line.age_s,
    "status": lambda line: (not line.flags, line.status, line.name),
}


@app.command(
    epilog="\b\nExamples:\n  commonplace hosts --status silent -o name\n  commonplace hosts --sort used -o wide\n"
    "  commonplace hosts --watch"
)
def hosts(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Only names that begin so.")] = "",
    status: Annotated[
        str | None,
        typer.Option(metavar="|".join(STATUSES), help="Only these; ready: nothing keeps them from being ranked."),
    ] = None,
    sort: Annotated[
        str, typer.Option(metavar="|".join(SORTS), help="Order; used and free by the fullest class.")
    ] = "name",
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on: redraw on a terminal, else a line for every change.")
    ] = False,
) -> None:
    """List the hosts: status, what is used, builds in progress, age of the newest report."""
    from commonplace.ops.fleet_view import FleetView

    if status is not None and status not in STATUSES:
        raise UsageError(f"--status {status}: must be one of {', '.join(STATUSES)}")
    if sort not in SORTS:
        raise UsageError(f"--sort {sort}: must be one of {', '.join(SORTS)}")

    def wanted(line: "HostLine") -> bool:
        return line.name.startswith(name) and (status is None or _is(line, status))

    with until_stopped(watch), FleetView(common.settings()) as view:
        view.read()
        if watch and sys.stdout.isatty() and common.output() in ("table", "wide"):
            _redraw(view, wanted, sort)
        elif watch:
            _follow(view, wanted, sort)
        else:
            _list(view, _chosen(view, wanted, sort))


def _chosen(view: "FleetView", wanted: "Callable[[HostLine], bool]", sort: str) -> "list[HostLine]":
    return sorted(filter(wanted, view.lines()), key=SORTS[sort])


def _list(view: "FleetView", lines: "Sequence[HostLine]") -> None:
    form = common.output()
    if form in ("json", "yaml", "name"):
        emit(list(lines))
    else:
        _table(lines)
        _summary(view, lines)
    if view.quiet and lines:
        say(
            "nothing has been written for longer than the liveness timeout, by this machine's clock: no agent runs, "
            "or the clocks differ (`commonplace doctor` says which)"
        )


def _table(lines: "Sequence[HostLine]") -> None:
    classes = _classes(lines)
    columns: list[Column | str] = [
        *("name", "status", "flags", "instances", "builds"),
        *(Column(name, f"{name} used/all", wide=name not in SHOWN_CLASSES) for name in classes),
        "age",
        *(Column(name, wide=True) for name in ("epoch", "generation", "agent", "hash", "stale", "reason")),
    ]
    emit([_row(line, classes) for line in lines], columns=columns)


def _row(line: "HostLine", classes: Sequence[str]) -> dict[str, Any]:
    from commonplace.ops import render

    cells = {name: f"{a.used}/{a.capacity}" for name, a in line.resources.items()}
    return {
        "name": line.name,
        "status": line.status,
        "flags": line.flags or None,
        "instances": line.instances,
        "builds": line.builds,
        **{name: cells.get(name) for name in classes},
        "age": render.duration(line.age_s),
        "epoch": line.epoch,
        "generation": line.generation,
        "agent": line.agent or None,
        "hash": line.hash,
        "stale": line.stale or None,
        "reason": line.reason or None,
    }


def _classes(lines: "Sequence[HostLine]") -> list[str]:
    found = {name for line in lines for name in line.resources}
    return [name for name in SHOWN_CLASSES if name in found] + sorted(found.difference(SHOWN_CLASSES))


def _summary(view: "FleetView", lines: "Sequence[HostLine]") -> None:
    from commonplace.ops.fleet_view import totals

    ready = sum(_is(line, "ready") for line in lines)
    used = ", ".join(
        f"{name} {amount.used / amount.capacity:.0%}" for name, amount in totals(lines).items() if amount.capacity
    )
    hosts = f"{counted(len(lines), 'host')} of pool {view.settings.topics.pool}"
    say(f"{hosts}, {ready} ready" + (f"; used: {used}" if used else ""))


def _is(line: "HostLine", status: str) -> bool:
    if status == "ready":
        return line.status == "enabled" and not {"newer", "stale", "silent"}.intersection(line.flags)
    return status == line.status or status in line.flags


def _used_share(line: "HostLine") -> float:
    return max((a.used / a.capacity for a in line.resources.values() if a.capacity), default=0.0)


# --- watching ----------------------------------------------------------------------------------------------------------


def _redraw(view: "FleetView", wanted: "Callable[[HostLine], bool]", sort: str) -> None:
    while True:
        lines = _chosen(view, wanted, sort)
        room = max(1, os.get_terminal_size().lines - 3)
        print(CLEAR, end="")
        _table(lines[:room])
        _summary(view, lines)
        until = time.monotonic() + WATCH_S
        while (left := until - time.monotonic()) > 0:
            view.turn(left)


def _follow(view: "FleetView", wanted: "Callable[[HostLine], bool]", sort: str) -> None:
    told: dict[str, str] = {}
    for line in _chosen(view, wanted, sort):
        _tell(line, told)
    while True:
        view.turn(WATCH_S)
        for line in filter(wanted, view.lines()):
            _tell(line, told)


def _tell(line: "HostLine", told: dict[str, str]) -> None:
    """Print a host when something of it changed that is not its age."""
    state = f"{line.epoch} {line.hash} {line.status} {line.flags} {line.builds} {line.leased} {line.reason}"
    if told.get(line.name) != state:
        told[line.name] = state
        row = {
            k: v for k, v in _row(line, list(line.resources)).items() if v is not None and k not in ("hash", "agent")
        }
        emit_line(line, lines=["  ".join(f"{k}={','.join(v) if isinstance(v, list) else v}" for k, v in row.items())])
