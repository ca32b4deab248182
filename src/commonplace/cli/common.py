"""Options that every command takes, before or after its name, and what a command asks for instead of declaring them."""

from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, get_args

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from commonplace.settings import Setting, Settings

Output = Literal["table", "wide", "json", "yaml", "name"]

_given: Final[ContextVar[dict[str, Any]]] = ContextVar("common options")


def settings(**flags: dict[str, Any]) -> "Settings":
    """The settings in force, with the common options and `flags` (section=dict) on top; raises `SettingsError`."""
    return settings_with_origins(**flags)[0]


def settings_with_origins(**flags: dict[str, Any]) -> "tuple[Settings, list[Setting]]":
    """As `settings`, and where each value came from."""
    from commonplace.settings import load_with_origins

    given = _given.get()
    merged = {section: dict(values) for section, values in flags.items()}
    merged.setdefault("kafka", {}).setdefault("bootstrap.servers", given.get("bootstrap_servers"))
    for key in ("prefix", "pool"):
        merged.setdefault("topics", {}).setdefault(key, given.get(key))
    config = given.get("config")
    return load_with_origins(Path(config) if config else None, flags=merged)


def output(unless_told: Output = "table") -> Output:
    """The form asked for with -o; table unless told, or what a command prints then."""
    return _given.get().get("output") or unless_told


def log_level() -> str:
    """The level asked for with --log-level, for passing on to processes that a command starts."""
    return _given.get().get("log_level") or "info"


def pool_given() -> str:
    """The pool named with --pool, "" where none was: then a command may look into all of them."""
    return str(_given.get().get("pool") or "")


def forget() -> None:
    """Start anew: nothing given yet."""
    _given.set({})


def prepare(command: Any) -> None:
    """Add the common options to a command or group and all its members, and have plain help: no boxes to be cut off."""
    own = [param for param in command.params if param.name not in ("install_completion", "show_completion")]
    taken = {option for param in own for option in param.opts}
    command.params = own + [param for param in _options() if not taken.intersection(param.opts)]
    command.rich_markup_mode = None
    if command.help:  # in the list of commands: else it is cut in the middle of its first sentence
        command.short_help = " ".join(command.help.split("\n\n")[0].split()).rstrip(".").partition(". ")[0] + "."
    if isinstance(command, TyperGroup):
        for member in filter(None, command.commands.values()):
            prepare(member)


def _keep(ctx: typer.Context, param: typer.CallbackParam, value: Any) -> None:
    if value is not None and not ctx.resilient_parsing:
        _given.get()[param.name] = value


def _keep_level(ctx: typer.Context, param: typer.CallbackParam, value: str | None) -> None:
    _keep(ctx, param, value)
    if not ctx.resilient_parsing:
        from commonplace import logs

        logs.configure(log_level())


def _options() -> list[Any]:
    """Fresh option objects, made by typer from the signature below, their values kept here and not passed on."""
    carrier = typer.Typer(add_completion=False)
    carrier.command()(_signature)
    params = [param for param in typer.main.get_command(carrier).params if param.name != "help"]
    for param in params:
        param.expose_value = False
    return params


def _signature(
    bootstrap_servers: Annotated[
        str | None,
        typer.Option("-b", "--bootstrap-servers", metavar="HOST:PORT", help="The brokers.", callback=_keep),
    ] = None,
    prefix: Annotated[
        str | None, typer.Option(metavar="PREFIX", help="First word of every topic.", callback=_keep)
    ] = None,
    pool: Annotated[str | None, typer.Option(metavar="POOL", help="The pool of hosts.", callback=_keep)] = None,
    config: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Settings, instead of $COMMONPLACE_CONFIG.", callback=_keep),
    ] = None,
    output: Annotated[
        Output | None,
        typer.Option("-o", "--output", metavar="|".join(get_args(Output)), help="Form of stdout.", callback=_keep),
    ] = None,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"] | None,
        typer.Option(metavar="debug|info|warning|error", help="What stderr is told.", callback=_keep_level),
    ] = None,
) -> None: ...
