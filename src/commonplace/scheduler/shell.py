"""The replica's shell: poll, receive, perform; one thread, one data consumer, one producer.

    catch up (hosts, control, replicas to their ends) ▸ join the group ▸ turns
    turn: fold what hosts say ▸ read back decisions ▸ take requests in ▸ rank and claim ▸ one flush

A replica that lost records (offset out of range), fell too far behind or met a topic made anew drops its state and catches up again.
"""

import logging
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from msgspec.structs import replace

from commonplace.clock import steady_ms, wall_s
from commonplace.collector import calm, give_back, paused
from commonplace.core.codec import encode
from commonplace.core.keeper_events import Quarantine, quarantined
from commonplace.core.replica import Replica
from commonplace.core.replica_events import (
    CaughtUp,
    ClaimDelivered,
    Commit,
    ControlRead,
    DecisionDelivered,
    DecisionsRead,
    HostsRead,
    PeersRead,
    ReadHistory,
    ReleaseDelivered,
    ReplicaSettings,
    RequestsRead,
    SendClaim,
    SendDecision,
    SendRelease,
    Tick,
    Turn,
)
from commonplace.core.tombstones import Tombstones
from commonplace.errors import BrokerUnavailable, CommonplaceError
from commonplace.failpoints import hit
from commonplace.kafka.intake import Ceded, Gained, Intake
from commonplace.kafka.outbox import Outbox, QuarantineWriter
from commonplace.kafka.tail import Batch, Tail
from commonplace.kafka.topics import TopicFacts, Topics
from commonplace.scheduler.metrics import SchedulerFigures
from commonplace.scheduler.partitions import Partitions
from commonplace.settings import Settings

IDLE_POLL_S: Final = 0.01
TICK_MS: Final = 50
GROUP_POLL_MS: Final = 20
STOOD_STILL_MS: Final = 1_000
"""A turn that comes so late follows a pause of the process or machine: what hosts said meanwhile is read before anything is judged."""
FULL_TURN: Final = 500
"""From so many records in a turn on the next one waits already: nothing is gained by waiting for this one's acknowledgements first."""
COMMIT_INTERVAL_MS: Final = 100
"""Commits are batched: at worst so much work is read again by the next owner, who finds it decided."""
REPORT_INTERVAL_MS: Final = 5_000
LAG_INTERVAL_MS: Final = 1_000
SETTLE_ON_LEAVE_MS: Final = 5_000
"""How long a replica that was told to stop goes on settling what it claimed; the rest is handed back undecided."""

_LOG: Final = logging.getLogger(__name__)


def replica_settings(settings: Settings) -> ReplicaSettings:
    """The core's bounds from the settings file."""
    s = settings.scheduler
    return ReplicaSettings(
        pool=settings.topics.pool,
        mode=s.mode,
        liveness_timeout_ms=int(s.liveness_timeout_s * 1000),
        lease_ms=s.lease_ms,
        lease_margin_ms=s.lease_margin_ms,
        claim_timeout_ms=s.claim_timeout_ms,
        attempts_max=s.attempts_max,
        queue_max=s.queue_max,
        claims_in_flight_max=s.claims_in_flight_max,
        decisions_kept_max=s.decisions_kept_max,
        idempotency_window_ms=int(s.idempotency_window_s * 1000),
        deadline_ms=s.deadline_ms_default,
        peer_timeout_ms=3 * REPORT_INTERVAL_MS,
    )


class Rebuild(CommonplaceError):
    """The state can't be trusted any more: drop it and catch up again."""


