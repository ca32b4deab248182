"""What became of each VM of a replay, and what to send next; no I/O.

    asked ──placed──▶ placed (confirm) ──departs──▶ gone (release)
      │ └─refused, no answer──▶ gone, counted
      └──departs──▶ leaving ──placed──▶ gone (confirm, release)

A departure waits for no answer: a VM whose lifetime ends while it is undecided leaves the moment it is placed.
"""

from array import array
from collections import Counter
from collections.abc import Mapping

from msgspec import Struct

from commonplace.core.records.decisions import Decision
from commonplace.errors import CommonplaceError
from commonplace.ops.replay.formats import Arrival


class FirstRefusal(Struct, frozen=True):
    """How full the fleet was when the first request found no host."""

    request_number: int
    allocated_share: dict[str, float]


class Book:
    """Counts and open VMs of one replay; `capacity` of the fleet by resource class, for shares of it."""

    def __init__(self, capacity: Mapping[str, int]) -> None:
        self.capacity = dict(capacity)
        self.requests = self.placed = self.refused = self.unanswered = 0
        self.confirmed = self.released = self.granted = self.conflicts = 0
        self.reasons: Counter[str] = Counter()
        self.latencies_s = array("d")
        self.allocated: Counter[str] = Counter()
        self.first_refusal: FirstRefusal | None = None
        self._asked: dict[str, tuple[Arrival, float]] = {}
        self._leaving: set[str] = set()
        self._placed: dict[str, tuple[Arrival, Decision]] = {}

    @property
    def in_flight(self) -> int:
        """Requests without an answer."""
        return len(self._asked)

    def ask(self, arrival: Arrival, due_s: float) -> None:
        """A request is about to be sent; its latency counts from `due_s`."""
        assert arrival.id not in self._asked, f"VM {arrival.id} arrives twice"
        assert arrival.id not in self._placed, f"VM {arrival.id} arrives twice"
        self._asked[arrival.id] = (arrival, due_s)
        self.requests += 1

    def answer(self, vm: str, answer: Decision | CommonplaceError, now_s: float) -> bool:
        """Take a request's answer; whether it was placed, so that it is to be confirmed."""
        arrival, due_s = self._asked.pop(vm)
        if isinstance(answer, CommonplaceError):
            self.unanswered += 1
            self.reasons[type(answer).__name__] += 1
            self._leaving.discard(vm)
            return False
        self.latencies_s.append(now_s - due_s)
        self.conflicts += answer.conflicts
        if answer.result != "placed":
            self._refuse(answer)
            self._leaving.discard(vm)
            return False
        self.placed += 1
        self.granted += len(answer.placed)
        self.allocated.update(arrival.resources)
        self._placed[vm] = (arrival, answer)
        return True

    def depart(self, vm: str) -> Decision | None:
        """A lifetime ended: the decision to release, if there is one to be released now."""
        if vm in self._asked:
            self._leaving.add(vm)
            return None
        return self._go(vm)

    def overdue(self, vm: str) -> Decision | None:
        """After `answer`: the decision to release at once, where the VM's lifetime ended while it was undecided."""
        if vm not in self._leaving:
            return None
        self._leaving.discard(vm)
        return self._go(vm)

    def shares(self) -> dict[str, float]:
        """Share of the fleet's capacity that is allocated, by what was placed and released."""
        return {
            name: round(self.allocated[name] / capacity, 4)
            for name, capacity in sorted(self.capacity.items())
            if capacity
        }

    def _go(self, vm: str) -> Decision | None:
        arrival, decision = self._placed.pop(vm, (None, None))
        if arrival is None:
            return None
        self.allocated.subtract(arrival.resources)
        self.released += 1
        return decision

    def _refuse(self, decision: Decision) -> None:
        self.refused += 1
        self.reasons[why(decision)] += 1
        if decision.result == "no_valid_host" and self.first_refusal is None:
            self.first_refusal = FirstRefusal(self.requests, self.shares())


def why(decision: Decision) -> str:
    """A refusal in a few words, the same for all of one kind: the result, and what turned most hosts away."""
    filters = decision.explanation.filters if decision.explanation else {}
    if decision.result == "no_valid_host" and filters:
        return f"no_valid_host: {max(filters, key=lambda name: filters[name])}"
    return f"{decision.result}: {decision.reason}" if decision.reason else decision.result
