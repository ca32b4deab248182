"""What is held under a name, in whichever pool: an instance, an allocation or a request, as the hosts' reports show it."""

from collections.abc import Iterable

from commonplace.core.records.decisions import Decision, Placed, Position
from commonplace.core.records.hosts import Allocation
from commonplace.errors import UsageError
from commonplace.frontend.checks import shown
from commonplace.frontend.moving import Source
from commonplace.ops.fleet_view import FleetView
from commonplace.settings import Settings

Held = tuple[str, str, Allocation]
"""Pool, host, allocation."""

SHOWN = 5


def find_held(pools: Iterable[Settings], name: str, without: str = "") -> tuple[Source, list[Allocation]]:
    """What a name (request, instance or allocation; a unique prefix will do) holds, and its allocations; blocks while it reads hosts.

    `without` is a request that does not count: the target of a move that goes on. Raises `UsageError` for none, for several requests,
    and for an instance that no claim brought: only its driver ends that one.
    """
    held = [one for settings in pools for one in _held(settings) if not without or one[2].request != without]
    found = [one for one in held if name in _names(one[2])] or [
        one for one in held if any(known.startswith(name) for known in _names(one[2]))
    ]
    if not found:
        raise UsageError(f"nothing is held under {shown(name)}: see `commonplace requests` and `commonplace hosts`")
    requests = sorted({(one.request or one.id, pool) for pool, _, one in found})
    if len(requests) > 1:
        some = ", ".join(f"{request} in pool {pool}" for request, pool in requests[:SHOWN])
        raise UsageError(
            f"{shown(name)} is ambiguous: {len(requests)} requests hold something ({some}): name one of them"
        )
    _, host, first = found[0]
    if first.origin == "found":
        raise UsageError(
            f"instance {first.instance} was found running on {host} and no request brought it, so only its driver ends it: "
            f"submit a request for what shall take its place, then stop it on {host}"
        )
    request, pool = requests[0]
    found.sort(key=lambda one: one[2].index)
    return Source(pool, _decision(request, found)), [allocation for _, _, allocation in found]


def _held(settings: Settings) -> list[Held]:
    with FleetView(settings) as view:
        view.read()
        pool = settings.topics.pool
        return [(pool, row.host.name, one) for row in view.hosts() for one in row.host.allocations.values()]


def _names(one: Allocation) -> tuple[str, str, str]:
    return one.request, one.instance, one.id


def _decision(request: str, found: list[Held]) -> Decision:
    """As the decision named them that placed them; it may have left the log long ago."""
    nowhere = Position(0, 0)
    placed = [
        Placed(index=one.index, instance=one.instance, host=host, allocation=one.id, grant=nowhere)
        for _, host, one in found
    ]
    return Decision(
        request=request, result="placed", position=nowhere, flavor=found[0][2].flavor, count=len(placed), placed=placed
    )
