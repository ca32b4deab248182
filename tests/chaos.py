"""A world that goes wrong under a seed: late and lost acknowledgements, partial reads, crashes, zombies, takeovers, compacted logs.

The cores are the shipped ones; what is random is only who steps when, how much it reads, and what becomes of what it sends.
"""

from collections import defaultdict
from random import Random
from typing import Any

from commonplace.core import replica_events as re
from commonplace.core.codec import encode
from commonplace.core.keeper_events import ClaimsRead, HostSpec, HostsRead, KeeperSettings, Quarantine
from commonplace.core.keeper_events import Tick as KeeperTick
from commonplace.core.records.claims import Confirm
from commonplace.core.records.requests import Build, Cancel
from commonplace.core.replica import Replica
from world import CLAIMS_ID, Agent, Raw, World, flavor, inventory

LEASE_MS, DEADLINE_MS, CLAIM_TIMEOUT_MS = 6_000, 8_000, 2_000
KEEPER = KeeperSettings(snapshot_interval_ms=5_000, heartbeat_interval_ms=1_500, delta_allocations_max=4)
REPLICA = re.ReplicaSettings(
    lease_ms=LEASE_MS,
    lease_margin_ms=1_000,
    deadline_ms=DEADLINE_MS,
    claim_timeout_ms=CLAIM_TIMEOUT_MS,
    liveness_timeout_ms=20_000,
    peer_timeout_ms=3_000,
    claims_in_flight_max=6,
    queue_max=30,
)


def compacted(records: list[Raw], upto: int) -> list[Raw]:
    """A log whose first `upto` records were compacted: the last of each key stays."""
    last = {key: offset for offset, _, key, _ in records[:upto]}
    return [r for r in records[:upto] if last[r[2]] == r[0]] + records[upto:]


class Log(World):
    """A world whose appends are numbered over all topics."""

    def __init__(self) -> None:
        super().__init__(partitions=2, request_partitions=2)
        self.order: dict[tuple[str, int, int], int] = {}
        self.owner: dict[int, ChaosReplica] = {}

    def append(self, topic: str, partition: int, key: bytes | None, value: bytes | None) -> int:
        offset = super().append(topic, partition, key, value)
        self.order[topic, partition, offset] = len(self.order)
        return offset


class ChaosAgent(Agent):
    """An agent that reads as much as chance lets it."""

    def step_some(self, random: Random) -> None:
        for partition in range(self.world.partitions):
            log = self.world.log["hosts", partition]
            at = self.hosts_at[partition]
            upto = random.randint(at, len(log))
            if upto > at:
                self.hosts_at[partition] = upto
                self.receive(HostsRead(partition, log[at:upto]))
            claims_at = self.claims_at.get(partition)
            if claims_at is not None:
                log = self.world.log["claims", partition]
                upto = random.randint(claims_at, len(log))
                self.claims_at[partition] = upto
                self.receive(ClaimsRead(partition, log[claims_at:upto], upto))
        self.receive(KeeperTick())


