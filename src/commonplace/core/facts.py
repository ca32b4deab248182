"""What is known of a host by name, for the filters whose requests name it: figures worked out here, then what the agent reports as labels.

    free_ram_mb  free_disk_mb  disk_mb_used  total_usable_ram_mb  total_usable_disk_gb  vcpus_total  vcpus_used
    cpu_allocation_ratio  ram_allocation_ratio  disk_allocation_ratio  num_instances  num_io_ops  failed_builds  status
    host  nodename  hypervisor_hostname  uuid

Labels that stand for something: `hypervisor_type`, `hypervisor_version` (an integer, 6000000 for 6.0.0), `host_ip`, `cell`, `zone`,
`supported_instances` (`ARCHITECTURE:HYPERVISOR:MODE`, separated by commas; more in `supported_instances.1` and so on), `cpu_info.…`.
Load that does: `free_disk_mb` (what the driver measured; else it is worked out), `failed_builds`, and every metric
by its name.
"""

from collections.abc import Callable, Iterator
from typing import Any

from commonplace.core.records.hosts import Allocation
from commonplace.core.resources import RATIO_SCALE
from commonplace.core.rows import Row

_MB = 1024

Fact = Callable[[Row], Any]

INSTANCE_LABELS = "supported_instances"


def used(row: Row, name: str) -> int:
    """Amount of a class that allocations hold and pending claims will."""
    held = row.host.used.get(name, 0)
    return held + sum(overlay.resources.get(name, 0) for overlay in row.pending) if row.pending else held


def total(row: Row, name: str) -> int:
    """Amount of a class that the host has for instances, before any allocation ratio."""
    item = row.host.inventory.get(name)
    return item.total - item.reserved if item else 0


def ratio(row: Row, name: str) -> float:
    """Allocation ratio of a class, 1 where the host has none of it."""
    item = row.host.inventory.get(name)
    return item.allocation_ratio_thousandths / RATIO_SCALE if item else 1.0


def free_ram_mb(row: Row) -> int:
    """Memory that no instance holds; negative where it is oversubscribed."""
    return total(row, "MEMORY_MB") - used(row, "MEMORY_MB")


def free_disk_mb(row: Row) -> float:
    """Disk as the driver measured it, else what no instance holds."""
    measured = row.host.load.get("free_disk_mb")
    return measured if measured is not None else _MB * (total(row, "DISK_GB") - used(row, "DISK_GB"))


def free_vcpus(row: Row) -> float:
    """Virtual cpus that no instance holds, the allocation ratio applied."""
    return total(row, "VCPU") * ratio(row, "VCPU") - used(row, "VCPU")


def builds(row: Row) -> int:
    """Builds in progress, claims under way included."""
    return row.host.builds + len(row.pending)


def instances(row: Row) -> int:
    """Instances on the host, claims under way included."""
    return len(row.host.allocations) + len(row.pending)


def failed_builds(row: Row) -> float:
    """Builds that failed there lately, as the agent reports."""
    return row.host.load.get("failed_builds", 0)


def residents(row: Row) -> Iterator[Allocation]:
    """Allocations of instances that are there or were granted."""
    return iter(row.host.allocations.values())


def supported(row: Row) -> list[tuple[str, ...]]:
    """The triples of architecture, hypervisor and mode that the host runs."""
    texts = [text for label, text in row.host.labels.items() if label.partition(".")[0] == INSTANCE_LABELS]
    return [tuple(triple.strip().split(":")) for text in texts for triple in text.split(",") if triple]


FACTS: dict[str, Fact] = {
    "free_ram_mb": free_ram_mb,
    "free_disk_mb": free_disk_mb,
    "disk_mb_used": lambda row: _MB * used(row, "DISK_GB"),
    "total_usable_ram_mb": lambda row: total(row, "MEMORY_MB"),
    "total_usable_disk_gb": lambda row: total(row, "DISK_GB"),
    "vcpus_total": lambda row: total(row, "VCPU"),
    "vcpus_used": lambda row: used(row, "VCPU"),
    "cpu_allocation_ratio": lambda row: ratio(row, "VCPU"),
    "ram_allocation_ratio": lambda row: ratio(row, "MEMORY_MB"),
    "disk_allocation_ratio": lambda row: ratio(row, "DISK_GB"),
    "num_instances": instances,
    "num_io_ops": builds,
    "failed_builds": failed_builds,
    "status": lambda row: row.status,
    "host": lambda row: row.host.name,
    "nodename": lambda row: row.host.name,
    "hypervisor_hostname": lambda row: row.host.name,
    "uuid": lambda row: row.host.name,
}

LABELLED = ("hypervisor_type", "hypervisor_version", "host_ip", "cpu_info", "cell", "zone", INSTANCE_LABELS)
"""Names that every host is expected to have, as labels: one that lacks it fails what is asked of it."""


def dotted(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """A value as labels: the items of a mapping one by one, their names dotted; any other value as text; None as nothing."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from dotted(f"{name}.{key}", item)
    elif value is not None:
        yield name, str(value)


def branch(row: Row, name: str) -> dict[str, str]:
    """The labels below a name."""
    return {label: text for label, text in row.host.labels.items() if label.startswith(f"{name}.")}


def fact(row: Row, name: str) -> Any:
    """What is known of a host under a name, a label as text; None: nothing."""
    known = FACTS.get(name)
    return known(row) if known is not None else row.host.labels.get(name)
