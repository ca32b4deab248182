"""A request on its way through a replica: one slot per instance, each empty, claimed or held."""

from msgspec import Struct

from commonplace.core.hashing import digest64
from commonplace.core.records.requests import Build
from commonplace.core.rows import Overlay, Row
from commonplace.core.rules import Ask

OPEN = "open"
ANSWERED = "answered"
"""Its decision is sent; whether it is the effective one is known once it was read back."""
DROPPED = "dropped"
"""Its partition went to another replica."""

ID_CHARS_MAX = 128
"""Longest id on the wire, names of instances included."""


class Pending(Overlay, kw_only=True, eq=False):
    """A claim without a verdict: an overlay on its host that knows what it was sent for. `offset` −1: not acknowledged yet."""

    work: "Work"
    index: int
    row: Row
    sent_ms: int
    offset: int = -1


class Held(Struct, gc=False):
    """A granted allocation: where, since when and how long its lease surely runs, and the position of the report that shows it."""

    row: Row
    allocation: str
    instance: str
    offset: int
    sent_ms: int
    lease_ms: int
    active: bool = False


class Slot:
    """One instance of a request."""

    __slots__ = ("given_up", "held", "pending")

    def __init__(self) -> None:
        self.given_up = False  # no host for it, and the request does without
        self.pending: Pending | None = None
        self.held: Held | None = None


class Work:
    """One request being decided."""

    __slots__ = (
        "allocation_tail",
        "answer",
        "ask",
        "attempts",
        "build",
        "called",
        "cancels",
        "conflicts",
        "content",
        "deadline_ms",
        "first_claim_ms",
        "lease_ms",
        "look_ms",
        "offsets",
        "partition",
        "placed",
        "received_ms",
        "resources",
        "slots",
        "state",
        "strays",
        "trace",
    )  # fmt: skip

    def __init__(
        self, build: Build, content: str, partition: int, offset: int, received_ms: int, deadline_ms: int, lease_ms: int,
        ask: Ask, allocation_tail: bytes, trace: str = "",
    ) -> None:  # fmt: skip
        self.build, self.content, self.partition, self.received_ms = build, content, partition, received_ms
        self.offsets = [offset]
        self.deadline_ms, self.lease_ms = deadline_ms, lease_ms
        self.look_ms = deadline_ms
        self.ask, self.allocation_tail, self.trace = ask, allocation_tail, trace
        self.resources: dict[str, int] = dict(ask.resources)
        self.slots = [Slot() for _ in range(build.count)]
        self.state = OPEN
        self.called = True  # whether it may be ranked: a member of a serialised group waits for its turn
        self.attempts = self.conflicts = 0
        self.first_claim_ms = 0
        self.answer = b""
        self.placed = False
        self.strays: list[tuple[Row, str]] = []  # allocations of this request that no slot of ours asked for
        self.cancels: list[int] = []  # offsets of cancels that wait for the effective decision

    @property
    def complete(self) -> bool:
        """Whether every instance that was not given up holds its allocation."""
        return all(slot.given_up or (slot.held is not None and slot.pending is None) for slot in self.slots)

    def instance(self, index: int) -> str:
        """Name of the instance at `index`."""
        names = self.build.instances
        return names[index] if index < len(names) else instance_name(self.build.id, index)


def instance_name(request: str, index: int) -> str:
    """Name of an instance that the request does not name: `REQUEST.index`.

    Where that would pass the bound of an id, the request's digest takes the place of its end: a claim with a longer name is one that no
    agent can read.
    """
    name = f"{request}.{index}"
    if len(name) <= ID_CHARS_MAX:
        return name
    return f"{request[:100]}-{digest64(request.encode()):016x}.{index}"
