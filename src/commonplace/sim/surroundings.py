"""What a process finds around it: time, logs and who reads them, what is out of reach, machines, and what befalls records on their way.

processes ──append──▶ logs ──▶ checkers
    ▲                  │
    └──── wake ────────┘
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Final
from zlib import crc32

from commonplace.core.codec import encode
from commonplace.core.keeper_events import Quarantine, quarantined
from commonplace.core.records.decisions import Decision, Placed
from commonplace.core.records.requests import Build
from commonplace.frontend.events import Refusal
from commonplace.sim import acting, plan
from commonplace.sim.coordinator import Asker, Coordinator
from commonplace.sim.log import Raw
from commonplace.sim.machines import Machine
from commonplace.sim.outages import Outages
from commonplace.sim.settings import checkers_of, keeper_settings, replica_settings, topics_of
from commonplace.sim.trace import Trace
from commonplace.sim.virtual_time import VirtualTime
from commonplace.sim.wires import Outgoing, Reader, Source

SENDING: Final = frozenset({"lose", "mute", "double", "hold", "die_before", "die_after"})
"""Faults that befall a record on its way; any other that names a record happens when that is sent."""


class Surroundings(VirtualTime, ABC):
    """The world as those know it who live in it; how they come and go is for `World` to say."""

    def __init__(self, schedule: plan.Schedule, replicas: Sequence[Asker], trace: Trace | None = None) -> None:
        super().__init__(trace)
        self.schedule, self.config = schedule, schedule.config
        self.faulty = True
        self.latency_ms = self.config.latency_ms
        self._lives = 0
        self.counts: Counter[str] = Counter()
        self.sent: dict[str, int] = {}
        self.everybody: list[Any] = []  # every process that ever lived
        self.answers: list[tuple[str, str, Decision | Refusal]] = []
        self.acknowledged: dict[str, Build] = {}
        self.placed: dict[str, Placed] = {}  # request → where its submitter knows its first instance to be
        self._asked: dict[int, tuple[plan.Submit, Build]] = {}
        self.refused: set[str] = set()
        self.met: dict[tuple[int, int], set[str]] = {}  # bad record of `hosts` → replicas that served when they read it
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
        self.coordinator = Coordinator(
            self, self.outages, self.topics["requests"], self.config.session_ms, replicas, self.checkers.answers
        )
        c = self.config
        self.machines = {
            f"h{i}": Machine(f"h{i}", c, ("FAST",) if i % 3 == 1 else (), f"k{i % c.racks}" if c.racks else "")
            for i in range(c.hosts)
        }
        self.machines_changed = 0
        self._by_record: dict[tuple[str, int], list[plan.Fault]] = {}  # kind of record, its number → what befalls it
        for fault in schedule.faults:
            if fault.on:
                self._by_record.setdefault((fault.on, fault.nth), []).append(fault)

    def seed_of(self, name: str) -> int:
        """A seed for one process's chances: its own, so that what happens to others does not change it."""
        self._lives += 1
        return (self.schedule.seed << 40) ^ (crc32(name.encode()) << 8) ^ self._lives

    def life_of(self, name: str) -> str:
        """A name for one life of a process, never used again."""
        self._lives += 1
        return f"{name}.{self._lives:x}"

    # -- who comes and goes -------------------------------------------------------------------------------------------

    @abstractmethod
    def happen(self, fault: plan.Fault, sender: Reader | None = None) -> None:
        """A fault happens, unless faults have stopped; `sender` may be the one whom it befalls."""

    @abstractmethod
    def kill(self, process: Any, fault: plan.Fault) -> None:
        """End a process at once; what it had on its way is lost, arrives (`sent`) or arrives late (`late`). It comes back after `ms`."""

    @abstractmethod
    def ended(self, agent: Any, why: str) -> None:
        """An agent's last host is not its own any more."""

    @abstractmethod
    def gone(self, replica: Any) -> None:
        """A replica left as it was told."""

    # -- logs ---------------------------------------------------------------------------------------------------------

    def append(
        self, topic: str, partition: int, key: bytes | None, value: bytes | None, who: Reader | None = None
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

    def arrive(self, entry: Outgoing, sender: Reader) -> None:
        """A record reaches its log after all."""
        self.append(entry.topic, entry.partition, entry.key, entry.value, sender)

    def inject(self, topic: str, partition: int, key: bytes | None, value: bytes | None) -> None:
        """Append what a fault wrote: nobody is to blame for it."""
        self.checkers.seen.injecting = True
        self.append(topic, partition, key, value)
        self.checkers.seen.injecting = False

    # -- faults -------------------------------------------------------------------------------------------------------

    def fault_of(self, kind: str, sender: Reader | None = None) -> plan.Fault | None:
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
                self.at(self.now + max(0, fault.at_ms), self.happen, fault, sender)
        return found

    def count(self, what: str) -> None:
        """Something worth counting happened."""
        self.counts[what] += 1

    # -- what people see ----------------------------------------------------------------------------------------------

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

    def answered(
        self, frontend: str, item: plan.Submit, partition: int, answer: Decision | Refusal, sure: bool
    ) -> None:
        """A submitter has an answer; not `sure`: from decisions made anew, read on from where the reader had come to in those before."""
        self.answers.append((frontend, item.id, answer))
        if isinstance(answer, Decision):
            if sure:
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
