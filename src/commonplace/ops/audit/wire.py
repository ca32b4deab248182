"""The audit's own reading of the wire, written from docs/protocol.md and sharing no code with the scheduler.

Only what the audit judges is declared; other fields of state records are ignored, as the page says. Requests and claims refuse fields
that the page does not name, because such a record must have been quarantined.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, field

VERSION = 1
RECORD_BYTES_MAX = 1_000_000
INTEGER_MAX = 2**53 - 1

Text128 = Annotated[str, Meta(max_length=128)]
HostName = Annotated[str, Meta(max_length=128, pattern=r"\A[A-Za-z0-9][A-Za-z0-9._:-]*\Z")]
Id = Annotated[str, Meta(max_length=128, pattern=r"\A[A-Za-z0-9][A-Za-z0-9._:@+-]*\Z")]
Label = Annotated[str, Meta(max_length=128, pattern=r"\A[^\x00-\x1f\x7f-\x9f\u2028\u2029]*\Z")]
Upper64 = Annotated[str, Meta(max_length=64, pattern=r"\A[A-Z][A-Z0-9_]*\Z")]
Upper128 = Annotated[str, Meta(max_length=128, pattern=r"\A[A-Z][A-Z0-9_]*\Z")]
Hash = Annotated[str, Meta(pattern=r"\A[0-9a-f]{16}\Z")]
Integer = Annotated[int, Meta(ge=0, le=INTEGER_MAX)]
Watermark = Annotated[int, Meta(ge=-1, le=INTEGER_MAX)]
Millis = Annotated[int, Meta(ge=0, le=604_800_000)]
Limit = Annotated[int, Meta(ge=0, le=1000)]
Traits = Annotated[tuple[Upper128, ...], Meta(max_length=256)]
Amounts = Annotated[dict[Text128, Integer], Meta(max_length=32)]
Cells = Annotated[dict[Text128, Amounts], Meta(max_length=16)]
Names = Annotated[list[Text128], Meta(max_length=1000)]
Labels = Annotated[dict[Label, Label], Meta(max_length=64)]
Text1024 = Annotated[str, Meta(max_length=1024, pattern=r"\A[^\x00-\x1f\x7f-\x9f\u2028\u2029]*\Z")]
Texts = Annotated[dict[Label, Text1024], Meta(max_length=64)]
Hints = Annotated[
    dict[Label, Annotated[tuple[Annotated[str, Meta(max_length=4096)], ...], Meta(max_length=64)]], Meta(max_length=16)
]


def _written() -> int:  # a factory, because `omit_defaults` would leave a plain default out of the digest
    return VERSION


CellName = Annotated[str, Meta(max_length=32, pattern=r"\A[A-Za-z0-9][A-Za-z0-9._-]*\Z")]
CpuList = Annotated[str, Meta(max_length=4096, pattern=r"\A([0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*)?\Z")]
DeviceWord = Annotated[str, Meta(max_length=64, pattern=r"\A[A-Za-z0-9._:@+-]*\Z")]
Shares = Annotated[int, Meta(ge=1, le=1_000_000)]
CPU_MAX = 4095


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


def numbers(text: str) -> frozenset[int]:
    """The cpus of a list; ValueError when one is too large or a range runs backwards."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        ends = [int(end) for end in part.split("-")]
        if ends != sorted(ends) or ends[-1] > CPU_MAX:
            raise ValueError(f"cpus {part[:20]}")
        found |= set(range(ends[0], ends[-1] + 1))
    return frozenset(found)


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
Status = Literal["enabled", "disabled", "draining"]


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


