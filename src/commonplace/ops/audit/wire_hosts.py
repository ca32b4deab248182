"""Records of hosts and claims, as the audit reads them: what a host has and holds, its reports, and what is asked of its ledger."""

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from commonplace.ops.audit.wire_terms import (
    INTEGER_MAX,
    Amounts,
    CellName,
    Cells,
    CpuList,
    DeviceWord,
    Hash,
    HostName,
    Id,
    Integer,
    Label,
    Labels,
    Limit,
    Millis,
    Names,
    Shares,
    Status,
    Text128,
    Traits,
    Upper64,
    Watermark,
    numbers,
)


class Item(Struct, frozen=True, gc=False):
    """Inventory of one class."""

    total: Integer
    reserved: Integer = 0
    allocation_ratio_thousandths: Annotated[int, Meta(ge=1, le=1_000_000_000)] = 1000
    min_unit: Annotated[int, Meta(ge=1, le=INTEGER_MAX)] = 1
    max_unit: Integer = 0
    step_size: Annotated[int, Meta(ge=1, le=INTEGER_MAX)] = 1


class Device(Struct, kw_only=True, frozen=True, gc=False):
    """One device of a cell."""

    id: Annotated[DeviceWord, Meta(min_length=1)]
    kind: Upper64 = field(name="class")
    vendor: DeviceWord = ""
    product: DeviceWord = ""
    shares: Shares = 1


class HostCell(Struct, kw_only=True, frozen=True):
    """One NUMA cell of a host."""

    cpus: CpuList = ""
    cpus_dedicated: CpuList = ""
    siblings: Annotated[tuple[CpuList, ...], Meta(max_length=1024)] = ()
    memory_mb: Integer = 0
    pages: Annotated[dict[Annotated[int, Meta(ge=1, le=INTEGER_MAX)], Integer], Meta(max_length=8)] = {}
    devices: Annotated[tuple[Device, ...], Meta(max_length=64)] = ()
    networks: Annotated[tuple[Label, ...], Meta(max_length=16)] = ()
    socket: Annotated[int, Meta(ge=-1, le=1024)] = -1

    def __post_init__(self) -> None:
        threads = [cpu for text in self.siblings for cpu in numbers(text)]
        ids = [device.id for device in self.devices]
        numbers(self.cpus), numbers(self.cpus_dedicated)
        if len(set(threads)) < len(threads) or len(set(ids)) < len(ids):
            raise ValueError("a thread or a device is named twice")
        if any(d.kind in ("VCPU", "PCPU", "MEMORY_MB") or d.kind.startswith("PAGES_") for d in self.devices):
            raise ValueError("a class that no device can be of")


HostCells = Annotated[dict[CellName, HostCell], Meta(max_length=16)]


class Assigned(Struct, kw_only=True, frozen=True, gc=False):
    """What an allocation has of a cell by number."""

    cpus: CpuList = ""
    devices: Annotated[dict[DeviceWord, Shares], Meta(max_length=64)] = {}

    def __post_init__(self) -> None:
        numbers(self.cpus)


class Whole(Struct, frozen=True, gc=False):
    """What an allocation takes once the one it replaces is gone."""

    resources: Amounts
    cells: Cells = {}


class Allocation(Struct, kw_only=True, frozen=True, gc=False):
    """What the audit wants to know of an allocation."""

    id: Text128
    request: Text128 = ""
    index: Annotated[int, Meta(ge=0, le=256)] = 0
    instance: Text128 = ""
    flavor: Text128 = ""
    project: Text128 = ""
    user: Text128 = ""
    kind: Text128 = ""
    group: Text128 = ""
    resources: Amounts
    cells: Cells = {}
    state: Literal["leased", "active"] = "leased"
    building: bool = False
    lease_ms: Millis = 0
    origin: Literal["claim", "found"] = "claim"
    assigned: Annotated[dict[CellName, Assigned], Meta(max_length=16)] | None = None
    replaces: Text128 = ""
    becomes: Whole | None = None


Allocations = Annotated[list[Allocation], Meta(max_length=1000)]


class Settled(Struct, frozen=True, gc=False):
    """One settled entry of a report."""

    offset: Watermark
    verdict: Literal[
        "granted", "rejected", "renewed", "confirmed", "released", "late", "ignored", "lapsed", "failed", "lost"
    ]
    reason: Literal["", "stale", "full", "constraint", "disabled", "expired", "version"] = ""
    allocation: Text128 = ""


SettledList = Annotated[list[Settled], Meta(max_length=256)]
Inventory = Annotated[dict[Upper64, Item], Meta(max_length=32)]


class Start(Struct, tag="start", tag_field="type", kw_only=True):
    """Start record of a host."""

    v: int = 1
    host: HostName
    removed: bool = False


class Snapshot(Struct, tag="snapshot", tag_field="type", kw_only=True):
    """Full report."""

    v: int = 1
    host: Text128
    epoch: Integer
    generation: Integer
    claims_topic: Text128
    claims_through: Watermark
    hash: Hash
    status: Status = "enabled"
    gap: bool = False
    inventory: Inventory
    traits: Traits = ()
    labels: Labels = {}
    allocations: Allocations = []
    settled: SettledList = []
    settled_omitted: Integer = 0
    cells: HostCells = {}


class Delta(Struct, tag="delta", tag_field="type", kw_only=True):
    """Cumulative change since a snapshot."""

    v: int = 1
    host: Text128
    epoch: Integer
    generation: Integer
    base_generation: Integer
    claims_topic: Text128
    claims_through: Watermark
    hash: Hash
    status: Status | None = None
    gap: bool | None = None
    inventory: Inventory | None = None
    traits: Traits | None = None
    labels: Labels | None = None
    upserts: Allocations = []
    removed: Names = []
    settled: SettledList = []
    settled_omitted: Integer = 0
    cells: HostCells | None = None


class Claim(Struct, tag="claim", tag_field="type", kw_only=True, forbid_unknown_fields=True):
    """Intent to allocate."""

    v: int = 1
    host: HostName
    request: Id
    replica: Text128 = ""
    mode: Literal["strict", "fits", "renew"] = "strict"
    expected: Hash = "0000000000000000"
    lease_ms: Millis
    allocations: Annotated[list[Allocation], Meta(min_length=1, max_length=256)]
    traits_required: Traits = ()
    traits_forbidden: Traits = ()
    group_max: Limit = 0
    builds_max: Limit = 0
    instances_max: Limit = 0
    threads: Literal["prefer", "require", "isolate"] = "prefer"
    shares: Annotated[dict[Upper64, Shares], Meta(max_length=32)] = {}
    traits_any_of: Annotated[tuple[Traits, ...], Meta(max_length=16)] = ()
    host_hash: Annotated[str, Meta(max_length=16, pattern=r"\A([0-9a-f]{16})?\Z")] = ""


class Confirm(Struct, tag="confirm", tag_field="type", kw_only=True, forbid_unknown_fields=True):
    """Confirm of an allocation."""

    v: int = 1
    host: HostName
    request: Id
    allocation: Id


class Release(Struct, tag="release", tag_field="type", kw_only=True, forbid_unknown_fields=True):
    """Release of an allocation."""

    v: int = 1
    host: HostName
    request: Id
    allocation: Id
    leased_only: bool = False
