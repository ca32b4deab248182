"""A host's ledger: what it holds, and the verdict on every claim, confirm and release (rules 3 to 6).

    absent ──claim──▶ leased ──confirm──▶ active
       ▲                │ lapse, release      │ release, failed, gone
       └────────────────┴─────────────────────┘

`receive` is the only place that changes it. Times are milliseconds of the agent's own clock (monotonic, counting suspend).
"""

from collections.abc import Mapping
from typing import Any, Final

from msgspec.structs import replace

from commonplace.core import replacing
from commonplace.core.cells import assign
from commonplace.core.claim_checks import refusal_of, terms_of
from commonplace.core.hosts import HostState
from commonplace.core.ledger_events import (
    FOUND_PREFIX,
    Bounds,
    Change,
    Configure,
    Event,
    Failed,
    Found,
    Gone,
    Lapse,
    Taken,
    Unreadable,
    Up,
    found_id,
)
from commonplace.core.ledger_reports import ReportedHoldings
from commonplace.core.records.claims import Claim, Confirm
from commonplace.core.records.hosts import Allocation, Reason, State, Verdict
from commonplace.core.resources import AMOUNT_MAX

NO_OFFSET: Final = -1

TRANSITIONS: dict[tuple[str, str], tuple[Any, Verdict, Reason]] = {
    # (state, event): (state after, verdict, reason)
    ("absent", "claim"): ("leased", "granted", ""),
    ("leased", "claim"): ("leased", "ignored", ""),
    ("active", "claim"): ("active", "ignored", ""),
    ("absent", "renew"): ("absent", "rejected", "expired"),
    ("leased", "renew"): ("leased", "renewed", ""),
    ("active", "renew"): ("active", "ignored", ""),
    ("absent", "confirm"): ("absent", "late", ""),
    ("leased", "confirm"): ("active", "confirmed", ""),
    ("active", "confirm"): ("active", "ignored", ""),
    ("absent", "release"): ("absent", "ignored", ""),
    ("leased", "release"): ("absent", "released", ""),
    ("active", "release"): ("absent", "released", ""),
    ("absent", "release_leased"): ("absent", "ignored", ""),
    ("leased", "release_leased"): ("absent", "released", ""),
    ("active", "release_leased"): ("active", "ignored", ""),
    ("absent", "lapse"): ("absent", "ignored", ""),
    ("leased", "lapse"): ("absent", "lapsed", ""),
    ("active", "lapse"): ("active", "ignored", ""),
    ("absent", "failed"): ("absent", "ignored", ""),
    ("leased", "failed"): ("absent", "failed", ""),
    ("active", "failed"): ("absent", "failed", ""),
    ("absent", "gone"): ("absent", "ignored", ""),
    ("active", "gone"): ("absent", "lost", ""),
}
"""What becomes of an allocation. A claim that finds it absent is granted only if `_refusal` has nothing to say."""


