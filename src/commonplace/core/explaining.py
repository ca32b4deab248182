"""A request held against the fleet in full: every filter, what would make it fit, and what the best hosts weigh.

Worked out when somebody asks, never for a placement: it asks every filter of every host and weighs all that pass.
"""

import numpy as np
from msgspec import Struct

from commonplace.core.catalog import Catalog
from commonplace.core.choosing import weigh, weighable, with_raw
from commonplace.core.columns import Bools
from commonplace.core.impossible import impossible
from commonplace.core.ranking import column_scores, group_full
from commonplace.core.raw_weighers import RAW, multiplier, value_of
from commonplace.core.records.decisions import Explanation
from commonplace.core.records.decisions import Miss as Sample
from commonplace.core.records.requests import Build
from commonplace.core.relaxing import Relaxed, relaxations
from commonplace.core.replacing import as_if_gone
from commonplace.core.rows import Row
from commonplace.core.rules import Wishes
from commonplace.core.scoreboard import NEVER
from commonplace.core.turned_away import counted, failures
from commonplace.core.view import View
from commonplace.core.weigher_names import INCREMENTAL
from commonplace.core.weighers import WEIGHERS


class FilterLine(Struct, frozen=True, kw_only=True):
    """One filter: how many hosts it was the first to turn away, how many it alone did, what it needed, and one host that lacks it."""

    filter: str
    hosts: int
    alone: int
    needed: str
    sample: Sample


class Weight(Struct, frozen=True):
    """What one weigher makes of a host: `normalised` is what is multiplied, under an absolute scale the value on that scale."""

    raw: float
    normalised: float
    multiplier: float
    weighted: float


class Candidate(Struct, frozen=True, kw_only=True):
    """A host that passes every filter; its score is the sum of the weighted values."""

    host: str
    score: float
    weighers: dict[str, Weight]


class Table(Struct, frozen=True, kw_only=True):
    """A request against the fleet; `refusal` says why no host was looked at, `never` why none could take it whatever becomes free."""

    evaluated: int = 0
    passing: int = 0
    filters: list[FilterLine] = []
    closest: Sample | None = None
    would_fit: list[Relaxed] = []
    scale: str = "absolute"
    candidates: list[Candidate] = []
    refusal: str = ""
    never: str = ""


def table(view: View, catalog: Catalog, build: Build, best: int = 5) -> Table:
    """One instance of a request against the fleet as it stands, with the `best` candidates."""
    wishes = wishes_of(catalog, build)
    if isinstance(wishes, str):
        return Table(refusal=wishes)
    with as_if_gone(view, build, next(iter(build.instances), "")):
        return table_of(view, wishes, best)


def table_of(view: View, wishes: Wishes, best: int = 5) -> Table:
    """The same for a request whose rules are known."""
    build = wishes.build
    failed = failures(view, wishes.ask, group_full(view, build), wishes)
    told = counted(view, wishes.ask, failed)
    passing = failed.known & ~np.any([mask for _, mask in failed.masks], axis=0)
    return Table(
        evaluated=told.evaluated,
        passing=int(passing.sum()),
        filters=_lines(wishes, told),
        closest=told.closest,
        would_fit=relaxations(view, wishes, failed),
        scale=wishes.profile.scale,
        candidates=candidates(view, wishes, passing, best),
        never="" if passing.any() else impossible(view, wishes.ask, build),
    )


def wishes_of(catalog: Catalog, build: Build) -> Wishes | str:
    """A request with its ask and rules, as filters see it; or why there can be none."""
    terms = catalog.terms(build)
    if terms.elsewhere or terms.refusal:
        return terms.elsewhere or terms.refusal
    ask = terms.special or terms.ask
    assert ask.rules is not None, f"flavor {build.flavor} has no rules"
    return Wishes(build, ask, ask.rules)


# --- filters -----------------------------------------------------------------------------------------------------------


def _lines(wishes: Wishes, told: Explanation) -> list[FilterLine]:
    return [
        FilterLine(
            filter=sample.filter,
            hosts=told.filters[sample.filter],
            alone=told.without.get(sample.filter, 0),
            needed=_needed(sample.filter, wishes),
            sample=sample,
        )
        for sample in told.samples
    ]


def _needed(name: str, wishes: Wishes) -> str:
    """What a filter asks of a host, in the request's words; "" where its name says it all."""
    ask, build = wishes.ask, wishes.build
    match name:
        case "status":
            return "enabled, state known"
        case "traits":
            return ", ".join([*ask.traits_required, *(f"!{one}" for one in ask.traits_forbidden)])
        case "io_ops":
            return f"fewer than {ask.builds_max} builds in progress"
        case "instances":
            return f"fewer than {ask.instances_max} instances"
        case "capacity":
            return ", ".join(f"{amount} {resource}" for resource, amount in ask.resources)
        case "group":
            return f"fewer than {build.group_max} of group {build.group}"
        case "requested_host":
            return f"host {build.host}"
        case "availability_zone":
            return f"zone {build.zone}"
        case "member_of":
            return ", ".join(build.member_of)
        case _:
            return ""


# --- weighers ----------------------------------------------------------------------------------------------------------


def candidates(view: View, wishes: Wishes, passing: Bools, best: int) -> list[Candidate]:
    """The best of the hosts that pass, each with its weighers; equal scores in the order of the fleet."""
    if best < 1 or not passing.any():
        return []
    if wishes.profile.scale == "relative":
        return _relative(view, wishes, passing)[:best]
    scores = np.where(passing, with_raw(view, column_scores(view, wishes.ask, slice(None)), wishes), NEVER)
    order = np.argsort(-scores, kind="stable")[:best].tolist()
    return [_absolute(view, wishes, view.by_index[index]) for index in order if scores[index] > NEVER]


def _absolute(view: View, wishes: Wishes, row: Row) -> Candidate:
    weights = {}
    for name, factor in wishes.profile.weighers.items():
        if name not in INCREMENTAL and not RAW[name].concerns(wishes):
            continue
        raw = value_of(name, view, row, wishes)
        if name in INCREMENTAL:
            value = WEIGHERS[name][0](view, row, wishes.ask)
        else:
            value, factor = raw, multiplier(row, wishes, name)
        weights[name] = Weight(raw, value, factor, factor * value)
    return Candidate(host=row.host.name, score=sum(one.weighted for one in weights.values()), weighers=weights)


def _relative(view: View, wishes: Wishes, passing: Bools) -> list[Candidate]:
    rows = weighable(view, [view.by_index[index] for index in np.flatnonzero(passing).tolist()], wishes)
    return [
        Candidate(
            host=one.row.host.name,
            score=one.score,
            weighers={
                name: Weight(raw, normal, factor, factor * normal) for name, (raw, normal, factor) in one.parts.items()
            },
        )
        for one in weigh(view, rows, wishes)
    ]
