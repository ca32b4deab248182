"""Bugs planted in ledgers, agents and the fold that they share with readers. Each function takes one sentence out."""

from typing import Any

from msgspec.structs import replace

from commonplace.core import hashing, hosts, keeper, write_ahead
from commonplace.core.catalog import Catalog
from commonplace.core.claims import Claims
from commonplace.core.codec import Bad, decode
from commonplace.core.host_keys import Key, delta_key, snapshot_key
from commonplace.core.hosts import SUPERSEDED, HostState
from commonplace.core.keeper import Keeper
from commonplace.core.keeper_events import Send
from commonplace.core.kept import OPENING, SERVING
from commonplace.core.ledger import Ledger
from commonplace.core.ledger_events import Lapse
from commonplace.core.ledger_reports import ReportedHoldings
from commonplace.core.ledgers import Ledgers
from commonplace.core.records.hosts import Delta, Start
from commonplace.core.resources import RATIO_SCALE, Inventory
from commonplace.sim.agents import AgentProcess
from commonplace.sim.patches import Patch

# --- ledger ----------------------------------------------------------------------------------------------------------


def ignore_expected(patch: Patch) -> None:
    """The ledger grants a strict claim on whatever state it finds."""
    patch.wrap(
        Ledger,
        "_refusal",
        lambda f, self, claim: f(self, replace(claim, mode="fits") if claim.mode == "strict" else claim),
    )


