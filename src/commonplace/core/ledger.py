"""A host's ledger: what it holds, and the verdict on every claim, confirm and release (rules 3 to 6).

    absent ──claim──▶ leased ──confirm──▶ active
       ▲                │ lapse, release      │ release, failed, gone
       └────────────────┴─────────────────────┘

`receive` is the only place that changes it. Times are milliseconds of the agent's own clock (monotonic, counting suspend).
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final

from msgspec import Meta, Struct
from msgspec.structs import replace

from commonplace.core import hashing, replacing
from commonplace.core.cells import Cells, Terms, after, assign, cells_of, ratios_of, refusal
from commonplace.core.hosts import HostState
from commonplace.core.records import (
    ALLOCATIONS_MAX,
    SETTLED_MAX,
    Allocation,
    Assigned,
    CellName,
    Claim,
    ClassName,
    Confirm,
    Delta,
    HostCell,
    Id,
    Label,
    Reason,
    Release,
    Settled,
    Snapshot,
    State,
    Status,
    Verdict,
    encode,
)
from commonplace.core.resources import AMOUNT_MAX, Amount, Inventory, misfit

NO_OFFSET: Final = -1
FOUND_PREFIX: Final = "found:"
"""Allocation ids of found instances begin with it, and no claim's may."""


class Bounds(Struct, frozen=True, kw_only=True):
    """What one ledger grants and tells at most."""

    lease_ms_max: int = 3_600_000
    """A claim that asks for a longer lease gets this one."""
    report_bytes_max: int = 900_000
    """A grant whose snapshot would be larger is rejected as full."""
    settled_max: int = SETTLED_MAX
    """Settled claims that one report lists; the rest is counted."""

    @property
    def allocation_bytes_max(self) -> int:
        """The allocations' share of a snapshot: 200 KB are kept for its settled claims, inventory, traits and labels."""
        return max(0, self.report_bytes_max - 200_000)


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


class Found(Struct, frozen=True, kw_only=True, gc=False, forbid_unknown_fields=True):
    """The driver found an instance running that it was not told to start; it counts unless an allocation explains it."""

    instance: Id
    resources: Annotated[dict[ClassName, Amount], Meta(max_length=32)]
    cells: Annotated[dict[CellName, Annotated[dict[ClassName, Amount], Meta(max_length=32)]], Meta(max_length=16)] = {}
    assigned: Annotated[dict[CellName, Assigned], Meta(max_length=16)] | None = None
    project: Label = ""
    user: Label = ""
    kind: Label = ""
    flavor: Label = ""
    group: Label = ""


class Gone(Struct, frozen=True, gc=False):
    """The instance ran, and does no more, though nobody stopped it."""

    instance: str


class Configure(Struct, frozen=True, gc=False):
    """What the host is, from its driver and its operators; None leaves as it was."""

    inventory: Mapping[str, Inventory] | None = None
    traits: tuple[str, ...] | None = None
    labels: Mapping[str, str] | None = None
    status: Status | None = None
    gap_cleared: bool = False
    cells: Mapping[str, HostCell] | None = None


Event = Taken | Unreadable | Lapse | Up | Failed | Found | Gone | Configure

