"""The frontend's state machine: what it sends, what it refuses, and which decision it takes for an answer."""

import pytest

from commonplace.core.codec import Bad, decode, encode
from commonplace.core.ledger_events import found_id
from commonplace.core.partition import partition_of
from commonplace.core.records.claims import Confirm, Release
from commonplace.core.records.control import Flavor, Routing
from commonplace.core.records.decisions import Decision, Placed, Position
from commonplace.core.records.requests import Build, Cancel
from commonplace.core.requests import content_digest, request_key
from commonplace.frontend.answered import KEPT_MAX
from commonplace.frontend.events import (
    Answer,
    AskConfirm,
    AskRelease,
    ControlRead,
    DecisionsRead,
    Effect,
    LookBack,
    Looked,
    Quarantine,
    Refusal,
    SendClaimRecord,
    SendFailed,
    SendRequest,
    Sent,
    Submit,
    Tick,
    Why,
    Withdraw,
)
from commonplace.frontend.session import Session

PARTITIONS = 6
SMALL = Flavor(name="m1.small", resources={"VCPU": 1}, traits_forbidden=("CUSTOM_SLOW",))
HOT = Flavor(name="m1.hot", resources={"VCPU": 1}, spread=4)
ELSEWHERE = Flavor(name="w1.big", resources={"VCPU": 8}, pool="windows")
MOVED = Flavor(name="m1.moved", resources={"VCPU": 1})


def control(*records: Flavor | Routing) -> ControlRead:
    keys = [f"flavor/{r.name}" if isinstance(r, Flavor) else "routing" for r in records]
    return ControlRead([(i, 0, k.encode(), encode(r)) for i, (k, r) in enumerate(zip(keys, records, strict=True))])


@pytest.fixture
def session() -> Session:
    made = Session("default", PARTITIONS, claims_partitions=4, in_flight_max=3)
    made.receive(control(SMALL, HOT, ELSEWHERE, MOVED, Routing(pools={"m1.moved": "ssd"})), 0)
    return made


def build(id: str = "r-1", flavor: str = "m1.small", **fields: object) -> Build:
    return Build(id=id, flavor=flavor, **fields)  # type: ignore[arg-type]


def place(request: Build, **changes: object) -> Decision:
    fields: dict[str, object] = {
        "request": request.id,
        "result": "placed",
        "content": content_digest(request),
        "position": Position(0, 0),
        "flavor": request.flavor,
        "placed": [Placed(instance=f"{request.id}.0", host="h1", allocation=f"a-{request.id}", grant=Position(1, 7))],
        "confirm_within_ms": 1000,
    }
    return Decision(**{**fields, **changes})  # type: ignore[arg-type]


def refuse(request: Build, **changes: object) -> Decision:
    return place(request, result="no_valid_host", placed=[], **changes)


def submit(session: Session, request: Build, token: int = 1, now_ms: int = 0, held: bool = False) -> list[Effect]:
    return session.receive(Submit(request, token, timeout_ms=5000, held=held), now_ms)


def read(session: Session, *decisions: Decision, partition: int | None = None, now_ms: int = 10) -> list[Effect]:
    rows = [(i, 0, d.request.encode(), encode(d)) for i, d in enumerate(decisions)]
    where = partition_of("m1.small", PARTITIONS) if partition is None else partition
    return session.receive(DecisionsRead(where, rows), now_ms)


def refusal(effects: list[Effect]) -> Refusal:
    (answer,) = effects
    assert isinstance(answer, Answer)
    assert isinstance(answer.answer, Refusal)
    return answer.answer


# --- what is sent ---


def test_a_request_is_sent_under_its_flavor_to_the_partition_of_that_key(session: Session) -> None:
    request = build(count=2)
    (sent,) = submit(session, request)
    assert sent == SendRequest(partition_of("m1.small", PARTITIONS), b"m1.small", encode(request), 1)


def test_requests_of_a_spread_flavor_use_all_its_keys_and_each_request_one(session: Session) -> None:
    keys = {request_key(build(f"r-{n}", "m1.hot"), HOT) for n in range(200)}
    assert keys == {f"m1.hot/{k}" for k in range(4)}
    (sent,) = submit(session, build("r-7", "m1.hot"))
    assert isinstance(sent, SendRequest)
    assert sent.key == f"m1.hot/{partition_of('r-7', 4)}".encode()
    assert sent.partition == partition_of(sent.key, PARTITIONS)


