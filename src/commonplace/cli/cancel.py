"""`commonplace cancel`."""

from typing import Annotated

import typer

from commonplace.cli.output import say
from commonplace.cli.settle import find_entry
from commonplace.errors import UsageError

app = typer.Typer()


@app.command(epilog="\b\nExample:\n  commonplace cancel r-7f3a")
def cancel(
    requests: Annotated[list[str], typer.Argument(metavar="REQUEST", help="Ids; a unique prefix will do.")],
) -> None:
    """Withdraw requests: one that is undecided is rejected as cancelled, what a decision placed is released."""
    from commonplace.core.requests import serialised_group
    from commonplace.frontend import Frontend

    found = [find_entry(name) for name in requests]
    for settings, entry in found:
        flavor = entry.build.flavor if entry.build else entry.decision.flavor if entry.decision else ""
        if not flavor:
            raise UsageError(
                f"request {entry.request}: its flavor is not in the log any more, nor is it to be cancelled"
            )
        with Frontend(settings) as frontend:
            frontend.cancel(entry.request, flavor, serialised_group(entry.build) if entry.build else "")
            frontend.flush()
    for _, entry in found:
        say(f"cancel of {entry.request} written; `commonplace decision show {entry.request}` shows what came of it")
