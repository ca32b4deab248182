"""`commonplace fleet`: many simulated hosts in one process."""

import typer

from commonplace.cli import common

app = typer.Typer()


@app.command(epilog="\b\nExample:\n  commonplace fleet --hosts 10000 --shape mixed --boot-s 5 --failure-rate 0.01")
def fleet(
    hosts: int = typer.Option(0, "--hosts", metavar="N", min=0, help="How many; 0: as many as the shapes count."),
    shape: str = typer.Option(
        "uniform",
        "--shape",
        metavar="SPEC|FILE",
        help="uniform, mixed, 24vcpu:48gb:1000gb*700, or a .toml or .csv file.",
    ),
    name: str = typer.Option("fleet", "--name", metavar="NAME", help="Name of this agent."),
    boot_s: float = typer.Option(0.0, "--boot-s", metavar="S", min=0, max=1e9, help="Seconds until an instance is up."),
    failure_rate: float = typer.Option(
        0.0, "--failure-rate", metavar="F", min=0, max=1, help="Share of instances that fail to boot."
    ),
    http: str | None = typer.Option(None, "--http", metavar="HOST:PORT", help="Serve health and metrics here."),
    seed: int = typer.Option(0, "--seed", metavar="N", help="The same seed makes the same fleet."),
    first: int = typer.Option(
        1, "--first", metavar="K", min=1, help="Number of the first host, to share one fleet among processes."
    ),
) -> None:
    """Run simulated hosts with real ledgers until SIGTERM. Nothing is started but the accounting of instances."""
    from commonplace.agent import fleet as fleets
    from commonplace.agent.process import run
    from commonplace.agent.shapes import parse_shapes
    from commonplace.cli.agent import checked_name

    settings = common.settings(agent={"http": http})
    drivers = fleets.drivers(
        hosts, parse_shapes(shape), boot_s=boot_s, failure_rate=failure_rate, seed=seed, first=first
    )
    run(checked_name(name), settings, drivers)
