"""What the keeper of ledgers takes in and what it asks to be done: its events, effects and settings."""

import base64
from collections.abc import Mapping, Sequence

from msgspec import Struct

from commonplace.core.ledger_events import Bounds, Configure, Failed, Found, Gone, Up
from commonplace.core.records.control import HostControl
from commonplace.core.records.hosts import Allocation, HostCell
from commonplace.core.records.quarantine import Quarantined
from commonplace.core.resources import Inventory

Raw = tuple[int, int, bytes | None, bytes | None]
"""One record as read: offset, log time in ms, key, value."""


class KeeperSettings(Struct, frozen=True, kw_only=True):
    """Intervals in ms of the agent's clock, and bounds."""

    snapshot_interval_ms: int = 300_000
    snapshot_jitter: float = 0.1
    heartbeat_interval_ms: int = 20_000
    delta_allocations_max: int = 24
    lapse_interval_ms: int = 0
    bounds: Bounds = Bounds()


class HostSpec(Struct, frozen=True, kw_only=True):
    """A host as its driver describes it."""

    name: str
    inventory: Mapping[str, Inventory]
    traits: tuple[str, ...] = ()
    labels: Mapping[str, str] = {}
    cells: Mapping[str, HostCell] = {}


# --- events ----------------------------------------------------------------------------------------------------------------------------


class HostsRead(Struct, frozen=True, gc=False):
    """Records of one partition of `hosts`, in order, from its beginning on."""

    partition: int
    records: Sequence[Raw]


class ClaimsRead(Struct, frozen=True, gc=False):
    """Records of one partition of `claims`, in order, and the next offset to be read."""

    partition: int
    records: Sequence[Raw]
    position: int


class ClaimsRange(Struct, frozen=True, gc=False):
    """Answer to `AskClaimsRange`: the topic's id, its first offset and its end, captured after the question."""

    partition: int
    topic_id: str
    low: int
    high: int


class EndCaptured(Struct, frozen=True, gc=False):
    """Answer to `CaptureEnd`: an end of the claims partition that was asked for at `asked_at_ms`."""

    partition: int
    end: int
    asked_at_ms: int


class ControlRead(Struct, frozen=True, gc=False):
    """What operators say of a host; None: nothing any more."""

    host: str
    record: HostControl | None


class ReportFailed(Struct, frozen=True, gc=False):
    """A record of a host was not delivered, or nobody knows."""

    host: str


class DriverSaid(Struct, frozen=True, gc=False):
    """An event of a host's driver."""

    host: str
    event: Up | Failed | Found | Gone | Configure


class LoadMeasured(Struct, frozen=True, gc=False):
    """Measured load of a host, reported beside the hash with the next report."""

    host: str
    load: Mapping[str, float]


class Tick(Struct, frozen=True, gc=False):
    """Time passed."""


# --- effects ---------------------------------------------------------------------------------------------------------------------------


class Send(Struct, frozen=True, gc=False):
    """Produce to `hosts`; on failure answer `ReportFailed(host)`. `value` None is a tombstone."""

    partition: int
    key: bytes
    value: bytes | None
    host: str


class AskClaimsRange(Struct, frozen=True, gc=False):
    """Look up a claims partition's range, after everything read so far, and once the drivers of its hosts have told all that runs."""

    partition: int


class ReadClaims(Struct, frozen=True, gc=False):
    """Read a claims partition from this offset on."""

    partition: int
    offset: int


class CaptureEnd(Struct, frozen=True, gc=False):
    """Look up a claims partition's end now."""

    partition: int


class StartInstance(Struct, frozen=True, gc=False):
    """Tell the driver to start an instance: its allocation is active in a report that stands."""

    host: str
    allocation: Allocation


class StopInstance(Struct, frozen=True, gc=False):
    """Tell the driver to stop an instance: a report that stands no longer holds it."""

    host: str
    allocation: Allocation


class AdoptInstance(Struct, frozen=True, gc=False):
    """Tell the driver of an instance that the ledger held before this agent, so that it can be stopped and its end noticed."""

    host: str
    allocation: Allocation


class Fenced(Struct, frozen=True, gc=False):
    """A later agent took this host over; nothing more is written for it. `left` hosts remain."""

    host: str
    by: str
    left: int


class Refused(Struct, frozen=True, gc=False):
    """The host cannot be started: its log may hide a part of the ledger."""

    host: str
    reason: str


class Alarm(Struct, frozen=True, gc=False):
    """Something an operator must see."""

    host: str
    reason: str


class Quarantine(Struct, frozen=True, gc=False):
    """A bad record to be put aside; the shell fills in the topic's full name."""

    topic: str
    partition: int
    offset: int
    reason: str
    key: bytes | None
    value: bytes | None


Effect = (
    Send
    | AskClaimsRange
    | ReadClaims
    | CaptureEnd
    | StartInstance
    | StopInstance
    | AdoptInstance
    | Fenced
    | Refused
    | Alarm
    | Quarantine
)


def quarantined(effect: Quarantine, topic: str, by: str) -> Quarantined:
    """The record that puts a bad one aside: bounded, printable."""
    key = (effect.key or b"")[:200].decode(errors="replace")
    return Quarantined(
        topic=topic,
        partition=effect.partition,
        offset=effect.offset,
        reason=effect.reason[:1024],
        by=by[:128],
        key=ascii(key)[1:-1][:1024],
        sample=base64.b64encode((effect.value or b"")[:1024]).decode(),
    )
