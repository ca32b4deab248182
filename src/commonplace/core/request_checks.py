"""What is said of a request before any host is looked at: whether it calls for filters of its own, and whether what it says can be."""

import difflib
from ipaddress import ip_address, ip_network

from msgspec.structs import replace

from commonplace.core import query
from commonplace.core.aggregates import Aggregates
from commonplace.core.codec import encode
from commonplace.core.names import printable
from commonplace.core.records.requests import Build
from commonplace.core.request_filters import CIDR_DEFAULT, member_terms

HINTS = frozenset({"query", "different_host", "same_host", "build_near_host_ip", "cidr"})


def special(build: Build) -> bool:
    """Whether a request says anything beyond flavor, traits, counts and anti-affinity."""
    return bool(
        build.group_policy
        or build.host
        or build.hosts_ignored
        or build.zone
        or build.member_of
        or build.traits_any_of
        or build.image
        or build.image_properties
        or build.hints
        or build.cell
        or build.spread_over
        or build.max_skew
        or build.networks
    )


def unshowable(build: Build) -> str:
    """Which name that its allocations would bear may not stand in a report, so that every host would turn it away; "" when none."""
    if (build.project + build.user + build.kind + build.group).isprintable():
        return ""
    for field in ("project", "user", "kind", "group"):
        name = getattr(build, field)
        if not printable(name):
            return f"{field} {name!a} holds a character that terminals do not show: leave it out"
    return ""


def likeness(build: Build) -> str:
    """The same for requests that every filter treats alike: what turned one away everywhere turns away the others too."""
    names = build.instances if build.group or build.source else ()
    like = replace(
        build, id="alike", count=1, instances=names, deadline_ms=0, lease_ms=0, count_min=0, alternates=0, priority=0
    )
    return encode(like).decode()


def misuse(build: Build, aggregates: Aggregates) -> str:
    """Why a request cannot be served as it stands: what, and what to do; "" when it can."""
    return group_misuse(build) or _hosts(build) or _member_of(build, aggregates) or _hints(build)


def count_misuse(build: Build) -> str:
    """Why so many instances, or these, cannot be asked for, or a check of none, or ""."""
    if build.instances and len(build.instances) != build.count:
        return f"{len(build.instances)} instances are named for a count of {build.count}: name as many, or none"
    if len(set(build.instances)) != len(build.instances):
        return "an instance is named twice: give each a name of its own"
    if build.group_max and not build.group:
        return "group_max is set but no group is named: name the group"
    if build.rebuild_check and not build.host:
        return "rebuild_check asks about the host where the instance stands, and none is named: name the host"
    if build.source and not build.instances:
        return f"source {build.source} is the host that the instances are on, and none is named: name the instances"
    if build.count_min > build.count:
        return f"count_min {build.count_min} is more than count {build.count}: raise the count, or lower count_min"
    if build.count_min and build.max_skew:
        return "count_min leaves instances out, max_skew counts on all of them: drop one of the two, or ask for one at a time"
    return ""


def group_misuse(build: Build) -> str:
    """Why what a request says of its group cannot be, or ""."""
    policy = build.group_policy
    if policy and not build.group:
        return f"group_policy is {policy} but no group is named: name the group"
    if policy == "anti-affinity" and not build.group_max:
        return "group_policy is anti-affinity without group_max: say how many of the group one host may have, mostly 1"
    if policy in ("affinity", "soft-affinity", "soft-anti-affinity") and build.group_max:
        return f"group_max {build.group_max} is anti-affinity, group_policy is {policy}: drop one of the two"
    return _spread(build) if build.spread_over or build.max_skew else ""


def _spread(build: Build) -> str:
    label, skew = build.spread_over, build.max_skew
    if not label:
        return f"max_skew is {skew} without spread_over: name the label over whose values the group is spread, zone or rack"
    if not skew:
        return f"spread_over is {label} without max_skew: say by how many members two values may differ, mostly 1"
    if not build.group:
        return f"spread_over is {label} but no group is named, whose members it counts: name the group"
    if build.group_policy in ("affinity", "soft-affinity"):
        return f"spread_over {label} spreads the group, group_policy {build.group_policy} keeps it together: drop one of the two"
    return ""


def _hosts(build: Build) -> str:
    if build.host and build.host in build.hosts_ignored:
        return f"host {build.host} is both demanded and ignored: drop one of the two"
    if any(not names for names in build.traits_any_of):
        return "traits_any_of has an empty set, which no host meets: drop it"
    for names in build.traits_any_of:
        if set(names) <= set(build.traits_forbidden):
            return f"every trait of {', '.join(names)} is forbidden, and one of them asked for: drop one of the two"
    return ""


def _member_of(build: Build, aggregates: Aggregates) -> str:
    wanted: set[str] = set()
    barred: set[str] = set()
    for item in build.member_of:
        allowed, names = member_terms(item)
        for name in sorted(names - set(aggregates.by_name)):
            near = difflib.get_close_matches(name, aggregates.by_name, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "see `commonplace aggregate list`"
            return f"unknown aggregate {name!r} in member_of: {hint}"
        if not allowed:
            barred |= names
        elif len(names) == 1:
            wanted |= names
    both = wanted & barred
    return f"aggregate {min(both)} is both required and forbidden in member_of: drop one of the two" if both else ""


def _hints(build: Build) -> str:
    for name, values in build.hints.items():
        if name not in HINTS:
            continue  # as Nova does: hints may be meant for filters that are not asked
        if not values:
            return f"hint {name} has no value: give one, or drop it"
        if name in ("query", "build_near_host_ip", "cidr") and len(values) > 1:
            return f"hint {name} has {len(values)} values: give one"
    both = set(build.hints.get("different_host", ())) & set(build.hints.get("same_host", ()))
    if both:
        return f"instance {min(both)} is to be both joined and avoided: drop one of the two hints"
    return query.check(build.hints["query"][0]) if "query" in build.hints else _address(build)


def _address(build: Build) -> str:
    if "build_near_host_ip" not in build.hints:
        return ""
    address, cidr = build.hints["build_near_host_ip"][0], build.hints.get("cidr", (CIDR_DEFAULT,))[0]
    try:
        ip_address(address)
        ip_network(f"{address}/{cidr.removeprefix('/')}", strict=False)
    except ValueError:
        return f"hints build_near_host_ip {address!r:.80} and cidr {cidr!r:.40} make no network: write them as 10.0.1.7 and /24"
    return ""
