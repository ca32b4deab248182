"""The order of a trace: arrivals and departures as one sequence, the same at any speed.

    at 300 s:   departures due by then, of VMs that came before  ▸  arrivals at 300 s  ▸  departures of those just come

Traces have coarse clocks (bins of five minutes), so most events share their moment with others. What leaves at a moment
makes room for what comes at it; a VM that lives for less than a bin still comes before it goes.
"""

import heapq
from collections.abc import Iterable, Iterator

from msgspec import Struct

from commonplace.ops.replay.formats import Arrival


class Arrive(Struct, frozen=True, gc=False):
    """A VM is asked for."""

    at_s: float
    arrival: Arrival


class Depart(Struct, frozen=True, gc=False):
    """A VM's lifetime is over."""

    at_s: float
    id: str


Event = Arrive | Depart


def events(arrivals: Iterable[Arrival], *, tail: bool = True) -> Iterator[Event]:
    """The trace's events in its order; `arrivals` must not go back in time.

    With `tail` the departures after the last arrival follow it, else those VMs stay. Holds one entry a VM alive.
    """
    leaving: list[tuple[float, bool, int, str]] = []
    for number, arrival in enumerate(arrivals):
        # (moment, came at that same moment, order of arrival)
        while leaving and leaving[0][:2] <= (arrival.at_s, False):
            at, _, _, name = heapq.heappop(leaving)
            yield Depart(at, name)
        yield Arrive(arrival.at_s, arrival)
        if arrival.lifetime_s is not None:
            end = arrival.at_s + arrival.lifetime_s
            heapq.heappush(leaving, (end, end == arrival.at_s, number, arrival.id))
    while tail and leaving:
        at, _, _, name = heapq.heappop(leaving)
        yield Depart(at, name)
