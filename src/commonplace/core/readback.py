"""Read back: the first decision on a request in log order is the effective one, whoever wrote it (rule 7)."""

from collections.abc import Callable, Mapping

from commonplace.core.book import Book
from commonplace.core.codec import Bad, decode
from commonplace.core.deciding import Decider
from commonplace.core.deliveries import Deliveries
from commonplace.core.records.decisions import ID_REUSED, Decision
from commonplace.core.replica_events import DecisionsRead, Effect, aside
from commonplace.core.requests import serialised
from commonplace.core.work import ANSWERED, Work


class Readback:
    """Closes works by their effective decisions, and gives back what those do not name.

    `folded` is the last offset read of each partition of `hosts`.
    """

    def __init__(
        self,
        book: Book,
        decider: Decider,
        deliveries: Deliveries,
        folded: Mapping[int, int],
        emit: Callable[[Effect], None],
    ) -> None:
        self._book, self._claims, self._deliveries = book, decider.placer.claims, deliveries
        self._folded, self._emit = folded, emit

    def decisions(self, event: DecisionsRead, now_ms: int) -> None:
        """Take in decisions of a partition in log order, one's own among them."""
        if event.partition not in self._book.parts:
            return
        history = self._book.history
        for record in event.records:
            _, log_time_ms, key, value = record
            request = (key or b"").decode(errors="replace")
            work = self._book.works.get(request)
            if work is not None and work.answer == value and value:
                history.first(request, event.partition, log_time_ms, value)
                self._effective(work, None)
                continue
            reason = self._other_decision(event.partition, request, log_time_ms, value)
            if reason:
                self._emit(aside("decisions", event.partition, record, reason))

    def _other_decision(self, partition: int, request: str, log_time_ms: int, value: bytes | None) -> str:
        """A decision that is not what we just sent: of an owner before us, said again, void, or garbage. Returns why to put it aside."""
        known = self._book.history.get(request, partition)
        if known is not None and known.value == value:
            return ""
        decision = decode("decisions", value) if value is not None else Bad("no value")
        if isinstance(decision, Bad):
            return "" if decision.newer else decision.reason
        if decision.request != request:
            return f"key is of request {request!r:.80}, record of {decision.request!r}"
        if decision.reason == ID_REUSED:
            return ""  # answers another content; never the effective one
        self._book.rejected.pop((partition, request), None)
        if decision.group and decision.placed:
            self._book.turns.note(partition, decision, self._folded)
        if not self._book.history.first(request, partition, log_time_ms, value or b""):
            self._claims.counts.void += 1
            return ""
        work = self._book.works.get(request)
        if work is not None and work.partition == partition:
            self._effective(work, decision)
        return ""

    def _effective(self, work: Work, other: Decision | None) -> None:
        """The effective decision of a request of ours was read back; `other` when it is not the one we sent."""
        del self._book.works[work.build.id]
        if serialised(work.build):
            self._book.turns.leave(work)
        if other is None and work.placed and not work.strays and not work.cancels:
            return  # the common case: ours, and nothing of it to give back
        if other is not None:
            self._claims.counts.void += work.state == ANSWERED
            work.state = ANSWERED
            self._deliveries.done(work.partition, work.offsets)
        placed = decode("decisions", work.answer).placed if other is None else other.placed
        named = {p.allocation for p in placed}
        losers = [(slot.held.row.host.name, slot.held.allocation) for slot in work.slots if slot.held]
        renewed = [
            slot.pending for slot in work.slots if slot.pending and slot.pending.allocation_id in self._claims.renewals
        ]
        losers += [(pending.row.host.name, pending.allocation_id) for pending in renewed]
        losers += [(row.host.name, allocation) for row, allocation in work.strays]
        losers = [loser for loser in losers if loser[1] not in named]
        self._claims.counts.strays += len(losers)
        self._deliveries.release_losers(losers, work.build.id, work.partition)
        for cancel in work.cancels:
            self._deliveries.give_back([(p.host, p.allocation) for p in placed], work.build.id, work.partition, cancel)
