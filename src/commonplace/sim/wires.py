"""What stands between a process and a log: the partitions that it reads, and records on their way."""

from collections.abc import Callable
from typing import Protocol

from commonplace.sim.log import Topic

Done = Callable[[int], None]
"""Told the offset of a record, or −1: not delivered, or nobody knows."""


class Reader(Protocol):
    """Who is woken when there is something new to read. `dirty`: where that is."""

    name: str
    random: Callable[[], float]
    dirty: "list[Source]"
    wake_ms: int

    def wake(self, at_ms: int) -> None: ...

    def mark(self, source: "Source") -> None: ...


class Source:
    """A partition that a process reads, and how far it is. `held`: not read for the time being; `cut_ms`: not readable until then."""

    __slots__ = ("cut_ms", "dirty", "handler", "held", "owner", "partition", "position", "rank", "topic")

    def __init__(
        self, owner: "Reader", topic: Topic, partition: int, position: int, rank: int, handler: Callable[..., None]
    ) -> None:
        self.owner, self.topic, self.partition, self.position = owner, topic, partition, position
        self.rank, self.handler = rank, handler
        self.held = self.dirty = False
        self.cut_ms = 0


class Outgoing:
    """A record on its way. `kind` is what faults call it."""

    __slots__ = ("done", "key", "kind", "partition", "sent_ms", "topic", "value")

    def __init__(
        self,
        kind: str,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        done: Done | None,
        sent_ms: int,
    ) -> None:
        self.kind, self.topic, self.partition, self.key, self.value = kind, topic, partition, key, value
        self.done, self.sent_ms = done, sent_ms
