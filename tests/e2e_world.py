"""The whole system as processes on a real broker, what a client of it saw, and what stands in the topics afterwards.

World ── Stack: fleet and replicas, to be killed and started again
      ── History: submitted, answered, confirmed, released, as the client saw it
      ── raw topics: read with a bare consumer, folded here from docs/protocol.md alone
"""

import json
import logging
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

from commonplace.core.codec import encode
from commonplace.core.records.control import Flavor, Profile
from commonplace.core.records.decisions import Decision
from commonplace.core.records.requests import Build
from commonplace.errors import CommonplaceError, StateChanged
from commonplace.frontend import Frontend
from commonplace.frontend.pending import Pending
from commonplace.kafka import control
from commonplace.kafka.headers import trace_of
from commonplace.kafka.topics import Topics
from commonplace.ops import audit
from commonplace.ops.audit.findings import Violation
from commonplace.ops.stack import Stack
from commonplace.ops.stack_process import Process
from commonplace.settings import AgentSettings, FrontendSettings, SchedulerSettings, Settings, TopicsSettings

SESSION_TIMEOUT_S = 6.0  # the broker's minimum
LEASE_MS = 8_000
WAIT_S = 60.0
"""For anything awaited: the machine may be shared, and nobody waits longer than the event takes."""

ALL_PARTITIONS = 24
"""So many requests of the flavor `wide` reach every request partition, but for one time in twenty."""

SETTINGS = Settings(
    topics=TopicsSettings(),
    agent=AgentSettings(heartbeat_interval_s=1.0, snapshot_interval_s=20.0),
    scheduler=SchedulerSettings(
        session_timeout_ms=int(SESSION_TIMEOUT_S * 1000),
        lease_ms=LEASE_MS,
        lease_margin_ms=1_500,
        claim_timeout_ms=2_500,
        liveness_timeout_s=10.0,
        deadline_ms_default=60_000,
    ),
    frontend=FrontendSettings(timeout_s=WAIT_S),
)

WIDE = Flavor(name="wide", resources={"VCPU": 1, "MEMORY_MB": 512}, spread=24)


class Entry(NamedTuple):
    """One record as it stands in its topic."""

    partition: int
    offset: int
    time_ms: int
    key: bytes | None
    value: bytes | None
    trace: str = ""

    def json(self) -> Any:
        return json.loads(self.value or b"null")


class History:
    """What the client saw, by request and allocation. Everything placed is confirmed at once, on the answer's thread."""

    def __init__(self) -> None:
        self.pendings: list[Pending] = []
        self.answered_s: dict[str, float] = {}
        self.confirmed: dict[str, str] = {}  # allocation → request
        self.refused: dict[str, str] = {}  # allocation whose confirm the frontend refused → why
        self.released: set[str] = set()  # allocations

    def answers(self) -> dict[str, Decision]:
        """The decision of each answered request."""
        found = [(p.request.id, p.answer()) for p in self.pendings]
        return {request: answer for request, answer in found if isinstance(answer, Decision)}

    def errors(self) -> dict[str, CommonplaceError]:
        """The error of each request that got no decision."""
        found = [(p.request.id, p.answer()) for p in self.pendings]
        return {request: answer for request, answer in found if isinstance(answer, CommonplaceError)}

    @property
    def open(self) -> list[Pending]:
        """Submitted, without an answer."""
        return [pending for pending in self.pendings if not pending.done()]


