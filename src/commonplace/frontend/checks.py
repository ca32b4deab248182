"""What is refused before anything is sent: nobody should wait for an answer that is known here.

Each check returns why, in one line that says what, where and what to do, or "" when all is well.
"""

import difflib
from collections.abc import Mapping, Sequence

from commonplace.core.codec import Bad, decode
from commonplace.core.ledger_events import FOUND_PREFIX
from commonplace.core.names import printable
from commonplace.core.records.control import Flavor
from commonplace.core.records.decisions import Decision
from commonplace.core.records.requests import Build
from commonplace.core.request_checks import count_misuse, group_misuse, unshowable

NAME_SHOWN_CHARS = 64


def invalid(build: Build, encoded: bytes, flavors: Mapping[str, Flavor], routing: Mapping[str, str], pool: str) -> str:
    """Why a request may not be sent to a pool ("": chosen by the caller).

    `encoded` is decoded as a replica will, so that both refuse the same.
    """
    flavor = flavors.get(build.flavor)
    if flavor is None:
        return unknown_flavor(build.flavor, flavors)
    served_by = routing.get(flavor.name, flavor.pool)
    if pool and served_by != pool:
        return (
            f"flavor {flavor.name} is placed by pool {served_by}, this frontend serves pool {pool}: "
            f"use --pool {served_by}"
        )
    checked = decode("requests", encoded)
    if isinstance(checked, Bad):
        return f"request {shown(build.id)}: {checked.reason.removeprefix('not a requests record: ')}"
    return contradiction(build, flavor)


def unknown_flavor(name: str, flavors: Mapping[str, Flavor]) -> str:
    """Says so, with the nearest known name."""
    if not flavors:
        return f"flavor {shown(name)} is unknown, as there are none yet: `commonplace topics create` writes starters"
    near = difflib.get_close_matches(name, flavors, n=1, cutoff=0.0)
    return f"flavor {shown(name)} is unknown; the nearest known is {near[0]}, `commonplace flavor list` shows all"


def contradiction(build: Build, flavor: Flavor) -> str:
    """Why no host could ever satisfy the request, whatever it has."""
    required = build.traits_required + flavor.traits_required
    forbidden = build.traits_forbidden + flavor.traits_forbidden
    if required and forbidden and (both := sorted(set(required) & set(forbidden))):
        return f"request {build.id}: trait {both[0]} is required and forbidden (see flavor {flavor.name}): drop one"
    if why := unshowable(build) or count_misuse(build) or group_misuse(build):
        return f"request {build.id}: {why}"
    return ""


def not_in(decision: Decision, allocations: Sequence[str], what: str) -> str:
    """Why a decision, or one of the allocations named, is nothing to confirm or release."""
    if decision.result != "placed":
        return f"request {decision.request} was not placed ({decision.result}): there is nothing to {what}"
    own = {p.allocation for p in decision.placed}
    if strange := set(allocations) - own:
        listed = ", ".join(sorted(own))
        return f"request {decision.request} placed no allocation {shown(min(strange))}: it placed {listed}"
    for placed in decision.placed:
        if placed.allocation.startswith(FOUND_PREFIX):
            return (
                f"instance {placed.instance} was found on {placed.host}: only its driver ends it, nobody can {what} it"
            )
    return ""


def reused(request: str) -> str:
    """What to say of an id that this session used for something else."""
    return f"request id {request} was used for a request with other content: the first stands; choose a new id"


def shown(name: str) -> str:
    """A name from a person or the log, fit for a terminal."""
    return (name if name and printable(name) else repr(name))[:NAME_SHOWN_CHARS]
