"""Racing replicas: the shipped cores, `Replica` and `Keeper`, joined by logs in memory and driven in virtual time. Nothing is lost here.

    frontend ──request──▶ replicas ──claim──▶ keeper ──report──▶ replicas ──decision──▶ frontend ──confirm, release──▶ keeper

Every reader sees a record only its own delay after it was written, between the two delays of the pace, and turns come every
STEP_MS in an order of their own. So views are as stale as they are over a broker, and claims meet claims that nobody knew of.
"""

import random
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from time import process_time_ns
from typing import Any, NamedTuple

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from commonplace.bench.cases import Case
from commonplace.bench.fullness import Figures, State, Watch, capacities, state
from commonplace.collector import calmed
from commonplace.core import keeper_events as ke
from commonplace.core import replica_events as re
from commonplace.core.codec import Bad, decode, encode
from commonplace.core.keeper import Keeper
from commonplace.core.ledger_events import Up
from commonplace.core.partition import partition_of
from commonplace.core.records.claims import Confirm, Release
from commonplace.core.records.control import Profile
from commonplace.core.records.decisions import Decision
from commonplace.core.records.requests import Build
from commonplace.core.replica import Replica
from commonplace.core.requests import request_key
from commonplace.ops.replay.schedule import Arrive

STEP_MS = 5
REPORT_MS = 5_000
CLAIMS = "claims-1"
HOST_PARTITIONS, REQUEST_PARTITIONS = 4, 64
"""So many keys a flavor too, so that requests of one flavor go to every replica."""

QUIET_MS = 120_000
"""A run that gets no answer for so long has come to a stop: a programmer's error."""

Raw = tuple[int, int, bytes | None, bytes | None]


class Pace(Struct, frozen=True, kw_only=True):
    """Requests a second, how late readers are (least, most), how claims are judged, and how many a request may make."""

    rate: float
    delay_ms: tuple[int, int]
    mode: str
    attempts_max: int = 16


class Logs:
    """The topics' partitions, and the time."""

    def __init__(self) -> None:
        self.now = 1_000_000
        self.of: dict[tuple[str, int], list[Raw]] = defaultdict(list)

    def append(self, topic: str, partition: int, key: bytes | None, value: bytes | None) -> int:
        """Write a record; returns its offset."""
        log = self.of[topic, partition]
        log.append((len(log), self.now, key, value))
        return len(log) - 1


class Reader:
    """Positions in partitions, and how late their records are seen."""

    def __init__(self, logs: Logs, delay_ms: int) -> None:
        self.logs, self.delay_ms = logs, delay_ms
        self.at: dict[tuple[str, int], int] = defaultdict(int)

    def new(self, topic: str, partition: int) -> list[Raw]:
        """What is to be seen by now and was not."""
        log, at = self.logs.of[topic, partition], self.at[topic, partition]
        end, limit = at, self.logs.now - self.delay_ms
        while end < len(log) and log[end][1] <= limit:
            end += 1
        self.at[topic, partition] = end
        return log[at:end]


class Agents:
    """The hosts, under one keeper; drivers bring every instance up at once."""

    def __init__(self, logs: Logs, case: Case, delay_ms: int) -> None:
        self.logs, self.case, self.reader = logs, case, Reader(logs, delay_ms)
        self.keeper = Keeper("fleet", case.hosts, HOST_PARTITIONS, "n", ke.KeeperSettings())
        self.claims: dict[int, int] = {}
        self.capacity = capacities(case.hosts)
        self._perform(self.keeper.begin(logs.now))

    def step(self) -> None:
        """One turn."""
        for partition in range(HOST_PARTITIONS):
            if records := self.reader.new("hosts", partition):
                self._receive(ke.HostsRead(partition, records))
            if partition in self.claims:
                records = self.reader.new("claims", partition)
                self._receive(ke.ClaimsRead(partition, records, self.reader.at["claims", partition]))
        self._receive(ke.Tick())

    def _receive(self, event: Any) -> None:
        self._perform(self.keeper.receive(event, self.logs.now))

    def _perform(self, effects: Iterable[ke.Effect]) -> None:
        todo = deque(effects)
        while todo:
            event: Any = None
            match todo.popleft():
                case ke.Send(partition, key, value, _):
                    self.logs.append("hosts", partition, key, value)
                case ke.AskClaimsRange(partition):
                    event = ke.ClaimsRange(partition, CLAIMS, 0, len(self.logs.of["claims", partition]))
                case ke.ReadClaims(partition, offset):
                    self.claims[partition] = self.reader.at["claims", partition] = offset
                case ke.CaptureEnd(partition):
                    event = ke.EndCaptured(partition, len(self.logs.of["claims", partition]), self.logs.now)
                case ke.StartInstance(host, allocation):
                    event = ke.DriverSaid(host, Up(allocation.id))
                case ke.StopInstance():
                    pass
                case other:
                    raise AssertionError(f"a fleet to which nothing happens asks for {other}")
            if event is not None:
                todo.extend(self.keeper.receive(event, self.logs.now))

    def state(self, answered: int) -> State:
        """The fleet as its ledgers have it."""
        ledgers = [kept.ledger for kept in self.keeper.hosts.values()]
        assert all(ledgers)
        free = {
            name: column - np.array([ledger.used.get(name, 0) for ledger in ledgers if ledger], np.int64)
            for name, column in self.capacity.items()
        }
        instances = np.array([len(ledger.allocations) for ledger in ledgers if ledger], np.int64)
        return state(self.capacity, free, instances, self.case.flavors.values(), answered)