def test_a_cancel_goes_where_its_request_went(session: Session) -> None:
    (sent,) = submit(session, build("r-7", "m1.hot"))
    (cancel,) = session.receive(Withdraw("r-7", token=2), 0)
    assert isinstance(sent, SendRequest)
    assert isinstance(cancel, SendRequest)
    assert (cancel.partition, cancel.key) == (sent.partition, sent.key)
    assert decode("requests", cancel.value) == Cancel(id="r-7", flavor="m1.hot")


def test_what_was_cancelled_here_is_not_confirmed_and_the_newest_are_remembered(session: Session) -> None:
    decision = place(build())
    submit(session, build())
    read(session, decision)
    session.receive(Withdraw("r-1", token=2), 0)
    why = refusal(session.receive(AskConfirm(decision, token=3), 20))
    assert (why.why, why.message) == (
        Why.LATE,
        "r-1 was cancelled here, what it held is given back: submit again under a new id",
    )
    for number in range(KEPT_MAX):
        session.receive(Withdraw(f"other-{number}", token=4, flavor="m1.small"), 30)
    (confirmed,) = session.receive(AskConfirm(decision, token=5), 40)
    assert isinstance(confirmed, SendClaimRecord)


def test_a_cancel_of_an_unknown_request_needs_its_flavor(session: Session) -> None:
    assert "name its flavor" in refusal(session.receive(Withdraw("r-9", token=2), 0)).message
    (cancel,) = session.receive(Withdraw("r-9", token=3, flavor="m1.small"), 0)
    assert isinstance(cancel, SendRequest)


# --- what is refused here ---


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (build(flavor="m1.smal"), "flavor m1.smal is unknown; the nearest known is m1.small"),
        (build(flavor="w1.big"), "placed by pool windows, this frontend serves pool default: use --pool windows"),
        (build(flavor="m1.moved"), "placed by pool ssd"),
        (build("no spaces"), "id must begin with a letter or a digit"),
        (build("r-1\n"), "id must begin with a letter or a digit"),
        (build(count=0), "count must be at"),
        (build(count=257), "count must be at"),
        (build(project="a\x1bb"), "project must hold no control characters"),
        (build(traits_required=("not a trait",)), "traits_required[0] must begin with a capital letter"),
        (build(traits_required=("HW_A",), traits_forbidden=("HW_A",)), "HW_A is required and forbidden"),
        (build(traits_required=("CUSTOM_SLOW",)), "CUSTOM_SLOW is required and forbidden (see flavor m1.small)"),
        (build(group_max=1), "no group is named"),
        (build(count=2, instances=("i-1",)), "1 instances are named for a count of 2"),
        (build(project="blue\u200b"), "project 'blue\\u200b' holds a character that terminals do not show"),
        (build(count=2, instances=("i-1", "i-1")), "named twice"),
    ],
)
def test_what_no_host_can_satisfy_is_refused_before_it_is_sent(session: Session, request_: Build, said: str) -> None:
    answer = refusal(submit(session, request_))
    assert answer.why is Why.INVALID
    assert said in answer.message
    assert session.in_flight == 0


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (build(project="p\udcff"), r"request r-1: 'p\udcff' is not UTF-8"),
        (build("r\udcff"), r"request 'r\udcff': 'r\udcff' is not UTF-8"),
        (build(hints={"\udcff": ("x",)}), "is not UTF-8"),
    ],
)
def test_what_cannot_be_written_is_refused(session: Session, request_: Build, said: str) -> None:
    answer = refusal(submit(session, request_))
    assert (answer.why, said in answer.message, session.in_flight) == (Why.INVALID, True, 0)
    assert session.known(request_.id) is None


@pytest.mark.parametrize("names", [("r\udcff", "m1.small", ""), ("r-9", "\udcff", ""), ("r-9", "m1.small", "\udcff")])
def test_a_cancel_that_cannot_be_written_is_refused(session: Session, names: tuple[str, str, str]) -> None:
    request, flavor, group = names
    assert "is not UTF-8" in refusal(session.receive(Withdraw(request, 2, flavor, group), 0)).message


