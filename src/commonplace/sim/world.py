"""One schedule's world: everybody who lives in it, from birth to death, and what happens to them.

items and faults, as data ──▶ heap of (time, serial, what) ──▶ processes: turns and flushes ──▶ logs ──▶ checkers
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from msgspec.structs import replace

from commonplace.sim import plan
from commonplace.sim.agents import AgentProcess
from commonplace.sim.frontends import FrontendProcess
from commonplace.sim.members import Process
from commonplace.sim.replicas import ReplicaProcess
from commonplace.sim.settings import said_first
from commonplace.sim.surroundings import Surroundings
from commonplace.sim.trace import Trace
from commonplace.sim.wires import Reader

START_MS: Final = 1_000
"""Items and faults count from here: the fleet has started by then, unless it is slow."""


class World(Surroundings):
    """Everything of one schedule. `apply` does what an item or a fault says; it is given, so that this module knows neither."""

    def __init__(
        self, schedule: plan.Schedule, apply: Callable[["World", Any], None], trace: Trace | None = None
    ) -> None:
        self.agents: list[AgentProcess] = []
        self.replicas: list[ReplicaProcess] = []
        self.frontends: list[FrontendProcess] = []
        super().__init__(schedule, self.replicas, trace)
        self.apply = apply
        self.calm_ms = 0  # when faults stopped
        self.forgotten: set[str] = set()
        self.digests = 0
        self._make_fleet()

    # -- making -------------------------------------------------------------------------------------------------------

    def _make_fleet(self) -> None:
        c, schedule = self.config, self.schedule
        names = list(self.machines)
        self.units = [names[i :: c.agents] for i in range(min(c.agents, len(names)))]
        self.say_all()
        for unit in range(len(self.units)):
            self.start_agent(unit)
        for number in range(c.replicas):
            self.start_replica(f"r{number}")
        for number in range(c.frontends):
            self.frontends.append(FrontendProcess(self, f"f{number}"))
        for fault in schedule.faults:
            if not fault.on:
                self.at(START_MS + fault.at_ms, self.happen, fault)
        for item in schedule.items:
            self.at(START_MS + item.at_ms, self.apply, self, item)

    def say_all(self) -> None:
        """What operators say on `control` at the beginning, and when it was made anew."""
        for key, value in said_first(self.config):
            self.append("control", 0, key, value)

    # -- what happens -------------------------------------------------------------------------------------------------

    def happen(self, fault: plan.Fault, sender: Reader | None = None) -> None:
        """See `Surroundings`; one that is for its sender finds it among those who live."""
        if not self.faulty:
            return
        if fault.what == plan.SENDER:
            alike = next((ones for ones in (self.replicas, self.agents, self.frontends) if sender in ones), None)
            if alike is None:
                return  # it is gone
            fault = replace(fault, pick=alike.index(sender))  # type: ignore[arg-type]  # it is one of them
        self.apply(self, fault)

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

    # -- who lives ----------------------------------------------------------------------------------------------------

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

    def dissolve(self) -> None:
        """Let go of everything: a world is one big ring of references, which a collector would have to walk."""
        for process in self.everybody:
            process.dissolve()
        checkers = self.checkers
        for ring in (checkers.reports, checkers.grants, checkers.owners, checkers.answers, checkers, self):
            vars(ring).clear()