def ignore_reserved(patch: Patch) -> None:
    """Capacity is counted without the reserved share, by everybody."""
    patch.put(
        Inventory, "capacity", property(lambda self: self.total * self.allocation_ratio_thousandths // RATIO_SCALE)
    )


def incremental_delta(patch: Patch) -> None:
    """A delta tells what changed since the delta before, and not since the snapshot."""

    def delta(original: Any, self: ReportedHoldings) -> Any:
        told = original(self)
        self.upserted, self.removed = {}, {}
        return told

    patch.wrap(ReportedHoldings, "delta", delta)


def lease_by_replica_clock(patch: Patch) -> None:
    """A lease ends when the clock of the replica that claimed says so."""
    ends: dict[str, int] = {}

    def claim(original: Any, self: Claims, row: Any, work: Any, index: int, now_ms: int) -> None:
        original(self, row, work, index, now_ms)
        ends[work.slots[index].pending.allocation_id] = now_ms + work.lease_ms

    def grant(original: Any, self: Ledger, offset: int, asked: Any, claim: Any, now_ms: int) -> Any:
        change = original(self, offset, asked, claim, now_ms)
        self.leases[asked.id] = ends.get(asked.id, self.leases[asked.id])
        return change

    patch.wrap(Claims, "claim", claim)
    patch.wrap(Ledger, "_grant", grant)


def lease_longer(patch: Patch) -> None:
    """A lease lasts four times as long as the claim asks for."""

    def grant(original: Any, self: Ledger, offset: int, asked: Any, claim: Any, now_ms: int) -> Any:
        change = original(self, offset, asked, claim, now_ms)
        self.leases[asked.id] += 3 * (self.leases[asked.id] - now_ms)
        return change

    patch.wrap(Ledger, "_grant", grant)


def lapse_in_silence(patch: Patch) -> None:
    """A lapsed allocation is gone from the report, and no settled entry says why."""

    def receive(original: Any, self: Ledger, event: Any, now_ms: int) -> Any:
        told = len(self.settled)
        changes = original(self, event, now_ms)
        if isinstance(event, Lapse):
            del self.settled[told:]
        return changes

    patch.wrap(Ledger, "receive", receive)


def hash_without_size(patch: Patch) -> None:
    """An allocation's hash leaves its resources out, everywhere."""
    patch.wrap(hashing, "tail_of", lambda f, resources, group, cells: f((), group, cells))


def hash_with_state(patch: Patch) -> None:
    """The ledger hashes whether an allocation is confirmed."""

    def move(original: Any, self: Ledger, allocation_id: str, event: str, *rest: Any) -> Any:
        changes = original(self, allocation_id, event, *rest)
        if changes and event == "confirm":
            self.hash = (self.hash + 1) & hashing.MASK
        return changes

    patch.wrap(Ledger, "_move", move)


def ignore_group_max(patch: Patch) -> None:
    """The ledger does not check how many of a group it holds."""
    patch.wrap(Ledger, "_refusal", lambda f, self, claim: f(self, replace(claim, group_max=0)))


def ignore_bounds(patch: Patch) -> None:
    """The ledger does not check how many instances and builds it may have."""
    patch.wrap(Ledger, "_refusal", lambda f, self, claim: f(self, replace(claim, builds_max=0, instances_max=0)))


# --- start and restart -----------------------------------------------------------------------------------------------


def any_start_is_mine(patch: Patch) -> None:
    """An agent takes any start record for its own."""

    def mine(original: Any, kept: Any, key: Any, value: bytes | None) -> bool:
        return key.kind == "start" and value is not None and isinstance(decode("hosts", value), Start)

    patch.wrap(keeper, "is_own_start", mine)


def forget_delta(patch: Patch) -> None:
    """A starting agent goes on from the snapshot alone."""

    def replay(original: Any, kept: Any, parsed: Any, *rest: Any) -> None:
        if parsed.kind != "delta":
            original(kept, parsed, *rest)

    patch.wrap(keeper, "replay", replay)


def resume_at_end(patch: Patch) -> None:
    """A starting agent resumes its claims at their end."""

    def resume(original: Any, ledger: Ledger, at: Any) -> Any:
        alarm = original(ledger, at)
        ledger.claims_through = at.high - 1
        return alarm

    patch.wrap(keeper, "resume", resume)


def keep_watermark(patch: Patch) -> None:
    """A starting agent keeps its watermark although the claims topic was made anew."""

    def resume(original: Any, ledger: Ledger, at: Any) -> Any:
        if ledger.claims_topic in ("", at.topic_id):
            return original(ledger, at)
        ledger.claims_topic = at.topic_id
        return ""

    patch.wrap(keeper, "resume", resume)


def new_host_from_start(patch: Patch) -> None:
    """A host without a report takes the claims from their beginning."""

    def resume(original: Any, ledger: Ledger, at: Any) -> Any:
        new = not ledger.claims_topic
        alarm = original(ledger, at)
        if new:
            ledger.claims_through = at.low - 1
        return alarm

    patch.wrap(keeper, "resume", resume)


def no_gap(patch: Patch) -> None:
    """A starting agent takes claims that retention took for claims that never were."""
    patch.put(Ledger, "assume_active", lambda self: None)


def serve_before_read_back(patch: Patch) -> None:
    """A starting agent takes claims before it has read back its first snapshot."""

    def resume(original: Any, self: Keeper, kept: Any, *rest: Any) -> None:
        original(self, kept, *rest)
        kept.phase = SERVING
        self._ready(kept)

    patch.wrap(Keeper, "_resume", resume)


def tombstone_when_acknowledged(patch: Patch) -> None:
    """An agent deletes the keys of earlier epochs when its snapshot is acknowledged."""

    def acknowledge(original: Any, self: AgentProcess, entry: Any, offset: int, *rest: Any) -> None:
        original(self, entry, offset, *rest)
        kept = (
            self.keeper.hosts.get(entry.key.decode().partition("/")[0])
            if offset >= 0 and entry.kind == "snapshot"
            else None
        )
        if kept is None or kept.phase != OPENING or kept.ledger is None:
            return
        for epoch in sorted(kept.old_epochs - {kept.ledger.epoch}):
            for key in (snapshot_key(kept.spec.name, epoch), delta_key(kept.spec.name, epoch)):
                self.do([Send(kept.partition, key, None, kept.spec.name)])

    patch.wrap(AgentProcess, "acknowledge", acknowledge)


def heed_no_operator(patch: Patch) -> None:
    """A host stays enabled whatever operators say of it."""
    patch.wrap(Ledgers, "status", lambda f, self, host: "enabled")


# --- claims and leases -----------------------------------------------------------------------------------------------


def watermark_ahead(patch: Patch) -> None:
    """A report says that claims are taken which the ledger takes only after it."""

    def claims_read(original: Any, self: Ledgers, event: Any, now_ms: int) -> None:
        before = {}
        for host, kept in self.hosts.items():
            if (
                kept.partition == event.partition
                and kept.phase == SERVING
                and kept.ledger is not None
                and kept.read_base
            ):
                before[host] = kept.ledger.claims_through
                kept.ledger.claims_through = max(before[host], event.position - 1)
                self.log.dirty[host] = None
        self.log.report_dirty(now_ms)
        for host, through in before.items():
            ledger = self.hosts[host].ledger
            if ledger is not None:
                ledger.claims_through = through
        original(self, event, now_ms)

    patch.wrap(Ledgers, "claims_read", claims_read)


def lapse_unread(patch: Patch) -> None:
    """A lease lapses without reading the claims to an end captured after it."""

    def tick(original: Any, self: Ledgers, now_ms: int) -> None:
        for partition, moments in self.leases.moments.items():
            if moments and moments[0] <= now_ms and partition in self.claims_position:
                self.leases.barriers[partition] = (now_ms, 0)
                self._lapse(partition, now_ms)
        original(self, now_ms)

    patch.wrap(Ledgers, "tick", tick)


# --- fold and keys ---------------------------------------------------------------------------------------------------


def accept_old_epochs(patch: Patch) -> None:
    """Readers compare generations only."""

    def void(original: Any, self: HostState, epoch: int, generation: int) -> bool:
        return epoch == self.epoch and generation <= self.generation

    patch.wrap(HostState, "void", void)


def no_fence(patch: Patch) -> None:
    """Readers go on with an epoch although a later start record stands."""

    def start(original: Any, self: HostState, offset: int, removed: bool, *rest: Any) -> Any:
        return original(self, offset, removed, *rest) if removed or self.generation < 0 else SUPERSEDED

    patch.wrap(HostState, "start", start)


def ignore_removal(patch: Patch) -> None:
    """Tombstones and the mark of a removed host change nothing for those who read them."""
    patch.wrap(HostState, "tombstone", lambda f, self, key: SUPERSEDED)
    patch.wrap(Catalog, "_delete", lambda f, self, kind, name: (name if kind == "host" else "", None, ""))
    patch.wrap(HostState, "start", lambda f, self, offset, removed, *rest: f(self, offset, False, *rest))


def share_key(patch: Patch) -> None:
    """Deltas stand under the key of their snapshot, so that compaction takes it."""
    patch.put(write_ahead, "delta_key", snapshot_key)
    _read_by_content(patch)


def one_key_for_epochs(patch: Patch) -> None:
    """Snapshots of all epochs stand under one key, deltas under another."""
    patch.put(write_ahead, "snapshot_key", lambda host, epoch: f"{host}/0".encode())
    patch.put(write_ahead, "delta_key", lambda host, epoch: f"{host}/0/delta".encode())
    _read_by_content(patch)


def _read_by_content(patch: Patch) -> None:
    """Readers who do not mind which key a report stands under."""

    def read(original: Any, key: Any, offset: int, value: bytes) -> Any:
        record = decode("hosts", value)
        if isinstance(record, Bad | Start):
            return original(key, offset, value)
        kind = "delta" if isinstance(record, Delta) else "snapshot"
        return original(Key(key.host, kind, record.epoch), offset, value)

    patch.wrap(hosts, "read", read)
