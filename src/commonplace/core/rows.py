"""Rows of the view: a host's folded state, and the replica's own pending claims laid over it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from msgspec import Struct

from commonplace.core import hashing
from commonplace.core.cells import Cells, after
from commonplace.core.hosts import HostState
from commonplace.core.records.control import HostControl
from commonplace.core.records.hosts import Assigned
from commonplace.core.resources import Resources


class Row:
    """One host of the view: its folded state, its row in the columns and the pending claims laid over it, in the order they were sent."""

    __slots__ = (
        "claimed", "control", "host", "index", "offset", "partition", "pending", "pending_hash", "renewals", "stamp", "stamped", "written"
    )  # fmt: skip

    def __init__(self, host: HostState, index: int, partition: int) -> None:
        self.host, self.index, self.partition = host, index, partition
        self.offset = -1  # of the last record applied
        self.pending = NONE_PENDING
        self.claimed = NOTHING_CLAIMED  # what the pending claims take together, by class
        self.renewals = NONE_PENDING  # renewals without an answer; they lay nothing over the host
        self.pending_hash = 0
        self.written = True  # the columns hold what the state and the overlay say
        self.stamp, self.stamped = 0, True  # its share of the state digest; whether that is up to date
        self.control: HostControl | None = None

    @property
    def predicted_hash(self) -> int:
        """The host's hash once every pending claim is granted: what the next strict claim expects."""
        return (self.host.hash + self.pending_hash) & hashing.MASK

    @property
    def cells(self) -> Cells:
        """The host's cells, with what every pending claim will hold of them once granted."""
        cells = self.host.cells
        for overlay in self.pending if cells else ():
            if overlay.cells:
                cells = after(cells, overlay.cells, overlay.assigned, 1)
        return cells

    @contextmanager
    def without_claims(self) -> Iterator[None]:
        """The host as if its pending claims had failed, for those who ask it one by one; columns and groups stay as they are."""
        pending, self.pending = self.pending, []
        try:
            yield
        finally:
            self.pending = pending

    @property
    def status(self) -> str:
        """The stricter of what the host reports and what operators say."""
        if self.control is not None and self.control.status != "enabled":
            return self.control.status
        return self.host.status


class Overlay(Struct, eq=False):
    """What a pending claim will take from a host once granted; whoever claims adds what it must remember of the claim.

    `assigned` is what the ledger will give by number unless the host changes before.
    """

    allocation_id: str
    resources: Resources
    group: str
    hash: int
    cells: Mapping[str, Resources] | None = None
    assigned: Mapping[str, Assigned] | None = None


NONE_PENDING: Final[list[Overlay]] = []
NOTHING_CLAIMED: Final[dict[str, int]] = {}
"""Shared by all hosts with no claims on their way; never changed in place."""
