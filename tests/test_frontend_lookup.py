"""Requests and their effective decisions as they are folded from the log, by hand."""

from typing import Any

import pytest

from commonplace.core.codec import encode
from commonplace.core.records.decisions import Decision, Placed, Position
from commonplace.core.records.requests import Build
from commonplace.core.requests import content_digest
from commonplace.frontend import lookup
from commonplace.frontend.lookup import Book, find
from commonplace.settings import Settings

WINDOW_MS = 900_000


def asked(book: Book, offset: int, at_ms: int, **fields: Any) -> Build:
    build = Build(id="r-1", flavor="m1", **fields)
    book.request(0, (offset, at_ms, b"m1", encode(build)))
    return build


def decided(book: Book, offset: int, at_ms: int, build: Build, answers: int, allocation: str = "") -> None:
    placed = [Placed(instance="r-1.0", host="h1", allocation=allocation, grant=Position(0, 0))] if allocation else []
    record = Decision(
        request="r-1",
        result="placed" if placed else "no_valid_host",
        content=content_digest(build),
        position=Position(0, answers),
        placed=placed,
    )
    book.decision(0, (offset, at_ms, b"r-1", encode(record)))


def used_twice(again_ms: int) -> Book:
    """An id, and again so much later for another project, each placed at once."""
    book = Book(WINDOW_MS)
    first, second = asked(book, 0, 1_000), asked(book, 1, again_ms, project="blue")
    decided(book, 0, 1_000, first, 0, "a-1")
    decided(book, 1, again_ms, second, 1, "a-2")
    return book


def test_a_later_decision_that_differs_is_void_within_the_idempotency_window() -> None:
    [entry] = used_twice(1_000 + WINDOW_MS).matching("r-1")
    assert entry.decision is not None
    assert ([p.allocation for p in entry.decision.placed], entry.void, entry.earlier) == (["a-1"], 1, None)


def test_an_id_used_again_past_the_idempotency_window_stands_for_what_was_asked_last() -> None:
    [entry] = used_twice(1_001 + WINDOW_MS).matching("r-1")
    assert entry.decision is not None
    assert [p.allocation for p in entry.decision.placed] == ["a-2"]
    assert (entry.void, entry.request_offset, entry.decision_offset) == (0, 1, 1)
    assert entry.build is not None
    assert entry.build.project == "blue"


def test_a_decision_that_is_written_past_the_window_on_the_same_request_is_void() -> None:
    book = Book(WINDOW_MS)
    build = asked(book, 0, 1_000)
    decided(book, 0, 1_000, build, 0, "a-1")
    decided(book, 1, 5_000_000, build, 0, "a-2")
    [entry] = book.matching("r-1")
    assert (entry.void, entry.decision_offset) == (1, 0)


def test_a_refusal_past_the_window_answers_what_was_asked_then() -> None:
    book = Book(WINDOW_MS)
    first, second = asked(book, 0, 1_000), asked(book, 1, 5_000_000, project="blue")
    decided(book, 0, 1_000, first, 0)
    decided(book, 1, 5_000_000, second, 1)
    [entry] = book.matching("r-1")
    assert (entry.build, entry.decided_at_ms) == (second, 5_000_000)


@pytest.mark.parametrize(("name", "offset"), [("r-1", 1), ("a-1", 0), ("a-2", 1)])
def test_each_use_of_an_id_is_found_by_its_allocation(monkeypatch: pytest.MonkeyPatch, name: str, offset: int) -> None:
    class Read:
        def __init__(self, settings: Settings, wanted: str) -> None:
            pass

        def read(self) -> Book:
            return used_twice(5_000_000)

    monkeypatch.setattr(lookup, "Reader", Read)
    assert find(Settings(), name).decision_offset == offset
