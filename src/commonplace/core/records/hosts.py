"""What agents write of a host: start records, snapshots and deltas, with the allocations that the host holds."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct, field

from commonplace.core import cpu_lists
from commonplace.core.records.fields import (
    ALLOCATIONS_MAX,
    COUNT_MAX,
    Asked,
    CellName,
    Cells,
    ClassName,
    CpuList,
    DeviceWord,
    DurationMs,
    Hex16,
    HostName,
    Label,
    Labels,
    Offset,
    Record,
    Shares,
    Short,
    Traits,
    Watermark,
)
from commonplace.core.resources import AMOUNT_MAX, Amount, Inventory

SETTLED_MAX = 256
"""Most settled claims one report lists; the rest is counted in `settled_omitted`."""

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


HostRecord = Start | Snapshot | Delta
HostReport = Start | Snapshot | HostDelta
