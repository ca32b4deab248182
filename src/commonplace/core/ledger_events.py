"""What a ledger takes and what it says: its events, the changes that follow from them, its bounds."""

from collections.abc import Mapping
from typing import Annotated, Final

from msgspec import Meta, Struct

from commonplace.core import hashing
from commonplace.core.records.claims import Claim, Confirm, Release
from commonplace.core.records.fields import CellName, ClassName, Id, Label
from commonplace.core.records.hosts import SETTLED_MAX, Allocation, Assigned, HostCell, Reason, Status
from commonplace.core.resources import Amount, Inventory

FOUND_PREFIX: Final = "found:"
"""Allocation ids of found instances begin with it, and no claim's may."""


class Bounds(Struct, frozen=True, kw_only=True):
    """What one ledger grants and tells at most."""

    lease_ms_max: int = 3_600_000
    """A claim that asks for a longer lease gets this one."""
    report_bytes_max: int = 900_000
    """A grant whose snapshot would be larger is rejected as full."""
    settled_max: int = SETTLED_MAX
    """Settled claims that one report lists; the rest is counted."""

    @property
    def allocation_bytes_max(self) -> int:
        """The allocations' share of a snapshot: 200 KB are kept for its settled claims, inventory, traits and labels."""
        return max(0, self.report_bytes_max - 200_000)


class Taken(Struct, frozen=True, gc=False):
    """A record of the claims partition, as the ledger takes it: with its offset and log time."""

    offset: int
    log_time_ms: int
    record: Claim | Confirm | Release


class Unreadable(Struct, frozen=True, gc=False):
    """A record for this host at `offset` that this version cannot judge; it can grant nothing."""

    offset: int
    reason: Reason = "version"


class Lapse(Struct, frozen=True, gc=False):
    """The lease of an allocation ran out, and the claims were read to an end captured after that."""

    allocation: str
    asked_at_ms: int


class Up(Struct, frozen=True, gc=False):
    """The driver reports an instance up."""

    allocation: str


class Failed(Struct, frozen=True, gc=False):
    """The driver could not bring an instance up, or it died."""

    allocation: str
    why: str = ""


class Found(Struct, frozen=True, kw_only=True, gc=False, forbid_unknown_fields=True):
    """The driver found an instance running that it was not told to start; it counts unless an allocation explains it."""

    instance: Id
    resources: Annotated[dict[ClassName, Amount], Meta(max_length=32)]
    cells: Annotated[dict[CellName, Annotated[dict[ClassName, Amount], Meta(max_length=32)]], Meta(max_length=16)] = {}
    assigned: Annotated[dict[CellName, Assigned], Meta(max_length=16)] | None = None
    project: Label = ""
    user: Label = ""
    kind: Label = ""
    flavor: Label = ""
    group: Label = ""


class Gone(Struct, frozen=True, gc=False):
    """The instance ran, and does no more, though nobody stopped it."""

    instance: str


class Configure(Struct, frozen=True, gc=False):
    """What the host is, from its driver and its operators; None leaves as it was."""

    inventory: Mapping[str, Inventory] | None = None
    traits: tuple[str, ...] | None = None
    labels: Mapping[str, str] | None = None
    status: Status | None = None
    gap_cleared: bool = False
    cells: Mapping[str, HostCell] | None = None


Event = Taken | Unreadable | Lapse | Up | Failed | Found | Gone | Configure


class Change(Struct, frozen=True, gc=False):
    """An allocation before and after an event, for whoever runs instances."""

    before: Allocation | None
    after: Allocation | None


def found_id(instance: str) -> str:
    """Allocation id of an instance that the driver found: a name space of its own, so that it never meets a replica's.

    A name that would pass the bound of an id ends in its digest, so that two of them never become one.
    """
    if len(FOUND_PREFIX) + len(instance) <= 128:
        return FOUND_PREFIX + instance
    return f"{FOUND_PREFIX}{instance[:96]}~{hashing.digest64(instance.encode()):016x}"
