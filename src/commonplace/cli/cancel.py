"""`commonplace cancel`."""

from typing import TYPE_CHECKING, Annotated

import typer

from commonplace.cli.output import emit_done, say
from commonplace.cli.settle import find_entry_or_held
from commonplace.errors import UsageError

if TYPE_CHECKING:
    from commonplace.core.records.requests import Cancel
    from commonplace.settings import Settings

app = typer.Typer()


@app.command(epilog="\b\nExample:\n  commonplace cancel r-7f3a")
def cancel(
    requests: Annotated[list[str], typer.Argument(metavar="REQUEST", help="Ids; a unique prefix will do.")],
) -> None:
    """Withdraw requests: one that is undecided is rejected as cancelled, what a decision placed is released."""
    from commonplace.frontend import Frontend

    found = [_meant(name) for name in requests]
    done = []
    for settings, cancelled, outcome in found:
        with Frontend(settings) as frontend:
            frontend.cancel(cancelled.id, cancelled.flavor, cancelled.group, wait=True)
        say(f"cancel of {cancelled.id} written; {outcome}")
        done.append({"request": cancelled.id, "pool": settings.topics.pool, "cancel": "written"})
    emit_done(done, name="request")


def _meant(name: str) -> "tuple[Settings, Cancel, str]":
    """Pool and cancel of the request that `name` means, and what comes of it. One that has left the log goes by what hosts hold of it."""
    from commonplace.core.records.requests import Cancel
    from commonplace.core.requests import serialised_group
    from commonplace.frontend.moving import Source

    settings, found = find_entry_or_held(name)
    if isinstance(found, Source):
        old = found.decision
        if not old.request.startswith(name):
            raise UsageError(f"{name} is held by request {old.request}: cancel that, or `commonplace release {name}`")
        return settings, Cancel(id=old.request, flavor=old.flavor), "what hosts hold of it is released"
    outcome = f"`commonplace decision show {found.request}` shows what came of it"
    if found.build:
        group = serialised_group(found.build)
        return settings, Cancel(id=found.request, flavor=found.build.flavor, group=group), outcome
    if found.decision is None or not found.decision.flavor:
        raise UsageError(f"request {found.request}: its flavor is not in the log any more, nor is it to be cancelled")
    return settings, Cancel(id=found.request, flavor=found.decision.flavor), outcome
