"""The client's two threads and its callers, without a broker: who is told what, and that nobody hangs."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from commonplace.errors import BrokerUnavailable, CommonplaceError, TimedOut, UsageError
from commonplace.frontend import AsyncFrontend, Frontend, Pending, aio, history
from commonplace.frontend.events import SendClaimRecord, SendRequest
from commonplace.kafka.pace import Pace
from frontend_alone import Alone, alone, ended, in_thread, until


def requests(frontend: Frontend, count: int) -> list[Pending]:
    return [frontend.submit(frontend.request("m1.small")) for _ in range(count)]


def failed(code: int, fatal: bool = False) -> Callable[[str, bytes], KafkaException]:
    """What `produce` raises: for `FakeProducer.refuse`."""
    return lambda topic, value: KafkaException(KafkaError(code, fatal=fatal))


def waiting(frontend: Frontend) -> bool:
    """Whether a submit waits for room."""
    return frontend._room_wanted > 0


def given_up(world: Alone) -> str:
    """An id that the frontend made and submitted, whose answer it no longer waits for."""
    pending = world.frontend.submit(world.frontend.request("m1.small"), timeout=0.01)
    with pytest.raises(TimedOut):
        pending.result(5)
    return pending.request.id


def test_an_own_id_asked_again_after_its_time_gets_the_first_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    with alone(monkeypatch) as world:
        build = world.frontend.request("m1.small", id=given_up(world))
        first = world.place(build, result="no_valid_host", placed=[])
        world.read()
        again = world.frontend.submit(build)
        world.place(build)  # void
        assert again.result(5) == first
        assert world.requested == [build.id]


def test_a_coroutine_that_asks_again_for_an_own_id_looks_back_beside_its_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work(world: Alone) -> None:
        async with AsyncFrontend(world.frontend.settings) as frontend:
            build = frontend.frontend.request("m1.small")
            with pytest.raises(TimedOut):
                await frontend.submit(build, timeout=0.01)
            first = world.place(build)
            world.read()
            assert await frontend.submit(build) == first
        assert world.requested == [build.id]
        assert threading.current_thread() not in world.looked_back

    with alone(monkeypatch) as world:
        monkeypatch.setattr(aio, "Frontend", lambda _: world.frontend)
        asyncio.run(work(world))
        assert len(world.looked_back) == 1


def test_an_own_id_that_was_refused_is_still_new(monkeypatch: pytest.MonkeyPatch) -> None:
    with alone(monkeypatch) as world:
        refused = world.frontend.submit(world.frontend.request("none"))
        until(refused.done)
        assert world.frontend.unused(refused.request.id)


# --- room ---


def test_a_submit_that_waits_for_room_is_told_that_the_frontend_was_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[CommonplaceError] = []

    def two_more(frontend: Frontend) -> None:
        with pytest.raises(CommonplaceError, match="closed before the decision came") as raised:
            frontend.submit_many([frontend.request("m1.small") for _ in range(2)])
        told.append(raised.value)

    with alone(monkeypatch, in_flight_max=4) as world:
        open_ones = requests(world.frontend, 3)
        thread = in_thread(lambda: two_more(world.frontend))
        until(lambda: waiting(world.frontend))
        world.frontend.close()
        assert ended(thread)
    assert len(told) == 1
    assert all(pending.done() for pending in open_ones)
    assert not world.frontend._pending


def test_a_frontend_that_failed_is_not_full(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        async with AsyncFrontend(world.frontend.settings) as frontend:
            with pytest.raises(CommonplaceError, match="records were deleted"):
                await asyncio.wait_for(frontend.place("m1.small"), 5)

    with alone(monkeypatch, in_flight_max=2) as world:
        open_ones = requests(world.frontend, 2)
        until(lambda: world.frontend.full)
        world.consumer.coming.put(CommonplaceError("records were deleted"))
        until(lambda: all(pending.done() for pending in open_ones))
        assert not world.frontend.full
        monkeypatch.setattr(aio, "Frontend", lambda _: world.frontend)
        asyncio.run(work())


def test_room_that_a_look_back_makes_is_given_to_who_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    with alone(monkeypatch, in_flight_max=2) as world:
        frontend, go_on = world.frontend, threading.Event()
        for name in ("order-1", "order-2"):
            world.place(frontend.request("m1.small", id=name))
        world.read()
        plain = history.since

        def slow(*arguments: Any) -> dict[int, int]:
            go_on.wait(10)
            return plain(*arguments)

        monkeypatch.setattr(history, "since", slow)
        again = [in_thread(lambda name=name: frontend.place("m1.small", id=name)) for name in ("order-1", "order-2")]  # type: ignore[misc]
        until(lambda: frontend.in_flight == 2)
        third = in_thread(lambda: frontend.submit(frontend.request("m1.small"), timeout=0.01))
        until(lambda: waiting(frontend))
        go_on.set()
        assert all(map(ended, again))
        assert ended(third)


def test_a_callback_on_the_writing_thread_waits_for_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    more: list[Pending] = []
    with alone(monkeypatch, in_flight_max=2) as world:
        frontend, producer = world.frontend, world.producer
        requests(frontend, 1)
        frontend.flush()
        producer.reports.clear()
        producer.error = KafkaError(KafkaError._MSG_TIMED_OUT)
        (lost,) = requests(frontend, 1)
        lost.add_done_callback(lambda _: more.extend(requests(frontend, 2)))
        producer.reports.set()
        until(lambda: len(more) == 2)
        assert "in_flight_max" in str(more[1].answer())


# --- what is refused ---


def test_a_name_that_is_no_text_costs_the_requests_beside_it_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with alone(monkeypatch) as world:
        frontend = world.frontend
        good, bad = frontend.submit_many([frontend.request("m1.small"), frontend.request("m1.small", project="\udcff")])
        with pytest.raises(UsageError, match="is not UTF-8"):
            bad.result(5)
        assert world.place(good.request) == good.result(5)


# --- a producer that refuses ---


def test_a_request_that_is_too_large_is_refused_and_the_next_one_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    with alone(monkeypatch) as world:
        world.producer.refuse = failed(KafkaError.MSG_SIZE_TOO_LARGE)
        large = world.frontend.submit(world.frontend.request("m1.small"))
        world.frontend.flush(5)
        assert large.done()
        with pytest.raises(BrokerUnavailable, match=r"too large: \d+ bytes, see limits\.record_bytes_max"):
            large.result()
        world.producer.refuse = lambda topic, value: None
        (small,) = requests(world.frontend, 1)
        assert world.place(small.request) == small.result(5)


def test_a_producer_that_cannot_go_on_ends_the_frontend_and_everybody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with alone(monkeypatch) as world:
        frontend = world.frontend
        (before,) = requests(frontend, 1)
        frontend.flush(5)
        world.producer.refuse = failed(KafkaError._FATAL, fatal=True)
        (lost,) = requests(frontend, 1)
        for pending in (before, lost):
            with pytest.raises(CommonplaceError):
                pending.result(5)
        with pytest.raises(CommonplaceError, match=r"producer can't go on.*open another frontend"):
            before.result()
        with pytest.raises(CommonplaceError, match="producer can't go on"):
            frontend.flush(5)
        with pytest.raises(CommonplaceError, match="producer can't go on"):
            frontend.submit(frontend.request("m1.small"))
        assert ended(frontend._reader)


def test_a_release_that_the_producer_got_no_more_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[KafkaError | None] = []
    with alone(monkeypatch) as world:
        frontend = world.frontend
        world.producer.refuse = failed(KafkaError._FATAL, fatal=True)
        frontend._writer.put(SendRequest(0, b"", b"", 1), lambda *_: None)
        frontend._writer.put(SendClaimRecord(0, b"", b"", 2, "a-1"), lambda error, _: told.append(error))
        frontend._writer.wake()
        assert ended(frontend._writer.thread)
    (error,) = told
    assert error is not None
    assert "producer can't go on" in error.str()


def test_a_broken_quarantine_stops_no_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    with alone(monkeypatch) as world:
        (pending,) = requests(world.frontend, 1)
        world.frontend.flush()
        world.producer.refuse = failed(KafkaError._UNKNOWN_TOPIC)
        world.say_raw(pending.request.id.encode(), b"{")
        assert world.place(pending.request) == pending.result(5)


# --- callbacks ---


@pytest.mark.parametrize("closing", [False, True])
def test_a_callback_that_raises_is_logged_and_keeps_nobody_from_an_answer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, closing: bool
) -> None:
    called: list[Pending] = []
    with alone(monkeypatch) as world:
        first, second = requests(world.frontend, 2)
        first.add_done_callback(lambda _: 1 // 0)
        first.add_done_callback(called.append)
        if closing:
            world.frontend.close()
            with pytest.raises(CommonplaceError, match="closed"):
                second.result(5)
        else:
            world.place(first.request)
            assert world.place(second.request) == second.result(5)
        assert called == [first]
        first.add_done_callback(lambda _: 1 // 0)
        world.frontend.close()
    assert f"a callback of request {first.request.id} failed" in caplog.text


def test_the_writer_leaves_room_after_each_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    rested: list[int] = []
    with alone(monkeypatch) as world:
        monkeypatch.setattr(Pace, "rest", lambda _, records: rested.append(records))
        requests(world.frontend, 3)
        world.frontend.flush(5)
        until(lambda: sum(rested) == 3)
