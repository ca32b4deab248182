"""A world without a broker: the shipped cores joined by logs in memory, stepped by hand. Nothing here knows the rules they follow."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from commonplace.core import replica_events as re
from commonplace.core.codec import decode, encode
from commonplace.core.keeper import Keeper
from commonplace.core.keeper_events import (
    AskClaimsRange,
    CaptureEnd,
    ClaimsRange,
    ClaimsRead,
    EndCaptured,
    HostSpec,
    HostsRead,
    KeeperSettings,
    Quarantine,
    ReadClaims,
    Send,
)
from commonplace.core.keeper_events import Tick as KeeperTick
from commonplace.core.partition import partition_of
from commonplace.core.records.control import Flavor
from commonplace.core.records.decisions import Decision
from commonplace.core.records.requests import Build
from commonplace.core.replica import Replica
from commonplace.core.requests import request_key
from commonplace.core.resources import Inventory

Raw = tuple[int, int, bytes | None, bytes | None]
CLAIMS_ID = "claims-1"


def inventory(vcpus: int = 16, memory_mb: int = 65_536, disk_gb: int = 1_000) -> dict[str, Inventory]:
    return {
        "VCPU": Inventory(total=vcpus),
        "MEMORY_MB": Inventory(total=memory_mb),
        "DISK_GB": Inventory(total=disk_gb),
    }


def flavor(name: str = "small", vcpus: int = 1, memory_mb: int = 1024, disk_gb: int = 10, **more: Any) -> Flavor:
    return Flavor(name=name, resources={"VCPU": vcpus, "MEMORY_MB": memory_mb, "DISK_GB": disk_gb}, **more)


class Agent:
    """A keeper with its reading positions."""

    def __init__(self, world: "World", name: str, specs: Iterable[HostSpec], settings: KeeperSettings) -> None:
        self.world, self.keeper = world, Keeper(name, specs, world.partitions, f"{name}-nonce-{world.now}", settings)
        self.hosts_at = dict.fromkeys(range(world.partitions), 0)
        self.claims_at: dict[int, int] = {}
        self.other: list[Any] = []  # effects of drivers and operators, for the test to look at
        self.perform(self.keeper.begin(world.now))

    def perform(self, effects: Iterable[Any]) -> None:
        todo = list(effects)
        while todo:
            effect = todo.pop(0)
            match effect:
                case Send(partition, key, value, _):
                    self.world.append("hosts", partition, key, value)
                case AskClaimsRange(partition):
                    end = len(self.world.log["claims", partition])
                    todo += self.receive_only(ClaimsRange(partition, CLAIMS_ID, 0, end))
                case ReadClaims(partition, offset):
                    self.claims_at[partition] = offset
                case CaptureEnd(partition):
                    end = len(self.world.log["claims", partition])
                    todo += self.receive_only(EndCaptured(partition, end, self.world.now))
                case _:
                    self.other.append(effect)

    def receive_only(self, event: Any) -> list[Any]:
        return list(self.keeper.receive(event, self.world.now))

    def receive(self, event: Any) -> None:
        self.perform(self.receive_only(event))

    def step(self) -> bool:
        """Read what is new; returns whether anything was."""
        moved = False
        for partition in range(self.world.partitions):
            records = self.world.log["hosts", partition][self.hosts_at[partition] :]
            if records:
                moved = True
                self.hosts_at[partition] += len(records)
                self.receive(HostsRead(partition, records))
            at = self.claims_at.get(partition)
            if at is not None:
                records = self.world.log["claims", partition][at:]
                moved = moved or bool(records)
                self.claims_at[partition] = at + len(records)
                self.receive(ClaimsRead(partition, records, at + len(records)))
        self.receive(KeeperTick())
        return moved


class Scheduler:
    """A replica with its reading positions; owns the request partitions it is given."""

    def __init__(
        self, world: "World", name: str, settings: re.ReplicaSettings, owned: Iterable[int] | None = None
    ) -> None:
        self.world = world
        self.replica = Replica(name, f"{name}-{world.now}", world.partitions, CLAIMS_ID, settings)
        self.at: dict[tuple[str, int], int] = defaultdict(int)
        self.committed: dict[int, int] = {}
        self.quarantined: list[Quarantine] = []
        self.owned = list(range(world.request_partitions)) if owned is None else list(owned)
        self._read_state()
        self.receive(re.CaughtUp())
        for partition in self.owned:
            self.own(partition)

    def own(self, partition: int) -> None:
        self.receive(re.Assigned(partition, len(self.world.log["requests", partition])))
        self.at["requests", partition] = max(0, self.world.committed.get(partition, 0))

    def receive(self, event: Any) -> None:
        todo = list(self.replica.receive(event, self.world.now))
        while todo:
            effect = todo.pop(0)
            match effect:
                case re.SendClaim(partition, key, value, allocation):
                    offset = self.world.append("claims", partition, key, value)
                    todo += self.replica.receive(re.ClaimDelivered(allocation, offset), self.world.now)
                case re.SendRelease(partition, key, value, token):
                    self.world.append("claims", partition, key, value)
                    todo += self.replica.receive(re.ReleaseDelivered(token, True), self.world.now)
                case re.SendDecision(partition, key, value, token):
                    self.world.append("decisions", partition, key, value)
                    todo += self.replica.receive(re.DecisionDelivered(token, True), self.world.now)
                case re.Commit(partition, offset):
                    self.committed[partition] = self.world.committed[partition] = offset
                case re.ReadHistory(partition, _):
                    self._read_decisions(partition)
                    todo += self.replica.receive(re.HistoryRead(partition), self.world.now)
                case Quarantine():
                    self.quarantined.append(effect)

    def _new(self, topic: str, partition: int) -> list[Raw]:
        records = self.world.log[topic, partition][self.at[topic, partition] :]
        self.at[topic, partition] += len(records)
        return records

    def _read_state(self) -> bool:
        moved = False
        for partition in range(self.world.partitions):
            records = self._new("hosts", partition)
            if records:
                moved = True
                self.receive(re.HostsRead(partition, records))
        for topic, event in (("control", re.ControlRead), ("replicas", re.PeersRead)):
            records = self._new(topic, 0)
            if records:
                moved = True
                self.receive(event(records))
        return moved

    def _read_decisions(self, partition: int) -> bool:
        records = self._new("decisions", partition)
        if records:
            self.receive(re.DecisionsRead(partition, records))
        return bool(records)

    def step(self) -> bool:
        moved = self._read_state()
        for partition in self.owned:
            moved = self._read_decisions(partition) or moved
            records = self._new("requests", partition)
            if records:
                moved = True
                self.receive(re.RequestsRead(partition, records))
        self.receive(re.Tick())
        self.receive(re.Turn())
        return moved


class World:
    """Logs of every topic, and a clock that only the test moves."""

    def __init__(self, partitions: int = 2, request_partitions: int = 2) -> None:
        self.partitions, self.request_partitions = partitions, request_partitions
        self.now = 1_000_000
        self.log: dict[tuple[str, int], list[Raw]] = defaultdict(list)
        self.committed: dict[int, int] = {}
        self.members: list[Agent | Scheduler] = []
        self.flavors: dict[str, Flavor] = {}

    def append(self, topic: str, partition: int, key: bytes | None, value: bytes | None) -> int:
        log = self.log[topic, partition]
        log.append((len(log), self.now, key, value))
        return len(log) - 1

    def flavor(self, record: Flavor) -> None:
        self.flavors[record.name] = record
        self.append("control", 0, f"flavor/{record.name}".encode(), encode(record))

    def agent(
        self, *hosts: str, name: str = "agent", settings: KeeperSettings | None = None, specs: Iterable[HostSpec] = ()
    ) -> Agent:
        described = [*specs, *(HostSpec(name=host, inventory=inventory()) for host in hosts)]
        agent = Agent(self, name, described, settings or KeeperSettings())
        self.members.append(agent)
        return agent

    def scheduler(self, name: str = "r1", owned: Iterable[int] | None = None, **settings: Any) -> Scheduler:
        scheduler = Scheduler(self, name, re.ReplicaSettings(**settings), owned)
        self.members.append(scheduler)
        return scheduler

    def submit(self, build: Build) -> int:
        key = (
            request_key(build, self.flavors[build.flavor]).encode()
            if build.flavor in self.flavors
            else build.flavor.encode()
        )
        partition = partition_of(key, self.request_partitions)
        self.append("requests", partition, key, encode(build))
        return partition

    def settle(self, steps: int = 200) -> None:
        """Let everybody go on until nothing moves."""
        for _ in range(steps):
            moved = [member.step() for member in self.members]
            if not any(moved):
                return
        raise AssertionError(f"the world does not come to rest in {steps} steps")

    def decisions(self, request: str) -> list[Decision]:
        """Every decision of a request, in log order."""
        found = []
        for partition in range(self.request_partitions):
            found += [
                decode("decisions", value)
                for _, _, key, value in self.log["decisions", partition]
                if key == request.encode() and value
            ]
        return found
