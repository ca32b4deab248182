"""One after the other, on a fleet that nobody else changes: what racing is held against."""

import random

import numpy as np

from bench.packing_bins import Bins, Placement, Policy, best_fit, choose, first_fit
from commonplace.bench.cases import Case
from commonplace.bench.fullness import Figures, Watch
from commonplace.core.records.control import Flavor
from commonplace.ops.replay.schedule import Arrive

SERIAL: dict[str, Policy | None] = {"best fit": best_fit, "first fit": first_fit, "random": None}
"""None: any host that fits."""


def serial(case: Case, name: str, seed: int) -> Figures:
    """Replay a case by one of the policies of `SERIAL`."""
    bins, figures, rng = Bins(case), Figures(contender=f"serial {name}"), random.Random(f"{name}/{seed}")
    watch = Watch(figures, case.half_at)
    placed: dict[str, Placement] = {}
    for event in case.events:
        if not isinstance(event, Arrive):
            if event.id in placed:
                bins.give(placed.pop(event.id))
            continue
        flavor = case.flavors[event.arrival.flavor]
        host = _any(bins, flavor, rng) if (policy := SERIAL[name]) is None else choose(bins, flavor, policy)
        if host < 0:
            watch.refused("no host", bins.state)
        else:
            placed[event.arrival.id] = bins.take(host, flavor)
            watch.placed(bins.state)
    figures.end = bins.state(watch.answered)
    return figures


def _any(bins: Bins, flavor: Flavor, rng: random.Random) -> int:
    fitting = np.flatnonzero(bins.fits(flavor))
    return int(rng.choice(fitting)) if len(fitting) else -1
