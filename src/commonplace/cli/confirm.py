"""`commonplace confirm`."""

from typing import Annotated

import typer

from commonplace.cli.settle import settle

app = typer.Typer()


@app.command(epilog="\b\nExample:\n  commonplace confirm r-7f3a\nExit code 4: it came too late.")
def confirm(
    names: Annotated[list[str], typer.Argument(metavar="REQUEST|ALLOCATION", help="Ids; a unique prefix will do.")],
    timeout: Annotated[float | None, typer.Option(metavar="S", min=0.001, max=604_800, help="Seconds to wait.")] = None,
) -> int:
    """Confirm what a decision placed, so that it stays until it is released."""
    return settle("confirm", names, timeout)
