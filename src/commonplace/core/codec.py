"""Bytes to records and back: the one place where what anybody may have written is decoded."""

from typing import Any

import msgspec
from msgspec import Struct

from commonplace.core.complaints import complaint
from commonplace.core.records.fields import RECORD_BYTES_MAX, VERSION
from commonplace.core.records.hosts import Allocation, HostReport
from commonplace.core.records.topics import TOPIC_RECORDS
from commonplace.core.resources import AMOUNT_MAX


class Bad(Struct, frozen=True):
    """A record that cannot be used, and why; `newer` when its version is above ours."""

    reason: str
    newer: int = 0


class _Envelope(Struct):
    v: int = 0


REPORTS = "reports"
"""What `decode` takes for `hosts` to leave the upserts of deltas as bytes."""

_encoder = msgspec.json.Encoder()
_decoders: dict[str, msgspec.json.Decoder[Any]] = {
    topic: msgspec.json.Decoder(kind) for topic, kind in {**TOPIC_RECORDS, REPORTS: HostReport}.items()
}
_allocation_decoder = msgspec.json.Decoder(Allocation)
_envelope = msgspec.json.Decoder(_Envelope)
_decode_errors = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)

encode = _encoder.encode


def decode(topic: str, raw: bytes) -> Any:
    """Decode one record of `topic` ("hosts", "claims", …), or say in a `Bad` why not; raises nothing, whatever the bytes.

    RecursionError (deep nesting, also inside ignored fields) and UnicodeDecodeError are no MsgspecErrors (measured, msgspec 0.22).
    """
    if len(raw) > RECORD_BYTES_MAX:
        return Bad(f"record of {len(raw)} bytes, at most {RECORD_BYTES_MAX} are read")
    try:
        record = _decoders[topic].decode(raw)
    except _decode_errors as error:
        newer = _newer(raw)
        return Bad(
            f"version {newer} is newer than {VERSION}" if newer else f"not a {_topic(topic)} record: {_said(error)}",
            newer,
        )
    if record.v > VERSION:
        return Bad(f"version {record.v} is newer than {VERSION}", record.v)
    return record


def _topic(name: str) -> str:
    return "hosts" if name == REPORTS else name


def decode_allocation(raw: bytes) -> "Allocation | Bad":
    """Decode one upsert of a `HostDelta`, or say in a `Bad` why not; raises nothing, whatever the bytes."""
    try:
        return _allocation_decoder.decode(raw)
    except _decode_errors as error:
        return Bad(f"not a hosts record: in its upserts: {_said(error)}")


def _said(error: Exception) -> str:
    """A decoder's complaint, bounded and fit for terminals: it quotes the record, which may hold a megabyte of anything."""
    said = complaint(str(error)[:512])
    return said if said.isprintable() else "".join(c if c.isprintable() else "?" for c in said)


def _newer(raw: bytes) -> int:
    """The version of a record that did not decode, when it is above ours, else 0."""
    try:
        version = _envelope.decode(raw).v
    except _decode_errors:
        return 0
    return version if VERSION < version <= AMOUNT_MAX else 0
