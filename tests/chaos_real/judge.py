"""What a run's directory proves: the audit of every record, and each client's history against the topics.

Shares no code with the scheduler but the decoding of JSON; only the digests of replicas are compared with the product's own fold,
of all records instead of those that compaction left.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from chaos_real import history, topics
from chaos_real.history import Asked, History, Told
from commonplace.core.replica import Replica
from commonplace.core.replica_events import CaughtUp, HostsRead
from commonplace.ops import audit
from commonplace.ops.audit import Entry
from commonplace.scheduler.shell import replica_settings
from commonplace.settings import Settings
from e2e_world import Entry as Row
from e2e_world import Ledgers, allocations, parsed

SLACK_MS: Final = 120_000
"""Granted to deadlines and leases: a replica paused for 70 s, a broker for 30 and a link cut for 12 (plan.KINDS), one after the other."""

SHOWN_MAX: Final = 20


class Violation(Struct, frozen=True):
    """What was found, under the name of the rule that it breaks."""

    rule: str
    text: str


class Verdict(Struct):
    """What a run's directory proves."""

    violations: list[Violation]
    figures: dict[str, int]
    audit: dict[str, Any]


def judge(directory: Path, settings: Settings) -> Verdict:
    """Judge what a run left; only reads."""
    options = audit.Options(
        slack_ms=SLACK_MS,
        heartbeat_ms=int(settings.agent.heartbeat_interval_s * 1000),
        lapse_ms=int(settings.agent.lapse_interval_s * 1000),
        deadline_default_ms=settings.scheduler.deadline_ms_default,
        idempotency_window_ms=int(settings.scheduler.idempotency_window_s * 1000),
    )
    logs = topics.load(directory)
    report = audit.check({kind: logs[kind] for kind in logs if kind not in ("commands", "replicas")}, options)
    found = [
        Violation(f"audit {number}", f"{v.text} ({v.topic} [{v.partition}] @{v.offset})")
        for number, tally in report.tallies.items()
        for v in tally.violations
    ]
    facts = Facts.read(directory)
    histories = {path.stem: history.read(path) for path in sorted((directory / "clients").glob("*.jsonl"))}
    found += clients(histories, facts)
    found += digests(directory, settings)
    figures = {**facts.figures(), **_figures(histories.values())}
    return Verdict(found, figures, report.to_dict())


# --- facts of the topics -----------------------------------------------------------------------------------------------


class Facts(Struct):
    """What the topics say, folded by hand."""

    requests: dict[tuple[int, int], str]  # where → id
    claims: dict[tuple[int, int], tuple[str, str]]  # where → type, allocation
    effective: dict[str, dict[str, Any]]
    contents: dict[str, set[str]]  # request → contents that were told `id_reused`
    held: dict[str, str]  # allocation → state, at the end
    twice: list[str]  # allocations held by two hosts

    @classmethod
    def read(cls, directory: Path) -> "Facts":
        """Fold the saved topics."""
        found = cls({}, {}, {}, defaultdict(set), {}, [])
        for entry, record in _records(directory, "requests"):
            if isinstance(record.get("id"), str):
                found.requests[entry.partition, entry.offset] = record["id"]
        for entry, record in _records(directory, "claims"):
            if record.get("type") in ("confirm", "release"):
                found.claims[entry.partition, entry.offset] = (record["type"], str(record.get("allocation")))
        for entry, record in _records(directory, "decisions"):
            found.decide(entry, record)
        ledgers = Ledgers()
        for entry in topics.entries(directory, "hosts"):
            ledgers.fold(Row(*entry))
        for held in ledgers.now.values():
            found.twice += [allocation for allocation in held if allocation in found.held]
            found.held |= {allocation: about.get("state", "leased") for allocation, about in held.items()}
        return found

    def decide(self, entry: Entry, record: dict[str, Any]) -> None:
        """Take a decision: the first of a request is effective."""
        if record.get("type") != "decision" or entry.key != str(record.get("request")).encode():
            return
        if record.get("reason") == "id_reused":
            self.contents[record["request"]].add(str(record.get("content")))
        else:
            self.effective.setdefault(record["request"], record)

    def figures(self) -> dict[str, int]:
        """Counts for people."""
        results = Counter(record["result"] for record in self.effective.values())
        return {"requests": len(set(self.requests.values())), "held at the end": len(self.held), **results}


def _records(directory: Path, kind: str) -> Iterator[tuple[Entry, dict[str, Any]]]:
    for entry in topics.entries(directory, kind):
        record = parsed(Row(*entry))
        if record is not None:
            yield entry, record


def _figures(histories: Any) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for one in histories:
        counts["submitted"] += len(one.asked)
        counts["answered"] += sum(1 for asked in one.asked.values() if asked.decision is not None)
        counts["never answered"] += sum(1 for asked in one.asked.values() if asked.decision is None)
        counts["confirmed"] += sum(1 for told in one.told.values() if told.confirmed_ms >= 0)
        counts["given back"] += sum(1 for told in one.told.values() if told.released)
        counts["confirms refused by the client"] += sum(1 for told in one.told.values() if told.confirm_refused)
    return dict(counts)


# --- clients -----------------------------------------------------------------------------------------------------------


