"""A host's ledger: what it holds, and the verdict on every claim, confirm and release (rules 3 to 6).

    absent ──claim──▶ leased ──confirm──▶ active
       ▲                │ lapse, release      │ release, failed, gone
       └────────────────┴─────────────────────┘

`receive` is the only place that changes it. Times are milliseconds of the agent's own clock (monotonic, counting suspend).
"""

from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from commonplace.core import hashing
from commonplace.core.hosts import HostState
from commonplace.core.records import (
    ALLOCATIONS_MAX,
    SETTLED_MAX,
    Allocation,
    Claim,
    Confirm,
    Delta,
    Reason,
    Release,
    Settled,
    Snapshot,
    Status,
    Verdict,
)
from commonplace.core.resources import Inventory, misfit

NO_OFFSET: Final = -1
SNAPSHOT_BYTES_MAX: Final = 700_000
"""Bytes of allocations a snapshot may reach: with 256 settled claims and the inventory it stays below RECORD_BYTES_MAX."""


class Taken(Struct, frozen=True, gc=False):
    """A record of the claims partition, as the ledger takes it: with its offset and log time."""

    offset: int
    log_time_ms: int
    record: Claim | Confirm | Release


class Unreadable(Struct, frozen=True, gc=False):
    """A record for this host at `offset` that this version cannot judge; it can grant nothing."""

    offset: int
    reason: Reason = "version"


class Lapse(Struct, frozen=True, gc=False):
    """The lease of an allocation ran out, and the claims were read to an end captured after that."""

    allocation: str
    asked_at_ms: int


class Up(Struct, frozen=True, gc=False):
    """The driver reports an instance up."""

    allocation: str


class Failed(Struct, frozen=True, gc=False):
    """The driver could not bring an instance up, or it died."""

    allocation: str
    why: str = ""


class Found(Struct, frozen=True, gc=False):
    """The driver found an instance that no claim explains."""

    instance: str
    resources: Mapping[str, int]
    project: str = ""


class Gone(Struct, frozen=True, gc=False):
    """A found instance is there no more."""

    instance: str


class Configure(Struct, frozen=True, gc=False):
    """What the host is, from its driver and its operators; None leaves as it was."""

    inventory: Mapping[str, Inventory] | None = None
    traits: tuple[str, ...] | None = None
    labels: Mapping[str, str] | None = None
    status: Status | None = None
    gap_cleared: bool = False


Event = Taken | Unreadable | Lapse | Up | Failed | Found | Gone | Configure

TRANSITIONS: dict[tuple[str, str], tuple[str, Verdict, Reason]] = {
    # (state, event): (state after, verdict, reason)
    ("absent", "claim"): ("leased", "granted", ""),
    ("leased", "claim"): ("leased", "ignored", ""),
    ("active", "claim"): ("active", "ignored", ""),
    ("absent", "renew"): ("absent", "rejected", "expired"),
    ("leased", "renew"): ("leased", "renewed", ""),
    ("active", "renew"): ("active", "ignored", ""),
    ("absent", "confirm"): ("absent", "late", ""),
    ("leased", "confirm"): ("active", "confirmed", ""),
    ("active", "confirm"): ("active", "ignored", ""),
    ("absent", "release"): ("absent", "ignored", ""),
    ("leased", "release"): ("absent", "released", ""),
    ("active", "release"): ("absent", "released", ""),
    ("absent", "release_leased"): ("absent", "ignored", ""),
    ("leased", "release_leased"): ("absent", "released", ""),
    ("active", "release_leased"): ("active", "ignored", ""),
    ("absent", "lapse"): ("absent", "ignored", ""),
    ("leased", "lapse"): ("absent", "lapsed", ""),
    ("active", "lapse"): ("active", "ignored", ""),
    ("absent", "failed"): ("absent", "ignored", ""),
    ("leased", "failed"): ("absent", "failed", ""),
    ("active", "failed"): ("absent", "failed", ""),
    ("absent", "gone"): ("absent", "ignored", ""),
    ("active", "gone"): ("absent", "lost", ""),
}
"""What becomes of an allocation. A claim that finds it absent is granted only if `_refusal` has nothing to say."""


class Change(Struct, frozen=True, gc=False):
    """An allocation before and after an event, for whoever runs instances."""

    before: Allocation | None
    after: Allocation | None


