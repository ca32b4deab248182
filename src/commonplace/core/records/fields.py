"""Fields of records: their types, with bounds, and the base of every record."""

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from commonplace.core.resources import AMOUNT_MAX, Amount

VERSION = 1
"""Version of the wire that this code writes; it reads all up to it."""

RECORD_BYTES_MAX = 1_000_000
"""Largest record read or written, in bytes: below the broker's default `message.max.bytes` of 1,048,588."""

ALLOCATIONS_MAX = 1_000
"""Most allocations one host report carries: at ~300 bytes each a snapshot stays under a third of RECORD_BYTES_MAX."""

TRAITS_MAX = 256
"""Most traits one record names."""

COUNT_MAX = 256
"""Most instances one request asks for: its decision names each of them in one record."""

ALTERNATES_MAX = 16
"""Most hosts that one decision names besides those it chose: who has tried so many asks anew."""

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
