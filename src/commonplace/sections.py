"""The sections of the settings: every value a component may be told, its bound, its default, and the reason for it.

A section is a Struct, a setting one field of it, with the reason for its default below it. Adding a setting is adding a
field. Units stand last in the name. `[kafka]` is no Struct: it holds librdkafka's own dotted names. How sources are
merged stands in settings.py.
"""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from commonplace.core.records.fields import RECORD_BYTES_MAX
from commonplace.core.records.hosts import SETTLED_MAX

Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
CountOrNone = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Milliseconds = Annotated[int, Meta(ge=1, le=2**53 - 1)]
Seconds = Annotated[float, Meta(gt=0, le=10**9)]
Share = Annotated[float, Meta(ge=0, lt=1)]
# Kafka takes 249 characters in a topic's name; prefix, pool and the longest topic share them.
TopicWord = Annotated[
    str,
    Meta(pattern=r"\A[A-Za-z0-9_-]{1,100}\Z", description="letters, digits, _ and -, at most 100"),
]
TopicPrefix = Annotated[
    str,
    Meta(
        pattern=r"\A[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}\Z",
        description="letters, digits, dots, _ and -, at most 100, not beginning with a dot",
    ),
]
HttpAddress = Annotated[
    str,
    Meta(
        pattern=r"\A(|[^\s:]+:[0-9]{1,5}|\[[0-9a-fA-F:.]+\]:[0-9]{1,5})\Z",
        description="HOST:PORT, [IPV6]:PORT, or empty for off",
    ),
]

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS


class TopicsSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Names, shape and retention of the topics; every component of a pool must hold the same."""

    prefix: TopicPrefix = "commonplace"
    """First word of every topic; another prefix is another system on the same cluster."""
    pool: TopicWord = "default"
    """The set of hosts that this component works for."""
    hosts_partitions: Count = 4
    """Each partition costs a produce request a turn (librdkafka sends one a partition), so few; frozen at creation."""
    claims_partitions: Count = 4
    """As hosts, because a host has one partition number on both; frozen at creation."""
    requests_partitions: Count = 6
    """The most replicas that can share the requests: 6 splits evenly over 1, 2, 3 and 6. `decisions` has as many."""
    replication_factor: CountOrNone = 0
    """0: three, or as many as there are brokers. Below three is for development only."""
    hosts_max_compaction_lag_ms: Milliseconds = 15 * MINUTE_MS
    """Bounds the uncompacted head that a starting replica reads; must exceed two snapshot intervals (11 min)."""
    delete_retention_ms: Milliseconds = DAY_MS
    """How long a tombstone lives; a replica older than half of it rebuilds, so a day forgives a night's outage."""
    claims_retention_ms: Milliseconds = DAY_MS
    """An agent down for longer may have lost claims and reports a gap; a day covers a host's repair."""
    requests_retention_ms: Milliseconds = DAY_MS
    """How long an undecided request survives; less than decisions, so that no request outlives its answer."""
    decisions_retention_ms: Milliseconds = 2 * DAY_MS
    """How long an answer can be read, and how far back the audit can prove."""
    quarantine_retention_ms: Milliseconds = 7 * DAY_MS
    """A week for a person to look at what could not be read."""


class AgentSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an agent reports and how long it waits."""

    snapshot_interval_s: Seconds = 300.0
    """A full report every 5 min: two of them bound what compaction may not touch."""
    snapshot_jitter: Share = 0.1
    """Share by which an interval varies either way, so that ten thousand hosts do not report in one second."""
    heartbeat_interval_s: Seconds = 20.0
    """Three heartbeats fit in the liveness timeout of 60 s, so two may be late."""
    delta_allocations_max: Count = 24
    """A delta with more changed allocations gives way to a snapshot: past that the delta is the larger record."""
    lapse_interval_s: Seconds = 5.0
    """Leases of one host that ran out lapse together, so often, each host at its own time: one report for many; to lapse late is safe."""
    report_bytes_max: Count = 900_000
    """A grant whose snapshot would be larger is rejected as full: 10 % below limits.record_bytes_max."""
    settled_max: Annotated[int, Meta(ge=0, le=SETTLED_MAX)] = 64
    """Settled claims named in one report, for people and the audit; the watermark answers all the others."""
    lease_ms_max: Milliseconds = HOUR_MS
    """A claim that asks for a longer lease gets this one, so that no client can hold room for ever."""
    http: HttpAddress = ""
    """HOST:PORT of health and metrics, port 0 for any free one; empty: off."""


class SchedulerSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a replica ranks, claims, retries and answers."""

    liveness_timeout_s: Seconds = 60.0
    """A host whose newest report is older is silent and not ranked: three missed heartbeats."""
    mode: Literal["strict", "fits"] = "strict"
    """strict: granted on the expected state only. fits: granted if there is room and the constraints hold."""
    lease_ms: Milliseconds = 5 * MINUTE_MS
    """Time for a frontend to confirm a grant before it lapses."""
    lease_margin_ms: Milliseconds = 10_000
    """Taken off what a decision promises: clock rates, a report's way, the ledger's reading to the end."""
    claim_timeout_ms: Milliseconds = 10_000
    """A claim without a verdict is given up for another host; above an agent's restart and a broker's fail-over."""
    attempts_max: Count = 16
    """Claims tried for one request before the answer is no_valid_host with the reasons."""
    queue_max: Count = 20_000
    """Requests waiting in a replica: 2 s of work at 10,000 a second; past it the answer is overloaded."""
    claims_in_flight_max: Count = 10_000
    """Claims without a verdict in a replica: 1 s of work at 10,000 a second; past it the queue grows."""
    unacknowledged_max: Count = 20_000
    """Answers written and not acknowledged: 2 s of work at 10,000 a second; past it no request is read, so that they wait in the log."""
    decisions_kept_max: Count = 500_000
    """Answers kept for redelivery; at 500 a second the idempotency window of 900 s needs 450,000."""
    idempotency_window_s: Seconds = 900.0
    """The same request id with other content is refused inside this window."""
    deadline_ms_default: Milliseconds = 30_000
    """Deadline of a request that names none: past it the answer is expired."""
    session_timeout_ms: Milliseconds = 6_000
    """The broker's minimum; a killed replica's partitions are taken over after it."""
    group_protocol: Literal["classic", "consumer"] = "classic"
    """consumer is KIP-848, whose brokers refuse sessions under 45 s unless told otherwise."""
    topics_check_s: Seconds = 30.0
    """How often a running replica looks whether its topics are still set as they must be, and still the same ones."""
    http: HttpAddress = ""
    """HOST:PORT of health and metrics, port 0 for any free one; empty: off."""


class FrontendSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the client library waits."""

    timeout_s: Seconds = 30.0
    """How long a submit with --wait waits: the default deadline of a request."""
    in_flight_max: Count = 10_000
    """Requests submitted and not yet answered in one client; past it submit waits."""


class LimitsSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds of what this component writes; the wire's own bounds (docs/protocol.md) hold in any case."""

    record_bytes_max: Annotated[int, Meta(ge=1_000, le=RECORD_BYTES_MAX)] = RECORD_BYTES_MAX
    """Below Kafka's max.message.bytes (1,048,588), with room for key and headers; larger ones no reader takes."""
    outbox_records_max: Count = 100_000
    """Records written and not acknowledged: ten seconds at 10,000 a second, the length of a broker's fail-over."""
    outbox_kbytes_max: Annotated[int, Meta(ge=1, le=2**31 - 1)] = 65_536
    """Their size; 10,000 snapshots of a starting fleet take a third of it."""
    outbox_wait_s: Seconds = 30.0
    """How long a send waits for room: past a broker's restart. Then the component ends and its supervisor tries anew."""
    quarantined_per_s_max: Count = 100
    """Bad records that a component puts aside in a second; the rest it only counts, so that garbage can't be made into more of it."""


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything a component may be told."""

    kafka: dict[str, str] = msgspec.field(default_factory=lambda: {"bootstrap.servers": "127.0.0.1:9092"})
    topics: TopicsSettings = TopicsSettings()
    agent: AgentSettings = AgentSettings()
    scheduler: SchedulerSettings = SchedulerSettings()
    frontend: FrontendSettings = FrontendSettings()
    limits: LimitsSettings = LimitsSettings()

    @property
    def bootstrap(self) -> str:
        """Addresses of the brokers, for messages."""
        return self.kafka.get("bootstrap.servers", "")

    def __repr__(self) -> str:
        """Without the values of [kafka]: some are secrets, and a repr ends up in tracebacks."""
        sections = ", ".join(f"{name}={getattr(self, name)!r}" for name in SECTIONS)
        return f"Settings(kafka={sorted(self.kafka)}, {sections})"


KAFKA: Final = "kafka"
SECTIONS: Final[dict[str, type[Struct]]] = {f.name: f.type for f in msgspec.structs.fields(Settings) if f.name != KAFKA}
