"""Every record on every topic, as msgspec Structs; the wire is JSON (docs/protocol.md).

State records (hosts, control, replicas, decisions) ignore fields they do not know, so that versions can roll; what people and replicas
send (requests, claims) refuses them. Strings, lists and integers are bounded here; nothing unbounded enters the process.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, field

from commonplace.core import cpu_lists
from commonplace.core.resources import AMOUNT_MAX, Amount, Inventory

VERSION = 1
"""Version of the wire that this code writes; it reads all up to it."""

RECORD_BYTES_MAX = 1_000_000
"""Largest record read or written, in bytes: below the broker's default `message.max.bytes` of 1,048,588."""

ALLOCATIONS_MAX = 1_000
"""Most allocations one host report carries: at ~300 bytes each a snapshot stays under a third of RECORD_BYTES_MAX."""

SETTLED_MAX = 256
"""Most settled claims one report lists; the rest is counted in `settled_omitted`."""

TRAITS_MAX = 256
"""Most traits one record names."""

COUNT_MAX = 256
"""Most instances one request asks for: its decision names each of them in one record."""

ALTERNATES_MAX = 16
"""Most hosts that one decision names besides those it chose: who has tried so many asks anew."""

GROUPS_MAX = 6
"""Most granular groups of one flavor: all ways to give each a cell are tried, 16^6 at worst."""

PRIORITY_MAX = 100
"""Highest priority of a request; 0 is that of requests that name none."""

AGGREGATE_HOSTS_MAX = 4_000
"""Most hosts one aggregate names: at 131 bytes each, beside labels and metadata of 0.36 MB at most, it stays under
RECORD_BYTES_MAX; labels select any number."""