def clients(histories: Mapping[str, History], facts: Facts) -> list[Violation]:
    """What was promised to the clients, held against what the topics hold."""
    found = [Violation("one host", f"{allocation} is held by two hosts at the end") for allocation in facts.twice]
    confirmed: set[str] = set()
    for name, one in histories.items():
        for request, asked in one.asked.items():
            found += [Violation(rule, f"{name}: {text}") for rule, text in _request(request, asked, facts)]
        for request, decision in one.answers:
            found += [Violation("told", f"{name}: {text}") for text in _answer(request, decision, facts)]
        for allocation, told in one.told.items():
            found += [Violation(rule, f"{name}: {text}") for rule, text in _allocation(allocation, told, one, facts)]
            if told.confirm_sent:
                confirmed.add(allocation)
    promised = {a for record in facts.effective.values() for a in allocations(record)}
    for allocation, state in facts.held.items():
        if state != "active":
            found.append(Violation("settled", f"{allocation} is {state} though all has settled"))
        elif allocation not in promised:
            found.append(Violation("held", f"{allocation} is active, and no effective decision names it"))
        elif allocation not in confirmed:
            found.append(Violation("held", f"{allocation} is active, and nobody confirmed it"))
    return found


def _request(request: str, asked: Asked, facts: Facts) -> Iterator[tuple[str, str]]:
    """An acknowledged request stands in the log, and is decided."""
    if asked.acked is None:
        return
    if facts.requests.get(asked.acked) != request:
        yield (
            "acknowledged",
            f"request {request} was acknowledged at {asked.acked}, where there is {facts.requests.get(asked.acked)}",
        )
    if request not in facts.effective:
        yield "decided", f"request {request} was acknowledged and has no decision"


def _answer(request: str, told: dict[str, Any], facts: Facts) -> Iterator[str]:
    """What a client was told is the effective decision, or that its id was used before."""
    if told.get("reason") == "id_reused":
        if told.get("content") not in facts.contents[request]:
            yield f"{request} was told id_reused, and no decision says so"
        return
    effective = facts.effective.get(request)
    if effective is None:
        yield f"{request} was told {told['result']}, and no decision is in the log"
    elif effective["result"] != told["result"] or allocations(effective) != allocations(told):
        yield f"{request} was told {_short(told)}, effective is {_short(effective)}"


def _allocation(allocation: str, told: Told, one: History, facts: Facts) -> Iterator[tuple[str, str]]:
    """What was acknowledged stands in the log; what was confirmed in time holds until given back; what was given back is gone."""
    for kind, partition, offset in told.places:
        if facts.claims.get((partition, offset)) != (kind, allocation):
            yield "acknowledged", f"{kind} of {allocation} was acknowledged at {partition}/{offset}, and is not there"
    if told.released and allocation in facts.held:
        yield "given back", f"{allocation} was given back, and is {facts.held[allocation]} at the end"
    asked = one.asked.get(told.request)
    if asked is None or asked.cancelled or told.release_sent or facts.held.get(allocation) == "active":
        return
    decision = facts.effective.get(told.request, {})
    in_time = asked.submitted_ms + decision.get("confirm_within_ms", 0)
    if "Confirmed" in told.outcomes:
        yield "holds", f"the host told that {allocation} is confirmed, and it is gone at the end"
    elif 0 <= told.confirmed_ms <= in_time and allocation in allocations(decision):
        ahead = in_time - told.confirmed_ms
        yield (
            "holds",
            f"confirm of {allocation} was acknowledged {ahead} ms before its time was over, and it is gone at the end",
        )


def _short(decision: Mapping[str, Any]) -> str:
    return f"{decision['result']} {decision.get('reason', '')} {allocations(decision)}"


# --- digests -----------------------------------------------------------------------------------------------------------


def digests(directory: Path, settings: Settings) -> list[Violation]:
    """Invariant 8: equal positions, equal digests, on every replica at any time, and as a reader of everything has it at the end."""
    seen: dict[str, dict[str, str]] = defaultdict(dict)
    last: dict[str, dict[str, Any]] = {}
    found = []
    for entry, record in _records(directory, "replicas"):
        if record.get("type") != "replica" or entry.key != str(record.get("replica")).encode() or not _ready(record):
            continue
        at = json.dumps(sorted(record["positions"].items()))
        name = f"{record['replica']} ({entry.offset})"
        seen[at][name] = record["digest"]
        last[record["replica"]] = record
    for at, same in seen.items():
        if len(set(same.values())) > 1:
            found.append(Violation("digest", f"at {at}: {same}"))
    for name, record in last.items():
        mine = _digest_of_everything(directory, settings, record["positions"])
        if mine != record["digest"]:
            found.append(Violation("digest", f"{name} has {record['digest']}, a reader of everything {mine}"))
    return found


def _ready(record: Mapping[str, Any]) -> bool:
    return record.get("state") == "ready" and isinstance(record.get("positions"), dict)


def _digest_of_everything(directory: Path, settings: Settings, positions: Mapping[str, int]) -> str:
    ends = {int(place.rpartition("[")[2].rstrip("]")): end for place, end in positions.items()}
    reader = Replica("reader", "reader", len(ends), "", replica_settings(settings))
    for entry in topics.entries(directory, "hosts"):
        if entry.offset < ends[entry.partition]:
            reader.receive(HostsRead(entry.partition, [(entry.offset, entry.timestamp_ms, entry.key, entry.value)]), 0)
    reader.receive(CaughtUp(), 0)
    return reader.report("ready", {}).digest


def told(verdict: Verdict) -> str:
    """The verdict for people: a line each, most of them left out where there are many."""
    by_rule: dict[str, list[str]] = defaultdict(list)
    for violation in verdict.violations:
        by_rule[violation.rule].append(violation.text)
    rows = []
    for rule, texts in by_rule.items():
        rows += [f"violated: {rule}: {text}" for text in texts[:SHOWN_MAX]]
        if len(texts) > SHOWN_MAX:
            rows.append(f"violated: {rule}: {len(texts) - SHOWN_MAX} more")
    return "\n".join(rows)


def to_json(verdict: Verdict) -> bytes:
    """For result.json."""
    return msgspec.json.format(msgspec.json.encode(verdict), indent=1)
