"""Filters that go by what aggregates and profiles say of hosts; a profile names them, and they concern nobody where nothing is said."""

from commonplace.core import facts, specs
from commonplace.core.records.fields import ALLOCATIONS_MAX
from commonplace.core.rows import Row
from commonplace.core.rules import Wishes
from commonplace.core.view import View

SPECS_SCOPE = "aggregate_instance_extra_specs"
TENANTS = "filter_tenant_id"
BUILDS_MAX = "max_io_ops_per_host"
INSTANCES_MAX = "max_instances_per_host"
FLAVORS = "instance_type"


def aggregate_instance_extra_specs(view: View, row: Row, wishes: Wishes) -> str:
    """Pass hosts whose aggregates meet every extra spec that is unscoped or theirs by scope; what they do not say fails."""
    said = wishes.aggregates.metadata(row)
    for key, requirement in aggregate_specs(wishes):
        if not any(specs.matches(value, requirement) for value in said.get(key, ())):
            return f"its aggregates have no {key} that is {requirement!s:.80}"
    return ""


def aggregate_specs(wishes: Wishes) -> list[tuple[str, str]]:
    """The flavor's extra specs that aggregates must meet."""
    split = [(*key.partition(":"), value) for key, value in wishes.flavor.extra_specs.items()]
    return [(name or scope, value) for scope, _, name, value in split if not name or scope == SPECS_SCOPE]


def aggregate_image_properties_isolation(view: View, row: Row, wishes: Wishes) -> str:
    """Pass hosts whose aggregates allow every image property that they speak of; one that the image lacks passes."""
    profile, properties = wishes.profile, wishes.build.image_properties
    prefix = profile.image_namespace + profile.image_separator if profile.image_namespace else ""
    for key, allowed in wishes.aggregates.metadata(row).items():
        value = properties.get(key, "") if key.startswith(prefix) else ""
        if value and value not in allowed:
            return f"its aggregates want {key} {'/'.join(sorted(allowed))}, not {value!s:.80}"
    return ""


def aggregate_multi_tenancy_isolation(view: View, row: Row, wishes: Wishes) -> str:
    """Pass hosts whose aggregates list the project, or list none."""
    said = wishes.aggregates.metadata(row)
    listed = [values for key, values in said.items() if key.startswith(TENANTS)]
    if not listed or any(wishes.build.project in values for values in listed):
        return ""
    return f"its aggregates do not list project {wishes.build.project!r}"


def aggregate_type_affinity(view: View, row: Row, wishes: Wishes) -> str:
    """Pass hosts whose aggregates name the flavor, or no flavor at all."""
    lists = wishes.aggregates.values(row, FLAVORS)
    if not lists or any(wishes.flavor.name in [one.strip() for one in text.split(",")] for text in lists):
        return ""
    return f"its aggregates do not name flavor {wishes.flavor.name}"


def builds_max(row: Row, wishes: Wishes) -> int | None:
    """Most builds in progress on a host: the smallest that its aggregates say, else the profile's; None is no limit."""
    return _most(wishes.aggregates.least(row, BUILDS_MAX), wishes.profile.builds_max)


def instances_max(row: Row, wishes: Wishes) -> int | None:
    """Most instances on a host: the smallest that its aggregates say, else the profile's; None is no limit."""
    return _most(wishes.aggregates.least(row, INSTANCES_MAX), wishes.profile.instances_max)


def _most(said: float | None, otherwise: int) -> int | None:
    """A profile's 0 is no limit, an aggregate's lets nothing in; a ledger holds no more than ALLOCATIONS_MAX in any case."""
    return otherwise or None if said is None else int(max(0, min(said, ALLOCATIONS_MAX)))


def aggregate_io_ops(view: View, row: Row, wishes: Wishes) -> str:
    """Pass hosts with fewer builds in progress than their aggregates, or else the profile, allow."""
    count, most = facts.builds(row), builds_max(row, wishes)
    return "" if most is None or count < most else f"{count} builds in progress, at most {most}"


def aggregate_num_instances(view: View, row: Row, wishes: Wishes) -> str:
    """Pass hosts with fewer instances than their aggregates, or else the profile, allow."""
    count, most = facts.instances(row), instances_max(row, wishes)
    return "" if most is None or count < most else f"{count} instances, at most {most}"


def isolated_hosts(view: View, row: Row, wishes: Wishes) -> str:
    """Keep isolated images on isolated hosts; and other images off these, where the profile says so."""
    profile = wishes.profile
    host = row.host.name in profile.isolated_hosts
    image = wishes.build.image != "" and wishes.build.image in profile.isolated_images
    if image and not host:
        return "is not isolated, the image is"
    if host and not image and profile.isolated_hosts_for_isolated_images_only:
        return "is isolated, the image is not"
    return ""


def metrics(view: View, row: Row, wishes: Wishes) -> str:
    """Pass hosts that report every metric which the profile weighs."""
    lacking = [name for name in wishes.profile.metrics if name not in row.host.load]
    return f"does not report {', '.join(lacking)}" if lacking else ""