def test_without_any_flavor_it_says_how_to_get_some() -> None:
    empty = Session("default", PARTITIONS, 4, 3)
    assert "commonplace topics create" in refusal(submit(empty, build())).message


def test_a_deleted_flavor_is_unknown_and_routing_can_be_withdrawn(session: Session) -> None:
    session.receive(ControlRead([(9, 0, b"flavor/m1.small", None), (10, 0, b"routing", None)]), 0)
    assert "unknown" in refusal(submit(session, build())).message
    (sent,) = submit(session, build(flavor="m1.moved"))
    assert isinstance(sent, SendRequest)


@pytest.mark.parametrize(
    "value", [b"{", b'{"type":"flavor","name":"other","resources":{"VCPU":1}}', b'{"type":"routing"}']
)
def test_a_bad_control_record_is_counted_and_the_last_good_one_stays(session: Session, value: bytes) -> None:
    session.receive(ControlRead([(9, 0, b"flavor/m1.small", value)]), 0)
    assert session.control_bad == 1
    assert session.flavors["m1.small"] == SMALL


def test_more_than_may_be_open_are_refused_as_overloaded(session: Session) -> None:
    for n in range(3):
        submit(session, build(f"r-{n}"), token=n)
    answer = refusal(submit(session, build("r-3"), token=3))
    assert answer.why is Why.OVERLOADED
    assert "frontend.in_flight_max" in answer.message


# --- which decision is the answer ---


def test_the_first_decision_answers_and_a_later_one_is_void(session: Session) -> None:
    request = build()
    submit(session, request)
    first, void = refuse(request), place(request)
    assert read(session, first, void) == [Answer(1, first)]
    assert read(session, void) == []
    assert session.known("r-1") == first
    assert session.repeated == 2


def test_the_decision_may_come_before_the_acknowledgement(session: Session) -> None:
    request = build()
    submit(session, request)
    assert read(session, place(request)) == [Answer(1, place(request))]
    assert session.receive(Sent([1]), 20) == []
    assert session.receive(SendFailed(1, "timed out"), 21) == []


def test_a_decision_on_another_partition_is_no_answer(session: Session) -> None:
    request = build()
    submit(session, request)
    other = (partition_of("m1.small", PARTITIONS) + 1) % PARTITIONS
    assert read(session, place(request), partition=other) == []
    assert session.in_flight == 1


def test_decisions_of_others_are_passed_over(session: Session) -> None:
    request = build()
    submit(session, request)
    assert read(session, place(build("r-2")), place(request)) == [Answer(1, place(request))]
    assert session.known("r-2") is None


def test_id_reused_is_mine_only_with_my_content(session: Session) -> None:
    mine, theirs = build(count=2), build(count=1)
    submit(session, mine)
    about_them = refuse(theirs, reason="id_reused")
    about_me = place(mine, result="rejected", reason="id_reused", placed=[])
    assert read(session, about_them) == []
    assert read(session, place(theirs)) == []  # effective, but for the other content
    assert read(session, about_me) == [Answer(1, about_me)]
    assert session.known("r-1") is None


def test_id_reused_without_content_answers_nobody(session: Session) -> None:
    request = build()
    submit(session, request)
    assert read(session, refuse(request, reason="id_reused", content="")) == []


def test_a_decision_without_content_answers_its_id(session: Session) -> None:
    request = build()
    submit(session, request)
    bare = refuse(request, content="", reason="cancelled")
    assert read(session, bare) == [Answer(1, bare)]


@pytest.mark.parametrize(
    ("value", "reason"),
    [(b"{", "not a decisions record"), (encode(place(build("r-2"))), "names another request"), (None, "never deleted")],
)
def test_an_unusable_decision_under_my_key_is_quarantined_and_the_next_one_answers(
    session: Session, value: bytes | None, reason: str
) -> None:
    request = build()
    submit(session, request)
    here = partition_of("m1.small", PARTITIONS)
    (bad,) = session.receive(DecisionsRead(here, [(41, 0, b"r-1", value)]), 1)
    assert isinstance(bad, Quarantine)
    assert (bad.partition, bad.offset, bad.key) == (here, 41, b"r-1")
    assert reason in bad.reason
    assert read(session, place(request)) == [Answer(1, place(request))]


def test_records_without_a_key_are_passed_over(session: Session) -> None:
    submit(session, build())
    assert session.receive(DecisionsRead(partition_of("m1.small", PARTITIONS), [(0, 0, None, b"x")]), 1) == []