TRANSITIONS: dict[tuple[str, str], tuple[Any, Verdict, Reason]] = {
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
        "base_host_hash",
        "base_ids",
        "base_status",
        "bounds",
        "builds",
        "bytes",
        "cells",
        "claims_end_at_start",
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
        "limits",
        "load",
        "removed",
        "reported_cells",
        "settled",
        "settled_omitted",
        "started_log_time_ms",
        "status",
        "successors",
        "traits",
        "upserted",
        "used",
    )  # fmt: skip

    def __init__(
        self,
        host: str,
        epoch: int,
        started_log_time_ms: int,
        claims_topic: str,
        claims_through: int,
        bounds: Bounds = Bounds(),  # noqa: B008 - frozen
    ) -> None:
        self.bounds = bounds
        self.host, self.epoch, self.started_log_time_ms = host, epoch, started_log_time_ms
        self.claims_topic, self.claims_through = claims_topic, claims_through
        # a claim from here on is younger than the start record, whatever the log's clock says
        self.claims_end_at_start = AMOUNT_MAX
        self.generation = 0
        self.inventory: Mapping[str, Inventory] = {}
        self.limits: dict[str, tuple[int, int, int, int]] = {}  # class → capacity, min_unit, unit_max, step_size
        self.traits: tuple[str, ...] = ()
        self.labels: Mapping[str, str] = {}
        self.reported_cells: Mapping[str, HostCell] = {}
        self.cells: Cells = {}  # the same with what the allocations hold of them
        self.status: Status = "enabled"
        self.gap = False
        self.load: dict[str, float] = {}
        self.allocations: dict[str, Allocation] = {}
        self.leases: dict[str, int] = {}  # allocation → when it lapses, unless confirmed
        self.used: dict[str, int] = {}
        self.groups: dict[str, int] = {}
        self.successors: dict[str, str] = {}  # allocation → the one that takes its place once confirmed
        self.builds = 0  # in progress
        self.bytes = 0
        self.host_hash = self.hash = hashing.host_part({}, (), {}, "enabled")
        self.settled: list[Settled] = []
        self.settled_omitted = 0
        self.base = 0  # generation of the snapshot that deltas rest on
        self.base_ids: frozenset[str] = frozenset()
        self.base_host: tuple[Any, ...] = ()
        self.base_host_hash = 0
        self.base_status: tuple[Status, bool] = ("enabled", False)
        self.upserted: dict[str, None] = {}  # in order, so that the same events give the same bytes
        self.removed: dict[str, None] = {}

    @classmethod
    def recover(
        cls,
        state: HostState,
        epoch: int,
        started_log_time_ms: int,
        now_ms: int,
        bounds: Bounds = Bounds(),  # noqa: B008 - frozen
    ) -> "Ledger":
        """Go on from the host's last report: its allocations, with every lease anew and in full."""
        ledger = cls(state.name, epoch, started_log_time_ms, state.claims_topic, state.claims_through, bounds)
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
        if record.allocation.startswith(FOUND_PREFIX):
            self._settle(taken.offset, "ignored", "", record.allocation, "only its driver ends a found instance")
            return []
        if isinstance(record, Confirm):
            return self._move(record.allocation, "confirm", taken.offset)
        return self._move(record.allocation, "release_leased" if record.leased_only else "release", taken.offset)

    def _claim(self, taken: Taken, claim: Claim, now_ms: int) -> list[Change]:
        if (
            claim.mode == "renew"
        ):  # of what is held, whatever the log's clock says: the replica takes its being held for a yes
            return self._renew(taken.offset, claim, now_ms)
        waited = taken.offset < self.claims_end_at_start
        if waited and taken.log_time_ms + claim.lease_ms < self.started_log_time_ms:
            return self._reject(taken.offset, claim, "expired", "its lease ran out before this agent started")
        if any(asked.id in self.allocations for asked in claim.allocations):
            self._settle(taken.offset, "ignored", "", claim.allocations[0].id, "held already")
            return []
        reason, why = self._refusal(claim)
        if reason:
            return self._reject(taken.offset, claim, reason, why)
        return [self._grant(taken.offset, asked, claim, now_ms) for asked in claim.allocations]

    def _renew(self, offset: int, claim: Claim, now_ms: int) -> list[Change]:
        """Start leases anew; the new length is reported, because after a restart the lease is what the report says."""
        lease_ms = min(claim.lease_ms, self.bounds.lease_ms_max)
        changes = []
        for asked in claim.allocations:
            self._move(asked.id, "renew", offset)
            if asked.id not in self.leases:
                continue
            before = after = self.allocations[asked.id]
            if before.lease_ms != lease_ms:
                after = self.allocations[asked.id] = replace(before, lease_ms=lease_ms)
                self._upsert(asked.id)
            self.leases[asked.id] = now_ms + lease_ms
            changes.append(Change(before, after))
        return changes

    def _grant(self, offset: int, asked: Allocation, claim: Claim, now_ms: int) -> Change:
        state, verdict, _ = TRANSITIONS["absent", "claim"]
        lease_ms = min(claim.lease_ms, self.bounds.lease_ms_max)
        held = Allocation(
            id=asked.id,
            request=claim.request,
            index=asked.index,
            instance=asked.instance,
            flavor=asked.flavor,
            project=asked.project,
            user=asked.user,
            kind=asked.kind,
            group=asked.group,
            resources=asked.resources if all(asked.resources.values()) else _without_zeros(asked.resources),
            cells=asked.cells,
            assigned=assign(self.cells, asked.cells, _terms(claim)) if asked.cells else None,
            image=asked.image,
            replaces=asked.replaces,
            becomes=asked.becomes,
            policy=asked.policy,
            state=state,
            building=True,
            lease_ms=lease_ms,
        )
        self._add(held)
        self.leases[held.id] = now_ms + lease_ms
        self._upsert(held.id)
        self._settle(offset, verdict, "", held.id)
        return Change(None, held)

    def _refusal(self, claim: Claim) -> tuple[Reason, str]:
        """Why a claim must not be granted: every check of `fits`, and the compare-and-swap of `strict`.

        What a fresh view would not heal is told first: traits and group, then that the claim is stale.
        """
        if self.status != "enabled":
            return "disabled", f"the host is {self.status}"
        for trait in claim.traits_required:
            if trait not in self.traits:
                return "constraint", f"lacks {trait}"[:128]
        for trait in claim.traits_forbidden:
            if trait in self.traits:
                return "constraint", f"has {trait}"[:128]
        for names in claim.traits_any_of:
            if not any(name in self.traits for name in names):
                return "constraint", f"has none of {', '.join(names)}"[:128]
        group = claim.allocations[0].group
        if claim.group_max and group and self._members(group, claim) + len(claim.allocations) > claim.group_max:
            return "constraint", f"group {group}"[:110] + " is full"
        if claim.mode == "strict" and claim.expected != hashing.to_hex(self.hash):
            return "stale", f"the state is {hashing.to_hex(self.hash)}"
        if claim.host_hash and claim.host_hash != hashing.to_hex(self.host_hash):
            return "stale", "the host itself is another than the one that was ranked"
        return self._overfull(claim)

    def _members(self, group: str, claim: Claim) -> int:
        """Members of a group besides the instances that are claimed for: one that moves or grows does not count where it stands."""
        here = self.groups.get(group, 0)
        if not here or here + len(claim.allocations) <= claim.group_max:
            return here
        moving = {(a.instance, a.project) for a in claim.allocations if a.instance}
        held = (a for a in self.allocations.values() if a.group == group and a.request != claim.request)
        return here - sum((a.instance, a.project) in moving for a in held)

    def _overfull(self, claim: Claim) -> tuple[Reason, str]:
        """What of the host's bounds and room the claim would pass."""
        asked = claim.allocations
        malformed = _malformed(asked, bool(self.cells))
        if malformed:
            return "constraint", malformed
        reason, why = replacing.wrong(self.allocations, asked, claim.threads)
        if reason:
            return reason, why
        old = self.allocations.get(asked[0].replaces)
        if claim.builds_max and self.builds + len(asked) > claim.builds_max:
            return "constraint", f"{self.builds} builds in progress"
        if claim.instances_max and len(self.allocations) + len(asked) - (old is not None) > claim.instances_max:
            return "constraint", f"{len(self.allocations)} instances"
        if (
            len(self.allocations) + len(asked) > ALLOCATIONS_MAX
            or self.bytes + sum(map(_bytes, asked)) > self.bounds.allocation_bytes_max
        ):
            return "full", "its report would pass the record limit"
        reason, why = self._no_room(asked) if old is None else self._no_room_to_grow(old, asked[0])
        return self._no_cells(claim, old) if self.cells and not reason else (reason, why)

    def _no_room_to_grow(self, old: Allocation, asked: Allocation) -> tuple[Reason, str]:
        """The first resource class that has no room for the difference, or would not give all of it to one allocation."""
        whole = asked.becomes
        assert whole is not None, "what replaces another says what it becomes"
        for name, amount in whole.resources.items():
            item, used = self.inventory.get(name), self.used.get(name, 0)
            why = misfit(item, used - old.resources.get(name, 0), amount)
            more = asked.resources.get(name, 0)
            if not why and more and (item is None or used + more > item.capacity):
                why = f"needs {more} more, {max(0, item.capacity - used) if item else 0} free"
            if why:
                return "full", f"{name}: {why}"[:128]
        return "", ""

    def _no_cells(self, claim: Claim, old: Allocation | None) -> tuple[Reason, str]:
        """The first cell that cannot give what is asked of it, each allocation on what those before it leave."""
        cells, terms, ratios = self.cells, _terms(claim), ratios_of(self.inventory)
        whole = claim.allocations[0].becomes
        if old is not None and whole is not None:  # what it becomes must fit where it stands as if that were free
            reason, why = refusal(
                after(cells, old.cells, old.assigned, -1),
                replace(claim.allocations[0], resources=whole.resources, cells=whole.cells),
                terms,
                ratios,
            )
            if reason:
                return reason, why
        for asked in claim.allocations:
            reason, why = refusal(cells, asked, terms, ratios)
            if reason:
                return reason, why
            if len(claim.allocations) > 1:
                cells = after(cells, asked.cells, assign(cells, asked.cells, terms), 1)
        return "", ""

    def _no_room(self, asked: list[Allocation]) -> tuple[Reason, str]:
        """The first resource class that has no room for all that is asked together."""
        limits, used = self.limits, self.used
        if len(asked) > 1:
            used = dict(used)
        for allocation in asked:
            for name, amount in allocation.resources.items():
                had = used.get(name, 0)
                limit = limits.get(name)
                if not (
                    limit is not None
                    and had + amount <= limit[0]
                    and limit[1] <= amount <= limit[2]
                    and amount % limit[3] == 0
                ):  # the rule in words, and for amounts of 0
                    why = misfit(self.inventory.get(name), had, amount)
                    if why:
                        return "full", f"{name}: {why}"[:128]
                if used is not self.used:
                    used[name] = had + amount
        return "", ""

    def _reject(self, offset: int, claim: Claim, reason: Reason, why: str) -> list[Change]:
        for asked in claim.allocations:
            self._settle(offset, "rejected", reason, asked.id, why)
        return []

    def _move(self, allocation_id: str, event: str, offset: int, detail: str = "") -> list[Change]:
        """Send an allocation along the table."""
        before = self.allocations.get(allocation_id)
        state = before.state if before else "absent"
        if event == "confirm" and before is not None and before.replaces:
            state = "leased"  # even one that is active because of a gap: its confirm lets go what it replaces
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
        if after_state == "absent":
            self._remove(before)
            self._drop(allocation_id)
            return [Change(before, None), *self._stands_alone(before)]
        if before.replaces:
            return self._replace(before, offset)
        after = self.allocations[allocation_id] = replace(before, state=after_state)  # neither hash nor room changes
        self._upsert(allocation_id)
        return [Change(before, after)]

    def _replace(self, confirmed: Allocation, offset: int) -> list[Change]:
        """A confirm lets go what the allocation replaces: first that, so that its driver stops before it starts."""
        old = self.allocations.get(confirmed.replaces)
        changes = []
        if old is not None:
            self._settle(offset, "released", "", old.id, f"replaced by {confirmed.id}"[:128])
            self._remove(old)
            self._drop(old.id)
            changes.append(Change(old, None))
        return changes + self._become(confirmed, old, "active")

    def _stands_alone(self, gone: Allocation) -> list[Change]:
        """What was to replace an allocation that went by itself is whole from now on."""
        successor = self.allocations.get(self.successors.get(gone.id, ""))
        return [] if successor is None else self._become(successor, gone, successor.state)

    def _become(self, part: Allocation, old: Allocation | None, state: State) -> list[Change]:
        whole = replace(replacing.alone(part, old, self.cells), state=state)
        self._remove(part)
        self._add(whole)
        self._upsert(whole.id)
        return [Change(part, whole)]

    def _up(self, allocation_id: str) -> list[Change]:
        before = self.allocations.get(allocation_id)
        if before is None or not before.building:
            return []
        after = self.allocations[allocation_id] = replace(before, building=False)
        self.builds -= 1
        self._upsert(allocation_id)
        return [Change(before, after)]

    def _found(self, found: Found) -> list[Change]:
        allocation = Allocation(
            id=found_id(found.instance),
            instance=found.instance,
            flavor=_shown(found.flavor),
            project=_shown(found.project),
            user=_shown(found.user),
            kind=_shown(found.kind),
            group=_shown(found.group),
            resources=found.resources,
            cells=found.cells,
            assigned=found.assigned,
            state="active",
            origin="found",
        )
        before = self.allocations.get(allocation.id)
        if before == allocation:
            return []
        if before is not None:
            self._remove(before)
        self._add(allocation)
        self._upsert(allocation.id)
        return [Change(before, allocation)]

    def _configure(self, to: Configure) -> None:
        self.inventory = self.inventory if to.inventory is None else to.inventory
        self.limits = {n: (i.capacity, i.min_unit, i.unit_max, i.step_size) for n, i in self.inventory.items()}
        self.traits = self.traits if to.traits is None else tuple(sorted(set(to.traits)))
        self.labels = self.labels if to.labels is None else to.labels
        self.status = self.status if to.status is None else to.status
        self.gap = self.gap and not to.gap_cleared
        if to.cells is not None:
            self._report_cells(to.cells)
        part = hashing.host_part(self.inventory, self.traits, self.labels, self.status, self.reported_cells)
        self.hash = (self.hash - self.host_hash + part) & hashing.MASK
        self.host_hash = part

    def _report_cells(self, reported: Mapping[str, HostCell]) -> None:
        self.bytes += _cells_bytes(reported) - _cells_bytes(self.reported_cells)
        self.reported_cells, self.cells = reported, cells_of(reported)
        for allocation in self.allocations.values():
            self.cells = after(self.cells, allocation.cells, allocation.assigned, 1)

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
        if allocation.replaces:
            self.successors[allocation.replaces] = allocation.id
        self._count(allocation, 1)

    def _remove(self, allocation: Allocation) -> None:
        del self.allocations[allocation.id]
        if allocation.replaces:
            del self.successors[allocation.replaces]
        self._count(allocation, -1)

    def _count(self, allocation: Allocation, sign: int) -> None:
        tail = hashing.tail_bytes(allocation.resources, allocation.group, allocation.cells)
        self.hash = (self.hash + sign * hashing.id_hash(allocation.id, tail)) & hashing.MASK
        self.bytes += sign * _bytes(allocation)
        self.builds += sign * allocation.building
        if allocation.cells and self.cells:
            self.cells = after(self.cells, allocation.cells, allocation.assigned, sign)
        used = self.used
        for name, amount in allocation.resources.items():
            used[name] = used.get(name, 0) + sign * amount
        if allocation.group:
            left = self.groups.get(allocation.group, 0) + sign
            if left:
                self.groups[allocation.group] = left
            else:
                del self.groups[allocation.group]

    def _upsert(self, allocation_id: str) -> None:
        """The next delta carries this allocation; an id that went and came again is no longer gone."""
        self.upserted[allocation_id] = None
        self.removed.pop(allocation_id, None)

    def _drop(self, allocation_id: str) -> None:
        self.upserted.pop(allocation_id, None)
        if allocation_id in self.base_ids:
            self.removed[allocation_id] = None

    def _settle(self, offset: int, verdict: Verdict, reason: Reason, allocation: str = "", detail: str = "") -> None:
        if len(self.settled) >= self.bounds.settled_max:
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
        self.base_host = (self.inventory, self.traits, self.labels, self.reported_cells)
        self.base_host_hash = self.host_hash
        self.base_status = (self.status, self.gap)
        self.upserted, self.removed = {}, {}
        settled, omitted = self._told()
        return Snapshot(
            host=self.host,
            epoch=self.epoch,
            generation=self.generation,
            claims_topic=self.claims_topic,
            claims_through=self.claims_through,
            hash=hashing.to_hex(self.hash),
            agent=agent[:128],
            status=self.status,
            gap=self.gap,
            inventory=dict(self.inventory),
            traits=self.traits,
            labels=dict(self.labels),
            allocations=list(self.allocations.values()),
            settled=settled,
            settled_omitted=omitted,
            load=self.load,
            cells=dict(self.reported_cells),
        )

    def delta(self) -> Delta:
        """The next report as what differs from the snapshot it rests on."""
        self.generation += 1
        settled, omitted = self._told()
        allocations = self.allocations
        told = Delta(
            host=self.host,
            epoch=self.epoch,
            generation=self.generation,
            base_generation=self.base,
            claims_topic=self.claims_topic,
            claims_through=self.claims_through,
            hash=hashing.to_hex(self.hash),
            upserts=[allocations[i] for i in self.upserted],
            removed=list(self.removed),
            settled=settled,
            settled_omitted=omitted,
            load=self.load,
        )
        if (self.host_hash, self.gap) != (self.base_host_hash, self.base_status[1]):
            self._host_changes(told)
        return told

    def _host_changes(self, told: Delta) -> None:
        """What of the host itself differs from the snapshot that the delta rests on."""
        inventory, traits, labels, cells = self.base_host
        status, gap = self.base_status
        told.status = None if self.status == status else self.status
        told.gap = None if self.gap == gap else self.gap
        told.inventory = None if self.inventory == inventory else dict(self.inventory)
        told.traits = None if self.traits == traits else self.traits
        told.labels = None if self.labels == labels else dict(self.labels)
        told.cells = None if self.reported_cells == cells else dict(self.reported_cells)

    def _told(self) -> tuple[list[Settled], int]:
        told, omitted = self.settled, self.settled_omitted
        self.settled, self.settled_omitted = [], 0
        return told, omitted


