"""The filters by name, with those that every host must pass first (filters.py), and when the others concern a request.

What Nova calls `NumInstancesFilter` or `ServerGroupAffinityFilter` is `num_instances` or `server_group_affinity` here; a profile
may use either name.
"""

import difflib
import re
from collections.abc import Collection

from commonplace.core import aggregate_filters as of_aggregates
from commonplace.core import request_filters as of_requests
from commonplace.core.filters import FILTERS
from commonplace.core.laying import asks_cells
from commonplace.core.rules import Filter, Wishes

ALWAYS: tuple[Filter, ...] = (
    Filter("requested_host", of_requests.requested_host, lambda w: w.build.host),
    Filter("ignored_hosts", of_requests.ignored_hosts, lambda w: w.build.hosts_ignored),
    Filter("availability_zone", of_requests.availability_zone, lambda w: w.build.zone),
    Filter("member_of", of_requests.member_of, lambda w: w.build.member_of),
    Filter("traits_any_of", of_requests.traits_any_of, lambda w: w.build.traits_any_of),
    Filter("spread_over", of_requests.spread_over, lambda w: w.build.max_skew),
    Filter(
        "numa_topology",
        of_requests.numa_topology,
        lambda w: asks_cells(w.flavor),
        lasting=lambda w: not w.build.networks,
    ),
)
"""Asked under every profile: a request that names these means them."""

USUAL: tuple[Filter, ...] = (
    Filter("compute_capabilities", of_requests.compute_capabilities, lambda w: w.flavor.extra_specs),
    Filter(
        "image_properties",
        of_requests.image_properties,
        lambda w: w.build.image_properties or any(of_requests.image_triple(w)),
    ),
    # never asked host by host: ranking.group_full knows from an index which hosts are full, and the ledger checks it again
    Filter("server_group_anti_affinity", of_requests.server_group_anti_affinity, lambda w: False),
    Filter(
        "server_group_affinity",
        of_requests.server_group_affinity,
        lambda w: w.build.group and w.build.group_policy == "affinity",
    ),
    Filter(
        "aggregate_multi_tenancy_isolation",
        of_aggregates.aggregate_multi_tenancy_isolation,
        lambda w: any(key.startswith(of_aggregates.TENANTS) for key in w.aggregates.keys),
    ),
    Filter("different_host", of_requests.different_host, lambda w: w.hint("different_host")),
    Filter("same_host", of_requests.same_host, lambda w: w.hint("same_host")),
    Filter("simple_cidr_affinity", of_requests.simple_cidr_affinity, lambda w: w.hint("build_near_host_ip")),
    Filter("json", of_requests.json, lambda w: w.hint("query")),
    Filter(
        "pci_passthrough",
        of_requests.pci_passthrough,
        lambda w: any(of_requests.is_device(name) for name, _ in w.ask.resources),
    ),
)
"""Asked under a profile that names no filters."""

BY_CHOICE: tuple[Filter, ...] = (
    Filter(
        "aggregate_instance_extra_specs",
        of_aggregates.aggregate_instance_extra_specs,
        of_aggregates.aggregate_specs,
    ),
    Filter(
        "aggregate_image_properties_isolation",
        of_aggregates.aggregate_image_properties_isolation,
        lambda w: w.build.image_properties and w.aggregates.keys,
    ),
    Filter(
        "aggregate_type_affinity",
        of_aggregates.aggregate_type_affinity,
        lambda w: of_aggregates.FLAVORS in w.aggregates.keys,
    ),
    Filter("aggregate_io_ops", of_aggregates.aggregate_io_ops, lambda w: True),
    Filter("aggregate_num_instances", of_aggregates.aggregate_num_instances, lambda w: True),
    Filter(
        "isolated_hosts", of_aggregates.isolated_hosts, lambda w: w.profile.isolated_hosts or w.profile.isolated_images
    ),
    Filter("metrics", of_aggregates.metrics, lambda w: w.profile.metrics),
)
"""Asked under profiles that name them."""

ON_COLUMNS = {"compute", "num_instances", *(name for name, _, _ in FILTERS)}
"""Names of what every host must pass in any case: a profile may name them, and need not."""

TABLE: dict[str, Filter] = {one.name: one for one in (*ALWAYS, *USUAL, *BY_CHOICE)}


def canonical(name: str, suffix: str = "Filter") -> str:
    """Our name for what Nova calls by a class: `JsonFilter` is `json`; any other name stays."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z]+", name.removesuffix(suffix))
    return "_".join(words).lower() if words and "".join(words) == name.removesuffix(suffix) else name


def unknown(names: Collection[str], known: Collection[str], suffix: str, kind: str) -> str:
    """Why names cannot stand in a profile, with the nearest known one, or ""."""
    for name in names:
        ours = canonical(name, suffix)
        if ours not in known:
            near = difflib.get_close_matches(ours, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known))}"
            return f"names {kind} {name!r}: {hint}"
    return ""


def filters_of(names: Collection[str]) -> tuple[Filter, ...]:
    """The filters of a profile that names these, in the order of the table; what is on columns is not among them."""
    wanted = {canonical(name) for name in names}
    chosen = (one for one in TABLE.values() if one.name in wanted) if wanted else USUAL
    return (*ALWAYS, *(one for one in chosen if one not in ALWAYS))


def concerns_somebody(filters: tuple[Filter, ...], wishes: Wishes) -> bool:
    """Whether any of the filters has something to say of a request."""
    return any(one.applies(wishes) for one in filters)
