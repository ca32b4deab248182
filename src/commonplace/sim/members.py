"""A simulated process: it reads topics as far as chance lets it, sends through an outbox that may fail it, and has a clock of its own.

append ──▶ source is dirty ──▶ wake ──▶ turn: acknowledgements, reads, its shell's work ──▶ outbox ──▶ flush ──▶ append ──▶ …
"""

from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any, Final

from commonplace.sim.log import OutOfRange
from commonplace.sim.surroundings import Surroundings
from commonplace.sim.wires import Done, Outgoing, Source

NEVER: Final = 1 << 62
ALL: Final = 1 << 30
REBUILD_WAIT_MS: Final = 1_000
CLOCK_SPREAD_MS: Final = 5_000_000
"""Monotonic clocks of processes begin anywhere in it: nothing may compare those of two."""


class Process:
    """What every simulated process has: sources, an outbox, an inbox of acknowledgements, a clock, a life."""

    def __init__(self, world: Surroundings, name: str) -> None:
        self.world, self.name = world, name
        world.everybody.append(self)
        self.random = Random(world.seed_of(name)).random
        self.alive = True
        self.life = 0  # counted, for who begins anew
        self.paused_ms = 0  # stopped until then
        self._thaw_ms = 0  # its clock stands still until then
        self.away_ms = 0  # until then the broker answers none of its questions
        self._deaf_ms = 0  # and until then nothing that it reads gets here
        self.sources: dict[tuple[str, int], Source] = {}
        self.dirty: list[Source] = []
        self.outbox: list[Outgoing] = []
        self.blocked: dict[tuple[str, int], int] = {}  # topic, partition → nothing of ours gets there before
        self.inbox: list[tuple[int, Done, int]] = []
        self.wake_ms = NEVER
        self._flush_ms = NEVER
        drift = world.config.drift
        self.rate = 1_000 + (round((2 * self.random() - 1) * drift) if drift else 0)
        self._clock_base, self._clock_at = int(self.random() * CLOCK_SPREAD_MS), world.now

    # -- time ---------------------------------------------------------------------------------------------------------

    def clock(self) -> int:
        """This process's monotonic clock in ms."""
        return self._clock_base + (self.world.now - self._clock_at) * self.rate // 1_000

    def at_clock(self, when_ms: int) -> int:
        """The world's time at which this process's clock shows `when_ms`, or a little later."""
        return self._clock_at + (when_ms - self._clock_base) * 1_000 // self.rate + 1

    def wake(self, at_ms: int) -> None:
        """Have a turn at that time, or before."""
        if at_ms < self.wake_ms and self.alive:
            self.wake_ms = at_ms
            self.world.at(at_ms, self._woken)

    def soon(self) -> int:
        """A moment from now, as networks and schedulers have it."""
        return self.world.now + 1 + int(self.random() * self.world.latency_ms)

    def pause(self, until_ms: int, frozen: bool) -> None:
        """Stop until then; with `frozen` the process's clock stands still meanwhile, as that of a suspended machine."""
        now = self.world.now
        self.paused_ms = max(self.paused_ms, until_ms)
        if frozen:
            self._thaw_ms = until_ms
            self._clock_base, self._clock_at = self.clock() - (until_ms - now) * self.rate // 1_000, now
        self.wake(until_ms)

    def go_on(self) -> None:
        """End a pause now; a clock that stood still goes on from there, and never back."""
        now = self.world.now
        self.paused_ms = min(self.paused_ms, now)
        if self._thaw_ms > now:
            self._clock_base += (self._thaw_ms - now) * self.rate // 1_000
            self._thaw_ms = now

    def cut_off(self, until_ms: int, way: str) -> None:
        """Cut its links to the broker until then: `in`, nothing is read; `out`, nothing that it sends gets there; `both`."""
        self.away_ms = max(self.away_ms, until_ms)
        if way != "out":
            self._deaf_ms = max(self._deaf_ms, until_ms)
            for source in self.sources.values():
                source.cut_ms = max(source.cut_ms, until_ms)
        if way != "in":
            for topic in self.world.topics.values():
                for partition in range(topic.partitions):
                    where = (topic.name, partition)
                    self.blocked[where] = max(self.blocked.get(where, 0), until_ms)

    def reconnect(self) -> None:
        """End whatever keeps it from the broker."""
        self.away_ms = self._deaf_ms = 0
        self.blocked.clear()
        for source in self.sources.values():
            source.cut_ms = 0

    def _woken(self) -> None:
        now = self.world.now
        if now != self.wake_ms or not self.alive:
            self.world.events -= 1  # a turn that was brought forward is no event
            return
        self.wake_ms = NEVER
        if self.paused_ms > now:
            self.wake(self.paused_ms)
            return
        if self.inbox:
            self._acknowledgements(now)
        self.turn(now)

    def turn(self, now: int) -> None:
        """What the process does when it wakes."""
        raise NotImplementedError

    # -- reading ------------------------------------------------------------------------------------------------------

    def follow(self, topic: str, partition: int, position: int, rank: int, handler: Callable[..., None]) -> Source:
        """Read a partition from a position on; in a turn, sources of lower rank are read first."""
        source = Source(self, self.world.topics[topic], partition, position, rank, handler)
        source.cut_ms = self._deaf_ms
        self.sources[topic, partition] = source
        self.world.readers[topic][partition].append(source)
        self.mark(source)
        return source

    def unfollow(self, topic: str, partition: int) -> None:
        """Read it no more; what is not read is nothing to stop."""
        source = self.sources.pop((topic, partition), None)
        if source is not None:
            source.held = True
            self.world.readers[topic][partition].remove(source)

    def mark(self, source: Source) -> None:
        """Look at a source at the next turn, which is soon."""
        if not source.dirty:
            source.dirty = True
            self.dirty.append(source)
        self.wake(self.soon())

    def read(self, now: int) -> bool:
        """Read what is new, as far as faults and chance let it; False when records were lost and the state must be dropped."""
        dirty = self.dirty
        if not dirty:
            return True
        self.dirty = []
        if len(dirty) > 1:
            dirty.sort(key=_rank)
        world, random = self.world, self.random
        trace, faulty, outages = world.trace, world.faulty, world.outages.some
        skip = world.config.skip
        partial = skip + world.config.partial
        for source in dirty:
            source.dirty = False
            if source.held:
                continue
            topic, partition = source.topic, source.partition
            if outages or source.cut_ms:
                until = max(source.cut_ms, world.outages.down_until(topic.name, partition))
                if until > now:
                    source.dirty = True
                    self.dirty.append(source)
                    self.wake(until)
                    continue
            most = ALL
            if faulty:
                chance = random() * 1_000
                if chance < partial:
                    if chance < skip:
                        self.mark(source)
                        continue
                    most = 1 + int(random() * 3)
            before = source.position
            try:
                records, after = topic.read(partition, before, most)
            except OutOfRange:
                return False
            if after == before:
                continue
            source.position = after
            if most != ALL and after < topic.end(partition):
                self.mark(source)
            if trace is not None:
                trace.reads(self.name, topic.name, partition, before, after)
            source.handler(source, records)
            if not self.sources:
                break  # it died, or starts anew
        return True

    def forget_sources(self) -> None:
        """Read nothing any more."""
        for topic, partition in list(self.sources):
            self.unfollow(topic, partition)
        self.dirty.clear()

    # -- sending ------------------------------------------------------------------------------------------------------

    def send(
        self, kind: str, topic: str, partition: int, key: bytes | None, value: bytes | None, done: Done | None = None
    ) -> None:
        """Put a record into the outbox; `done` is told in a later turn."""
        self.outbox.append(Outgoing(kind, topic, partition, key, value, done, self.world.now))
        if self._flush_ms == NEVER:
            self.flush_at(self.soon())

    def flush_at(self, when_ms: int) -> None:
        """Have the outbox flushed then."""
        if when_ms < self._flush_ms:
            self._flush_ms = when_ms
            self.world.at(when_ms, self._flush)

    def _flush(self) -> None:
        """Append what is in the outbox, in order a partition, as far as the broker is there; old records are given up."""
        world, now = self.world, self.world.now
        if now != self._flush_ms or not self.alive:
            world.events -= 1
            return
        self._flush_ms = NEVER
        if self.paused_ms > now:
            self.flush_at(self.paused_ms)
            return
        todo, self.outbox = deque(self.outbox), []
        kept: list[Outgoing] = []
        again = NEVER
        while todo and self.alive:
            entry = todo.popleft()
            if world.outages.some or self.blocked:
                where = (entry.topic, entry.partition)
                until = max(world.outages.unwritable_until(*where), self.blocked.get(where, 0))
                if until > now:
                    if now - entry.sent_ms >= world.config.delivery_timeout_ms:
                        self.acknowledge(entry, -1)
                    else:
                        kept.append(entry)
                        again = min(again, until, entry.sent_ms + world.config.delivery_timeout_ms)
                    continue
            fault = world.fault_of(entry.kind, self)
            if fault is None:
                offset = world.append(entry.topic, entry.partition, entry.key, entry.value, self)
                if entry.done is not None:
                    self.acknowledge(entry, offset)
            elif not self._send_badly(entry, fault):
                kept.append(entry)
                again = min(again, self.blocked[entry.topic, entry.partition])
        if self.alive:
            self.outbox = kept + self.outbox
            if self.outbox:
                self.flush_at(self.soon() if again == NEVER else again)

    def _send_badly(self, entry: Outgoing, fault: Any) -> bool:
        """Send a record under a fault; False: it stays in the outbox."""
        world = self.world
        where = (entry.topic, entry.partition, entry.key, entry.value)
        match fault.kind:
            case "lose":
                self.acknowledge(entry, -1, world.config.delivery_timeout_ms)
            case "mute":
                world.append(*where, self)
                self.acknowledge(entry, -1, world.config.delivery_timeout_ms)
            case "double":
                offset = world.append(*where, self)
                # an idempotent producer never lets an older report follow a newer one
                if entry.topic == "hosts" or not fault.ms:
                    world.append(*where, self)
                else:
                    world.at(world.now + fault.ms, world.arrive, entry, self)
                self.acknowledge(entry, offset)
            case "hold":
                self.blocked[entry.topic, entry.partition] = world.now + max(1, fault.ms)
                return False
            case "die_before":
                world.kill(self, fault)
            case "die_after":
                world.append(*where, self)
                world.kill(self, fault)
            case _:
                raise AssertionError(f"no fault {fault.kind} befalls a {entry.kind}")
        return True

    def acknowledge(self, entry: Outgoing, offset: int, after_ms: int = 0) -> None:
        """Have the process told what became of a record."""
        if entry.done is not None and self.alive:
            due = self.soon() + after_ms
            self.inbox.append((due, entry.done, offset))
            self.wake(due)

    def _acknowledgements(self, now: int) -> None:
        inbox, self.inbox = self.inbox, []
        for entry in inbox:
            if entry[0] <= now:
                entry[1](entry[2])
            else:
                self.inbox.append(entry)
                self.wake(entry[0])

    # -- end, and another beginning -----------------------------------------------------------------------------------

    def begin(self, now: int) -> None:
        """Begin a life, with nothing from the one before."""
        raise NotImplementedError

    def begin_anew(self) -> None:
        """Read and hear nothing any more, and begin again a moment later; what was sent still goes out."""
        self.forget_sources()
        self.inbox.clear()
        for entry in self.outbox:
            entry.done = None
        self.life += 1
        self.world.at(self.world.now + REBUILD_WAIT_MS, self._begin_again, self.life)

    def _begin_again(self, life: int) -> None:
        if self.alive and self.life == life:
            self.begin(self.world.now)

    def die(self) -> list[Outgoing]:
        """End at once; returns what was on its way, which may yet arrive."""
        self.alive = False
        self.forget_sources()
        left, self.outbox, self.inbox = self.outbox, [], []
        return left

    def dissolve(self) -> None:
        """Let go of everything, once the world is over."""
        vars(self).clear()


def _rank(source: Source) -> int:
    return source.rank
