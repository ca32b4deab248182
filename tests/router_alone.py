"""The shipped `Router` without a broker: `control` and the pools' `hosts` are lists that its tails read."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import msgspec
import pytest

from commonplace.core.codec import encode
from commonplace.core.host_keys import snapshot_key, start_key
from commonplace.core.partition import partition_of
from commonplace.core.records.control import Flavor, Routing
from commonplace.core.records.hosts import Allocation, Snapshot, Start
from commonplace.errors import CommonplaceError
from commonplace.frontend import Router, members, router
from commonplace.kafka import client as kafka_client
from commonplace.kafka import tail
from commonplace.kafka.client import Broker
from commonplace.kafka.tail import Batch, Place, Raw
from commonplace.kafka.topics import Topics
from commonplace.settings import Settings, load
from hosts_written import reported

POOLS = ("ssd", "licensed")


class FakeTail:
    """`Tail` on lists, a record of each a turn; an error that a test planted takes its partition away, as that does."""

    def __init__(self, world: "RouterAlone") -> None:
        self._world, self._settings = world, world.pools["ssd"]
        self._positions: dict[Place, int] = {}

    def add(self, topic: str, partition: int, offset: int) -> None:
        assert (topic, partition) not in self._positions
        self._positions[topic, partition] = offset

    def remove(self, topic: str, partition: int) -> None:
        self._positions.pop((topic, partition), None)

    def position(self, topic: str, partition: int) -> int:
        return self._positions.get((topic, partition), -1)

    def range(self, topic: str, partition: int) -> tuple[int, int]:
        return 0, len(self._world.logs.get((topic, partition), ()))

    def ends(self, places: Iterable[Place]) -> dict[Place, int]:
        return {place: self.range(*place)[1] for place in places}

    def behind(self, ends: Mapping[Place, int]) -> dict[Place, int]:
        return {place: end for place, end in ends.items() if self.position(*place) < end}

    def turn(self, timeout_s: float) -> list[Batch]:
        for topic, partition in list(self._positions):
            if (error := self._world.errors.pop(topic, None)) is not None:
                self.remove(topic, partition)
                raise error
        batches = []
        for (topic, partition), position in self._positions.items():
            if rows := self._world.logs.get((topic, partition), [])[position : position + 1]:
                if topic in self._world.stalled:
                    continue
                self._positions[topic, partition] = position + 1
                batches.append(Batch(topic, partition, rows, position + 1))
        return batches

    up_to = tail.Tail.up_to  # on the turns of here

    def close(self) -> None:
        pass


class RouterAlone:
    """A router, and the logs that it reads; `errors` by topic are raised once, of a topic that is `stalled` nothing comes."""

    def __init__(self, settings: Settings) -> None:
        self.pools = {
            pool: msgspec.structs.replace(settings, topics=msgspec.structs.replace(settings.topics, pool=pool))
            for pool in POOLS
        }
        self.control = Topics(settings.topics.prefix, "ssd").control
        self.logs: dict[Place, list[Raw]] = {}
        self.errors: dict[str, CommonplaceError] = {}
        self.stalled: set[str] = set()
        self.router: Router

    def hosts(self, pool: str) -> str:
        """The full name of a pool's topic."""
        return Topics(self.pools[pool].topics.prefix, pool).hosts

    def write(self, *records: Flavor | Routing) -> None:
        """Put records on `control`."""
        for record in records:
            self._append(self.control, 0, f"flavor/{record.name}" if isinstance(record, Flavor) else "routing", record)

    def delete(self, flavor: str) -> None:
        """Delete a flavor."""
        self._append(self.control, 0, f"flavor/{flavor}", None)

    def host(self, pool: str, name: str, *allocations: Allocation) -> None:
        """Have a host of a pool report."""
        partition = partition_of(name, self.pools[pool].topics.hosts_partitions)
        epoch = self._append(self.hosts(pool), partition, start_key(name).decode(), Start(host=name))
        self._append(
            self.hosts(pool), partition, snapshot_key(name, epoch).decode(), reported(name, epoch, *allocations)
        )

    def _append(self, topic: str, partition: int, key: str, record: Flavor | Routing | Start | Snapshot | None) -> int:
        log = self.logs.setdefault((topic, partition), [])
        log.append((len(log), len(log), key.encode(), None if record is None else encode(record)))
        return len(log) - 1


@contextmanager
def router_alone(monkeypatch: pytest.MonkeyPatch, *records: Flavor | Routing) -> Iterator[RouterAlone]:
    """A router of two pools without a broker, with these records on `control`; the pools' logs of requests hold nothing."""
    settings = load(flags={}, environ={})
    world = RouterAlone(settings)
    world.write(*records)
    for module in (router, members):
        monkeypatch.setattr(module, "Tail", lambda _: FakeTail(world))
        monkeypatch.setattr(module, "pools", lambda _: world.pools)
    for module in (router, tail):
        monkeypatch.setattr(module, "STALL_TIMEOUT_S", 0.2)
    monkeypatch.setattr(router, "require_topics", lambda *_: (Broker("alone", 1, embedded=False), {}, []))
    monkeypatch.setattr(kafka_client, "settings_for", lambda made, _: made)
    monkeypatch.setattr(Router, "_stands", lambda *_: None)
    with Router(settings) as world.router:
        yield world
