"""When leases are looked at: by the agent's own clock, and only once the claims were read to an end captured after they ran out (rule 6).

    granted, renewed ──note──▶ waits ──its time──▶ an end is asked for ──captured──▶ barrier ──claims read to it──▶ ran_out

The ledger judges what ran out: it may have been confirmed or renewed meanwhile.
"""

import heapq
from collections.abc import Iterable, Iterator, Mapping

from commonplace.core.kept import Kept

LAPSE_CHECK_MS = 50
"""Least time between two questions for a partition's end, without which no lease lapses: each costs a round trip, and all that ran out
meanwhile lapses at once, which holds claims up (docs/results.md)."""


class Leases:
    """The leases of an agent's hosts, by the partition of their claims."""

    def __init__(self, partitions: Iterable[int], interval_ms: int) -> None:
        self.interval_ms = interval_ms
        self.moments: dict[int, list[int]] = {p: [] for p in partitions}
        """Heaps: when leases of a partition are to be looked at, each moment once."""
        self._waiting: dict[int, dict[int, dict[str, list[str]]]] = {p: {} for p in partitions}
        """Partition, moment, host → allocations. One heap of all leases would be as deep as they are many."""
        self.barriers: dict[int, tuple[int, int]] = {}  # partition → (asked at, end) of a lapse under way
        self.asked_ms: dict[int, int] = {}  # partition → when its end was last asked for

    def note(self, kept: Kept, when: int, allocation: str) -> None:
        """Look at a lease in the next slot of its host: those of one host lapse in one report, and the hosts spread their slots."""
        interval = self.interval_ms
        if interval:
            when += (kept.lapse_phase - when) % interval
        waiting = self._waiting[kept.partition]
        hosts = waiting.get(when)
        if hosts is None:
            hosts = waiting[when] = {}
            heapq.heappush(self.moments[kept.partition], when)
        hosts.setdefault(kept.spec.name, []).append(allocation)

    def due(self, now_ms: int, positions: Mapping[int, int]) -> Iterator[int]:
        """Partitions whose end must be asked for now, of those with a position."""
        for partition, moments in self.moments.items():
            if not moments or partition in self.barriers or partition not in positions:
                continue
            again_ms = self.asked_ms.get(partition, 0) + min(LAPSE_CHECK_MS, self.interval_ms)
            if max(moments[0], again_ms) <= now_ms:
                self.asked_ms[partition] = now_ms
                yield partition

    def ran_out(self, partition: int, position: int) -> Iterator[tuple[int, str, list[str]]]:
        """Leases that ran out before an end was asked for which the claims have been read to: when that was, host, allocations."""
        barrier = self.barriers.get(partition)
        if barrier is None or position < barrier[1]:
            return
        del self.barriers[partition]
        moments, waiting = self.moments[partition], self._waiting[partition]
        while moments and moments[0] <= barrier[0]:
            for host, allocations in sorted(waiting.pop(heapq.heappop(moments)).items()):
                yield barrier[0], host, sorted(allocations)
