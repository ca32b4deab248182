"""What follows from a report that counts: what its ledger granted, made active and let lapse (invariants 2, 3, 5).

report ─▶ judge.py: against the claims that it settles ─▶ new allocations, active ones, lapses ─▶ against claims, confirms and decisions
"""

from collections.abc import Mapping
from typing import NamedTuple

from commonplace.core.records.hosts import Allocation, Delta, Snapshot
from commonplace.sim.answers import Answers
from commonplace.sim.findings import Findings, Place
from commonplace.sim.judge import Judge
from commonplace.sim.model import Facts, Hashes, Held, Host, Lease
from commonplace.sim.owners import Owners
from commonplace.sim.seen import Seen


class Lapse(NamedTuple):
    """An allocation that a report says lapsed, when that was, and when its lease was over at the latest, in log time."""

    host: str
    allocation: str
    at_ms: int
    latest_ms: float
    place: Place


class Grants:
    """Allocations from their grant to their end, as the reports of all hosts tell it."""

    def __init__(self, seen: Seen, findings: Findings, answers: Answers, owners: Owners, hashes: Hashes) -> None:
        self._seen, self._findings, self._answers, self._owners = seen, findings, answers, owners
        self._hashes = hashes
        self._granted: dict[str, tuple[Place, int]] = {}  # allocation ever granted → where, and the offset of its claim
        self.lapses: list[Lapse] = []
        self.confirmed: dict[str, tuple[int, int]] = {}  # allocation → log time and offset of its first confirm

    def judge(self, host: Host, record: Snapshot | Delta, after: Held, facts: Facts, offset: int, at_ms: int) -> None:
        """Hold a report against the state before it, which `host` still has, and follow its allocations."""
        if not host.blind:
            if host.fresh:
                host.blind = "reports of the epoch before it did not reach the log" if record.generation > 1 else ""
            elif record.generation != host.generation + 1:
                host.blind = "a report between never reached the log"
        here = ("hosts", host.partition, offset)

        def violated(invariant: int, text: str) -> None:
            self._findings.violated(invariant, f"{host.name} {text}", here)

        before, leases, seen = host.held, host.leases, self._seen
        if record.gap and (host.fresh or not host.gap):
            seen.gapped.update(after)
        foreign = record.claims_topic != seen.ids.get("claims", record.claims_topic)
        if host.anew and not host.fresh:
            seen.passed(host.name, host.through)
        unsure = foreign or host.name in seen.lost_hosts or host.name in seen.cut_claims
        judge = Judge(
            host,
            record,
            after,
            facts,
            (offset, at_ms),
            self._hashes,
            violated,
            self._answers.claims,
            unsure=unsure,
            foreign=foreign,
        )
        judge.run()
        for identity in judge.lapsed:
            self._lapsed(host, identity, leases, judge, here)
        if after is not before:
            for identity, allocation in after.items():
                was = before.get(identity)
                anew = was is None or identity in judge.by_claim  # one report may tell of an end and of another grant
                if anew and allocation.origin != "found":
                    self._new_allocation(host, identity, judge.by_claim.get(identity, -1), here)
                    if allocation.group and self._answers.groups is not None:
                        self._answers.groups.granted(allocation.group, identity, host.name)
                if allocation.state == "active" and (was is None or was.state != "active"):
                    self._became_active(host, allocation, here)

    def _new_allocation(self, host: Host, identity: str, claim: int, here: Place) -> None:
        """No claims record is granted twice. Two equal records are two claims: their second grant lapses like any loser."""
        before = self._granted.get(identity)
        if before is not None and claim >= 0 and before[1] == claim and identity not in self._seen.lost_claims:
            text = f"{host.name} grants the claim at {claim} a second time: it holds {identity} again"
            self._findings.violated(5, text, here, before[0])
        self._granted[identity] = (here, claim)

    def _became_active(self, host: Host, allocation: Allocation, here: Place) -> None:
        """With a gap the ledger keeps whatever it held, because confirms may be among the claims that are gone."""
        answers, identity = self._answers, allocation.id
        if allocation.origin == "found" or identity in self._seen.gapped or identity in answers.promised:
            return
        if answers.forgotten(allocation.request):
            return
        void = answers.void.get(identity)
        text = f"{host.name} made {identity} of {allocation.request} active, which no effective decision names"
        self._findings.violated(2, text, here, *([void] if void else []))

    def _lapsed(self, host: Host, identity: str, leases: Mapping[str, Lease], judge: Judge, here: Place) -> None:
        """A lease ends neither before its time nor past a confirm that came in time, nor before the decision's word is over."""
        self._owners.lapses[identity] = (judge.at_ms, here)
        lease = leases.get(identity)
        if lease is None or host.blind or identity in self._seen.lost_claims:
            return
        identity_renewed = judge.renewed.get(identity)
        held = judge.before.get(identity)
        full_ms = held.lease_ms if held is not None else 0
        earliest_ms = (
            lease.earliest_ms if identity_renewed is None else identity_renewed + full_ms
        ) - self._seen.drift * full_ms
        if identity_renewed is None:  # else it began anew nobody knows when between two reports
            latest_ms = lease.latest_ms + self._seen.drift * full_ms
            self.lapses.append(Lapse(host.name, identity, judge.at_ms, latest_ms, here))
        if judge.at_ms < earliest_ms:
            text = f"{host.name} lets {identity} lapse {earliest_ms - judge.at_ms:.0f} ms before its lease is over"
            self._findings.violated(3, text, here)
        confirmed = self.confirmed.get(identity)
        granted = self._granted.get(identity, (here, -1))[1]
        if confirmed is not None and confirmed[0] < earliest_ms and confirmed[1] > granted:
            text = f"{host.name} lets {identity} lapse although its confirm stood in the log "
            text += f"{earliest_ms - confirmed[0]:.0f} ms before its lease was over"
            self._findings.violated(3, text, here, ("claims", host.partition, confirmed[1]))
        promise = self._answers.promised.get(identity)
        if (
            promise is not None
            and judge.at_ms < promise.until_ms - self._seen.drift * full_ms
            and not self._answers.asked_anew(promise)
        ):
            effective = promise.effective
            text = f"{host.name} lets {identity} lapse {promise.until_ms - judge.at_ms} ms before the time its decision gave to confirm it"
            self._findings.violated(3, text, here, ("decisions", effective.key[0], effective.offset))
