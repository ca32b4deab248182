"""The classic arrangement: schedulers that poll the hosts' state, answer from their copy of it, and leave the claim to the host.

    request ──a scheduler ranks its copy──▶ answered: HOST ──build_ms later──▶ the host has room: built
                        ▲                                                     │
                        └── retried, hosts tried left out ◀── it has not ─────┘    after RETRIES retries: a failed build

Each scheduler counts what it placed itself in its copy until the next poll, which is kinder than some deployments are.
"""

import heapq
import random

from msgspec import Struct

from bench.packing_bins import Bins, Placement, Policy, best_fit, choose, worst_fit
from commonplace.bench.cases import Case
from commonplace.bench.fullness import Figures, Watch
from commonplace.core.records.control import Flavor
from commonplace.ops.replay.schedule import Arrive

RETRIES = 3
POLICIES: dict[str, Policy] = {"pack": best_fit, "spread": worst_fit}


class Pace(Struct, frozen=True, kw_only=True):
    """How fast things go: requests a second, how often schedulers poll, how long after the answer the host is asked."""

    rate: float
    poll_ms: float
    build_ms: float


class Asked(Struct):
    """A request on its way."""

    id: str
    flavor: Flavor
    scheduler: int
    tried: list[int] = []
    gone: bool = False


class Scheduler:
    """One that polls: its copy of the fleet, and when it takes the next."""

    def __init__(self, truth: Bins, due_ms: float) -> None:
        self.copy, self.due_ms = truth.copy(), due_ms

    def poll(self, truth: Bins, now_ms: float, every_ms: float) -> None:
        """Take the newest state, if it is time to."""
        if now_ms >= self.due_ms:
            self.copy = truth.copy()
            self.due_ms += every_ms * (1 + (now_ms - self.due_ms) // every_ms)


def classic(case: Case, policy: str, count: int, pace: Pace, seed: int) -> Figures:
    """Replay a case by `count` schedulers that poll."""
    rng, truth = random.Random(f"classic/{seed}"), Bins(case)
    figures = Figures(contender=f"classic {policy}", replicas=count)
    watch = Watch(figures, case.half_at)
    # each copy is as old as any other on average: they poll at different moments
    schedulers = [Scheduler(truth, pace.poll_ms * (number + 1) / count) for number in range(count)]
    placed: dict[str, Placement] = {}
    asked: dict[str, Asked] = {}
    builds: list[tuple[float, int, Asked, int]] = []  # when the host is asked, serial number, request, host
    serial = last = 0  # builds turned down after the last retry

    def rank(one: Asked, now_ms: float) -> None:
        nonlocal serial
        scheduler = schedulers[one.scheduler]
        scheduler.poll(truth, now_ms, pace.poll_ms)
        start = rng.randrange(len(case.hosts))
        host = choose(scheduler.copy, one.flavor, POLICIES[policy], start, one.tried)
        if host < 0:
            figures.failed_builds += bool(one.tried)
            watch.refused("failed build" if one.tried else "no host", truth.state)
            return
        scheduler.copy.take(host, one.flavor)
        serial += 1
        heapq.heappush(builds, (now_ms + pace.build_ms, serial, one, host))

    def build(one: Asked, host: int, now_ms: float) -> None:
        nonlocal last
        if truth.fits(one.flavor)[host]:
            placed[one.id] = truth.take(host, one.flavor)
            watch.placed(truth.state)
            if one.gone:
                truth.give(placed.pop(one.id))
            return
        one.tried.append(host)
        if len(one.tried) > RETRIES:
            last += 1
            figures.failed_builds += 1
            watch.refused("failed build", truth.state)
            return
        figures.retries += 1
        rank(one, now_ms)

    for number, event in enumerate(case.events):
        now_ms = number * 1000 / pace.rate
        while builds and builds[0][0] <= now_ms:
            at_ms, _, one, host = heapq.heappop(builds)
            build(one, host, at_ms)
        if isinstance(event, Arrive):
            one = Asked(event.arrival.id, case.flavors[event.arrival.flavor], rng.randrange(count))
            asked[one.id] = one
            rank(one, now_ms)
        elif event.id in placed:
            truth.give(placed.pop(event.id))
        else:
            asked[event.id].gone = True
    while builds:
        at_ms, _, one, host = heapq.heappop(builds)
        build(one, host, at_ms)
    figures.end = truth.state(watch.answered)
    figures.conflict_fraction = round((figures.retries + last) / max(1, figures.placed), 5)
    return figures
