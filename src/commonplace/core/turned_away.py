"""Which hosts each filter turns away, counted, with the one that came closest: why a request found no host."""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import numpy as np
from msgspec import Struct

from commonplace.core.columns import Bools
from commonplace.core.filters import FILTERS
from commonplace.core.records.decisions import Explanation, Miss
from commonplace.core.rows import Row
from commonplace.core.rules import Ask, Wishes
from commonplace.core.view import View


class Failures(Struct, frozen=True):
    """Which hosts each filter turns away, in the order of the filters; `known`: all but the removed ones.

    `plains` says of one host why, by the filter's name; `group` has none.
    """

    known: Bools
    masks: list[tuple[str, Bools]]
    plains: dict[str, Callable[[Row], str]]


def failures(view: View, ask: Ask, barred: Collection[int] = (), wishes: Wishes | None = None) -> Failures:
    """Every filter asked of every host, those that failed another included: for refusals and on request only."""
    view.write()
    columns, n = view.columns, view.columns.rows
    known = np.ones(n, np.bool_)
    known[[i for i in np.flatnonzero(~columns.usable[:n]) if view.by_index[i].host.removed]] = False
    masks = [(name, known & ~column(view, slice(None), ask)) for name, _, column in FILTERS]
    plains: dict[str, Callable[[Row], str]] = {name: partial(_plain, plain, view, ask) for name, plain, _ in FILTERS}
    for one in wishes.concerned() if wishes is not None else ():
        plains[one.name] = partial(_plain, one.plain, view, wishes)
        turned_away = (known[row.index] and plains[one.name](row) != "" for row in view.by_index)
        masks.append((one.name, np.fromiter(turned_away, np.bool_, n)))
    group = np.zeros(n, np.bool_)
    group[list(barred)] = True
    masks.append(("group", known & group))
    return Failures(known, masks, plains)


def explain(view: View, ask: Ask, barred: Collection[int] = (), wishes: Wishes | None = None) -> Explanation:
    """How many hosts each filter turned away, each host counted once, at the first that did; `without`: how many that one alone did.

    Names the closest miss, and one for each filter. Removed hosts are none. One pass of every filter over all hosts, so for refusals only.
    """
    return counted(view, ask, failures(view, ask, barred, wishes))


def counted(view: View, ask: Ask, failed_of: Failures) -> Explanation:
    """What `explain` says, of failures worked out already."""
    left = failed_of.known
    times = np.sum([failed for _, failed in failed_of.masks], axis=0)
    counts: dict[str, int] = {}
    without: dict[str, int] = {}
    samples: list[Miss] = []
    last: tuple[str, Bools] | None = None
    for name, failed in failed_of.masks:
        first, alone = failed & left, failed & (times == 1)
        if alone.any():
            without[name] = int(alone.sum())
        if first.any():
            counts[name] = int(first.sum())
            samples.append(_closest(view, ask, name, first, failed_of.plains))
            last = (name, alone if name in without else first)
            left = left & ~first
    miss = _closest(view, ask, *last, failed_of.plains) if last else None
    evaluated = int(failed_of.known.sum())
    return Explanation(evaluated=evaluated, filters=counts, without=without, closest=miss, samples=samples)


def _closest(view: View, ask: Ask, name: str, failed: Bools, plains: Mapping[str, Callable[[Row], str]]) -> Miss:
    """Of the hosts that a filter turned away, the one that lacks least, as a share of what was asked."""
    rows = np.flatnonzero(failed)
    if name == "group":
        return Miss(host=view.by_index[rows[0]].host.name, filter=name, detail="its members are as many as allowed")
    if name == "capacity":
        short = np.zeros(len(rows))
        for resource, amount in ask.resources:
            free = view.columns.free[resource][rows] if resource in view.columns.free else np.zeros(len(rows))
            short += np.maximum(amount - free, 0) / amount
        row = view.by_index[rows[int(short.argmin())]]
        room = {r: int(view.columns.free[r][row.index]) if r in view.columns.free else 0 for r, _ in ask.resources}
        lacking = [(resource, amount) for resource, amount in ask.resources if room[resource] < amount]
        if lacking:
            (resource, amount), *others = lacking
            also = "also short of " + ", ".join(f"{a - room[r]} {r}" for r, a in others) if others else ""
            return Miss(
                host=row.host.name,
                filter=name,
                resource=resource,
                needed=amount,
                had=max(0, room[resource]),
                detail=also[:1024],
            )
    else:
        row = view.by_index[rows[0]]
    return Miss(host=row.host.name, filter=name, detail=plains[name](row)[:1024])


def _plain(plain: Callable[[View, Row, Any], str], view: View, asked: Any, row: Row) -> str:
    """A filter's reason with all but the host given."""
    return plain(view, row, asked)
