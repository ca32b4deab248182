"""Nova's data as our records: host state to reports, request spec to build and flavor, options to profile, aggregates to aggregates."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from commonplace.core.aggregates import Aggregates
from commonplace.core.ask import PROFILES
from commonplace.core.cpu_lists import text_of
from commonplace.core.facts import dotted
from commonplace.core.filter_table import canonical
from commonplace.core.records.control import Aggregate, CellAsk, Flavor, Profile
from commonplace.core.records.hosts import Allocation, Assigned, HostCell
from commonplace.core.records.requests import Build
from commonplace.core.request_checks import misuse
from commonplace.core.resources import RATIO_SCALE, Inventory
from commonplace.core.rows import Row
from commonplace.core.rules import Wishes
from commonplace.core.view import View
from peer.fleet import NOW_MS, Fleet, wishes

GROUP = "group"
OTHER = "other-"
SILENT_AFTER_MS = 60_000

AGGREGATE_KEYS: Mapping[str, str] = {
    "aggregate_type_affinity": "instance_type",
    "aggregate_io_ops": "max_io_ops_per_host",
    "aggregate_num_instances": "max_instances_per_host",
}
"""The metadata that `aggregate_values` are the values of, which the filter asked for by this key."""

MULTIPLIERS: Mapping[str, str] = {
    "ram": "filter_scheduler.ram_weight_multiplier",
    "cpu": "filter_scheduler.cpu_weight_multiplier",
    "disk": "filter_scheduler.disk_weight_multiplier",
    "io_ops": "filter_scheduler.io_ops_weight_multiplier",
    "num_instances": "filter_scheduler.num_instances_weight_multiplier",
    "build_failure": "filter_scheduler.build_failure_weight_multiplier",
    "hypervisor_version": "filter_scheduler.hypervisor_version_weight_multiplier",
    "pci": "filter_scheduler.pci_weight_multiplier",
    "server_group_soft_affinity": "filter_scheduler.soft_affinity_weight_multiplier",
    "server_group_soft_anti_affinity": "filter_scheduler.soft_anti_affinity_weight_multiplier",
    "metrics": "metrics.weight_multiplier",
    "image_properties": "filter_scheduler.image_props_weight_multiplier",
    "cross_cell": "filter_scheduler.cross_cell_move_weight_multiplier",
}

MAPPED = {
    "aggregates", "allocation_candidates", "cell_uuid", "cpu_allocation_ratio", "cpu_info", "disk_allocation_ratio",
    "disk_mb_used", "failed_builds", "free_disk_mb", "free_ram_mb", "host", "instances", "limits", "metrics", "nodename",
    "num_instances", "num_io_ops", "numa_topology", "pci_stats", "ram_allocation_ratio", "service", "stats",
    "supported_instances", "total_usable_disk_gb", "total_usable_ram_mb", "updated", "uuid", "vcpus_total", "vcpus_used",
}  # fmt: skip
"""Attributes of Nova's host state that have a place of their own here; the others become labels."""


class Undecidable(Exception):
    """The data that decide a case were not recorded."""


def plain(value: Any) -> Any:
    """A value without its marks; raises `Undecidable` for one that was a stand-in."""
    if isinstance(value, dict):
        for mark in ("@mock",):
            if mark in value:
                raise Undecidable(f"depends on {str(value[mark]).split(' id=')[0]}>, a stand-in that has no data")
        for mark in ("@set", "@datetime", "@pci_stats"):
            if mark in value:
                return plain(value[mark])
        return {key: plain(item) for key, item in value.items() if key != "@type"}
    return [plain(item) for item in value] if isinstance(value, list) else value


def keys_of(value: Any) -> list[str]:
    """The keys of a mapping whose values may be stand-ins."""
    return list(value) if isinstance(value, dict) else []


# --- hosts -----------------------------------------------------------------------------------------------------------


def view_of(case: Mapping[str, Any], hosts: Sequence[Mapping[str, Any]], name: str) -> tuple[View, list[Row]]:
    """The hosts of a case as a view, and their rows in its order; `name` is our filter or weigher."""
    fleet = Fleet()
    group = plain((case.get("request") or {}).get("instance_group")) or {}
    up = case.get("service_is_up", True)
    for host in hosts:
        service = plain(host.get("service")) or {}
        fleet.host(
            host["host"],
            inventory(host),
            allocations(host, group, name),
            NOW_MS if up else NOW_MS - 2 * SILENT_AFTER_MS,
            labels=labels(host),
            cells=host_cells(plain(host.get("numa_topology"))),
            load=load(host),
            status="disabled" if service.get("disabled") else "enabled",
        )
    known = {host["host"] for host in hosts}
    for other in group.get("hosts") or ():
        if other not in known:
            fleet.host(other, allocations=[held(OTHER + other, group=GROUP)])
    fleet.view.newest_log_time_ms = NOW_MS
    fleet.view.liveness(SILENT_AFTER_MS, NOW_MS)
    fleet.view.write()
    return fleet.view, [fleet.view.rows[host["host"]] for host in hosts]


