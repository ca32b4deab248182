"""A scheduler replica: admit, rank, claim, settle, decide; events in, effects out (rules 1, 4, 6, 7).

    requests ──Admission──▶ Placer: rank, claim, settle ──every instance held──▶ Decider: sent ──acknowledged──▶ offset committed
                                                                                    │
                                                        Readback: the first decision in log order is effective;
                                                        what it does not name of the request's allocations is released

`receive` is the only place that changes a replica. It decides nothing before `CaughtUp`, and nothing on a partition whose earlier
decisions it has not read.
"""

from collections.abc import Sequence
from typing import Any

from commonplace.core.admission import Admission
from commonplace.core.book import Book
from commonplace.core.catalog import Catalog
from commonplace.core.deciding import Decider
from commonplace.core.deliveries import Deliveries
from commonplace.core.history import History, Part
from commonplace.core.host_keys import parse_key
from commonplace.core.peers import Peers
from commonplace.core.readback import Readback
from commonplace.core.records.replicas import ReplicaReport
from commonplace.core.replica_events import (
    Assigned,
    CaughtUp,
    ClaimDelivered,
    Commit,
    ControlRead,
    DecisionDelivered,
    DecisionsRead,
    Effect,
    HistoryRead,
    HostsRead,
    Lost,
    PeersRead,
    Raw,
    ReleaseDelivered,
    ReplicaSettings,
    RequestsRead,
    Tick,
    Turn,
    aside,
)
from commonplace.core.view import View

DEADLINE_CHECK_MS = 200
LIVENESS_CHECK_MS = 1_000
STAMPED_A_TICK = 128
"""Hosts whose share of the state digest is worked out at each tick: a report that found thousands to do would stop the loop for 12 ms."""


