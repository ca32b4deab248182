"""What frontends ask: builds, and their cancels."""

from typing import Annotated

from msgspec import Meta

from commonplace.core.records.fields import (
    ALLOCATIONS_MAX,
    ALTERNATES_MAX,
    COUNT_MAX,
    DurationMs,
    HostName,
    Id,
    Label,
    Properties,
    Record,
    Traits,
    Value,
)
from commonplace.core.records.hosts import GroupPolicy

PRIORITY_MAX = 100
"""Highest priority of a request; 0 is that of requests that name none."""

Hint = Annotated[str, Meta(max_length=4096)]


class Build(Record, tag="build", kw_only=True, forbid_unknown_fields=True):
    """One build request. `group_max` > 0 is hard anti-affinity: at most so many instances of `group` on one host.

    `count_min` > 0 takes so many instances instead of `count` where no more fit; `alternates` asks for so many hosts to try besides.
    `rebuild_check` asks whether `host` would do for the image, and claims nothing.
    With `boot_from_volume` the flavor's disk is not asked of the host. Of what waits together the highest `priority` is ranked first.
    `max_skew` bounds by how many members of `group` any two values of the label `spread_over` may differ.
    `deadline_ms` and `lease_ms` 0 take the scheduler's defaults. `instances` names the instances, else they are `<id>.<index>`.
    Of each item of `traits_any_of` a host has one at least. `host` is the only one that will do, `hosts_ignored` never will. `cell`
    is the one that an instance moves from, `source` the host that the instances are on, where they need only what they grow by;
    `networks` are the physical ones it is to be near, on hosts with NUMA cells. `member_of` are aggregates: each item `NAME`, `!NAME` or
    `in:NAME,NAME`, all to hold.
    """

    id: Id
    flavor: Id
    count: Annotated[int, Meta(ge=1, le=COUNT_MAX)] = 1
    project: Label = ""
    user: Label = ""
    kind: Label = "build"
    group: Label = ""
    group_max: Annotated[int, Meta(ge=0, le=ALLOCATIONS_MAX)] = 0
    instances: Annotated[tuple[Id, ...], Meta(max_length=COUNT_MAX)] = ()
    traits_required: Traits = ()
    traits_forbidden: Traits = ()
    deadline_ms: DurationMs = 0
    lease_ms: DurationMs = 0
    traits_any_of: Annotated[tuple[Traits, ...], Meta(max_length=16)] = ()
    group_policy: GroupPolicy = ""
    profile: Annotated[str, Meta(max_length=128, pattern=r"^([A-Za-z0-9][A-Za-z0-9._:@+-]*)?$(?!\n)")] = ""
    host: Annotated[str, Meta(max_length=128, pattern=r"^([A-Za-z0-9][A-Za-z0-9._:-]*)?$(?!\n)")] = ""
    hosts_ignored: Annotated[tuple[HostName, ...], Meta(max_length=256)] = ()
    zone: Label = ""
    member_of: Annotated[tuple[Value, ...], Meta(max_length=16)] = ()
    image: Label = ""
    image_properties: Properties = {}
    hints: Annotated[dict[Label, Annotated[tuple[Hint, ...], Meta(max_length=64)]], Meta(max_length=16)] = {}
    cell: Label = ""
    networks: Annotated[tuple[Label, ...], Meta(max_length=16)] = ()
    spread_over: Label = ""
    max_skew: Annotated[int, Meta(ge=0, le=ALLOCATIONS_MAX)] = 0
    count_min: Annotated[int, Meta(ge=0, le=COUNT_MAX)] = 0
    alternates: Annotated[int, Meta(ge=0, le=ALTERNATES_MAX)] = 0
    boot_from_volume: bool = False
    priority: Annotated[int, Meta(ge=0, le=PRIORITY_MAX)] = 0
    rebuild_check: bool = False
    source: Annotated[str, Meta(max_length=128, pattern=r"^([A-Za-z0-9][A-Za-z0-9._:-]*)?$(?!\n)")] = ""


class Cancel(Record, tag="cancel", kw_only=True, forbid_unknown_fields=True):
    """Withdraws the request `id`, sent under that request's key; what its effective decision names is released.

    `group` is named where the key is the group's.
    """

    id: Id
    flavor: Id
    group: Label = ""


RequestRecord = Build | Cancel
