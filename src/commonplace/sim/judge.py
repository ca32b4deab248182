"""One report held against the state before it and the claims it settled (invariants 1, 3, 5, 6, 9, 10).

The settled entries are the ledger's own account, in order. What has no place in that order (a change of the inventory, an instance that
the driver found) may have happened before or after any entry, so a check fails only if it fails either way.

    before ──settled entries, each against its claim──▶ now ══ must be ══ what the report shows
"""

from collections.abc import Callable, Mapping
from itertools import groupby
from typing import Any, Final

from commonplace.core.records.claims import Claim, Confirm, Release
from commonplace.core.records.hosts import Allocation, Delta, Settled, Snapshot
from commonplace.ops.audit.hashes import MODULUS
from commonplace.sim.cells import misgiven
from commonplace.sim.findings import Place
from commonplace.sim.model import Asked, Facts, Hashes, Held, Host, Lease, same_shape
from commonplace.sim.refusals import may_expect, misfits, past_capacity
from commonplace.sim.replaced import alone, becomes

OVER: Final = ("released", "lapsed", "failed", "lost")
"""Verdicts after which an allocation is gone."""


class Judge:
    """The report of `host` at `offset`, which was not void: `before` is the host's state, `after` what the report shows."""

    def __init__(
        self,
        host: Host,
        record: Snapshot | Delta,
        after: Held,
        facts: Facts,
        at: tuple[int, int],
        hashes: Hashes,
        violated: Callable[[int, str], None],
        claims: Mapping[str, tuple[Claim, Place]],
        *,
        unsure: bool = False,
        foreign: bool = False,
    ) -> None:
        self.host, self.record, self.after = host, record, after
        self.offset, self.at_ms = at
        self.hashes, self._violated = hashes, violated
        self.claims = claims  # allocation → the first claim that asked for it
        self.before = self.now = host.held
        self.sum = host.sum
        self.blind = host.blind
        self.foreign = foreign  # its watermark is of a claims topic that is no more
        self.gap = record.gap and host.fresh  # retention had taken claims that it had not read, perhaps
        self.unsure = unsure  # topics lost records: a claim may be answered that was answered before
        self.facts = [facts] if facts is host.facts or host.reported < 0 else [host.facts, facts]
        self.unordered: list[int] = []
        self.answered: dict[int, Asked] = {}
        self.granted: dict[str, int] = {}  # allocation → log time of its claim
        self.by_claim: dict[str, int] = {}  # allocation → offset of its claim
        self.renewed: dict[str, int] = {}
        self.confirmed: set[str] = set()
        self.replaced: set[str] = set()  # by what was confirmed
        self.lapsed: list[str] = []

    def run(self) -> None:
        """Judge the whole report. Lapses and capacity need the host's leases of before, so those are followed last."""
        self._take_claims()
        settled = self.record.settled or self.record.settled_omitted
        if self.after is not self.before or settled or len(self.facts) > 1:
            self._leave_unordered()
            self._settled()
            if self.record.settled_omitted:
                self._guess_omitted()
            if not self.blind and not (self.unsure and self.record.settled_omitted):
                self._ends_as_shown()
        self._follow_leases()

    # -- claims -------------------------------------------------------------------------------------------------------------------------

    def _take_claims(self) -> None:
        """Claims at or below the watermark are answered by this report; one that is not was passed over."""
        claims, through = self.host.claims, self.record.claims_through
        if self.foreign or not claims or claims[0].offset > through:
            return
        told = {entry.offset for entry in self.record.settled}
        excused = self.blind or self.unsure or self.record.settled_omitted or self.gap or self.host.reported < 0
        while claims and claims[0].offset <= through:
            asked = claims.popleft()
            self.answered[asked.offset] = asked
            if asked.offset not in told and not excused:
                self._violated(
                    10,
                    f"passed over the claims record at {asked.offset}: its watermark is {through} and it settled none such",
                )

    def _leave_unordered(self) -> None:
        """Hash steps without a place in the order; found instances that went are out of the state's use at once."""
        if len(self.facts) > 1:
            self.unordered.append(self.facts[1].hash - self.facts[0].hash)
        for identity in {**self.before, **self.after}:
            was, shown = self.before.get(identity), self.after.get(identity)
            if was is shown or was == shown or (was or shown).origin != "found":  # type: ignore[union-attr]  # one of them is there
                continue
            if was is not None:
                self._drop(identity)
                self.unordered.append(self.hashes.of(was))
            if shown is not None:
                self.unordered.append(self.hashes.of(shown))

    # -- settled entries ----------------------------------------------------------------------------------------------------------------

    def _settled(self) -> None:
        through = self.record.claims_through
        for (offset, verdict), entries in groupby(self.record.settled, lambda s: (s.offset, s.verdict)):
            group = list(entries)
            if offset > through:
                self._violated(6, f"settles the claim at {offset}, beyond its own watermark {through}")
            if verdict == "granted":
                self._grant(offset, group)
            elif verdict == "renewed":
                self._renew(offset, group)
            elif verdict == "confirmed":
                self._confirm(offset, group)
            elif verdict in OVER:
                self._end(offset, verdict, group)

    def _claim(self, offset: int, kind: type, entry: Settled) -> Any:
        """The record that was settled, if it is of that kind and names the allocation; None without a word where nobody can know."""
        asked = self.answered.get(offset)
        record = asked.record if asked is not None else None
        if not isinstance(record, kind) or (not isinstance(record, Claim) and record.allocation != entry.allocation):  # type: ignore[attr-defined]
            if not self.blind and not (self.unsure and asked is None):
                self._violated(
                    6,
                    f"says {entry.verdict} of the claims record at {offset}, which asks nothing such for {entry.allocation}",
                )
            return None
        if self.blind and isinstance(record, Claim) and all(one.id != entry.allocation for one in record.allocations):
            return None  # its agent read another claim there, which was lost before the report came
        return record

    def _grant(self, offset: int, group: list[Settled]) -> None:
        claim: Claim | None = self._claim(offset, Claim, group[0])
        if claim is None:
            for entry in group:
                shown = self.after.get(entry.allocation) or self._once_asked(entry.allocation)
                if shown is not None:
                    self._add(shown)
            return
        if claim.mode == "renew":
            self._violated(6, f"says it granted the claim at {offset}, which only renews")
        stray = {entry.allocation for entry in group} - {allocation.id for allocation in claim.allocations}
        if stray:
            self._violated(6, f"says that the claim at {offset} was for {min(stray)}, which it is not")
        if not self.blind:
            self._on_state(offset, claim)
            self._fits(offset, claim)
        for allocation in claim.allocations:
            if allocation.id in self.now and not self.blind:
                self._violated(6, f"grants {allocation.id} by the claim at {offset} although it holds it")
            shown = self.after.get(allocation.id)
            alike = shown is not None and same_shape(shown, allocation) and shown.becomes == allocation.becomes
            if shown is not None and not alike and not becomes(allocation, shown):
                self._violated(6, f"holds {allocation.id} otherwise than the claim at {offset} asked for it")
            self._add(shown if shown is not None and alike else allocation)
            self.granted[allocation.id] = self.answered[offset].at_ms
            self.by_claim[allocation.id] = offset

    def _fits(self, offset: int, claim: Claim) -> None:
        wrong = next(misfits(claim, self.facts, self.now, self.after, self.confirmed), "")
        if wrong:
            self._violated(6, f"grants the claim at {offset} although {wrong}")
        over = past_capacity(claim, self.facts, self.now)
        if over:
            self._violated(1, f"grants the claim at {offset} past capacity: {over}")

    def _once_asked(self, identity: str) -> Allocation | None:
        """An allocation as the first claim asked for it: where reports were lost, claims that they answered are answered again."""
        first = self.claims.get(identity)
        return next((one for one in first[0].allocations if one.id == identity), None) if first is not None else None

    def _on_state(self, offset: int, claim: Claim) -> None:
        """A strict claim is granted only on the state it expects."""
        state = (self.host.facts.hash if self.host.reported >= 0 else self.facts[-1].hash) + self.sum
        if claim.mode == "strict" and not may_expect(claim.expected, state, self.unordered, self.facts):
            self._violated(
                6,
                f"grants the strict claim at {offset}, which expects {claim.expected}, on state {state % MODULUS:016x}",
            )

    def _renew(self, offset: int, group: list[Settled]) -> None:
        for entry in group:
            claim = self._claim(offset, Claim, entry)
            if entry.allocation not in self.now and not self.blind and not self.unsure:
                self._violated(5, f"renews the lease of {entry.allocation}, which it does not hold")
            if claim is not None:
                self.renewed[entry.allocation] = self.answered[offset].at_ms

    def _confirm(self, offset: int, group: list[Settled]) -> None:
        for entry in group:
            self._claim(offset, Confirm, entry)
            self.confirmed.add(entry.allocation)
            held = self.now.get(entry.allocation)
            if held is None and not self.blind and not self.unsure:
                self._violated(5, f"confirms {entry.allocation}, which it does not hold")
            if held is not None and held.replaces:
                self.replaced.add(held.replaces)
                self._drop(held.replaces)
                self._stands_alone(held)

    def _stands_alone(self, part: Allocation) -> None:
        """What it replaced is gone: from here on it takes all that it becomes."""
        shown = self.after.get(part.id)
        self._add(shown if shown is not None and becomes(part, shown) else alone(part))

    def _end(self, offset: int, verdict: str, group: list[Settled]) -> None:
        for entry in group:
            if verdict == "released" and entry.allocation in self.replaced:
                continue  # by the confirm before
            held = self._drop(entry.allocation)
            for part in [one for one in self.now.values() if one.replaces == entry.allocation]:
                self._stands_alone(part)
            if verdict == "released":
                release = self._claim(offset, Release, entry)
                active = entry.allocation in self.confirmed or (held is not None and held.state == "active")
                if release is not None and release.leased_only and active:
                    text = f"releases {entry.allocation}, which is active, by the record at {offset}, which is for leased ones only"
                    self._violated(3, text)
            elif verdict == "lapsed":
                self.lapsed.append(entry.allocation)
                if entry.allocation in self.confirmed or (held is not None and held.state == "active"):
                    self._violated(3, f"lets {entry.allocation} lapse, which was confirmed")
            self.confirmed.discard(entry.allocation)  # it may be granted anew

    def _guess_omitted(self) -> None:
        """The list of settled entries was full: what is not told may have been granted, confirmed or ended as the claims allow.

        What ended may have been gone before any grant, so a claim must fit beside what is still there.
        """
        for identity in self.now.keys() - self.after.keys():
            self._drop(identity)
        told = {entry.offset for entry in self.record.settled}
        for offset, (_, at_ms, record) in self.answered.items():
            if offset in told:
                continue
            if isinstance(record, Claim):
                anew = record.mode != "renew" and all(
                    a.id in self.after and a.id not in self.now and not (a.replaces or a.becomes)
                    for a in record.allocations
                )
                if anew and not self.blind and not self.unsure:
                    self._fits(offset, record)
                for allocation in record.allocations:
                    shown = self.after.get(allocation.id)
                    if shown is not None and record.mode == "renew":
                        self.renewed[allocation.id] = at_ms
                    elif shown is not None and allocation.id not in self.now:
                        self._add(shown)
                        self.granted[allocation.id] = at_ms
                        self.by_claim[allocation.id] = offset
            elif isinstance(record, Confirm):
                self.confirmed.add(record.allocation)

    # -- the outcome --------------------------------------------------------------------------------------------------------------------

    def _ends_as_shown(self) -> None:
        """The entries must explain what the report shows, allocation by allocation."""
        for identity in self.now.keys() - self.after.keys():
            self._violated(3, f"holds {identity} no more and says neither that it lapsed, failed nor was released")
        for identity in self.after.keys() - self.now.keys():
            if self.after[identity].origin != "found":
                self._violated(6, f"holds {identity}, which no claim that it settled explains")
        for identity, shown in self.after.items():
            was = self.before.get(identity)
            grown = was is not None and becomes(was, shown) and was.replaces not in self.after
            if (was is None or grown) and shown.cells and shown.origin != "found":
                old = self.before.get(was.replaces) if was is not None else None
                for wrong in misgiven(shown, self.claims.get(shown.id, (None,))[0], self.after, self.facts, was, old):
                    self._violated(1, wrong)
            if was is None or was is shown or was == shown:
                continue
            if was.assigned != shown.assigned and shown.origin != "found" and not grown:
                self._violated(6, f"gave {identity} other cpus or devices than before")
            changed = not same_shape(was, shown) or was.becomes != shown.becomes
            if changed and shown.origin != "found" and not grown:
                self._violated(6, f"changed the content of {identity}")
            if was.state == "active" and shown.state == "leased" and identity not in self.granted:  # else ended before
                self._violated(5, f"turned {identity} from active to leased")
            if was.state == "leased" and shown.state == "active" and identity not in self.confirmed and not self.gap:
                self._violated(2, f"made {identity} active, and says not that it was confirmed")

    def _follow_leases(self) -> None:
        """Leases in log time: from the claim's record at the earliest, from this report at the latest; anew from a start record."""
        host, at_ms, leases = self.host, self.at_ms, self.host.leases
        if not leases and not self.granted and not host.fresh and not self.blind:
            return
        anew = host.fresh or self.blind
        followed: dict[str, Lease] = {}
        for identity, allocation in self.after.items():
            if allocation.state != "leased":
                continue
            known = leases.get(identity)
            since_ms = self.granted.get(identity, self.renewed.get(identity, -1))
            if since_ms >= 0:
                followed[identity] = Lease(since_ms + allocation.lease_ms, at_ms + allocation.lease_ms)
            elif known is None or anew:
                from_ms = host.started_ms if host.fresh and not self.blind else -allocation.lease_ms
                followed[identity] = Lease(from_ms + allocation.lease_ms, at_ms + allocation.lease_ms)
            else:
                followed[identity] = known
        host.leases = followed

    # -- arithmetic ---------------------------------------------------------------------------------------------------------------------

    def _add(self, allocation: Allocation) -> None:
        self._drop(allocation.id)
        self.now[allocation.id] = allocation
        self.sum += self.hashes.of(allocation)

    def _drop(self, identity: str) -> Allocation | None:
        if self.now is self.before:
            self.now = dict(self.before)
        gone = self.now.pop(identity, None)
        if gone is not None:
            self.sum -= self.hashes.of(gone)
        return gone
