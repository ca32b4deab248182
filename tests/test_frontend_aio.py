"""The asyncio client on a real broker, against a scripted replica."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from commonplace.errors import CommonplaceError, TimedOut, UsageError
from commonplace.frontend import AsyncFrontend, Confirmed, Released
from commonplace.settings import Settings
from frontend_world import HOST, fake_replica, make_topics, settings_on
from kafka_fixtures import KafkaUnderTest


@pytest.fixture
def settings(kafka: KafkaUnderTest, prefix: str) -> Settings:
    made = settings_on(kafka, prefix)
    make_topics(kafka, made)
    return made


def run(settings: Settings, work: Callable[[AsyncFrontend], Awaitable[None]]) -> None:
    async def opened() -> None:
        async with AsyncFrontend(settings) as frontend:
            await work(frontend)

    asyncio.run(opened())


def test_many_coroutines_get_each_its_own_decision(settings: Settings) -> None:
    async def work(frontend: AsyncFrontend) -> None:
        builds = [frontend.frontend.request("m1.small") for _ in range(100)]
        decisions = await asyncio.gather(*(frontend.submit(b) for b in builds))
        assert [d.request for d in decisions] == [b.id for b in builds]
        answers = await frontend.submit_many([frontend.frontend.request("m1.small"), frontend.frontend.request("none")])
        assert [type(a).__name__ for a in answers] == ["Decision", "UsageError"]

    with fake_replica(settings):
        run(settings, work)


def test_confirm_and_release_bring_the_hosts_answers(settings: Settings) -> None:
    async def work(frontend: AsyncFrontend) -> None:
        decision = await frontend.place("m1.small", id="order-18")
        allocation = decision.placed[0].allocation
        assert await frontend.confirm(decision, wait=True) == [Confirmed(HOST, allocation)]
        assert await frontend.release(decision, wait=True) == [Released(HOST, allocation)]

    with fake_replica(settings):
        run(settings, work)


def test_errors_are_those_of_the_sync_client(settings: Settings) -> None:
    async def work(frontend: AsyncFrontend) -> None:
        with pytest.raises(UsageError, match="unknown"):
            await frontend.place("m1.smal")
        with pytest.raises(TimedOut):
            await frontend.place("m1.small", timeout=0.3)

    run(settings, work)


def test_a_cancelled_coroutine_leaves_the_others_alone(settings: Settings) -> None:
    async def work(frontend: AsyncFrontend) -> None:
        task = asyncio.create_task(frontend.place("m1.small"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with fake_replica(settings):
            assert (await frontend.place("m1.small")).result == "placed"

    run(settings, work)


def test_a_client_that_is_not_open_says_how_to_open_it(settings: Settings) -> None:
    with pytest.raises(CommonplaceError, match="async with"):
        asyncio.run(AsyncFrontend(settings).place("m1.small"))
