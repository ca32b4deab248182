"""TCP links between clients and the broker that can be delayed, cut one way or both, reset, and left half-open.

    client ── port of the link ──▶ proxy ── up ──▶ a listener of the broker that advertises the link's port
       ▲                             │
       └─────────── down ◀───────────┘

A cut holds bytes back and lets them go when it is healed, as TCP does over a network that comes back: what a dead client had sent
may arrive long after its end. Bytes are never lost within a connection; loss is a connection reset.
"""

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Coroutine
from typing import Any, Final, Literal, TypeVar

CHUNK_BYTES: Final = 65_536
QUEUED_MAX: Final = 64
"""Chunks on their way in one direction: 4 MB; past it the sender waits, as with a full window."""

HELD_POLL_S: Final = 0.02
CONNECT_TIMEOUT_S: Final = 5.0
_NO_LINGER: Final = struct.pack("ii", 1, 0)

T = TypeVar("T")
Accepting = Literal["yes", "refuse", "half_open"]


class Way:
    """One direction of a link, as it is now; written by whoever injects, read by the pumps."""

    __slots__ = ("bytes", "delay_s", "held", "reset_share")

    def __init__(self) -> None:
        self.delay_s = 0.0
        self.held = False
        self.reset_share = 0.0  # of the chunks: such a one resets its connection instead of arriving
        self.bytes = 0


class _Reset(Exception):
    """This connection is to be reset."""


class Link:
    """One client's way to the broker: listens on `port`, connects to `target`."""

    def __init__(self, name: str, port: int, target: int) -> None:
        self.name, self.port, self.target = name, port, target
        self.up, self.down = Way(), Way()
        self.accepting: Accepting = "yes"
        self.connections = 0
        self.resets = 0
        self._rng = random.Random(name)
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[Any] | None] = set()  # the loop itself would let one go that only waits

    def heal(self) -> None:
        """Let everything through from now on, what was held back first."""
        for way in (self.up, self.down):
            way.delay_s, way.held, way.reset_share = 0.0, False, 0.0
        self.accepting = "yes"

    def reset_all(self) -> None:
        """Reset the connections that are open; on the proxy's own thread."""
        for writer in list(self._open):
            _reset(writer)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a client, until both sides are done with it."""
        self.connections += 1
        self._open.add(writer)
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            if self.accepting == "refuse":
                _reset(writer)
                return
            while self.accepting == "half_open":
                await asyncio.sleep(HELD_POLL_S)
            await self._join(reader, writer)
        except asyncio.CancelledError:
            return  # the proxy ends, and asyncio would tell of it
        finally:
            self._open.discard(writer)
            self._tasks.discard(task)
            writer.close()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            connecting = asyncio.open_connection("127.0.0.1", self.target)
            far_reader, far_writer = await asyncio.wait_for(connecting, CONNECT_TIMEOUT_S)
        except (OSError, TimeoutError):  # the broker is away: so is whoever stands before it
            _reset(writer)
            return
        try:
            await asyncio.gather(self._pump(reader, far_writer, self.up), self._pump(far_reader, writer, self.down))
        except _Reset:
            self.resets += 1
            _reset(writer)
            _reset(far_writer)
        finally:
            far_writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: Way) -> None:
        """Carry bytes one way until its sender ends; what is on its way then still arrives."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(QUEUED_MAX)
        taking = asyncio.create_task(_take(reader, queue, way))
        self._tasks.add(taking)
        taking.add_done_callback(self._tasks.discard)
        try:
            while True:
                due, data = await queue.get()
                while way.held:
                    await asyncio.sleep(HELD_POLL_S)
                await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
                if not data:
                    break
                if way.reset_share and self._rng.random() < way.reset_share:
                    raise _Reset
                way.bytes += len(data)
                writer.write(data)
                await writer.drain()
            if writer.can_write_eof():
                writer.write_eof()
        except OSError:
            return  # the receiver is gone: its own direction ends by itself
        finally:
            taking.cancel()


async def _take(reader: asyncio.StreamReader, queue: asyncio.Queue[tuple[float, bytes]], way: Way) -> None:
    loop = asyncio.get_running_loop()
    data = b"-"
    while data:
        try:
            data = await reader.read(CHUNK_BYTES)
        except OSError:
            data = b""
        await queue.put((loop.time() + way.delay_s, data))


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection as a crashed peer's kernel would: with RST."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):  # it is closed already
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    writer.transport.abort()


class Proxy:
    """All links, served by one thread of their own; to be closed."""

    def __init__(self, links: dict[str, Link]) -> None:
        self.links = links
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._servers = [self._run(self._listen(link)) for link in links.values()]

    def reset(self, name: str) -> None:
        """Reset the open connections of a link."""
        self._loop.call_soon_threadsafe(self.links[name].reset_all)

    def heal(self) -> None:
        """Heal every link."""
        for link in self.links.values():
            link.heal()

    def close(self) -> None:
        """End the links and the thread; blocks until it is gone."""
        for link in self.links.values():
            link.heal()
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _listen(self, link: Link) -> asyncio.Server:
        return await asyncio.start_server(link.serve, "127.0.0.1", link.port)

    async def _end(self) -> None:
        for server in self._servers:
            server.close()
        for link in self.links.values():
            link.reset_all()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _run(self, awaited: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(awaited, self._loop).result(30)
