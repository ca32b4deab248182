"""`commonplace scheduler`: one replica."""

import typer

from commonplace.cli import common

app = typer.Typer()


@app.command(epilog="\b\nExample:\n  commonplace scheduler --name r1 --http 127.0.0.1:9101")
def scheduler(
    name: str = typer.Option(..., "--name", metavar="N", help="Name of this replica, unique in its pool."),
    http: str | None = typer.Option(None, "--http", metavar="HOST:PORT", help="Serve health and metrics here."),
) -> None:
    """Run a scheduler replica until SIGTERM: it catches up, joins the pool's replicas and decides build requests."""
    import re

    from commonplace.errors import UsageError
    from commonplace.scheduler.process import run

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise UsageError(f"--name {name!r}: letters, digits, dot, dash and underscore only, at most 64 of them")
    run(name, common.settings(scheduler={"http": http}))