class Scheduler:
    """One replica, with the request partitions it owns."""

    def __init__(self, logs: Logs, name: str, delay_ms: int, pace: Pace, owned: list[int]) -> None:
        self.logs, self.owned, self.reader = logs, owned, Reader(logs, delay_ms)
        settings = re.ReplicaSettings(
            mode=pace.mode, attempts_max=pace.attempts_max, request_partitions=REQUEST_PARTITIONS
        )
        self.replica = Replica(name, f"{name}-n", HOST_PARTITIONS, CLAIMS, settings)
        self.acknowledged: list[Any] = []
        self.reported_ms = 0
        self.spent_ns = self.folding_ns = 0
        view = self.replica.view
        view.fold = self._folding(view.fold)  # type: ignore[method-assign]
        view.write = self._folding(view.write)  # type: ignore[method-assign]
        self._state()
        self._receive(re.CaughtUp())
        for partition in owned:
            self._receive(re.Assigned(partition, 0))

    def step(self) -> None:
        """One turn of the shell's loop."""
        acknowledged, self.acknowledged = self.acknowledged, []
        for event in acknowledged:
            self._receive(event)
        self._state()
        for partition in self.owned:
            if records := self.reader.new("decisions", partition):
                self._receive(re.DecisionsRead(partition, records))
            if records := self.reader.new("requests", partition):
                self._receive(re.RequestsRead(partition, records))
        self._receive(re.Tick())
        self._receive(re.Turn())
        if self.logs.now - self.reported_ms >= REPORT_MS:
            self.reported_ms = self.logs.now
            report = self.replica.report("ready", {})
            self.logs.append("replicas", 0, self.replica.name.encode(), encode(report))

    def _state(self) -> None:
        for partition in range(HOST_PARTITIONS):
            if records := self.reader.new("hosts", partition):
                self._receive(re.HostsRead(partition, records))
        if records := self.reader.new("control", 0):
            self._receive(re.ControlRead(records))
        if records := self.reader.new("replicas", 0):
            self._receive(re.PeersRead(records))

    def _receive(self, event: Any) -> None:
        todo = deque(self._effects(event))
        while todo:
            match todo.popleft():
                case re.SendClaim(partition, key, value, allocation):
                    offset = self.logs.append("claims", partition, key, value)
                    self.acknowledged.append(re.ClaimDelivered(allocation, offset))
                case re.SendRelease(partition, key, value, token):
                    self.logs.append("claims", partition, key, value)
                    self.acknowledged.append(re.ReleaseDelivered(token, True))
                case re.SendDecision(partition, key, value, token):
                    self.logs.append("decisions", partition, key, value)
                    self.acknowledged.append(re.DecisionDelivered(token, True))
                case re.ReadHistory(partition, _):
                    todo.extend(self._effects(re.HistoryRead(partition)))
                case re.Commit():
                    pass
                case other:
                    raise AssertionError(f"a replica to which nothing happens asks for {other}")

    def _folding(self, part: Callable[..., Any]) -> Callable[..., Any]:
        """A part of folding that counts its CPU."""

        def counted(*told: Any) -> Any:
            start = process_time_ns()
            try:
                return part(*told)
            finally:
                self.folding_ns += process_time_ns() - start

        return counted

    def _effects(self, event: Any) -> list[Any]:
        start = process_time_ns()
        effects = self.replica.receive(event, self.logs.now)
        self.spent_ns += process_time_ns() - start
        return effects


