"""A simulated scheduler process: the shipped `Replica` in a shell that does what scheduler/shell.py does, in virtual time.

catching up ──ends captured at the start reached──▶ serving ──told to leave, nothing waits──▶ gone
    ▲                                                 │
    └──── records lost, a topic made anew, too old ───┘
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from commonplace.core.codec import encode
from commonplace.core.keeper_events import Quarantine
from commonplace.core.replica import Replica
from commonplace.core.replica_events import (
    Assigned,
    CaughtUp,
    ClaimDelivered,
    Commit,
    ControlRead,
    DecisionDelivered,
    DecisionsRead,
    HistoryRead,
    HostsRead,
    Lost,
    PeersRead,
    Raw,
    ReadHistory,
    ReleaseDelivered,
    RequestsRead,
    SendClaim,
    SendDecision,
    SendRelease,
    Tick,
    Turn,
)
from commonplace.core.tombstones import Tombstones
from commonplace.sim.intake import Intake
from commonplace.sim.members import NEVER, Process
from commonplace.sim.surroundings import Surroundings
from commonplace.sim.wires import Done, Source

COMMIT_INTERVAL_MS: Final = 100
ENDS_ASKED_MS: Final = 1_000
SETTLE_ON_LEAVE_MS: Final = 5_000
IDLE_TICK_MS: Final = 4_000
CONTROL, PEERS, HOSTS, DECISIONS, REQUESTS = range(5)  # state before requests, as the shell reads
TICK: Final = Tick()
TURN: Final = Turn()


class ReplicaProcess(Process):
    """One replica between catching up and its end."""

    def __init__(self, world: Surroundings, name: str) -> None:
        super().__init__(world, name)
        self.wall_ahead_ms = 0  # of its wall clock to the broker's
        self._perform: dict[type, Callable[[Any], None]] = {
            SendClaim: self._send_claim,
            SendRelease: self._send_release,
            SendDecision: self._send_decision,
            Commit: self._note_commit,
            ReadHistory: self._read_history,
            Quarantine: self._put_aside,
        }
        self.begin(world.now)

    def begin(self, now: int) -> None:
        """Start from nothing: read the state topics to ends captured now."""
        world = self.world
        self.life += 1
        self.nonce = world.life_of(self.name)
        self.hosts_id = world.topics["hosts"].id
        self.intake = Intake(world, self.name)
        self.tombstones = Tombstones(world.stale_after_ms)
        self.ready = self.leaving = False
        self.histories: dict[int, int] = {}
        self.commits: dict[int, int] = {}
        self.leave_ms = NEVER
        self.touched = False  # the core received something since its last turn
        self.folded = 0  # records of hosts that the core was given
        self.turned_ms = self.tick_ms = self.group_ms = self.commit_ms = self.report_ms = 0
        topics = world.topics
        self.replica = Replica(
            self.name, self.nonce, world.config.partitions, topics["claims"].id, world.replica_settings
        )
        self.ends: dict[tuple[str, int], int] = {}
        places: list[tuple[str, int, int, Callable[..., None]]] = [
            ("control", 0, CONTROL, self._control),
            ("replicas", 0, PEERS, self._peers),
        ]
        places += [("hosts", p, HOSTS, self._hosts) for p in range(world.config.partitions)]
        for topic, partition, rank, handler in places:
            self.ends[topic, partition] = topics[topic].end(partition)
            self.follow(topic, partition, topics[topic].begin(partition), rank, handler)
        self.started_at = {p: end for (topic, p), end in self.ends.items() if topic == "hosts"}
        self.asked_ms = world.now
        self.wake(self.soon())

    def rebuild(self, why: str) -> None:
        """Drop the state and start anew, as the process does around its shell; what was sent still goes out."""
        world = self.world
        world.count("rebuild")
        world.checkers.owners.lost(self.nonce)
        if world.trace is not None:
            world.trace.tells(self.name, f"rebuilds: {why}")
        if self.intake.member:
            self.intake.leave({})
        self.ready = False
        self.begin_anew()

    # -- turn ---------------------------------------------------------------------------------------------------------

    def turn(self, now: int) -> None:
        """One turn of the shell's loop."""
        if not self.sources:
            return None  # between two lives
        clock = self.clock()
        if self.turned_ms and clock - self.turned_ms > self.world.stale_after_ms:
            return self.rebuild("no turn for so long that tombstones may have been missed")
        self.turned_ms = clock
        if not self.read(now):
            return self.rebuild("records were lost")
        if not self.sources:
            return None  # what it read made it start anew
        if not self.ready:
            return self._catching_up(now)
        if self.group_ms <= now:
            self.group_ms = NEVER
            self._group(now)
        if self.histories:
            self._histories_cut(now)
        idle_ms = clock - self.tick_ms
        if idle_ms >= IDLE_TICK_MS or (idle_ms >= self.world.config.tick_ms and self.busy()):
            self.tick_ms = clock
            self.receive(TICK)
        if self.touched:  # a turn after nothing happened would do nothing
            self.receive(TURN)
            self.touched = bool(self.replica.placer.queue)
        if self.commits and now - self.commit_ms >= COMMIT_INTERVAL_MS:
            self._commit(now)
        if now - self.report_ms >= self.world.config.report_ms:
            self.report_ms = now
            self._report("leaving" if self.leaving else "ready")
        if self.leaving and (not self.replica.waiting or now >= self.leave_ms):
            return self._leave(now)
        self._plan(now)
        return None

    def _plan(self, now: int) -> None:
        """Wake when something is due."""
        config = self.world.config
        at = self.report_ms + config.report_ms
        if self.group_ms < at:
            at = self.group_ms
        if self.commits and self.commit_ms + COMMIT_INTERVAL_MS < at:
            at = self.commit_ms + COMMIT_INTERVAL_MS
        if at > now + config.tick_ms and self.wake_ms > now + config.tick_ms and self.busy():
            at = now + config.tick_ms
        self.wake(at if at > now else now + 1)

    def busy(self) -> bool:
        """Whether the core waits for anything but records."""
        core = self.replica
        if core.book.works or self.histories:
            return True
        claims, placer = core.claims, core.placer
        waiting = claims.pending or placer.queue or placer.parked or claims.renewals
        return bool(waiting or core.unacknowledged)

    def _catching_up(self, now: int) -> None:
        self.ends = self._behind(now, self.ends)
        if self.ends:
            return
        self.ready = True
        positions = dict(enumerate(self.positions()))
        hosts = self.world.topics["hosts"]  # which may have lost its tail since
        self.world.checkers.owners.serves(
            self.nonce, positions, {p: min(end, hosts.end(p)) for p, end in self.started_at.items()}
        )
        self.receive(CaughtUp())
        if self.world.trace is not None:
            self.world.trace.tells(self.name, f"caught up with {len(self.replica.view.rows)} hosts")
        self.wake(self.soon())

    def _behind(self, now: int, ends: dict[tuple[str, int], int]) -> dict[tuple[str, int], int]:
        """Those of captured ends that are not reached; asked for again each second, because the log may have lost its tail."""
        sources, topics = self.sources, self.world.topics
        behind = {place: end for place, end in ends.items() if sources[place].position < end}
        if behind and now - self.asked_ms >= ENDS_ASKED_MS:
            self.asked_ms = now
            ends = {place: min(end, topics[place[0]].end(place[1])) for place, end in behind.items()}
            behind = {place: end for place, end in ends.items() if sources[place].position < end}
        return behind

    def receive(self, event: Any) -> None:
        """Let the core take an event and do what it asks."""
        self.touched = True
        perform = self._perform
        for effect in self.replica.receive(event, self.clock()):
            perform[type(effect)](effect)

    # -- reading ------------------------------------------------------------------------------------------------------

    def _hosts(self, source: Source, records: Sequence[Raw]) -> None:
        if records:
            self.folded += len(records)
            if self._missed(source, records):
                return
            if self.ready:
                self.world.read_live(self.nonce, source.partition, records)
            self.receive(HostsRead(source.partition, records))

    def _control(self, source: Source, records: Sequence[Raw]) -> None:
        if records and not self._missed(source, records):
            self.receive(ControlRead(records))

    def _peers(self, source: Source, records: Sequence[Raw]) -> None:
        if records and not self._missed(source, records):
            self.receive(PeersRead(records))

    def _missed(self, source: Source, records: Sequence[Raw]) -> bool:
        """Begin anew where tombstones may have been missed; True then."""
        place, wall_ms = (source.topic.name, source.partition), self.world.wall() + self.wall_ahead_ms
        first, at_ms = records[0][:2]
        missed = self.tombstones.missed(place, first, at_ms, source.position, wall_ms, self.clock())
        if missed and self.ready:
            self.rebuild("reading so far behind that tombstones may have been missed")
            return True
        return False

    def _requests(self, source: Source, records: Sequence[Raw]) -> None:
        if records:
            self.receive(RequestsRead(source.partition, records))

    def _decisions(self, source: Source, records: Sequence[Raw]) -> None:
        if records:
            self.receive(DecisionsRead(source.partition, records))
        self._history_step(source.partition, source.position)

    # -- the group ----------------------------------------------------------------------------------------------------

    def ask_group_at(self, when_ms: int) -> None:
        """Ask the group then, as at the next heartbeat."""
        if when_ms < self.group_ms and self.ready:
            self.group_ms = when_ms
            self.wake(when_ms)

    def pause(self, until_ms: int, frozen: bool) -> None:
        """Stop until then; a heartbeat follows."""
        self.world.coordinator.group_now()
        super().pause(until_ms, frozen)
        if frozen:
            self.world.checkers.owners.froze(self.nonce)
        self.world.coordinator.missed()
        self.ask_group_at(until_ms + 1 + int(self.random() * self.world.coordinator.beat_ms))

    def _group(self, now: int) -> None:
        """Ask the group what is ours."""
        coordinator = self.world.coordinator
        if coordinator.cut(self.name):
            return self.ask_group_at(now + coordinator.beat_ms)
        for partition, ours in self.intake.poll():
            if ours:
                self._gained(partition)
            else:
                self._ceded(partition)
        if not self.intake.member:
            self.ask_group_at(now + 1)
        return None

    def _ceded(self, partition: int) -> None:
        self.unfollow("requests", partition)
        self.unfollow("decisions", partition)
        self.histories.pop(partition, None)
        self.commits.pop(partition, None)
        if self.world.trace is not None:
            self.world.trace.tells(self.name, f"gives up requests[{partition}]")
        self.world.checkers.owners.lost(self.nonce, partition)
        self.receive(Lost(partition))

    def _gained(self, partition: int) -> None:
        world, topic = self.world, self.world.topics["requests"]
        low, end, committed = topic.begin(partition), topic.end(partition), world.coordinator.committed(partition)
        start = committed if low <= committed <= end else low
        if world.trace is not None:
            world.trace.tells(self.name, f"takes over requests[{partition}] from offset {start} of {end}")
        world.checkers.owners.assigned(self.nonce, partition)
        self.receive(Assigned(partition, end))
        if not self.leaving:
            self.follow("requests", partition, start, REQUESTS, self._requests)

    def _commit(self, now: int) -> None:
        self.commit_ms = now
        if self.world.coordinator.cut(self.name):
            return
        commits, self.commits = self.commits, {}
        fault = self.intake.commit(commits)
        if fault is not None:
            self.world.kill(self, fault)

    def leave(self) -> None:
        """Be told to stop: take nothing more in, settle, go."""
        self.leaving = True
        self.leave_ms = self.world.now + SETTLE_ON_LEAVE_MS
        if not self.ready:
            self.world.gone(self)
            return
        for partition in range(self.world.config.request_partitions):
            self.unfollow("requests", partition)
        self.report_ms = 0
        self.wake(self.soon())

    def _leave(self, now: int) -> None:
        done = {number: part.undecided.committed for number, part in self.replica.book.parts.items()}
        self.intake.leave({partition: offset for partition, offset in done.items() if offset >= 0})
        self.world.gone(self)

    # -- history ------------------------------------------------------------------------------------------------------

    def _read_history(self, effect: ReadHistory) -> None:
        """Requests wait in the log until the decisions of the idempotency window before them are read."""
        partition = effect.partition
        requests = self.sources.get(("requests", partition))
        if requests is not None:
            requests.held = True
        decisions = self.world.topics["decisions"]
        offset, end = decisions.offset_at(partition, max(0, effect.from_ms)), decisions.end(partition)
        self.histories[partition] = end
        self.follow("decisions", partition, offset, DECISIONS, self._decisions)
        if offset >= end:
            self.inbox.append((self.world.now, lambda _: self._history_step(partition, offset), 0))
            self.wake(self.world.now + 1)

    def _history_step(self, partition: int, position: int) -> None:
        end = self.histories.get(partition)
        if end is None or position < end:
            return
        del self.histories[partition]
        self.receive(HistoryRead(partition))
        requests = self.sources.get(("requests", partition))
        if requests is not None:
            requests.held = False
            self.mark(requests)

    def _histories_cut(self, now: int) -> None:
        """Decisions that are waited for may have been lost with the log's tail."""
        if now - self.asked_ms >= ENDS_ASKED_MS:
            self.asked_ms = now
            for partition, end in list(self.histories.items()):
                cut = self.world.topics["decisions"].end(partition)
                if cut < end:
                    self.histories[partition] = cut
                    self._history_step(partition, self.sources["decisions", partition].position)

    # -- effects ------------------------------------------------------------------------------------------------------

    def _told(self, event: Callable[[int], Any]) -> Done:
        """A record's fate as an event of the core; of an earlier life nobody hears."""
        life = self.life

        def done(offset: int) -> None:
            if self.life == life:
                self.receive(event(offset))

        return done

    def _send_claim(self, effect: SendClaim) -> None:
        allocation = effect.allocation
        self.world.checkers.owners.claims(self.nonce, allocation)
        kind = "renew" if allocation in self.replica.claims.renewals else "claim"
        self.send(
            kind,
            "claims",
            effect.partition,
            effect.key,
            effect.value,
            self._told(lambda o: ClaimDelivered(allocation, o)),
        )

    def _send_release(self, effect: SendRelease) -> None:
        token = effect.token
        self.world.checkers.owners.releases(effect.value)
        self.send(
            "release", "claims", effect.partition, effect.key, effect.value,
            self._told(lambda o: ReleaseDelivered(token, o >= 0)),
        )  # fmt: skip

    def _send_decision(self, effect: SendDecision) -> None:
        token = effect.token
        again = effect.result == "again"
        self.world.checkers.owners.decides(
            self.nonce, effect.partition, effect.value, self.world.true_ms(), again=again
        )
        self.send(
            "decision", "decisions", effect.partition, effect.key, effect.value,
            self._told(lambda o: DecisionDelivered(token, o >= 0)),
        )  # fmt: skip

    def _note_commit(self, effect: Commit) -> None:
        self.commits[effect.partition] = effect.offset

    def _put_aside(self, effect: Quarantine) -> None:
        self.world.quarantined(self.name, effect)

    def _report(self, state: str) -> None:
        places = range(self.world.config.partitions)
        positions = {f"hosts [{p}]": self.sources["hosts", p].position for p in places if ("hosts", p) in self.sources}
        self.send("report", "replicas", 0, self.name.encode(), encode(self.replica.report(state, positions)))

    def dissolve(self) -> None:
        """Let go of the core too, whose handlers are its own methods."""
        placer = self.replica.placer
        for ring in (placer.board, placer, self.replica):
            vars(ring).clear()
        super().dissolve()

    def positions(self) -> tuple[int, ...]:
        """How far it has folded `hosts`."""
        return tuple(self.sources["hosts", p].position for p in range(self.world.config.partitions))
