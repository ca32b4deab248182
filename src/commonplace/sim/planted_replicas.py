"""Bugs planted in replicas. Each function takes one sentence out."""

from typing import Any

from msgspec.structs import replace

from commonplace.core.admission import Admission
from commonplace.core.claims import Claims
from commonplace.core.deciding import Decider
from commonplace.core.deliveries import Deliveries
from commonplace.core.group_turns import GroupTurns
from commonplace.core.hashing import tail_bytes
from commonplace.core.history import History
from commonplace.core.hosts import HostState
from commonplace.core.placing import Placer
from commonplace.core.readback import Readback
from commonplace.core.records.decisions import Decision, Placed, Position
from commonplace.core.replica import Replica
from commonplace.core.tombstones import Tombstones
from commonplace.core.work import OPEN, Held, Work
from commonplace.sim.patches import Patch
from commonplace.sim.replicas import ReplicaProcess
from commonplace.sim.world import World

FAR_MS = 1 << 60

# --- decide ----------------------------------------------------------------------------------------------------------


def decide_at_delivery(patch: Patch) -> None:
    """A decision is written once the claim is delivered, before a report shows the grant."""

    def delivered(original: Any, self: Claims, allocation_id: str, offset: int, now_ms: int) -> None:
        original(self, allocation_id, offset, now_ms)
        pending = self.pending.get(allocation_id)
        if pending is None or offset < 0 or pending.work.state != OPEN:
            return
        work = pending.work
        if all(slot.held is not None or (slot.pending is not None and slot.pending.offset >= 0) for slot in work.slots):
            _say_placed(self._held.__self__, work, now_ms)  # type: ignore[attr-defined]  # a method of the decider

    patch.wrap(Claims, "delivered", delivered)


def _say_placed(decider: Decider, work: Work, now_ms: int) -> None:
    """Answer with whatever the slots hold or have claimed."""
    placed = []
    for index, slot in enumerate(work.slots):
        if slot.held is not None:
            where = (slot.held.row, slot.held.allocation, slot.held.offset)
        elif slot.pending is not None:
            where = (slot.pending.row, slot.pending.allocation_id, slot.pending.row.offset)
        else:
            continue
        grant = Position(where[0].partition, max(0, where[2]))
        placed.append(
            Placed(
                index=index, instance=work.instance(index), host=where[0].host.name, allocation=where[1], grant=grant
            )
        )
    work.placed = True
    decision = Decision(
        request=work.build.id,
        result="placed",
        content=work.content,
        position=Position(work.partition, work.offsets[0]),
        replica=decider.placer.name,
        flavor=work.build.flavor,
        count=work.build.count,
        placed=placed,
        confirm_within_ms=work.lease_ms // 2,
    )
    decider._sent(work, decision, now_ms)


def place_a_part(patch: Patch) -> None:
    """A request that got only some of its instances is answered with those."""

    def close(original: Any, self: Decider, work: Work, result: str, reason: str, *rest: Any) -> None:
        if reason != "cancelled" and any(slot.held is not None for slot in work.slots):
            for slot in work.slots:
                slot.pending = None
            _say_placed(self, work, rest[-1])
        else:
            original(self, work, result, reason, *rest)

    patch.wrap(Decider, "close", close)