class Ledger:
    """The allocations of one host in one epoch. Only its agent writes it."""

    __slots__ = (
        "allocations",
        "base",
        "base_host",
        "base_ids",
        "base_status",
        "builds",
        "bytes",
        "claims_through",
        "claims_topic",
        "epoch",
        "gap",
        "generation",
        "groups",
        "hash",
        "host",
        "host_hash",
        "inventory",
        "labels",
        "leases",
        "load",
        "removed",
        "settled",
        "settled_omitted",
        "started_log_time_ms",
        "status",
        "traits",
        "upserted",
        "used",
    )  # fmt: skip

    def __init__(self, host: str, epoch: int, started_log_time_ms: int, claims_topic: str, claims_through: int) -> None:
        self.host, self.epoch, self.started_log_time_ms = host, epoch, started_log_time_ms
        self.claims_topic, self.claims_through = claims_topic, claims_through
        self.generation = 0
        self.inventory: Mapping[str, Inventory] = {}
        self.traits: tuple[str, ...] = ()
        self.labels: Mapping[str, str] = {}
        self.status: Status = "enabled"
        self.gap = False
        self.load: dict[str, float] = {}
        self.allocations: dict[str, Allocation] = {}
        self.leases: dict[str, int] = {}  # allocation → when it lapses, unless confirmed
        self.used: dict[str, int] = {}
        self.groups: dict[str, int] = {}
        self.builds = 0  # in progress
        self.bytes = 0
        self.host_hash = self.hash = hashing.host_part({}, (), {}, "enabled")
        self.settled: list[Settled] = []
        self.settled_omitted = 0
        self.base = 0  # generation of the snapshot that deltas rest on
        self.base_ids: frozenset[str] = frozenset()
        self.base_host: tuple[Any, ...] = ()
        self.base_status: tuple[Status, bool] = ("enabled", False)
        self.upserted: set[str] = set()
        self.removed: set[str] = set()

    @classmethod
    def recover(cls, state: HostState, epoch: int, started_log_time_ms: int, now_ms: int) -> "Ledger":
        """Go on from the host's last report: its allocations, with every lease anew and in full."""
        ledger = cls(state.name, epoch, started_log_time_ms, state.claims_topic, state.claims_through)
        ledger.gap = state.gap
        for allocation in state.allocations.values():
            ledger._add(allocation)
            if allocation.state == "leased":
                ledger.leases[allocation.id] = now_ms + allocation.lease_ms
        return ledger

    # -- events -------------------------------------------------------------------------------------------------------------------------

    def receive(self, event: Event, now_ms: int) -> list[Change]:
        """Take one event; returns what it changed. What the next report must tell is noted in `settled`."""
        match event:
            case Taken():
                return self._take(event, now_ms)
            case Unreadable(offset, reason):
                self.claims_through = max(self.claims_through, offset)
                self._settle(offset, "rejected", reason)
                return []
            case Lapse(allocation, asked_at_ms):
                if self.leases.get(allocation, asked_at_ms + 1) > asked_at_ms:
                    return []  # renewed or confirmed on the way
                return self._move(allocation, "lapse", NO_OFFSET)
            case Up(allocation):
                return self._up(allocation)
            case Failed(allocation, why):
                return self._move(allocation, "failed", NO_OFFSET, why[:128])
            case Found():
                return self._found(event)
            case Gone(instance):
                return self._move(found_id(instance), "gone", NO_OFFSET)
            case Configure():
                self._configure(event)
                return []

    def _take(self, taken: Taken, now_ms: int) -> list[Change]:
        if taken.offset <= self.claims_through:
            return []  # taken into account by an earlier report
        self.claims_through = taken.offset
        record = taken.record
        if isinstance(record, Claim):
            return self._claim(taken, record, now_ms)
        if isinstance(record, Confirm):
            return self._move(record.allocation, "confirm", taken.offset)
        return self._move(record.allocation, "release_leased" if record.leased_only else "release", taken.offset)

    def _claim(self, taken: Taken, claim: Claim, now_ms: int) -> list[Change]:
        if taken.log_time_ms + claim.lease_ms < self.started_log_time_ms:
            return self._reject(taken.offset, claim, "expired", "its lease ran out before this agent started")
        if claim.mode == "renew":
            changes: list[Change] = []
            for asked in claim.allocations:
                self._move(asked.id, "renew", taken.offset)
                if asked.id in self.leases:
                    self.leases[asked.id] = now_ms + claim.lease_ms
                    changes.append(Change(self.allocations[asked.id], self.allocations[asked.id]))
            return changes
        if any(asked.id in self.allocations for asked in claim.allocations):
            self._settle(taken.offset, "ignored", "", claim.allocations[0].id, "held already")
            return []
        reason, why = self._refusal(claim)
        if reason:
            return self._reject(taken.offset, claim, reason, why)
        return [self._grant(taken.offset, asked, claim, now_ms) for asked in claim.allocations]

    def _grant(self, offset: int, asked: Allocation, claim: Claim, now_ms: int) -> Change:
        after, verdict, _ = TRANSITIONS["absent", "claim"]
        held = Allocation(
            id=asked.id, request=claim.request, index=asked.index, instance=asked.instance, flavor=asked.flavor, project=asked.project,
            user=asked.user, kind=asked.kind, group=asked.group, resources=asked.resources, cells=asked.cells, state="leased", building=True,
            lease_ms=claim.lease_ms,
        )  # fmt: skip
        self._add(held)
        self.leases[held.id] = now_ms + claim.lease_ms
        self.upserted.add(held.id)
        self._settle(offset, verdict, "", held.id)
        return Change(None, held)

    def _refusal(self, claim: Claim) -> tuple[Reason, str]:
        """Why a claim must not be granted: every check of `fits`, and before them the compare-and-swap of `strict`."""
        if self.status != "enabled":
            return "disabled", f"the host is {self.status}"
        if claim.mode == "strict" and claim.expected != hashing.to_hex(self.hash):
            return "stale", f"the state is {hashing.to_hex(self.hash)}"
        for trait in claim.traits_required:
            if trait not in self.traits:
                return "constraint", f"lacks {trait}"[:128]
        for trait in claim.traits_forbidden:
            if trait in self.traits:
                return "constraint", f"has {trait}"[:128]
        return self._overfull(claim)

    def _overfull(self, claim: Claim) -> tuple[Reason, str]:
        asked = claim.allocations
        if len({a.id for a in asked}) < len(asked):
            return "constraint", "one allocation id twice"
        if any(a.cells for a in asked):
            return "constraint", "the host has no cells"
        group = asked[0].group
        if claim.group_max and group and self.groups.get(group, 0) + len(asked) > claim.group_max:
            return "constraint", f"group {group}"[:120] + " is full"
        if claim.builds_max and self.builds + len(asked) > claim.builds_max:
            return "constraint", f"{self.builds} builds in progress"
        if claim.instances_max and len(self.allocations) + len(asked) > claim.instances_max:
            return "constraint", f"{len(self.allocations)} instances"
        if (
            len(self.allocations) + len(asked) > ALLOCATIONS_MAX
            or self.bytes + sum(map(_bytes, asked)) > SNAPSHOT_BYTES_MAX
        ):
            return "full", "its report would pass the record limit"
        used = self.used
        if len(asked) > 1:
            used = dict(used)
        for allocation in asked:
            for name, amount in allocation.resources.items():
                why = misfit(self.inventory.get(name), used.get(name, 0), amount)
                if why:
                    return "full", f"{name}: {why}"[:128]
                if used is not self.used:
                    used[name] = used.get(name, 0) + amount
        return "", ""

    def _reject(self, offset: int, claim: Claim, reason: Reason, why: str) -> list[Change]:
        for asked in claim.allocations:
            self._settle(offset, "rejected", reason, asked.id, why)
        return []

    def _move(self, allocation_id: str, event: str, offset: int, detail: str = "") -> list[Change]:
        """Send an allocation along the table."""
        before = self.allocations.get(allocation_id)
        state = before.state if before else "absent"
        try:
            after_state, verdict, reason = TRANSITIONS[state, event]
        except KeyError:
            raise AssertionError(
                f"allocation {allocation_id} of {self.host} is {state}, which knows no {event}"
            ) from None
        if verdict != "ignored" or offset != NO_OFFSET:
            self._settle(offset, verdict, reason, allocation_id, detail)
        if after_state == state or before is None:
            return []
        self.leases.pop(allocation_id, None)
        self._remove(before)
        if after_state == "absent":
            self.upserted.discard(allocation_id)
            if allocation_id in self.base_ids:
                self.removed.add(allocation_id)
            return [Change(before, None)]
        after = replace(before, state=after_state)
        self._add(after)
        self.upserted.add(allocation_id)
        return [Change(before, after)]

    def _up(self, allocation_id: str) -> list[Change]:
        before = self.allocations.get(allocation_id)
        if before is None or not before.building:
            return []
        after = self.allocations[allocation_id] = replace(before, building=False)
        self.builds -= 1
        self.upserted.add(allocation_id)
        return [Change(before, after)]

    def _found(self, found: Found) -> list[Change]:
        allocation = Allocation(
            id=found_id(found.instance), instance=found.instance[:128], project=found.project[:128], resources=dict(found.resources),
            state="active", origin="found",
        )  # fmt: skip
        if self.allocations.get(allocation.id) == allocation:
            return []
        before = self.allocations.get(allocation.id)
        if before is not None:
            self._remove(before)
        self._add(allocation)
        self.upserted.add(allocation.id)
        return [Change(before, allocation)]

    def _configure(self, to: Configure) -> None:
        self.inventory = self.inventory if to.inventory is None else to.inventory
        self.traits = self.traits if to.traits is None else tuple(sorted(set(to.traits)))
        self.labels = self.labels if to.labels is None else to.labels
        self.status = self.status if to.status is None else to.status
        self.gap = self.gap and not to.gap_cleared
        part = hashing.host_part(self.inventory, self.traits, self.labels, self.status)
        self.hash = (self.hash - self.host_hash + part) & hashing.MASK
        self.host_hash = part

    def assume_active(self) -> None:
        """Claims were lost to retention: what is held now stays held, and the host says `gap` until an operator clears it."""
        self.gap = True
        self.leases.clear()
        for allocation in list(self.allocations.values()):
            if allocation.state == "leased":
                self.allocations[allocation.id] = replace(allocation, state="active")

    # -- arithmetic ---------------------------------------------------------------------------------------------------------------------

    def _add(self, allocation: Allocation) -> None:
        self.allocations[allocation.id] = allocation
        self._count(allocation, 1)

    def _remove(self, allocation: Allocation) -> None:
        del self.allocations[allocation.id]
        self._count(allocation, -1)

    def _count(self, allocation: Allocation, sign: int) -> None:
        self.hash = (self.hash + sign * hashing.allocation_hash(allocation)) & hashing.MASK
        self.bytes += sign * _bytes(allocation)
        self.builds += sign * allocation.building
        used = self.used
        for name, amount in allocation.resources.items():
            used[name] = used.get(name, 0) + sign * amount
        if allocation.group:
            self.groups[allocation.group] = self.groups.get(allocation.group, 0) + sign
            if not self.groups[allocation.group]:
                del self.groups[allocation.group]

    def _settle(self, offset: int, verdict: Verdict, reason: Reason, allocation: str = "", detail: str = "") -> None:
        if len(self.settled) >= SETTLED_MAX:
            self.settled_omitted += 1
            return
        self.settled.append(
            Settled(offset=offset, verdict=verdict, reason=reason, allocation=allocation, detail=detail)
        )

    # -- reports ------------------------------------------------------------------------------------------------------------------------

    @property
    def changes(self) -> int:
        """How many allocations the next delta would carry."""
        return len(self.upserted) + len(self.removed)

    def snapshot(self, agent: str) -> Snapshot:
        """The next report in full; deltas rest on it from now on."""
        self.generation += 1
        self.base = self.generation
        self.base_ids = frozenset(self.allocations)
        self.base_host = (self.inventory, self.traits, self.labels)
        self.base_status = (self.status, self.gap)
        self.upserted, self.removed = set(), set()
        settled, omitted = self._told()
        return Snapshot(
            host=self.host, epoch=self.epoch, generation=self.generation, claims_topic=self.claims_topic, claims_through=self.claims_through,
            hash=hashing.to_hex(self.hash), agent=agent, status=self.status, gap=self.gap, inventory=dict(self.inventory), traits=self.traits,
            labels=dict(self.labels), allocations=list(self.allocations.values()), settled=settled, settled_omitted=omitted, load=self.load,
        )  # fmt: skip

    def delta(self) -> Delta:
        """The next report as what differs from the snapshot it rests on."""
        self.generation += 1
        settled, omitted = self._told()
        allocations = self.allocations
        inventory, traits, labels = self.base_host
        status, gap = self.base_status
        return Delta(
            host=self.host, epoch=self.epoch, generation=self.generation, base_generation=self.base, claims_topic=self.claims_topic,
            claims_through=self.claims_through, hash=hashing.to_hex(self.hash),
            status=None if self.status == status else self.status,
            gap=None if self.gap == gap else self.gap,
            inventory=None if self.inventory == inventory else dict(self.inventory),
            traits=None if self.traits == traits else self.traits,
            labels=None if self.labels == labels else dict(self.labels),
            upserts=[allocations[i] for i in self.upserted], removed=list(self.removed), settled=settled, settled_omitted=omitted,
            load=self.load,
        )  # fmt: skip

    def _told(self) -> tuple[list[Settled], int]:
        told, omitted = self.settled, self.settled_omitted
        self.settled, self.settled_omitted = [], 0
        return told, omitted


def found_id(instance: str) -> str:
    """Allocation id of an instance that the driver found: its own name space, so that it never meets a replica's."""
    return f"found:{instance}"[:128]


def _bytes(allocation: Allocation) -> int:
    """Bytes of an allocation in a snapshot, from above: names at up to 2 bytes a character escaped, 180 for keys and numbers."""
    names = len(allocation.id) + len(allocation.request) + len(allocation.instance) + len(allocation.flavor)
    names += len(allocation.project) + len(allocation.user) + len(allocation.kind) + len(allocation.group)
    return 180 + 4 * names + 90 * len(allocation.resources)