def found_id(instance: str) -> str:
    """Allocation id of an instance that the driver found: a name space of its own, so that it never meets a replica's.

    A name that would pass the bound of an id ends in its digest, so that two of them never become one.
    """
    if len(FOUND_PREFIX) + len(instance) <= 128:
        return FOUND_PREFIX + instance
    return f"{FOUND_PREFIX}{instance[:96]}~{hashing.digest64(instance.encode()):016x}"


def _malformed(asked: Iterable[Allocation], has_cells: bool) -> str:
    """What is wrong with a claim's allocations whatever the host, or "": names go into reports that all must be able to read."""
    ids = set()
    for allocation in asked:
        if allocation.id in ids or not allocation.id:
            return "an allocation without an id" if not allocation.id else "one allocation id twice"
        if allocation.id.startswith(FOUND_PREFIX):
            return f"allocation ids beginning with {FOUND_PREFIX} are of found instances"
        if allocation.cells and not has_cells:
            return "the host has no cells"
        ids.add(allocation.id)
        if not _names(allocation).isprintable():
            return "a name with control characters"
    return ""


def _terms(claim: Claim) -> Terms:
    return Terms(claim.threads, claim.shares)


def _cells_bytes(cells: Mapping[str, HostCell]) -> int:
    """Bytes of a host's cells in a snapshot; without them a ledger counts as it always did."""
    return len(encode(dict(cells))) if cells else 0


def _without_zeros(resources: Mapping[str, int]) -> dict[str, int]:
    """Amounts of 0 are neither hashed nor held, so that their names need not be reported."""
    return {name: amount for name, amount in resources.items() if amount}


def _names(a: Allocation) -> str:
    return "".join((a.id, a.request, a.instance, a.flavor, a.project, a.user, a.kind, a.group, a.replaces, *a.image))


def _shown(name: str) -> str:
    """A driver's name for something, fit for a report: whatever runs must be counted, so what nobody may read gives way."""
    return name if name.isprintable() else "".join(c if c.isprintable() else "?" for c in name)


def _bytes(allocation: Allocation) -> int:
    """Bytes of an allocation in a snapshot, from above: 4 a character of a name, 300 for all keys, 90 for a resource class."""
    there = 300 + 4 * len(_names(allocation)) + 90 * len(allocation.resources)
    if allocation.replaces:  # and what it becomes, which may be all that it will be
        there += 100 + 4 * len(allocation.replaces) + len(encode(allocation.becomes)) + 90 * 32
    return there + len(encode((allocation.cells, allocation.assigned))) if allocation.cells else there
