"""The router for asyncio: the same `Router`, each pool with threads of its own, so that one that stands still holds no other up."""

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from commonplace.core.records.decisions import Decision
from commonplace.core.records.requests import Build
from commonplace.errors import CommonplaceError
from commonplace.frontend.aio import ROOM_POLL_S
from commonplace.frontend.crossing import Crossing
from commonplace.frontend.moving import Moved, Source
from commonplace.frontend.pending import Pending
from commonplace.frontend.router import Router
from commonplace.frontend.settling import Outcome
from commonplace.settings import Settings

T = TypeVar("T")

THREADS_MAX: Final = 8
"""Calls of one pool that block at once, as a confirm or a move that waits for hosts does; more wait for a thread."""


class AsyncRouter:
    """`Router` as coroutines; use it as `async with AsyncRouter(settings) as router`, in one event loop.

    Errors, timeouts and meanings are those of `Router`. Cancelling a coroutine leaves its request submitted: `cancel` withdraws it.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._opened: Router | None = None
        self._threads: dict[str, ThreadPoolExecutor] = {}

    async def __aenter__(self) -> Self:
        self._crossing = Crossing(asyncio.get_running_loop())
        self._opened = await asyncio.to_thread(Router, self._settings)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.router.close)
        for threads in self._threads.values():
            await asyncio.to_thread(threads.shutdown)

    @property
    def router(self) -> Router:
        """The client underneath, for its calls that do not block: `new_id`, `request`."""
        if self._opened is None:
            raise CommonplaceError("this AsyncRouter is not open: use it as `async with AsyncRouter(settings) as r`")
        return self._opened

    async def pool_of(self, flavor: str) -> str:
        """The pool that serves a flavor now; raises `UsageError` for one that is not known."""
        return await asyncio.to_thread(self.router.pool_of, flavor)

    async def place(
        self, flavor: str, *, id: str | None = None, timeout: float | None = None, traceparent: str = "", **fields: Any
    ) -> Decision:
        """Submit and wait for the effective decision."""
        build = self.router.request(flavor, id=id, **fields)
        return await self.submit(build, timeout=timeout, traceparent=traceparent)

    async def submit(
        self, build: Build, *, timeout: float | None = None, fresh: bool = False, traceparent: str = ""
    ) -> Decision:
        """Submit a request to its pool and wait for its effective decision; `asyncio.create_task` it to have many open."""
        (answer,) = await self.submit_many((build,), timeout=timeout, fresh=fresh, traceparent=traceparent)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def submit_many(
        self, builds: Iterable[Build], *, timeout: float | None = None, fresh: bool = False, traceparent: str = ""
    ) -> list[Decision | BaseException]:
        """Submit requests, each to its pool, and wait for all answers, in their order; one that got none is its exception."""
        asked = list(builds)
        pools = await asyncio.to_thread(self._pools_of, {build.flavor for build in asked})
        wanted: dict[str, list[int]] = {}
        for at, build in enumerate(asked):
            wanted.setdefault(pools[build.flavor], []).append(at)
        answers: list[Decision | BaseException] = [CommonplaceError("not submitted")] * len(asked)

        async def through(pool: str, places: list[int]) -> None:
            pendings = await self._submitted(pool, [asked[at] for at in places], timeout, fresh, traceparent)
            found = await asyncio.gather(*map(self._crossing.future, pendings), return_exceptions=True)
            for at, answer in zip(places, found, strict=True):
                answers[at] = answer

        await asyncio.gather(*(through(pool, places) for pool, places in wanted.items()))
        return answers

    async def confirm(
        self, decision: Decision, *allocations: str, wait: bool = False, timeout: float | None = None, pool: str = ""
    ) -> list[Outcome]:
        """Confirm what a decision placed, in the pool that decided; see `Router.confirm`."""
        there = pool or await asyncio.to_thread(self.router.decided_in, decision)
        return await self._on(
            there, self.router.confirm, decision, *allocations, wait=wait, timeout=timeout, pool=there
        )

    async def release(
        self, decision: Decision, *allocations: str, wait: bool = False, timeout: float | None = None, pool: str = ""
    ) -> list[Outcome]:
        """Give back what a decision placed, in the pool that decided; see `Router.release`."""
        there = pool or await asyncio.to_thread(self.router.decided_in, decision)
        return await self._on(
            there, self.router.release, decision, *allocations, wait=wait, timeout=timeout, pool=there
        )

    async def cancel(
        self, request: str, flavor: str = "", group: str = "", pool: str = "", *,
        wait: bool = False, timeout: float | None = None,
    ) -> None:  # fmt: skip
        """Withdraw a request; see `Router.cancel`."""
        await asyncio.to_thread(self.router.cancel, request, flavor, group, pool, wait=wait, timeout=timeout)

    async def move(
        self, source: Decision | Source, flavor: str, *, pool: str = "", id: str | None = None,
        timeout: float | None = None, **fields: Any,
    ) -> Moved:  # fmt: skip
        """Give instances a place by `flavor` and let the source go then; see `Router.move`. Cancelled, it goes on to its end."""
        there = await self.pool_of(flavor)
        return await self._on(there, self.router.move, source, flavor, pool=pool, id=id, timeout=timeout, **fields)

    # --- threads ---

    async def _submitted(
        self, pool: str, builds: list[Build], timeout: float | None, fresh: bool, traceparent: str
    ) -> list[Pending]:
        """Hand requests to a pool once it has room: a submit that blocked would hold up the pool's other calls."""
        while await self._on(pool, self._full, pool):
            await asyncio.sleep(ROOM_POLL_S)
        return await self._on(
            pool, self.router.submit_many, builds, timeout=timeout, fresh=fresh, traceparent=traceparent
        )

    def _full(self, pool: str) -> bool:
        try:
            return bool(pool) and self.router.frontend(pool).full
        except CommonplaceError:  # the submit itself says so
            return False

    def _pools_of(self, flavors: Iterable[str]) -> dict[str, str]:
        """Pool by flavor; "" for one that is not known, which the submit says."""
        found = {}
        for flavor in flavors:
            try:
                found[flavor] = self.router.pool_of(flavor)
            except CommonplaceError:
                found[flavor] = ""
        return found

    async def _on(self, there: str, call: Callable[..., T], /, *arguments: Any, **named: Any) -> T:
        """Run what may block on a thread that a pool has for itself."""
        threads = self._threads.get(there)
        if threads is None:
            threads = self._threads[there] = ThreadPoolExecutor(THREADS_MAX, f"router-{there or 'unknown'}")
        return await asyncio.get_running_loop().run_in_executor(threads, lambda: call(*arguments, **named))
