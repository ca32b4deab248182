"""Records of requests and decisions, as the audit reads them."""

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from commonplace.ops.audit.wire_terms import (
    VERSION,
    Hints,
    HostName,
    Id,
    Integer,
    Label,
    Limit,
    Millis,
    Text128,
    Text1024,
    Texts,
    Traits,
)


def _written() -> int:  # a factory, because `omit_defaults` would leave a plain default out of the digest
    return VERSION


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
