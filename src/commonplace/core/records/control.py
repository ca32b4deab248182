"""What operators say: flavors, profiles, aggregates, the status of hosts, which pool serves what."""

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from commonplace.core.records.fields import (
    ALLOCATIONS_MAX,
    CellName,
    ClassName,
    HostName,
    HostNames,
    Id,
    Label,
    Labels,
    Names,
    Properties,
    Record,
    Shares,
    Text,
    Threads,
    Traits,
    Watermark,
)
from commonplace.core.records.hosts import Status
from commonplace.core.resources import AMOUNT_MAX, Amount

GROUPS_MAX = 6
"""Most granular groups of one flavor: all ways to give each a cell are tried, 16^6 at worst."""

AGGREGATE_HOSTS_MAX = 4_000
"""Most hosts one aggregate names: at 131 bytes each, beside labels and metadata of 0.36 MB at most, it stays under
RECORD_BYTES_MAX; labels select any number."""


class CellAsk(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One NUMA cell that an instance asks for: shared and dedicated cpus, memory, and how they are to lie on the host.

    `page_kb` 0 takes any memory, −1 the smallest pages, −2 any but the smallest, −3 pages of any size, else pages of that size.
    `threads`: `require` takes siblings only, `isolate` whole cores, one thread of each.
    """

    cpus: Annotated[int, Meta(ge=0, le=4096)] = 0
    cpus_dedicated: Annotated[int, Meta(ge=0, le=4096)] = 0
    memory_mb: Amount = 0
    page_kb: Annotated[int, Meta(ge=-3, le=AMOUNT_MAX)] = 0
    threads: Threads = "prefer"


class DeviceAsk(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Devices of one class that an instance asks for: `count` of them, of each so many `shares`.

    `policy` is where they lie beside the instance's cells: `required` in one of them, `preferred` there if that can be, `legacy` there
    unless the device is near no cell, `socket` on the socket of one. An instance without cells takes them anywhere.
    """

    resource_class: ClassName = field(name="class")
    count: Annotated[int, Meta(ge=1, le=64)] = 1
    shares: Shares = 1
    policy: Literal["required", "preferred", "legacy", "socket"] = "legacy"


class GroupAsk(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A granular group: resources that come from one cell of the host together; `beside` names a group whose cell it shares."""

    name: CellName
    resources: Annotated[dict[ClassName, Annotated[int, Meta(ge=1, le=AMOUNT_MAX)]], Meta(min_length=1, max_length=32)]
    beside: Annotated[str, Meta(max_length=32)] = ""


class Flavor(Record, tag="flavor", kw_only=True):
    """Named resource shape. `spread` > 1 spreads its requests over so many keys, hence over partitions and replicas.

    `extra_specs` are read by the filters compute_capabilities and aggregate_instance_extra_specs, `cells` and `devices` by
    numa_topology; what these two take stands in `resources` too. So do `groups`, instead of both: each comes from one cell, with
    `group_policy` `isolate` each from another.
    """

    name: Id
    resources: Annotated[dict[ClassName, Amount], Meta(min_length=1, max_length=32)]
    traits_required: Traits = ()
    traits_forbidden: Traits = ()
    pool: Id = "default"
    profile: Id = "default"
    spread: Annotated[int, Meta(ge=1, le=1024)] = 1
    extra_specs: Properties = {}
    cells: Annotated[tuple[CellAsk, ...], Meta(max_length=16)] = ()
    devices: Annotated[tuple[DeviceAsk, ...], Meta(max_length=16)] = ()
    groups: Annotated[tuple[GroupAsk, ...], Meta(max_length=GROUPS_MAX)] = ()
    group_policy: Literal["", "none", "isolate"] = ""


class Profile(Record, tag="profile", kw_only=True):
    """Weighers with multipliers (negative packs, positive spreads) and the limits that ride on the claim; 0 is no limit.

    `filters` are asked besides those that every host must pass; none named: the usual ones. `scale` is `absolute` (a host's score is its
    own) or `relative` (raw values normalised over the hosts that passed, as Nova does). The choice falls at random among the best
    `subset_size`. The other fields are what single filters and weighers go by.
    """

    name: Id
    weighers: Annotated[dict[Label, float], Meta(max_length=32)] = {}
    builds_max: Annotated[int, Meta(ge=0, le=ALLOCATIONS_MAX)] = 8
    instances_max: Annotated[int, Meta(ge=0, le=ALLOCATIONS_MAX)] = 50
    filters: Annotated[tuple[Label, ...], Meta(max_length=64)] = ()
    scale: Literal["absolute", "relative"] = "absolute"
    subset_size: Annotated[int, Meta(ge=1, le=1000)] = 1
    isolated_hosts: HostNames = ()
    isolated_images: Names = ()
    isolated_hosts_for_isolated_images_only: bool = True
    metrics: Annotated[dict[Label, float], Meta(max_length=32)] = {}
    metrics_required: bool = True
    metrics_missing_weight: float = -10_000.0
    image_weights: Annotated[dict[Label, float], Meta(max_length=32)] = {}
    image_namespace: Label = ""
    image_separator: Label = "."
    architecture_default: Label = ""
    mix: Annotated[dict[Id, Annotated[float, Meta(ge=0)]], Meta(max_length=512)] = {}


class Aggregate(Record, tag="aggregate", kw_only=True):
    """A named set of hosts (those listed, and those that bear all of `labels`), with metadata that filters and weighers go by.

    A host in an aggregate with a `zone` is in that zone. Several values of one key of `metadata` are separated by commas.
    """

    name: Label
    hosts: Annotated[tuple[HostName, ...], Meta(max_length=AGGREGATE_HOSTS_MAX)] = ()
    labels: Labels = {}
    zone: Label = ""
    metadata: Properties = {}


class HostControl(Record, tag="host", kw_only=True):
    """What operators say of a host; `gap_cleared` names the epoch whose gap they have looked at."""

    name: HostName
    status: Status = "enabled"
    reason: Text = ""
    gap_cleared: Watermark = -1


class Routing(Record, tag="routing", kw_only=True):
    """Which pool serves a flavor, where that differs from the flavor's own record.

    `before` names the pools that served it lately, newest first: a request that is submitted again may stand there.
    """

    pools: Annotated[dict[Id, Id], Meta(max_length=4096)] = {}
    before: Annotated[dict[Id, Annotated[tuple[Id, ...], Meta(max_length=4)]], Meta(max_length=4096)] = {}


ControlRecord = Flavor | Profile | Aggregate | HostControl | Routing