class Build(Struct, tag="build", tag_field="type", kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Build request. The order of the fields is that of the page: the digest is taken over the record encoded anew."""

    v: int = field(default_factory=_written)
    id: Id
    flavor: Id
    count: Annotated[int, Meta(ge=1, le=256)] = 1
    project: Label = ""
    user: Label = ""
    kind: Label = "build"
    group: Label = ""
    group_max: Limit = 0
    instances: Annotated[tuple[Id, ...], Meta(max_length=256)] = ()
    traits_required: Traits = ()
    traits_forbidden: Traits = ()
    deadline_ms: Millis = 0
    lease_ms: Millis = 0
    traits_any_of: Annotated[tuple[Traits, ...], Meta(max_length=16)] = ()
    group_policy: Literal["", "affinity", "anti-affinity", "soft-affinity", "soft-anti-affinity"] = ""
    profile: Annotated[str, Meta(max_length=128, pattern=r"\A([A-Za-z0-9][A-Za-z0-9._:@+-]*)?\Z")] = ""
    host: Annotated[str, Meta(max_length=128, pattern=r"\A([A-Za-z0-9][A-Za-z0-9._:-]*)?\Z")] = ""
    hosts_ignored: Annotated[tuple[HostName, ...], Meta(max_length=256)] = ()
    zone: Label = ""
    member_of: Annotated[tuple[Text1024, ...], Meta(max_length=16)] = ()
    image: Label = ""
    image_properties: Texts = {}
    hints: Hints = {}
    cell: Label = ""
    networks: Annotated[tuple[Label, ...], Meta(max_length=16)] = ()
    spread_over: Label = ""
    max_skew: Limit = 0
    count_min: Annotated[int, Meta(ge=0, le=256)] = 0
    alternates: Annotated[int, Meta(ge=0, le=16)] = 0
    boot_from_volume: bool = False
    priority: Annotated[int, Meta(ge=0, le=100)] = 0
    rebuild_check: bool = False
    source: Annotated[str, Meta(max_length=128, pattern=r"\A([A-Za-z0-9][A-Za-z0-9._:-]*)?\Z")] = ""


class Cancel(Struct, tag="cancel", tag_field="type", kw_only=True, forbid_unknown_fields=True):
    """Withdrawal of a request."""

    v: int = 1
    id: Id
    flavor: Id
    group: Label = ""


class Position(Struct, frozen=True, gc=False):
    """Place of a record in its topic."""

    partition: Integer
    offset: Integer


class Placed(Struct, kw_only=True, frozen=True, gc=False):
    """One placed instance."""

    index: int = 0
    instance: Text128
    host: Text128
    allocation: Text128
    grant: Position


class Decision(Struct, tag="decision", tag_field="type", kw_only=True):
    """Answer to a request."""

    v: int = 1
    request: Text128
    result: Literal["placed", "no_valid_host", "rejected", "expired", "passed"]
    reason: Text128 = ""
    content: Text128 = ""
    position: Position
    count: int = 1
    placed: Annotated[list[Placed], Meta(max_length=256)] = []


class Quarantined(Struct, tag="quarantined", tag_field="type", kw_only=True):
    """Notice of a record that could not be used."""

    v: int = 1
    topic: Text128
    partition: Integer
    offset: Integer
    by: Text128 = ""


class Flavor(Struct, tag="flavor", tag_field="type", kw_only=True):
    """Control record of a flavor; judged only for being readable."""

    v: int = 1
    name: Id
    resources: Annotated[dict[Upper64, Integer], Meta(min_length=1, max_length=32)]
    traits_required: Traits = ()
    traits_forbidden: Traits = ()
    spread: Annotated[int, Meta(ge=1, le=1024)] = 1


class Profile(Struct, tag="profile", tag_field="type", kw_only=True):
    """Control record of a profile; judged only for being readable."""

    v: int = 1
    name: Id
    weighers: Annotated[dict[Label, float], Meta(max_length=32)] = {}


class Aggregate(Struct, tag="aggregate", tag_field="type", kw_only=True):
    """Control record of an aggregate: the hosts that it lists, and the labels that others are in it by."""

    v: int = 1
    name: Label
    hosts: Annotated[tuple[HostName, ...], Meta(max_length=4000)] = ()
    labels: dict[Label, Label] = {}


class HostControl(Struct, tag="host", tag_field="type", kw_only=True):
    """Control record of a host; judged only for being readable."""

    v: int = 1
    name: HostName
    status: Status = "enabled"


class Routing(Struct, tag="routing", tag_field="type", kw_only=True):
    """Control record that routes flavors; judged only for being readable."""

    v: int = 1
    pools: dict[Id, Id] = {}
    before: dict[Id, tuple[Id, ...]] = {}


class Broken(Struct, frozen=True):
    """A record that cannot be used, and why; `newer`: of a later version, which is nobody's fault."""

    reason: str
    newer: bool = False


class _Envelope(Struct):
    v: int = 0


_KINDS: dict[str, Any] = {
    "hosts": Start | Snapshot | Delta,
    "claims": Claim | Confirm | Release,
    "requests": Build | Cancel,
    "decisions": Decision,
    "control": Flavor | Profile | Aggregate | HostControl | Routing,
    "quarantine": Quarantined,
}
_decoders = {topic: msgspec.json.Decoder(kind) for topic, kind in _KINDS.items()}
_envelope = msgspec.json.Decoder(_Envelope)
_errors = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)


def read(topic: str, raw: bytes) -> Any:
    """One record of `topic`, or Broken; raises nothing."""
    if len(raw) > RECORD_BYTES_MAX:
        return Broken(f"{len(raw)} bytes, at most {RECORD_BYTES_MAX} are read")
    try:
        record = _decoders[topic].decode(raw)
    except _errors as error:
        return Broken(str(error)[:200], _version(raw) > VERSION)
    if record.v != VERSION:
        return Broken(f"version {record.v}", record.v > VERSION)
    return record


def _version(raw: bytes) -> int:
    try:
        return _envelope.decode(raw).v
    except _errors:
        return 0
