"""What a replica remembers of the request partitions it owns: which offsets are undecided, and which decision of a request came first."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct

from commonplace.core.replica_events import Raw


class Undecided:
    """Offsets of one request partition that have no acknowledged decision; `committed` is what a new owner must read from (rule 7).

    Each with the trace context that its record bore, "" for none.
    """

    __slots__ = ("_open", "next")

    def __init__(self) -> None:
        self._open: dict[int, str] = {}  # in order, because offsets are read in order
        self.next = -1

    def add(self, offsets: Iterable[int], traces: Mapping[int, str] = {}) -> None:
        """Offsets were read, in order."""
        for offset in offsets:
            self._open[offset] = traces.get(offset, "")
            if offset >= self.next:
                self.next = offset + 1

    def done(self, offset: int) -> None:
        """Its decision is acknowledged."""
        self._open.pop(offset, None)

    def trace(self, offset: int) -> str:
        """The trace context of an undecided offset."""
        return self._open.get(offset, "")

    @property
    def committed(self) -> int:
        """The lowest undecided offset, or the one after the last read; −1 before the first."""
        return next(iter(self._open), self.next)

    def __len__(self) -> int:
        return len(self._open)


class Part:
    """An owned request partition."""

    __slots__ = ("asked", "committed", "end", "history", "undecided", "waiting")

    def __init__(self, end: int) -> None:
        self.end = end  # records below it may have been handled by an owner before us
        self.asked = self.history = False
        self.undecided = Undecided()
        self.committed = -1
        self.waiting: list[Raw] = []  # read before the partition's earlier decisions are known


class Known(Struct, gc=False):
    """The effective decision of a request: the first in log order on its partition, as written. `also`: of the same id on another one."""

    request: str
    partition: int
    log_time_ms: int
    value: bytes
    also: "Known | None" = None


class History:
    """Effective decisions by request id, bounded in number and age; past either bound the oldest are forgotten.

    Whoever submits may use an id twice, with contents whose keys lie on two partitions: those are two requests, and two decisions.
    """

    def __init__(self, kept_max: int, window_ms: int) -> None:
        self.kept_max, self.window_ms = kept_max, window_ms
        self._known: dict[str, Known] = {}
        # oldest first: a dict that loses its first entries looks for the next one through all the holes (49 us an entry at 100,000)
        self._order: deque[Known] = deque()
        self.newest_ms = 0

    def get(self, request: str, partition: int) -> Known | None:
        """The effective decision of the request of that partition, if remembered."""
        known = self._known.get(request)
        while known is not None and known.partition != partition:
            known = known.also
        return known

    def newest(self, request: str) -> Known | None:
        """The effective decision of the last of all requests of that id, if any is remembered."""
        return self._known.get(request)

    def every(self, request: str) -> Iterator[Known]:
        """The effective decisions of all requests of that id."""
        known = self._known.get(request)
        while known is not None:
            yield known
            known = known.also

    def first(self, request: str, partition: int, log_time_ms: int, value: bytes) -> bool:
        """Take a decision read in log order; returns whether it is the effective one."""
        if self.get(request, partition) is not None:
            return False
        known = self._known[request] = Known(request, partition, log_time_ms, value, self._known.get(request))
        self._order.append(known)
        if log_time_ms > self.newest_ms:
            self.newest_ms = log_time_ms
        if len(self._order) > self.kept_max:
            self._forget(self._order.popleft())
        return True

    def _forget(self, known: Known) -> None:
        head = self._known[known.request]
        if head is not known:
            while head.also is not known:
                assert head.also is not None, f"{known.request} is remembered and cannot be found"
                head = head.also
            head.also = known.also
        elif known.also is None:
            del self._known[known.request]
        else:
            self._known[known.request] = known.also

    def forget_old(self) -> None:
        """Drop what the idempotency window no longer covers."""
        limit, order = self.newest_ms - self.window_ms, self._order
        while order and order[0].log_time_ms < limit:
            self._forget(order.popleft())

    def drop(self, partition: int) -> None:
        """Forget a partition that another replica owns now: whoever comes back to it reads it anew."""
        for known in self._order:
            if known.partition == partition:
                self._forget(known)
        self._order = deque(known for known in self._order if known.partition != partition)

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[str]:
        return (known.request for known in self._order)
