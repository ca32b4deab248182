"""`commonplace agent`: reports for one or many hosts and keeps their ledgers."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from commonplace.cli import common

if TYPE_CHECKING:
    from collections.abc import Mapping

    from commonplace.agent.drivers import Driver

app = typer.Typer()

DriverName = Literal["static", "host"]


@app.command(
    epilog="\b\nExamples:\n  commonplace agent --name cell-1 --driver static --file inventory.toml\n"
    "  commonplace agent --name $(hostname) --driver host --file driver.toml\n"
    "Exit code 7: another agent took over the last host, or the broker refuses this one; supervisors must not start it again."
)
def agent(
    name: str = typer.Option(..., "--name", metavar="NAME", help="Name of the agent; with --driver host, of the host."),
    driver: DriverName = typer.Option("host", "--driver", help="static: hosts of a file. host: this machine."),
    file: Path | None = typer.Option(
        None,
        "--file",
        metavar="FILE",
        help="static: the inventory file. host: its settings [/etc/commonplace-driver.toml, if there].",
    ),
    http: str | None = typer.Option(None, "--http", metavar="HOST:PORT", help="Serve health and metrics here."),
) -> None:
    """Report for hosts, take their claims and run their instances until SIGTERM."""
    from commonplace.agent.process import run

    settings = common.settings(agent={"http": http})
    checked_name(name)
    run(name, settings, _drivers(name, driver, file))


def checked_name(name: str) -> str:
    """The name, if it may be one of a host or an agent; raises `UsageError`."""
    import msgspec

    from commonplace.core.records.fields import HostName
    from commonplace.errors import UsageError

    try:
        return msgspec.convert(name, HostName)
    except msgspec.ValidationError as e:
        raise UsageError(
            f"--name {name!r}: letters, digits and . _ : - only, at most 128, a letter or digit first"
        ) from e


def _drivers(name: str, driver: DriverName, file: Path | None) -> "Mapping[str, Driver]":
    from commonplace.errors import UsageError

    if driver == "static":
        from commonplace.agent.inventory_file import load_hosts

        if file is None:
            raise UsageError("--driver static needs --file: the inventory of its hosts")
        return {host: static.driver() for host, static in load_hosts(file).items()}
    from commonplace.agent.host_driver import HostDriver
    from commonplace.agent.machine import load_settings

    return {name: HostDriver(load_settings(file))}
