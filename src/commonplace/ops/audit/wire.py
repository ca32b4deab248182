"""The audit's own reading of the wire, written from docs/protocol.md and sharing no code with the scheduler.

Only what the audit judges is declared; other fields of state records are ignored, as the page says. Requests and claims refuse fields
that the page does not name, because such a record must have been quarantined.
"""

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from commonplace.ops.audit.wire_hosts import Claim, Confirm, Delta, Release, Snapshot, Start
from commonplace.ops.audit.wire_requests import Build, Cancel, Decision
from commonplace.ops.audit.wire_terms import VERSION, HostName, Id, Integer, Label, Status, Text128, Traits, Upper64

RECORD_BYTES_MAX = 1_000_000


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
