"""What a report changes against the report before: allocations that came, went or were confirmed, and use (invariants 1, 2, 3, 5)."""

from collections.abc import Iterable, Set

from msgspec import Struct

from commonplace.ops.audit.answers import AT_THE_EDGE, LOST, Answers, Promise
from commonplace.ops.audit.by_number import misgiven, not_of_either
from commonplace.ops.audit.chain import Chain
from commonplace.ops.audit.evidence import Entry, Options
from commonplace.ops.audit.findings import Findings
from commonplace.ops.audit.leases import Leases, restart
from commonplace.ops.audit.settle import Told
from commonplace.ops.audit.state import Held, View, amounts_of, becomes
from commonplace.ops.audit.wire_hosts import Allocation, Delta, Snapshot


class Unnamed(Struct, frozen=True):
    """An allocation that became active and that no effective decision names; `surely`: none can come that does."""

    host: str
    allocation: str
    request: str
    partition: int
    offset: int
    timestamp_ms: int
    claimed_ms: int
    surely: bool


class Changes:
    """Judge of the reports of all hosts."""

    def __init__(self, topic: str, answers: Answers, findings: Findings, options: Options) -> None:
        self._topic, self._answers, self._findings, self._options = topic, answers, findings, options
        self._leases = Leases(topic, findings, options)
        self._unnamed: list[Unnamed] = []
        self._older: set[int] = set()  # of those that became active when decisions that are gone may have named them
        self._ever: set[int] = set()  # hashes of the ids of all allocations ever shown: ids are never reused

    def judge(self, entry: Entry, chain: Chain, record: Snapshot | Delta, view: View, told: Told, blind: str) -> None:
        """Hold a report against the one before; `blind` says why what lies between is not known, "" when it is."""
        before = chain.view
        self._granted_here(entry, chain, view)
        places = self._answers.places
        for claim in told.claims:
            for allocation in claim.allocations:
                places.granted(entry, self._topic, allocation, claim)
        for identity in view.held.keys() - (before.held.keys() if before is not None else set()):
            places.shown(chain.name, view.held[identity].allocation)
        if before is None:
            self._first_sight(entry, chain, view, told)
            return
        if record.settled_omitted:
            self._findings.figures["settled_omitted"] += record.settled_omitted
        excuse = blind or ("settled entries were omitted" if record.settled_omitted else "")
        for identity in before.held.keys() - view.held.keys():
            places.ended(entry, before.held[identity].allocation, sure=not excuse)
            self._vanished(entry, chain, before.held[identity].allocation, told, excuse)
        added = view.held.keys() - before.held.keys()
        for identity in added:
            self._appeared(entry, chain, view.held[identity].allocation, told, excuse)
        self._states(entry, chain, before, view, told, excuse)
        unweighed = added - told.weighed
        if unweighed:
            self._capacity(entry, chain, before, view, unweighed, blind)
        for identity in added:
            if view.held[identity].allocation.cells:
                self._numbers(entry, chain, view, view.held[identity].allocation)
        self._leases.follow(entry, chain, view, told, blind, excuse)

    def unseen(self, entry: Entry) -> None:
        """A report whose state is not known is no evidence of a grant, and none against it."""
        for promise in self._answers.grants.pop((entry.partition, entry.offset), ()):
            if self._in_time(entry, promise):
                self._findings.unprovable(3, "the snapshot under the report is gone")

    def forgotten(self, entry: Entry, chain: Chain) -> None:
        """A host is forgotten, which is allowed only when it is empty."""
        for identity, held in (chain.view.held if chain.view else {}).items():
            self._answers.places.ended(entry, held.allocation, sure=False)
            if held.allocation.origin != "found" and identity in self._answers.promised:
                self._violated(3, entry, f"{chain.name} was forgotten while it held {identity}")

    def unnamed(self, newest_ms: int) -> None:
        """At the end all decisions are known; their ends were captured before those of `hosts`, so the youngest may be missing."""
        for one in self._unnamed:
            if self._answers.may_be_lost(one.request, one.claimed_ms):
                self._findings.unprovable(2, LOST)
                self._older.add(hash(one.allocation))
            elif not one.surely and one.timestamp_ms > newest_ms - self._options.grace_ms:
                self._findings.pending(
                    2, "what became active is younger than the grace, and its decision perhaps than the audit"
                )
            else:
                text = f"{one.host} made {one.allocation} active, which no effective decision on {one.request} names"
                self._findings.violated(2, text, self._topic, one.partition, one.offset)

    def doubles(self, chains: Iterable[Chain]) -> None:
        """At the end an instance has one allocation; another one may only be on its way out."""
        instances: dict[tuple[str, int], list[tuple[Chain, Allocation]]] = {}
        for chain in chains:
            for held in chain.view.held.values() if chain.view else ():
                allocation = held.allocation
                if allocation.origin == "claim" and allocation.request:
                    instances.setdefault((allocation.request, allocation.index), []).append((chain, allocation))
        for (request, index), holders in instances.items():
            active = [(chain, allocation) for chain, allocation in holders if allocation.state == "active"]
            if len(active) > 1 and any(chain.view and chain.view.gap for chain, _ in active):
                self._findings.unprovable(
                    5, "a host reports a gap: it keeps what it held, until an operator has looked"
                )
            elif len(active) > 1 and (apart := self._apart([one.id for _, one in active])):
                if apart == "surely":
                    self._findings.passed(5)
                else:
                    self._findings.unprovable(5, "what would tell two uses of a request's id apart is gone")
            elif len(active) > 1:
                where = ", ".join(f"{allocation.id} on {chain.name}" for chain, allocation in active[:4])
                text = f"instance {request}.{index} has {len(active)} active allocations: {where}"
                last = max(active, key=lambda holder: holder[0].offset)[0]
                self._findings.violated(5, text, self._topic, last.partition, last.offset)
            elif len(holders) > 1:
                self._findings.pending(5, "another allocation of the instance is within its lease")
            else:
                self._findings.passed(5)

    def _apart(self, active: list[str]) -> str:
        """Whether allocations of one instance stem from as many uses of its request's id: "surely", "perhaps", or ""."""
        answers = self._answers
        named = [answers.promised[identity] for identity in active if identity in answers.promised]
        if len({(promise.partition, promise.offset) for promise in named}) < len(named):
            return ""
        others = [identity for identity in active if identity not in answers.promised]
        lost = set() if answers.whole else self._older
        known = all(identity in answers.unsure or hash(identity) in lost for identity in others)
        return "surely" if not others else "perhaps" if known else ""

    # -- grants -------------------------------------------------------------------------------------------------------------------------

    def _granted_here(self, entry: Entry, chain: Chain, view: View) -> None:
        """Placed decisions that name this report for their grant."""
        for promise in self._answers.grants.pop((entry.partition, entry.offset), ()):
            held = view.held.get(promise.allocation)
            here = f"hosts {entry.partition}/{entry.offset}"
            if promise.host != chain.name or held is None:
                self._answers.broken(
                    3, promise, f"on {promise.host}, but {chain.name}'s report at {here} does not show it"
                )
            elif (held.allocation.request, held.allocation.index) != (promise.request, promise.index):
                whose = f"{held.allocation.request}.{held.allocation.index}"
                self._answers.broken(3, promise, f"which {chain.name}'s report at {here} shows for {whose}")
            elif self._in_time(entry, promise):
                self._findings.passed(3)

    def _in_time(self, entry: Entry, promise: Promise) -> bool:
        """Whether the report stood in the log when the decision was written."""
        late_ms = entry.timestamp_ms - promise.timestamp_ms
        if late_ms <= self._options.skew_ms:
            return True
        self._answers.broken(
            3, promise, f"{late_ms} ms before its grant stood at hosts {entry.partition}/{entry.offset}"
        )
        return False

    # -- allocations --------------------------------------------------------------------------------------------------------------------

    def _first_sight(self, entry: Entry, chain: Chain, view: View, told: Told) -> None:
        """The earliest report that is left: what it shows may be older than the log."""
        assert view.facts is not None, "a view of a report has facts"
        self._ever.update(map(hash, view.held))
        self._older.update(hash(i) for i, held in view.held.items() if held.allocation.state == "active")
        for name, used in view.used.items():
            if used <= view.facts.capacity(name):
                self._findings.passed(1)
            else:
                self._findings.unprovable(1, "the report before is gone, so the inventory may have shrunk")
        restart(entry, chain, view, told, known=False)

    def _vanished(self, entry: Entry, chain: Chain, allocation: Allocation, told: Told, excuse: str) -> None:
        if allocation.origin == "found":
            return
        if allocation.id in told.ended:
            if allocation.id in self._answers.promised:
                self._findings.passed(3)
        elif excuse:
            self._findings.unprovable(3, excuse)
        else:
            self._violated(
                3,
                entry,
                f"{chain.name} holds {allocation.id} no more and says neither that it lapsed, failed nor was released",
            )

    def _appeared(self, entry: Entry, chain: Chain, allocation: Allocation, told: Told, excuse: str) -> None:
        if allocation.origin == "found":
            return
        if hash(allocation.id) in self._ever:
            self._violated(5, entry, f"{chain.name} holds {allocation.id}, an id that was used before")
        self._ever.add(hash(allocation.id))
        if allocation.id in told.granted:
            return
        if excuse:
            self._findings.unprovable(6, excuse)
        else:
            self._violated(6, entry, f"{chain.name} holds {allocation.id}, which no claim that it settled explains")

    def _states(self, entry: Entry, chain: Chain, before: View, view: View, told: Told, excuse: str) -> None:
        """An allocation's content never changes, nor does it become leased again; active is only what an effective decision names.

        What replaces another becomes whole once that is gone, of cpus and devices by number those of the two.
        """
        for identity, held in view.held.items():
            was = before.held.get(identity)
            if was is held or held.allocation.origin == "found":
                continue
            active = was is not None and was.allocation.state == "active"
            known = identity in told.whole
            grown = was is not None and (known or excuse) and becomes(was.allocation, held.allocation)
            stunted = was is not None and known and was.allocation.becomes is not None
            if was is not None and (was.hash != held.hash or stunted) and not grown:
                self._violated(6, entry, f"{chain.name} changed the content of {identity}")
            if was is not None and grown:
                if not known:
                    self._findings.unprovable(6, excuse)
                for wrong in not_of_either(before, was.allocation, held.allocation):
                    self._violated(6, entry, f"{chain.name} {wrong}")
            elif was is not None and was.allocation.assigned != held.allocation.assigned:
                self._violated(6, entry, f"{chain.name} gave {identity} other cpus or devices than before")
            if active and held.allocation.state == "leased":
                self._violated(5, entry, f"{chain.name} turned {identity} from active to leased")
            if held.allocation.state == "active" and not active:
                self._became_active(entry, chain, held, told, view.gap)

    def _became_active(self, entry: Entry, chain: Chain, held: Held, told: Told, gap: bool) -> None:
        """With a gap the ledger keeps whatever it held, because confirms may be among the claims that are gone."""
        answers, identity, request = self._answers, held.allocation.id, held.allocation.request
        self._findings.figures["became_active"] += 1
        if gap or identity in answers.promised:
            self._findings.passed(2)
        elif identity in answers.unsure:
            self._findings.unprovable(2, AT_THE_EDGE)
        elif identity in answers.void:
            void = answers.void[identity]
            where = f"{void.partition}/{void.offset}"
            self._violated(
                2, entry, f"{chain.name} made {identity} active, which only the void decision at {where} names"
            )
        else:
            lease = chain.leases.get(identity)
            claimed_ms = lease.claimed_ms if lease else told.granted_ms(identity)
            decided_ms = answers.decided.get(request)
            surely = decided_ms is not None and entry.timestamp_ms <= decided_ms + self._options.idempotency_window_ms
            at = (entry.partition, entry.offset, entry.timestamp_ms)
            self._unnamed.append(Unnamed(chain.name, identity, request, *at, claimed_ms, surely))

    def _capacity(self, entry: Entry, chain: Chain, before: View, view: View, added: Set[str], blind: str) -> None:
        """After a grant use is within capacity, unless the inventory shrank or instances were found in the same report."""
        assert view.facts is not None, "a view of a report has facts"
        claimed = [view.held[i].allocation for i in added if view.held[i].allocation.origin == "claim"]
        for name in {name for allocation in claimed for name, amount in amounts_of(allocation).items() if amount}:
            used, capacity = view.used[name], view.facts.capacity(name)
            was = before.facts.capacity(name) if before.facts else 0
            if used <= capacity or used - _found(name, before, view) <= max(capacity, was):
                self._findings.passed(1)
            elif blind:
                self._findings.unprovable(1, blind)
            else:
                self._violated(1, entry, f"{chain.name} granted past capacity: {used} of {capacity} {name} are used")

    def _numbers(self, entry: Entry, chain: Chain, view: View, allocation: Allocation) -> None:
        if allocation.origin == "found":
            return
        for wrong in misgiven(view, allocation):
            self._violated(1, entry, f"{chain.name} {wrong}")
        self._findings.passed(1)

    def _violated(self, invariant: int, entry: Entry, text: str) -> None:
        self._findings.violated(invariant, text, self._topic, entry.partition, entry.offset)


def _found(name: str, before: View, view: View) -> int:
    """Use by instances that were found, or found changed, in this very report."""
    return sum(
        amounts_of(held.allocation).get(name, 0)
        for identity, held in view.held.items()
        if held.allocation.origin == "found" and before.held.get(identity) is not held
    )
