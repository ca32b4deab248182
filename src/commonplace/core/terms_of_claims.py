"""What a claim says beyond resources and traits: limits that aggregates set, and the image where instances are weighed by it."""

from commonplace.core.aggregate_filters import builds_max, instances_max
from commonplace.core.records import Build
from commonplace.core.rows import Row
from commonplace.core.rules import Ask, Wishes

PAIRS_MAX = 16
PAIR_CHARS_MAX = 128


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
