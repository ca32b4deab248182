"""What is asked of a host's ledger: claims, confirms and releases."""

from typing import Annotated, Literal

from msgspec import Meta

from commonplace.core.records.fields import (
    ALLOCATIONS_MAX,
    COUNT_MAX,
    ClassName,
    DurationMs,
    Hex16,
    HostName,
    Id,
    Record,
    Shares,
    Short,
    Threads,
    Traits,
)
from commonplace.core.records.hosts import Allocation

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


ClaimRecord = Claim | Confirm | Release
