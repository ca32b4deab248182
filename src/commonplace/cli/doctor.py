"""`commonplace doctor`: what is wrong, and what to do."""

from typing import TYPE_CHECKING, Final

import typer

from commonplace.cli import common
from commonplace.cli.output import emit, emit_line, say
from commonplace.errors import ExitCode

if TYPE_CHECKING:
    from commonplace.ops.doctor_check import Check

app = typer.Typer()

NAME_WIDTH: Final = 12


@app.command(
    epilog="\b\nExamples:\n  commonplace doctor -b kafka-1:9092\n  commonplace doctor -o json | jq '.[] | select(.level != \"ok\")'\n"
    "Exit code 0: nothing failed; 6: the broker or a topic is not ready; 1: something else failed."
)
def doctor() -> int:
    """Check settings, broker, topics, clock, hosts, replicas and quarantine, and say what to do."""
    from commonplace.ops.doctor import counted, examine

    streams = common.output() in ("table", "wide")
    checks: list[Check] = []
    for check in examine(common.settings):
        checks.append(check)
        if streams:
            emit_line(check, lines=_lines(check))
    if not streams:
        emit(checks)
    counts = counted(checks)
    say(", ".join(f"{counts[level]} {level}" for level in ("ok", "warn", "fail", "skip") if counts.get(level)))
    failed = [check for check in checks if check.level == "fail"]
    if not failed:
        return ExitCode.OK
    return ExitCode.NOT_READY if all(check.not_ready for check in failed) else ExitCode.ERROR


def _lines(check: "Check") -> list[str]:
    line = f"{check.level:<4}  {check.name:<{NAME_WIDTH}}  {check.found}"
    return [line, f"{' ' * (NAME_WIDTH + 8)}→ {check.todo}"] if check.todo and check.level != "ok" else [line]
