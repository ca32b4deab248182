"""`commonplace audit`: whether the pool kept its invariants, from the raw topics."""

from typing import TYPE_CHECKING, Any

import typer

from commonplace.cli import common
from commonplace.cli.output import emit, say
from commonplace.errors import ExitCode

if TYPE_CHECKING:
    from commonplace.ops.audit import AuditReport

app = typer.Typer(help="Check the invariants from the raw topics.")

VIOLATIONS_SHOWN = 5
"""Violations a table shows per invariant; -o json has up to 100."""

EXITS = {"clean": ExitCode.OK, "violated": ExitCode.VIOLATED, "nothing": ExitCode.NOT_READY}


@app.command(
    epilog="\b\nExample:\n  commonplace audit -o json | jq .audit\n"
    "Exit code 0 when clean, 8 when an invariant is violated, 6 when there is nothing to check."
)
def audit(
    slack_s: float = typer.Option(
        30.0, min=0.0, max=1e9, metavar="SECONDS", help="Granted to deadlines and leases, in log time."
    ),
) -> int:
    """Read hosts, claims, requests and decisions to their ends and check what they prove, sharing no code with the scheduler."""
    import msgspec

    from commonplace.kafka import client
    from commonplace.ops.audit.read import options_for, run

    settings = common.settings()
    options = options_for(settings, client.require_broker(settings).brokers)
    report = run(settings, msgspec.structs.replace(options, slack_ms=int(slack_s * 1000)))
    if common.output() in ("json", "yaml"):
        emit(report.to_dict())
    else:
        _table(report)
    return EXITS[report.verdict]


def _table(report: "AuditReport") -> None:
    """One line per invariant, then what is violated, then why something could not be proved."""
    told = report.to_dict()
    emit([_row(number, tally) for number, tally in told["invariants"].items()], name="invariant")
    for number, tally in told["invariants"].items():
        for violation in tally["violations"][:VIOLATIONS_SHOWN]:
            say(
                f"violated {number}: {violation['text']} ({violation['topic']} [{violation['partition']}] @{violation['offset']})"
            )
        if tally["violated"] > VIOLATIONS_SHOWN:
            say(f"violated {number}: {tally['violated'] - VIOLATIONS_SHOWN} more; -o json lists up to 100")
        for why, count in tally["reasons"].items():
            say(f"not proved {number}: {count} × {why}")
    say(
        f"audit: {report.verdict}"
        + (", nothing to check: the topics hold no facts" if report.verdict == "nothing" else "")
    )


def _row(number: str, tally: dict[str, Any]) -> dict[str, Any]:
    return {
        "invariant": number,
        **{key: tally[key] for key in ("checked", "violated", "unprovable", "pending")},
        "meaning": tally["name"],
    }
