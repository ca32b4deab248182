"""The client on a real broker, against a scripted replica."""

import threading
from collections.abc import Iterator

import pytest

from commonplace.core.records.claims import Confirm, Release
from commonplace.core.records.control import Flavor
from commonplace.core.records.decisions import Decision
from commonplace.core.records.requests import Build, Cancel
from commonplace.errors import BrokerUnavailable, CommonplaceError, StateChanged, TimedOut, TopicsNotReady, UsageError
from commonplace.frontend import Confirmed, Frontend, Pending, Released, TooLate
from commonplace.kafka.broker import LocalBroker
from commonplace.settings import Settings, load
from frontend_world import FLAVOR, HOST, fake_replica, make_topics, placed, settings_on, write_flavors
from kafka_fixtures import KafkaUnderTest


@pytest.fixture
def settings(kafka: KafkaUnderTest, prefix: str) -> Settings:
    made = settings_on(kafka, prefix)
    make_topics(kafka, made)
    return made


@pytest.fixture
def frontend(settings: Settings) -> Iterator[Frontend]:
    with Frontend(settings) as opened:
        yield opened


def test_a_placed_request_is_answered_confirmed_and_released(settings: Settings, frontend: Frontend) -> None:
    with fake_replica(settings) as replica:
        decision = frontend.place("m1.small", count=2, project="p")
        assert decision.result == "placed"
        allocations = [p.allocation for p in decision.placed]
        assert frontend.confirm(decision, wait=True) == [Confirmed(HOST, a) for a in allocations]
        assert frontend.release(decision, allocations[1], wait=True) == [Released(HOST, allocations[1])]
    (_, key, request), *_ = replica.requests
    assert (key, request) == (b"m1.small", Build(id=decision.request, flavor="m1.small", count=2, project="p"))
    assert [type(c) for c in replica.claims] == [Confirm, Confirm, Release]


def test_a_confirm_that_comes_too_late_says_so(settings: Settings, frontend: Frontend) -> None:
    with fake_replica(settings) as replica:
        decision = frontend.place("m1.small")
        replica.lapsed.add(decision.placed[0].allocation)
        assert frontend.confirm(decision, wait=True) == [TooLate(HOST, decision.placed[0].allocation)]


def test_confirm_after_its_time_is_refused_without_a_record(settings: Settings, frontend: Frontend) -> None:
    with fake_replica(settings, lambda b, p, o: [placed(b, p, o, confirm_within_ms=0)]) as replica:
        decision = frontend.place("m1.small")
        with pytest.raises(StateChanged, match="too late"):
            frontend.confirm(decision)
        assert replica.claims == []


def test_many_requests_are_answered_each_with_its_own_decision(settings: Settings, frontend: Frontend) -> None:
    with fake_replica(settings):
        pendings = frontend.submit_many([frontend.request(name) for name in ("m1.small", "m1.hot") for _ in range(50)])
        decisions = [p.result() for p in pendings]
    assert [d.request for d in decisions] == [p.request.id for p in pendings]
    assert frontend.in_flight == 0


def test_more_requests_than_may_be_open_wait_for_room(kafka: KafkaUnderTest, prefix: str) -> None:
    settings = settings_on(kafka, prefix, in_flight_max=4)
    make_topics(kafka, settings)
    with fake_replica(settings), Frontend(settings) as frontend:
        pendings = frontend.submit_many([frontend.request("m1.small") for _ in range(30)])
        assert {p.result().result for p in pendings} == {"placed"}


def test_a_void_decision_is_never_returned(settings: Settings, frontend: Frontend) -> None:
    def first_then_void(build: Build, partition: int, offset: int) -> list[Decision]:
        return [
            placed(build, partition, offset, result="no_valid_host", placed=[]),
            placed(build, partition, offset),
        ]

    with fake_replica(settings, first_then_void):
        decision = frontend.place("m1.small")
        assert decision.result == "no_valid_host"
        assert frontend.place("m1.small", id=decision.request) == decision
        assert frontend.decision(decision.request) == decision


def test_an_id_submitted_again_by_another_frontend_gets_the_first_decision(settings: Settings) -> None:
    with fake_replica(settings) as replica:
        with Frontend(settings) as one:
            first = one.place("m1.small", id="order-17")
        with Frontend(settings) as other:
            assert other.place("m1.small", id="order-17", timeout=20) == first
        assert len(replica.requests) == 1  # the answer stood in the log


def test_an_id_used_for_something_else_is_not_answered_with_the_other_decision(settings: Settings) -> None:
    seen: dict[str, Build] = {}

    def decide(build: Build, partition: int, offset: int) -> list[Decision]:
        if seen.setdefault(build.id, build) == build:
            return [placed(build, partition, offset)]
        return [placed(build, partition, offset, result="rejected", reason="id_reused", placed=[])]

    with fake_replica(settings, decide):
        with Frontend(settings) as one:
            one.place("m1.small", id="order-17")
        with Frontend(settings) as other:
            decision = other.place("m1.small", id="order-17", count=2)
    assert (decision.result, decision.reason) == ("rejected", "id_reused")


def test_a_request_without_a_decision_times_out_and_says_what_to_do(settings: Settings, frontend: Frontend) -> None:
    with pytest.raises(TimedOut, match="see that a scheduler runs") as raised:
        frontend.place("m1.small", timeout=0.5)
    assert "it stands in the log" in str(raised.value)
    assert frontend.in_flight == 0


