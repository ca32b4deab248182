"""`commonplace explain`: why a request went where it went, or nowhere, and how it stands now."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from commonplace.cli import common
from commonplace.cli.output import emit, emit_line
from commonplace.words import counted

if TYPE_CHECKING:
    from commonplace.ops.explain import Attempt, Explained

app = typer.Typer()

ATTEMPTS_SHOWN = 20


@app.command(
    epilog="\b\nExamples:\n  commonplace explain r-7f3a\n  commonplace explain r-7f3a --candidates 20 -o json\n"
    "What was decided is of its moment, the tables are of now; exit code 0 once the request is found."
)
def explain(
    name: Annotated[str, typer.Argument(metavar="REQUEST|ALLOCATION", help="Its id; a unique prefix will do.")],
    candidates: Annotated[
        int, typer.Option(metavar="N", min=0, max=1000, help="Best hosts to show with their weights.")
    ] = 5,
) -> None:
    """Explain a request: every filter, the closest miss, what would fit, the best hosts' weights, its claims."""
    from commonplace.cli.settle import find_entry
    from commonplace.ops.explain import explain as explained

    settings, entry = find_entry(name)
    found = explained(settings, name, candidates, entry)
    match common.output():
        case "table" | "wide":
            emit_line(found, lines=_lines(found))
        case _:
            emit(found, name="request")


def _lines(found: "Explained") -> list[str]:
    from commonplace.ops import explain_render, render

    lines = render.decision(found.decision) if found.decision else [f"{found.request} is not decided yet"]
    lines += _when(found)
    lines += [f"trace {found.trace_id}"] if found.trace_id else []
    if found.attempts:
        lines += ["", *_attempts(found.attempts)]
    if found.now is not None:
        note = "" if found.complete else " (the request has left the log: by flavor and group alone)"
        lines += ["", f"asked again now{note}:", *explain_render.table(found.now)]
    return lines


def _when(found: "Explained") -> list[str]:
    from commonplace.ops import render

    decision = found.decision
    if decision is None or found.decided_at_ms is None:
        return []
    ago = render.duration(max(0.0, time.time() - found.decided_at_ms / 1000))
    took = f" in {found.decided_at_ms - found.requested_at_ms} ms" if found.requested_at_ms else ""
    stages = ", ".join(f"{name} {ms:g} ms" for name, ms in decision.stages_ms.items())
    void = f"; {counted(found.void, 'later decision is', 'later decisions are')} void" if found.void else ""
    return [f"decided {ago} ago{took} by {decision.replica or 'nobody named'}{f' ({stages})' if stages else ''}{void}"]


def _attempts(attempts: "list[Attempt]") -> list[str]:
    from commonplace.ops.explain_render import grid

    rows = [
        (f"{one.partition}:{one.offset}", one.host, one.replica, one.mode, _said(one)) for one in attempts[-ATTEMPTS_SHOWN:]
    ]  # fmt: skip
    left_out = len(attempts) - len(rows)
    more = f"{counted(left_out, 'earlier claim is', 'earlier claims are')} left out; -o json has them"
    return [*grid(("CLAIM", "HOST", "REPLICA", "MODE", "VERDICT"), rows), *([more] if left_out else [])]


def _said(one: "Attempt") -> str:
    return ": ".join(part for part in (one.verdict, one.reason, one.detail) if part)
