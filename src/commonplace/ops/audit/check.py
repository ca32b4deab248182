"""The audit as a function: logs in, findings out. No I/O, no clock."""

from collections.abc import Mapping

from commonplace.ops.audit.answers import Answers
from commonplace.ops.audit.claims import Claims
from commonplace.ops.audit.evidence import Log, Options
from commonplace.ops.audit.findings import AuditReport, Findings
from commonplace.ops.audit.hosts import Hosts
from commonplace.ops.audit.intake import Intake, Quarantine
from commonplace.ops.audit.stays import judge
from commonplace.ops.audit.wire import Aggregate, Broken

REQUIRED = ("hosts", "claims", "requests", "decisions")


def check(
    logs: Mapping[str, Log], options: Options | None = None, elsewhere: Mapping[str, Log] | None = None
) -> AuditReport:
    """Check the invariants on the logs of one pool, by topic: hosts, claims, requests, decisions; quarantine and control where given.

    `elsewhere` is the `hosts` of other pools, by pool: read for when a host reported there, and for nothing else.
    Each log is read once, from front to back; per host only its newest state is kept, and per request a few words.
    """
    options = options or Options()
    findings = Findings()
    quarantine = Quarantine(logs.get("quarantine"), options)
    intakes = {kind: Intake(kind, logs[kind], quarantine, findings) for kind in (*REQUIRED, "control") if kind in logs}
    answers = Answers(intakes["requests"], intakes["decisions"], findings, options)
    answers.read()
    claims = Claims(intakes["claims"], findings)
    hosts = Hosts(intakes["hosts"], claims, answers, findings, options)
    hosts.read()
    claims.drain()
    if "control" in intakes:
        for entry, record in intakes["control"]:
            if not isinstance(record, Broken):
                intakes["control"].applied()
            if (entry.key or b"").startswith(b"aggregate/") and isinstance(record, Aggregate | Broken | None):
                answers.places.control(entry, record)
    newest_ms = max(intake.newest_ms for intake in intakes.values())
    judge(hosts.stays, intakes["hosts"].log.name, elsewhere or {}, findings, options)
    answers.settle(newest_ms)
    hosts.settle(newest_ms)
    answers.places.settle("control" in intakes and intakes["control"].seen.whole(0))
    for kind, intake in intakes.items():
        intake.settle(quarantine, newest_ms, options, answers.refused if kind == "requests" else ())
    figures: dict[str, int | float] = dict(findings.figures)
    figures["hosts"] = sum(1 for chain in hosts.chains.values() if not chain.removed)
    figures["quarantine_read"] = quarantine.read
    if granted := figures.get("claims_granted"):
        figures["conflict_fraction"] = round(figures.get("claims_rejected", 0) / granted, 4)
    return AuditReport(findings.tallies, figures)
