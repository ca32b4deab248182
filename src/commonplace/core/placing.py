"""Rank and claim, and the settling of claims by what hosts report: the middle of the loop.

    queue ──rank──▶ pending claim, laid over the view ──report──▶ granted: held by its slot
      ▲                                                    │
      └───────────── rejected, timed out ──────────────────┘

Claims to one host chain: each expects the hash that the host will have once those before it are granted. The rejection of one takes all
later ones of its chain off at once (rule 4).
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import NamedTuple

from commonplace.core import hashing
from commonplace.core.cells import Terms, assign, ratios_of
from commonplace.core.choosing import choose
from commonplace.core.codec import encode
from commonplace.core.filters import traits
from commonplace.core.founding import too_small
from commonplace.core.group_policy import policy_of
from commonplace.core.hosts import NOTHING_FRESH
from commonplace.core.laying import layout_of, plan
from commonplace.core.ranking import ScoreRow, group_full, group_key, own_here, seed_of
from commonplace.core.records import Allocation, Claim, Whole
from commonplace.core.replacing import difference, standing_at
from commonplace.core.replica_events import ReplicaSettings, SendClaim
from commonplace.core.request_checks import likeness
from commonplace.core.resources import misfit
from commonplace.core.rows import Row
from commonplace.core.rules import Ask, Standing, Wishes
from commonplace.core.scoreboard import NEVER, Scoreboard
from commonplace.core.terms_of_claims import image_of, limits
from commonplace.core.view import View
from commonplace.core.work import OPEN, Held, Pending, Work

RETRY_DOUBLINGS_MAX = 5
"""A request that lost claims takes one of the best 2, 4, 8 … hosts, up to 32: who lost a race against a replica that keeps claiming the
best host would lose the next too, and be refused with room in the fleet (docs/results.md, Packing)."""

STAY_CONFLICTS_MAX = 4
"""A resize insists on its own host for so many lost claims; then it goes where it is best off, as any request."""

ASKS_TOGETHER = 16
"""From so many asks in one turn on, what changed is scored for all of them before the first: a pass costs what a dozen or so scores do."""

Item = tuple[Work, int]
"""One instance to be placed: the request's work and the index."""


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


class Growth(NamedTuple):
    """What a claim takes beyond the allocation `old`, which it replaces, to become `whole`; `terms` where cells are asked."""

    old: str
    whole: Whole
    resources: dict[str, int]
    cells: dict[str, dict[str, int]]
    terms: Terms | None