class Scheduler:
    """One replica between its topics, from catching up to leaving. `figures` outlives a rebuild.

    `anew` names a topic that was deleted and made again since `facts` were taken, "" while there is none.
    """

    def __init__(
        self,
        name: str,
        settings: Settings,
        facts: dict[str, TopicFacts],
        figures: SchedulerFigures,
        stop: Callable[[], bool],
        anew: Callable[[], str],
    ) -> None:
        self.name, self.settings, self.figures, self._stop, self._anew = name, settings, figures, stop, anew
        self.topics = Topics(settings.topics.prefix, settings.topics.pool)
        self.facts = facts
        self.replica = Replica(
            name,
            f"{name[:40]}.{secrets.token_hex(4)}",
            facts[self.topics.hosts].partitions,
            facts[self.topics.claims].topic_id,
            replace(replica_settings(settings), request_partitions=facts[self.topics.requests].partitions),
        )
        self.tail = Tail(settings, traced=self.topics.requests)
        self.partitions = Partitions(self.tail, self.topics, figures.alarm)
        self.outbox = Outbox(settings)
        self.intake = Intake(settings, self.topics.requests, facts[self.topics.requests].topic_id)
        self.quarantine = QuarantineWriter(self.outbox, self.topics.quarantine)
        self._later: list[Any] = []  # events of callbacks, received at the next step
        self._commits: dict[int, int] = {}
        self._tick_ms = self._group_ms = self._commit_ms = self._report_ms = self._lag_ms = 0
        self._turned_ms = steady_ms()
        self._state = "ready"  # what the cycle reports say
        self._stale_after_s = settings.topics.delete_retention_ms / 2000
        self._tombstones = Tombstones(self._stale_after_s * 1000)
        self._compacted = (self.topics.hosts, self.topics.control, self.topics.replicas)
        self._perform: dict[type, Callable[[Any], None]] = {
            SendClaim: self._send_claim,
            SendRelease: self._send_release,
            SendDecision: self._send_decision,
            Commit: self._note_commit,
            ReadHistory: lambda e: self._later.extend(self.partitions.read_history(e)),
            Quarantine: self._put_aside,
        }
        self._receivers: dict[str, Callable[[Batch], Any]] = {
            self.topics.hosts: lambda b: HostsRead(b.partition, b.records),
            self.topics.control: lambda b: ControlRead(b.records),
            self.topics.replicas: lambda b: PeersRead(b.records),
            self.topics.decisions: lambda b: DecisionsRead(b.partition, b.records),
            self.topics.requests: lambda b: RequestsRead(b.partition, b.records, b.traces),
        }
        # state before requests, so that a turn ranks on the newest view
        self._order = {name: i for i, name in enumerate(self._receivers)}

    # -- life ---------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Catch up, serve until told to stop, leave. Blocks.

        Raises `Rebuild` or `Lost` when the state must be dropped, `NotReady` or `Denied` when broker or topics fail it.
        Nothing is committed on those ways out: the next owner reads again what was not.
        """
        try:
            with paused():
                self._catch_up()
            if not self._stop():
                self._serve()
                self._leave()
        finally:
            self.figures.detach()
            self.intake.leave()
            self.outbox.close(2.0)
            self.tail.close()

    def _catch_up(self) -> None:
        started = time.monotonic()
        self.figures.attach(self.replica, self.quarantine, "catching up")
        state = [(self.topics.hosts, p) for p in range(self.facts[self.topics.hosts].partitions)]
        state += [(self.topics.control, 0), (self.topics.replicas, 0)]
        ranges = {place: self.tail.range(*place) for place in state}
        for (topic, partition), (low, _) in ranges.items():
            self.tail.add(topic, partition, low)
        behind = {place: end for place, (low, end) in ranges.items() if end > low}
        while behind:
            if self._stop():
                return
            self._still_the_same()
            self._receive_batches(self.tail.turn(IDLE_POLL_S))
            behind = self.tail.behind(behind)
            self.figures.lag = sum(end - self.tail.position(*place) for place, end in behind.items())
        self._receive(CaughtUp())
        calm()
        give_back()
        self.figures.caught_up(time.monotonic() - started)
        _LOG.info("caught up with %d hosts in %.2f s", len(self.replica.view.rows), time.monotonic() - started)

    def _serve(self) -> None:
        self.intake.join()
        turned_ms = self._turned_ms = steady_ms()
        while not self._stop():
            self._turn(IDLE_POLL_S)
            now_ms = steady_ms()
            if now_ms - turned_ms > self._stale_after_s * 1000:
                raise Rebuild(f"no turn for {(now_ms - turned_ms) / 1000:.0f} s: tombstones may have been missed")
            turned_ms = now_ms
            self._still_the_same()

    def _still_the_same(self) -> None:
        topic = self._anew()
        if topic:
            raise Rebuild(f"{topic} was made anew: what was read of the one before counts no more")

    def _leave(self) -> None:
        """Take nothing more in, settle what is claimed, commit, go."""
        self.figures.state = self._state = "leaving"
        self._report()
        for partition, part in list(self.replica.book.parts.items()):
            self.tail.remove(self.topics.requests, partition)
            if not part.history:  # nothing of it was admitted: the next owner reads its history
                self._assigned(Ceded(partition))
        end = time.monotonic() + SETTLE_ON_LEAVE_MS / 1000
        while self.replica.waiting and time.monotonic() < end:
            self._turn(IDLE_POLL_S)
        self.outbox.close(2.0)
        self._receive_each(self._drain())
        done = {number: part.undecided.committed for number, part in self.replica.book.parts.items()}
        self.intake.commit({number: offset for number, offset in done.items() if offset >= 0}, wait=True)
        _LOG.info("left with %d requests undecided, which the next owner takes up", self.replica.waiting)

    # -- one turn -----------------------------------------------------------------------------------------------------

    def _turn(self, wait_s: float) -> None:
        busy = bool(self._later) or bool(self.replica.placer.queue)
        batches = self.tail.turn(0 if busy else wait_s)
        full = sum(len(batch.records) for batch in batches) >= FULL_TURN
        self._receive_batches(batches)
        self._regulate()
        now = steady_ms()
        if now - self._turned_ms > STOOD_STILL_MS:
            if not self._read_on(now - self._turned_ms):
                self.outbox.flush_turn()
                return
            now = steady_ms()
        self._turned_ms = now
        if now - self._group_ms >= GROUP_POLL_MS:
            self._group_ms = now
            for change in self.intake.poll():
                self._assigned(change)
            self.figures.refused = self.intake.refused
        if now - self._tick_ms >= TICK_MS:
            self._tick_ms = now
            self._receive(Tick())
        self._receive(Turn())
        self.outbox.flush_turn(wait=not full)
        if self.replica.claims.pending:
            hit("after_claim_sent")
        if self._commits and now - self._commit_ms >= COMMIT_INTERVAL_MS:
            self._commit_ms = now
            hit("after_decision_before_commit")
            self.intake.commit(self._commits)
            self._commits = {}
        if now - self._report_ms >= REPORT_INTERVAL_MS:
            self._report_ms = now
            self._report()
        if now - self._lag_ms >= LAG_INTERVAL_MS:
            self._lag_ms = now
            self.figures.lag = self.tail.lag(self.topics.hosts)
            self._receive_each(self.partitions.histories_cut())
            self.replica.view.write()  # else an idle replica would show the capacity that its last choice saw

    def _regulate(self) -> None:
        """Read no requests while too many answers wait for the broker; go on when half of them are acknowledged."""
        unacknowledged, most = self.replica.unacknowledged, self.settings.scheduler.unacknowledged_max
        held = self.tail.held(self.topics.requests)
        if not held and unacknowledged > most:
            self.figures.intake_pauses += 1
            self.tail.hold(self.topics.requests)
        elif held and unacknowledged <= most // 2:
            self.tail.go_on(self.topics.requests)

    def _read_on(self, paused_ms: int) -> bool:
        """Read `hosts` to its ends as of now: by our clock all of them would be silent after a long pause. False: ask again."""
        _LOG.info("stood still for %.1f s: reading what hosts said meanwhile", paused_ms / 1000)
        try:
            ends = self.tail.ends(self._state_places())
        except BrokerUnavailable as e:  # what held us up: nothing can be judged before it is back
            _LOG.warning("%s", e)
            return False
        while not self._stop() and (ends := self.tail.behind(ends)):
            self._still_the_same()
            self._receive_batches(self.tail.turn(IDLE_POLL_S))
        return True

    def _receive_batches(self, batches: list[Batch]) -> None:
        # acknowledgements first: a claim's offset is known before its verdict is folded
        for effect in self.replica.receive_all(self._drain(), steady_ms()):
            self._perform[type(effect)](effect)
        if len(batches) > 1:
            batches.sort(key=lambda batch: self._order[batch.topic])
        for batch in batches:
            if batch.records:
                if batch.topic == self.topics.requests:
                    hit("after_consume")
                elif batch.topic in self._compacted:
                    self._check_age(batch)
                self._receive(self._receivers[batch.topic](batch))
            if batch.topic == self.topics.decisions:
                self._receive_each(self.partitions.decisions_read(batch.partition, batch.position))

    def _drain(self) -> list[Any]:
        later, self._later = self._later, []
        return later

    def _receive(self, event: Any) -> None:
        for effect in self.replica.receive(event, steady_ms()):
            self._perform[type(effect)](effect)

    def _receive_each(self, events: Iterable[Any]) -> None:
        for event in events:
            self._receive(event)

    def _check_age(self, batch: Batch) -> None:
        first, place = batch.records[0], (batch.topic, batch.partition)
        missed = self._tombstones.missed(place, first[0], first[1], batch.position, wall_s() * 1000, steady_ms())
        if missed and self.replica.ready:
            raise Rebuild("reading far behind: tombstones may have been missed")

    def _assigned(self, change: Gained | Ceded) -> None:
        self._report_ms = 0  # who owns what is told at once: people and the demo wait for it
        if isinstance(change, Ceded):
            self._commits.pop(change.partition, None)
            self._receive(self.partitions.ceded(change.partition))
        elif self._state != "leaving":  # of no use to us then: the next owner has it once we have left the group
            self._receive(self.partitions.gained(change))

    # -- effects ------------------------------------------------------------------------------------------------------

    def _send_claim(self, effect: SendClaim) -> None:
        hit("after_rank")
        allocation = effect.allocation

        def delivered(offset: int, _error: str) -> None:
            self._later.append(ClaimDelivered(allocation, offset))

        self.outbox.send(self.topics.claims, effect.partition, effect.key, effect.value, delivered, effect.trace)

    def _send_release(self, effect: SendRelease) -> None:
        token = effect.token

        def delivered(offset: int, _error: str) -> None:
            self._later.append(ReleaseDelivered(token, offset >= 0))

        self.outbox.send(self.topics.claims, effect.partition, effect.key, effect.value, delivered, effect.trace)

    def _send_decision(self, effect: SendDecision) -> None:
        if effect.result == "placed":
            hit("after_grant_seen")
        hit("before_decision")
        token = effect.token

        def delivered(offset: int, _error: str) -> None:
            self._later.append(DecisionDelivered(token, offset >= 0))

        self.figures.decided(effect.result, effect.waited_ms)
        self.outbox.send(self.topics.decisions, effect.partition, effect.key, effect.value, delivered, effect.trace)

    def _note_commit(self, effect: Commit) -> None:
        self._commits[effect.partition] = effect.offset

    def _put_aside(self, effect: Quarantine) -> None:
        topic = getattr(self.topics, effect.topic)
        if self.quarantine.put(quarantined(effect, topic, self.name), steady_ms()):
            _LOG.warning("%s [%d] offset %d put aside: %s", topic, effect.partition, effect.offset, effect.reason)

    def _report(self) -> None:
        positions = {f"{topic} [{p}]": self.tail.position(topic, p) for topic, p in self._state_places()}
        record = self.replica.report(self._state, positions)
        self.figures.digest = record.digest  # a scrape comes on another thread, and must not change the view
        self.outbox.send(self.topics.replicas, 0, self.name.encode(), encode(record))

    def _state_places(self) -> list[tuple[str, int]]:
        return [(self.topics.hosts, p) for p in range(self.facts[self.topics.hosts].partitions)]
