"""`commonplace move`: instances to another flavor, host or pool, claimed and confirmed there before they go here."""

from typing import TYPE_CHECKING, Annotated

import typer

from commonplace.cli import common
from commonplace.cli.output import emit, say
from commonplace.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from commonplace.frontend import Moved
    from commonplace.settings import Settings

app = typer.Typer()

EPILOG = """\b
Examples:
  commonplace move r-7f3a --flavor w1.large
  commonplace move vm-17 --flavor m1.large --ignore-host host-0042 --id move-vm-17
Exit codes: 0 moved, 3 no valid host, 4 lapsed before the confirm, 5 timed out or expired, 7 rejected.
Unless it is 0 the instances stand where they stood, or, with 5, in both places; the same command with the same --id goes on where it ended.
"""


@app.command(epilog=EPILOG)
def move(
    name: Annotated[
        str, typer.Argument(metavar="REQUEST|INSTANCE|ALLOCATION", help="What moves; a unique prefix will do.")
    ],
    flavor: Annotated[str, typer.Option(metavar="NAME", help="What each instance becomes; its pool is the target.")],
    id: Annotated[
        str | None, typer.Option(metavar="ID", help="Request id of the target; the same id goes on with the same move.")
    ] = None,
    group: Annotated[
        str | None, typer.Option(metavar="GROUP", help="Group on the target; left out: the group it is in.")
    ] = None,
    group_max: Annotated[int, typer.Option(metavar="N", min=0, help="At most so many of the group on one host.")] = 0,
    zone: Annotated[str, typer.Option(metavar="ZONE", help="Availability zone.")] = "",
    host: Annotated[str, typer.Option(metavar="HOST", help="The only host that will do.")] = "",
    ignore_host: Annotated[list[str] | None, typer.Option(metavar="HOST", help="Will not do; repeatable.")] = None,
    timeout: Annotated[
        float | None, typer.Option(metavar="S", min=0.001, max=604_800, help="Seconds to wait for each step.")
    ] = None,
) -> int:
    """Claim and confirm a place for instances under a flavor, in its pool, and only then release the one they have."""
    from commonplace.frontend import Router
    from commonplace.kafka.topics import pools
    from commonplace.ops.held import find_held

    settings = common.settings()
    with Router(settings) as router:
        router.pool_of(flavor)
        given = common.pool_given()
        there = [router.settings_of(given)] if given else pools(settings).values()
        try:
            source, held = find_held(there, name, without=id or "")
        except UsageError:
            if id and _over(list(pools(settings).values()), id):
                return ExitCode.OK
            raise
        target = id or router.new_id()
        say(
            f"{len(held)} of {source.decision.request} in pool {source.pool} → {flavor} in pool {router.pool_of(flavor)}, as {target}"
        )
        moved = router.move(
            source,
            flavor,
            id=target,
            timeout=timeout,
            project=held[0].project,
            user=held[0].user,
            group=held[0].group if group is None else group,
            group_max=group_max,
            zone=zone,
            host=host,
            hosts_ignored=tuple(ignore_host or ()),
        )
    return _told(moved)


def _over(there: "list[Settings]", id: str) -> bool:
    """Whether the move of that id is over: its target is active, and the release that it wrote last was carried out meanwhile."""
    from commonplace.ops.held import find_held

    try:
        target, held = find_held(there, id)
    except UsageError:
        return False
    if target.decision.request != id or any(one.state != "active" for one in held):
        return False
    rows = [
        {"instance": p.instance, "allocation": p.allocation, "host": p.host, "pool": target.pool, "request": id}
        for p in target.placed
    ]
    emit(rows, name="instance")
    say(f"moved {len(rows)} to pool {target.pool} before: nothing is left to do")
    return True


def _told(moved: "Moved") -> int:
    from commonplace.cli.submit import RESULT_EXIT, emit_decision

    if moved.decision.result != "placed":
        emit_decision(moved.decision)
        say(f"nothing moved: what it was asked for holds its place in pool {moved.source_pool}")
        return RESULT_EXIT[moved.decision.result]
    rows = [
        {
            "instance": p.instance,
            "allocation": p.allocation,
            "host": p.host,
            "pool": moved.target_pool,
            "request": moved.decision.request,
        }
        for p in moved.decision.placed
    ]
    emit(rows, name="instance")
    say(f"moved {len(rows)} from pool {moved.source_pool} to pool {moved.target_pool}")
    return ExitCode.OK