class Frontend:
    """Whoever submits: confirms what it got, and releases it when the trace says so."""

    def __init__(self, logs: Logs, case: Case, watch: Watch, agents: Agents) -> None:
        self.logs, self.case, self.watch, self.agents = logs, case, watch, agents
        self.reader = Reader(logs, 0)
        self.placed: dict[str, Decision] = {}
        self.leaving: set[str] = set()

    def submit(self, event: Any) -> None:
        """An event of the trace."""
        if not isinstance(event, Arrive):
            self.leaving.add(event.id)
            if event.id in self.placed:
                self._release(self.placed.pop(event.id))
            return
        build = Build(id=event.arrival.id, flavor=event.arrival.flavor)
        key = request_key(build, self.case.flavors[build.flavor]).encode()
        self.logs.append("requests", partition_of(key, REQUEST_PARTITIONS), key, encode(build))

    def step(self) -> None:
        """Read what was decided."""
        for partition in range(REQUEST_PARTITIONS):
            for _, _, _, value in self.reader.new("decisions", partition):
                decision = decode("decisions", value or b"")
                assert not isinstance(decision, Bad), decision
                self._decided(decision)

    def _decided(self, decision: Decision) -> None:
        if decision.result != "placed":
            return self.watch.refused(f"{decision.result}: {decision.reason}", self.agents.state)
        placed = decision.placed[0]
        self._to(placed.host, Confirm(host=placed.host, request=decision.request, allocation=placed.allocation))
        if decision.request in self.leaving:
            self._release(decision)
        else:
            self.placed[decision.request] = decision
        return self.watch.placed(self.agents.state)

    def _release(self, decision: Decision) -> None:
        placed = decision.placed[0]
        self._to(placed.host, Release(host=placed.host, request=decision.request, allocation=placed.allocation))

    def _to(self, host: str, record: Confirm | Release) -> None:
        self.logs.append("claims", partition_of(host, HOST_PARTITIONS), host.encode(), encode(record))


class Race(NamedTuple):
    """What came of it, and the replicas' CPU from the first request on: all of it, and what folding took."""

    figures: Figures
    spent_ns: int
    folding_ns: int


def racing(case: Case, profile: Profile, count: int, pace: Pace, seed: int) -> Figures:
    """Replay a case by `count` replicas under a profile."""
    return race(case, profile, count, pace, seed).figures


def race(case: Case, profile: Profile, count: int, pace: Pace, seed: int) -> Race:
    """The same, with what else can be measured of it."""
    rng, logs = random.Random(f"racing/{seed}"), Logs()
    figures = Figures(contender=f"commonplace {profile.name}", replicas=count)
    watch = Watch(figures, case.half_at)
    logs.append("control", 0, f"profile/{profile.name}".encode(), encode(profile))
    for flavor in case.flavors.values():
        logs.append("control", 0, f"flavor/{flavor.name}".encode(), encode(replace(flavor, profile=profile.name)))
    agents = Agents(logs, case, pace.delay_ms[0])
    _let(logs, 2_000, [agents])  # starts, first snapshots, claims read
    schedulers = [
        Scheduler(logs, f"r{n}", rng.randint(*pace.delay_ms), pace, list(range(n, REQUEST_PARTITIONS, count)))
        for n in range(count)
    ]
    everyone: list[Agents | Scheduler] = [agents, *schedulers]
    _let(logs, 3_000, everyone)  # until each knows of the others, and which hosts it prefers
    for scheduler in schedulers:
        scheduler.spent_ns = scheduler.folding_ns = 0
    with calmed():  # as a replica's process is
        _run(logs, case, pace, Frontend(logs, case, watch, agents), everyone, rng)
    figures.end = agents.state(watch.answered)
    counts = [scheduler.replica.claims.counts for scheduler in schedulers]
    rejected = sum(sum(one.rejected.values()) for one in counts)
    figures.retries = rejected
    figures.conflict_fraction = round(rejected / max(1, sum(one.granted for one in counts)), 5)
    return Race(figures, sum(one.spent_ns for one in schedulers), sum(one.folding_ns for one in schedulers))


def _run(
    logs: Logs, case: Case, pace: Pace, frontend: Frontend, everyone: list[Agents | Scheduler], rng: random.Random
) -> None:
    """Submit the case's requests at their pace until all are answered, and what follows from that has happened."""
    watch = frontend.watch
    began_ms, sent, answered_ms = logs.now, 0, logs.now
    while watch.answered < case.arrivals:
        before = watch.answered
        due = min(len(case.events), int((logs.now - began_ms) * pace.rate / 1000))
        for event in case.events[sent:due]:
            frontend.submit(event)
        sent = due
        rng.shuffle(everyone)
        _let(logs, STEP_MS, everyone)
        frontend.step()
        answered_ms = logs.now if watch.answered > before or sent < len(case.events) else answered_ms
        assert logs.now - answered_ms < QUIET_MS, f"{case.arrivals - watch.answered} requests are never answered"
    _let(logs, 2_000, everyone)  # confirms, and claims nobody waits for any more


def _let(logs: Logs, ms: int, everyone: Iterable[Agents | Scheduler]) -> None:
    """Let time pass, and everybody have their turns."""
    for _ in range(0, ms, STEP_MS):
        logs.now += STEP_MS
        for one in everyone:
            one.step()
