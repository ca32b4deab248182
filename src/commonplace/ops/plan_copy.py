"""A copy of a pool's state as the records that made it: read from the log up to now or a moment past, and changed as a plan supposes.

Per key the last record, as compaction would leave it, in the order of host names: the same state is copied alike by everyone, whatever
order the partitions were read in, so that ties fall alike.
"""

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Final

from msgspec import Struct

from commonplace.agent.shapes import Shape
from commonplace.core import hashing
from commonplace.core.catalog import Catalog
from commonplace.core.codec import encode
from commonplace.core.host_keys import snapshot_key, start_key
from commonplace.core.partition import partition_of
from commonplace.core.records.hosts import Snapshot, Start
from commonplace.errors import UsageError
from commonplace.frontend import history
from commonplace.kafka import client
from commonplace.kafka.tail import Raw
from commonplace.kafka.topics import Topics
from commonplace.ops.fleet_view import FleetView
from commonplace.settings import Settings

ADDED_PREFIX: Final = "added-"
"""Begins the names of hosts that a plan supposes."""


class Moment(Struct, frozen=True):
    """How far the log is replayed: records up to a log time, and of one partition of `hosts` those below an offset."""

    until_ms: int
    partition: int = -1
    offset: int = -1

    def covers(self, topic: str, partition: int, record: Raw) -> bool:
        """Whether a record belongs to the past up to this moment."""
        if topic == "hosts" and partition == self.partition:
            return record[0] < self.offset
        return record[1] <= self.until_ms


class Copy:
    """Records of `hosts` and `control`, the last of each key. `now_ms` is the log time that ages count from."""

    def __init__(self, partitions: int, moment: Moment | None = None) -> None:
        self.partitions, self.moment = partitions, moment
        self.hosts: dict[tuple[int, bytes], Raw] = {}
        self.control: dict[bytes, Raw] = {}
        self.ends: dict[int, int] = dict.fromkeys(range(partitions), 0)
        self.now_ms = 0
        self.later: set[str] = set()
        """Hosts with records after the moment: some of theirs before it may be compacted away."""

    def take(self, topic: str, partition: int, record: Raw) -> None:
        """Take one record as read, in the order of its partition."""
        key = record[2]
        if key is None or topic not in ("hosts", "control"):
            return
        if self.moment is not None and not self.moment.covers(topic, partition, record):
            if topic == "hosts":
                self.later.add(key.decode(errors="replace").partition("/")[0])
            return
        if topic == "control":
            self.control.pop(key, None)
            self.control[key] = record
            return
        self.hosts.pop((partition, key), None)
        self.hosts[partition, key] = record
        self.ends[partition] = record[0] + 1
        self.now_ms = max(self.now_ms, record[1])

    def records(self) -> list[tuple[int, Raw]]:
        """Records of `hosts` with their partitions, host by host, each in log order."""
        found = [(partition, record) for (partition, _), record in self.hosts.items()]
        return sorted(found, key=lambda one: ((one[1][2] or b"").partition(b"/")[0], one[1][0]))

    # -- suppositions ---------------------------------------------------------------------------------------------------

    def without(self, host: str) -> None:
        """Suppose that a host is gone, with all that it holds."""
        self._say(host, start_key(host), encode(Start(host=host, removed=True)))

    def add(self, shapes: Iterable[Shape]) -> list[str]:
        """Suppose empty hosts of these shapes, as many as each counts (1 where it counts none); returns their names."""
        names: list[str] = []
        for shape in shapes:
            for _ in range(shape.count or 1):
                name = f"{ADDED_PREFIX}{len(names) + 1:05}"
                self._report(name, shape)
                names.append(name)
        return names

    def _report(self, name: str, shape: Shape) -> None:
        epoch = self._say(name, start_key(name), encode(Start(host=name)))
        inventory, traits = shape.inventory(), tuple(sorted(set(shape.traits)))
        part = hashing.host_part(inventory, traits, shape.labels, "enabled", shape.cells)
        report = Snapshot(
            host=name,
            epoch=epoch,
            generation=1,
            claims_topic="",
            claims_through=-1,
            hash=hashing.to_hex(part),
            inventory=inventory,
            traits=traits,
            labels=shape.labels,
            cells=shape.cells,
        )
        self._say(name, snapshot_key(name, epoch), encode(report))

    def _say(self, host: str, key: bytes, value: bytes) -> int:
        partition = partition_of(host, self.partitions)
        offset = self.ends[partition]
        self.ends[partition] = offset + 1
        self.hosts.pop((partition, key), None)
        self.hosts[partition, key] = (offset, self.now_ms, key, value)
        return offset


