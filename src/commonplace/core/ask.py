"""What one instance asks of a host: the flavor's and the request's wishes and the profile's limits, in one value."""

from collections.abc import Mapping

from msgspec import Struct

from commonplace.core import hashing
from commonplace.core.records import Build, Flavor, Profile

PROFILES: Mapping[str, Profile] = {
    "default": Profile(name="default", weighers={"cpu": 1.0, "ram": 1.0, "io_ops": -0.05}),
    "spread": Profile(name="spread", weighers={"cpu": 1.0, "ram": 1.0, "disk": 1.0, "io_ops": -0.05}),
    "pack": Profile(name="pack", weighers={"cpu": -1.0, "ram": -1.0}),
}
"""Profiles that need no record on `control`; a record of the same name replaces one. Free shares lie in 0..1, so one build in progress
weighs as much as a twentieth of a host."""


class Ask(Struct, frozen=True, gc=False):
    """Everything a filter or a weigher may look at, hashable: equal asks share one score row. The group is not part of the row."""

    resources: tuple[tuple[str, int], ...]
    traits_required: tuple[str, ...] = ()
    traits_forbidden: tuple[str, ...] = ()
    weighers: tuple[tuple[str, float], ...] = ()
    builds_max: int = 0
    instances_max: int = 0


def ask_of(flavor: Flavor, build: Build, profile: Profile) -> Ask:
    """The ask of each instance of a request."""
    return Ask(
        tuple(sorted((name, amount) for name, amount in flavor.resources.items() if amount)),
        tuple(sorted({*flavor.traits_required, *build.traits_required})),
        tuple(sorted({*flavor.traits_forbidden, *build.traits_forbidden})),
        tuple(sorted(profile.weighers.items())),
        profile.builds_max,
        profile.instances_max,
    )


def tail_of(ask: Ask, group: str) -> bytes:
    """Canonical bytes of its allocations after their id, for predicted hashes."""
    return hashing.tail_bytes(dict(ask.resources), group, {})