class ChaosReplica:
    """A replica whose produces wait in its outbox, with reading positions of its own."""

    def __init__(self, world: Log, name: str, random: Random) -> None:
        self.world, self.name, self.random = world, name, random
        self.replica = Replica(name, f"{name}-n", world.partitions, CLAIMS_ID, REPLICA)
        self.at: dict[tuple[str, int], int] = defaultdict(int)
        self.owned: set[int] = set()
        self.histories: dict[int, int] = {}
        self.paused: set[int] = set()
        self.outbox: list[Any] = []
        self.faults = True
        for partition in range(world.partitions):
            log = world.log["hosts", partition]
            self.receive(re.HostsRead(partition, compacted(log, random.randint(0, len(log)))))
            self.at["hosts", partition] = len(log)
        self.receive(re.ControlRead(self._new("control", 0)))
        self.receive(re.CaughtUp())

    def own(self, partition: int) -> None:
        self.owned.add(partition)
        self.at["requests", partition] = max(0, self.world.committed.get(partition, 0))
        self.receive(re.Assigned(partition, len(self.world.log["requests", partition])))

    def cede(self, partition: int) -> None:
        self.owned.discard(partition)
        self.paused.discard(partition)
        self.histories.pop(partition, None)
        self.receive(re.Lost(partition))

    def receive(self, event: Any) -> None:
        for effect in self.replica.receive(event, self.world.now):
            if isinstance(effect, re.ReadHistory):
                self._read_history(effect)
            elif isinstance(effect, re.Commit):
                if effect.partition in self.owned and self.world.owner.get(effect.partition) is self:
                    self.world.committed[effect.partition] = effect.offset
            elif not isinstance(effect, Quarantine):
                self.outbox.append(effect)

    def _read_history(self, effect: re.ReadHistory) -> None:
        log = self.world.log["decisions", effect.partition]
        self.at["decisions", effect.partition] = next(
            (offset for offset, at_ms, _, _ in log if at_ms >= effect.from_ms), len(log)
        )
        self.histories[effect.partition] = len(log)
        self.paused.add(effect.partition)

    def _new(self, topic: str, partition: int, most: int | None = None) -> list[Raw]:
        log, at = self.world.log[topic, partition], self.at[topic, partition]
        upto = len(log) if most is None else min(len(log), at + most)
        self.at[topic, partition] = upto
        return log[at:upto]

    def _some(self) -> int | None:
        return self.random.choice((0, 1, 3, None)) if self.faults else None

    def flush(self, most: int) -> None:
        """Deliver what was sent, in order; under faults some is lost, and some acknowledgements are."""
        todo, self.outbox = self.outbox[:most], self.outbox[most:]
        for effect in todo:
            lost = self.faults and self.random.random() < 0.03
            silent = lost or (self.faults and self.random.random() < 0.03)
            topic = "decisions" if isinstance(effect, re.SendDecision) else "claims"
            offset = -1 if lost else self.world.append(topic, effect.partition, effect.key, effect.value)
            match effect:
                case re.SendClaim(_, _, _, allocation):
                    self.receive(re.ClaimDelivered(allocation, -1 if silent else offset))
                case re.SendRelease(_, _, _, token):
                    self.receive(re.ReleaseDelivered(token, not silent))
                case re.SendDecision(_, _, _, token):
                    self.receive(re.DecisionDelivered(token, not silent))

    def step(self) -> None:
        for partition in range(self.world.partitions):
            if records := self._new("hosts", partition, self._some()):
                self.receive(re.HostsRead(partition, records))
        if records := self._new("control", 0):
            self.receive(re.ControlRead(records))
        for partition in sorted(self.owned):
            self._decisions(partition)
            if partition not in self.paused and (records := self._new("requests", partition, self._some())):
                self.receive(re.RequestsRead(partition, records))
        self.receive(re.Tick())
        self.receive(re.Turn())
        self.flush(self.random.choice((0, 1, 2, 50)) if self.faults else 1_000)

    def _decisions(self, partition: int) -> None:
        if ("decisions", partition) in self.at and (records := self._new("decisions", partition, self._some())):
            self.receive(re.DecisionsRead(partition, records))
        end = self.histories.get(partition)
        if end is not None and self.at["decisions", partition] >= end:
            del self.histories[partition]
            self.paused.discard(partition)
            self.receive(re.HistoryRead(partition))


