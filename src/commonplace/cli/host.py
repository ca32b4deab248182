"""`commonplace host`: show one host, enable, disable, drain it, clear its gap, forget it."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from commonplace.cli import common
from commonplace.cli.output import emit, emit_done, say
from commonplace.errors import StateChanged
from commonplace.words import counted

if TYPE_CHECKING:
    from commonplace.core.records.hosts import Status
    from commonplace.core.rows import Row
    from commonplace.ops.fleet_view import FleetView

app = typer.Typer(
    help="Show one host, and say what operators say of it.",
    no_args_is_help=True,
    epilog="\b\nExamples:\n  commonplace host show host-0042\n  commonplace host drain host-0042 --reason 'kernel update'",
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The host; a unique prefix will do.")]
Reason = Annotated[str, typer.Option(metavar="TEXT", help="Why, for those who look later.")]


@app.command(epilog="\b\nExample:\n  commonplace host show host-0042 -o json")
def show(name: Name) -> None:
    """Print everything its reports and the operators say of a host, allocations included."""
    from commonplace.ops.fleet_view import FleetView

    with FleetView(common.settings()) as view:
        row = view.read().host(name)
        told = _everything(view, row)
    if common.output() in ("json", "yaml", "name"):
        emit(told)
    else:
        _print(told)


@app.command(epilog="\b\nExample:\n  commonplace host enable host-0042")
def enable(name: Name, reason: Reason = "") -> None:
    """Let instances be placed there again."""
    emit_done(_set(name, "enabled", reason))


@app.command(epilog="\b\nExample:\n  commonplace host disable host-0042 --reason 'disk errors'")
def disable(name: Name, reason: Reason = "") -> None:
    """Place nothing there; what runs stays."""
    emit_done(_set(name, "disabled", reason))


@app.command(
    epilog="\b\nExample:\n  commonplace host drain host-0042 --reason 'kernel update' --wait --timeout 3600\n"
    "Exit code 5 when --timeout passes."
)
def drain(
    name: Name,
    reason: Reason = "",
    wait: Annotated[bool, typer.Option("--wait", help="Block until it holds no allocation.")] = False,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", min=0, max=1e9, help="For --wait; 0: for ever.")] = 0.0,
) -> None:
    """Place nothing there any more; what runs stays until it is released."""
    from commonplace.ops.fleet_view import FleetView
    from commonplace.ops.operators import await_empty

    done = _set(name, "draining", reason)
    host = done["name"]
    if wait:
        with FleetView(common.settings()) as view:
            view.read()
            await_empty(view, host, timeout, lambda left: say(f"host {host} holds {counted(left, 'allocation')}"))
        say(f"host {host} is empty")
        done["allocations"] = 0
    emit_done(done)


@app.command(
    "clear-gap", epilog="\b\nExample:\n  commonplace host clear-gap host-0042\nExit code 4 when it reports none."
)
def clear_gap(name: Name) -> None:
    """Say that you compared what runs on the host with what it reports, after claims to it were lost."""
    from commonplace.ops import operators
    from commonplace.ops.fleet_view import FleetView

    settings = common.settings()
    with FleetView(settings) as view:
        host = view.read().host(name).host
    if not host.gap:
        raise StateChanged(f"host {host.name} reports no gap: there is nothing to clear")
    operators.clear_gap(settings, host.name, host.epoch)
    say(f"host {host.name}: gap of epoch {host.epoch} cleared; its agent takes it off its next report")
    emit_done({"name": host.name, "gap_cleared": host.epoch})


@app.command(
    epilog="\b\nExample:\n  commonplace host forget host-0042\n"
    "Exit code 4 while it reports or holds allocations, or when its agent came back meanwhile."
)
def forget(name: Name) -> None:
    """Remove a host that is silent and empty from the pool; it may join again later, as a new one."""
    from commonplace.ops import operators

    settings = common.settings()
    gone = operators.forget(settings, _resolved(name), say)
    emit({"name": gone.host, "epoch": gone.epoch, "keys_deleted": gone.keys})


def _resolved(name: str) -> str:
    """The host that a name or a unique prefix means; one whose forgetting was interrupted goes by its whole name."""
    from commonplace.ops.fleet_view import FleetView

    with FleetView(common.settings()) as view:
        view.read()
        row = view.view.rows.get(name)
        return name if row is not None and row.host.removed else view.host(name).host.name


def _set(name: str, status: "Status", reason: str) -> dict[str, Any]:
    """Say it on `control`; returns what was done, for machines."""
    from commonplace.ops import operators
    from commonplace.ops.fleet_view import FleetView

    settings = common.settings()
    with FleetView(settings) as view:
        row = view.read().host(name)
    operators.set_status(settings, row.host.name, status, reason)
    held = len(row.host.allocations)
    holds = f"; it holds {counted(held, 'allocation')}" if held and status != "enabled" else ""
    say(f"host {row.host.name} {status}{holds}")
    return {"name": row.host.name, "status": status, "reason": reason, "allocations": held}


def _everything(view: "FleetView", row: "Row") -> dict[str, Any]:
    import msgspec

    from commonplace.ops.cells_told import cells_told

    host, control = row.host, row.control
    return {
        **msgspec.to_builtins(view.line(row)),
        "reported_status": host.status,
        "operator": msgspec.structs.asdict(control) if control else None,
        "gap": host.gap,
        "inventory": {name: msgspec.structs.asdict(item) for name, item in host.inventory.items()},
        "traits": sorted(host.traits),
        "labels": host.labels,
        "cells": cells_told(host.cells),
        "load": host.load,
        "partition": row.partition,
        "offset": row.offset,
        "claims_topic": host.claims_topic,
        "claims_through": host.claims_through,
        "groups": host.groups,
        "settled": [msgspec.structs.asdict(entry) for entry in host.settled],
        "allocations": [
            {**msgspec.structs.asdict(a), "assigned": msgspec.to_builtins(a.assigned)}
            for a in host.allocations.values()
        ],
    }


def _print(told: dict[str, Any]) -> None:
    """To a person: facts first, then amounts and allocations as tables, the reason why it is not ranked last."""
    from commonplace.ops import render

    operator = told["operator"]
    facts = {
        "name": told["name"],
        "status": told["status"],
        "flags": told["flags"] or None,
        "operators say": f"{operator['status']} {operator['reason']}".strip() if operator else None,
        "report": f"{render.duration(told['age_s'])} old, generation {told['generation']} of epoch {told['epoch']}",
        "agent": told["agent"] or None,
        "state hash": told["hash"],
        "at": f"partition {told['partition']}, offset {told['offset']}, claims through {told['claims_through']}",
        "traits": told["traits"] or None,
        "labels": told["labels"] or None,
        "load": told["load"] or None,
        "builds": told["builds"],
        "instances": f"{told['instances']}, {told['leased']} leased",
    }
    emit(facts)
    rows = [
        {"class": name, **amount, **_rules(told["inventory"].get(name, {}))}
        for name, amount in told["resources"].items()
    ]
    if rows:
        print()
        emit(rows)
    if told["cells"]:
        from commonplace.ops.cells_told import cell_line

        print()
        emit([{"cell": name, **cell_line(cell)} for name, cell in told["cells"].items()])
    if told["allocations"]:
        print()
        shown = ["id", "request", "instance", "flavor", "project", "group", "state", "building", "origin", "resources"]
        shown += ["cells", "assigned"] if any(a["cells"] for a in told["allocations"]) else []
        emit([{key: a[key] for key in shown} for a in told["allocations"]])
    for line in _reasons(told):
        say(line)


def _rules(item: dict[str, Any]) -> dict[str, Any]:
    return {
        "total": item.get("total"),
        "reserved": item.get("reserved"),
        "ratio": item["allocation_ratio_thousandths"] / 1000 if item else None,
    }


def _reasons(told: dict[str, Any]) -> list[str]:
    """Why nothing is placed there, and what to do."""
    found = []
    if told["stale"]:
        found.append(f"not ranked: {told['stale']}; see its agent's log")
    if "silent" in told["flags"]:
        found.append("not ranked: silent; see that its agent runs and reaches the broker")
    if told["status"] != "enabled":
        found.append(f"not ranked: {told['status']}; `commonplace host enable {told['name']}`")
    if told["gap"]:
        found.append(
            "claims to it were lost to retention: compare what runs there with the allocations above, then "
            f"`commonplace host clear-gap {told['name']}`"
        )
    return found
