"""Whether a reader of a compacted topic may have missed a tombstone."""

import pytest

from commonplace.core.tombstones import Tombstones

HALF_LIFE_MS = 1_000
WALL_MS = 5_000_000
PLACE = ("control", 0)


@pytest.mark.parametrize(
    ("first", "age_ms", "quiet_ms", "missed"),
    [
        (4, 10, 10, False),  # the next record
        (4, 10, 9_000, False),  # a topic where nothing was said for long
        (6, 10, 900, False),  # what went before it had been there for less than a tombstone lives
        (6, 10, 1_001, True),  # whoever was cut off for so long knows not what stood between
        (4, 1_001, 10, True),  # tombstones beside a record that is so old may be gone
    ],
)
def test_a_tombstone_may_be_missed_behind_old_records_and_behind_gaps_after_a_long_silence(
    first: int, age_ms: int, quiet_ms: int, missed: bool
) -> None:
    seen = Tombstones(HALF_LIFE_MS)
    assert not seen.missed(PLACE, 0, WALL_MS, 4, WALL_MS, 100)
    later = WALL_MS + quiet_ms
    assert seen.missed(PLACE, first, later - age_ms, first + 1, later, 100 + quiet_ms) is missed


def test_each_partition_has_a_silence_of_its_own_and_the_first_read_is_behind_nothing() -> None:
    seen = Tombstones(HALF_LIFE_MS)
    assert not seen.missed(PLACE, 70, WALL_MS, 71, WALL_MS, 100)
    assert not seen.missed(("hosts", 0), 9, WALL_MS, 10, WALL_MS, 9_000)
    assert seen.missed(PLACE, 80, WALL_MS, 81, WALL_MS, 9_000)
