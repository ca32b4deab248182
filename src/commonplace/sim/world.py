"""One schedule's world: virtual time in a heap of events, the logs, the group, and everybody who lives in it.

items and faults, as data ──▶ heap of (time, serial, what) ──▶ processes: turns and flushes ──▶ logs ──▶ checkers
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import blake2b
from heapq import heappop, heappush
from typing import Any, Final
from zlib import crc32

from msgspec.structs import replace

from commonplace.core.codec import encode
from commonplace.core.keeper_events import KeeperSettings, Quarantine, quarantined
from commonplace.core.ledger_events import Bounds
from commonplace.core.records import Build, Decision, Placed, Profile
from commonplace.core.replica_events import ReplicaSettings
from commonplace.frontend.events import Refusal
from commonplace.sim import plan
from commonplace.sim.agents import AgentProcess, Machine
from commonplace.sim.checkers import Checkers
from commonplace.sim.frontends import FrontendProcess
from commonplace.sim.groups import Group
from commonplace.sim.log import Raw, Rules, Topic
from commonplace.sim.members import NEVER, Outgoing, Process, Source
from commonplace.sim.replicas import ReplicaProcess
from commonplace.sim.shapes import SHAPES, flavor_of
from commonplace.sim.trace import Trace

START_MS: Final = 1_000
"""Items and faults count from here: the fleet has started by then, unless it is slow."""

BROKER_EPOCH_MS: Final = 1_000_000_000_000
"""The broker's clock at the beginning; nothing may depend on it."""

COMPACTED: Final = ("hosts", "control", "replicas")
FLAVORS: Final = {"small": (1, 1024), "medium": (2, 4096), "large": (5, 2048)}
SENDING: Final = frozenset({"lose", "mute", "double", "hold", "die_before", "die_after"})
"""Faults that befall a record on its way; any other that names a record happens when that is sent."""


