"""A hosts topic written by hand: what agents would report, encoded by the shipped records and hashed as the protocol says."""

from typing import Any

from confluent_kafka import Message

from commonplace.core import hashing
from commonplace.core.codec import encode
from commonplace.core.host_keys import delta_key, snapshot_key, start_key
from commonplace.core.partition import partition_of
from commonplace.core.records.hosts import Allocation, Delta, Snapshot, Start
from commonplace.core.resources import Inventory
from commonplace.kafka import client
from commonplace.kafka.topics import Topics
from commonplace.settings import Settings

INVENTORY = {"VCPU": Inventory(total=16), "MEMORY_MB": Inventory(total=65_536), "DISK_GB": Inventory(total=500)}


def allocation(name: str = "a-1", request: str = "r-1", **fields: Any) -> Allocation:
    """An instance of 4 vCPU and 8 GB."""
    resources = {"VCPU": 4, "MEMORY_MB": 8192}
    return Allocation(**{"id": name, "request": request, "instance": f"{request}.0", "resources": resources, **fields})


def reported(host: str, epoch: int, *allocations: Allocation, generation: int = 1, **fields: Any) -> Snapshot:
    """A full report with the hash of what it says."""
    said = {"inventory": INVENTORY, "traits": (), "labels": {}, "status": "enabled", "agent": "agent-1", **fields}
    part = hashing.host_part(said["inventory"], said["traits"], said["labels"], said["status"], said.get("cells", {}))
    total = (part + sum(hashing.allocation_hash(a) for a in allocations)) & hashing.MASK
    return Snapshot(
        host=host,
        epoch=epoch,
        generation=generation,
        claims_topic="claims-1",
        claims_through=-1,
        hash=said.pop("hash", None) or hashing.to_hex(total),
        allocations=list(allocations),
        **said,
    )


class Reporter:
    """Writes reports of hosts, as their agents would."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.names = Topics(settings.topics.prefix, settings.topics.pool)
        self._producer = client.producer(settings)

    def write(self, topic: str, partition: int, key: bytes | None, value: bytes | None) -> int:
        """Write one record; returns its offset."""
        offsets: list[int] = []

        def delivered(error: object, message: Message) -> None:
            assert error is None, error
            offsets.append(message.offset() or 0)

        self._producer.produce(topic, value, key, partition, on_delivery=delivered)
        assert self._producer.flush(20) == 0
        return offsets[0]

    def host_record(self, host: str, key: bytes, value: bytes | None) -> int:
        """Write to a host's partition of `hosts`."""
        return self.write(self.names.hosts, partition_of(host, self.settings.topics.hosts_partitions), key, value)

    def start(self, host: str, agent: str = "agent-1", nonce: str = "n") -> int:
        """A start record; returns the epoch."""
        return self.host_record(host, start_key(host), encode(Start(host=host, agent=agent, nonce=nonce)))

    def snapshot(self, host: str, epoch: int, *allocations: Allocation, generation: int = 1, **fields: Any) -> int:
        """A full report."""
        record = reported(host, epoch, *allocations, generation=generation, **fields)
        return self.host_record(host, snapshot_key(host, epoch), encode(record))

    def delta(self, host: str, epoch: int, *upserts: Allocation, generation: int = 2) -> int:
        """A delta on the first snapshot, which held nothing and had the inventory above."""
        part = hashing.host_part(INVENTORY, (), {}, "enabled")
        total = (part + sum(hashing.allocation_hash(a) for a in upserts)) & hashing.MASK
        record = Delta(
            host=host,
            epoch=epoch,
            generation=generation,
            base_generation=1,
            claims_topic="claims-1",
            claims_through=-1,
            hash=hashing.to_hex(total),
            upserts=list(upserts),
        )
        return self.host_record(host, delta_key(host, epoch), encode(record))

    def host(self, name: str, *allocations: Allocation, **fields: Any) -> int:
        """A host that has started and reported once; returns its epoch."""
        epoch = self.start(name, fields.get("agent", "agent-1"))
        self.snapshot(name, epoch, *allocations, **fields)
        return epoch
