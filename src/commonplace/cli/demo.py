"""`commonplace demo`: a fleet fills up on this machine."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from commonplace.cli import common
from commonplace.cli.output import emit, emit_line, require_no_name, say
from commonplace.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from commonplace.core.records.decisions import Decision
    from commonplace.ops.demo import Plan, Screen

app = typer.Typer()


@app.command(
    epilog="\b\nExamples:\n  commonplace demo\n  commonplace demo --kafka --hosts 2000 --rate 1000 --seconds 30\n"
    "  commonplace demo --seconds 5 -o json | jq .latency_ms\nExit code 8 when the audit at its end is not clean."
)
def demo(
    hosts: Annotated[int, typer.Option(metavar="N", min=1, max=100_000, help="Simulated hosts.")] = 200,
    replicas: Annotated[int, typer.Option(metavar="R", min=1, max=64, help="Scheduler replicas.")] = 2,
    rate: Annotated[float, typer.Option(metavar="R", min=0.1, max=100_000, help="Requests a second.")] = 200.0,
    seconds: Annotated[float, typer.Option(metavar="S", min=0.5, max=86_400, help="How long requests come.")] = 15.0,
    kafka: Annotated[bool, typer.Option("--kafka", help="Apache Kafka instead of the embedded broker.")] = False,
    shape: Annotated[str, typer.Option(metavar="SHAPE", help="Sizes of the hosts, as for `fleet`.")] = "mixed",
    work_dir: Annotated[Path | None, typer.Option(metavar="DIR", help="Keep the logs of all processes here.")] = None,
) -> None:
    """Start broker, hosts, replicas and load as processes, watch the hosts fill, audit, and stop it all.

    The embedded broker is not Kafka; --kafka takes the real one (Java 17 or newer). Ctrl-C stops everything.
    """
    require_no_name()
    _, origins = common.settings_with_origins()
    if any(s.key == "bootstrap.servers" and s.origin == "flag" for s in origins):
        raise UsageError(
            "the demo starts a broker of its own: leave out -b; `commonplace replay` loads a running system"
        )
    from commonplace.agent.shapes import parse_shapes
    from commonplace.ops.demo import Plan, run

    parse_shapes(shape)  # what is wrong with it is told before anything starts
    plan = Plan(
        hosts=hosts,
        replicas=replicas,
        rate=rate,
        seconds=seconds,
        kafka=kafka,
        shape=shape,
        settings=common.settings(),
        work_dir=work_dir,
    )
    with _screen(plan) as screen:
        report, refusal = run(plan, screen)
    _print(report, refusal)
    if not report["clean"]:
        say("the audit is not clean: -o json lists what is violated")
        raise typer.Exit(int(ExitCode.VIOLATED))


@contextmanager
def _screen(plan: "Plan") -> "Iterator[Screen]":
    """A live view where stderr is a terminal, plain lines elsewhere."""
    from commonplace.ops.demo_view import Plain, Terminal

    if not sys.stderr.isatty():
        yield Plain(say)
        return
    from rich.console import Console

    with Terminal(plan, Console(stderr=True)) as screen:
        yield screen


def _print(report: dict[str, Any], refusal: "Decision | None") -> None:
    """One object to a machine; to a person the refusal explained, then what they look for first."""
    from commonplace.ops import render

    if common.output() in ("json", "yaml"):
        import msgspec

        told = {key: value for key, value in report.items() if key != "clean"}
        emit({**told, "refusal": msgspec.to_builtins(refusal) if refusal else None})
        return
    refused = report["packing"]["at_first_refusal"]
    if refusal is not None:
        emit_line(refusal, lines=[*render.decision(refusal), ""])
    emit(
        {
            "broker": report["broker"],
            "replicas": report["replicas"],
            "requests": report["requests"],
            "placed": report["placed"],
            "refused": report["refused"],
            "reasons": report["reasons"],
            "confirmed": report["confirmed"],
            "released": report["released"],
            "decisions/s": report["decisions_per_s"],
            "latency": "  ".join(f"{name} {value} ms" for name, value in report["latency_ms"].items()),
            "conflict fraction": report["conflict_fraction"],
            "hosts used": f"{report['hosts_used']} of {report['hosts']}",
            "allocated": report["packing"]["at_end"],
            "at first refusal": refused["allocated_share"] if refused else "nothing was refused for want of room",
            "audit": report["audit"]["audit"],
        }
    )
