"""Ids that a client makes: which of them cannot have been decided yet."""

import random

import pytest

from commonplace.frontend.ids import BEYOND_MAX, Ids


def unused(ids: Ids, id: str) -> bool:
    return ids.unused(ids.number(id))


def use(ids: Ids, id: str) -> None:
    ids.use(ids.number(id))


def test_an_id_is_unused_until_it_is_submitted() -> None:
    ids = Ids()
    first, second = ids.new(), ids.new()
    use(ids, second)
    assert (unused(ids, first), unused(ids, second)) == (True, False)
    use(ids, first)
    assert not unused(ids, first)
    assert unused(ids, ids.new())


@pytest.mark.parametrize("id", ["order-17", "r-1", "", "{}x", "{}0", "{}01", "{} 1", "{}0x1", "{}"])
def test_ids_that_it_did_not_make_may_have_been_submitted_by_anybody(id: str) -> None:
    ids = Ids()
    assert not unused(ids, id.format(ids.new()[:-1]))
    assert not unused(ids, Ids().new())


def test_what_is_remembered_is_bounded_and_what_was_submitted_is_never_unused_again() -> None:
    ids, dice = Ids(), random.Random(7)
    made = [ids.new() for _ in range(5 * BEYOND_MAX)]
    used = [id for id in made if dice.random() < 0.5]
    for id in used:
        use(ids, id)
        assert len(ids._beyond) <= BEYOND_MAX
    assert not any(unused(ids, id) for id in used)
    assert unused(ids, ids.new())


def test_ids_submitted_in_the_order_they_were_made_in_take_no_room() -> None:
    ids = Ids()
    made = [ids.new() for _ in range(3 * BEYOND_MAX)]
    for id in made[:-1]:
        use(ids, id)
    assert not ids._beyond
    assert unused(ids, made[-1])
