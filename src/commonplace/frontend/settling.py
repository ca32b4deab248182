"""What became of confirms and releases, read from the host's own reports (rule 4: verdict by watermark).

A report whose `claims_through` reaches the record's offset has taken it into account: it names the verdict among what it
settled, or shows the allocation as it is now. No I/O; the caller feeds it the host's partition from before the record.
"""

from typing import Literal

from msgspec import Struct

from commonplace.core import hosts
from commonplace.core.codec import Bad, decode_allocation
from commonplace.core.host_keys import parse_key
from commonplace.core.partition import partition_of
from commonplace.core.records.hosts import Allocation, HostDelta, Settled, Snapshot, Start
from commonplace.frontend.events import Rows


class Confirmed(Struct, frozen=True):
    """The allocation is active: the host keeps it until it is released."""

    host: str
    allocation: str


class TooLate(Struct, frozen=True):
    """The host does not hold the allocation any more: it lapsed, was released, or failed."""

    host: str
    allocation: str
    detail: str = ""


class Released(Struct, frozen=True):
    """The host does not hold the allocation."""

    host: str
    allocation: str


Outcome = Confirmed | TooLate | Released


class Watched(Struct, frozen=True):
    """A confirm or release that stands in the log at `offset` of the host's claims partition."""

    what: Literal["confirm", "release"]
    host: str
    allocation: str
    offset: int


class Settling:
    """Waits for the outcome of some confirms and releases; `receive` takes reports, `outcomes` fills."""

    def __init__(self, watched: list[Watched], claims_topic: str, partitions: int) -> None:
        self.outcomes: dict[str, Outcome] = {}  # by allocation
        self._watched = {w.allocation: w for w in watched}
        self._partitions = {w.host: partition_of(w.host, partitions) for w in watched}
        self._epochs: dict[str, int] = {}  # highest seen; a zombie agent's reports say nothing
        self._claims_topic = claims_topic

    @property
    def done(self) -> bool:
        """Whether every outcome is known."""
        return len(self.outcomes) == len(self._watched)

    @property
    def open_hosts(self) -> list[str]:
        """Hosts that have not answered."""
        return sorted({w.host for a, w in self._watched.items() if a not in self.outcomes})

    def receive(self, partition: int, rows: Rows) -> None:
        """Take records of one partition of `hosts`, in log order; those of hosts of other partitions are none of theirs."""
        for offset, _, key, value in rows:
            parsed = parse_key(key)
            if parsed is None or self._partitions.get(parsed.host) != partition or value is None:
                continue
            record = hosts.read(parsed, offset, value)
            if not isinstance(record, Bad):
                self._report(record, offset)

    def _report(self, record: Start | Snapshot | HostDelta, offset: int) -> None:
        epoch = offset if isinstance(record, Start) else record.epoch
        if epoch < self._epochs.get(record.host, -1):
            return
        self._epochs[record.host] = epoch
        if isinstance(record, Start) or record.claims_topic != self._claims_topic:
            return
        for watched in self._watched.values():
            if watched.host == record.host and watched.allocation not in self.outcomes:
                outcome = _outcome(watched, record)
                if outcome is not None:
                    self.outcomes[watched.allocation] = outcome


def _outcome(watched: Watched, report: Snapshot | HostDelta) -> Outcome | None:
    """What the report says of the record, or None: not reached yet, or silent (its list of settled ones is bounded)."""
    if report.claims_through < watched.offset:
        return None
    for settled in report.settled:
        if settled.offset == watched.offset and settled.allocation == watched.allocation:
            return _by_verdict(watched, settled)
    return _by_state(watched, _state(watched.allocation, report))


def _by_verdict(watched: Watched, settled: Settled) -> Outcome | None:
    match watched.what, settled.verdict:
        case "confirm", "confirmed" | "ignored":  # ignored: it was active before
            return Confirmed(watched.host, watched.allocation)
        case "confirm", "late":
            return TooLate(watched.host, watched.allocation, settled.detail)
        case "release", "released" | "ignored":  # ignored: it was gone before; what was found is never asked for
            return Released(watched.host, watched.allocation)
    return None


def _by_state(watched: Watched, state: str) -> Outcome | None:
    match watched.what, state:
        case "confirm", "active":
            return Confirmed(watched.host, watched.allocation)
        case "confirm", "gone":
            return TooLate(watched.host, watched.allocation)
        case "release", "gone":
            return Released(watched.host, watched.allocation)
    return None


def _state(allocation: str, report: Snapshot | HostDelta) -> str:
    """How the allocation stands by this report alone: a state, "gone", or "" where only its snapshot would say."""
    if isinstance(report, Snapshot):
        listed: list[Allocation | Bad] = list(report.allocations)
    else:
        listed = [decode_allocation(bytes(raw)) for raw in report.upserts]
    for held in listed:
        if not isinstance(held, Bad) and held.id == allocation:
            return held.state
    if isinstance(report, Snapshot) or allocation in report.removed:
        return "gone"
    return ""
