"""`commonplace config show`: the settings in force."""

import typer

from commonplace.cli import common
from commonplace.cli.output import Column, emit

app = typer.Typer(
    help="Show the settings in force.", no_args_is_help=True, epilog="\b\nExample:\n  commonplace config show --origin"
)


@app.callback()
def config() -> None:
    """Show the settings in force."""


@app.command(epilog="\b\nExample:\n  COMMONPLACE__AGENT__HEARTBEAT_INTERVAL_S=10 commonplace config show --origin")
def show(
    origin: bool = typer.Option(False, "--origin", help="Say which file, variable or flag each value came from."),
) -> None:
    """Print every setting; secrets are masked. Exit code 2 where [kafka] contradicts what the program needs."""
    from commonplace.kafka.client import check_passed_through
    from commonplace.settings import masked

    settings, origins = common.settings_with_origins()
    rows = [{"setting": f"{s.section}.{s.key}", "value": masked(s), "origin": s.origin} for s in origins]
    if not origin and common.output() in ("json", "yaml"):
        rows = [{key: row[key] for key in ("setting", "value")} for row in rows]
    emit(rows, columns=["setting", "value", Column("origin", wide=not origin)], name="setting")
    check_passed_through(settings)  # after the table, which says where the setting came from