# --- the same id again ---


def test_the_same_request_twice_is_sent_once_and_answered_twice(session: Session) -> None:
    request = build()
    assert len(submit(session, request, token=1)) == 1
    assert submit(session, request, token=2) == []
    assert read(session, place(request)) == [Answer(1, place(request)), Answer(2, place(request))]
    assert submit(session, request, token=3) == [Answer(3, place(request))]


def test_the_same_id_with_other_content_is_refused_open_or_answered(session: Session) -> None:
    submit(session, build())
    assert "other content" in refusal(submit(session, build(count=2), token=2)).message
    read(session, place(build()))
    assert "other content" in refusal(submit(session, build(count=2), token=3)).message


def test_a_held_request_is_sent_only_after_the_history_said_nothing(session: Session) -> None:
    request = build()
    here = partition_of("m1.small", PARTITIONS)
    assert submit(session, request, held=True) == [LookBack(here, "r-1", 1)]
    (sent,) = session.receive(Looked("r-1", [], 1), 1)
    assert isinstance(sent, SendRequest)
    assert read(session, place(request)) == [Answer(1, place(request))]


def test_an_earlier_decision_in_the_history_answers_and_nothing_is_sent(session: Session) -> None:
    request = build()
    submit(session, request, held=True)
    first, said_again = refuse(request), place(request)
    assert read(session, said_again) == []  # read while the history is not known yet
    rows = [(3, 0, b"r-1", b"{"), (4, 0, b"r-1", encode(first)), (5, 0, b"r-1", encode(place(request)))]
    assert session.receive(Looked("r-1", rows, 1), 20) == [Answer(1, first)]


def test_a_decision_read_while_looking_back_answers_when_the_history_has_none(session: Session) -> None:
    request = build()
    submit(session, request, held=True)
    assert read(session, refuse(request), place(request)) == []
    assert session.receive(Looked("r-1", [], 1), 20) == [Answer(1, refuse(request))]


def test_looking_back_too_long_times_out_and_sends_nothing(session: Session) -> None:
    submit(session, build(), held=True)
    assert refusal(session.receive(Tick(), 5000)).why is Why.TIMED_OUT
    assert session.receive(Looked("r-1", [], 1), 5001) == []


def test_a_look_back_for_a_submit_that_was_given_up_says_nothing_to_the_next_one(session: Session) -> None:
    request, here = build(), partition_of("m1.small", PARTITIONS)
    submit(session, request, token=1, held=True)
    session.receive(Tick(), 5000)
    assert read(session, refuse(request)) == []  # nobody waits; it is the first
    assert submit(session, request, token=2, now_ms=5001, held=True) == [LookBack(here, "r-1", 2)]
    assert session.receive(Looked("r-1", [], 1), 5002) == []  # it was read before the first stood in the log
    assert read(session, place(request)) == []
    first = [(4, 0, b"r-1", encode(refuse(request)))]
    assert session.receive(Looked("r-1", first, 2), 5003) == [Answer(2, refuse(request))]


def test_only_the_newest_decisions_are_kept() -> None:
    session = Session("default", PARTITIONS, 4, 3)
    session.receive(control(SMALL), 0)
    for n in range(KEPT_MAX + 1):
        request = build(f"r-{n}")
        submit(session, request, token=n)
        read(session, place(request))
    assert session.known("r-0") is None
    assert session.known("r-1") is not None


# --- time ---


def test_no_decision_in_time_is_told_once_and_a_late_one_to_nobody(session: Session) -> None:
    request = build()
    submit(session, request, now_ms=100)
    session.receive(Sent([1]), 101)
    assert session.receive(Tick(), 5099) == []
    answer = refusal(session.receive(Tick(), 5100))
    assert answer.why is Why.TIMED_OUT
    assert "it stands in the log" in answer.message
    assert session.receive(Tick(), 6000) == []
    assert read(session, place(request)) == []


def test_each_request_times_out_at_its_own_time(session: Session) -> None:
    submit(session, build("r-1"), token=1, now_ms=0)
    submit(session, build("r-2"), token=2, now_ms=50)
    read(session, place(build("r-1")))
    assert session.receive(Tick(), 5000) == []
    (answer,) = session.receive(Tick(), 5050)
    assert isinstance(answer, Answer)
    assert answer.token == 2


