"""Leases as the reports tell them: none outlives its time, counted from its claim, its renewal or the start of its agent (invariant 5)."""

from commonplace.ops.audit.chain import FAR_MS, Chain
from commonplace.ops.audit.evidence import Entry, Options
from commonplace.ops.audit.findings import Findings
from commonplace.ops.audit.settle import Lease, Told
from commonplace.ops.audit.state import Held, View


class Leases:
    """Judge of the leases of all hosts, which the hosts' chains keep."""

    def __init__(self, topic: str, findings: Findings, options: Options) -> None:
        self._topic, self._findings = topic, findings
        self._slack_ms = options.slack_ms + options.heartbeat_ms + options.lapse_ms

    def follow(self, entry: Entry, chain: Chain, view: View, told: Told, blind: str, excuse: str) -> None:
        """No leased allocation outlives its lease, counted anew from each start and renewal; `excuse`: why some may not be told."""
        now_ms, leases = entry.timestamp_ms, chain.leases
        if chain.fresh or blind:
            if blind and leases:
                self._findings.unprovable(5, blind)
            restart(entry, chain, view, told, known=not blind)
            return
        for identity in [i for i in leases if i not in view.held or view.held[i].allocation.state == "active"]:
            del leases[identity]
            self._findings.passed(5)
        if excuse:
            if leases:
                self._findings.unprovable(5, excuse)
            restart(entry, chain, view, told, known=False)
            return
        for identity, lease_ms in told.renewed.items():
            if identity in leases and identity in view.held:
                full_ms, began_ms = view.held[identity].allocation.lease_ms, told.claimed_ms.get(identity, 0)
                earliest_ms, latest_ms = began_ms + min(lease_ms, full_ms), now_ms + max(lease_ms, full_ms)
                leases[identity] = Lease(earliest_ms, latest_ms, leases[identity].claimed_ms)
        for identity, held in view.held.items():
            if held.allocation.state == "leased" and identity not in leases:
                claimed_ms = told.granted_ms(identity)
                leases[identity] = _full(claimed_ms, now_ms, held, claimed_ms)
                chain.due_ms = min(chain.due_ms, leases[identity].latest_ms)
        if now_ms > chain.due_ms + self._slack_ms:
            self._overdue(entry, chain)

    def _overdue(self, entry: Entry, chain: Chain) -> None:
        for identity, lease in chain.leases.items():
            over_ms = entry.timestamp_ms - lease.latest_ms
            if over_ms > self._slack_ms:
                text = f"{chain.name} still holds {identity} leased {over_ms / 1000:.0f} s after its lease ran out"
                self._findings.violated(5, text, self._topic, entry.partition, entry.offset)
                chain.leases[identity] = Lease(lease.earliest_ms, FAR_MS, lease.claimed_ms)  # told once
        chain.due_ms = min((lease.latest_ms for lease in chain.leases.values()), default=FAR_MS)


def restart(entry: Entry, chain: Chain, view: View, told: Told, *, known: bool) -> None:
    """Leases run in full from the start to here; where what lies before is not known they may end at any time."""
    since = {identity: lease.claimed_ms for identity, lease in chain.leases.items()}
    began_ms = chain.started_ms if known else 0
    chain.leases = {
        identity: _full(began_ms, entry.timestamp_ms, held, since.get(identity) or told.granted_ms(identity))
        for identity, held in view.held.items()
        if held.allocation.state == "leased"
    }
    chain.due_ms = min((lease.latest_ms for lease in chain.leases.values()), default=FAR_MS)


def _full(began_ms: int, told_ms: int, held: Held, claimed_ms: int) -> Lease:
    """A lease that began between two log times; 0: any time before."""
    length_ms = held.allocation.lease_ms
    return Lease(began_ms + length_ms, told_ms + length_ms, claimed_ms)