class Replica:
    """One scheduler process's state. Times are ms of its own monotonic clock, log times are the broker's."""

    def __init__(
        self, name: str, nonce: str, hosts_partitions: int, claims_topic: str, settings: ReplicaSettings
    ) -> None:
        self.name, self.settings = name, settings
        self.view = View(hosts_partitions)
        self.catalog = Catalog(settings.pool)
        self.folded: dict[int, int] = {}  # partition of `hosts` → offset of the last record read
        self.peers = Peers(name)
        self.book = Book(History(settings.decisions_kept_max, settings.idempotency_window_ms))
        self.deliveries = Deliveries(self._emit, self.book.parts, hosts_partitions)
        self.decider = Decider(
            name, nonce, self.view, self.catalog, self.book, self.deliveries, settings, claims_topic, self.folded,
            self._emit,
        )  # fmt: skip
        self.placer = self.decider.placer
        self.claims = self.placer.claims
        self.ready = False
        self._checked_ms = self._liveness_ms = 0
        self._staged: dict[tuple[int, bytes], Raw] = {}
        self._effects: list[Effect] = []
        admission = Admission(
            name, self.view, self.catalog, self.book, self.decider, self.deliveries, settings, self._emit
        )
        readback = Readback(self.book, self.decider, self.deliveries, self.folded, self._emit)
        self._handlers: dict[type, Any] = {
            HostsRead: self._hosts,
            ControlRead: self._control,
            PeersRead: self._peers,
            CaughtUp: self._caught_up,
            Assigned: self._assigned,
            Lost: self._lost,
            RequestsRead: admission.requests,
            DecisionsRead: readback.decisions,
            HistoryRead: admission.history_read,
            ClaimDelivered: self._claim_delivered,
            DecisionDelivered: self.deliveries.decided,
            ReleaseDelivered: self.deliveries.released,
            Turn: self._turn,
            Tick: self._tick,
        }

    def receive(self, event: Any, now_ms: int) -> list[Effect]:
        """Take one event; returns what the shell must do, in order."""
        self.decider.now_ms = now_ms
        self._handlers[type(event)](event, now_ms)
        effects, self._effects = self._effects, []
        return effects

    def receive_all(self, events: Sequence[Any], now_ms: int) -> list[Effect]:
        """Take events in order, as `receive` would one by one."""
        self.decider.now_ms = now_ms
        handlers = self._handlers
        for event in events:
            handlers[type(event)](event, now_ms)
        effects, self._effects = self._effects, []
        return effects

    def _emit(self, effect: Effect) -> None:
        self._effects.append(effect)

    # -- state --------------------------------------------------------------------------------------------------------------------------

    def _hosts(self, event: HostsRead, now_ms: int) -> None:
        if event.records:
            self.folded[event.partition] = event.records[-1][0]
        if self.ready:
            self._fold_hosts(event.partition, event.records, now_ms)
        else:
            self._stage(event.partition, event.records, now_ms)

    def _stage(self, partition: int, records: Sequence[Raw], now_ms: int) -> None:
        """While catching up keep the last record of each key, as compaction would: only what is left of it is folded."""
        staged = self._staged
        for record in records:
            key = record[2]
            # popped, so that the order stays that of the log
            before = staged.pop((partition, key), None) if key is not None else None
            if before is not None and parse_key(key) is not None:
                self.view.outcomes["superseded"] += 1
            elif before is not None:
                self._fold_hosts(partition, [before], now_ms)  # of no host: nothing takes its place unseen
            if key is None:
                self._fold_hosts(partition, [record], now_ms)
            else:
                staged[partition, key] = record

    def _fold_hosts(self, partition: int, records: Sequence[Raw], now_ms: int) -> None:
        fold, settle = self.view.fold, self.claims.settle
        for record in records:
            row, reason = fold(partition, record[0], record[1], record[2], record[3], now_ms)
            if reason:
                self._effects.append(aside("hosts", partition, record, reason))
            elif row is not None and (row.pending or row.renewals or row.host.fresh):
                settle(row, now_ms)

    def _control(self, event: ControlRead, now_ms: int) -> None:
        for record in event.records:
            host, said, reason = self.catalog.fold(record[2], record[3], record[1])
            if reason:
                self._effects.append(aside("control", 0, record, reason))
            elif host:
                self.view.control(said, host)

    def _peers(self, event: PeersRead, now_ms: int) -> None:
        for record, reason in self.peers.fold(event.records, now_ms):
            self._effects.append(aside("replicas", 0, record, reason))

    def _caught_up(self, event: CaughtUp, now_ms: int) -> None:
        staged, self._staged = self._staged, {}
        for place in list(staged):  # each goes as it is folded, so that its memory is there for what comes of it
            self._fold_hosts(place[0], [staged.pop(place)], now_ms)
        self.ready = True
        self.view.liveness(self.settings.liveness_timeout_ms, now_ms)

    # -- partitions ---------------------------------------------------------------------------------------------------------------------

    def _assigned(self, event: Assigned, now_ms: int) -> None:
        assert self.ready, "a replica joins its group only once it has caught up"
        self.book.parts[event.partition] = Part(event.end)

    def _lost(self, event: Lost, now_ms: int) -> None:
        """Stop at once: what was claimed lapses by itself unless the new owner takes it up."""
        if self.book.drop(event.partition):
            self.deliveries.drop(event.partition)

    # -- turns --------------------------------------------------------------------------------------------------------------------------

    def _claim_delivered(self, event: ClaimDelivered, now_ms: int) -> None:
        self.claims.delivered(event.allocation, event.offset, now_ms)

    def _turn(self, event: Turn, now_ms: int) -> None:
        if self.ready:
            for work in self.book.turns.due(self.folded):
                self.placer.enqueue(work)
            self.placer.turn(now_ms)
        for partition, part in self.book.parts.items():
            committed = part.undecided.committed
            if committed > part.committed:
                part.committed = committed
                self._effects.append(Commit(partition, committed))

    def _tick(self, event: Tick, now_ms: int) -> None:
        self.deliveries.send_again(now_ms)
        if now_ms - self._checked_ms >= DEADLINE_CHECK_MS:
            self._checked_ms = now_ms
            self.claims.timeouts(now_ms)
            self.decider.expire(now_ms)
        self.view.stamp(STAMPED_A_TICK)
        if self.ready and now_ms - self._liveness_ms >= LIVENESS_CHECK_MS:
            self._liveness_ms = now_ms
            self.view.liveness(self.settings.liveness_timeout_ms, now_ms)
            self.book.history.forget_old()
            self.book.forget_rejected(now_ms - self.settings.idempotency_window_ms, self.deliveries.requests)
            live = self.peers.live(now_ms, self.view.newest_log_time_ms, self.settings.peer_timeout_ms)
            self.peers.reshard(self.view, live)

    # -- reading ------------------------------------------------------------------------------------------------------------------------

    def report(self, state: str, positions: dict[str, int]) -> ReplicaReport:
        """This replica's registration and cycle report."""
        return ReplicaReport(
            replica=self.name,
            state=state,  # type: ignore[arg-type]  # the shell passes one of the three
            partitions=sorted(self.book.parts),
            hosts=len(self.view.rows),
            decisions=sum(self.decider.decisions.values()),
            conflict_fraction=round(self.claims.counts.conflict_fraction, 6),
            digest=f"{self.view.digest():016x}",
            positions=positions,
        )

    @property
    def unacknowledged(self) -> int:
        """Decisions and releases written, or to be written again, that nobody has acknowledged."""
        return len(self.deliveries)

    @property
    def waiting(self) -> int:
        """Requests read and not yet decided."""
        return self.book.waiting
