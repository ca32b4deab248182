"""Weighers by raw value per host, as Nova has them: what a relative profile normalises, and an absolute one adds up as it stands.

`cpu`, `ram` and `disk` mean free amounts here and free shares under an absolute profile (weighers.py); the others mean the same in both.
"""

from collections.abc import Callable

from msgspec import Struct

from commonplace.core import facts
from commonplace.core.fragments import increase
from commonplace.core.request_filters import is_device, members
from commonplace.core.rows import Row
from commonplace.core.rules import Wishes
from commonplace.core.view import View

DEVICES_COUNTED_MAX = 99

RAW_MAX = 1e15
"""Raw values are cut to ± this, and overrides to ± MULTIPLIER_MAX: their products stay far from infinity, which would rank a host as
filtered. No amount on the wire is larger than nine times it."""
MULTIPLIER_MAX = 1e9
"""Largest multiplier of a weigher."""

Raw = Callable[[View, Row, Wishes], float]


class CannotWeigh(ValueError):
    """A host lacks what its weight is made of: it is left out of the ranking."""


class Weigher(Struct, frozen=True):
    """A preference. `floor` cuts raw values and is where normalising begins; `override` is the aggregate metadata that replaces its
    multiplier, with the sign turned where `turned`; `concerns` says whether it can tell hosts apart for a request."""

    raw: Raw
    override: str
    floor: float | None = None
    turned: bool = False
    concerns: Callable[[Wishes], object] = lambda wishes: True


def ram(view: View, row: Row, wishes: Wishes) -> float:
    """Free MB of memory."""
    return facts.free_ram_mb(row)


def cpu(view: View, row: Row, wishes: Wishes) -> float:
    """Free virtual cpus, the allocation ratio applied."""
    return facts.free_vcpus(row)


def disk(view: View, row: Row, wishes: Wishes) -> float:
    """Free MB of disk."""
    return facts.free_disk_mb(row)


def io_ops(view: View, row: Row, wishes: Wishes) -> float:
    """Builds in progress."""
    return facts.builds(row)


def num_instances(view: View, row: Row, wishes: Wishes) -> float:
    """Instances on the host."""
    return facts.instances(row)


def build_failure(view: View, row: Row, wishes: Wishes) -> float:
    """Builds that failed there lately."""
    return facts.failed_builds(row)


def hypervisor_version(view: View, row: Row, wishes: Wishes) -> float:
    """Version of the hypervisor as an integer, 0 where the host says none."""
    text = row.host.labels.get("hypervisor_version", "")
    return int(text) if text.isascii() and text.isdigit() else 0


def pci(view: View, row: Row, wishes: Wishes) -> float:
    """Fewer free devices weigh more, so that instances without devices leave hosts with many alone."""
    free = sum(facts.total(row, name) - facts.used(row, name) for name in row.host.inventory if is_device(name))
    return DEVICES_COUNTED_MAX + 1 - min(free, DEVICES_COUNTED_MAX)


def server_group_soft_affinity(view: View, row: Row, wishes: Wishes) -> float:
    """Members of the group on the host, under the policy soft-affinity."""
    return members(view, row, wishes) if wishes.build.group_policy == "soft-affinity" else 0


def server_group_soft_anti_affinity(view: View, row: Row, wishes: Wishes) -> float:
    """Members of the group on the host, each a minus, under the policy soft-anti-affinity."""
    return -members(view, row, wishes) if wishes.build.group_policy == "soft-anti-affinity" else 0


def metrics(view: View, row: Row, wishes: Wishes) -> float:
    """Sum of the profile's metrics, each times its ratio; raises `CannotWeigh` where one is required and not reported."""
    profile, load = wishes.profile, row.host.load
    total = 0.0
    for name, ratio in profile.metrics.items():
        if name in load:
            total += load[name] * ratio
        elif profile.metrics_required:
            raise CannotWeigh(
                f"host {row.host.name} does not report metric {name}, which profile {profile.name} requires"
            )
        elif ratio * profile.weighers.get("metrics", 0.0):
            return profile.metrics_missing_weight
    return total


def image_properties(view: View, row: Row, wishes: Wishes) -> float:
    """How often the image's properties are those of instances on the host; each times the profile's weight for it, if it gives any."""
    profile = wishes.profile
    wanted = {f"{key}={value}": profile.image_weights.get(key, 0.0) if profile.image_weights else 1.0
              for key, value in wishes.build.image_properties.items()}  # fmt: skip
    return sum(wanted.get(pair, 0.0) for one in facts.residents(row) for pair in one.image)


def cross_cell(view: View, row: Row, wishes: Wishes) -> float:
    """On a move 1 in the cell that the instance comes from, −1 in others."""
    if not wishes.build.cell:
        return 0
    return 1 if row.host.labels.get("cell", "") == wishes.build.cell else -1


def fgd(view: View, row: Row, wishes: Wishes) -> float:
    """Growth of the devices that are free and of no use to the profile's mix of flavors, an instance placed."""
    return increase(view, row, wishes.ask, wishes.rules)


RAW: dict[str, Weigher] = {
    "ram": Weigher(ram, "ram_weight_multiplier", 0.0),
    "cpu": Weigher(cpu, "cpu_weight_multiplier", 0.0),
    "disk": Weigher(disk, "disk_weight_multiplier", 0.0),
    "io_ops": Weigher(io_ops, "io_ops_weight_multiplier", 0.0),
    "num_instances": Weigher(num_instances, "num_instances_weight_multiplier"),
    "build_failure": Weigher(build_failure, "build_failure_weight_multiplier", turned=True),
    "hypervisor_version": Weigher(hypervisor_version, "hypervisor_version_weight_multiplier"),
    "pci": Weigher(pci, "pci_weight_multiplier"),
    "server_group_soft_affinity": Weigher(
        server_group_soft_affinity,
        "soft_affinity_weight_multiplier",
        concerns=lambda w: w.build.group and w.build.group_policy == "soft-affinity",
    ),
    "server_group_soft_anti_affinity": Weigher(
        server_group_soft_anti_affinity,
        "soft_anti_affinity_weight_multiplier",
        concerns=lambda w: w.build.group and w.build.group_policy == "soft-anti-affinity",
    ),
    "metrics": Weigher(metrics, "metrics_weight_multiplier", concerns=lambda w: w.profile.metrics),
    "image_properties": Weigher(
        image_properties,
        "image_props_weight_multiplier",
        concerns=lambda w: w.build.image_properties and w.profile.weighers.get("image_properties"),
    ),
    "cross_cell": Weigher(cross_cell, "cross_cell_move_weight_multiplier", concerns=lambda w: w.build.cell),
    "fgd": Weigher(fgd, "fgd_weight_multiplier", concerns=lambda w: w.rules.mix),
}
"""Every weigher by name."""


def value_of(name: str, view: View, row: Row, wishes: Wishes) -> float:
    """A weigher's raw value for one host, cut to what sums can bear."""
    value = RAW[name].raw(view, row, wishes)
    return max(-RAW_MAX, min(value, RAW_MAX)) if value == value else 0.0  # not a number: infinities of both signs met


def multiplier(row: Row, wishes: Wishes, name: str) -> float:
    """A weigher's multiplier for one host: the smallest that its aggregates say, else the profile's."""
    weigher = RAW[name]
    least = wishes.aggregates.least(row, weigher.override) if weigher.override in wishes.aggregates.keys else None
    if least is None:
        return wishes.profile.weighers.get(name, 0.0)
    least = max(-MULTIPLIER_MAX, min(least, MULTIPLIER_MAX))
    return -least if weigher.turned else least
