"""`commonplace sim`: the protocol under faults, in a deterministic world; nothing outside this process is touched."""

import itertools
import math
import re
import time
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
    from commonplace.sim.batch import Failure, Progress, Tally
    from commonplace.sim.plan import Schedule

app = typer.Typer(
    help="Try to break the protocol, in a simulated world under a seed.",
    epilog="\b\nExamples:\n  commonplace sim run --seeds 1..10000\n  commonplace sim show 4711 | less",
)

PROFILES = "swarm|calm|compaction|takeover|agents|clocks|groups|shapes|mixed"
FRESH_SEEDS = 10**12
"""Seeds that `--schedules` draws from: whoever runs it twice runs other schedules."""
SHOWN = 10
Profile = Annotated[str, typer.Option(metavar=PROFILES, help="Which faults are drawn.")]


@app.callback()
def sim() -> None:
    """Run the shipped scheduler, agents and frontends in virtual time, with every fault, and check every invariant."""


@app.command(
    epilog="\b\nExamples:\n  commonplace sim run --seeds 1..10000\n  commonplace sim run --schedules 10000 --profile mixed\n"
    "Exit code 8 when a seed fails: `sim show` tells its story."
)
def run(
    seeds: Annotated[
        str, typer.Option(metavar="A..B", help="The schedules to run, both ends included; 1..1000 if nothing is said.")
    ] = "",
    schedules: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Instead: so many on seeds never run before, which are printed."),
    ] = None,
    jobs: Annotated[
        int, typer.Option(min=0, max=1024, metavar="N", help="Processes at once; 0: as many as cores.")
    ] = 0,
    profile: Profile = "swarm",
    seconds: Annotated[
        float, typer.Option(min=0, metavar="S", help="Begin nothing more after so many seconds; 0: run them all.")
    ] = 0,
) -> int:
    """Run a range of schedules and check the invariants of each."""
    from commonplace.sim.batch import cores, run_seeds, to_dict

    require_no_name()
    if seeds and schedules:
        raise UsageError("--seeds and --schedules: give one of them")
    first, last = _fresh(schedules) if schedules else _range(seeds or "1..1000")
    started, shown = time.monotonic(), itertools.count()

    def found(failure: "Failure") -> None:
        if next(shown) < SHOWN:
            say(f"seed {failure.seed} {_sentence(failure.invariant, failure.sentence, failure.places)}")

    with _progress(last - first + 1) as progress:
        tally = run_seeds(first, last, _profile(profile), jobs or cores(), progress, found, seconds or math.inf)
    if tally.schedules <= last - first:
        say(f"{seconds:g} s are over: {tally.schedules} of {last - first + 1} schedules were run")
        last = first + tally.schedules - 1
    report = {"profile": profile, "seeds": f"{first}..{last}", **to_dict(tally, time.monotonic() - started)}
    if common.output() in ("json", "yaml"):
        emit(report)
    else:
        _table(report, tally)
    return ExitCode.VIOLATED if tally.failed else ExitCode.OK


@app.command(
    epilog="\b\nExample:\n  commonplace sim show 4711 | less\n  commonplace sim show tests/scenarios/fenced-twin.txt"
)
def show(
    seed: Annotated[str, typer.Argument(metavar="SEED|FILE", help="A seed, or a scenario's file.")],
    profile: Profile = "swarm",
) -> int:
    """Tell one schedule line by line: what was drawn, then time, who and what of every event."""
    from commonplace.sim.plan import text
    from commonplace.sim.run import traced

    schedule = _schedule(seed, profile)
    outcome, lines = traced(schedule)
    if common.output() in ("json", "yaml"):
        emit({"schedule": text(schedule), "events": lines, "outcome": outcome})
    else:
        print("\n".join([*text(schedule), "", *lines, ""]))
        for violation in outcome.violations:
            say(_sentence(violation.invariant, violation.sentence, violation.places))
    return ExitCode.VIOLATED if outcome.violations else ExitCode.OK


@app.command(epilog="\b\nExample:\n  commonplace sim shrink 4711 > story.txt")
def shrink(
    seed: Annotated[str, typer.Argument(metavar="SEED|FILE", help="A failing seed, or a scenario's file.")],
    profile: Profile = "swarm",
) -> int:
    """Find the shortest list of faults and things to do that still fails, and print it as a scenario."""
    from commonplace.sim import scenario
    from commonplace.sim.plan import text
    from commonplace.sim.run import lived
    from commonplace.sim.shrink import shrink as shortest

    schedule = _schedule(seed, profile)
    short = shortest(schedule, say)
    world = lived(short)
    if not world.checkers.violations:
        say(f"{seed} violates nothing: there is nothing to shrink")
        return ExitCode.OK
    if common.output() in ("json", "yaml"):
        emit({"schedule": text(short), "outcome": scenario.tell(world)})
    else:
        print(scenario.write(text(short), scenario.tell(world)), end="")
    return ExitCode.VIOLATED


