"""`commonplace submit`: one build request, and its decision if wanted."""

import math
from typing import TYPE_CHECKING, Annotated

import typer

from commonplace.cli import common
from commonplace.cli.control_records import pairs
from commonplace.cli.output import emit, emit_line, say
from commonplace.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from commonplace.core.records.decisions import Decision
    from commonplace.frontend import Router

app = typer.Typer()

EPILOG = """\b
Examples:
  commonplace submit --flavor m1.small --wait --confirm
  commonplace submit --flavor m1.large --count 3 --group web --group-max 1 --wait -o json
  commonplace submit --flavor m1.large --count 3 --zone z1 --plan
Exit codes with --wait: 0 placed, 3 no valid host, 4 lapsed before the confirm, 5 timed out or expired, 7 rejected.
With --check: 4 when the state that the plan rests on has moved.
"""

RESULT_EXIT = {
    "placed": ExitCode.OK,
    "passed": ExitCode.OK,
    "no_valid_host": ExitCode.NO_VALID_HOST,
    "rejected": ExitCode.DENIED,
    "expired": ExitCode.TIMED_OUT,
}


@app.command(epilog=EPILOG)
def submit(
    flavor: Annotated[str, typer.Option(metavar="NAME", help="What each instance is.")],
    count: Annotated[int, typer.Option(metavar="N", min=1, help="Instances; all are placed, or none.")] = 1,
    count_min: Annotated[
        int, typer.Option(metavar="N", min=0, help="Place so many at least, where not all fit; 0: all or none.")
    ] = 0,
    instance: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Name of each instance; one that moves or grows keeps its own. Repeatable."),
    ] = None,
    source: Annotated[
        str,
        typer.Option(
            metavar="HOST", help="Where the instances are: there they need only what they grow by (resize in place)."
        ),
    ] = "",
    id: Annotated[
        str | None, typer.Option(metavar="ID", help="Request id; the same id and content is the same request.")
    ] = None,
    project: Annotated[str, typer.Option(metavar="PROJECT", help="Whose it is.")] = "",
    user: Annotated[str, typer.Option(metavar="USER", help="Who asks.")] = "",
    group: Annotated[
        str, typer.Option(metavar="GROUP", help="Group of instances that --group-… and --spread-over go by.")
    ] = "",
    group_max: Annotated[
        int, typer.Option(metavar="N", min=0, help="At most so many of the group on one host; 0: no limit.")
    ] = 0,
    trait: Annotated[list[str] | None, typer.Option(metavar="TRAIT", help="Required; repeatable.")] = None,
    forbid: Annotated[list[str] | None, typer.Option(metavar="TRAIT", help="Forbidden; repeatable.")] = None,
    any_of: Annotated[
        list[str] | None, typer.Option(metavar="TRAIT,TRAIT", help="One of them at least; repeatable.")
    ] = None,
    group_policy: Annotated[
        str, typer.Option(metavar="POLICY", help="affinity, soft-affinity, soft-anti-affinity, or as --group-max.")
    ] = "",
    spread_over: Annotated[
        str, typer.Option(metavar="LABEL", help="Spread the group over the values of a label: zone, rack …")
    ] = "",
    max_skew: Annotated[
        int, typer.Option(metavar="N", min=0, help="By how many members two values of --spread-over may differ.")
    ] = 0,
    profile: Annotated[str, typer.Option(metavar="NAME", help="Profile to rank by, instead of the flavor's.")] = "",
    zone: Annotated[str, typer.Option(metavar="ZONE", help="Availability zone.")] = "",
    host: Annotated[str, typer.Option(metavar="HOST", help="The only host that will do.")] = "",
    ignore_host: Annotated[list[str] | None, typer.Option(metavar="HOST", help="Will not do; repeatable.")] = None,
    member_of: Annotated[
        list[str] | None, typer.Option(metavar="AGGREGATE", help="NAME, !NAME or in:NAME,NAME; repeatable.")
    ] = None,
    image: Annotated[str, typer.Option(metavar="ID", help="Image to boot from.")] = "",
    boot_from_volume: Annotated[
        bool, typer.Option("--boot-from-volume", help="The flavor's disk is a volume elsewhere: ask the host for none.")
    ] = False,
    alternates: Annotated[
        int, typer.Option(metavar="N", min=0, help="Name so many other hosts to try if a build fails.")
    ] = 0,
    priority: Annotated[
        int, typer.Option(metavar="N", min=0, help="Of what waits together, highest first: 0 to 100.")
    ] = 0,
    deadline: Annotated[
        float,
        typer.Option(
            metavar="S", min=0, max=604_800, help="Seconds after which it expires undecided; 0: the scheduler's own."
        ),
    ] = 0.0,
    image_property: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Of the image; repeatable.")
    ] = None,
    hint: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="same_host, different_host, query …; repeatable.")
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Submit nothing: say where it would go, and the digest for --check.")
    ] = False,
    check: Annotated[
        str, typer.Option(metavar="DIGEST", help="Submit only if what this plan rests on has not moved.")
    ] = "",
    rebuild_check: Annotated[
        bool, typer.Option("--rebuild-check", help="Say whether --host would do for the image, as before a rebuild.")
    ] = False,
    traceparent: Annotated[
        str,
        typer.Option(
            metavar="CONTEXT",
            envvar="TRACEPARENT",
            help="W3C trace context for the request's records; `explain` tells its trace id.",
        ),
    ] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the decision and print it.")] = False,
    timeout: Annotated[float | None, typer.Option(metavar="S", min=0.001, max=604_800, help="Seconds to wait.")] = None,
    confirm: Annotated[bool, typer.Option("--confirm", help="Confirm what was placed; waits.")] = False,
) -> int:
    """Submit a build request; without --confirm what was placed lapses when its lease ends."""
    from commonplace.frontend import Router

    hints, properties = _hints(hint or []), pairs("--image-property", image_property)
    with Router(common.settings()) as router:
        pool = served_by(router, flavor)
        build = router.request(
            flavor,
            id=id,
            count=count,
            count_min=count_min,
            instances=tuple(instance or ()),
            source=source,
            project=project,
            user=user,
            group=group,
            group_max=group_max,
            traits_required=tuple(trait or ()),
            traits_forbidden=tuple(forbid or ()),
            traits_any_of=tuple(tuple(text.split(",")) for text in any_of or ()),
            group_policy=group_policy,
            spread_over=spread_over,
            max_skew=max_skew,
            profile=profile,
            zone=zone,
            host=host,
            hosts_ignored=tuple(ignore_host or ()),
            member_of=tuple(member_of or ()),
            image=image,
            boot_from_volume=boot_from_volume,
            alternates=alternates,
            priority=priority,
            deadline_ms=math.ceil(deadline * 1000),
            rebuild_check=rebuild_check,
            image_properties=properties,
            hints=hints,
        )
        if plan:
            from commonplace.cli.plan import planned

            return planned([build], settings=router.settings_of(pool))
        if check:
            from commonplace.ops.plan import check as check_plan

            check_plan(router.settings_of(pool), build, check)
        pending = router.submit(build, timeout=timeout, traceparent=traceparent)
        if not wait and not confirm:
            router.flush(timeout)
            if pending.done():
                pending.result()  # refused here, or decided already
            emit({"request": build.id, "flavor": flavor, "count": count}, name="request")
            say(f"submitted; `commonplace decision show {build.id}` prints the answer")
            return ExitCode.OK
        return _finish(router, pending.result(), confirm, timeout)


