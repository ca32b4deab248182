"""`commonplace cancel`."""

from typing import Annotated

import typer

from commonplace.cli import common
from commonplace.cli.output import say
from commonplace.errors import UsageError

app = typer.Typer()


@app.command(epilog="\b\nExample:\n  commonplace cancel r-7f3a")
def cancel(
    requests: Annotated[list[str], typer.Argument(metavar="REQUEST", help="Ids; a unique prefix will do.")],
) -> None:
    """Withdraw requests: one that is undecided is rejected as cancelled, what a decision placed is released."""
    from commonplace.core.requests import serialised_group
    from commonplace.frontend import Frontend
    from commonplace.frontend.lookup import find

    settings = common.settings()
    found = [find(settings, name) for name in requests]
    with Frontend(settings) as frontend:
        for entry in found:
            flavor = entry.build.flavor if entry.build else entry.decision.flavor if entry.decision else ""
            if not flavor:
                raise UsageError(
                    f"request {entry.request}: its flavor is not in the log any more, nor is it to be cancelled"
                )
            frontend.cancel(entry.request, flavor, serialised_group(entry.build) if entry.build else "")
        frontend.flush()
    for entry in found:
        say(f"cancel of {entry.request} written; `commonplace decision show {entry.request}` shows what came of it")
