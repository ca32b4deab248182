"""What a session remembers of requests that it is done with: their effective decisions, and which were withdrawn; both bounded."""

from collections import deque
from typing import Final

from msgspec import Struct

from commonplace.core.records.decisions import Decision
from commonplace.frontend.checks import shown
from commonplace.frontend.events import Refusal, Why

KEPT_MAX: Final = 10_000
"""Effective decisions kept for confirm, cancel and repeated submits; at ~1 KB each they stay near 10 MB."""


class Known(Struct, gc=False):
    """The effective decision of a request, and until when it may be confirmed as far as we can tell."""

    decision: Decision
    content: str
    confirm_until_ms: int | None
    group: str = ""
    """Its key's group, where that is serialised."""


class Answered:
    """The newest KEPT_MAX requests that were answered, and as many that were withdrawn, by id as the decisions' keys have it."""

    def __init__(self) -> None:
        self.known: dict[bytes, Known] = {}
        # next(iter(dict)) walks over what was deleted at its front: 5 us at 10,000 entries, where a deque takes none
        self._known_order: deque[bytes] = deque()
        self._withdrawn: set[bytes] = set()
        self._withdrawn_order: deque[bytes] = deque()

    def note(self, name: bytes, known: Known) -> None:
        """A request got its decision."""
        self.known[name] = known
        self._known_order.append(name)
        if len(self._known_order) > KEPT_MAX:
            del self.known[self._known_order.popleft()]

    def withdraw(self, name: bytes) -> None:
        """A cancelled request is not confirmed any more: the confirm may come after the release, and hold what nobody gives back."""
        if name not in self._withdrawn:
            self._withdrawn.add(name)
            self._withdrawn_order.append(name)
            if len(self._withdrawn) > KEPT_MAX:
                self._withdrawn.remove(self._withdrawn_order.popleft())

    def unconfirmable(self, decision: Decision, now_ms: int) -> Refusal | None:
        """Why a decision may not be confirmed, as far as is known here: void, withdrawn, or its lease is over."""
        name = decision.request.encode()
        known = self.known.get(name)
        if known is not None and known.decision != decision:
            message = f"this decision of {decision.request} is void: an earlier one stands in the log, confirm that"
            return Refusal(Why.INVALID, message)
        if name in self._withdrawn:
            message = (
                f"{shown(decision.request)} was cancelled here, what it held is given back: submit again under a new id"
            )
            return Refusal(Why.LATE, message)
        until_ms = known.confirm_until_ms if known else None
        if until_ms is not None and now_ms > until_ms:
            message = (
                f"confirm of {decision.request} comes {(now_ms - until_ms) / 1000:.1f} s too late: its lease has "
                "lapsed or is about to; submit again under a new request id"
            )
            return Refusal(Why.LATE, message)
        return None
