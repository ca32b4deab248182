"""One schedule's world: its logs, and everybody who lives in it, in virtual time.

items and faults, as data ──▶ heap of (time, serial, what) ──▶ processes: turns and flushes ──▶ logs ──▶ checkers
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import blake2b
from typing import Any, Final
from zlib import crc32

from msgspec.structs import replace

from commonplace.core.codec import encode
from commonplace.core.keeper_events import Quarantine, quarantined
from commonplace.core.records.decisions import Decision, Placed
from commonplace.core.records.requests import Build
from commonplace.frontend.events import Refusal
from commonplace.sim import acting, plan
from commonplace.sim.agents import AgentProcess, Machine
from commonplace.sim.coordinator import Coordinator
from commonplace.sim.frontends import FrontendProcess
from commonplace.sim.log import Raw
from commonplace.sim.members import Outgoing, Process, Source
from commonplace.sim.outages import Outages
from commonplace.sim.replicas import ReplicaProcess
from commonplace.sim.settings import checkers_of, keeper_settings, replica_settings, said_first, topics_of
from commonplace.sim.trace import Trace
from commonplace.sim.virtual_time import VirtualTime

START_MS: Final = 1_000
"""Items and faults count from here: the fleet has started by then, unless it is slow."""

SENDING: Final = frozenset({"lose", "mute", "double", "hold", "die_before", "die_after"})
"""Faults that befall a record on its way; any other that names a record happens when that is sent."""


class World(VirtualTime):
    """Everything of one schedule. `apply` does what an item or a fault says; it is given, so that this module knows neither."""

    def __init__(
        self, schedule: plan.Schedule, apply: Callable[["World", Any], None], trace: Trace | None = None
    ) -> None:
        super().__init__(trace)
        self.schedule, self.config = schedule, schedule.config
        self.apply = apply
        self.faulty = True
        self.calm_ms = 0  # when faults stopped
        self.latency_ms = self.config.latency_ms
        self._lives = 0
        self.counts: Counter[str] = Counter()
        self.sent: dict[str, int] = {}
        self.everybody: list[Process] = []  # who ever lived
        self.answers: list[tuple[str, str, Decision | Refusal]] = []
        self.acknowledged: dict[str, Build] = {}
        self.placed: dict[str, Placed] = {}  # request → where its submitter knows its first instance to be
        self._asked: dict[int, tuple[plan.Submit, Build]] = {}
        self.refused: set[str] = set()
        self.forgotten: set[str] = set()
        self.met: dict[tuple[int, int], set[str]] = {}  # bad record of `hosts` → replicas that served when they read it
        self.digests = 0
        self.digest = blake2b(digest_size=16)
        self.unaware = 0  # processes that have yet to notice that a topic was made anew
        self.stale_after_ms = self.config.delete_retention_ms // 2
        self.replica_settings = replica_settings(self.config)
        self.keeper_settings = keeper_settings(self.config)
        self.checkers = checkers_of(self.config)
        self.topics = topics_of(self.config)
        self.readers: dict[str, list[list[Source]]] = {
            name: [[] for _ in range(topic.partitions)] for name, topic in self.topics.items()
        }
        for topic in self.topics.values():
            topic.subscribe(self._appended)
        self.outages = Outages()
        self.agents: list[AgentProcess] = []
        self.replicas: list[ReplicaProcess] = []
        self.frontends: list[FrontendProcess] = []
        self.coordinator = Coordinator(
            self, self.outages, self.topics["requests"], self.config.session_ms, self.replicas, self.checkers.answers
        )
        self._make_fleet()

    # -- making -------------------------------------------------------------------------------------------------------

    def _make_fleet(self) -> None:
        c, schedule = self.config, self.schedule
        self.machines = {
            f"h{i}": Machine(f"h{i}", c, ("FAST",) if i % 3 == 1 else (), f"k{i % c.racks}" if c.racks else "")
            for i in range(c.hosts)
        }
        self.machines_changed = 0
        names = list(self.machines)
        self.units = [names[i :: c.agents] for i in range(min(c.agents, len(names)))]
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
        self.checkers.seen.injecting = True
        self.append(topic, partition, key, value)
        self.checkers.seen.injecting = False

    def broker_down(self, until_ms: int) -> None:
        """Nobody reaches the broker before then, nor the group's coordinator."""
        self.outages.broker_down(until_ms)
        self.at(until_ms, self.coordinator.back, until_ms)

    def heal(self) -> None:
        """End whatever is still broken."""
        self.outages.end()
        self.coordinator.heal()
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
            self.coordinator.group_now()
            self.replicas.remove(process)
            self.checkers.owners.lost(process.nonce)
            self.coordinator.missed()
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

    # -- what people see ----------------------------------------------------------------------------------------------

    def say_all(self) -> None:
        """What operators say on `control` at the beginning, and when it was made anew."""
        for key, value in said_first(self.config):
            self.append("control", 0, key, value)

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
            acting.told(self.checkers.answers, partition, answer)
            if answer.placed:
                self.placed[item.id] = answer.placed[0]
        if self.trace is not None:
            said = answer.message if isinstance(answer, Refusal) else f"{answer.result} {answer.reason}"
            self.trace.tells(frontend, f"answers {item.id}: {said}")

    def read_live(self, replica: str, partition: int, records: Sequence[Raw]) -> None:
        """A replica that serves reads records of `hosts` one by one; one that catches up takes the last of each key."""
        bad = self.checkers.seen.bad
        for offset, *_ in records if bad else ():
            if ("hosts", partition, offset) in bad:
                self.met.setdefault((partition, offset), set()).add(replica)

    def dissolve(self) -> None:
        """Let go of everything: a world is one big ring of references, which a collector would have to walk."""
        for process in self.everybody:
            process.dissolve()
        checkers = self.checkers
        for ring in (checkers.reports, checkers.grants, checkers.owners, checkers.answers, checkers, self):
            vars(ring).clear()