def test_a_request_that_was_not_acknowledged_is_told(session: Session) -> None:
    submit(session, build())
    answer = refusal(session.receive(SendFailed(1, "Local: Message timed out"), 9))
    assert answer.why is Why.NOT_SENT
    assert "Message timed out" in answer.message
    assert session.in_flight == 0


# --- confirm and release ---


def test_confirm_is_a_record_for_the_hosts_partition_until_its_time_is_over(session: Session) -> None:
    request = build()
    submit(session, request, now_ms=100)
    decision = place(request)
    read(session, decision, now_ms=900)
    (sent,) = session.receive(AskConfirm(decision, 2), 1100)  # 1000 ms, counted from the submit
    assert isinstance(sent, SendClaimRecord)
    assert (sent.partition, sent.key, sent.allocation) == (partition_of("h1", 4), b"h1", "a-r-1")
    assert decode("claims", sent.value) == Confirm(host="h1", request="r-1", allocation="a-r-1")
    late = refusal(session.receive(AskConfirm(decision, 3), 1101))
    assert late.why is Why.LATE


def test_an_earlier_submits_decision_is_confirmed_without_a_clock_of_ours(session: Session) -> None:
    request = build()
    submit(session, request, held=True)
    session.receive(Looked("r-1", [(4, 0, b"r-1", encode(place(request)))], 1), 5)
    (sent,) = session.receive(AskConfirm(place(request), 2), 999_999)  # the ledger's answer is what counts
    assert isinstance(sent, SendClaimRecord)


def test_a_void_decision_is_never_confirmed(session: Session) -> None:
    request = build()
    submit(session, request)
    read(session, place(request))
    void = place(request, placed=[Placed(instance="r-1.0", host="h2", allocation="a-x", grant=Position(0, 1))])
    assert "is void" in refusal(session.receive(AskConfirm(void, 2), 10)).message


@pytest.mark.parametrize("ask", [AskConfirm, AskRelease])
def test_what_was_not_placed_has_nothing_to_confirm_or_release(session: Session, ask: type) -> None:
    answer = refusal(session.receive(ask(refuse(build()), 2), 10))
    assert "was not placed (no_valid_host)" in answer.message


@pytest.mark.parametrize("ask", [AskConfirm, AskRelease])
def test_what_only_its_driver_ends_is_neither_confirmed_nor_released(session: Session, ask: type) -> None:
    found = Placed(instance="vm-9", host="h1", allocation=found_id("vm-9"), grant=Position(0, 1))
    answer = refusal(session.receive(ask(place(build(), placed=[found]), 2), 10))
    assert "instance vm-9 was found on h1: only its driver ends it" in answer.message


def test_release_and_confirm_name_all_or_only_the_allocations_asked_for(session: Session) -> None:
    both = [Placed(index=i, instance=f"i{i}", host=f"h{i}", allocation=f"a{i}", grant=Position(0, 1)) for i in (0, 1)]
    decision = place(build(count=2), placed=both)
    sent = session.receive(AskRelease(decision, 2), 10)
    assert [decode("claims", e.value) for e in sent if isinstance(e, SendClaimRecord)] == [
        Release(host="h0", request="r-1", allocation="a0"),
        Release(host="h1", request="r-1", allocation="a1"),
    ]
    (one,) = session.receive(AskRelease(decision, 3, ("a1",)), 10)
    assert isinstance(one, SendClaimRecord)
    assert one.key == b"h1"
    assert (
        "placed no allocation a9: it placed a0, a1"
        in refusal(session.receive(AskRelease(decision, 4, ("a9",)), 10)).message
    )


# --- requests ---


def test_the_content_digest_ignores_the_writing_and_sees_every_field() -> None:
    request = build(project="p")
    spaced = decode("requests", b'{ "project": "p", "v": 1, "flavor": "m1.small", "id": "r-1", "type": "build" }')
    assert not isinstance(spaced, Bad)
    assert content_digest(spaced) == content_digest(request)
    others = [build(project="q"), build(project="p", count=2), build("r-2", project="p"), build(project="p", user="u")]
    digests = {content_digest(r) for r in [request, *others]}
    assert len(digests) == 5
    assert all(len(d) == 16 for d in digests)
