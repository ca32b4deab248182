"""`commonplace bench`: what this machine does with so many hosts and requests, measured the way that docs and issues quote it."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from commonplace.cli import common
from commonplace.cli.output import emit, require_no_name, say
from commonplace.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from commonplace.bench.flavors import Asks
    from commonplace.bench.system import Setup, Tell

app = typer.Typer(
    help="Measure what this machine does: the whole loop, or a part of it.",
    epilog="\b\nExamples:\n  commonplace bench loop --placement pack --window 4096\n  commonplace bench rank --hosts 100000 -o json",
)

Hosts = Annotated[int, typer.Option(metavar="N", min=1, max=1_000_000, help="Hosts.")]
Replicas = Annotated[int, typer.Option(metavar="R", min=1, max=64, help="Scheduler replicas.")]
Flavors = Annotated[int, typer.Option(metavar="F", min=1, max=512, help="Flavors asked for, in turn.")]
Partitions = Annotated[
    int, typer.Option(metavar="P", min=1, max=256, help="Partitions of hosts and of claims; requests: one a replica.")
]
Placement = Annotated[
    Literal["spread", "pack"], typer.Option(metavar="spread|pack", help="The emptiest host first, or the fullest.")
]
Warmup = Annotated[float, typer.Option(metavar="S", min=0, max=86_400, help="Seconds of load before it is measured.")]
Audit = Annotated[bool, typer.Option("--audit/--no-audit", help="Audit the topics afterwards.")]
WorkDir = Annotated[Path | None, typer.Option(metavar="DIR", help="Keep the logs of all processes here.")]
Rounds = Annotated[int, typer.Option(metavar="N", min=1, max=10_000, help="Rounds; figures are their medians.")]


@app.callback()
def bench() -> None:
    """Start what is needed on this machine, warm up, measure, audit, and print figures beside the machine's facts.

    loop, catchup and burst start Apache Kafka (Java 17 or newer), or use the broker that -b names, under a prefix of their own.
    """


@app.command(
    epilog="\b\nExamples:\n  commonplace bench loop --window 4096\n  commonplace bench loop --mode rate --rate 1000 --seconds 60\n"
    "  commonplace bench loop --mode churn --placement pack -o json | jq .decisions_per_s\nExit code 8 when the audit is not clean."
)
def loop(
    mode: Annotated[
        Literal["saturate", "churn", "rate"] | None,
        typer.Option(
            metavar="saturate|churn|rate",
            help="As much as goes; the same, confirmed and released; a fixed rate. Default: saturate, with --rate: rate.",
        ),
    ] = None,
    hosts: Hosts = 10_000,
    rate: Annotated[
        float | None, typer.Option(metavar="R", min=0.1, max=1e6, help="Requests a second, mode rate. Default 1000.")
    ] = None,
    window: Annotated[
        int, typer.Option(metavar="N", min=1, max=10_000, help="Requests in flight, the other modes.")
    ] = 1024,
    warmup: Warmup = 30.0,
    seconds: Annotated[float, typer.Option(metavar="S", min=0.5, max=86_400, help="How long it is measured.")] = 60.0,
    hold: Annotated[
        float, typer.Option(metavar="S", min=0, max=86_400, help="Life of an instance, mode churn.")
    ] = 15.0,
    lease: Annotated[
        float, typer.Option(metavar="S", min=1, max=3_600, help="Leases, which lapse where nothing is confirmed.")
    ] = 10.0,
    replicas: Replicas = 1,
    flavors: Flavors = 8,
    partitions: Partitions = 1,
    placement: Placement = "spread",
    asks: Annotated[
        Literal["plain", "anti-affinity", "numa"],
        typer.Option(
            metavar="plain|anti-affinity|numa",
            help="What requests ask besides their size: groups of eight, each member on another host; one NUMA cell.",
        ),
    ] = "plain",
    shape: Annotated[str, typer.Option(metavar="SHAPE", help="Sizes of the hosts, as for `fleet`.")] = "",
    instances_max: Annotated[
        int, typer.Option(metavar="K", min=1, max=1_000, help="Instances on a host, at most.")
    ] = 50,
    audit: Audit = True,
    work_dir: WorkDir = None,
) -> int:
    """Broker, fleet, replicas and load on this machine: decisions a second, latency, CPU and broker requests a decision.

    Latency counts from when a request was due, so that waiting is never left out.
    """
    from commonplace.bench.loop import Plan, run

    if rate is not None and mode not in (None, "rate"):
        raise UsageError(f"--rate is for --mode rate; {mode} goes as fast as answers come, --window says how many wait")
    plan = Plan(
        mode=mode or ("saturate" if rate is None else "rate"),
        placement=placement,
        rate=rate or Plan().rate,
        window=window,
        warmup_s=warmup,
        seconds=seconds,
        hold_s=hold,
        instances_max=instances_max,
    )
    setup = _setup(hosts, replicas, flavors, partitions, shape, lease, audit, work_dir, asks)
    return _report(lambda tell: run(setup, plan, tell))


@app.command(epilog="\b\nExample:\n  commonplace bench rank --hosts 100000 --flavors 64")
def rank(
    hosts: Hosts = 10_000,
    flavors: Flavors = 64,
    placement: Placement = "spread",
    rounds: Rounds = 20,
) -> int:
    """CPU time of the best host for a request, one host changed between requests; beside it that of scanning all hosts."""
    from commonplace.bench.rank import Plan, run

    return _report(lambda tell: run(Plan(hosts=hosts, flavors=flavors, placement=placement, rounds=rounds), tell))


@app.command(epilog="\b\nExample:\n  commonplace bench fold --hosts 100000 --flavors 64")
def fold(
    hosts: Hosts = 10_000,
    flavors: Flavors = 64,
    placement: Placement = "spread",
    turn: Annotated[int, typer.Option(metavar="N", min=1, max=256, help="Deltas folded before scores are read.")] = 64,
    rounds: Rounds = 20,
) -> int:
    """CPU time of folding one delta and bringing the scores of all active flavors up to date; beside it that of scoring anew."""
    from commonplace.bench.fold import Plan, run

    plan = Plan(hosts=hosts, flavors=flavors, placement=placement, turn=turn, rounds=rounds)
    return _report(lambda tell: run(plan, tell))


@app.command(epilog="\b\nExample:\n  commonplace bench catchup --hosts 100000 --instances 10 --partitions 4")
def catchup(
    hosts: Hosts = 10_000,
    instances: Annotated[int, typer.Option(metavar="K", min=0, max=50, help="Instances on each host.")] = 10,
    starts: Annotated[int, typer.Option(metavar="N", min=1, max=100, help="Replicas started, in turn.")] = 3,
    partitions: Partitions = 1,
    audit: Audit = True,
    work_dir: WorkDir = None,
) -> int:
    """Fill the topics with hosts at rest, start a replica: seconds until it serves, memory a host."""
    from commonplace.bench.catchup import Plan, run

    setup = _setup(hosts, 1, 1, partitions, "", 300.0, audit, work_dir)
    return _report(lambda tell: run(setup, Plan(instances=instances, starts=starts), tell))


@app.command(
    epilog="\b\nExample:\n  commonplace bench burst --builds 1000 --replicas 3\nExit code 8 when the audit is not clean."
)
def burst(
    hosts: Hosts = 10_000,
    builds: Annotated[int, typer.Option(metavar="N", min=1, max=10_000, help="Builds asked for at once.")] = 1_000,
    bursts: Annotated[int, typer.Option(metavar="N", min=1, max=1_000, help="How often.")] = 5,
    builds_max: Annotated[
        int, typer.Option(metavar="N", min=0, max=4_096, help="Builds in progress a host; 0: any number.")
    ] = 8,
    rate: Annotated[
        float, typer.Option(metavar="R", min=0.1, max=1e6, help="Requests a second while warming up.")
    ] = 100.0,
    warmup: Warmup = 10.0,
    replicas: Replicas = 3,
    flavors: Flavors = 8,
    partitions: Partitions = 1,
    placement: Placement = "pack",
    shape: Annotated[str, typer.Option(metavar="SHAPE", help="Sizes of the hosts, as for `fleet`.")] = "",
    audit: Audit = True,
    work_dir: WorkDir = None,
) -> int:
    """So many builds at once on an empty fleet: milliseconds until all of them are decided."""
    from commonplace.bench.burst import Plan, run

    plan = Plan(builds=builds, bursts=bursts, builds_max=builds_max, placement=placement, rate=rate, warmup_s=warmup)
    setup = _setup(hosts, replicas, flavors, partitions, shape, 60.0, audit, work_dir)
    return _report(lambda tell: run(setup, plan, tell))


@app.command(
    epilog="\b\nExample:\n  commonplace bench conflicts --replicas 8 --rate 1000 -o json | jq .conflict_fraction"
)
def conflicts(
    hosts: Hosts = 10_000,
    replicas: Replicas = 8,
    flavors: Flavors = 8,
    rate: Annotated[
        float, typer.Option(metavar="R", min=0.1, max=1e6, help="Requests a second, all together.")
    ] = 1000.0,
    seconds: Annotated[
        float, typer.Option(metavar="S", min=0.01, max=86_400, help="How long, of virtual time.")
    ] = 10.0,
    delay_ms: Annotated[
        int, typer.Option(metavar="MS", min=1, max=60_000, help="The latest reader is so late, the first an eighth.")
    ] = 40,
    placement: Annotated[
        Literal["spread", "pack", "both"], typer.Option(metavar="spread|pack|both", help="How hosts are preferred.")
    ] = "both",
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Of requests, delays and turns.")] = 1,
) -> int:
    """Replicas that race in virtual time: claims turned down per granted one, and CPU a decision, folds apart. No broker."""
    from commonplace.bench.conflicts import Plan, run

    plan = Plan(
        hosts=hosts,
        replicas=replicas,
        flavors=flavors,
        rate=rate,
        seconds=seconds,
        delay_ms=delay_ms,
        placements=("pack", "spread") if placement == "both" else (placement,),
        seed=seed,
    )
    if rate * seconds < 1:
        raise UsageError(f"--rate {rate:g} for --seconds {seconds:g} is no request: ask for one at least")
    return _report(lambda tell: run(plan, tell))


# --- arguments -----------------------------------------------------------------------------------------------------------


def _setup(
    hosts: int,
    replicas: int,
    flavors: int,
    partitions: int,
    shape: str,
    lease_s: float,
    audit: bool,
    work_dir: Path | None,
    asks: "Asks" = "plain",
) -> "Setup":
    from commonplace.agent.shapes import parse_shapes
    from commonplace.bench.flavors import CELLED_SHAPE, HOST_SHAPE
    from commonplace.bench.system import Setup

    settings, origins = common.settings_with_origins()
    shape = shape or (CELLED_SHAPE if asks == "numa" else HOST_SHAPE)
    parse_shapes(shape)  # what is wrong with it is told before anything starts
    return Setup(
        settings=settings,
        # an address from a settings file is not taken, because a benchmark loads what it reaches
        running=any(s.key == "bootstrap.servers" and s.origin == "flag" for s in origins),
        hosts=hosts,
        replicas=replicas,
        flavors=flavors,
        partitions=partitions,
        asks=asks,
        shape=shape,
        lease_s=lease_s,
        audit=audit,
        work_dir=work_dir,
    )


# --- output --------------------------------------------------------------------------------------------------------------


def _report(measure: "Callable[[Tell], dict[str, Any]]") -> int:
    """Measure, print the report, and say where the audit is not clean."""
    from commonplace.bench.report import lines

    require_no_name()
    with _progress() as tell:
        report = measure(tell)
    emit(report if common.output() in ("json", "yaml") else lines(report))
    verdict = report.get("audit", {}).get("audit", "")
    if verdict == "violated":
        say("the audit is not clean: -o json lists what is violated")
        return ExitCode.VIOLATED
    return ExitCode.OK


@contextmanager
def _progress() -> "Iterator[Tell]":
    """What goes on and for how long on a terminal, a line for each stage elsewhere."""
    if not sys.stderr.isatty():
        yield say
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("starting", total=None)
        yield lambda stage: shown.reset(task, description=stage)
