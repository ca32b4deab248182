"""Rank: which host is claimed for each instance that waits, in the middle of the loop.

    queue ──rank──▶ claim ──settle──▶ held                       (claims.py)
      ▲ │                    │
      │ └─▶ parked           │
      └── rejected, timed out┘

What no host passes for waits parked while a pending claim may yet fail and make room.
"""

from collections.abc import Callable

from commonplace.core.choosing import choose
from commonplace.core.claims import Claims
from commonplace.core.filters import traits
from commonplace.core.founding import too_small
from commonplace.core.ranking import ScoreRow, group_full, group_key, own_here, seed_of
from commonplace.core.records.hosts import Allocation, Whole
from commonplace.core.replacing import difference, has_room_beside, standing_at
from commonplace.core.replica_events import ReplicaSettings, SendClaim
from commonplace.core.request_checks import likeness
from commonplace.core.resources import misfit
from commonplace.core.rows import Row
from commonplace.core.rules import Ask, Standing, Wishes
from commonplace.core.scoreboard import NEVER, Scoreboard
from commonplace.core.terms_of_claims import Growth, lay_on
from commonplace.core.view import View
from commonplace.core.work import OPEN, Work

RETRY_DOUBLINGS_MAX = 5
"""A request that lost claims takes one of the best 2, 4, 8 … hosts, up to 32: who lost a race against a replica that keeps claiming the
best host would lose the next too, and be refused with room in the fleet (docs/results.md, Packing)."""

STAY_CONFLICTS_MAX = 4
"""A resize insists on its own host for so many lost claims; then it goes where it is best off, as any request."""

ASKS_TOGETHER = 16
"""From so many asks in one turn on, what changed is scored for all of them before the first: a pass costs what a dozen or so scores do."""

Item = tuple[Work, int]
"""One instance to be placed: the request's work and the index."""


class Placer:
    """Turns queued instances into claims; `claims` are those without a verdict.

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
        self.name, self.view, self.settings = name, view, settings
        self._unplaced, self._standing = unplaced, standing
        self.claims = Claims(name, nonce, view, settings, claims_topic, send, held, self.again, stray)
        self._claim = self.claims.claim
        self.queue: list[Item] = []
        self.prioritised = False  # something that names a priority was queued since the queue was last sorted
        self.parked: list[Item] = []  # nothing fits now, but a pending claim may yet fail and make room
        self.board = Scoreboard(view)
        self.score_rows: dict[Ask, ScoreRow] = {}
        self._nowhere: dict[tuple[Ask, str, int], bool] = {}  # asks that no host passes in this turn → may one later?

    # -- rank ---------------------------------------------------------------------------------------------------------------------------

    def enqueue(self, work: Work) -> None:
        """Have every instance ranked that holds nothing and has nothing claimed."""
        self.prioritised = self.prioritised or work.build.priority > 0
        for index, slot in enumerate(work.slots):
            if slot.held is None and slot.pending is None:
                self.queue.append((work, index))

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

    def turn(self, now_ms: int) -> None:
        """Rank and claim for all that waits, flavor by flavor, as far as claims in flight allow."""
        if self.claims.settled and self.parked:
            self.queue.extend(self.parked)
            self.parked = []
        self.claims.settled = False
        self._nowhere = {}
        room = self.settings.claims_in_flight_max - len(self.claims.pending)
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
            # one instance at a time: a claim that fails would leave the others too far apart
            self.parked.append((work, index))
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
        if more is None or not has_room_beside(row, more, terms):
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
        for row in {pending.row.index: pending.row for pending in self.claims.pending.values()}.values():
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
