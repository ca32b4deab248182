"""What goes into a replica and what comes out: events and effects of `Replica.receive`."""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from commonplace.core.keeper_events import Quarantine
from commonplace.core.records.replicas import ReplicaReport

Raw = tuple[int, int, bytes | None, bytes | None]
"""One record as read: offset, log time in ms, key, value."""


class ReplicaSettings(Struct, frozen=True, kw_only=True):
    """Bounds and intervals in ms; the reasons for the defaults are in settings.py."""

    pool: str = "default"
    mode: str = "strict"
    liveness_timeout_ms: int = 60_000
    lease_ms: int = 300_000
    lease_margin_ms: int = 10_000
    claim_timeout_ms: int = 10_000
    attempts_max: int = 16
    queue_max: int = 20_000
    claims_in_flight_max: int = 10_000
    decisions_kept_max: int = 500_000
    idempotency_window_ms: int = 900_000
    deadline_ms: int = 30_000
    score_rows_max: int = 256
    peer_timeout_ms: int = 15_000
    request_partitions: int = 0
    """Partitions of `requests`, to see that a group's key stands on its own; 0: not known, not looked at."""


# --- events ---


class HostsRead(Struct, frozen=True, gc=False):
    """Records of one partition of `hosts`, in order."""

    partition: int
    records: Sequence[Raw]


class ControlRead(Struct, frozen=True, gc=False):
    """Records of `control`, in order."""

    records: Sequence[Raw]


class PeersRead(Struct, frozen=True, gc=False):
    """Records of `replicas`, in order."""

    records: Sequence[Raw]


class CaughtUp(Struct, frozen=True, gc=False):
    """`hosts`, `control` and `replicas` were read to the ends captured at start."""


class Assigned(Struct, frozen=True, gc=False):
    """A request partition is ours; records below `end` may have been handled by an owner before us."""

    partition: int
    end: int


class Lost(Struct, frozen=True, gc=False):
    """A request partition is ours no more."""

    partition: int


class RequestsRead(Struct, frozen=True, gc=False):
    """Records of one owned request partition, in order, from its committed offset on; `traces` of some, by offset (traceparent.py)."""

    partition: int
    records: Sequence[Raw]
    traces: Mapping[int, str] | None = None


class DecisionsRead(Struct, frozen=True, gc=False):
    """Records of one decision partition, in order, from before its oldest undecided request."""

    partition: int
    records: Sequence[Raw]


class HistoryRead(Struct, frozen=True, gc=False):
    """The decisions of a partition were read to an end captured after `ReadHistory`."""

    partition: int


class ClaimDelivered(Struct, frozen=True, gc=False):
    """A claim stands at `offset`; −1: it was not delivered, or nobody knows."""

    allocation: str
    offset: int


class DecisionDelivered(Struct, frozen=True, gc=False):
    """A decision is acknowledged, or was not delivered."""

    token: int
    delivered: bool


class ReleaseDelivered(Struct, frozen=True, gc=False):
    """A release is acknowledged, or was not delivered."""

    token: int
    delivered: bool


class Turn(Struct, frozen=True, gc=False):
    """Everything at hand was received: rank and claim for what waits."""


class Tick(Struct, frozen=True, gc=False):
    """Time passed."""


# --- effects ---


class SendClaim(Struct, frozen=True, gc=False):
    """Produce to `claims`, then tell `ClaimDelivered`. `trace` is that of the request, "" for none, here and below."""

    partition: int
    key: bytes
    value: bytes
    allocation: str
    trace: str = ""


class SendRelease(Struct, frozen=True, gc=False):
    """Produce to `claims`, then tell `ReleaseDelivered`."""

    partition: int
    key: bytes
    value: bytes
    token: int
    trace: str = ""


class SendDecision(Struct, frozen=True, gc=False):
    """Produce to `decisions`, then tell `DecisionDelivered`. `result`, `flavor` and `waited_ms` are for the metrics."""

    partition: int
    key: bytes
    value: bytes
    token: int
    result: str
    flavor: str
    waited_ms: int
    trace: str = ""


class Commit(Struct, frozen=True, gc=False):
    """Commit this request offset: all below it are decided and acknowledged."""

    partition: int
    offset: int


class ReadHistory(Struct, frozen=True, gc=False):
    """Read this partition of `decisions` from the given log time, say `HistoryRead` at an end captured now, and go on."""

    partition: int
    from_ms: int


Effect = SendClaim | SendRelease | SendDecision | Commit | ReadHistory | Quarantine
Register = ReplicaReport


def aside(topic: str, partition: int, record: Raw, reason: str) -> Quarantine:
    """Put a record aside that nobody can use."""
    return Quarantine(topic, partition, record[0], reason, record[2], record[3])
