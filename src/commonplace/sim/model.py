"""A host as its reports tell it, folded anew from docs/protocol.md: of the core only the decoding of records is shared.

Every host state is a fresh dict of allocations or the one before, never changed in place, so that a report's state can be kept by
reference and held against a decision that names the report.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from msgspec import convert, to_builtins

from commonplace.core.hashing import digest64
from commonplace.core.records.hosts import Allocation, Delta, HostCell, Snapshot
from commonplace.core.resources import Inventory
from commonplace.ops.audit import state as audit
from commonplace.ops.audit import wire_hosts
from commonplace.ops.audit.hashes import MODULUS, allocation_hash, host_hash

Held = dict[str, Allocation]
Content = tuple[Mapping[str, Inventory], tuple[str, ...], Mapping[str, str], str, Mapping[str, HostCell]]
"""What a host reports of itself: inventory, traits, labels, status, cells."""
State = tuple[int, int, int, int, int]
"""Of a host at an offset: epoch, generation, watermark, hash; an epoch of −1: none, −2: unsure."""
NO_BASE: Final = -2
"""Generation of a base on which no delta can rest."""
FAR_MS: Final = 1 << 62


class Facts:
    """What a host is apart from its allocations, with the hash of it."""

    __slots__ = ("_audited", "cells", "content", "hash", "inventory", "status", "traits")

    def __init__(self, content: Content) -> None:
        self.content = content
        self.inventory, traits, labels, self.status, cells = content
        # as the audit reads them
        self.cells = convert(to_builtins(cells), dict[str, wire_hosts.HostCell]) if cells else {}
        self.traits = frozenset(traits)
        self.hash = host_hash(self.inventory, self.traits, labels, self.status, self.cells)  # type: ignore[arg-type]  # by shape
        self._audited: audit.Facts | None = None

    def said(self, status: str) -> "Facts":
        """The same under another word of the operator's."""
        inventory, traits, labels, _, cells = self.content
        return Facts((inventory, traits, labels, status, cells))

    def capacity(self, name: str) -> int:
        """Amount of a class that may be allocated: ⌊(total − reserved) × thousandths / 1000⌋, at least 0; or what a cell has of a part."""
        if audit.IN_CELL in name:
            if self._audited is None:
                self._audited = audit.Facts(self.inventory, self.traits, {}, self.status, self.cells, 0)  # type: ignore[arg-type]  # by shape
            return self._audited.capacity(name)
        item = self.inventory.get(name)
        return (
            max(0, (item.total - item.reserved) * item.allocation_ratio_thousandths // 1000) if item is not None else 0
        )


NOTHING: Final = Facts(({}, (), {}, "enabled", {}))


class Lease(NamedTuple):
    """When a lease may lapse at the earliest, and when it must have at the latest, in log time without slack."""

    earliest_ms: int
    latest_ms: int


class Asked(NamedTuple):
    """A claims record for a host that no report has answered yet; None where it cannot be read."""

    offset: int
    at_ms: int
    record: Any


class Host:
    """One host as far as the log was read.

    `blind` says why the next report need not follow from the last one, "" when it must. `fresh`: its epoch has sent nothing yet.
    `reported` is the epoch of the last report that was not void.
    """

    __slots__ = (
        "_digest", "anew", "at_ms", "base", "base_facts", "base_gap", "base_generation", "blind", "builds", "claims", "claims_from",
        "epoch", "facts", "fresh", "gap", "generation", "held", "history", "leases", "low", "name", "offset", "opened_at",
        "outbid", "partition", "removed", "reported", "said", "said_hash", "stale", "started_ms", "sum", "through", "through_void", "topic",
    )  # fmt: skip

    def __init__(self, name: str, partition: int) -> None:
        self.name, self.partition = name, partition
        self.epoch = self.reported = self.generation = -1
        self.base_generation = NO_BASE
        self.base: Held = {}
        self.held: Held = {}
        self.base_facts = self.facts = NOTHING
        self.base_gap = self.gap = False
        self.sum = 0
        self.stale = "no report yet"
        self.builds = 0
        self.said_hash = ""  # by the last report
        self.removed = False
        self.outbid = (
            False  # readers differ until its next report: a forged one took the generation of the last, or it was lost
        )
        self.blind = ""
        self.fresh = False
        self.anew = False  # a start record stands since its reports or claims were lost
        self.topic, self.through = "", -1
        # of reports by fenced agents since the last one that counts: a past for whoever starts next
        self.through_void = -1
        self.offset = self.at_ms = -1
        self.started_ms = 0
        self.opened_at = -1  # the first report of its epoch
        self.claims_from = 0  # where the claims of a host without a report begin: their end at its start record
        self.low = 0  # where the claims began at its start record
        self.leases: dict[str, Lease] = {}
        self.said: dict[int, bytes] = {}  # generation → report, of this epoch
        self.claims: deque[Asked] = deque()
        self.history: list[State] = []
        self._digest: tuple[State | None, int] = (None, 0)  # of the state asked for last

    @property
    def hash(self) -> int:
        """The state hash, recomputed."""
        return (self.facts.hash + self.sum) % MODULUS

    def used(self, name: str) -> int:
        """How much of a class the allocations hold."""
        return sum(allocation.resources.get(name, 0) for allocation in self.held.values())

    def start(self, offset: int, at_ms: int, *, removed: bool) -> None:
        """A start record: every earlier epoch is void from here on."""
        self.epoch, self.generation, self.base_generation = offset, -1, NO_BASE
        self.started_ms, self.fresh, self.removed, self.stale = at_ms, True, removed, "starting"
        self.said = {}
        if removed:
            self.forget()

    def forget(self) -> None:
        """The host was taken out by an operator, or its current snapshot deleted: it holds nothing."""
        self.held = self.base = {}
        self.facts = self.base_facts = NOTHING
        self.sum, self.gap, self.base_gap, self.builds, self.said_hash = 0, False, False, 0, ""
        self.stale, self.removed = "removed", True
        self.topic, self.through, self.reported, self.base_generation = "", -1, -1, NO_BASE
        self.through_void = -1
        self.leases = {}

    def spoil(self, *, delta: bool, why: str) -> None:
        """A record under a key of the current epoch cannot be used: stale until a good one, and no delta rests on a bad snapshot."""
        self.stale = why
        if not delta:
            self.base_generation = NO_BASE

    def note(self, offset: int) -> None:
        """Remember the state at `offset` for digests: nothing while the host is stale or removed.

        Unsure where a report forged in its name outbid its agent: compaction leaves the agent's, which live readers hold void. And where
        compaction took what only a report replaced that was lost.
        """
        if self.outbid:
            self.history.append((offset, -2, 0, 0, 0))
            return
        if self.stale or self.removed:
            if self.history and self.history[-1][1] >= 0:
                self.history.append((offset, -1, 0, 0, 0))
            return
        self.history.append((offset, self.epoch, self.generation, self.through, (self.builds << 64) | self.hash))

    def digest_of(self, state: State) -> int:
        """A state's part of the digest, remembered: replicas are held against the same one at each checkpoint."""
        if self._digest[0] is not state:
            _, epoch, generation, through, packed = state
            text = f"{self.name} {epoch} {generation} {through} {packed >> 64} {packed & (MODULUS - 1):016x}"
            self._digest = (state, digest64(text.encode()))
        return self._digest[1]


def digest_at(hosts: Iterable[Host], positions: Mapping[int, int]) -> tuple[int, set[str]]:
    """State digest of the hosts that are not stale, as everything ever appended below `positions` makes it, and whom it leaves out:
    hosts of which forged reports let nobody be sure.
    """
    total, unsure = 0, set()
    for host in hosts:
        position = positions.get(host.partition, 0)
        for state in reversed(host.history):
            if state[0] < position:
                if state[1] >= 0:
                    total += host.digest_of(state)
                elif state[1] == -2:
                    unsure.add(host.name)
                break
    return total % MODULUS, unsure


class Hashes:
    """Hashes of allocations, remembered by id as long as what is hashed stays the same."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Allocation, int]] = {}

    def of(self, allocation: Allocation) -> int:
        known = self._known.get(allocation.id)
        if known is not None:
            same = known[0]
            if same is allocation or same_shape(same, allocation):
                return known[1]
        found = allocation_hash(allocation.id, allocation.resources, allocation.group, allocation.cells)
        self._known[allocation.id] = (allocation, found)
        return found

    def sum(self, held: Held) -> int:
        return sum(map(self.of, held.values()))


def same_shape(one: Allocation, other: Allocation) -> bool:
    """Whether two allocations of one id are equal in all that is hashed."""
    return one.resources == other.resources and one.group == other.group and one.cells == other.cells


def held_by(host: Host, record: Snapshot | Delta) -> Held:
    """The allocations that a report shows: a snapshot's own, or the base with what a delta names replaced. Equal ones are the same dict."""
    if isinstance(record, Snapshot):
        after = {allocation.id: allocation for allocation in record.allocations}
    elif record.upserts or record.removed:
        after = host.base.copy()
        for gone in record.removed:
            after.pop(gone, None)
        for allocation in record.upserts:
            after[allocation.id] = allocation
    else:
        after = host.base
    return host.held if after == host.held else after


def facts_of(host: Host, record: Snapshot | Delta) -> Facts:
    """What the host is by a report; the same object as before where nothing changed."""
    if isinstance(record, Snapshot):
        content = (record.inventory, record.traits, record.labels, record.status, record.cells)
    else:
        named = (record.inventory, record.traits, record.labels, record.status, record.cells)
        if named == (None, None, None, None, None):
            return host.base_facts
        base = host.base_facts.content
        content = tuple(was if new is None else new for was, new in zip(base, named, strict=True))  # type: ignore[assignment]
    return host.facts if content == host.facts.content else Facts(content)