class Placer:
    """Turns queued instances into claims and claims into held allocations.

    `held` and `unplaced` are told the outcome: a slot that holds its allocation, an instance for which no host passes or none was won.
    `standing` says where a serialised group stands.
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
        unplaced: Callable[[Work, int, str], None],
        stray: Callable[[Row, Allocation], None],
        standing: Callable[[Work], Standing | None],
    ) -> None:
        self.name, self.nonce, self.view, self.settings, self.claims_topic = name, nonce, view, settings, claims_topic
        self._send, self._held, self._unplaced, self._stray = send, held, unplaced, stray
        self._standing = standing
        self.counts = Counts()
        self.queue: list[Item] = []
        self.prioritised = False  # something that names a priority was queued since the queue was last sorted
        self.parked: list[Item] = []  # nothing fits now, but a pending claim may yet fail and make room
        self.pending: dict[str, Pending] = {}  # claims without a verdict, oldest first
        self.renewals: dict[str, Pending] = {}
        self.board = Scoreboard(view)
        self.score_rows: dict[Ask, ScoreRow] = {}
        self._serial = 0
        self._settled = False
        self._nowhere: dict[tuple[Ask, str, int], bool] = {}  # asks that no host passes in this turn → may one later?

    # -- rank and claim -----------------------------------------------------------------------------------------------------------------

    def enqueue(self, work: Work) -> None:
        """Have every instance ranked that holds nothing and has nothing claimed."""
        self.prioritised = self.prioritised or work.build.priority > 0
        for index, slot in enumerate(work.slots):
            if slot.held is None and slot.pending is None:
                self.queue.append((work, index))

    def turn(self, now_ms: int) -> None:
        """Rank and claim for all that waits, flavor by flavor, as far as claims in flight allow."""
        if self._settled and self.parked:
            self.queue.extend(self.parked)
            self.parked = []
        self._settled = False
        self._nowhere = {}
        room = self.settings.claims_in_flight_max - len(self.pending)
        if not self.queue or room <= 0:
            return
        if self.prioritised:
            self.queue.sort(key=lambda item: -item[0].build.priority)  # stable: among equals who came first
            self.prioritised = False
        todo, self.queue = self.queue[:room], self.queue[room:]
        by_ask: dict[Ask, list[Item]] = {}
        for item in todo:
            if item[0].state == OPEN:
                by_ask.setdefault(item[0].ask, []).append(item)
        if len(by_ask) >= ASKS_TOGETHER:
            self.board.refresh()
        for ask, items in by_ask.items():
            row = self._score_row(ask)
            for work, index in items:
                if work.state == OPEN:  # an earlier instance of it may have failed meanwhile
                    self._place(row, work, index, now_ms)

    def _score_row(self, ask: Ask) -> ScoreRow:
        row = self.score_rows.pop(ask, None)
        if row is None:
            if len(self.score_rows) >= self.settings.score_rows_max:
                unused_longest = next(iter(self.score_rows))
                self.board.leave(self.score_rows.pop(unused_longest))
            row = ScoreRow(self.view, ask, self.board)
        self.score_rows[ask] = row
        return row

    def _place(self, scores: ScoreRow, work: Work, index: int, now_ms: int) -> None:
        build = work.build
        if build.max_skew and any(slot.pending is not None for slot in work.slots):
            self.parked.append(
                (work, index)
            )  # one instance at a time: a claim that fails would leave the others too far apart
            return None
        rules = work.ask.rules
        wishes = Wishes(build, work.ask, rules, self._standing(work)) if rules is not None else None
        key = (work.ask, group_key(build), build.group_max) if build.group_max else (work.ask, "", 0)
        if wishes is not None:  # what its filters turn away concerns only requests like it
            key = (work.ask, likeness(build), -1)
        if build.source:
            key = (work.ask, f"{build.id}#{index}", -2)
        if key not in self._nowhere:  # claims of this turn only take room, so what fitted nowhere still fits nowhere
            if build.source and self._replaces(scores, work, index, wishes, now_ms):
                return None
            row = self._choose(scores, work, index, wishes, 1 << min(work.conflicts, RETRY_DOUBLINGS_MAX))
            if row is not None:
                return self._claim(row, work, index, now_ms)
            self._nowhere[key] = self._may_fit_later(work, wishes)
        if self._nowhere[key]:
            self.parked.append((work, index))
        else:
            self._unplaced(work, index, "")
        return None

    def _choose(self, scores: ScoreRow, work: Work, index: int, wishes: Wishes | None, among: int = 1) -> Row | None:
        scores.refresh()
        barred = group_full(self.view, work.build)
        if wishes is not None and len(work.slots) > 1:
            wanted = sum(slot.held is None and not slot.given_up for slot in work.slots)
            barred += too_small(self.view, wishes, wanted, work.build.count_min)
        seed = seed_of(work.build.id, index, work.attempts)
        return scores.choose(seed, barred, among) if wishes is None else choose(scores, wishes, seed, barred, among)

    def _replaces(self, scores: ScoreRow, work: Work, index: int, wishes: Wishes | None, now_ms: int) -> bool:
        """Rank as if the instance were not where it stands; if it may stay there, claim what it grows by. False: nothing claimed.

        A resize stays wherever its host passes; of the same flavor it is no resize, and stays where no host is better (decisions/0011).
        """
        home = standing_at(self.view, work.build, work.instance(index))
        if home is None:
            return False
        row, old = home
        with self.view.without(row, old):
            resize = old.flavor != work.build.flavor and work.conflicts < STAY_CONFLICTS_MAX
            if not (resize and self._passes(scores, row, work, wishes)) and (
                self._choose(scores, work, index, wishes) is not row
            ):
                return False
            laid = (lay_on(row, work, old.cells) or lay_on(row, work)) if row.host.cells else None
        cells, terms = laid or ({}, None)
        whole = Whole(resources=work.resources, cells=cells)
        more = difference(old, whole, terms, row.host.cells)
        if more is None:
            return False
        self._claim(row, work, index, now_ms, Growth(old.id, whole, *more, terms))
        return True

    def _passes(self, scores: ScoreRow, row: Row, work: Work, wishes: Wishes | None) -> bool:
        """Whether a host would do for an instance of a request, however good others are."""
        scores.refresh()
        if scores.scores[row.index] == NEVER or row.index in group_full(self.view, work.build):
            return False
        return wishes is None or wishes.allow(self.view, row)

    def alternates(self, work: Work) -> tuple[str, ...]:
        """Hosts that would take an instance more, best first, none of those that the request was given; as many as it asks for."""
        build, rules = work.build, work.ask.rules
        found: list[str] = []
        scores = self._score_row(work.ask)
        scores.refresh()
        wishes = Wishes(build, work.ask, rules, self._standing(work)) if rules is not None else None
        barred = {*group_full(self.view, build), *(slot.held.row.index for slot in work.slots if slot.held)}
        seed = seed_of(build.id, build.count, work.attempts)
        while len(found) < build.alternates:
            row = scores.choose(seed, barred) if wishes is None else choose(scores, wishes, seed, barred)
            if row is None:
                break
            barred.add(row.index)
            found.append(row.host.name)
        return tuple(found)

    def _may_fit_later(self, work: Work, wishes: Wishes | None) -> bool:
        """Whether a host would do if the pending claims on it failed: then the answer waits for them."""
        build = work.build
        for row in {pending.row.index: pending.row for pending in self.pending.values()}.values():
            host = row.host
            if host.stale or row.status != "enabled" or not self.view.columns.alive[row.index]:
                continue
            if build.group_max and host.groups.get(build.group, 0) - own_here(row, build) >= build.group_max:
                continue
            if (work.ask.builds_max and host.builds >= work.ask.builds_max) or (
                work.ask.instances_max and len(host.allocations) >= work.ask.instances_max
            ):
                continue
            if traits(self.view, row, work.ask):
                continue
            if any(
                misfit(host.inventory.get(name), host.used.get(name, 0), amount) for name, amount in work.ask.resources
            ):
                continue
            with row.without_claims():
                if wishes is None or wishes.allow(self.view, row):
                    return True
        return False

    def _claim(self, row: Row, work: Work, index: int, now_ms: int, growth: Growth | None = None) -> None:
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
            work,
            index,
            row,
            now_ms,
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
        pending = Pending(allocation.id, {}, "", 0, work, index, row, now_ms)
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
                self._rejected(pending, self._reason(row, pending))
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
        self._settled = True  # an instance that must not be ranked beside it may be now
        work, slot = pending.work, pending.work.slots[pending.index]
        if slot.pending is not pending or work.state != OPEN:
            return
        slot.pending = slot.held = None
        allocation = row.host.allocations.get(pending.allocation_id)
        if allocation is None:  # lapsed before the renewal came
            self.again(work, pending.index)
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

    def _reason(self, row: Row, pending: Pending) -> str:
        for settled in row.host.settled:
            if settled.allocation == pending.allocation_id and settled.verdict == "rejected":
                return settled.reason
        return "unreported"

    def _rejected(self, pending: Pending, reason: str) -> None:
        self._lift(pending)
        rejected = self.counts.rejected
        rejected[reason] = rejected.get(reason, 0) + 1
        self._retry(pending, reason)

    def _give_up(self, pending: Pending, reason: str) -> None:
        """A claim of unknown fate is left behind; granted after all, it shows as a stray. What was to be renewed is one already."""
        if self.renewals.pop(pending.allocation_id, None) is not None:
            self._settled = True
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
        self._settled = True

    def _retry(self, pending: Pending, reason: str) -> None:
        work, slot = pending.work, pending.work.slots[pending.index]
        if slot.pending is pending:
            slot.pending = None
            if work.state == OPEN:
                work.conflicts += 1
                self.again(work, pending.index, reason)

    def again(self, work: Work, index: int, reason: str = "") -> None:
        """Queue an instance for another attempt, or give the request up when its attempts are spent."""
        work.attempts += 1
        if work.attempts >= self.settings.attempts_max * len(work.slots):
            self._unplaced(
                work,
                index,
                f"every one of {work.attempts} claims was turned down, the last one as {reason or 'lapsed'}",
            )
        elif work.called:  # else all that it lacks is queued when its turn comes
            self.queue.append((work, index))

    def timeouts(self, now_ms: int) -> None:
        """Give up claims that nobody answered in time."""
        limit = now_ms - self.settings.claim_timeout_ms
        for table in (self.pending, self.renewals):
            for pending in list(table.values()) if table and next(iter(table.values())).sent_ms <= limit else ():
                if pending.sent_ms > limit:
                    break
                self._give_up(pending, "unanswered")


def lay_on(row: Row, work: Work, only: Collection[str] | None = None) -> tuple[dict[str, dict[str, int]], Terms] | None:
    """What a claim takes from each cell of a host (or of these `only`), and on which terms; None when it takes nothing there."""
    cells, rules = row.cells, work.ask.rules
    if only is not None:
        cells = {name: cell for name, cell in cells.items() if name in only}
    layout = layout_of(rules.flavor if rules else None, work.resources, cells)
    taken = plan(cells, layout, ratios_of(row.host.inventory), work.build.networks)
    return (taken, layout.terms) if taken else None