# `$(?!\n)` and not `$` alone: in Python `$` also matches before a final newline, and names reach terminals and metric labels.
HostName = Annotated[str, Meta(max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]*$(?!\n)")]
Id = Annotated[str, Meta(max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@+-]*$(?!\n)")]
Label = Annotated[str, Meta(max_length=128, pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$(?!\n)")]
ClassName = Annotated[str, Meta(max_length=64, pattern=r"^[A-Z][A-Z0-9_]*$(?!\n)")]
Trait = Annotated[str, Meta(max_length=128, pattern=r"^[A-Z][A-Z0-9_]*$(?!\n)")]
Hex16 = Annotated[str, Meta(min_length=16, max_length=16, pattern=r"^[0-9a-f]{16}$(?!\n)")]
Text = Annotated[str, Meta(max_length=1024)]
# Strings inside reports are bounded by length only, because patterns would cost a third of a fold; `printable` checks them once each.
Short = Annotated[str, Meta(max_length=128)]
Offset = Annotated[int, Meta(ge=0, le=AMOUNT_MAX)]
Watermark = Annotated[int, Meta(ge=-1, le=AMOUNT_MAX)]
DurationMs = Annotated[int, Meta(ge=0, le=7 * 24 * 3600 * 1000)]
Traits = Annotated[tuple[Trait, ...], Meta(max_length=TRAITS_MAX)]
Asked = Annotated[dict[Short, Amount], Meta(max_length=32)]
Cells = Annotated[dict[Short, Asked], Meta(max_length=16)]
CellName = Annotated[str, Meta(max_length=32, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$(?!\n)")]
CpuList = Annotated[str, Meta(max_length=4096, pattern=r"^[0-9,-]*$(?!\n)")]
DeviceWord = Annotated[str, Meta(max_length=64, pattern=r"^[A-Za-z0-9._:@+-]*$(?!\n)")]
Shares = Annotated[int, Meta(ge=1, le=1_000_000)]
Threads = Literal["prefer", "require", "isolate"]
Labels = Annotated[dict[Label, Label], Meta(max_length=64)]
Version = Annotated[int, Meta(ge=1, le=1_000_000)]
Value = Annotated[str, Meta(max_length=1024, pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$(?!\n)")]
Properties = Annotated[dict[Label, Value], Meta(max_length=64)]
HostNames = Annotated[tuple[HostName, ...], Meta(max_length=1024)]
Names = Annotated[tuple[Label, ...], Meta(max_length=256)]


def _version() -> int:  # a factory, because `omit_defaults` would leave a plain default off the wire
    return VERSION


class Record(Struct, kw_only=True, omit_defaults=True, tag_field="type"):
    """Base of every record: `type` says which, `v` in which version of the wire."""

    v: Version = field(default_factory=_version)


# --- hosts -----------------------------------------------------------------------------------------------------------------------------

Status = Literal["enabled", "disabled", "draining"]
State = Literal["leased", "active"]


class Device(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One device of a cell, given whole or, where it has several, by shares. The host's inventory counts its class in shares too."""

    id: Annotated[DeviceWord, Meta(min_length=1)]
    resource_class: ClassName = field(name="class")
    vendor: DeviceWord = ""
    product: DeviceWord = ""
    shares: Shares = 1


class HostCell(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One NUMA cell of a host: cpus that instances share, cpus that one instance has to itself, memory, pages (kB → how many), devices.

    `siblings` are the threads of one core each. One without cpus and memory stands for devices that are near no cell. `socket` −1: the
    cell is a socket of its own. `networks` are the physical ones it is near.
    """

    cpus: CpuList = ""
    cpus_dedicated: CpuList = ""
    siblings: Annotated[tuple[CpuList, ...], Meta(max_length=1024)] = ()
    memory_mb: Amount = 0
    pages: Annotated[dict[Annotated[int, Meta(ge=1, le=AMOUNT_MAX)], Amount], Meta(max_length=8)] = {}
    devices: Annotated[tuple[Device, ...], Meta(max_length=64)] = ()
    networks: Annotated[tuple[Label, ...], Meta(max_length=16)] = ()
    socket: Annotated[int, Meta(ge=-1, le=1024)] = -1

    def __post_init__(self) -> None:
        for text in (self.cpus, self.cpus_dedicated, *self.siblings):
            cpu_lists.parse(text)
        threads = [cpu for text in self.siblings for cpu in cpu_lists.parse(text)]
        if len(threads) != len(set(threads)):
            raise ValueError("siblings name a cpu twice")
        if len({device.id for device in self.devices}) != len(self.devices):
            raise ValueError("devices name an id twice")
        for device in self.devices:
            if device.resource_class in ("VCPU", "PCPU", "MEMORY_MB") or device.resource_class.startswith("PAGES_"):
                raise ValueError(f"a device cannot be of class {device.resource_class}")


HostCells = Annotated[dict[CellName, HostCell], Meta(max_length=16)]


class Assigned(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What an allocation has of one cell by number: its dedicated cpus, and the shares it has of each device."""

    cpus: CpuList = ""
    devices: Annotated[dict[DeviceWord, Shares], Meta(max_length=64)] = {}

    def __post_init__(self) -> None:
        cpu_lists.parse(self.cpus)


GroupPolicy = Literal["", "affinity", "anti-affinity", "soft-affinity", "soft-anti-affinity"]


class Whole(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What an allocation takes once the one that it replaces is gone."""

    resources: Asked
    cells: Cells = {}


class Allocation(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Resources held on a host by one instance; `leased` when claimed, `active` when confirmed.

    `id` is made by the replica that claims, unique for ever. `lease_ms` is the full length of the lease. `building` holds from the grant
    until the driver reports the instance up; `origin` is `found` for an instance that the driver met and no claim explains. `image`
    has its image's properties as `name=value`, where the profile weighs by them. `cells` says how much of which cell it takes,
    `assigned` which cpus and devices the ledger gave it there. One that `replaces` another of its instance takes, beside that one, only
    the difference; with its confirm the other goes, and it takes what it `becomes`. `policy` is that of its group, as its request named it.
    """

    id: Short
    request: Short = ""
    index: Annotated[int, Meta(ge=0, le=COUNT_MAX)] = 0
    instance: Short = ""
    flavor: Short = ""
    project: Short = ""
    user: Short = ""
    kind: Short = ""
    group: Short = ""
    resources: Asked
    cells: Cells = {}
    state: State = "leased"
    building: bool = False
    lease_ms: DurationMs = 0
    origin: Literal["claim", "found"] = "claim"
    image: Annotated[tuple[Short, ...], Meta(max_length=16)] = ()
    # None and not {}: few have any, and each would cost a dict
    assigned: Annotated[dict[CellName, Assigned], Meta(max_length=16)] | None = None
    replaces: Short = ""
    becomes: Whole | None = None
    policy: GroupPolicy = ""


Verdict = Literal[
    "granted", "rejected", "renewed", "confirmed", "released", "late", "ignored", "lapsed", "failed", "lost"
]
Reason = Literal["", "stale", "full", "constraint", "disabled", "expired", "version"]


class Settled(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What a ledger made of one claim record, or of a lease (`offset` −1: no record, the lease lapsed or the driver spoke)."""

    offset: Watermark
    verdict: Verdict
    reason: Reason = ""
    allocation: Short = ""
    detail: Short = ""


class Start(Record, tag="start", kw_only=True):
    """First record an agent writes for a host; its offset is the epoch and fences every earlier one. `removed`: the host was forgotten."""

    host: HostName
    agent: Short = ""
    nonce: Short = ""
    removed: bool = False


class Snapshot(Record, tag="snapshot", kw_only=True):
    """A host's full report."""

    host: Short
    epoch: Offset
    generation: Offset
    claims_topic: Short
    claims_through: Watermark
    hash: Hex16
    agent: Short = ""
    status: Status = "enabled"
    gap: bool = False
    inventory: Annotated[dict[ClassName, Inventory], Meta(max_length=32)]
    traits: Traits = ()
    labels: Labels = {}
    allocations: Annotated[list[Allocation], Meta(max_length=ALLOCATIONS_MAX)] = []
    settled: Annotated[list[Settled], Meta(max_length=SETTLED_MAX)] = []
    settled_omitted: Offset = 0
    load: Annotated[dict[Short, float], Meta(max_length=32)] = {}
    cells: HostCells = {}


class Delta(Record, tag="delta", kw_only=True):
    """The cumulative change since the snapshot `base_generation` of the same epoch: absolute values, absent means as in the snapshot."""

    host: Short
    epoch: Offset
    generation: Offset
    base_generation: Offset
    claims_topic: Short
    claims_through: Watermark
    hash: Hex16
    status: Status | None = None
    gap: bool | None = None
    inventory: Annotated[dict[ClassName, Inventory], Meta(max_length=32)] | None = None
    traits: Traits | None = None
    labels: Labels | None = None
    upserts: Annotated[list[Allocation], Meta(max_length=ALLOCATIONS_MAX)] = []
    removed: Annotated[list[Short], Meta(max_length=ALLOCATIONS_MAX)] = []
    settled: Annotated[list[Settled], Meta(max_length=SETTLED_MAX)] = []
    settled_omitted: Offset = 0
    load: Annotated[dict[Short, float], Meta(max_length=32)] = {}
    cells: HostCells | None = None


class HostDelta(Delta, tag="delta", kw_only=True):
    """A delta as it is folded: its upserts are bytes until somebody finds that they say something new."""

    upserts: Annotated[list[msgspec.Raw], Meta(max_length=ALLOCATIONS_MAX)] = []  # type: ignore[assignment]


# --- claims ----------------------------------------------------------------------------------------------------------------------------

Mode = Literal["strict", "fits", "renew"]


class Claim(Record, tag="claim", kw_only=True, forbid_unknown_fields=True):
    """Intent to allocate on a host, with all that the ledger must check; `renew` starts the lease of allocations it already holds anew.

    A maximum of 0 is no limit. `group_max` bounds the allocations of the same group on this host, the claimed one included. `threads`
    says how dedicated cpus are to lie; of a class in `shares` each device gives so many, else its shares may be split at will.
    Of each item of `traits_any_of` the host has one at least. `host_hash` is the hash of the host part that the ranking went by, ""
    where the claim holds whatever that is.
    """

    host: HostName
    request: Id
    replica: Short = ""
    mode: Mode = "strict"
    expected: Hex16 = "0000000000000000"
    lease_ms: DurationMs
    allocations: Annotated[list[Allocation], Meta(min_length=1, max_length=COUNT_MAX)]
    traits_required: Traits = ()
    traits_forbidden: Traits = ()
    group_max: Annotated[int, Meta(ge=0, le=ALLOCATIONS_MAX)] = 0
    builds_max: Annotated[int, Meta(ge=0, le=ALLOCATIONS_MAX)] = 0
    instances_max: Annotated[int, Meta(ge=0, le=ALLOCATIONS_MAX)] = 0
    threads: Threads = "prefer"
    shares: Annotated[dict[ClassName, Shares], Meta(max_length=32)] = {}
    traits_any_of: Annotated[tuple[Traits, ...], Meta(max_length=16)] = ()
    host_hash: Annotated[str, Meta(max_length=16, pattern=r"^([0-9a-f]{16})?$(?!\n)")] = ""


class Confirm(Record, tag="confirm", kw_only=True, forbid_unknown_fields=True):
    """Turns a leased allocation active; what an effective decision names, and nothing else, is ever confirmed."""

    host: HostName
    request: Id
    allocation: Id


class Release(Record, tag="release", kw_only=True, forbid_unknown_fields=True):
    """Gives an allocation back; with `leased_only` an active one is left alone."""

    host: HostName
    request: Id
    allocation: Id
    leased_only: bool = False


# --- requests --------------------------------------------------------------------------------------------------------------------------


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


# --- decisions -------------------------------------------------------------------------------------------------------------------------

Result = Literal["placed", "no_valid_host", "rejected", "expired", "passed"]

ID_REUSED = "id_reused"
"""Reason of a `rejected` that answers another content under a used id; never the effective decision."""

IMPOSSIBLE = "impossible"
"""Reason of a `no_valid_host` that stands whatever becomes free: a host, zone, trait, class or size that the pool does not have."""


class Position(Struct, frozen=True, gc=False):
    """Where a record stands in its topic."""

    partition: Offset
    offset: Offset


class Placed(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One instance of a placed decision; `grant` is the position on `hosts` of the report that shows the grant."""

    index: int = 0
    instance: Short
    host: Short
    allocation: Short
    grant: Position


class Miss(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The host that came closest, and by what it fell short (`resource` empty: it failed `filter` for another reason).

    `detail` beside a resource: what else it is short of.
    """

    host: Short
    filter: Short
    resource: Short = ""
    needed: int = 0
    had: int = 0
    detail: Text = ""


class Explanation(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """How many hosts were looked at and how many each filter turned away, in the order of the filters.

    `filters` counts a host at the first that turned it away, `without` at the only one: so many would do without that filter.
    `samples` has for each of `filters` the host that lacks least, `positions` the last offset read of each partition of `hosts`.
    """

    evaluated: int
    filters: dict[str, int] = {}
    without: dict[str, int] = {}
    closest: Miss | None = None
    samples: list[Miss] = []
    positions: dict[str, int] = {}


class Decision(Record, tag="decision", kw_only=True):
    """The one answer to a request, self-contained. Effective is the first in log order that is no `id_reused`.

    `content` is the digest of the request it answers; `confirm_within_ms` counts from the frontend's submit. `alternates` would have
    taken an instance as well, best first; nothing is claimed on them.
    """

    request: Short
    result: Result
    reason: Short = ""
    message: Text = ""
    content: Short = ""
    position: Position
    replica: Short = ""
    flavor: Short = ""
    count: int = 1
    project: Short = ""
    user: Short = ""
    group: Short = ""
    resources: Asked = {}
    placed: Annotated[list[Placed], Meta(max_length=COUNT_MAX)] = []
    confirm_within_ms: DurationMs = 0
    attempts: int = 0
    conflicts: int = 0
    explanation: Explanation | None = None
    stages_ms: dict[str, float] = {}
    alternates: Annotated[tuple[Short, ...], Meta(max_length=ALTERNATES_MAX)] = ()


# --- control ---------------------------------------------------------------------------------------------------------------------------


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


# --- replicas, quarantine --------------------------------------------------------------------------------------------------------------


class ReplicaReport(Record, tag="replica", kw_only=True):
    """A replica's registration and cycle report; it counts as alive while its newest report is younger than the liveness timeout."""

    replica: Short
    state: Literal["catching_up", "ready", "leaving"] = "catching_up"
    partitions: list[int] = []
    hosts: int = 0
    decisions: int = 0
    conflict_fraction: float = 0.0
    digest: Short = ""
    positions: dict[str, int] = {}


class Quarantined(Record, tag="quarantined", kw_only=True):
    """A record that could not be used: where it stands, why, and the first bytes of it in base64."""

    topic: Short
    partition: Offset
    offset: Offset
    reason: Text
    by: Short = ""
    key: Text = ""
    sample: Annotated[str, Meta(max_length=2048)] = ""


HostRecord = Start | Snapshot | Delta
HostReport = Start | Snapshot | HostDelta
ClaimRecord = Claim | Confirm | Release
RequestRecord = Build | Cancel
ControlRecord = Flavor | Profile | Aggregate | HostControl | Routing

TOPIC_RECORDS: dict[str, Any] = {
    "hosts": HostRecord,
    "claims": ClaimRecord,
    "requests": RequestRecord,
    "decisions": Decision,
    "control": ControlRecord,
    "replicas": ReplicaReport,
    "quarantine": Quarantined,
}
"""What each topic holds; `commands` has no records yet."""
