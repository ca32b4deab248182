"""The program `commonplace` (`cpl`): a table of commands, each module imported only when its command is called.

To add a command: write `commonplace/cli/NAME.py` with a `typer.Typer` called `app`, and add a line to COMMANDS. A group
(`app` with a callback, or several commands) becomes `commonplace NAME SUBCOMMAND`, a single command `commonplace NAME`.
The options of cli/common.py are added to every command, and its functions give their values.
"""

import importlib
import os
import signal
from collections.abc import Sequence
from typing import Any, Final

import typer
from typer.core import TyperGroup

from commonplace import __version__
from commonplace.cli import common
from commonplace.errors import CommonplaceError, ExitCode

PROGRAM: Final = "commonplace"
COMPLETE_VARIABLE: Final = "_COMMONPLACE_COMPLETE"
NAME_SHOWN_CHARS: Final = 64
INTERRUPTED: Final = 130  # what a shell reports for a program ended by SIGINT

COMMANDS: Final[dict[str, str]] = {
    # command: module under commonplace.cli
    "broker": "broker",
    "topics": "topics",
    "flavor": "flavor",
    "flavors": "flavors",
    "profile": "profile",
    "aggregate": "aggregate",
    "route": "route",
    "submit": "submit",
    "confirm": "confirm",
    "release": "release",
    "move": "move",
    "cancel": "cancel",
    "requests": "requests",
    "decision": "decisions",
    "explain": "explain",
    "plan": "plan",
    "capacity": "capacity",
    "config": "config",
    "schema": "schema",
    "scheduler": "scheduler",
    "agent": "agent",
    "fleet": "fleet",
    "replay": "replay",
    "hosts": "hosts",
    "host": "host",
    "audit": "audit",
    "doctor": "doctor",
    "demo": "demo",
    "demo-load": "demo_load",
    "sim": "sim",
    "bench": "bench",
    "completion": "completion",
}

EPILOG: Final = """\b
Example:
  commonplace broker &
  commonplace topics create
"""


class LazyCommands(TyperGroup):
    """The commands of COMMANDS, in its order; asking for one imports its module."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands: dict[str, Any] = dict.fromkeys(COMMANDS)  # names for suggestions; None: not imported yet

    def list_commands(self, ctx: Any) -> list[str]:
        """Every command's name."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command with the common options added, None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        if self.commands[cmd_name] is None:
            module = importlib.import_module(f"commonplace.cli.{COMMANDS[cmd_name]}")
            command = typer.main.get_command(module.app)
            command.name = cmd_name
            common.prepare(command)
            self.commands[cmd_name] = command
        return self.commands[cmd_name]


app = typer.Typer(cls=LazyCommands, add_completion=False, no_args_is_help=True, rich_markup_mode=None, epilog=EPILOG)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def commonplace(
    version: bool = typer.Option(
        False, "--version", help="Print the version and end.", is_eager=True, callback=_print_version
    ),
) -> None:
    """Place virtual machines and other instances on hosts, through Kafka, without a database."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; an operating error becomes one line on stderr."""
    if COMPLETE_VARIABLE in os.environ:
        from typer._completion_classes import completion_init

        completion_init()
    root = typer.main.get_command(app)
    common.prepare(root)
    common.forget()
    # SIGTERM as Ctrl-C: what a command began is put away on the way out. Processes that serve have handlers of their own.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        answer = root(args=arguments, prog_name=PROGRAM, complete_var=COMPLETE_VARIABLE, standalone_mode=False)
    except CommonplaceError as e:
        return _told(f"{PROGRAM}: {e}", e.exit_code)
    except typer.TyperException as e:
        return _told(_usage(e), e.exit_code)
    except UnicodeEncodeError as e:  # a name that a person gave, looked for in the log
        if e.encoding != "utf-8":  # of what is printed
            raise
        return _told(f"{PROGRAM}: {e.object[:NAME_SHOWN_CHARS]!r} is not UTF-8: write it so", ExitCode.USAGE)
    except OSError as e:  # a path or an address that a person named; no command can foresee them all
        return _told(f"{PROGRAM}: {_of_the_system(e)}", ExitCode.ERROR)
    except (KeyboardInterrupt, typer.Abort):
        answer = INTERRUPTED
    if answer == INTERRUPTED:  # typer answers so itself when Ctrl-C ended the command, and says nothing
        return _told(f"{PROGRAM}: interrupted", INTERRUPTED)
    return int(answer or 0)


def _of_the_system(error: OSError) -> str:
    """What the system refused, and of what."""
    said = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {said}; name another path or put it right" if error.filename else said


def _usage(error: typer.TyperException) -> str:
    """A group called without a subcommand is told its help, everything else one line that names where help is."""
    message = error.format_message()
    if message.startswith("Usage:"):
        return message
    context: typer.Context | None = getattr(error, "ctx", None)
    path = context.command_path if context else PROGRAM
    said = " ".join(message.replace("Value error, ", "").split())
    return f"{PROGRAM}: {said}{'' if said.endswith(('.', ')', '?')) else '.'} See `{path} --help`."


def _told(message: str, code: int) -> int:
    from commonplace.cli.output import say

    say(message)
    return code
