"""Replay of what one report settled over the state of the report before (invariants 1, 3, 5 and 6).

The settled entries are the ledger's own account, in order. What has no place in that order (a change of the inventory, an instance that
the driver found) may have happened before or after any entry, so a check fails only if it fails either way.
"""

from collections.abc import Iterator, Mapping
from itertools import groupby

from msgspec import Struct, field
from msgspec.structs import replace

from commonplace.ops.audit.claims import Claims
from commonplace.ops.audit.evidence import Options
from commonplace.ops.audit.findings import Findings
from commonplace.ops.audit.hashes import MODULUS, UNORDERED_MAX, allocation_hash, sums
from commonplace.ops.audit.state import Held, View, alone, amounts_of, becomes, same_shape
from commonplace.ops.audit.suits import unit_fits, unsuited
from commonplace.ops.audit.wire_hosts import Allocation, Claim, Delta, Settled, Snapshot


class Place(Struct, frozen=True):
    """Where the report stands, and whose it is."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    host: str


class Lease(Struct, frozen=True, gc=False):
    """When a lease may lapse at the earliest and at the latest, in log time without slack; `claimed_ms`: since when there is one, or 0."""

    earliest_ms: int
    latest_ms: int
    claimed_ms: int = 0


class Told(Struct):
    """What the settled entries say became of allocations.

    `weighed` were held against capacity at their grant; `renewed` gives the length of the new lease where the claim is known;
    `whole` took the place of what they replace; `claims` are those of what was granted; `claimed_ms` has the log times of those and of
    renewals.
    """

    granted: set[str] = field(default_factory=set)
    weighed: set[str] = field(default_factory=set)
    ended: set[str] = field(default_factory=set)
    whole: set[str] = field(default_factory=set)
    renewed: dict[str, int] = field(default_factory=dict)
    claims: list[Claim] = field(default_factory=list)
    claimed_ms: dict[str, int] = field(default_factory=dict)

    def granted_ms(self, allocation: str) -> int:
        """Log time of the claim by which an allocation was granted, 0 where that is not told."""
        return self.claimed_ms.get(allocation, 0) if allocation in self.granted else 0


class Replay:
    """One report's settled entries over the state before; `blind` says why that state cannot be trusted, "" when it can."""

    def __init__(
        self, place: Place, before: View | None, after: View, blind: str, claims: Claims, findings: Findings
    ) -> None:
        self.place, self.after, self.blind = place, after, blind if before is not None else blind or "no earlier report"
        self._claims, self._findings = claims, findings
        self.now = before.copy() if before is not None else View()
        self._facts = [facts for facts in (self.now.facts, after.facts) if facts is not None]
        self._unordered = self._changes(before) if before is not None else []
        self._confirmed: set[str] = set()
        self._replaced: set[str] = set()
        self._last_expected = ""
        self.told = Told()

    def run(self, record: Snapshot | Delta, leases: dict[str, Lease], options: Options) -> Told:
        """Go through all entries."""
        known_topic = record.claims_topic == self._claims.topic_id
        for (offset, verdict), entries in groupby(record.settled, lambda s: (s.offset, s.verdict)):
            group = list(entries)
            if offset > record.claims_through:
                self._violated(6, f"settles the claim at {offset}, beyond its own watermark {record.claims_through}")
            claimed = self._claims.at(self.place.host, offset) if known_topic and offset >= 0 else None
            claim = claimed.record if claimed is not None else None
            if claimed is not None and verdict in ("granted", "renewed"):
                self.told.claimed_ms.update((asked.id, claimed.timestamp_ms) for asked in claimed.record.allocations)
            match verdict:
                case "granted":
                    self._granted(group, claim, self._why_missing(offset, known_topic))
                case "renewed":
                    self._renewed(group, claim)
                case "confirmed":
                    self._confirm(group)
                case "released" | "lapsed" | "failed" | "lost":
                    self._ended(group, leases, options)
                case "rejected":
                    self._findings.figures["claims_rejected"] += 1
                    self._findings.figures[f"rejected_{group[0].reason or 'unsaid'}"] += 1
        return self.told

    # -- entries ------------------------------------------------------------------------------------------------------------------------

    def _granted(self, group: list[Settled], claim: Claim | None, why_missing: str) -> None:
        self._findings.figures["claims_granted"] += 1
        named = {entry.allocation for entry in group if entry.allocation}
        self.told.granted |= named
        if claim is None or claim.mode == "renew":
            if why_missing and claim is None:
                self._findings.unprovable(6, why_missing)
            else:
                self._violated(6, f"says it granted the claim at {group[0].offset}, which claims nothing for this host")
            self._take_from_report(named)
            return
        asked = claim.allocations
        stray = named - {allocation.id for allocation in asked}
        if stray:
            self._violated(6, f"says that the claim at {group[0].offset} was for {min(stray)}, which it is not")
        self.told.granted.update(allocation.id for allocation in asked)
        self._state(group[0].offset, claim)
        self._fits(group[0].offset, claim)
        for allocation in asked:
            self._take(group[0].offset, allocation)
        self.told.claims.append(claim)
        self._last_expected = claim.expected if claim.mode == "strict" else ""

    def _state(self, offset: int, claim: Claim) -> None:
        """A strict claim is granted only on the state it expects."""
        if claim.mode != "strict":
            return
        if self.blind:
            self._findings.unprovable(6, self.blind)
        elif int(claim.expected, 16) == self.now.hash:
            self._findings.passed(6)
        elif len(self._unordered) > UNORDERED_MAX:
            self._findings.unprovable(6, "too many changes in one report to tell their order")
        elif (int(claim.expected, 16) - self.now.hash) % MODULUS in sums(self._unordered):
            self._findings.passed(6)
        elif claim.expected == self._last_expected:
            self._violated(
                6, f"grants the claim at {offset} on state {claim.expected}, on which it granted another just before"
            )
        else:
            self._violated(
                6, f"grants the strict claim at {offset}, which expects {claim.expected}, on state {self.now.hash:016x}"
            )

    def _fits(self, offset: int, claim: Claim) -> None:
        """Resources, units, traits, status and limits hold at the moment of the grant, as far as the log shows it."""
        if self.blind:
            return
        wrong = next(self._misfits(claim), None)
        if wrong is None:
            self._findings.passed(6)
        else:
            self._violated(6, f"grants the claim at {offset} although {wrong}")
        self.told.weighed.update(allocation.id for allocation in claim.allocations)
        over = self._over(claim)
        if over:
            self._violated(1, f"grants the claim at {offset} past capacity: {over}")
        else:
            self._findings.passed(1)

    def _misfits(self, claim: Claim) -> Iterator[str]:
        asked, facts = claim.allocations, self._facts
        yield from unsuited(claim, facts)
        yield from self._replaced_wrongly(asked)
        for allocation in asked:
            for name, amount in alone(allocation).resources.items():
                if amount and not any(unit_fits(f.inventory, name, amount) for f in facts):
                    yield f"{amount} of {name} is no amount the host gives to one allocation"
        held, count = self.now.held, len(asked)
        leaving = sum(allocation.replaces in held for allocation in asked)
        here = self._members(claim) if claim.group_max and asked[0].group else 0
        if claim.group_max and asked[0].group and here + count > claim.group_max:
            yield f"{here} of group {asked[0].group} are here and {claim.group_max} may be"
        if claim.instances_max and len(held) - leaving + count > claim.instances_max:
            yield f"{len(held)} instances are here and {claim.instances_max} may be"
        if claim.builds_max:
            builds = self._builds(claim)
            if builds > claim.builds_max:
                yield f"{builds} builds are then in progress and {claim.builds_max} may be"

    def _replaced_wrongly(self, asked: list[Allocation]) -> Iterator[str]:
        """What replaces another holds with it, class by class, at least what it becomes: else the host is overbooked at the confirm."""
        for allocation in asked:
            whole, old = allocation.becomes, self.now.held.get(allocation.replaces)
            if whole is None and not allocation.replaces:
                continue
            if old is None or whole is None:
                yield f"it replaces {allocation.replaces or 'nothing'}, which is not held"
                return
            mine = (old.allocation.instance, old.allocation.project) == (allocation.instance, allocation.project)
            if not mine or old.allocation.origin == "found":
                yield f"it replaces {allocation.replaces}, which is none of its instance's"
            had = _by_class(old.allocation.resources, old.allocation.cells)
            more = _by_class(allocation.resources, allocation.cells)
            for name, amount in _by_class(whole.resources, whole.cells).items():
                if had.get(name, 0) + more.get(name, 0) < amount:
                    yield f"{had.get(name, 0)} and {more.get(name, 0)} more are not the {amount} {name} that it becomes"

    def _members(self, claim: Claim) -> int:
        """Members of the claim's group, without the very instances that it asks for under another request: those move or grow."""
        moving = {(a.instance, a.project) for a in claim.allocations if a.instance}
        there = [h.allocation for h in self.now.held.values() if h.allocation.group == claim.allocations[0].group]
        return sum(a.request == claim.request or (a.instance, a.project) not in moving for a in there)

    def _builds(self, claim: Claim) -> int:
        """Builds surely in progress right after the grant: those in progress still when the report was made."""
        after = self.after.held
        there = {*self.now.held, *(allocation.id for allocation in claim.allocations)}
        return sum(1 for i in there if i in after and after[i].allocation.building)

    def _over(self, claim: Claim) -> str:
        asked: dict[str, int] = {}
        for allocation in claim.allocations:
            for name, amount in amounts_of(allocation).items():
                asked[name] = asked.get(name, 0) + amount
        for name, amount in asked.items():
            used, capacity = self.now.used.get(name, 0), max(f.capacity(name) for f in self._facts)
            if amount and used + amount > capacity:
                return f"{used} + {amount} of {capacity} {name}"
        return ""

    def _take(self, offset: int, asked: Allocation) -> None:
        """Put a granted allocation into the state, as a ledger holds it: without amounts of 0."""
        if not all(asked.resources.values()):
            asked = replace(asked, resources={name: amount for name, amount in asked.resources.items() if amount})
        if not self.blind and asked.id in self.now.held:
            self._violated(6, f"grants {asked.id} by the claim at {offset} although it holds it")
        shown = self.after.held.get(asked.id)
        if shown is not None and same_shape(shown.allocation, asked) and shown.allocation.becomes == asked.becomes:
            self.now.add(shown)
            return
        if shown is not None and not becomes(asked, shown.allocation):
            self._violated(6, f"holds {asked.id} otherwise than the claim at {offset} asked for it")
        self.now.add(Held(asked, allocation_hash(asked.id, asked.resources, asked.group, asked.cells)))

    def _take_from_report(self, named: set[str]) -> None:
        """Put allocations into the state whose claim is not there; if the report shows them no more the state is lost."""
        for allocation in named:
            if allocation in self.after.held:
                self.now.add(self.after.held[allocation])
            else:
                self.blind = self.blind or "a claim granted in between is gone"

    def _renewed(self, group: list[Settled], claim: Claim | None) -> None:
        for entry in group:
            if not self.blind and entry.allocation not in self.now.held:
                self._violated(5, f"renews the lease of {entry.allocation}, which it does not hold")
            held = self.now.held.get(entry.allocation)
            self.told.renewed[entry.allocation] = claim.lease_ms if claim else held.allocation.lease_ms if held else 0

    def _confirm(self, group: list[Settled]) -> None:
        for entry in group:
            self._findings.figures["confirmed"] += 1
            self._confirmed.add(entry.allocation)
            held = self.now.held.get(entry.allocation)
            if not self.blind and held is None:
                self._violated(5, f"confirms {entry.allocation}, which it does not hold")
            if held is not None and held.allocation.replaces:
                self.told.ended.add(held.allocation.replaces)
                self._replaced.add(held.allocation.replaces)
                self.now.drop(held.allocation.replaces)
                self._stands_alone(held.allocation)

    def _stands_alone(self, part: Allocation) -> None:
        """What it replaced is gone: from here on it takes all that it becomes."""
        self.told.whole.add(part.id)
        shown = self.after.held.get(part.id)
        if shown is None or not becomes(part, shown.allocation):
            whole = alone(part)
            shown = Held(whole, allocation_hash(whole.id, whole.resources, whole.group, whole.cells))
        self.now.add(shown)

    def _ended(self, group: list[Settled], leases: dict[str, Lease], options: Options) -> None:
        for entry in group:
            allocation, verdict = entry.allocation, entry.verdict
            self._findings.figures[verdict] += 1
            self.told.ended.add(allocation)
            if verdict == "released" and allocation in self._replaced:
                continue  # by the confirm before
            held = self.now.drop(allocation)
            for part in [h.allocation for h in self.now.held.values() if h.allocation.replaces == allocation]:
                self._stands_alone(part)
            self._last_expected = ""
            if verdict != "lapsed" or self.blind:
                continue
            lease = leases.get(allocation)
            if allocation in self._confirmed or (held is not None and held.allocation.state == "active"):
                self._violated(3, f"lets {allocation} lapse, which was confirmed")
            elif (
                lease
                and allocation not in self.told.renewed
                and self.place.timestamp_ms + options.slack_ms + options.skew_ms < lease.earliest_ms
            ):
                early_s = (lease.earliest_ms - self.place.timestamp_ms) / 1000
                self._violated(3, f"lets {allocation} lapse {early_s:.0f} s before its lease is over")

    # -- helpers ------------------------------------------------------------------------------------------------------------------------

    def _changes(self, before: View) -> list[int]:
        """Hash steps without a place in the order; instances found gone are taken out of the state's use at once."""
        steps = []
        if before.facts and self.after.facts and before.facts is not self.after.facts:
            steps.append(self.after.facts.hash - before.facts.hash)
        elif before.facts is None and self.after.facts:
            self.now.facts = self.after.facts
        for allocation, held in before.held.items():
            if held.allocation.origin == "found" and self.after.held.get(allocation) is not held:
                self.now.drop(allocation)
                steps.append(held.hash)  # it may still have been there
        for allocation, held in self.after.held.items():
            if held.allocation.origin == "found" and before.held.get(allocation) is not held:
                steps.append(held.hash)
        return [step for step in steps if step % MODULUS]

    def _why_missing(self, offset: int, known_topic: bool) -> str:
        if not known_topic:
            return "the claims topic is another one now"
        return "the claim is gone by retention" if self._claims.lost(self.place.host, offset) else ""

    def _violated(self, invariant: int, text: str) -> None:
        place = self.place
        self._findings.violated(invariant, f"{place.host} {text}", place.topic, place.partition, place.offset)


def _by_class(resources: Mapping[str, int], cells: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """Amounts by class, and by class and cell."""
    parts = {f"{name} of cell {cell}": n for cell, amounts in cells.items() for name, n in amounts.items()}
    return {**resources, **parts}