class World:
    """Everything of one schedule. `apply` does what an item or a fault says; it is given, so that this module knows neither."""

    def __init__(
        self, schedule: plan.Schedule, apply: Callable[["World", Any], None], trace: Trace | None = None
    ) -> None:
        self.schedule, self.config, self.trace = schedule, schedule.config, trace
        self.apply = apply
        self.now = 0
        self.events = 0
        self.faulty = True
        self.calm_ms = 0  # when faults stopped
        self.latency_ms = self.config.latency_ms
        self.broker_ahead_ms = 0
        self._heap: list[tuple[int, int, Callable[..., object], tuple[Any, ...]]] = []
        self._serial = self._lives = 0
        self.counts: Counter[str] = Counter()
        self.sent: dict[str, int] = {}
        self.timers = 0
        self.everybody: list[Process] = []  # who ever lived
        self.answers: list[tuple[str, str, Decision | Refusal]] = []
        self.acknowledged: dict[str, Build] = {}
        self.placed: dict[str, Placed] = {}  # request → where its submitter knows its first instance to be
        self._asked: dict[int, tuple[plan.Submit, Build]] = {}
        self.refused: set[str] = set()
        self.forgotten: set[str] = set()
        self._met: dict[
            tuple[int, int], set[str]
        ] = {}  # bad record of `hosts` → replicas that served when they read it
        self.digests = 0
        self.digest = blake2b(digest_size=16)
        self.unaware = 0  # processes that have yet to notice that a topic was made anew
        self.outages = False  # the broker or a partition was out of reach, and is perhaps still
        self._down: dict[tuple[str, int], int] = {}
        self._broker_down_ms = self._full_ms = 0
        self.cut_off: dict[str, int] = {}  # process → it does not reach the group before then
        self._make_settings()
        self._make_topics()
        self._make_fleet()

    # -- making -------------------------------------------------------------------------------------------------------

    def _make_settings(self) -> None:
        c = self.config
        self.beat_ms = max(100, c.session_ms // 3)
        self.stale_after_ms = c.delete_retention_ms // 2
        self.replica_settings = ReplicaSettings(
            mode=c.mode,
            liveness_timeout_ms=c.liveness_ms,
            lease_ms=c.lease_ms,
            lease_margin_ms=c.lease_margin_ms,
            claim_timeout_ms=c.claim_timeout_ms,
            attempts_max=c.attempts_max,
            queue_max=c.queue_max,
            claims_in_flight_max=c.claims_in_flight_max,
            decisions_kept_max=c.decisions_kept_max,
            idempotency_window_ms=c.idempotency_window_ms,
            deadline_ms=c.deadline_ms,
            peer_timeout_ms=3 * c.report_ms,
            request_partitions=c.request_partitions,
        )
        self.keeper_settings = KeeperSettings(
            snapshot_interval_ms=c.snapshot_ms,
            heartbeat_interval_ms=c.heartbeat_ms,
            delta_allocations_max=c.delta_allocations_max,
            lapse_interval_ms=c.lapse_ms,
            bounds=Bounds(settled_max=c.settled_max),
        )

    def _make_topics(self) -> None:
        c = self.config
        drift = c.drift / 1_000
        self.checkers = Checkers(
            c.partitions,
            c.request_partitions,
            drift=drift,
            lease_slack_ms=6 * c.heartbeat_ms + 30_000,
            window_ms=c.idempotency_window_ms,
            kept_max=c.decisions_kept_max,
        )
        compact = Rules(
            compact=True,
            min_compaction_lag_ms=round(2 * c.snapshot_ms * 1.1),
            delete_retention_ms=c.delete_retention_ms,
            segment_records=c.segment_records,
        )
        state = Rules(compact=True, delete_retention_ms=c.delete_retention_ms, segment_records=c.segment_records)
        kept = Rules(segment_records=c.segment_records)
        claims = Rules(segment_records=c.segment_records, retention_ms=c.claims_retention_ms or None)
        shapes = {
            "hosts": (c.partitions, compact),
            "claims": (c.partitions, claims),
            "requests": (c.request_partitions, kept),
            "decisions": (c.request_partitions, kept),
            "control": (1, state),
            "replicas": (1, state),
            "quarantine": (1, kept),
        }
        self.topics = {name: Topic(name, partitions, rules) for name, (partitions, rules) in shapes.items()}
        self.readers: dict[str, list[list[Source]]] = {
            name: [[] for _ in range(partitions)] for name, (partitions, _) in shapes.items()
        }
        for topic in self.topics.values():
            topic.subscribe(self._appended)
        self.group = Group(c.request_partitions, c.session_ms)

    def _make_fleet(self) -> None:
        c, schedule = self.config, self.schedule
        self.machines = {
            f"h{i}": Machine(f"h{i}", c, ("FAST",) if i % 3 == 1 else (), f"k{i % c.racks}" if c.racks else "")
            for i in range(c.hosts)
        }
        self.machines_changed = 0
        names = list(self.machines)
        self.units = [names[i :: c.agents] for i in range(min(c.agents, len(names)))]
        self.agents: list[AgentProcess] = []
        self.replicas: list[ReplicaProcess] = []
        self.frontends: list[FrontendProcess] = []
        self.say_all()
        for unit in range(len(self.units)):
            self.start_agent(unit)
        for number in range(c.replicas):
            self.start_replica(f"r{number}")
        for number in range(c.frontends):
            self.frontends.append(FrontendProcess(self, f"f{number}"))
        self._by_record: dict[tuple[str, int], list[plan.Fault]] = {}
        for fault in schedule.faults:
            if fault.on:
                self._by_record.setdefault((fault.on, fault.nth), []).append(fault)
            else:
                self.at(START_MS + fault.at_ms, self._happen, fault)
        for item in schedule.items:
            self.at(START_MS + item.at_ms, self.apply, self, item)

    def seed_of(self, name: str) -> int:
        """A seed for one process's chances: its own, so that what happens to others does not change it."""
        self._lives += 1
        return (self.schedule.seed << 40) ^ (crc32(name.encode()) << 8) ^ self._lives

    def life_of(self, name: str) -> str:
        """A name for one life of a process, never used again."""
        self._lives += 1
        return f"{name}.{self._lives:x}"

    # -- time ---------------------------------------------------------------------------------------------------------

    def at(self, when_ms: int, what: Callable[..., object], *told: Any) -> None:
        """Have something happen at a time."""
        self._serial += 1
        heappush(self._heap, (when_ms, self._serial, what, told))

    def after(self, delay_ms: int, who: Process, what: Callable[[], object]) -> None:
        """Have a living process do something later; the world does not settle before."""
        self.timers += 1
        self.at(self.now + max(1, delay_ms), self._due, who, what)

    def _due(self, who: Process, what: Callable[[], object]) -> None:
        self.timers -= 1
        if who.alive:
            what()

    def run_until(self, until_ms: int) -> None:
        """Let everything happen that is due by then."""
        heap, pop = self._heap, heappop
        trace = self.trace
        events = 0
        while heap and heap[0][0] <= until_ms:
            self.now, _, what, told = pop(heap)
            if trace is not None:
                trace.now = self.now
            events += 1
            what(*told)
        self.events += events
        self.now = until_ms
        if trace is not None:
            trace.now = until_ms

    def wall(self) -> int:
        """The broker's clock, which dates records; those of processes are near it."""
        return BROKER_EPOCH_MS + self.now + self.broker_ahead_ms

    def true_ms(self) -> int:
        """The time that has really passed, on the broker's clock if that had never jumped: checkers count in it."""
        return BROKER_EPOCH_MS + self.now

    def newest_ms(self) -> int:
        """The latest log time of any record, which a clock that was put back has yet to come up with."""
        logs = (topic.everything(n) for topic in self.topics.values() for n in range(topic.partitions))
        return max((raw[1] for log in logs for raw in log), default=0)

    # -- logs ---------------------------------------------------------------------------------------------------------

    def append(
        self, topic: str, partition: int, key: bytes | None, value: bytes | None, who: Process | None = None
    ) -> int:
        """Append a record now, and wake its readers."""
        offset = self.topics[topic].append(partition, key, value, self.wall())
        if self.trace is not None:
            self.trace.appended(who.name if who else "-", topic, partition, offset, key, value)
        self._wake_readers(topic, partition)
        return offset

    def _wake_readers(self, topic: str, partition: int) -> None:
        now, latency_ms = self.now + 1, self.latency_ms
        for source in self.readers[topic][partition]:
            if not source.dirty:
                owner = source.owner
                source.dirty = True
                owner.dirty.append(source)
                soon = now + int(owner.random() * latency_ms)
                if soon < owner.wake_ms:
                    owner.wake(soon)

    def mark(self, topic: str, partition: int) -> None:
        """A transaction's marker takes an offset: no reader meets it, but their positions move past it."""
        offset = self.topics[topic].append(partition, None, None, self.wall(), marker=True)
        self.checkers.marked(topic, partition, offset)
        self._wake_readers(topic, partition)

    def _appended(self, topic: str, topic_id: str, partition: int, raw: Raw) -> None:
        self.digest.update(
            b"%d %s %d %d %b %b" % (self.now, topic.encode(), partition, raw[0], raw[2] or b"-", raw[3] or b"-")
        )
        if self.broker_ahead_ms:
            raw = (raw[0], raw[1] - self.broker_ahead_ms, raw[2], raw[3])
        self.checkers.appended(topic, topic_id, partition, raw)

    def arrive(self, entry: Outgoing, sender: Process) -> None:
        """A record reaches its log after all."""
        self.append(entry.topic, entry.partition, entry.key, entry.value, sender)

    def inject(self, topic: str, partition: int, key: bytes | None, value: bytes | None) -> None:
        """Append what a fault wrote: nobody is to blame for it."""
        self.checkers.injecting = True
        self.append(topic, partition, key, value)
        self.checkers.injecting = False

    def down_until(self, topic: str, partition: int) -> int:
        """When a partition is to be reached again."""
        return max(self._broker_down_ms, self._down.get((topic, partition), 0)) if self.outages else 0

    def unwritable_until(self, topic: str, partition: int) -> int:
        """When a record is to be taken again there."""
        return max(self.down_until(topic, partition), self._full_ms) if self.outages else 0

    def disk_full(self, until_ms: int) -> None:
        """Nobody can write before then, everybody reads."""
        self.outages = True
        self._full_ms = max(self._full_ms, until_ms)

    def broker_down(self, until_ms: int) -> None:
        """Nobody reaches the broker before then; sessions start anew once it is back, as its coordinator does not know better."""
        self.outages = True
        self._broker_down_ms = max(self._broker_down_ms, until_ms)
        self.at(until_ms, self._broker_back, until_ms)

    def _broker_back(self, when_ms: int) -> None:
        for member in self.group.members.values():
            member.seen_ms = when_ms
        self.missed()
        for replica in self.replicas:
            replica.ask_group_at(when_ms + 1)

    def partition_down(self, topic: str, partition: int, until_ms: int) -> None:
        """Nobody reaches that partition before then."""
        self.outages = True
        self._down[topic, partition] = max(self._down.get((topic, partition), 0), until_ms)

    def heal(self) -> None:
        """End whatever is still broken."""
        self.outages = False
        self._broker_down_ms = self._full_ms = 0
        self._broker_back(self.now)
        self._down.clear()
        self.cut_off.clear()
        for replica in self.replicas:
            replica.wall_ahead_ms = 0
        for process in self.processes():
            process.reconnect()
            process.go_on()
            process.wake(self.now + 1)
            if process.outbox:
                process.flush_at(self.now + 1)

    # -- faults -------------------------------------------------------------------------------------------------------

    def fault_of(self, kind: str, sender: Process | None = None) -> plan.Fault | None:
        """Count a record on its way; returns what befalls it. What else was to happen with it happens, perhaps to its sender."""
        number = self.sent.get(kind, 0) + 1
        self.sent[kind] = number
        faults = self._by_record.get((kind, number))
        if faults is None or not self.faulty:
            return None
        found = None
        for fault in faults:
            if fault.kind in SENDING and found is None:
                found = fault
                self.counts[fault.kind] += 1
                if self.trace is not None:
                    self.trace.tells("fault", f"{fault.kind} {kind} {number}")
            elif fault.kind not in SENDING:
                self.at(self.now + max(0, fault.at_ms), self._happen, fault, sender)
        return found

    def _happen(self, fault: plan.Fault, sender: Process | None = None) -> None:
        if not self.faulty:
            return
        if fault.what == plan.SENDER:
            alike = next((ones for ones in (self.replicas, self.agents, self.frontends) if sender in ones), None)
            if alike is None:
                return  # it is gone
            fault = replace(fault, pick=alike.index(sender))  # type: ignore[arg-type]  # it is one of them
        self.apply(self, fault)

    def count(self, what: str) -> None:
        """Something worth counting happened."""
        self.counts[what] += 1

    # -- processes ----------------------------------------------------------------------------------------------------

    def processes(self) -> list[Process]:
        """Everybody who lives."""
        return [*self.agents, *self.replicas, *self.frontends]

    def start_agent(self, unit: int) -> AgentProcess | None:
        """A new agent for a unit's hosts; one that is there already goes on until it reads of it."""
        hosts = self.units[unit]
        if not hosts:
            return None
        agent = AgentProcess(self, f"a{unit}", unit, hosts)
        if self.trace is not None:
            self.trace.tells(agent.name, f"starts for {', '.join(hosts)} as {agent.nonce}")
        self.agents.append(agent)
        return agent

    def start_replica(self, name: str) -> ReplicaProcess:
        """A new replica."""
        replica = ReplicaProcess(self, name)
        if self.trace is not None:
            self.trace.tells(name, f"starts as {replica.nonce}")
        self.replicas.append(replica)
        return replica

    def kill(self, process: Process, fault: plan.Fault) -> None:
        """End a process at once; what it had on its way is lost, arrives (`sent`) or arrives late (`late`). It comes back after `ms`."""
        if not process.alive:
            return
        if self.trace is not None:
            self.trace.tells(process.name, "is killed")
        self._remove(process)
        left = process.die()
        if fault.what == "sent":
            for entry in left:
                self.arrive(entry, process)
        elif fault.what == "late":
            for entry in left:
                self.at(self.now + 50 + fault.ms // 2, self.arrive, entry, process)
        if fault.ms >= 0:
            self.at(self.now + max(1, fault.ms), self._come_back, process)

    def _remove(self, process: Process) -> None:
        if isinstance(process, ReplicaProcess):
            self.group_now()
            self.replicas.remove(process)
            self.checkers.lost(process.nonce)
            self.missed()
        elif isinstance(process, AgentProcess):
            self.agents.remove(process)
        elif isinstance(process, FrontendProcess):
            self.frontends.remove(process)

    def _come_back(self, process: Process) -> None:
        if isinstance(process, ReplicaProcess):
            if all(other.name != process.name for other in self.replicas):
                self.start_replica(process.name)
        elif isinstance(process, AgentProcess):
            if not any(agent.unit == process.unit for agent in self.agents):
                self.start_agent(process.unit)
        elif isinstance(process, FrontendProcess):
            anew = FrontendProcess(self, process.name)
            self.frontends.append(anew)
            for item, attempt in process.plans.values():  # its submitters ask again
                if item.insist:
                    self.after(1 + int(anew.random() * 500), anew, partial(anew.submit, item, attempt + 1))

    def ended(self, agent: AgentProcess, why: str) -> None:
        """An agent's last host is not its own any more."""
        if self.trace is not None:
            self.trace.tells(agent.name, f"ends: {why}")
        if agent.alive:
            self._remove(agent)
            agent.die()

    def gone(self, replica: ReplicaProcess) -> None:
        """A replica left as it was told."""
        if self.trace is not None:
            self.trace.tells(replica.name, "is gone")
        if not replica.alive:
            return
        self._remove(replica)
        for entry in replica.die():
            self.arrive(entry, replica)

    def frontend(self, number: int) -> FrontendProcess | None:
        """One of the frontends that live."""
        return self.frontends[number % len(self.frontends)] if self.frontends else None

    # -- the group ----------------------------------------------------------------------------------------------------

    def group_now(self) -> Group:
        """The group as of now. Heartbeats of members that run and reach it are no events: they are made up for here."""
        group, now = self.group, self.now
        for replica in self.replicas:
            member = group.members.get(replica.member)
            if member is not None and replica.paused_ms <= now and not replica.cut():
                member.seen_ms = now
        before = group.generation
        group.expire(now)
        if group.generation != before:
            self.group_changed()
        return group

    def group_changed(self) -> None:
        """There is a new generation: every member hears of it at its next heartbeat."""
        for replica in self.replicas:
            replica.ask_group_at(self.now + 1 + int(replica.random() * self.beat_ms))

    def tell_member(self, member: str) -> None:
        """A partition may be that member's: it hears of it at its next heartbeat."""
        for replica in self.replicas:
            if replica.member == member:
                replica.ask_group_at(self.now + 1 + int(replica.random() * self.beat_ms))

    def missed(self) -> None:
        """A member does not reach the group any more: a session later it is fenced."""
        self.at(self.now + self.config.session_ms + 2, self.group_now)

    def committed(self, partition: int) -> int:
        """The committed offset, −1 where there is none."""
        return self.group.committed.get(partition, -1)

    def commit(self, member: str, generation: int, topic_id: str, partition: int, offset: int) -> None:
        """Commit an offset, if the group still takes it; one of a topic made before says nothing of this one."""
        if self._full_ms > self.now:
            return
        if topic_id != self.topics["requests"].id:
            offset = -1
        if self.group.commit(member, generation, partition, offset):
            if offset >= 0:
                self.checkers.commits(partition, offset)
            if self.trace is not None:
                self.trace.tells(member, f"commits requests[{partition}] {offset}")

    # -- what people see ----------------------------------------------------------------------------------------------

    def say_all(self) -> None:
        """What operators say on `control` at the beginning, and when it was made anew."""
        c = self.config
        weighers = {"cpu": 1.0, "ram": 1.0, "io_ops": -0.05}
        profile = Profile(name="default", weighers=weighers, builds_max=c.builds_max, instances_max=c.instances_max)
        self.append("control", 0, b"profile/default", encode(profile))
        for name, (vcpus, memory_mb) in FLAVORS.items():
            self.set_flavor(plan.SetFlavor(at_ms=0, name=name, vcpus=vcpus, memory_mb=memory_mb))
        for item in SHAPES if c.cells else ():
            self.set_flavor(item)

    def set_flavor(self, item: plan.SetFlavor) -> None:
        """An operator's word on `control`."""
        record = encode(flavor_of(item, self.config.spread)) if item.vcpus or item.pcpus else None
        self.append("control", 0, f"flavor/{item.name}".encode(), record)

    def build_of(self, item: plan.Submit) -> Build:
        """The request that an item submits, the same whenever it is submitted again."""
        known = self._asked.get(id(item))
        if known is None:
            fields, there = plan.build_of(item), self.placed.get(item.resizes)
            if there is not None:
                fields |= {"instances": (there.instance,), "source": there.host}
            known = self._asked[id(item)] = (item, Build(**fields))
        return known[1]

    def quarantined(self, who: str, effect: Quarantine) -> None:
        """A bad record is put aside."""
        self.counts["quarantined"] += 1
        self.append("quarantine", 0, None, encode(quarantined(effect, effect.topic, who)))

    def answered(self, frontend: str, item: plan.Submit, partition: int, answer: Decision | Refusal) -> None:
        """A submitter has an answer."""
        self.answers.append((frontend, item.id, answer))
        if isinstance(answer, Decision):
            self.checkers.told(partition, answer)
            if answer.placed:
                self.placed[item.id] = answer.placed[0]
        if self.trace is not None:
            said = answer.message if isinstance(answer, Refusal) else f"{answer.result} {answer.reason}"
            self.trace.tells(frontend, f"answers {item.id}: {said}")

    def checkpoint(self) -> None:
        """Hold every replica's state against what the log makes of its positions (invariant 8)."""
        hosts = self.topics["hosts"].id
        for replica in self.replicas:
            if replica.ready and replica.hosts_id == hosts:
                self.digests += 1
                view = replica.replica.view
                self.checkers.digest(replica.nonce, dict(enumerate(replica.positions())), view.digest)
                names = [row.host.name for row in view.by_index if not row.host.removed]
                self.checkers.fleet(replica.nonce, dict(enumerate(replica.positions())), names)
                self.checkers.accounts(replica.nonce, replica.folded, view.outcomes)

    def read_live(self, replica: str, partition: int, records: Sequence[Raw]) -> None:
        """A replica that serves reads records of `hosts` one by one; one that catches up takes the last of each key."""
        bad = self.checkers.bad
        for offset, *_ in records if bad else ():
            if ("hosts", partition, offset) in bad:
                self._met.setdefault((partition, offset), set()).add(replica)

    def kept(self, topic: str, partition: int, offset: int) -> bool:
        """Whether a record stood when somebody who lives could read it: of `hosts`, what was superseded before need not have been seen."""
        if topic != "hosts":
            return True
        living = {replica.nonce for replica in self.replicas}
        if living & self._met.get((partition, offset), set()):
            return True
        ever = self.topics[topic].everything(partition)
        key = next((key for at, _, key, _ in ever if at == offset), None)
        return key is None or all(other != key for at, _, other, _ in ever if at > offset)

    def dissolve(self) -> None:
        """Let go of everything: a world is one big ring of references, which a collector would have to walk."""
        for process in self.everybody:
            process.dissolve()
        checkers = self.checkers
        for ring in (checkers.reports, checkers.owners, checkers.answers, checkers, self):
            vars(ring).clear()

    def next_ms(self) -> int:
        """When the next thing is due."""
        return self._heap[0][0] if self._heap else NEVER
