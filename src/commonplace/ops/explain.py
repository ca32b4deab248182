"""What became of a request and why: its decision, the claims made for it with their verdicts, and how it stands against the fleet now."""

from collections.abc import Collection, Iterable, Mapping

from msgspec import Struct
from msgspec.structs import replace

from commonplace.core.codec import Bad, decode
from commonplace.core.explaining import Table, table
from commonplace.core.hosts import HostState
from commonplace.core.records.claims import Claim
from commonplace.core.records.decisions import Decision
from commonplace.core.records.hosts import Allocation, Delta, Settled, Snapshot
from commonplace.core.records.requests import Build
from commonplace.core.traceparent import trace_id
from commonplace.frontend import history
from commonplace.frontend.lookup import Entry, find
from commonplace.kafka import client
from commonplace.kafka.tail import Raw
from commonplace.kafka.topics import Topics, require_topics
from commonplace.ops.fleet_view import FleetView
from commonplace.settings import Settings

UNKNOWN = "no answer yet"
GONE = "not held any more"


class Attempt(Struct, frozen=True, kw_only=True):
    """One claim for the request: where it stands on `claims`, and what the host's ledger made of it."""

    partition: int
    offset: int
    log_time_ms: int
    replica: str
    host: str
    allocation: str
    mode: str
    verdict: str = ""
    reason: str = ""
    detail: str = ""


class Explained(Struct, frozen=True, kw_only=True):
    """A request explained. `decision` holds the explanation of the moment it was decided; `now` is worked out on the live state.

    `complete` is False where the request itself has left the log: then only what the decision tells of it is held against the fleet.
    `trace_id` is that of the trace context its records bear, "" where whoever submitted it named none.
    """

    request: str
    build: Build | None
    complete: bool
    requested_at_ms: int | None
    decided_at_ms: int | None
    trace_id: str
    decision: Decision | None
    void: int
    attempts: list[Attempt]
    now: Table | None
    digest: str
    positions: dict[str, int]


def explain(settings: Settings, name: str, best: int, entry: Entry | None = None) -> Explained:
    """Explain the one request that `name` stands for: its id, an allocation's, or a unique prefix; `entry`, where it was looked up already.

    Reads requests, decisions, claims since the request, and hosts; raises `UsageError` where nothing is found.
    """
    entry = entry or find(settings, name)
    claims = _claims(settings, entry)
    told: dict[str, Settled] = {}
    positions: dict[str, int] = {}
    wanted = {one.allocation.encode() for one in claims}

    def take(topic: str, partition: int, record: Raw) -> None:
        positions[f"{topic}/{partition}"] = record[0] + 1
        if topic == "hosts" and record[3] is not None:
            told.update(_verdicts(record[3], wanted))

    with FleetView(settings, take) as fleet:
        fleet.read()
        build = entry.build or _build_of(entry.decision)
        view = fleet.view
        return Explained(
            request=entry.request,
            build=entry.build,
            complete=entry.build is not None,
            requested_at_ms=entry.requested_at_ms,
            decided_at_ms=entry.decided_at_ms,
            trace_id=_trace_id(settings, entry),
            decision=entry.decision,
            void=entry.void,
            attempts=[_answered(one, told, {name: row.host for name, row in view.rows.items()}) for one in claims],
            now=table(view, fleet.catalog, build, best) if build is not None else None,
            digest=f"{view.digest():016x}",
            positions=dict(sorted(positions.items())),
        )


def _trace_id(settings: Settings, entry: Entry) -> str:
    """Of the trace context beside the decision, or beside the request where that has none yet."""
    broker, _, _ = require_topics(settings)
    settings = client.settings_for(settings, broker)
    names = Topics(settings.topics.prefix, settings.topics.pool)
    for topic, offset in ((names.decisions, entry.decision_offset), (names.requests, entry.request_offset)):
        trace = history.trace_at(settings, topic, entry.partition, offset) if offset is not None else ""
        if trace:
            return trace_id(trace)
    return ""


def _build_of(decision: Decision | None) -> Build | None:
    """What a decision tells of its request."""
    if decision is None or not decision.flavor:
        return None
    return Build(
        id=decision.request,
        flavor=decision.flavor,
        count=decision.count,
        project=decision.project,
        user=decision.user,
        group=decision.group,
    )


# --- claims and their verdicts -----------------------------------------------------------------------------------------


def _claims(settings: Settings, entry: Entry) -> list[Attempt]:
    """Every claim for a request, oldest first, from the time of the request on."""
    broker, facts, _ = require_topics(settings)
    settings = client.settings_for(settings, broker)
    topic = Topics(settings.topics.prefix, settings.topics.pool).claims
    consumer = client.consumer(settings)
    since = entry.requested_at_ms or entry.decided_at_ms
    try:
        partitions = range(facts[topic].partitions)
        # the embedded broker has no lookup by time
        starts = history.since(consumer, settings, topic, partitions, None if broker.embedded else since)
        ends = history.ends(consumer, settings, topic, partitions)
        found = [
            one
            for partition, rows in history.read(settings, topic, starts, ends)
            for one in _of_request(entry.request, partition, rows)
        ]
    finally:
        consumer.close()
    return sorted(found, key=lambda one: (one.log_time_ms, one.partition, one.offset))


def _of_request(request: str, partition: int, rows: Iterable[history.Row]) -> Iterable[Attempt]:
    mark = request.encode()
    for offset, at_ms, _, value in rows:
        if value is None or mark not in value:
            continue
        record = decode("claims", value)
        if isinstance(record, Claim) and record.request == request:
            for allocation in record.allocations:
                yield Attempt(
                    partition=partition,
                    offset=offset,
                    log_time_ms=at_ms,
                    replica=record.replica,
                    host=record.host,
                    allocation=allocation.id,
                    mode=record.mode,
                )


def _verdicts(value: bytes, wanted: Collection[bytes]) -> dict[str, Settled]:
    """What a report says it made of the claims wanted, by `allocation offset`; most reports are passed over undecoded."""
    if b'"settled"' not in value or not any(one in value for one in wanted):
        return {}
    report: Snapshot | Delta | Bad = decode("hosts", value)
    if not isinstance(report, Snapshot | Delta):
        return {}
    return {f"{one.allocation} {one.offset}": one for one in report.settled if one.allocation.encode() in wanted}


def _answered(one: Attempt, told: Mapping[str, Settled], hosts: Mapping[str, HostState]) -> Attempt:
    """The claim with its verdict: as reported, else as the host's newest report shows it (rule 4)."""
    verdict = told.get(f"{one.allocation} {one.offset}")
    if verdict is not None:
        return _with(one, verdict.verdict, verdict.reason, verdict.detail)
    host = hosts.get(one.host)
    held: Allocation | None = host.allocations.get(one.allocation) if host is not None else None
    if held is not None:
        return _with(one, "renewed" if one.mode == "renew" else "granted", "", f"held, {held.state}")
    return _with(one, GONE if host is not None and host.claims_through >= one.offset else UNKNOWN)


def _with(one: Attempt, verdict: str, reason: str = "", detail: str = "") -> Attempt:
    return replace(one, verdict=verdict, reason=reason, detail=detail)
