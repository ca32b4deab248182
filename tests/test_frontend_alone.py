"""The client's two threads and its callers, without a broker: who is told what, and that nobody hangs."""

import asyncio
import threading

import pytest

from commonplace.errors import TimedOut
from commonplace.frontend import AsyncFrontend, aio
from frontend_alone import Alone, alone, until


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
