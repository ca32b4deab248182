"""Draining as a plan: the instances of hosts as requests for places elsewhere.

They keep the constraints they came with, where the log still has the request.
"""

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from commonplace.core.codec import encode
from commonplace.core.hashing import digest64
from commonplace.core.records.control import Flavor
from commonplace.core.records.hosts import Allocation
from commonplace.core.records.requests import Build
from commonplace.core.replica import Replica
from commonplace.frontend.lookup import Reader
from commonplace.ops.plan_copy import Copy
from commonplace.settings import Settings


class Moves(Struct, frozen=True):
    """A request per instance, largest first, with the instances' names, and what a person must know of them."""

    builds: list[Build]
    instances: list[str]
    notes: list[str]


def moves(settings: Settings, copy: Copy, replica: Replica, hosts: Sequence[str], profile: str) -> Moves:
    """What the hosts hold, each instance as a request; flavors that are gone or have changed since are added to the copy."""
    held = [one for host in hosts for one in replica.view.rows[host].host.allocations.values()]
    held.sort(key=lambda one: (*(-amount for _, amount in sorted(one.resources.items())), one.id))
    asked = _asked(settings, {one.request for one in held if one.request})
    builds = []
    for number, one in enumerate(held, 1):
        flavor = _flavor(copy, replica, one, settings.topics.pool)
        builds.append(_move(one, asked.get(one.request), f"drain-{number}", flavor, hosts, profile))
    unknown = sum(one.request not in asked for one in held)
    notes = [
        f"{unknown} of {len(held)} instances are known by flavor and group alone: their requests have left the log"
    ]
    return Moves(builds, [one.instance or one.id for one in held], notes if unknown else [])


def _asked(settings: Settings, requests: set[str]) -> dict[str, Build]:
    """The requests that the instances came from, as far as the log has them."""
    if not requests:
        return {}
    book = Reader(settings).read()
    return {entry.request: entry.build for entry in book.entries.values() if entry.build and entry.request in requests}


def _move(
    one: Allocation, asked: Build | None, name: str, flavor: str, hosts: Sequence[str], profile: str
) -> Build:  # fmt: skip
    build = asked or Build(
        id=name, flavor=flavor, project=one.project, user=one.user, kind=one.kind or "build", group=one.group
    )
    return replace(
        build,
        id=name,
        flavor=flavor,
        count=1,
        count_min=0,
        alternates=0,
        instances=(one.instance,) if one.instance else (),
        host="" if build.host in hosts else build.host,
        profile=profile or build.profile,
        deadline_ms=0,
        lease_ms=0,
    )


def _flavor(copy: Copy, replica: Replica, one: Allocation, pool: str) -> str:
    """The flavor that asks for just what the instance holds: its own, or one made up for the plan."""
    known = replica.catalog.flavors.get(one.flavor)
    held = {name: amount for name, amount in one.resources.items() if amount}
    if known is not None and {n: a for n, a in known.resources.items() if a} == held:
        return one.flavor
    made_up = f"as-held-{digest64(repr(sorted(held.items())).encode()):016x}"
    key = f"flavor/{made_up}".encode()
    copy.control[key] = (0, 0, key, encode(Flavor(name=made_up, resources=held, pool=pool)))
    return made_up
