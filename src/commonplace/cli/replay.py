"""`commonplace replay`: a real trace through the whole loop, and what became of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from commonplace.cli import common
from commonplace.cli.output import emit, require_no_name, say
from commonplace.errors import ExitCode, UsageError
from commonplace.words import counted

if TYPE_CHECKING:
    from commonplace.ops.replay.book import Book
    from commonplace.ops.replay.run import Progress

app = typer.Typer()

FORMAT_NAMES = ("azure-v1", "azure-2020", "huawei", "csv")

EXAMPLE = """\b
Example:
  commonplace replay vms.csv --format csv --hosts 100 --host-shape 24vcpu:48gb
  commonplace replay azure2020.csv.gz --format azure-2020 --hosts 700 --profile pack --kafka -o json
  commonplace replay vms.csv --format csv -b broker:9092      (a system that runs already)
"""


@app.command(epilog=EXAMPLE)
def replay(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The trace, plain or gzip.")],
    form: Annotated[str, typer.Option("--format", metavar="|".join(FORMAT_NAMES), help="What its columns mean.")],
    hosts: Annotated[int, typer.Option(metavar="N", min=0, help="Simulated hosts to start.")] = 0,
    host_shape: Annotated[
        str, typer.Option(metavar="SHAPE", help="Their size, as 24vcpu:48gb, or a mix; default: the format's own.")
    ] = "",
    replicas: Annotated[int, typer.Option(metavar="N", min=1, max=64, help="Scheduler replicas to start.")] = 2,
    kafka: Annotated[bool, typer.Option("--kafka", help="Start Apache Kafka instead of the embedded broker.")] = False,
    speed: Annotated[
        float, typer.Option(metavar="X", min=0, max=1e9, help="Times real time; 0: as fast as answers come.")
    ] = 0.0,
    limit: Annotated[int, typer.Option(metavar="N", min=0, help="Only the first N arrivals.")] = 0,
    in_flight: Annotated[
        int, typer.Option(metavar="N", min=1, max=10_000, help="Most requests without an answer where no speed is set.")
    ] = 512,
    tail: Annotated[bool, typer.Option(help="Send the departures after the last arrival too.")] = True,
    profile: Annotated[
        str, typer.Option(metavar="NAME", help="How its VMs are ranked: default, spread, pack, or one on control.")
    ] = "default",
    work_dir: Annotated[Path | None, typer.Option(metavar="DIR", help="Keep the logs of what is started here.")] = None,
) -> None:
    """Replay a trace: submit, confirm, release each VM in the trace's order, then audit.

    Starts a broker, replicas and --hosts simulated hosts, and stops them; with -b it uses a system that runs already.
    """
    require_no_name()
    if form not in FORMAT_NAMES:
        raise UsageError(f"--format {form}: must be one of {', '.join(FORMAT_NAMES)}; docs/replay.md has their columns")
    running = _names_running_system()
    if running and (hosts or host_shape or kafka):
        raise UsageError(
            "-b names a system that runs already, so nothing is started: leave out --hosts, --host-shape and --kafka"
        )
    if not running and not hosts:
        raise UsageError("say how many hosts to start with --hosts N, or name a system that runs with -b")
    from commonplace.agent.shapes import parse_shapes
    from commonplace.ops.replay.run import Plan
    from commonplace.ops.replay.run import replay as run

    parse_shapes(host_shape or "uniform")  # what is wrong with it is told before anything starts
    plan = Plan(
        path=file,
        form=form,
        limit=limit,
        speed=speed,
        in_flight_max=in_flight,
        tail=tail,
        hosts=hosts,
        shape=host_shape,
        replicas=replicas,
        kafka=kafka,
        profile=profile,
        settings=common.settings(),
        work_dir=work_dir,
    )
    with _progress() as progress:
        report = run(plan, progress)
    _print(report)
    if not report["clean"]:
        say("the audit is not clean: `commonplace audit` lists what is violated")
        raise typer.Exit(int(ExitCode.VIOLATED))


def _names_running_system() -> bool:
    """Whether -b was given; an address from a settings file is not taken, because a replay loads what it reaches."""
    _, origins = common.settings_with_origins()
    return any(s.key == "bootstrap.servers" and s.origin == "flag" for s in origins)


@contextmanager
def _progress() -> "Iterator[Progress]":
    """A progress bar on a terminal, a line for each stage elsewhere."""
    import sys

    if not sys.stderr.isatty():
        yield _stages()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[counts]}"), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=None, counts="")

        def show(stage: str, book: "Book | None", total: int) -> None:
            answered = book.requests - book.in_flight if book else 0
            counts = f"{book.placed} placed, {book.refused} refused" if book else ""
            bar.update(task, description=stage, total=total or None, completed=answered, counts=counts)

        yield show


def _stages() -> "Progress":
    told = ""

    def tell(stage: str, book: "Book | None", total: int) -> None:
        nonlocal told
        if stage != told:
            told = stage
            say(f"{stage} ({counted(total, 'request')})" if total else stage)

    return tell


def _hosts_used(report: dict[str, Any]) -> str:
    gone = report["hosts_gone"]
    # the embedded broker keeps 5 MiB of a partition, whatever stands before it
    missing = f"; no reports are left of {gone} more (forgotten, or dropped by the embedded broker)" if gone else ""
    return f"{report['hosts_used']} of {report['hosts']}{missing}"


def _print(report: dict[str, Any]) -> None:
    """The whole report to a machine; to a person the lines they look for first."""
    if common.output() in ("json", "yaml"):
        emit({key: value for key, value in report.items() if key != "clean"})
        return
    packing, latency = report["packing"], report["latency_ms"]
    refusal = packing["at_first_refusal"]
    emit(
        {
            "trace": f"{report['trace']} ({report['format']}, {counted(report['flavors'], 'flavor')})",
            "requests": report["requests"],
            "placed": report["placed"],
            "refused": report["refused"],
            "unanswered": report["unanswered"],
            "reasons": report["reasons"],
            "not replayed": report["ignored"],
            "released": report["released"],
            "decisions/s": report["decisions_per_s"],
            "latency": "  ".join(f"{name} {value} ms" for name, value in latency.items()),
            "conflict fraction": report["conflict_fraction"],
            "hosts used": _hosts_used(report),
            "allocated": packing["at_end"],
            "at first refusal": refusal["allocated_share"] if refusal else "nothing was refused for want of room",
            f"stranded for {packing['stranded_for']}": packing["stranded_share"],
            "audit": report["audit"].get("audit", "clean" if report["clean"] else "violated"),
        }
    )
