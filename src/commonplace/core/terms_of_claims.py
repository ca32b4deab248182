"""What a claim says beyond resources and traits: limits that aggregates set, the image where instances are weighed by it, cells, growth."""

from collections.abc import Collection
from typing import NamedTuple

from commonplace.core.aggregate_filters import builds_max, instances_max
from commonplace.core.cells import Terms, ratios_of
from commonplace.core.laying import layout_of, plan
from commonplace.core.records.hosts import Whole
from commonplace.core.records.requests import Build
from commonplace.core.rows import Row
from commonplace.core.rules import Ask, Wishes
from commonplace.core.work import Work

PAIRS_MAX = 16
PAIR_CHARS_MAX = 128


class Growth(NamedTuple):
    """What a claim takes beyond the allocation `old`, which it replaces, to become `whole`; `terms` where cells are asked."""

    old: str
    whole: Whole
    resources: dict[str, int]
    cells: dict[str, dict[str, int]]
    terms: Terms | None


def limits(row: Row, build: Build, ask: Ask) -> tuple[int, int]:
    """Most builds in progress and most instances that the ledger of a host is to allow; 0 is no limit."""
    if ask.rules is None:
        return ask.builds_max, ask.instances_max
    wishes, named = Wishes(build, ask, ask.rules), {one.name for one in ask.rules.filters}
    return (
        (builds_max(row, wishes) or 0) if "aggregate_io_ops" in named else ask.builds_max,
        (instances_max(row, wishes) or 0) if "aggregate_num_instances" in named else ask.instances_max,
    )


def image_of(build: Build, ask: Ask) -> tuple[str, ...]:
    """The image's properties as an allocation carries them; () unless the profile weighs by them."""
    if ask.rules is None or not ask.rules.profile.weighers.get("image_properties"):
        return ()
    pairs = (f"{key}={value}" for key, value in sorted(build.image_properties.items()))
    return tuple(pair for pair in pairs if len(pair) <= PAIR_CHARS_MAX and pair.isprintable())[:PAIRS_MAX]


def lay_on(row: Row, work: Work, only: Collection[str] | None = None) -> tuple[dict[str, dict[str, int]], Terms] | None:
    """What a claim takes from each cell of a host (or of these `only`), and on which terms; None when it takes nothing there."""
    cells, rules = row.cells, work.ask.rules
    if only is not None:
        cells = {name: cell for name, cell in cells.items() if name in only}
    layout = layout_of(rules.flavor if rules else None, work.resources, cells)
    taken = plan(cells, layout, ratios_of(row.host.inventory), work.build.networks)
    return (taken, layout.terms) if taken else None
