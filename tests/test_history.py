"""What a replica remembers: undecided offsets, and which decision of a request came first."""

from hypothesis import given, settings
from hypothesis import strategies as st

from commonplace.core.history import History, Undecided

quick = settings(derandomize=True, deadline=None)


@quick
@given(st.lists(st.booleans(), max_size=30), st.randoms(use_true_random=False))
def test_committed_is_the_lowest_offset_without_an_answer(answered: list[bool], random: object) -> None:
    undecided = Undecided()
    assert undecided.committed == -1
    done = [offset for offset, yes in enumerate(answered) if yes]
    undecided.add(range(100, 100 + len(answered)))
    random.shuffle(done)  # type: ignore[attr-defined]
    before = undecided.committed
    for offset in done:
        undecided.done(100 + offset)
        assert undecided.committed >= before
        before = undecided.committed
    wanted = next((100 + offset for offset, yes in enumerate(answered) if not yes), 100 + len(answered))
    assert undecided.committed == (wanted if answered else -1)
    assert len(undecided) == answered.count(False)


def test_an_offset_answered_twice_is_done_once() -> None:
    undecided = Undecided()
    undecided.add([5])
    undecided.done(5)
    undecided.done(5)
    assert (undecided.committed, len(undecided)) == (6, 0)


def test_the_first_decision_in_log_order_stays() -> None:
    history = History(10, 1_000)
    assert history.first("a", 0, 5, b"one")
    assert not history.first("a", 0, 6, b"two")
    known = history.get("a", 0)
    assert known is not None
    assert known.value == b"one"


def test_past_its_number_the_oldest_is_forgotten() -> None:
    history = History(3, 1_000)
    for i in range(5):
        history.first(f"r{i}", 0, i, b"")
    assert list(history) == ["r2", "r3", "r4"]


def test_past_the_window_is_forgotten_by_log_time() -> None:
    history = History(100, 1_000)
    for at_ms in (0, 500, 999, 1_000, 1_400):
        history.first(f"at {at_ms}", 0, at_ms, b"")
    history.forget_old()
    assert list(history) == ["at 500", "at 999", "at 1000", "at 1400"]


def test_a_partition_given_away_is_forgotten_whole() -> None:
    history = History(100, 1_000)
    history.first("a", 0, 0, b"")
    history.first("b", 1, 0, b"")
    history.drop(0)
    assert list(history) == ["b"]
    assert history.first("a", 0, 9, b"read anew")


def test_one_id_on_two_partitions_is_two_requests() -> None:
    history = History(100, 1_000)
    assert history.first("a", 0, 0, b"here")
    assert history.first("a", 1, 5, b"there")
    assert not history.first("a", 1, 6, b"again")
    assert [known.value for partition in (0, 1) if (known := history.get("a", partition))] == [b"here", b"there"]
    assert history.get("a", 2) is None
    assert sorted(known.value for known in history.every("a")) == [b"here", b"there"]
    history.drop(0)
    assert [known.value for known in history.every("a")] == [b"there"]
    assert history.first("a", 0, 2_000, b"anew")
    history.forget_old()
    assert [known.value for known in history.every("a")] == [b"anew"]
    assert len(history) == 1
