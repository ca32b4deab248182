"""Decisions and releases on their way: sent again until they are acknowledged, and the request offsets that are done with them (rule 7).

sent ──acknowledged──▶ offsets done ──all before them too──▶ committed
  └──not delivered──▶ sent again, after a pause that doubles
"""

import heapq
from collections.abc import Callable, Mapping
from typing import Final

from msgspec import Struct

from commonplace.core.codec import encode
from commonplace.core.history import Part
from commonplace.core.partition import partition_of
from commonplace.core.records.claims import Release
from commonplace.core.replica_events import DecisionDelivered, Effect, ReleaseDelivered, SendDecision, SendRelease

RESEND_MIN_MS: Final = 100
RESEND_MAX_MS: Final = 5_000
"""Pause before what was not delivered is sent again, doubled each time: a broker that refuses must not be asked in every turn."""


def resend_pause_ms(failures: int) -> int:
    """How long to wait after so many failures before."""
    return min(RESEND_MAX_MS, RESEND_MIN_MS << min(failures, 8))


class Delivery(Struct, eq=False, gc=False):
    """A decision or release on its way, and the request offsets that are done once it, and whatever else is `left`, is acknowledged."""

    partition: int
    key: bytes
    value: bytes
    offsets: list[int]
    left: set[int] | None = None
    number: int = 0
    failures: int = 0


class Deliveries:
    """What a replica has sent and nobody has acknowledged; of request partitions that are not among its `parts` nothing is followed up."""

    def __init__(self, emit: Callable[[Effect], None], parts: Mapping[int, Part], hosts_partitions: int) -> None:
        self._emit, self._parts, self._hosts_partitions = emit, parts, hosts_partitions
        self._under_way: dict[int, Delivery] = {}
        self._resends: list[tuple[int, int, Delivery]] = []  # heap: when, token that failed
        self._token = 0

    def __len__(self) -> int:
        """Decisions and releases written, or to be written again, that nobody has acknowledged."""
        return len(self._under_way) + len(self._resends)

    def requests(self) -> set[str]:
        """Requests whose decision is written, or to be written again, and not acknowledged."""
        both = [*self._under_way.values(), *(entry[2] for entry in self._resends)]
        return {delivery.key.decode() for delivery in both if delivery.left is None}

    def decide(
        self,
        partition: int,
        request: str,
        value: bytes,
        offsets: list[int],
        result: str,
        flavor: str,
        waited_ms: int,
    ) -> None:
        """Send a decision; the offsets are done once it is in the log."""
        self._token += 1
        key = request.encode()
        self._under_way[self._token] = Delivery(partition, key, value, offsets)
        trace = self._trace(partition, offsets)
        self._emit(SendDecision(partition, key, value, self._token, result, flavor, waited_ms, trace))

    def give_back(self, allocations: list[tuple[str, str]], request: str, partition: int, cancel: int) -> None:
        """Release what a cancelled request got, active or not; the cancel's offset is done once every release is acknowledged."""
        left = set(range(len(allocations)))
        if not left:
            self.done(partition, [cancel])
        for number, (host, allocation) in enumerate(allocations):
            value = encode(Release(host=host, request=request, allocation=allocation))
            self._release(host, Delivery(partition, host.encode(), value, [cancel], left, number))

    def release_losers(self, losers: list[tuple[str, str]], request: str, partition: int) -> None:
        """Give back what the effective decision does not name; one that is not delivered lapses."""
        for host, allocation in losers:
            value = encode(Release(host=host, request=request, allocation=allocation, leased_only=True))
            self._release(host, Delivery(partition, host.encode(), value, []))

    def _release(self, host: str, delivery: Delivery) -> None:
        self._token += 1
        self._under_way[self._token] = delivery
        partition = partition_of(host, self._hosts_partitions)
        trace = self._trace(delivery.partition, delivery.offsets)
        self._emit(SendRelease(partition, delivery.key, delivery.value, self._token, trace))

    def decided(self, event: DecisionDelivered, now_ms: int) -> None:
        """A decision was acknowledged, or not: its offset stays undecided until the same answer is in the log."""
        delivery = self._under_way.pop(event.token)
        if delivery.partition not in self._parts:
            return
        if event.delivered:
            self.done(delivery.partition, delivery.offsets)
        else:
            self._send_later(event.token, delivery, now_ms)

    def released(self, event: ReleaseDelivered, now_ms: int) -> None:
        """A release was acknowledged, or not."""
        delivery = self._under_way.pop(event.token)
        if delivery.left is None or delivery.partition not in self._parts:
            return  # of a loser, which lapses anyway, or the next owner's to send
        if not event.delivered:
            self._send_later(event.token, delivery, now_ms)
            return
        delivery.left.discard(delivery.number)
        if not delivery.left:
            self.done(delivery.partition, delivery.offsets)

    def _send_later(self, token: int, delivery: Delivery, now_ms: int) -> None:
        heapq.heappush(self._resends, (now_ms + resend_pause_ms(delivery.failures), token, delivery))
        delivery.failures += 1

    def send_again(self, now_ms: int) -> None:
        """Send what was not delivered and whose pause is over."""
        while self._resends and self._resends[0][0] <= now_ms:
            delivery = heapq.heappop(self._resends)[2]
            if delivery.left is not None:
                self._release(delivery.key.decode(), delivery)
                continue
            self._token += 1
            self._under_way[self._token] = delivery
            trace = self._trace(delivery.partition, delivery.offsets)
            self._emit(
                SendDecision(delivery.partition, delivery.key, delivery.value, self._token, "again", "", 0, trace)
            )

    def _trace(self, partition: int, offsets: list[int]) -> str:
        """The trace context of the first request record that something answers, while it is undecided."""
        part = self._parts.get(partition)
        return part.undecided.trace(offsets[0]) if part is not None and offsets else ""

    def done(self, partition: int, offsets: list[int]) -> None:
        """These requests have their decision."""
        part = self._parts.get(partition)
        if part is not None:
            for offset in offsets:
                part.undecided.done(offset)

    def drop(self, partition: int) -> None:
        """Another replica owns a partition now: send nothing of it again."""
        self._resends = [entry for entry in self._resends if entry[2].partition != partition]
        heapq.heapify(self._resends)
