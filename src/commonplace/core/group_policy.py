"""A group keeps the policy that its members were placed by: a request of another one is refused, not placed beside what it contradicts."""

from commonplace.core.records.hosts import GroupPolicy
from commonplace.core.records.requests import Build
from commonplace.core.view import View

HOSTS_MAX = 8
"""Hosts of a group that are looked at for a member that names its policy: any one tells, and a group may stand on thousands."""


def policy_of(build: Build) -> GroupPolicy:
    """The policy of a request's group, as its allocations carry it; "": none that it names."""
    return build.group_policy or ("anti-affinity" if build.group and build.group_max else "")


def changed(view: View, build: Build) -> str:
    """Why a request contradicts the members of its group that the view shows: what, where, and what to do; "" when it does not.

    Instances that the request names itself do not count. Members claimed at the same moment elsewhere are not seen.
    """
    policy = policy_of(build)
    if not policy:
        return ""
    for index in list(view.groups.get(build.group, ()))[:HOSTS_MAX]:
        host = view.by_index[index].host
        for one in host.allocations.values():
            if one.group == build.group and one.policy not in ("", policy) and one.instance not in build.instances:
                return (
                    f"group {build.group} is placed by {one.policy} ({one.instance or one.id} on {host.name}), this request says {policy}: "
                    "keep to the policy, or name another group"
                )
    return ""