def read(settings: Settings, moment: Moment | None = None) -> Copy:
    """Copy a pool's state from its topics. Blocks; raises as `FleetView.read` does."""
    copies: list[Copy] = []

    def take(topic: str, partition: int, record: Raw) -> None:
        copies[0].take(topic, partition, record)

    with FleetView(settings, take) as fleet:
        copies.append(Copy(fleet.view.partitions, moment))
        fleet.read()
        if moment is None:
            copies[0].now_ms = max(copies[0].now_ms, fleet.now_ms)
    return copies[0]


# --- moments -----------------------------------------------------------------------------------------------------------

_AGO: Final = re.compile(r"^-(?P<amount>[0-9]{1,6})(?P<unit>[smhd])$")
_OFFSET: Final = re.compile(r"^(?P<partition>[0-9]{1,6}):(?P<offset>[0-9]{1,16})$")
_UNIT_MS: Final = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def moment_of(settings: Settings, text: str, partitions: int, now_ms: int) -> Moment:
    """Read `-15m`, `2026-11-21T10:00[:00][Z]`, `PARTITION:OFFSET`, or an offset alone where `hosts` has one partition; else UsageError.

    An offset is a position: records below it have happened, and of other partitions those no newer than the last of them.
    """
    if ago := _AGO.match(text):
        return Moment(now_ms - int(ago["amount"]) * _UNIT_MS[ago["unit"]])
    if text.isascii() and text.isdigit() and len(text) <= 16:
        if partitions > 1:
            raise UsageError(f"--at {text}: hosts has {partitions} partitions: write PARTITION:OFFSET, as in 0:{text}")
        text = f"0:{text}"
    if at := _OFFSET.match(text):
        return _at_offset(settings, int(at["partition"]), int(at["offset"]), partitions)
    try:
        return Moment(int(datetime.fromisoformat(text).timestamp() * 1000))
    except (ValueError, OverflowError):  # also a year that the clock of this machine does not reach
        raise UsageError(f"--at {text!r}: write -15m, 2026-11-21T10:00, or PARTITION:OFFSET of hosts") from None


def _at_offset(settings: Settings, partition: int, offset: int, partitions: int) -> Moment:
    if partition >= partitions:
        raise UsageError(f"--at {partition}:{offset}: hosts has partitions 0 to {partitions - 1}")
    topic = Topics(settings.topics.prefix, settings.topics.pool).hosts
    consumer = client.consumer(settings)
    try:
        starts = history.since(consumer, settings, topic, [partition], None)
        ((_, end),) = history.ends(consumer, settings, topic, [partition]).items()
    finally:
        consumer.close()
    if offset > end:  # reading up to it would wait for records to come
        raise UsageError(f"--at {partition}:{offset}: {topic} [{partition}] ends at {end}: name a position up to that")
    newest = -1
    for _, rows in history.read(settings, topic, starts, {partition: offset}):
        newest = rows[-1][1]
    if newest < 0:
        raise UsageError(f"--at {partition}:{offset}: nothing of {topic} [{partition}] is left below that offset")
    return Moment(newest, partition, offset)


def names_known(copy: Copy, names: Sequence[str]) -> None:
    """See that hosts named to a plan report to the pool; UsageError names the first that does not."""
    known = {key.decode(errors="replace").partition("/")[0] for _, key in copy.hosts}
    for name in names:
        if name not in known:
            raise UsageError(f"no host {name!r} reports to this pool: see `commonplace hosts`")


def flavors_known(pool: str, copies: Sequence[Copy], flavors: Iterable[str]) -> None:
    """See that flavors named to a plan are known in one of the copies; UsageError names the first that is in none, and the nearest."""
    catalogs = [_flavors(pool, copy) for copy in copies]
    for flavor in flavors:
        if not any(flavor in catalog.flavors for catalog in catalogs):
            raise UsageError(catalogs[0].refusal(flavor))


def _flavors(pool: str, copy: Copy) -> Catalog:
    """What the copy says of flavors, and of nothing else."""
    made = Catalog(pool)
    for key, (_, at_ms, _, value) in copy.control.items():
        if key.startswith(b"flavor/"):
            made.fold(key, value, at_ms)
    return made
