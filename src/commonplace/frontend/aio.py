"""The client for asyncio: the same `Frontend` with its two threads; answers cross into the loop in batches."""

import asyncio
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Final, Self

from commonplace.core.records.decisions import Decision
from commonplace.core.records.requests import Build
from commonplace.errors import CommonplaceError
from commonplace.frontend.client import Frontend
from commonplace.frontend.crossing import Crossing
from commonplace.frontend.settling import Outcome
from commonplace.settings import Settings

ROOM_POLL_S: Final = 0.005
"""How often a full client is asked for room: about one round trip."""


class AsyncFrontend:
    """`Frontend` as coroutines; use it as `async with AsyncFrontend(settings) as frontend`, in one event loop.

    Errors, timeouts and meanings are those of `Frontend`. Cancelling a coroutine leaves its request submitted:
    `cancel` withdraws it.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._opened: Frontend | None = None

    async def __aenter__(self) -> Self:
        self._crossing = Crossing(asyncio.get_running_loop())
        self._opened = await asyncio.to_thread(Frontend, self._settings)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.frontend.close)

    @property
    def frontend(self) -> Frontend:
        """The client underneath, for its calls that do not block: `new_id`, `request`, `decision`, `cancel`."""
        if self._opened is None:
            raise CommonplaceError(
                "this AsyncFrontend is not open: use it as `async with AsyncFrontend(settings) as f`"
            )
        return self._opened

    async def place(
        self, flavor: str, *, id: str | None = None, timeout: float | None = None, traceparent: str = "", **fields: Any
    ) -> Decision:
        """Submit and wait for the effective decision."""
        build = self.frontend.request(flavor, id=id, **fields)
        return await self.submit(build, timeout=timeout, traceparent=traceparent)

    async def submit(
        self, build: Build, *, timeout: float | None = None, fresh: bool = False, traceparent: str = ""
    ) -> Decision:
        """Submit a request and wait for its effective decision; `asyncio.create_task` it to have many open."""
        frontend = self.frontend
        while frontend.full:
            await asyncio.sleep(ROOM_POLL_S)
        if fresh or frontend.unused(build.id):
            pending = frontend.submit(build, timeout=timeout, fresh=fresh, traceparent=traceparent)
        else:  # reads what was decided before: blocks
            pending = await asyncio.to_thread(frontend.submit, build, timeout=timeout, traceparent=traceparent)
        return await self._crossing.future(pending)

    async def submit_many(
        self, builds: Iterable[Build], *, timeout: float | None = None, fresh: bool = False, traceparent: str = ""
    ) -> list[Decision | BaseException]:
        """Submit requests and wait for all answers, in their order; one that got none is its exception."""
        pendings = await asyncio.to_thread(
            self.frontend.submit_many, tuple(builds), timeout=timeout, fresh=fresh, traceparent=traceparent
        )
        return await asyncio.gather(*map(self._crossing.future, pendings), return_exceptions=True)

    async def confirm(
        self, decision: Decision, *allocations: str, wait: bool = False, timeout: float | None = None
    ) -> list[Outcome]:
        """Confirm what a decision placed; see `Frontend.confirm`."""
        return await asyncio.to_thread(self.frontend.confirm, decision, *allocations, wait=wait, timeout=timeout)

    async def release(
        self, decision: Decision, *allocations: str, wait: bool = False, timeout: float | None = None
    ) -> list[Outcome]:
        """Give back what a decision placed; see `Frontend.release`."""
        return await asyncio.to_thread(self.frontend.release, decision, *allocations, wait=wait, timeout=timeout)

    async def cancel(
        self, request: str, flavor: str = "", group: str = "", *, wait: bool = False, timeout: float | None = None
    ) -> None:
        """Withdraw a request; see `Frontend.cancel`."""
        await asyncio.to_thread(self.frontend.cancel, request, flavor, group, wait=wait, timeout=timeout)
