"""Many hosts' ledgers in one process, and the records that they write; who holds them says where these go."""

from collections import Counter
from typing import Final, NamedTuple

from commonplace.agent.shapes import parse_shape
from commonplace.bench.flavors import HOST_SHAPE
from commonplace.clock import wall_s
from commonplace.core.codec import encode
from commonplace.core.host_keys import delta_key, snapshot_key, start_key
from commonplace.core.ledger import Ledger
from commonplace.core.ledger_events import Bounds, Configure, Taken, Up
from commonplace.core.partition import partition_of
from commonplace.core.records.claims import Claim, Confirm, Release
from commonplace.core.records.control import Flavor
from commonplace.core.records.hosts import Allocation, Start
from commonplace.core.replica_events import Raw

AGENT: Final = "bench"
DELTA_MAX: Final = 24
"""Changes past which agents write a snapshot instead of a delta (agent.delta_allocations_max)."""

LEASE_MS: Final = 300_000
TRAITS: Final = ("HW_CPU_X86_AVX2",)


class Written(NamedTuple):
    """One record and where it stands."""

    partition: int
    offset: int
    key: bytes
    value: bytes
    log_time_ms: int

    @property
    def raw(self) -> Raw:
        """As a reader of its partition sees it."""
        return (self.offset, self.log_time_ms, self.key, self.value)


class Ledgers:
    """Hosts host-00001 … of one shape; nobody else writes the partitions that they write. `topic` is the id of the claims topic."""

    def __init__(self, count: int, partitions: int = 1, topic: str = "claims") -> None:
        self.names = [f"host-{number:05d}" for number in range(1, count + 1)]
        self.partitions, self.topic = partitions, topic
        self.of: dict[str, Ledger] = {}
        self.reports: Counter[int] = Counter()
        self.claims: Counter[int] = Counter()
        shape = parse_shape(HOST_SHAPE)
        self._here = Configure(inventory=shape.inventory(), traits=TRAITS, labels={"zone": "z1"})

    def start(self, host: str) -> Written:
        """The host's start record: its ledger begins, empty."""
        record = self._written(host, start_key(host), encode(Start(host=host, agent=AGENT)))
        ledger = Ledger(host, record.offset, record.log_time_ms, self.topic, -1, Bounds())
        ledger.receive(self._here, 0)
        self.of[host] = ledger
        return record

    def take(self, record: Claim | Confirm | Release) -> Written:
        """A record of claims, taken by its host's ledger."""
        partition = partition_of(record.host, self.partitions)
        offset, now_ms = self.claims[partition], _now_ms()
        self.claims[partition] += 1
        self.of[record.host].receive(Taken(offset, now_ms, record), 0)
        return Written(partition, offset, record.host.encode(), encode(record), now_ms)

    def report(self, host: str, whole: bool = False) -> Written:
        """The host's next report, all claims so far read: a delta, or a snapshot where agents would write one or `whole` asks for it."""
        ledger = self.of[host]
        ledger.claims_through = self.claims[partition_of(host, self.partitions)] - 1
        if whole or ledger.generation == 0 or ledger.changes > max(DELTA_MAX, len(ledger.allocations) // 2):
            return self._written(host, snapshot_key(host, ledger.epoch), encode(ledger.snapshot(AGENT)))
        return self._written(host, delta_key(host, ledger.epoch), encode(ledger.delta()))

    def begin(self) -> list[Written]:
        """Start records and first snapshots of all hosts."""
        return [record for host in self.names for record in (self.start(host), self.report(host))]

    def fill(self, host: str, number: int, flavor: Flavor) -> list[Written]:
        """The claim and the confirm of an instance of a flavor, which then runs; the flavor must fit."""
        allocation = allocation_of(f"{host}-{number:x}", flavor)
        claim = self.take(claim_of(host, allocation))
        confirm = self.take(Confirm(host=host, request=allocation.request, allocation=allocation.id))
        held = self.of[host].receive(Up(allocation.id), 0)
        assert held, f"{flavor.name} number {number} does not fit on {host}"
        return [claim, confirm]

    def _written(self, host: str, key: bytes, value: bytes) -> Written:
        partition = partition_of(host, self.partitions)
        self.reports[partition] += 1
        return Written(partition, self.reports[partition] - 1, key, value, _now_ms())


def allocation_of(name: str, flavor: Flavor) -> Allocation:
    """An allocation to claim, with ids as long as those of replicas and frontends."""
    return Allocation(id=f"a-{name}", request=f"r-{name}", flavor=flavor.name, resources=flavor.resources)


def claim_of(host: str, allocation: Allocation) -> Claim:
    """A claim that is granted if there is room."""
    return Claim(host=host, request=allocation.request, mode="fits", lease_ms=LEASE_MS, allocations=[allocation])


def _now_ms() -> int:
    return int(wall_s() * 1000)
