"""`commonplace plan`: what would become of requests, on a copy of the state; nothing is claimed."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from commonplace.cli import common
from commonplace.cli.output import emit, emit_line, say
from commonplace.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from commonplace.core.records.requests import Build
    from commonplace.ops.plan import Plan, Supposed
    from commonplace.settings import Settings

app = typer.Typer()

EPILOG = """\b
Examples:
  commonplace plan --flavor m1.large --count 40
  commonplace plan --flavor m1.large --fill
  commonplace plan --drain host-00007
  commonplace plan requests.json --without host-00007 --add-host 64vcpu:256gb*2
  commonplace plan --flavor m1.large --count 3 --at -10m
  commonplace submit --flavor m1.large --count 3 --check DIGEST
FILE holds build records in JSON: an object, a list, or one a line; id and type may be left out.
Exit codes: 0 all fit, 2 a flavor is not known, 3 some do not fit.
"""


@app.command(epilog=EPILOG)
def plan(
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="Requests in JSON; - reads stdin.")] = "",
    flavor: Annotated[str, typer.Option(metavar="NAME", help="A request for this flavor, instead of FILE.")] = "",
    count: Annotated[int, typer.Option(metavar="N", min=1, max=256, help="Its instances; all or none.")] = 1,
    group: Annotated[str, typer.Option(metavar="GROUP", help="Its group.")] = "",
    group_max: Annotated[int, typer.Option(metavar="N", min=0, help="At most so many of it on one host.")] = 0,
    zone: Annotated[str, typer.Option(metavar="ZONE", help="Its zone.")] = "",
    trait: Annotated[list[str] | None, typer.Option(metavar="TRAIT", help="Required; repeatable.")] = None,
    profile: Annotated[str, typer.Option(metavar="NAME", help="Rank everything by this profile.")] = "",
    fill: Annotated[bool, typer.Option("--fill", help="How many instances fit in all, one after another.")] = False,
    without: Annotated[list[str] | None, typer.Option(metavar="HOST", help="Suppose it is gone; repeatable.")] = None,
    add_host: Annotated[
        list[str] | None,
        typer.Option(metavar="SHAPE", help="Suppose more hosts, as in 64vcpu:256gb:2tb*3 or a file; repeatable."),
    ] = None,
    drain: Annotated[
        list[str] | None, typer.Option(metavar="HOST", help="Where would its instances go? repeatable.")
    ] = None,
    at: Annotated[
        str, typer.Option(metavar="OFFSET|TIME", help="The past: -15m, 2026-11-21T10:00, or PARTITION:OFFSET of hosts.")
    ] = "",
) -> int:
    """Say where requests would be placed, or why not, without claiming anything."""
    from commonplace.agent.shapes import parse_shapes
    from commonplace.ops import plan as plans

    builds = _builds(file, flavor, count, group, group_max, zone, tuple(trait or ()), bool(drain))
    supposed = plans.Supposed(
        without=tuple(without or ()),
        add=tuple(shape for text in add_host or () for shape in parse_shapes(text)),
        drain=tuple(drain or ()),
        profile=profile,
        at=at,
    )
    return planned(builds, supposed, fill)


def planned(
    builds: "Sequence[Build]",
    supposed: "Supposed | None" = None,
    fill: bool = False,
    settings: "Settings | None" = None,
) -> int:
    """Print the plan for requests and return the exit code."""
    from commonplace.ops import plan as plans

    supposed = supposed or plans.Supposed()
    found = plans.plan(settings or common.settings(), builds, supposed, fill)
    for note in found.notes:
        say(f"note: {note}")
    _emit(found, drained=bool(supposed.drain))
    return ExitCode.OK if found.fits else ExitCode.NO_VALID_HOST


def _builds(
    file: str, flavor: str, count: int, group: str, group_max: int, zone: str, traits: tuple[str, ...], drained: bool
) -> "list[Build]":
    from commonplace.ops.plan import builds_of

    if file and flavor:
        raise UsageError("plan takes FILE or --flavor, not both")
    if file:
        where = "stdin" if file == "-" else file
        try:
            written = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
            return builds_of(written.decode(), where)
        except OSError as e:
            raise UsageError(f"{where}: cannot be read: {e.strerror}") from e
        except UnicodeDecodeError as e:
            raise UsageError(f"{where}: not UTF-8 at byte {e.start}: write the requests as JSON in UTF-8") from e
    if flavor:
        import msgspec

        asked = {"flavor": flavor, "count": count, "group": group, "group_max": group_max, "zone": zone}
        asked["traits_required"] = list(traits)
        return builds_of(msgspec.json.encode(asked).decode(), "--flavor")
    if not drained:
        raise UsageError("plan what? name a FILE of requests, --flavor, or --drain HOST")
    return []


def _emit(found: "Plan", drained: bool) -> None:
    from commonplace.ops import plan_render

    match common.output():
        case "table" | "wide" as form:
            emit_line(found, lines=plan_render.lines(found, drained, wide=form == "wide"))
        case "name":
            emit({"digest": found.digest}, name="digest")
        case _:
            emit(found)
