"""`commonplace release`."""

from typing import Annotated

import typer

from commonplace.cli.settle import settle

app = typer.Typer()


@app.command(epilog="\b\nExample:\n  commonplace release r-7f3a")
def release(
    names: Annotated[
        list[str], typer.Argument(metavar="REQUEST|INSTANCE|ALLOCATION", help="What goes; a unique prefix will do.")
    ],
    timeout: Annotated[float | None, typer.Option(metavar="S", min=0.001, max=604_800, help="Seconds to wait.")] = None,
) -> int:
    """Give back what a decision placed, confirmed or not."""
    return settle("release", names, timeout)
