"""Decide: every request gets an answer once its instances are held, or once it is sure that they will not be (rule 6)."""

from collections.abc import Callable, Mapping
from math import inf
from typing import Any, Final

from msgspec.structs import replace

from commonplace.core.answers import placed, unplaced
from commonplace.core.book import Book, is_of
from commonplace.core.catalog import Catalog
from commonplace.core.codec import Bad, decode, encode
from commonplace.core.deliveries import Deliveries
from commonplace.core.group_turns import standing
from commonplace.core.impossible import impossible
from commonplace.core.placing import Placer
from commonplace.core.ranking import group_full, group_key
from commonplace.core.records.decisions import ID_REUSED, IMPOSSIBLE, Decision, Explanation, Result
from commonplace.core.records.hosts import Allocation
from commonplace.core.replacing import as_if_gone
from commonplace.core.replica_events import Effect, ReplicaSettings
from commonplace.core.request_checks import likeness
from commonplace.core.requests import serialised
from commonplace.core.rows import Row
from commonplace.core.rules import Standing, Wishes
from commonplace.core.turned_away import explain
from commonplace.core.view import View
from commonplace.core.work import ANSWERED, OPEN, Work

READ_BACK_MS: Final = 5_000
"""An acknowledged decision that is not read back by its request's deadline is written again, each time after so long (for a member of a
group, whose next one waits for it, after so long at once): a log that lost its tail may have lost it where the reader stood."""


