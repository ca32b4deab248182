"""The cycle collector of a process that holds a fleet: calm while it serves, and no fleet outlives the one that takes its place."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from commonplace import collector


class Ring:
    """An object that holds itself."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.set_threshold(*thresholds)
    gc.unfreeze()
    gc.enable()


def test_nothing_is_collected_while_paused_and_everything_may_be_afterwards() -> None:
    with collector.paused():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_the_collector_looks_again_after_a_failure() -> None:
    with pytest.raises(RuntimeError), collector.paused():
        raise RuntimeError
    assert gc.isenabled()


def test_what_was_kept_out_of_sight_goes_before_the_next_takes_its_place() -> None:
    fleet = Ring()
    gone = weakref.ref(fleet)
    collector.calm()
    del fleet
    gc.collect()
    assert gone() is not None  # out of the collector's sight
    with collector.paused():
        assert gone() is None


def test_free_memory_is_given_back_where_the_c_library_can(monkeypatch: pytest.MonkeyPatch) -> None:
    collector.give_back()
    monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    collector.give_back()  # no malloc_trim: nothing happens


def test_measured_calm_ends_with_its_context() -> None:
    before = gc.get_threshold()
    with collector.calmed():
        assert gc.get_threshold()[0] == collector.YOUNG_MAX
        assert gc.get_freeze_count() > 0
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0
