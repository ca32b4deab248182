"""`commonplace decision show`: the effective decision of a request."""

from typing import Annotated

import typer

from commonplace.cli.output import say
from commonplace.errors import Denied, NotReady
from commonplace.words import counted

app = typer.Typer(
    help="Show decisions.", no_args_is_help=True, epilog="\b\nExample:\n  commonplace decision show r-7f3a"
)


@app.callback()
def _group() -> None:
    """Show decisions."""


@app.command(epilog="\b\nExample:\n  commonplace decision show r-7f3a -o json\nExit code 6 while there is no decision.")
def show(
    name: Annotated[str, typer.Argument(metavar="REQUEST|ALLOCATION", help="Its id; a unique prefix will do.")],
) -> None:
    """Print the effective decision: where each instance is, or why none is anywhere."""
    from commonplace.cli.settle import find_entry
    from commonplace.cli.submit import emit_decision

    _, entry = find_entry(name)
    if entry.decision is None and entry.id_reused:
        raise Denied(f"request {entry.request} was rejected: its id was used for another request before")
    if entry.decision is None:
        cancelled = " and was cancelled" if entry.cancelled else ""
        raise NotReady(f"request {entry.request} has no decision yet{cancelled}: see that a scheduler runs")
    emit_decision(entry.decision)
    if entry.void:
        say(f"{counted(entry.void, 'later decision differs and is', 'later decisions differ and are')} void")
