"""What one instance asks of a host, made of its flavor, its request and a profile; and the profiles that are built in."""

from collections.abc import Mapping

from commonplace.core.records.control import Flavor, Profile
from commonplace.core.records.requests import Build
from commonplace.core.rules import Ask, Rules
from commonplace.core.weigher_names import INCREMENTAL

PROFILES: Mapping[str, Profile] = {
    "default": Profile(name="default", weighers={"cpu": 1.0, "ram": 1.0, "io_ops": -0.05}),
    "spread": Profile(name="spread", weighers={"cpu": 1.0, "ram": 1.0, "disk": 1.0, "io_ops": -0.05}),
    "pack": Profile(name="pack", weighers={"cpu": -1.0, "ram": -1.0}),
    "nova": Profile(
        name="nova",
        scale="relative",
        weighers={
            "ram": 1.0,
            "cpu": 1.0,
            "disk": 1.0,
            "io_ops": -1.0,
            "num_instances": 0.0,
            "build_failure": -1_000_000.0,
            "hypervisor_version": 1.0,
            "pci": 1.0,
            "server_group_soft_affinity": 1.0,
            "server_group_soft_anti_affinity": 1.0,
            "metrics": 1.0,
            "image_properties": 0.0,
            "cross_cell": 1_000_000.0,
        },
    ),
}
"""Profiles that need no record on `control`; a record of the same name replaces one. Free shares lie in 0..1, so one build in progress
weighs as much as a twentieth of a host. `nova` has Nova's weighers, defaults and arithmetic (docs/decisions/0006)."""


def ask_of(flavor: Flavor, build: Build, profile: Profile, rules: Rules | None = None) -> Ask:
    """The ask of each instance of a request."""
    named = {} if rules is None else {one.name for one in rules.filters}
    left_out = "DISK_GB" if build.boot_from_volume else ""
    weighers = profile.weighers.items() if profile.scale == "absolute" else ()
    return Ask(
        tuple(sorted((name, amount) for name, amount in flavor.resources.items() if amount and name != left_out)),
        tuple(sorted({*flavor.traits_required, *build.traits_required})),
        tuple(sorted({*flavor.traits_forbidden, *build.traits_forbidden})),
        tuple(sorted((name, multiplier) for name, multiplier in weighers if name in INCREMENTAL)),
        0 if "aggregate_io_ops" in named else profile.builds_max,  # then each host has a limit of its own
        0 if "aggregate_num_instances" in named else profile.instances_max,
        rules,
    )