class Ledger(ReportedHoldings):
    """The allocations of one host in one epoch. Only its agent writes it."""

    __slots__ = ("claims_end_at_start", "leases", "started_log_time_ms")

    def __init__(
        self,
        host: str,
        epoch: int,
        started_log_time_ms: int,
        claims_topic: str,
        claims_through: int,
        bounds: Bounds = Bounds(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__(host, epoch, claims_topic, claims_through, bounds)
        self.started_log_time_ms = started_log_time_ms
        # a claim from here on is younger than the start record, whatever the log's clock says
        self.claims_end_at_start = AMOUNT_MAX
        self.leases: dict[str, int] = {}  # allocation → when it lapses, unless confirmed

    @classmethod
    def recover(
        cls,
        state: HostState,
        epoch: int,
        started_log_time_ms: int,
        now_ms: int,
        bounds: Bounds = Bounds(),  # noqa: B008 - frozen
    ) -> "Ledger":
        """Go on from the host's last report: its allocations, with every lease anew and in full."""
        ledger = cls(state.name, epoch, started_log_time_ms, state.claims_topic, state.claims_through, bounds)
        ledger.gap = state.gap
        for allocation in state.allocations.values():
            ledger.add(allocation)
            if allocation.state == "leased":
                ledger.leases[allocation.id] = now_ms + allocation.lease_ms
        return ledger

    # -- events -------------------------------------------------------------------------------------------------------------------------

    def receive(self, event: Event, now_ms: int) -> list[Change]:
        """Take one event; returns what it changed. What the next report must tell is noted in `settled`."""
        match event:
            case Taken():
                return self._take(event, now_ms)
            case Unreadable(offset, reason):
                self.claims_through = max(self.claims_through, offset)
                self.settle(offset, "rejected", reason)
                return []
            case Lapse():
                lapses_ms = self.leases.get(event.allocation)
                if lapses_ms is None or lapses_ms > event.asked_at_ms:
                    return []  # renewed or confirmed on the way
                return self._move(event.allocation, "lapse", NO_OFFSET)
            case Up(allocation):
                return self._up(allocation)
            case Failed(allocation, why):
                return self._move(allocation, "failed", NO_OFFSET, why[:128])
            case Found():
                return self._found(event)
            case Gone(instance):
                return self._move(found_id(instance), "gone", NO_OFFSET)
            case Configure():
                self.configure(event)
                self.gap = self.gap and not event.gap_cleared
                return []

    def _take(self, taken: Taken, now_ms: int) -> list[Change]:
        if taken.offset <= self.claims_through:
            return []  # taken into account by an earlier report
        self.claims_through = taken.offset
        record = taken.record
        if isinstance(record, Claim):
            return self._claim(taken, record, now_ms)
        if record.allocation.startswith(FOUND_PREFIX):
            self.settle(taken.offset, "ignored", "", record.allocation, "only its driver ends a found instance")
            return []
        if isinstance(record, Confirm):
            return self._move(record.allocation, "confirm", taken.offset)
        return self._move(record.allocation, "release_leased" if record.leased_only else "release", taken.offset)

    def _claim(self, taken: Taken, claim: Claim, now_ms: int) -> list[Change]:
        # of what is held, whatever the log's clock says: the replica takes its being held for a yes
        if claim.mode == "renew":
            return self._renew(taken.offset, claim, now_ms)
        waited = taken.offset < self.claims_end_at_start
        if waited and taken.log_time_ms + claim.lease_ms < self.started_log_time_ms:
            return self._reject(taken.offset, claim, "expired", "its lease ran out before this agent started")
        for asked in claim.allocations:
            if asked.id in self.allocations:
                self.settle(taken.offset, "ignored", "", claim.allocations[0].id, "held already")
                return []
        reason, why = self._refusal(claim)
        if reason:
            return self._reject(taken.offset, claim, reason, why)
        return [self._grant(taken.offset, asked, claim, now_ms) for asked in claim.allocations]

    def _renew(self, offset: int, claim: Claim, now_ms: int) -> list[Change]:
        """Start leases anew; the new length is reported, because after a restart the lease is what the report says."""
        lease_ms = min(claim.lease_ms, self.bounds.lease_ms_max)
        changes = []
        for asked in claim.allocations:
            self._move(asked.id, "renew", offset)
            if asked.id not in self.leases:
                continue
            before = after = self.allocations[asked.id]
            if before.lease_ms != lease_ms:
                after = self.allocations[asked.id] = replace(before, lease_ms=lease_ms)
                self.upsert(asked.id)
            self.leases[asked.id] = now_ms + lease_ms
            changes.append(Change(before, after))
        return changes

    def _grant(self, offset: int, asked: Allocation, claim: Claim, now_ms: int) -> Change:
        state, verdict, _ = TRANSITIONS["absent", "claim"]
        lease_ms = min(claim.lease_ms, self.bounds.lease_ms_max)
        held = replace(
            asked,  # names, amounts and group are the claim's, the rest is for the ledger to say
            request=claim.request,
            resources=asked.resources if all(asked.resources.values()) else _without_zeros(asked.resources),
            assigned=assign(self.cells, asked.cells, terms_of(claim)) if asked.cells else None,
            state=state,
            building=True,
            lease_ms=lease_ms,
            origin="claim",
        )
        self.add(held)
        self.leases[held.id] = now_ms + lease_ms
        self.upsert(held.id)
        self.settle(offset, verdict, "", held.id)
        return Change(None, held)

    def _refusal(self, claim: Claim) -> tuple[Reason, str]:
        return refusal_of(self, claim, self.bounds.allocation_bytes_max)

    def _reject(self, offset: int, claim: Claim, reason: Reason, why: str) -> list[Change]:
        for asked in claim.allocations:
            self.settle(offset, "rejected", reason, asked.id, why)
        return []

    def _move(self, allocation_id: str, event: str, offset: int, detail: str = "") -> list[Change]:
        """Send an allocation along the table."""
        before = self.allocations.get(allocation_id)
        state = before.state if before else "absent"
        if event == "confirm" and before is not None and before.replaces:
            state = "leased"  # even one that is active because of a gap: its confirm lets go what it replaces
        try:
            after_state, verdict, reason = TRANSITIONS[state, event]
        except KeyError:
            raise AssertionError(
                f"allocation {allocation_id} of {self.host} is {state}, which knows no {event}"
            ) from None
        if verdict != "ignored" or offset != NO_OFFSET:
            self.settle(offset, verdict, reason, allocation_id, detail)
        if after_state == state or before is None:
            return []
        self.leases.pop(allocation_id, None)
        if after_state == "absent":
            self.remove(before)
            self.drop(allocation_id)
            return [Change(before, None), *self._stands_alone(before)]
        if before.replaces:
            return self._replace(before, offset)
        after = self.allocations[allocation_id] = replace(before, state=after_state)  # neither hash nor room changes
        self.upsert(allocation_id)
        return [Change(before, after)]

    def _replace(self, confirmed: Allocation, offset: int) -> list[Change]:
        """A confirm lets go what the allocation replaces: first that, so that its driver stops before it starts."""
        old = self.allocations.get(confirmed.replaces)
        changes = []
        if old is not None:
            self.settle(offset, "released", "", old.id, f"replaced by {confirmed.id}"[:128])
            self.remove(old)
            self.drop(old.id)
            changes.append(Change(old, None))
        return changes + self._become(confirmed, old, "active")

    def _stands_alone(self, gone: Allocation) -> list[Change]:
        """What was to replace an allocation that went by itself is whole from now on."""
        successor = self.allocations.get(self.successors.get(gone.id, ""))
        return [] if successor is None else self._become(successor, gone, successor.state)

    def _become(self, part: Allocation, old: Allocation | None, state: State) -> list[Change]:
        whole = replace(replacing.alone(part, old, self.cells), state=state)
        self.remove(part)
        self.add(whole)
        self.upsert(whole.id)
        return [Change(part, whole)]

    def _up(self, allocation_id: str) -> list[Change]:
        before = self.allocations.get(allocation_id)
        if before is None or not before.building:
            return []
        after = self.allocations[allocation_id] = replace(before, building=False)
        self.builds -= 1
        self.upsert(allocation_id)
        return [Change(before, after)]

    def _found(self, found: Found) -> list[Change]:
        allocation = Allocation(
            id=found_id(found.instance),
            instance=found.instance,
            flavor=_shown(found.flavor),
            project=_shown(found.project),
            user=_shown(found.user),
            kind=_shown(found.kind),
            group=_shown(found.group),
            resources=found.resources,
            cells=found.cells,
            assigned=found.assigned,
            state="active",
            origin="found",
        )
        before = self.allocations.get(allocation.id)
        if before == allocation:
            return []
        if before is not None:
            self.remove(before)
        self.add(allocation)
        self.upsert(allocation.id)
        return [Change(before, allocation)]

    def assume_active(self) -> None:
        """Claims were lost to retention: what is held now stays held, and the host says `gap` until an operator clears it."""
        self.gap = True
        self.leases.clear()
        for allocation in list(self.allocations.values()):
            if allocation.state == "leased":
                self.allocations[allocation.id] = replace(allocation, state="active")


def _without_zeros(resources: Mapping[str, int]) -> dict[str, int]:
    """Amounts of 0 are neither hashed nor held, so that their names need not be reported."""
    return {name: amount for name, amount in resources.items() if amount}


def _shown(name: str) -> str:
    """A driver's name for something, fit for a report: whatever runs must be counted, so what nobody may read gives way."""
    return name if name.isprintable() else "".join(c if c.isprintable() else "?" for c in name)
