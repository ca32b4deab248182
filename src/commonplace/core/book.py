"""What a replica knows of requests: those it is deciding, and what stands in the decisions of the partitions that it owns."""

from collections.abc import Callable, Collection

from commonplace.core.codec import Bad, decode
from commonplace.core.group_turns import GroupTurns
from commonplace.core.history import History, Part
from commonplace.core.records.hosts import Allocation
from commonplace.core.records.requests import Build, Cancel
from commonplace.core.work import DROPPED, Work


class Book:
    """Requests under way and effective decisions, by id and request partition."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.parts: dict[int, Part] = {}
        self.works: dict[str, Work] = {}
        self.rejected: dict[tuple[int, str], tuple[str, int]] = {}
        """Answered without a work and not read back: request → content and when, oldest first."""
        self.turns = GroupTurns()

    def unknown(self, request: str) -> bool:
        """Whether neither a work nor a decision bears this id, on any partition."""
        return request not in self.works and self.history.newest(request) is None

    def stranger(self, request: str, partition: int) -> bool:
        """Whether nothing is known of a request of this partition; one of the same id on another is not it."""
        work = self.works.get(request)
        return (work is None or work.partition != partition) and self.history.get(request, partition) is None

    def is_member(self, allocation: Allocation, partition: int) -> bool:
        """Whether an effective decision on the group's partition names a leased allocation, or did too long ago to be remembered."""
        known = self.history.get(allocation.request, partition)
        # where its id is known of another request, it was told so, and what was claimed for it is left over
        if known is None:
            return self.unknown(allocation.request)
        decision = decode("decisions", known.value)
        return isinstance(decision, Bad) or any(placed.allocation == allocation.id for placed in decision.placed)

    def drop(self, partition: int) -> bool:
        """Forget a partition that is another replica's now; returns whether it was owned."""
        if self.parts.pop(partition, None) is None:
            return False
        for request in [request for request, work in self.works.items() if work.partition == partition]:
            self.works.pop(request).state = DROPPED
        for at in [at for at in self.rejected if at[0] == partition]:
            del self.rejected[at]
        self.history.drop(partition)
        self.turns.drop(partition)
        return True

    def forget_rejected(self, before_ms: int, on_their_way: Callable[[], Collection[str]]) -> None:
        """Forget what was rejected before then and acknowledged: a log that lost its tail may never show it."""
        if self.rejected and next(iter(self.rejected.values()))[1] < before_ms:
            kept = on_their_way()
            self.rejected = {at: said for at, said in self.rejected.items() if said[1] >= before_ms or at[1] in kept}

    @property
    def waiting(self) -> int:
        """Requests read and not yet decided."""
        return sum(len(part.undecided) for part in list(self.parts.values()))  # also read by the thread that is scraped


def is_of(allocation: Allocation, request: Build | Cancel) -> bool:
    """Whether an allocation that bears a request's id may be its own: flavor and group make its key. A cancel need not name a group."""
    if allocation.flavor != request.flavor:
        return False
    return allocation.group == request.group or (isinstance(request, Cancel) and not request.group)