@app.command(
    name="planted", epilog="\b\nExample:\n  commonplace sim planted --jobs 2\n  commonplace sim planted 4 28 -o json"
)
def planted_(
    bugs: Annotated[
        list[int] | None, typer.Argument(metavar="BUG...", help="Numbers of bugs; all where none is given.")
    ] = None,
    jobs: Annotated[
        int, typer.Option(min=0, max=1024, metavar="N", help="Processes at once; 0: as many as cores.")
    ] = 0,
) -> int:
    """Plant bugs in the simulated core, one at a time, and tell after how many schedules the checkers notice each."""
    from commonplace.sim.batch import cores
    from commonplace.sim.hunt import RANGES, hunt_all, table, to_dict
    from commonplace.sim.planted import BUGS

    known = tuple(bug.number for bug in BUGS)
    wanted = tuple(bugs or known)
    unknown = [number for number in wanted if number not in known]
    if unknown:
        raise UsageError(f"bug {unknown[0]}: must be one of {', '.join(map(str, known))}")
    started, catches = time.monotonic(), []
    with _progress(len(wanted) * len(RANGES), "hunts") as progress:
        for done, catch in enumerate(hunt_all(jobs or cores(), numbers=wanted), 1):
            catches.append(catch)
            progress(done, sum(catch.seed < 0 for catch in catches))
    rows = table(catches)
    if common.output() in ("json", "yaml"):
        emit(to_dict(rows, time.monotonic() - started))
    else:
        emit(
            [
                {
                    "bug": r.number,
                    "name": r.name,
                    "caught": f"{r.caught} of {len(RANGES)}",
                    "schedules": r.schedules,
                    "most": r.most,
                    "invariant": r.invariant,
                }
                for r in rows
            ],
            name="bug",
        )
    return ExitCode.OK if all(row.caught == len(RANGES) for row in rows) else ExitCode.VIOLATED


# --- arguments -----------------------------------------------------------------------------------------------------------


def _range(seeds: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,15})(?:\.\.(\d{1,15}))?", seeds)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if first > last:
        raise UsageError(f"--seeds {seeds}: must be A..B with A ≤ B, as 1..1000, or one number")
    return first, last


def _fresh(schedules: int) -> tuple[int, int]:
    """So many seeds from one that chance draws."""
    import secrets

    first = 1 + secrets.randbelow(FRESH_SEEDS)
    say(f"seeds {first}..{first + schedules - 1}")
    return first, first + schedules - 1


def _profile(profile: str) -> str:
    from commonplace.sim.draw import MIXED
    from commonplace.sim.draw import PROFILES as KNOWN

    if profile not in (*KNOWN, MIXED):
        raise UsageError(f"--profile {profile}: must be one of {', '.join((*KNOWN, MIXED))}")
    return profile


def _schedule(seed: str, profile: str) -> "Schedule":
    from commonplace.sim import scenario
    from commonplace.sim.draw import draw

    if re.fullmatch(r"\d{1,15}", seed):
        return draw(int(seed), _profile(profile))
    try:
        return scenario.read(Path(seed).read_text()).schedule
    except OSError as e:
        raise UsageError(f"{seed}: neither a seed nor a file that can be read: {e.strerror}") from e
    except ValueError as e:
        raise UsageError(f"{seed}: no scenario: {e}") from e


# --- output --------------------------------------------------------------------------------------------------------------


def _sentence(invariant: int, sentence: str, places: Any) -> str:
    where = ", ".join(f"{topic} [{partition}] @{offset}" for topic, partition, offset in places)
    return f"violated {invariant}: {sentence}" + (f" ({where})" if where else "")


def _table(report: dict[str, Any], tally: "Tally") -> None:
    lists = ("faults", "failures", "answers")
    emit({**{key: value for key, value in report.items() if key not in lists}, "answers": report["answers"]})
    if report["faults"]:
        emit([{"fault": name, "times": count} for name, count in report["faults"].items()], name="fault")
    if tally.failed > SHOWN:
        say(f"{counted(tally.failed - SHOWN, 'more seed fails', 'more seeds fail')}; -o json lists up to 100")


@contextmanager
def _progress(total: int, what: str = "schedules") -> "Iterator[Progress]":
    """A progress bar on a terminal, nothing elsewhere."""
    import sys

    if not sys.stderr.isatty():
        yield lambda done, failed: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[failed]}"), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total, failed="")

        def tell(done: int, failed: int) -> None:
            bar.update(task, completed=done, failed=f"{failed} failed" if failed else "")

        yield tell