def inventory(host: Mapping[str, Any]) -> dict[str, Inventory]:
    """What the host has; memory at least what is said to be free of it."""
    found = {
        "VCPU": _inventory(host.get("vcpus_total"), host.get("cpu_allocation_ratio")),
        "MEMORY_MB": _inventory(
            max(host.get("total_usable_ram_mb") or 0, host.get("free_ram_mb") or 0), host.get("ram_allocation_ratio")
        ),
        "DISK_GB": _inventory(host.get("total_usable_disk_gb"), host.get("disk_allocation_ratio")),
    }
    for pool in pools(host):
        count = found[pool[0]].total if pool[0] in found else 0
        found[pool[0]] = Inventory(total=count + pool[1])
    return found


def _inventory(total: int | None, ratio: float | None) -> Inventory:
    return Inventory(total=total or 0, allocation_ratio_thousandths=round((ratio or 1) * RATIO_SCALE))


def pools(host: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Free PCI devices by resource class."""
    found = plain(host.get("pci_stats")) or []
    return [
        (device_class(pool), pool["count"]) for pool in (found if isinstance(found, list) else found.get("pools", []))
    ]


def device_class(spec: Mapping[str, Any]) -> str:
    """The resource class of a kind of device, as Placement names them."""
    names = (str(spec[key]) for key in ("vendor_id", "product_id") if spec.get(key))
    return "CUSTOM_PCI_" + "_".join(re.sub(r"[^A-Z0-9]", "_", name.upper()) for name in names)


def held(name: str, group: str = "", building: bool = False, **fields: Any) -> Allocation:
    """An instance that is there."""
    fields = {"resources": {}, "state": "active", **fields}
    return Allocation(id=f"a-{name}", instance=name, group=group, building=building, **fields)


def allocations(host: Mapping[str, Any], group: Mapping[str, Any], name: str) -> list[Allocation]:
    """The instances that are named or counted, and one that holds what is used."""
    named = keys_of(host.get("instances"))
    members = group.get("members")
    count = max(len(named), host.get("num_instances") or 0, host.get("num_io_ops") or 0)
    names = [*named, *(f"unnamed-{index}" for index in range(count - len(named)))]
    images = {one: image(host["instances"][one]) for one in named} if name == "image_properties" else {}
    found = [
        held(
            one,
            GROUP if one in (members or ()) else "",
            index < (host.get("num_io_ops") or 0),
            image=images.get(one, ()),
        )
        for index, one in enumerate(names)
    ]
    if members is None and host["host"] in (group.get("hosts") or ()):
        found.append(held(OTHER + host["host"], GROUP))
    total, free = max(host.get("total_usable_ram_mb") or 0, host.get("free_ram_mb") or 0), host.get("free_ram_mb") or 0
    used = {"VCPU": host.get("vcpus_used") or 0, "MEMORY_MB": max(0, total - free)}
    if any(used.values()) or host.get("numa_topology"):
        found.append(
            held(
                "used",
                resources={key: amount for key, amount in used.items() if amount},
                cells=cells_used(host),
                assigned=pinned(host) or None,
            )
        )
    return found


def image(instance: Any) -> tuple[str, ...]:
    """The image's properties of an instance on a host."""
    known = plain(instance)
    properties = (known.get("image_meta") or {}).get("properties")
    if properties is None:
        raise Undecidable("the image properties of the instances on the hosts were not recorded")
    return tuple(f"{key}={value}" for key, value in sorted(properties.items()) if value is not None)


def load(host: Mapping[str, Any]) -> dict[str, float]:
    """What the host measures."""
    found = {one["name"]: float(one["value"]) for one in (plain(host.get("metrics")) or {}).get("objects", ())}
    return found | {
        "free_disk_mb": float(host.get("free_disk_mb") or 0),
        "failed_builds": float(host.get("failed_builds") or 0),
    }


def labels(host: Mapping[str, Any]) -> dict[str, str]:
    """What the host says of itself."""
    said: dict[str, str] = {}
    for key, value in host.items():
        if key not in MAPPED:
            said.update(dotted(key, plain(value)))
    for key, value in (plain(host.get("stats")) or {}).items():
        said = dict(dotted(key, value)) | said
    service = plain(host.get("service")) or {}
    said.update(dotted("service", service))
    said.update(dotted("cpu_info", parsed(host.get("cpu_info"))))
    said.update(dotted("cell", host.get("cell_uuid")))
    triples = plain(host.get("supported_instances")) or ()
    said.update({f"supported_instances.{index}": ":".join(triple) for index, triple in enumerate(triples)})
    return said


def parsed(text: Any) -> Any:
    """A text that is JSON as what it says, any other as it stands."""
    try:
        return json.loads(text) if isinstance(text, str) else plain(text)
    except ValueError:
        return text


def host_cells(topology: Mapping[str, Any] | None) -> dict[str, HostCell]:
    """A host's cells."""
    return {
        str(cell["id"]): HostCell(
            cpus=text_of(cell.get("cpuset") or ()),
            cpus_dedicated=text_of(cell.get("pcpuset") or ()),
            siblings=tuple(text_of(one) for one in cell.get("siblings") or ()),
            memory_mb=cell.get("memory") or 0,
            pages={
                one["size_kb"]: max(0, one["total"] - (one.get("reserved") or 0)) for one in cell.get("mempages") or ()
            },
            networks=tuple(networks(cell.get("network_metadata"))),
        )
        for cell in (topology or {}).get("cells", ())
    }


def networks(said: Mapping[str, Any] | None) -> list[str]:
    """Physical networks, and `tunnel` for tunnelled ones."""
    said = said or {}
    return [*sorted(said.get("physnets") or ()), *(["tunnel"] if said.get("tunneled") else [])]


def cells_used(host: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """What is used of a host's cells."""
    used = {}
    for cell in (plain(host.get("numa_topology")) or {}).get("cells", ()):
        amounts = {"VCPU": cell.get("cpu_usage") or 0, "MEMORY_MB": cell.get("memory_usage") or 0}
        amounts |= {f"PAGES_{one['size_kb']}": one.get("used") or 0 for one in cell.get("mempages") or ()}
        used[str(cell["id"])] = {key: amount for key, amount in amounts.items() if amount}
    return used


def pinned(host: Mapping[str, Any]) -> dict[str, Assigned]:
    """Which cpus of a host's cells are given to instances."""
    cells = (plain(host.get("numa_topology")) or {}).get("cells", ())
    return {str(one["id"]): Assigned(cpus=text_of(one["pinned_cpus"])) for one in cells if one.get("pinned_cpus")}


# --- requests, options, aggregates -----------------------------------------------------------------------------------


def request_of(case: Mapping[str, Any], name: str) -> Wishes:
    """The request of a case under its options and aggregates; raises ValueError where it would be refused."""
    request = case.get("request") or {}
    flavor = flavor_of(request)
    build = build_of(request, flavor)
    aggregates = aggregates_of(case, name)
    known = Aggregates()
    for one in aggregates:
        known.put(one.name, one)
    if why := misuse(build, known):
        raise ValueError(why)
    decided_elsewhere(case, request)
    return wishes(build, flavor, profile_of(case, name), aggregates)


def decided_elsewhere(case: Mapping[str, Any], request: Mapping[str, Any]) -> None:
    """Allocation candidates that name providers of groups which the request does not describe cannot be judged from data."""
    groups = {one.get("request_id") for one in (plain(request.get("pci_requests")) or {}).get("requests", ())}
    for candidate in (case.get("host") or {}).get("allocation_candidates") or ():
        for group, providers in candidate.get("mappings", {}).items():
            if group.rpartition("-")[0] not in groups:
                raise Undecidable(f"nothing was recorded of provider {', '.join(providers)}, which a candidate names")


def flavor_of(request: Mapping[str, Any]) -> Flavor:
    """The flavor, with cells and devices that Nova keeps beside it."""
    said = plain(request.get("flavor")) or {}
    resources: dict[str, int] = {"VCPU": said.get("vcpus") or 0, "MEMORY_MB": said.get("memory_mb") or 0}
    for one in (plain(request.get("pci_requests")) or {}).get("requests", ()):
        for spec in one.get("spec", ())[:1]:
            resources[device_class(spec)] = resources.get(device_class(spec), 0) + one["count"]
    return Flavor(
        name=said.get("name") or "flavor",
        resources=resources,
        extra_specs={key: str(value) for key, value in (said.get("extra_specs") or {}).items()},
        cells=tuple(cell_ask(one) for one in (plain(request.get("numa_topology")) or {}).get("cells", ())),
    )


def cell_ask(cell: Mapping[str, Any]) -> CellAsk:
    """One NUMA cell that an instance asks for."""
    return CellAsk(
        cpus=len(cell.get("cpuset") or ()),
        cpus_dedicated=len(cell.get("pcpuset") or ()),
        memory_mb=cell.get("memory") or 0,
        page_kb=cell.get("pagesize") or 0,
        threads=cell.get("cpu_thread_policy") or "prefer",
    )


def build_of(request: Mapping[str, Any], flavor: Flavor) -> Build:
    """The request itself."""
    group = plain(request.get("instance_group")) or {}
    policy: Any = group.get("policy") or next(iter(group.get("policies") or ()), None) or ""
    rules = group.get("_rules") or group.get("rules") or {}
    picture = plain(request.get("image")) or {}
    properties = {k: v for k, v in (picture.get("properties") or {}).items() if v is not None}
    hints = plain(request.get("scheduler_hints")) or {}
    destination = plain(request.get("requested_destination")) or {}
    cell = (destination.get("cell") or {}).get("uuid") if destination.get("allow_cross_cell_move") else None
    instance = request.get("instance_uuid")
    return Build(
        id="r-1",
        flavor=flavor.name,
        project=request.get("project_id") or "",
        instances=(instance,) if instance else (),
        group=GROUP if policy else "",
        group_policy=policy,
        group_max=int(rules.get("max_server_per_host", 1)) if policy == "anti-affinity" else 0,
        image=picture.get("id") or "",
        image_properties={key: str(value) for key, value in properties.items()},
        hints={key: tuple(value if isinstance(value, list) else [value]) for key, value in hints.items() if value},
        cell=cell or "",
        networks=tuple(networks(plain(request.get("network_metadata")))),
    )


def profile_of(case: Mapping[str, Any], name: str) -> Profile:
    """Nova's profile under the options of a case."""
    conf = case.get("conf") or {}
    section = "filter_scheduler."
    nova = PROFILES["nova"]
    weighers = {canonical(one, "Weigher"): 0.0 for one in case.get("weighers", ())}
    for one in weighers:
        weighers[one] = nova.weighers[one]
        if MULTIPLIERS[one] in conf:
            sign = -1 if one == "build_failure" else 1
            weighers[one] = sign * conf[MULTIPLIERS[one]]
    return Profile(
        name="nova",
        scale="relative",
        weighers=weighers,
        filters=(name,) if name else (),
        builds_max=conf.get(section + "max_io_ops_per_host", nova.builds_max),
        instances_max=conf.get(section + "max_instances_per_host", nova.instances_max),
        isolated_hosts=tuple(conf.get(section + "isolated_hosts") or ()),
        isolated_images=tuple(conf.get(section + "isolated_images") or ()),
        isolated_hosts_for_isolated_images_only=conf.get(section + "restrict_isolated_hosts_to_isolated_images", True),
        metrics=dict(_settings(conf.get("metrics.weight_setting"))),
        metrics_required=conf.get("metrics.required", True),
        metrics_missing_weight=conf.get("metrics.weight_of_unavailable", nova.metrics_missing_weight),
        image_weights=dict(_settings(conf.get(section + "image_props_weight_setting"))),
        image_namespace=conf.get(section + "aggregate_image_properties_isolation_namespace") or "",
        image_separator=conf.get(section + "aggregate_image_properties_isolation_separator") or ".",
        architecture_default=conf.get(section + "image_properties_default_architecture") or "",
    )


def _settings(texts: Sequence[str] | None) -> Iterator[tuple[str, float]]:
    for text in texts or ():
        name, _, number = text.partition("=")
        yield name.strip(), float(number)


def aggregates_of(case: Mapping[str, Any], name: str) -> list[Aggregate]:
    """The aggregates of the case's hosts, and those of which only the metadata were recorded."""
    found: dict[str, Aggregate] = {}
    for host in case.get("hosts") or [case["host"]]:
        for index, one in enumerate(plain(host.get("aggregates")) or ()):
            label = f"{host['host']}-{index}"
            found[label] = Aggregate(name=label, hosts=(host["host"],), metadata=one.get("metadata") or {})
    if "host" in case:
        host = case["host"]["host"]
        metadata = {
            key: ",".join(map(str, values)) for key, values in (plain(case.get("aggregate_metadata")) or {}).items()
        }
        if metadata:
            found["metadata"] = Aggregate(name="metadata", hosts=(host,), metadata=metadata)
        for index, value in enumerate(plain(case.get("aggregate_values")) or ()):
            label = f"value-{index}"
            found[label] = Aggregate(name=label, hosts=(host,), metadata={AGGREGATE_KEYS[name]: str(value)})
    return list(found.values())