def served_by(router: "Router", flavor: str) -> str:
    """The pool of a flavor; UsageError where --pool names another."""
    pool, given = router.pool_of(flavor), common.pool_given()
    if given and given != pool:
        raise UsageError(f"flavor {flavor} is placed by pool {pool}, not {given}: leave --pool out, or name {pool}")
    return pool


def _hints(texts: list[str]) -> dict[str, tuple[str, ...]]:
    """Hints by name; one given several times has several values."""
    found: dict[str, tuple[str, ...]] = {}
    for text in texts:
        for name, value in pairs("--hint", [text]).items():
            found[name] = (*found.get(name, ()), value)
    return found


def _finish(router: "Router", decision: "Decision", confirm: bool, timeout: float | None) -> int:
    from commonplace.frontend import TooLate
    from commonplace.ops import render

    emit_decision(decision)
    if decision.result != "placed" or not confirm:
        if decision.result == "placed":
            say(render.lease(decision))
        return RESULT_EXIT[decision.result]
    outcomes = router.confirm(decision, wait=True, timeout=timeout)
    late = [o for o in outcomes if isinstance(o, TooLate)]
    for outcome in late:
        say(f"{outcome.host}: allocation {outcome.allocation} lapsed before it was confirmed: submit under a new id")
    if not late:
        say(f"confirmed: {len(outcomes)} active until `commonplace release {decision.request}`")
    return ExitCode.STATE_CHANGED if late else ExitCode.OK


def emit_decision(decision: "Decision") -> None:
    """Print a decision: as text for a person, as one record for a machine."""
    from commonplace.ops import render

    match common.output():
        case "table" | "wide":
            emit_line(decision, lines=render.decision(decision))
        case "name":
            emit({"request": decision.request}, name="request")
        case _:
            emit(decision, name="request")
