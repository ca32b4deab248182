"""`commonplace demo-load`: the load of `demo`, a process that it starts; JSON lines on stdout."""

import json
from typing import Annotated, Any

import typer

from commonplace.cli import common

app = typer.Typer()


@app.command(hidden=True, epilog="\b\nExample:\n  commonplace demo-load --rate 200 --seconds 15 -b 127.0.0.1:9092")
def demo_load(
    rate: Annotated[float, typer.Option(metavar="R", min=0.1, max=100_000, help="Requests a second.")] = 200.0,
    seconds: Annotated[float, typer.Option(metavar="S", min=0.5, max=86_400, help="How long.")] = 15.0,
    seed: Annotated[int, typer.Option(metavar="N", help="The same seed makes the same requests.")] = 42,
) -> None:
    """Submit starter flavors at a rate, confirm them, release some; the flavors must be there."""
    from commonplace.ops.demo_load import run

    run(common.settings(), rate=rate, seconds=seconds, seed=seed, tell=_line)


def _line(told: dict[str, Any]) -> None:
    print(json.dumps(told, separators=(",", ":")), flush=True)