def test_what_cannot_be_meant_is_refused_before_it_is_sent(settings: Settings, frontend: Frontend) -> None:
    with fake_replica(settings) as replica:
        with pytest.raises(UsageError, match=r"m1\.smal is unknown; the nearest known is m1\.small"):
            frontend.place("m1.smal")
        with pytest.raises(UsageError, match="traceparent 'abc' is not of the form"):
            frontend.place("m1.small", traceparent="abc")
        frontend.place("m1.small")
    assert len(replica.requests) == 1


def test_a_flavor_written_while_the_frontend_runs_is_known(settings: Settings, frontend: Frontend) -> None:
    seen = threading.Event()
    write_flavors(settings, Flavor(name="m9.new", resources={"VCPU": 1}))
    for _ in range(400):
        if "m9.new" in frontend.flavors:
            break
        seen.wait(0.05)
    with fake_replica(settings):
        assert frontend.place("m9.new").flavor == "m9.new"


def test_cancel_is_written_under_the_key_of_its_request(settings: Settings, frontend: Frontend) -> None:
    def nothing(build: Build, partition: int, offset: int) -> list[Decision]:
        return []

    with fake_replica(settings, nothing) as replica:
        pending = frontend.submit(frontend.request("m1.hot"))
        frontend.cancel(pending.request.id)
        for _ in range(400):
            if len(replica.requests) == 2:
                break
            replica.pause(0.05)
        (partition, key, build), (also, same, cancel) = replica.requests
        assert (partition, key) == (also, same)
        assert isinstance(build, Build)
        assert cancel == Cancel(id=build.id, flavor="m1.hot")
        replica.say(placed(build, partition, 0, result="rejected", reason="cancelled", placed=[]), partition)
        assert pending.result(20).reason == "cancelled"


def test_callbacks_run_once_whether_added_before_or_after_the_answer(settings: Settings, frontend: Frontend) -> None:
    calls: list[Pending] = []
    with fake_replica(settings):
        pending = frontend.submit(frontend.request("m1.small"))
        pending.add_done_callback(calls.append)
        pending.result(20)
        pending.add_done_callback(calls.append)
    frontend.close()
    assert calls == [pending, pending]


def test_what_was_handed_over_before_closing_is_sent(settings: Settings) -> None:
    with fake_replica(settings) as replica:
        with Frontend(settings) as frontend:
            decisions = [p.result() for p in frontend.submit_many([frontend.request("m1.small") for _ in range(20)])]
            for decision in decisions:
                frontend.release(decision)
        for _ in range(200):
            if len(replica.claims) == 20:
                break
            replica.pause(0.05)
        assert {c.request for c in replica.claims} == {d.request for d in decisions}


def test_closing_tells_those_who_wait(settings: Settings) -> None:
    frontend = Frontend(settings)
    pending = frontend.submit(frontend.request(FLAVOR.name))
    frontend.close()
    with pytest.raises(CommonplaceError, match="closed before the decision came"):
        pending.result(5)
    with pytest.raises(CommonplaceError, match="closed"):
        frontend.submit(frontend.request(FLAVOR.name))
    with pytest.raises(CommonplaceError, match="closed"):
        frontend.release(placed(pending.request, 0, 0))
    with pytest.raises(CommonplaceError, match="closed"):
        frontend.cancel(pending.request.id)


def test_an_unreadable_decision_is_passed_over_and_the_next_one_answers(settings: Settings, frontend: Frontend) -> None:
    def nothing(build: Build, partition: int, offset: int) -> list[Decision]:
        return []

    with fake_replica(settings, nothing) as replica:
        pending = frontend.submit(frontend.request("m1.small"))
        for _ in range(400):
            if replica.requests:
                break
            replica.pause(0.05)
        partition, _, build = replica.requests[0]
        assert isinstance(build, Build)
        replica.say_raw(build.id.encode(), b'{"type": "decision"', partition)
        replica.say(placed(build, partition, 0), partition)
        assert pending.result(20).result == "placed"


def test_a_broker_that_comes_back_finds_the_frontend_waiting(own_broker: LocalBroker, prefix: str) -> None:
    kafka = KafkaUnderTest(own_broker.bootstrap, "local", close=own_broker.close, broker=own_broker)
    settings = settings_on(kafka, prefix, timeout_s=60.0)
    make_topics(kafka, settings)
    with Frontend(settings) as frontend:
        own_broker.stop()
        pending = frontend.submit(frontend.request("m1.small"))
        with pytest.raises(TimedOut):
            pending.result(1.0)
        own_broker.start()
        with fake_replica(settings):
            assert pending.result(60).result == "placed"
            assert frontend.place("m1.small").result == "placed"


def test_closing_without_a_broker_tells_who_waits_and_ends_quietly(
    own_broker: LocalBroker, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", ended.append)
    kafka = KafkaUnderTest(own_broker.bootstrap, "local", close=own_broker.close, broker=own_broker)
    settings = settings_on(kafka, prefix, timeout_s=1.0)  # shorter than the last flush: it fails while we close
    make_topics(kafka, settings)
    frontend = Frontend(settings)
    own_broker.kill()
    pending = frontend.submit(frontend.request("m1.small"))
    frontend.close()
    with pytest.raises(CommonplaceError):
        pending.result(0)
    assert ended == []


def test_no_broker_is_one_line_that_names_the_address() -> None:
    settings = load(flags={"kafka": {"bootstrap.servers": "127.0.0.1:1"}}, environ={})
    with pytest.raises(BrokerUnavailable, match=r"no broker at 127\.0\.0\.1:1"):
        Frontend(settings)


def test_missing_topics_are_named(kafka: KafkaUnderTest, prefix: str) -> None:
    with pytest.raises(TopicsNotReady, match=prefix):
        Frontend(settings_on(kafka, prefix))