class World:
    """A stack on a broker that runs already, its client, and its history; to be closed."""

    def __init__(
        self,
        bootstrap: str,
        prefix: str,
        work_dir: Path,
        *,
        hosts: int = 40,
        shape: str = "64vcpu:256gb:1000gb",
        replicas: int = 2,
        boot_s: float = 0.0,
        flavors: Sequence[Flavor] = (WIDE,),
        profiles: Sequence[Profile] = (),
        settings: Settings = SETTINGS,
        pool: str = "default",
        first: int = 1,
    ) -> None:
        kafka = {"bootstrap.servers": bootstrap}
        topics = TopicsSettings(prefix=prefix, pool=pool)
        self.settings = Settings(
            kafka=kafka, topics=topics, agent=settings.agent, scheduler=settings.scheduler, frontend=settings.frontend
        )
        self.names = Topics(prefix, pool)
        self.stack = Stack(
            hosts=hosts,
            replicas=replicas,
            shape=shape,
            first=first,
            boot_s=boot_s,
            bootstrap=bootstrap,
            flavors=flavors,
            settings=self.settings,
            work_dir=work_dir,
        )
        self.history = History()
        self.good = False  # whether the last check passed
        self.started: list[Process] = []
        try:
            self.stack.start()
            if profiles:
                control.write(self.settings, {f"profile/{profile.name}": encode(profile) for profile in profiles})
            self.frontend = Frontend(self.settings)
        except BaseException:
            self.stack.stop()
            raise

    def close(self) -> None:
        """End the client and all processes."""
        self.frontend.close()
        self.stack.stop()

    # -- processes ----------------------------------------------------------------------------------------------------

    def process(self, name: str) -> Process:
        return self.stack.processes[name]

    def only(self, *replicas: str) -> None:
        """Exactly these replicas run, and the fleet; what died in a test before is started again."""
        for name, process in list(self.stack.processes.items()):
            if not process.running():
                self.gone(name)
        if "fleet" not in self.stack.processes:
            self.stack.start_fleet()
        for name in [name for name in self.stack.processes if name not in (*replicas, "fleet")]:
            self.stack.end(name)
        for name in replicas:
            if name not in self.stack.processes:
                self.stack.start_scheduler(name, wait=False)
        for name in replicas:
            self.stack.await_ready(name)

    def gone(self, name: str) -> int:
        """Forget a process once it has ended by itself; returns its exit code, −9 for SIGKILL."""
        process = self.stack.processes.pop(name)
        code = process.popen.wait(WAIT_S)
        process.wait(0)  # lets its watchdog go
        return int(code)

    def log(self, name: str) -> str:
        return (self.stack.work_dir / f"{name}.log").read_text()

    def metrics(self, name: str) -> dict[str, float]:
        """Samples of a process by name and labels, as they stand in the exposition."""
        with urllib.request.urlopen(f"http://{self.process(name).http}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        rows = [line.rpartition(" ") for line in lines if not line.startswith("#")]
        return {sample: float(value) for sample, _, value in rows}

    # -- load ---------------------------------------------------------------------------------------------------------

    def submit(self, count: int, flavor: str = "wide", *, confirm: bool = True, **fields: Any) -> list[Pending]:
        """Submit requests at once; what is placed is confirmed as its answer comes."""
        builds = [self.frontend.request(flavor, **fields) for _ in range(count)]
        return self.submit_builds(builds, confirm=confirm)

    def submit_builds(self, builds: Sequence[Build], *, confirm: bool = True, traceparent: str = "") -> list[Pending]:
        pendings = self.frontend.submit_many(builds, fresh=True, traceparent=traceparent)
        self.history.pendings += pendings
        for pending in pendings:
            pending.add_done_callback(self._confirm if confirm else self._note)
        return pendings

    @contextmanager
    def load(self, per_s: int = 60, flavor: str = "wide", **fields: Any) -> Iterator[None]:
        """Requests at a steady pace while the block runs."""
        stop, failed = threading.Event(), []

        def run() -> None:
            try:
                while not stop.wait(0.1):
                    self.submit(max(1, per_s // 10), flavor, **fields)
            except CommonplaceError as e:
                failed.append(e)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        assert not failed, failed

    def await_share(self, *names: str) -> None:
        """Submit until each of the replicas decides: then it has partitions. What was placed meanwhile is given back."""

        def no_share() -> str:
            decisions = self.answered(self.submit(ALL_PARTITIONS))
            self._release(decisions)  # else a fleet fills up where shares take long
            missing = set(names) - {decision.replica for decision in decisions}
            return f"{missing} decide nothing" if missing else ""

        until(no_share)

    def await_rest(self, *names: str) -> None:
        """Wait until the replicas share all request partitions and none has moved for two seconds.

        A partition that moves is decided anew by its new owner, and claims of the old one may hold a second host for a while.
        """
        before: list[Any] = []

        def moving() -> str:
            told = {entry.key: parsed(entry) or {} for entry in self.read("replicas")}
            shares = [told.get(name.encode(), {}).get("partitions", []) for name in names]
            held = sorted(partition for share in shares for partition in share)
            same, before[:] = shares == before, shares
            whole = held == list(range(self.settings.topics.requests_partitions))
            return "" if same and whole else f"request partitions of {names}: {shares}"

        until(moving, pause_s=2.0)

    def answered(self, pendings: Sequence[Pending] | None = None) -> list[Decision]:
        """Wait until these requests, or all, are decided; returns the decisions."""
        return [pending.result(WAIT_S) for pending in (self.history.pendings if pendings is None else pendings)]

    def release_all(self) -> None:
        """Give everything back and wait until all of it is written."""
        self.answered()
        self._release(self.history.answers().values())

    def _release(self, decisions: Iterable[Decision]) -> None:
        for decision in decisions:
            mine = [p.allocation for p in decision.placed if p.allocation in self.history.confirmed]
            mine = [allocation for allocation in mine if allocation not in self.history.released]
            if mine:
                self.history.released.update(mine)
                self.frontend.release(decision, *mine)
        self.frontend.flush(WAIT_S)

    def _note(self, pending: Pending) -> None:
        self.history.answered_s[pending.request.id] = time.monotonic()

    def _confirm(self, pending: Pending) -> None:
        self._note(pending)
        decision = pending.answer()
        if not isinstance(decision, Decision) or decision.result != "placed":
            return
        try:
            self.frontend.confirm(decision)
        except StateChanged as e:
            self.history.refused.update((placed.allocation, str(e)) for placed in decision.placed)
        else:
            self.history.confirmed.update((placed.allocation, decision.request) for placed in decision.placed)

    # -- topics -------------------------------------------------------------------------------------------------------

    def read(self, kind: str) -> list[Entry]:
        """All records of a topic (hosts, claims, …) up to its present ends, by partition and offset."""
        return read_topic(self.settings.bootstrap, getattr(self.names, kind))

    def write(self, kind: str, key: bytes | None, value: bytes | None, partition: int = 0) -> int:
        """Write a record past all libraries; returns its offset."""
        offsets: list[int] = []

        def delivered(error: KafkaError | None, message: Message) -> None:
            assert error is None, error
            offsets.append(message.offset() or 0)

        producer = Producer({"bootstrap.servers": self.settings.bootstrap, **BARE}, logger=SILENT)
        producer.produce(getattr(self.names, kind), value, key, partition, on_delivery=delivered)
        assert producer.flush(WAIT_S) == 0
        return offsets[0]

    def decisions(self) -> dict[str, list[tuple[Entry, dict[str, Any]]]]:
        """Every decision by request, in log order; refusals of a reused id, which are nobody's effective answer, left out."""
        found: dict[str, list[tuple[Entry, dict[str, Any]]]] = {}
        for entry in self.read("decisions"):
            record = parsed(entry)
            if record is not None and record.get("type") == "decision" and record.get("reason") != "id_reused":
                found.setdefault(record["request"], []).append((entry, record))
        return found

    def ledgers(self) -> "Ledgers":
        """The hosts as their reports say."""
        ledgers = Ledgers()
        for entry in self.read("hosts"):
            ledgers.fold(entry)
        return ledgers

    # -- check --------------------------------------------------------------------------------------------------------

    def check(self, *, unprovable: bool = False) -> audit.AuditReport:
        """Everybody answered, once; topics and client agree; what is confirmed is active; the audit is clean."""
        self.answered()
        assert not self.history.errors(), list(self.history.errors().items())[:3]
        self.frontend.flush(WAIT_S)
        self._check_decisions()
        self._await_allocations()
        report = audit.run(self.settings)
        broken = {n: tally.violations[:5] for n, tally in report.tallies.items() if tally.violated}
        assert report.verdict == "clean", f"{broken}\n{self.around(broken)}\nlogs in {self.stack.work_dir}"
        lost = {n: dict(tally.reasons) for n, tally in report.tallies.items() if tally.unprovable}
        assert unprovable or not lost, lost
        self.good = not lost  # what was lost stays lost to all later checks
        return report

    def _check_decisions(self) -> None:
        decisions, answers = self.decisions(), self.history.answers()
        asked = [parsed(entry) or {} for entry in self.read("requests")]
        undecided = {r["id"] for r in asked if r.get("type") == "build" and is_word(r.get("id"))} - decisions.keys()
        assert not undecided, f"requests in the log without a decision: {sorted(undecided)[:5]}"
        for request, answer in answers.items():
            _, effective = decisions[request][0]
            assert effective["result"] == answer.result, (request, decisions[request])
            assert allocations(effective) == [p.allocation for p in answer.placed], (request, decisions[request])

    def _await_allocations(self) -> None:
        """What was confirmed and not released is active, once; nothing else is held once all leases are over."""
        wanted = self.history.confirmed.keys() - self.history.released
        decisions = self.decisions()
        once = {a for found in decisions.values() for a in allocations(found[0][1])}
        assert wanted <= once, f"confirmed, and not in an effective decision: {sorted(wanted - once)[:5]}"

        def settled() -> str:
            held = self.ledgers().held()
            active = {a for a, (_, allocation) in held.items() if allocation.get("state") == "active"}
            leased = held.keys() - active
            if active == wanted and not leased:
                return ""
            odd = sorted(active ^ wanted | leased)
            return f"missing {wanted - active}, more {active - wanted}, leased {leased}: {self.story(odd[0])}"

        until(settled, timeout_s=WAIT_S / 2)

    def around(self, broken: Mapping[int, Sequence[Violation]]) -> str:
        """The records before and at each violation, for the message of a failed test."""
        rows = []
        for violation in (v for violations in broken.values() for v in violations):
            entries = [
                e for e in read_topic(self.settings.bootstrap, violation.topic) if e.partition == violation.partition
            ]
            [at] = [e for e in entries if e.offset == violation.offset]
            host = (at.key or b"").partition(b"/")[0]
            near = [e for e in entries if e.offset <= at.offset and e.key and e.key.startswith(host)][-3:]
            rows += [f"{e.time_ms} {e.partition}/{e.offset} {e.key!r} {e.value!r:.300}" for e in near]
        return "\n".join(rows)

    def story(self, allocation: str) -> str:
        """Every record that names the allocation, by log time, for the message of a failed test."""
        rows = []
        for kind in ("claims", "hosts", "decisions"):
            named = [entry for entry in self.read(kind) if allocation.encode() in (entry.value or b"")]
            rows += [(entry.time_ms, kind, entry) for entry in named]
        return "\n".join(
            f"{at} {kind} {e.partition}/{e.offset} {e.key!r} {e.value!r:.3000}" for at, kind, e in sorted(rows)
        )


class Ledgers:
    """Reports folded by hand, as docs/protocol.md says: start fences, snapshot replaces, delta applies to its snapshot."""

    def __init__(self) -> None:
        self.partitions: dict[
            str, int
        ] = {}  # of a host, as its first record has it: who copies one elsewhere comes later
        self.epochs: dict[str, int] = {}
        self.generations: dict[tuple[str, int], int] = {}
        self.snapshots: dict[str, dict[str, Any]] = {}
        self.now: dict[str, dict[str, dict[str, Any]]] = {}  # host → allocation id → allocation
        self.builds_max: dict[str, int] = {}  # host → most builds in progress that any report showed

    def fold(self, entry: Entry) -> None:
        report = parsed(entry)
        if report is None or entry.key is None or not entry.key.startswith(f"{report.get('host')}/".encode()):
            return
        host = report["host"]
        if self.partitions.setdefault(host, entry.partition) != entry.partition:
            return
        if report["type"] == "start":
            self.epochs[host] = entry.offset
            return
        if report.get("epoch") != self.epochs.get(host):
            return
        before = self.generations.get((host, report["epoch"]), 0)
        if not isinstance(report.get("generation"), int) or report["generation"] <= before:
            return
        self.generations[host, report["epoch"]] = report["generation"]
        if report["type"] == "snapshot":
            self.snapshots[host] = report
            held = {a["id"]: a for a in report.get("allocations", [])}
        elif report.get("base_generation") == self.snapshots.get(host, {}).get("generation"):
            held = {a["id"]: a for a in self.snapshots[host].get("allocations", [])}
            for allocation in report.get("removed", []):
                held.pop(allocation, None)
            held |= {a["id"]: a for a in report.get("upserts", [])}
        else:
            return
        self.now[host] = held
        builds = sum(1 for a in held.values() if a.get("building"))
        self.builds_max[host] = max(builds, self.builds_max.get(host, 0))

    def held(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """Allocation id → host and allocation; an id on two hosts fails."""
        found: dict[str, tuple[str, dict[str, Any]]] = {}
        for host, allocations in self.now.items():
            for name, allocation in allocations.items():
                assert name not in found, f"{name} is on {host} and on {found[name][0]}"
                found[name] = (host, allocation)
        return found


BARE: Mapping[str, Any] = {"message.max.bytes": 1_048_000}
SILENT = logging.getLogger("test-kafka")


def read_topic(bootstrap: str, topic: str) -> list[Entry]:
    """All records of a topic up to its present ends, by partition and offset."""
    config = {"bootstrap.servers": bootstrap, "group.id": "test-reader", "enable.auto.commit": False}
    consumer = Consumer({**config, "enable.partition.eof": True, "fetch.queue.backoff.ms": 1}, logger=SILENT)
    try:
        partitions = consumer.list_topics(topic, timeout=WAIT_S).topics[topic].partitions
        left = set(partitions)
        consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        entries = []
        while left:
            first = consumer.poll(WAIT_S)
            assert first is not None, f"{topic}: no end reached"
            messages = [first, *consumer.consume(1_000, 0)]
            for message in messages:
                error = message.error()
                if error is not None:
                    assert error.code() == KafkaError._PARTITION_EOF, error
                    left.discard(message.partition() or 0)
                else:
                    entries.append(_entry(message))
    finally:
        consumer.close()
    return sorted(entries)


def _entry(message: Message) -> Entry:
    key, value = message.key(), message.value()
    assert key is None or isinstance(key, bytes)
    assert value is None or isinstance(value, bytes)
    return Entry(message.partition() or 0, message.offset() or 0, message.timestamp()[1], key, value, trace_of(message))


def parsed(entry: Entry) -> dict[str, Any] | None:
    """The record as a JSON object; None for tombstones and garbage."""
    try:
        record = entry.json()
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def is_word(value: object) -> bool:
    """Whether it can be a request's id."""
    return isinstance(value, str) and value.isascii() and value.isprintable() and 0 < len(value) <= 128


def allocations(decision: Mapping[str, Any]) -> list[str]:
    return [placed["allocation"] for placed in decision.get("placed", [])]


def until(why_not: Callable[[], str], timeout_s: float = WAIT_S, pause_s: float = 0.1) -> None:
    """Wait until `why_not` has nothing to say; past the time fail with what it says."""
    deadline = time.monotonic() + timeout_s
    while why := why_not():
        assert time.monotonic() < deadline, why
        time.sleep(pause_s)