def claim_half(patch: Patch) -> None:
    """A claim takes half of what the flavor asks for."""

    def begin(original: Any, self: Work, *args: Any) -> None:
        original(self, *args)
        self.resources = {name: max(1, amount // 2) for name, amount in self.resources.items()}
        self.allocation_tail = tail_bytes(self.resources, self.build.group, {})

    patch.wrap(Work, "__init__", begin)


def answer_unrenewed(patch: Patch) -> None:
    """A redelivered request is answered with a leased allocation as it is found."""

    def take_up(original: Any, self: Admission, work: Work, held: list[Any], now_ms: int) -> None:
        for row, allocation in held:
            slot = work.slots[allocation.index] if allocation.index < len(work.slots) else None
            if slot is None or slot.held is not None:
                work.strays.append((row, allocation.id))
            else:
                slot.held = Held(row, allocation.id, allocation.instance, row.offset, now_ms, work.lease_ms, True)

    patch.wrap(Admission, "_take_up", take_up)


def commit_when_sent(patch: Patch) -> None:
    """The offset of a request is committed once its decision is sent."""

    def deliver(
        original: Any, self: Decider, partition: int, request: str, value: bytes, offsets: list[int], *rest: Any
    ) -> None:
        original(self, partition, request, value, offsets, *rest)
        self._deliveries.done(partition, offsets)

    patch.wrap(Decider, "deliver", deliver)


def call_at_once(patch: Patch) -> None:
    """The next member of a group is ranked before the decision on the one before it was read back."""
    patch.wrap(GroupTurns, "join", lambda f, *args: None)


def reuse_ids(patch: Patch) -> None:
    """A restarted replica counts its allocations from 1 again, under the same nonce."""

    def begin(original: Any, self: Placer, name: str, nonce: str, *rest: Any) -> None:
        original(self, name, name, *rest)

    patch.wrap(Placer, "__init__", begin)


# --- what others decided ---------------------------------------------------------------------------------------------


def forget_history(patch: Patch) -> None:
    """A new owner drops the decisions that it read before it serves."""

    def history_read(original: Any, self: Admission, event: Any, now_ms: int) -> None:
        self._book.history.drop(event.partition)
        original(self, event, now_ms)

    patch.wrap(Admission, "history_read", history_read)


def forget_too_soon(patch: Patch) -> None:
    """A replica remembers decisions for a quarter of the idempotency window."""
    patch.wrap(History, "__init__", lambda f, self, kept_max, window_ms: f(self, kept_max, window_ms // 4))


def read_history_late(patch: Patch) -> None:
    """A new owner reads the decisions from their end."""
    patch.wrap(ReplicaProcess, "_read_history", lambda f, self, effect: f(self, replace(effect, from_ms=FAR_MS)))


def keep_what_is_lost(patch: Patch) -> None:
    """A replica goes on with the requests of a partition that it knows to be another's."""
    patch.wrap(Replica, "_lost", lambda f, *args: None)


def rebuild_without_history(patch: Patch) -> None:
    """A replica that dropped its state owns partitions again and reads their decisions from the end."""

    def read_history(original: Any, self: ReplicaProcess, effect: Any) -> None:
        original(self, replace(effect, from_ms=FAR_MS) if self.life > 1 else effect)

    patch.wrap(ReplicaProcess, "_read_history", read_history)


def say_once(patch: Patch) -> None:
    """An acknowledged decision that is not read back is not written again."""

    def deliver(
        original: Any, self: Decider, partition: int, request: str, value: bytes, offsets: list[int], *rest: Any
    ) -> None:
        if offsets:
            original(self, partition, request, value, offsets, *rest)

    patch.wrap(Decider, "deliver", deliver)


def release_no_loser(patch: Patch) -> None:
    """What an effective decision of another replica does not name stays until it lapses."""
    patch.wrap(Deliveries, "release_losers", lambda f, *args: None)


def sweep_the_winner(patch: Patch) -> None:
    """Losers are told by one's own decision, not by the effective one."""

    def effective(original: Any, self: Readback, work: Work, other: Decision | None) -> None:
        if other is not None:
            losers = [(p.host, p.allocation) for p in other.placed]
            self._deliveries.release_losers(losers, work.build.id, work.partition)
        original(self, work, other)

    patch.wrap(Readback, "_effective", effective)


def release_when_sent(patch: Patch) -> None:
    """Losers are released when the decision is sent, not when it was read back."""

    def sent(original: Any, self: Decider, work: Work, decision: Decision, now_ms: int) -> None:
        original(self, work, decision, now_ms)
        named = {placed.allocation for placed in decision.placed}
        losers = [(slot.held.row.host.name, slot.held.allocation) for slot in work.slots if slot.held is not None]
        losers += [(row.host.name, allocation) for row, allocation in work.strays]
        self._deliveries.release_losers(
            [loser for loser in losers if loser[1] not in named], work.build.id, work.partition
        )

    patch.wrap(Decider, "_sent", sent)


# --- view ------------------------------------------------------------------------------------------------------------


def keep_overlay(patch: Patch) -> None:
    """A rejected claim stays laid over its host."""

    def rejected(original: Any, self: Claims, pending: Any, reason: str) -> None:
        lift = self.view.lift
        self.view.lift = lambda row, overlay: row.pending.remove(overlay)  # type: ignore[method-assign]
        try:
            original(self, pending, reason)
        finally:
            self.view.lift = lift  # type: ignore[method-assign]

    patch.wrap(Claims, "_rejected", rejected)


def ignore_base(patch: Patch) -> None:
    """A reader applies a delta on whatever snapshot it holds."""

    def delta(original: Any, self: HostState, record: Any, *rest: Any) -> Any:
        return original(self, replace(record, base_generation=self.base_generation), *rest)

    patch.wrap(HostState, "delta", delta)


def believe_any_hash(patch: Patch) -> None:
    """A reader believes a report whose content does not hash to what it says."""

    def fold(original: Any, self: HostState, *args: Any) -> Any:
        outcome = original(self, *args)
        if self.stale.startswith("hash "):
            self.stale = ""
        return outcome

    patch.wrap(HostState, "snapshot", fold)
    patch.wrap(HostState, "delta", fold)


def serve_early(patch: Patch) -> None:
    """A replica serves before it has read the hosts to the ends captured at its start."""

    def catching_up(original: Any, self: ReplicaProcess, now: int) -> None:
        self.ends = {}
        original(self, now)

    patch.wrap(ReplicaProcess, "_catching_up", catching_up)


def never_stale(patch: Patch) -> None:
    """A replica that was away for longer than tombstones last goes on as if nothing was."""

    def begin(original: Any, self: World, *args: Any) -> None:
        original(self, *args)
        self.stale_after_ms = FAR_MS

    patch.wrap(World, "__init__", begin)
    patch.put(Tombstones, "missed", lambda *args: False)
