"""The simulated topic: what a reader meets after appends, cleaning, retention, truncation; and that it is no kinder than Kafka."""

from random import Random

import pytest

from commonplace.sim.log import NoKey, OutOfRange, Rules, Topic

COMPACT = Rules(compact=True, segment_records=2, delete_retention_ms=100)


def topic(rules: Rules, *records: str, step_ms: int = 10) -> Topic:
    """A topic with records written as `key`, or `-key` for a tombstone, `step_ms` apart; `!` is a transaction's marker."""
    made = Topic("t", 1, rules)
    for i, text in enumerate(records):
        value = None if text.startswith("-") else f"value {i}".encode()
        made.append(0, text.strip("-").encode(), value, i * step_ms, marker=text == "!")
    return made


def offsets(made: Topic) -> list[int]:
    return [raw[0] for raw in made.read(0, made.begin(0), 1_000, 0)[0]]


def test_offsets_count_up_and_a_marker_leaves_a_gap() -> None:
    made = topic(Rules(), "a", "!", "b")
    assert made.read(0, 0, 9, 0) == ([(0, 0, b"a", b"value 0"), (2, 20, b"b", b"value 2")], 3)
    assert made.read(0, 1, 1, 0)[1] == made.end(0) == 3


def test_a_read_goes_on_after_the_last_record_it_gave_and_ends_at_the_end() -> None:
    made = topic(Rules(), "a", "b", "!", "c", "!")
    assert [made.read(0, at, 1, 0)[1] for at in (0, 1, 2, 3, 5)] == [1, 2, 5, 5, 5]


def test_a_read_before_the_begin_or_past_the_end_says_what_there_is() -> None:
    made = topic(Rules(retention_ms=5, segment_records=1), "a", "b", "c")
    made.expire(0, 16)
    for offset in (0, 4):
        with pytest.raises(OutOfRange) as caught:
            made.read(0, offset, 1, 0)
        assert (caught.value.begin, caught.value.end) == (2, 3)


def test_compaction_keeps_the_last_of_each_key_below_the_active_segment() -> None:
    made = topic(COMPACT, "a", "b", "a", "b", "a", "a")
    assert made.clean(0, 60) == 2
    assert offsets(made) == [2, 3, 4, 5]
    assert (made.begin(0), made.end(0), made.clean(0, 60)) == (0, 6, 0)


def test_a_record_younger_than_the_lag_and_all_after_it_stay() -> None:
    rules = Rules(compact=True, segment_records=2, min_compaction_lag_ms=25)
    made = topic(rules, "a", "a", "a", "a", "a", "a", "a")  # segments end at 10, 30, 50 ms
    assert made.clean(0, 54) == 1
    assert offsets(made) == [1, 2, 3, 4, 5, 6]
    assert made.clean(0, 55) == 2


def test_a_tombstone_goes_with_the_first_pass_that_comes_its_retention_after_one_that_met_it() -> None:
    made = topic(COMPACT, "a", "-a", "b", "b", "c")
    assert made.clean(0, 1_000) == 2
    assert offsets(made) == [1, 3, 4]
    assert made.clean(0, 1_099) == 0
    assert made.clean(0, 1_100) == 1
    assert offsets(made) == [3, 4]


def test_a_tombstone_that_a_later_record_of_its_key_follows_goes_at_once() -> None:
    made = topic(COMPACT, "a", "-a", "a", "b", "c")
    assert made.clean(0, 1_000) == 2
    assert offsets(made) == [2, 3, 4]


def test_a_segment_is_closed_by_age_at_the_next_append_only() -> None:
    made = topic(Rules(compact=True, segment_ms=15), "a", "a", "a")
    assert made.clean(0, 10_000) == 1  # the third came 20 ms after the first
    assert offsets(made) == [1, 2]


def test_once_the_active_segment_is_closed_a_pass_comes_to_all_that_was_written() -> None:
    made = topic(Rules(compact=True, delete_retention_ms=100), "a", "b", "a", "-b")
    assert made.clean(0, 1_000) == 0
    for _ in range(2):  # the second finds it empty
        made.roll(0)
    assert made.clean(0, 1_000) == 2
    assert made.clean(0, 1_100) == 1
    assert (offsets(made), made.append(0, b"a", b"v", 1_100)) == ([2], 4)


def test_a_compacted_topic_takes_no_record_without_a_key() -> None:
    with pytest.raises(NoKey):
        Topic("t", 1, COMPACT).append(0, None, b"v", 0)


def test_retention_takes_whole_segments_from_the_first_and_at_last_the_active_one() -> None:
    made = topic(Rules(retention_ms=100, segment_records=2), "a", "b", "c", "d", "e")
    assert made.expire(0, 110) == 0
    assert made.expire(0, 111) == 2
    assert (made.begin(0), offsets(made)) == (2, [2, 3, 4])
    assert made.expire(0, 1_000) == 3
    assert (made.begin(0), made.end(0)) == (5, 5)
    assert made.append(0, b"f", b"", 1_000) == 5


def test_truncation_gives_offsets_again_and_what_it_lost_was_never_there() -> None:
    made = topic(COMPACT, "a", "b", "c", "a", "b", "c")
    made.clean(0, 60)
    made.truncate(0, 3)
    assert (made.end(0), made.append(0, b"b", b"new", 70)) == (3, 3)
    assert [raw[2] for raw in made.everything(0)] == [b"a", b"b", b"c", b"b"]
    made.truncate(0, 9)
    assert made.end(0) == 4


def test_a_topic_made_anew_is_empty_and_has_another_id() -> None:
    made = topic(COMPACT, "a", "b")
    before = made.id
    made.recreate(100)
    assert (made.end(0), made.everything(0)) == (0, [])
    assert made.id != before


def test_everything_outlives_cleaning_and_subscribers_are_told_of_each_record_once() -> None:
    told: list[tuple[str, str, int, int]] = []
    made = Topic("t", 2, COMPACT)
    made.subscribe(lambda name, topic_id, partition, raw: told.append((name, topic_id, partition, raw[0])))
    for i in range(6):
        made.append(1, b"k", b"v", i, marker=i == 2)
    made.clean(1, 100)
    assert [raw[0] for raw in made.everything(1)] == [0, 1, 3, 4, 5]
    assert told == [("t", made.id, 1, offset) for offset in (0, 1, 3, 4, 5)]


def test_offset_at_is_the_first_record_of_that_time_or_later() -> None:
    made = topic(Rules(), "a", "b", "c")
    assert [made.offset_at(0, at_ms) for at_ms in (0, 1, 20, 21)] == [0, 1, 2, 3]


def test_whatever_the_passes_the_last_record_of_each_key_stays_unless_it_is_an_old_tombstone() -> None:
    for seed in range(200):
        random = Random(seed)
        rules = Rules(
            compact=True,
            min_compaction_lag_ms=random.choice((0, 30)),
            delete_retention_ms=random.choice((0, 50)),
            segment_records=random.choice((1, 2, 5)),
            segment_ms=random.choice((20, 1_000)),
        )
        made, now = Topic("t", 1, rules), 0
        for _ in range(60):
            now += random.choice((0, 1, 10))
            made.append(0, random.choice((b"a", b"b", b"c")), random.choice((b"v", None)), now)
            if random.random() < 0.2:
                made.clean(0, now)
        last = {raw[2]: raw for raw in made.everything(0)}
        left = made.read(0, 0, 1_000, now)[0]
        assert left == sorted(left)
        assert {raw for raw in last.values() if raw[3] is not None} <= set(left) <= set(made.everything(0))
