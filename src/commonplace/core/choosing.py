"""The best host for a request that calls for more than its ask: filters asked host by host, weighers without columns, relative scales.

An absolute profile takes hosts in the order of their score row until one passes the filters that concern the request, so a filter costs as
many calls as hosts it turns away. A relative one weighs every host that passes, for each choice anew: docs/decisions/0006.
"""

from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from zlib import crc32

import numpy as np
from msgspec import Struct

from commonplace.core.columns import Floats
from commonplace.core.ranking import ScoreRow, bar, first_best
from commonplace.core.raw_weighers import RAW, CannotWeigh, multiplier, value_of
from commonplace.core.rows import Row
from commonplace.core.rules import Filter, Wishes
from commonplace.core.scoreboard import NEVER
from commonplace.core.view import View
from commonplace.core.weigher_names import INCREMENTAL

PICKS_MAX = 16
"""Hosts taken one by one off a score row before the rest of it is sorted: a scan for the best costs a hundredth of a sort."""


class Weighed(Struct, frozen=True):
    """A host with its score and, per weigher, raw value, normalised value and multiplier."""

    row: Row
    score: float
    parts: dict[str, tuple[float, float, float]]


def choose(scores: ScoreRow, wishes: Wishes, seed: bytes, barred: Collection[int] = (), among: int = 1) -> Row | None:
    """The best host outside `barred` by the request's profile, own shard first; None when none passes. Refresh `scores` first.

    With `among` > 1 one of so many best.
    """
    if len(scores.own) == 0:
        return None
    filters = tuple(wishes.concerned())
    ranked = _relative if wishes.profile.scale == "relative" else _absolute
    best = ranked(scores, wishes, filters, seed, barred, max(among, wishes.profile.subset_size))
    # the quotient, because the remainder has already turned the order of ties
    return best[crc32(seed) // len(scores.own) % len(best)] if best else None


def _absolute(
    scores: ScoreRow, wishes: Wishes, filters: tuple[Filter, ...], seed: bytes, barred: Collection[int], most: int
) -> list[Row]:
    """The best `most` hosts of the own shard, or of all when none of those passes."""
    view = scores.view
    for everywhere in (False, True):
        ranked = _in_order(view, with_raw(view, scores.scores if everywhere else scores.own, wishes), seed, barred)
        if best := list(islice((row for row in ranked if _passes(scores, row, wishes, filters)), most)):
            return best
    return []


def _relative(
    scores: ScoreRow, wishes: Wishes, filters: tuple[Filter, ...], seed: bytes, barred: Collection[int], most: int
) -> list[Row]:
    """The same, weighed over all hosts that pass, whosever shard they are in."""
    view = scores.view
    passing = [row for row in _in_order(view, scores.scores, seed, barred) if _passes(scores, row, wishes, filters)]
    best = in_weight_order(view, weighable(view, passing, wishes), wishes)
    mine = [row for row in best if view.columns.mine[row.index]]
    return (mine or best)[:most]


def weigh(view: View, rows: Sequence[Row], wishes: Wishes) -> list[Weighed]:
    """Hosts with their scores, best first, equal ones in the order given: Σ multiplier × (raw − min) / (max − min) over these hosts.

    0 where all are equal, and for a host alone. Raises `CannotWeigh` where one lacks what it is weighed by.
    """
    totals = [0.0] * len(rows)
    parts: list[dict[str, tuple[float, float, float]]] = [{} for _ in rows]
    for name in wishes.profile.weighers if len(rows) > 1 else ():
        if not RAW[name].concerns(wishes):
            continue
        raw = [value_of(name, view, row, wishes) for row in rows]
        for index, (value, normal) in enumerate(zip(raw, normalised(raw, RAW[name].floor), strict=True)):
            factor = multiplier(rows[index], wishes, name)
            totals[index] += factor * normal
            parts[index][name] = (value, normal, factor)
    weighed = [Weighed(row, total, part) for row, total, part in zip(rows, totals, parts, strict=True)]
    return sorted(weighed, key=lambda one: one.score, reverse=True)


def in_weight_order(view: View, rows: Sequence[Row], wishes: Wishes) -> list[Row]:
    """The hosts in the order of `weigh`, by arrays and without the parts."""
    if len(rows) < 2:
        return list(rows)
    totals = np.zeros(len(rows))
    for name, factor in wishes.profile.weighers.items():
        weigher = RAW[name]
        overridden = weigher.override in wishes.aggregates.keys
        if not weigher.concerns(wishes) or not (factor or overridden):
            continue
        raw = np.array([value_of(name, view, row, wishes) for row in rows], np.float64)
        if weigher.floor is not None:
            np.maximum(raw, weigher.floor, out=raw)
        least, most = raw.min() if weigher.floor is None else weigher.floor, raw.max()
        if least != most:
            factors = np.array([multiplier(row, wishes, name) for row in rows]) if overridden else factor
            totals += factors * ((raw - least) / (most - least))
    return [rows[index] for index in np.argsort(-totals, kind="stable").tolist()]


def normalised(raw: Sequence[float], floor: float | None) -> list[float]:
    """Values scaled so that the least (or the floor, below which nothing counts) is 0 and the greatest 1; all equal: all 0."""
    values = list(raw) if floor is None else [max(value, floor) for value in raw]
    least, most = min(values) if floor is None else floor, max(values)
    if least == most:
        return [0.0] * len(values)
    return [(value - least) / (most - least) for value in values]


def _passes(scores: ScoreRow, row: Row, wishes: Wishes, filters: tuple[Filter, ...]) -> bool:
    for one in filters:
        if one.plain(scores.view, row, wishes):
            if one.lasting(wishes):
                scores.strike(row.index)
            return False
    return True


def weighable(view: View, rows: list[Row], wishes: Wishes) -> list[Row]:
    """Hosts that report what they are weighed by; only metrics can be lacking."""
    if not wishes.profile.metrics or "metrics" not in wishes.profile.weighers:
        return rows
    return [row for row in rows if _has_metrics(view, row, wishes)]


def _has_metrics(view: View, row: Row, wishes: Wishes) -> bool:
    try:
        RAW["metrics"].raw(view, row, wishes)
    except CannotWeigh:
        return False
    return True


def with_raw(view: View, scores: Floats, wishes: Wishes) -> Floats:
    """Scores with what the weighers without columns add: for every host that passed so far, hence a scan where a profile names one."""
    names = [n for n in wishes.profile.weighers if n not in INCREMENTAL and RAW[n].concerns(wishes)]
    if not names:
        return scores
    scores = scores.copy()
    for index in np.flatnonzero(scores > NEVER).tolist():
        row = view.by_index[index]
        try:
            for name in names:
                scores[index] += multiplier(row, wishes, name) * value_of(name, view, row, wishes)
        except CannotWeigh:
            scores[index] = NEVER
    return scores


def _in_order(view: View, scores: Floats, seed: bytes, barred: Collection[int]) -> Iterator[Row]:
    """Hosts that are not filtered, best score first, ties as `ScoreRow.choose` breaks them."""
    start = crc32(seed) % len(scores)
    kept = bar(scores, barred)
    pick = first_best(scores, start)
    found = scores[pick] > NEVER
    for index, score in kept:
        scores[index] = score
    if not found:
        return
    yield view.by_index[pick]  # most requests need no other
    scores = scores.copy()
    scores[[*barred, pick]] = NEVER
    for _ in range(PICKS_MAX - 1):
        pick = first_best(scores, start)
        if scores[pick] == NEVER:
            return
        yield view.by_index[pick]
        scores[pick] = NEVER
    rolled = np.roll(scores, -start)
    for pick in np.argsort(-rolled, kind="stable").tolist():
        if rolled[pick] == NEVER:
            return
        yield view.by_index[(pick + start) % len(scores)]