class Chaos:
    """One schedule: replicas, agents, a frontend, faults, and a quiet end."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.world = Log()
        self.world.flavor(flavor("small"))
        self.world.flavor(flavor("uno", vcpus=2))
        self.world.flavor(flavor("large", vcpus=5))
        self.hosts = [f"h{i}" for i in range(self.random.randint(2, 4))]
        self.agents: list[ChaosAgent] = []
        self.replicas: list[ChaosReplica] = []
        self.builds: dict[str, tuple[Build, int, int]] = {}  # id → request, its partition, when submitted first
        self.confirmed: dict[str, int] = {}
        self.serial = 0
        self.start_agent()
        for _ in range(30):
            for agent in self.agents:
                agent.step()
        for partition in range(self.world.request_partitions):
            self.take_over(partition)

    # -- faults -------------------------------------------------------------------------------------------------------------------------

    def start_agent(self) -> None:
        self.serial += 1
        specs = [HostSpec(name=host, inventory=inventory(vcpus=8)) for host in self.hosts]
        self.agents.append(ChaosAgent(self.world, f"agent{self.serial}", specs, KEEPER))

    def new_replica(self) -> ChaosReplica:
        self.serial += 1
        replica = ChaosReplica(self.world, f"r{self.serial}", self.random)
        self.replicas.append(replica)
        return replica

    def take_over(self, partition: int) -> None:
        """Another replica gets the partition; the one before may learn of it now, later or never."""
        old = self.world.owner.get(partition)
        others = [replica for replica in self.replicas if replica is not old and partition not in replica.owned]
        new = self.random.choice(others) if others and self.random.random() < 0.5 else self.new_replica()
        self.world.owner[partition] = new
        new.own(partition)
        if old is None:
            return
        fate = self.random.random()
        if fate < 0.4:
            old.cede(partition)
        elif fate < 0.7:
            self.crash(old)

    def crash(self, replica: ChaosReplica) -> None:
        if replica in self.replicas:
            self.replicas.remove(replica)
            for partition, owner in list(self.world.owner.items()):
                if owner is replica:
                    del self.world.owner[partition]
                    self.take_over(partition)

    # -- frontend -----------------------------------------------------------------------------------------------------------------------

    def submit(self) -> None:
        if self.builds and self.random.random() < 0.2:  # a duplicate, or a cancel
            build, partition, _ = self.builds[self.random.choice(sorted(self.builds))]
            if self.random.random() < 0.5:
                self.world.submit(build)
            else:
                cancel = Cancel(id=build.id, flavor=build.flavor)
                self.world.append("requests", partition, build.flavor.encode(), encode(cancel))
            return
        self.serial += 1
        build = Build(
            id=f"b{self.serial}",
            flavor=self.random.choice(("small", "small", "uno", "large")),
            count=self.random.choice((1, 1, 1, 2, 3)),
            group="g",
            group_max=self.random.choice((0, 0, 0, 1, 3)),
        )
        self.builds[build.id] = (build, self.world.submit(build), self.world.now)

    def frontend(self) -> None:
        for request, (_, _, submitted_ms) in self.builds.items():
            effective = next(iter(self.world.decisions(request)), None)
            if effective is None or effective.result != "placed" or request in self.confirmed:
                continue
            if self.random.random() < 0.3 and self.world.now < submitted_ms + effective.confirm_within_ms:
                self.confirmed[request] = self.world.now
                for placed in effective.placed:
                    confirm = Confirm(host=placed.host, request=request, allocation=placed.allocation)
                    self.world.append("claims", placed.grant.partition, placed.host.encode(), encode(confirm))

    # -- one schedule -------------------------------------------------------------------------------------------------------------------

    def run(self, steps: int = 60) -> None:
        random = self.random
        for _ in range(steps):
            self.world.now += random.choice((0, 1, 20, 200, 900))
            chance = random.random()
            if chance < 0.3:
                self.submit()
            elif chance < 0.34:
                self.take_over(random.randrange(2))
            elif chance < 0.36:
                self.start_agent()  # the one before goes on until it reads the new one's start records, or is dead at once
                if random.random() < 0.6:
                    self.agents.pop(0)
            elif chance < 0.38 and self.replicas:
                self.crash(random.choice(self.replicas))
            for member in random.sample(self.replicas, len(self.replicas)):
                if random.random() < 0.6:
                    member.step()
            for agent in self.agents:
                if random.random() < 0.6:
                    agent.step_some(random)
            if random.random() < 0.2:
                self.frontend()
        self.quiet()

    def quiet(self) -> None:
        """Faults stop; everything that is due comes."""
        for replica in self.replicas:
            replica.faults = False
            for partition in list(replica.owned):
                if self.world.owner.get(partition) is not replica:
                    replica.cede(partition)
        for _ in range(100):
            self.world.now += 250
            for replica in self.replicas:
                replica.step()
            for agent in self.agents:
                agent.step()
        for replica in self.replicas:  # the agents wrote last
            replica.step()
