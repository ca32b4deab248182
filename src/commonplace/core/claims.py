"""Claims on their way: made, laid over the view, and settled by what hosts report.

    claim, laid over the view ──report──▶ granted: held by its slot
                               │
                               └── rejected, timed out ──▶ again

Claims to one host chain: each expects the hash that the host will have once those before it are granted. The rejection of one takes all
later ones of its chain off at once (rule 4).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from commonplace.core import hashing
from commonplace.core.cells import assign
from commonplace.core.codec import encode
from commonplace.core.group_policy import policy_of
from commonplace.core.hosts import NOTHING_FRESH
from commonplace.core.records.claims import Claim
from commonplace.core.records.hosts import Allocation
from commonplace.core.replica_events import ReplicaSettings, SendClaim
from commonplace.core.rows import Row
from commonplace.core.terms_of_claims import Growth, image_of, lay_on, limits
from commonplace.core.view import View
from commonplace.core.work import OPEN, Held, Pending, Work


@dataclass
class Counts:
    """Figures of a replica since its start."""

    granted: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    timed_out: int = 0
    void: int = 0
    strays: int = 0

    @property
    def conflict_fraction(self) -> float:
        """Rejected claims per granted claim (Omega's measure)."""
        return sum(self.rejected.values()) / self.granted if self.granted else 0.0


class Claims:
    """The claims of one replica that have no verdict yet, and its renewals of leases.

    `held` is told of a work whose instances all hold their allocation, `again` of an instance whose claim came to nothing, and why,
    `stray` of an allocation that no slot waits for.
    """

    def __init__(
        self,
        name: str,
        nonce: str,
        view: View,
        settings: ReplicaSettings,
        claims_topic: str,
        send: Callable[[SendClaim], None],
        held: Callable[[Work], None],
        again: Callable[[Work, int, str], None],
        stray: Callable[[Row, Allocation], None],
    ) -> None:
        self.name, self.nonce, self.view, self.settings, self.claims_topic = name, nonce, view, settings, claims_topic
        self._send, self._held, self._again, self._stray = send, held, again, stray
        self.counts = Counts()
        self.pending: dict[str, Pending] = {}  # claims without a verdict, oldest first
        self.renewals: dict[str, Pending] = {}
        self.settled = False  # whether any was since somebody last looked
        self._serial = 0

    # -- claim --------------------------------------------------------------------------------------------------------------------------

    def claim(self, row: Row, work: Work, index: int, now_ms: int, growth: Growth | None = None) -> None:
        """Claim a host for an instance: lay the claim over the view, and send it."""
        self._serial += 1
        build, ask = work.build, work.ask
        allocation_id = f"{self.nonce}-{self._serial:x}"
        resources = work.resources
        if growth is None:
            laid = lay_on(row, work) if row.host.cells else None
        else:
            resources, laid = growth.resources, (growth.cells, growth.terms) if growth.terms else None
        taken = laid[0] if laid else {}
        plain = not taken and growth is None
        tail = work.allocation_tail if plain else hashing.tail_bytes(resources, build.group, taken)
        allocation = Allocation(
            id=allocation_id,
            request=build.id,
            index=index,
            instance=work.instance(index),
            flavor=build.flavor,
            project=build.project,
            user=build.user,
            kind=build.kind,
            group=build.group,
            resources=resources,
            image=image_of(build, ask),
            cells=taken,
            replaces=growth.old if growth is not None else "",
            becomes=growth.whole if growth is not None else None,
            policy=policy_of(build) if build.group else "",
        )
        builds_max, instances_max = limits(row, build, ask)
        claim = Claim(
            host=row.host.name,
            request=build.id,
            replica=self.name,
            mode=self.settings.mode,  # type: ignore[arg-type]  # settings.py holds it to strict or fits
            expected=hashing.to_hex(row.predicted_hash),
            lease_ms=work.lease_ms,
            allocations=[allocation],
            traits_required=ask.traits_required,
            traits_forbidden=ask.traits_forbidden,
            group_max=build.group_max,
            builds_max=builds_max,
            instances_max=instances_max,
            traits_any_of=build.traits_any_of,
        )
        # its filters went by labels; under `strict` the expected hash covers these
        if claim.mode == "fits" and ask.rules is not None:
            claim.host_hash = hashing.to_hex(row.host.host_hash)
        pending = Pending(
            allocation_id,
            resources,
            build.group,
            hashing.id_hash(allocation_id, tail),
            work=work,
            index=index,
            row=row,
            sent_ms=now_ms,
        )
        if laid:
            pending.cells, claim.threads, claim.shares = taken, laid[1].threads, dict(laid[1].shares)
            pending.assigned = assign(row.cells, taken, laid[1])
        work.slots[index].pending = pending
        work.first_claim_ms = work.first_claim_ms or now_ms
        self.pending[allocation_id] = pending
        self.view.lay(row, pending)
        self._send(SendClaim(row.partition, row.host.name.encode(), encode(claim), allocation_id, work.trace))

    def renew(self, work: Work, index: int, row: Row, allocation: Allocation, now_ms: int) -> None:
        """Start the lease of an allocation anew; the slot holds it once a report shows that the ledger took the renewal in."""
        pending = Pending(allocation.id, {}, "", 0, work=work, index=index, row=row, sent_ms=now_ms)
        work.slots[index].pending = pending
        self.renewals[allocation.id] = pending
        row.renewals = [*row.renewals, pending]
        claim = Claim(
            host=row.host.name,
            request=work.build.id,
            replica=self.name,
            mode="renew",
            lease_ms=work.lease_ms,
            allocations=[allocation],
        )
        self._send(SendClaim(row.partition, row.host.name.encode(), encode(claim), allocation.id, work.trace))

    # -- settle -------------------------------------------------------------------------------------------------------------------------

    def settle(self, row: Row, now_ms: int) -> None:
        """Hold the pending claims of a host against its newest report."""
        host = row.host
        if host.stale:
            return
        through = host.claims_through if host.claims_topic == self.claims_topic else -1
        strict, broken = self.settings.mode == "strict", False
        ours = set()
        for pending in row.pending[:]:
            assert isinstance(pending, Pending)
            if pending.allocation_id in host.allocations:
                ours.add(pending.allocation_id)
                self._granted(pending)
            elif 0 <= pending.offset <= through:
                self._rejected(pending, _reason(row, pending))
                broken = strict
            elif broken:  # predicted on a state that never came
                self._rejected(pending, "chain")
        for pending in row.renewals[:]:
            assert isinstance(pending, Pending)
            if 0 <= pending.offset <= through:
                row.renewals.remove(pending)
                self.renewals.pop(pending.allocation_id, None)
                self._renewed(row, pending)
        for allocation in host.fresh:
            if allocation.state == "leased" and allocation.id not in ours:
                self._stray(row, allocation)
        host.fresh = NOTHING_FRESH

    def delivered(self, allocation_id: str, offset: int, now_ms: int) -> None:
        """A claim's offset became known; its verdict may have been reported before."""
        pending = self.pending.get(allocation_id) or self.renewals.get(allocation_id)
        if pending is None:
            return
        if offset < 0:
            self._give_up(pending, "undelivered")
            return
        pending.offset = offset
        if offset <= pending.row.host.claims_through:
            self.settle(pending.row, now_ms)

    def timeouts(self, now_ms: int) -> None:
        """Give up claims that nobody answered in time."""
        limit = now_ms - self.settings.claim_timeout_ms
        for table in (self.pending, self.renewals):
            for pending in list(table.values()) if table and next(iter(table.values())).sent_ms <= limit else ():
                if pending.sent_ms > limit:
                    break
                self._give_up(pending, "unanswered")

    def _granted(self, pending: Pending) -> None:
        row, work = pending.row, pending.work
        self._lift(pending)
        self.counts.granted += 1
        allocation = row.host.allocations[pending.allocation_id]
        slot = work.slots[pending.index]
        if work.state != OPEN or slot.pending is not pending:
            self._stray(row, allocation)
            return
        slot.pending = None
        self._hold(row, pending, allocation)

    def _renewed(self, row: Row, pending: Pending) -> None:
        self.settled = True  # an instance that must not be ranked beside it may be now
        work, slot = pending.work, pending.work.slots[pending.index]
        if slot.pending is not pending:
            return
        slot.pending = slot.held = None
        if work.state != OPEN:  # answered meanwhile: given back with all that the effective decision does not name
            work.strays.append((row, pending.allocation_id))
            return
        allocation = row.host.allocations.get(pending.allocation_id)
        if allocation is None:  # lapsed before the renewal came
            self._again(work, pending.index, "")
            return
        self._hold(row, pending, allocation)

    def _hold(self, row: Row, pending: Pending, allocation: Allocation) -> None:
        """Let a slot hold its allocation, under the lease that the ledger reports: it may be shorter than the one asked for."""
        work = pending.work
        work.slots[pending.index].held = Held(
            row,
            allocation.id,
            allocation.instance,
            row.offset,
            pending.sent_ms,
            min(work.lease_ms, allocation.lease_ms or work.lease_ms),
            allocation.state == "active",
        )
        if work.complete:
            self._held(work)

    def _rejected(self, pending: Pending, reason: str) -> None:
        self._lift(pending)
        rejected = self.counts.rejected
        rejected[reason] = rejected.get(reason, 0) + 1
        self._retry(pending, reason)

    def _give_up(self, pending: Pending, reason: str) -> None:
        """A claim of unknown fate is left behind; granted after all, it shows as a stray. What was to be renewed is one already."""
        if self.renewals.pop(pending.allocation_id, None) is not None:
            self.settled = True
            pending.row.renewals.remove(pending)
            pending.work.slots[pending.index].held = None
            pending.work.strays.append((pending.row, pending.allocation_id))
        else:
            self._lift(pending)
        self.counts.timed_out += 1
        self._retry(pending, reason)

    def _lift(self, pending: Pending) -> None:
        self.pending.pop(pending.allocation_id, None)
        self.view.lift(pending.row, pending)
        self.settled = True

    def _retry(self, pending: Pending, reason: str) -> None:
        work, slot = pending.work, pending.work.slots[pending.index]
        if slot.pending is pending:
            slot.pending = None
            if work.state == OPEN:
                work.conflicts += 1
                self._again(work, pending.index, reason)


def _reason(row: Row, pending: Pending) -> str:
    """Why a ledger turned a claim down, as its report says."""
    for settled in row.host.settled:
        if settled.allocation == pending.allocation_id and settled.verdict == "rejected":
            return settled.reason
    return "unreported"