class Decider:
    """Answers works and sends what it answers; its `placer` ranks and claims for them and tells it the outcome.

    `now_ms` is the time of the event being handled, `folded` the last offset read of each partition of `hosts`.
    """

    def __init__(
        self,
        name: str,
        nonce: str,
        view: View,
        catalog: Catalog,
        book: Book,
        deliveries: Deliveries,
        settings: ReplicaSettings,
        claims_topic: str,
        folded: Mapping[int, int],
        emit: Callable[[Effect], None],
    ) -> None:
        self._name, self._view, self._catalog, self._book = name, view, catalog, book
        self._deliveries, self._settings, self._folded = deliveries, settings, folded
        self.placer = Placer(
            name, nonce, view, settings, claims_topic, emit, self.answer, self.unplaced, self.stray, self.standing
        )
        self.decisions: dict[tuple[str, str], int] = {}  # (result, flavor) → how many
        self.eliminated: dict[str, int] = {}  # filter → hosts it turned away, over all requests that found none
        self.now_ms = 0
        self._look_ms = inf  # no work is to be looked at before
        self._explained: tuple[Any, Explanation, str] | None = None

    def answer(self, work: Work, now_ms: int | None = None) -> None:
        """Every instance holds a granted allocation: say so, while the leases surely hold (rule 6)."""
        now = self.now_ms if now_ms is None else now_ms
        lease_ms = work.lease_ms
        for index, slot in enumerate(work.slots):
            held = slot.held
            if held is None:
                assert slot.given_up, f"instance {index} of {work.build.id} is neither held nor given up"
                continue
            allocation = held.row.host.allocations.get(held.allocation)
            if allocation is None:  # gone while the others were claimed
                slot.held = None
                return self.placer.again(work, index)
            if not held.active:
                lease_ms = min(lease_ms, held.lease_ms)
                if now - held.sent_ms > (held.lease_ms - self._margin(held.lease_ms)) // 2:
                    slot.held = None
                    return self.placer.claims.renew(work, index, held.row, allocation, now)
        work.placed = True
        confirm_within_ms = lease_ms - self._margin(lease_ms)
        alternates = self.placer.alternates(work) if work.build.alternates else ()
        return self._sent(work, placed(work, self._name, confirm_within_ms, now, alternates), now)

    def _margin(self, lease_ms: int) -> int:
        """What is kept of a lease for clocks and ways, in ms: never more than a quarter."""
        return min(self._settings.lease_margin_ms, lease_ms // 4)

    def unplaced(self, work: Work, index: int, why: str) -> None:
        """No host passes for an instance, or none was won: go without it, or answer with the counts per filter and the closest miss."""
        if work.state != OPEN:
            return
        if work.build.count_min:
            work.slots[index].given_up = True
            if sum(not slot.given_up for slot in work.slots) >= work.build.count_min:
                if work.complete:
                    self.answer(work)
                return
        with as_if_gone(self._view, work.build, work.instance(index)):
            explanation, never = self._explanation(work)
        for name, count in explanation.filters.items():
            self.eliminated[name] = self.eliminated.get(name, 0) + count
        counts = ", ".join(f"{count} {name}" for name, count in explanation.filters.items())
        message = why or never or f"0 of {explanation.evaluated} hosts{': ' + counts if counts else ''}"
        reason = "attempts" if why else IMPOSSIBLE if never else "filters"
        self.close(work, "no_valid_host", reason, message, explanation, self.now_ms)

    def _explanation(self, work: Work) -> tuple[Explanation, str]:
        """Why no host passes, and why none ever could; kept until the view changes, because a full fleet refuses many requests alike."""
        view, build = self._view, work.build
        view.write()
        rules = work.ask.rules
        wishes = Wishes(build, work.ask, rules, self.standing(work)) if rules is not None else None
        like = group_key(build) if wishes is None and not build.source else likeness(build)
        at = (work.ask, like, build.group_max, view.changed_from + len(view.changed))
        if self._explained is None or self._explained[0] != at:
            barred = group_full(view, build)
            never = impossible(view, work.ask, build)
            positions = {str(partition): offset for partition, offset in sorted(self._folded.items())}
            told = replace(explain(view, work.ask, barred, wishes), positions=positions)
            self._explained = (at, told, never)
        return self._explained[1:]

    def close(
        self, work: Work, result: Result, reason: str, message: str, explanation: Explanation | None, now_ms: int
    ) -> None:
        """Answer a request without placing it."""
        self._sent(work, unplaced(work, self._name, result, reason, message, explanation), now_ms)

    def _sent(self, work: Work, decision: Decision, now_ms: int) -> None:
        work.state = ANSWERED
        work.answer = encode(decision)
        if serialised(work.build):
            self.look_at(work, min(work.look_ms, now_ms + READ_BACK_MS))
        waited_ms = max(0, now_ms - work.received_ms)
        self.deliver(
            work.partition, work.build.id, work.answer, work.offsets, decision.result, work.build.flavor, waited_ms
        )

    def decide(self, partition: int, request_id: str, offsets: list[int], decision: Decision, waited_ms: int) -> None:
        """Send a decision that claims nothing."""
        if decision.reason != ID_REUSED:
            self._book.rejected.setdefault((partition, request_id), (decision.content, self.now_ms))
        self.deliver(partition, request_id, encode(decision), offsets, decision.result, decision.flavor, waited_ms)

    def deliver(
        self,
        partition: int,
        request_id: str,
        value: bytes,
        offsets: list[int],
        result: str,
        flavor: str,
        waited_ms: int,
    ) -> None:
        """Send a decision as it is written; `again` where it was sent before."""
        if result != "again":
            # what people misspell must not become a figure each
            flavor = flavor if flavor in self._catalog.flavors else ""
            self.decisions[result, flavor] = self.decisions.get((result, flavor), 0) + 1
        self._deliveries.decide(partition, request_id, value, offsets, result, flavor, waited_ms)

    def look_at(self, work: Work, when_ms: int) -> None:
        """Have `expire` look at a request that it knows at this time, its deadline to begin with."""
        work.look_ms = when_ms
        if when_ms < self._look_ms:
            self._look_ms = when_ms

    def expire(self, now_ms: int) -> None:
        """Answer every request whose deadline has come, and say again what was answered and seems lost.

        All works are gone through when one may be due: they are those under way, and most are decided and forgotten long before.
        """
        if now_ms < self._look_ms:
            return
        works, on_their_way = self._book.works, None
        due = [work for work in works.values() if work.look_ms <= now_ms]
        due.sort(key=lambda work: work.look_ms)
        for work in due:
            if work.state == OPEN:
                self.expired(work, now_ms)
            else:
                on_their_way = self._deliveries.requests() if on_their_way is None else on_their_way
                if work.build.id not in on_their_way:
                    self.deliver(work.partition, work.build.id, work.answer, [], "again", work.build.flavor, 0)
            self.look_at(work, now_ms + READ_BACK_MS)
        self._look_ms = min((work.look_ms for work in works.values()), default=inf)

    def expired(self, work: Work, now_ms: int) -> None:
        """Answer a request that was not placed in time."""
        waited = max(0, now_ms - work.received_ms)
        limit = work.deadline_ms - work.received_ms
        self.close(
            work,
            "expired",
            "deadline",
            f"not placed within its deadline of {limit} ms, after {waited} ms",
            None,
            now_ms,
        )

    def standing(self, work: Work) -> Standing | None:
        """Where the group of a serialised request stands."""
        if not serialised(work.build):
            return None
        return standing(self._view, work, lambda allocation: self._book.is_member(allocation, work.partition))

    def stray(self, row: Row, allocation: Allocation) -> None:
        """A leased allocation that no slot of ours waits for: released once the effective decision is known not to name it."""
        request = allocation.request
        work = self._book.works.get(request)
        if work is not None:
            held = any(slot.held is not None and slot.held.allocation == allocation.id for slot in work.slots)
            if not held and allocation.id not in self.placer.claims.pending and is_of(allocation, work.build):
                work.strays.append((row, allocation.id))
            return
        for known in self._book.history.every(request):
            decision, part = decode("decisions", known.value), self._book.parts.get(known.partition)
            if part is None or not part.history or isinstance(decision, Bad):
                continue
            if (decision.flavor, decision.group) != (allocation.flavor, allocation.group):
                continue  # of another request, which came with the same id on another partition
            if all(p.allocation != allocation.id for p in decision.placed):
                self.placer.claims.counts.strays += 1
                self._deliveries.release_losers([(row.host.name, allocation.id)], request, known.partition)
            return
