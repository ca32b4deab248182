"""The trace context that rides beside a request's records: what is one, and what a replica does with it."""

from typing import Any

import pytest

from commonplace.core import replica_events as re
from commonplace.core.codec import encode
from commonplace.core.records.requests import Build, Cancel
from commonplace.core.requests import request_key
from commonplace.core.traceparent import CHARS_MAX, from_header, misfit, trace_id
from commonplace.frontend.events import ControlRead, Looked, SendRequest, Submit
from commonplace.frontend.session import Session
from test_replica import PART, Hand, sends
from world import flavor

TRACE = "0af7651916cd43dd8448eb211c80319c"
GOOD = f"00-{TRACE}-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (GOOD, TRACE),
        (f"01-{TRACE}-b7ad6b7169203331-01", TRACE),
        (f"cc-{TRACE}-b7ad6b7169203331-01-what-comes-later", TRACE),
        ("", ""),
        (GOOD.upper(), ""),
        (f"{GOOD}-more", ""),  # version 00 has four parts
        (f"ff-{TRACE}-b7ad6b7169203331-01", ""),
        (f"00-{'0' * 32}-b7ad6b7169203331-01", ""),
        (f"00-{TRACE}-{'0' * 16}-01", ""),
        (f"00-{TRACE[:-1]}-b7ad6b7169203331-01", ""),
        (f"{GOOD}\n", ""),
        (f"cc-{TRACE}-b7ad6b7169203331-01-" + "x" * CHARS_MAX, ""),
    ],
)
def test_a_trace_context_is_what_the_standard_calls_one(text: str, found: str) -> None:
    assert trace_id(text) == found
    assert from_header(text.encode()) == (text if found else "")
    assert (misfit(text) == "") == bool(found)


@pytest.mark.parametrize("value", [None, b"\xff\xfe", 7, GOOD])
def test_a_header_that_is_no_text_bears_no_trace_context(value: object) -> None:
    assert from_header(value) == ""


def read(hand: Hand, offset: int, record: Build | Cancel, trace: str) -> list[Any]:
    key = request_key(record, flavor(record.flavor)).encode()
    event = re.RequestsRead(PART, [(offset, hand.now, key, encode(record))], {offset: trace} if trace else None)
    effects = hand.receive(event)
    if any(isinstance(effect, re.ReadHistory) for effect in effects):
        effects += hand.receive(re.HistoryRead(PART))
    return effects


def test_claim_and_decision_of_a_request_bear_its_trace_context_and_so_do_repeats() -> None:
    hand = Hand("h0")
    read(hand, 0, Build(id="a", flavor="small"), GOOD)
    (claim,) = sends(hand.turn(), re.SendClaim)
    assert claim.trace == GOOD
    hand.grant(claim)
    (decision,) = sends(hand.sent, re.SendDecision)
    assert decision.trace == GOOD
    hand.receive(re.DecisionDelivered(decision.token, False))
    (again,) = sends(hand.tick(1_000), re.SendDecision)
    assert again.trace == GOOD


def test_each_request_bears_its_own_and_one_without_bears_none() -> None:
    hand = Hand("h0")
    other = GOOD.replace("b7ad", "1234")
    read(hand, 0, Build(id="a", flavor="small"), GOOD)
    read(hand, 1, Build(id="b", flavor="small"), "")
    read(hand, 2, Build(id="c", flavor="large"), other)
    assert [effect.trace for effect in sends(hand.turn(), re.SendClaim)] == [GOOD, "", other]


def test_refusals_and_what_a_cancel_gives_back_bear_it_too() -> None:
    hand = Hand("h0")
    read(hand, 0, Build(id="a", flavor="small"), "")
    hand.grant(*sends(hand.turn(), re.SendClaim))
    (placed,) = sends(hand.sent, re.SendDecision)
    hand.read_back(placed)
    refused = read(hand, 1, Build(id="b", flavor="small", count=0), GOOD)
    assert [effect.trace for effect in sends(refused, re.SendDecision)] == [GOOD]
    given_back = read(hand, 2, Cancel(id="a", flavor="small"), GOOD)
    assert [effect.trace for effect in sends(given_back, re.SendRelease)] == [GOOD]


@pytest.mark.parametrize("held", [False, True])
def test_a_frontend_sends_it_with_the_request(held: bool) -> None:
    session = Session("default", 1, 1, 10)
    session.receive(ControlRead([(0, 0, b"flavor/small", encode(flavor("small")))]), 0)
    effects = session.receive(Submit(Build(id="a", flavor="small"), 1, 1_000, held=held, trace=GOOD), 0)
    if held:
        effects = session.receive(Looked("a", [], 1), 0)
    assert [effect.trace for effect in effects if isinstance(effect, SendRequest)] == [GOOD]
