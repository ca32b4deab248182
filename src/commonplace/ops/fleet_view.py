"""The fleet as an operator sees it now: the replicas' own fold of `hosts` and `control`, read to the end, and one line a host.

Ages count from the newest log time that anybody wrote, as replicas count them, so a wrong clock on this machine shows nowhere.
Only where nothing at all was written for the liveness timeout does this machine's clock say so: then everything is silent.
"""

import difflib
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from msgspec import Struct

from commonplace import plugins
from commonplace.core import hashing
from commonplace.core.catalog import Catalog
from commonplace.core.codec import Bad, decode
from commonplace.core.records.control import HostControl
from commonplace.core.records.replicas import ReplicaReport
from commonplace.core.rows import Row
from commonplace.core.view import View
from commonplace.errors import UsageError
from commonplace.kafka.client import settings_for
from commonplace.kafka.tail import Batch, Place, Raw, Tail
from commonplace.kafka.topics import Topics, require_topics
from commonplace.settings import Settings

NAMES_SHOWN: Final = 5
READ: Final = ("hosts", "control", "replicas")

Observe = Callable[[str, int, Raw], None]
"""Told of every record before it is folded: topic word, partition, record."""


class Amounts(Struct, frozen=True):
    """One resource class of a host, in the class's unit; `free` is negative where the inventory shrank under its allocations."""

    capacity: int
    used: int
    free: int


class HostLine(Struct, frozen=True, kw_only=True):
    """One host. `flags` says what keeps it from being ranked or needs a look: newer, stale, silent, gap."""

    name: str
    status: str
    flags: list[str]
    instances: int
    leased: int
    builds: int
    resources: dict[str, Amounts]
    age_s: float
    epoch: int
    generation: int
    agent: str
    hash: str
    stale: str
    reason: str


class FleetView:
    """Hosts, operators' words and replicas of one pool, folded as a replica folds them; for one thread, to be closed."""

    def __init__(self, settings: Settings, observe: Observe = lambda topic, partition, record: None) -> None:
        self.broker, facts, self.findings = require_topics(settings, READ)
        self.settings = settings_for(settings, self.broker)
        self._names = names = Topics(settings.topics.prefix, settings.topics.pool)
        self._observe = observe
        plugins.load()  # profiles name what is installed beside the schedulers, and may be beside us
        self.view = View(facts[names.hosts].partitions)
        self.catalog = Catalog(settings.topics.pool)
        self.replicas: dict[str, tuple[ReplicaReport, int]] = {}
        """Replica → its newest report and that report's log time in ms."""
        self.newest_ms = 0
        self._tail = Tail(self.settings)
        self._places: list[Place] = [(names.hosts, p) for p in range(facts[names.hosts].partitions)]
        self._places += [(names.control, 0), (names.replicas, 0)]

    def __enter__(self) -> "FleetView":
        return self

    def __exit__(self, *_: object) -> None:
        self._tail.close()

    def read(self) -> "FleetView":
        """Fold everything up to the ends captured now; may be called again. Blocks; raises `TimedOut` where reading stalls."""
        ranges = {place: self._tail.range(*place) for place in self._places}
        for place, (low, _) in ranges.items():
            if self._tail.position(*place) < 0:
                self._tail.add(*place, low)
        for batch in self._tail.up_to({place: end for place, (_, end) in ranges.items()}):
            self._fold(batch)
        self._liveness()
        return self

    def turn(self, timeout_s: float) -> set[str]:
        """Fold what comes within `timeout_s`; returns the names of hosts it spoke of, and "" for anything else."""
        touched: set[str] = set()
        for batch in self._tail.turn(timeout_s):
            touched |= self._fold(batch)
        self._liveness()
        return touched

    def _fold(self, batch: Batch) -> set[str]:
        word = batch.topic.rpartition(".")[2]
        touched = {""}
        for record in batch.records:
            self._observe(word, batch.partition, record)
            offset, at_ms, key, value = record
            if word == "hosts":
                row, _ = self.view.fold(batch.partition, offset, at_ms, key, value, _now_ms())
                touched.add(row.host.name if row else "")
            elif word == "control":
                name, said, _ = self.catalog.fold(key, value)
                if name:
                    self.view.control(said, name)
                    touched.add(name)
            else:
                self._replica(at_ms, key, value)
            if word != "control":  # an operator's record says nothing of who is alive
                self.newest_ms = max(self.newest_ms, at_ms)
        return touched

    def _replica(self, at_ms: int, key: bytes | None, value: bytes | None) -> None:
        name = (key or b"").decode(errors="replace")
        report = decode("replicas", value) if value is not None else None
        if report is None:
            self.replicas.pop(name, None)
        elif not isinstance(report, Bad):
            self.replicas[name] = (report, at_ms)

    def shared(self, replicas: int, partitions: int) -> bool:
        """Whether so many replicas say that they share all partitions of `requests`, each that can have one."""
        owned = [report.partitions for report, _ in self.replicas.values()]
        return sum(map(len, owned)) == partitions and sum(map(bool, owned)) == min(replicas, partitions)

    @property
    def timeout_ms(self) -> int:
        """How old a host's newest report may be."""
        return int(self.settings.scheduler.liveness_timeout_s * 1000)

    @property
    def quiet(self) -> bool:
        """Whether by this machine's clock nobody has written for the liveness timeout: all are silent, or this clock is ahead."""
        return time.time() * 1000 - self.newest_ms > self.timeout_ms

    @property
    def now_ms(self) -> int:
        """The moment that ages count from, in log time."""
        return int(time.time() * 1000) if self.quiet else self.newest_ms

    def _liveness(self) -> None:
        self.view.newest_log_time_ms = max(self.view.newest_log_time_ms, self.now_ms)
        self.view.liveness(self.timeout_ms, _now_ms())

    # -- reading --------------------------------------------------------------------------------------------------------

    def hosts(self) -> list[Row]:
        """The hosts that were not removed, in the order of their names."""
        return [row for _, row in sorted(self.view.rows.items()) if not row.host.removed]

    def host(self, name: str) -> Row:
        """The host of that name, or the only one whose name begins so; UsageError says which ones there are."""
        known = {row.host.name: row for row in self.hosts()}
        if name in known:
            return known[name]
        found = [known_name for known_name in known if known_name.startswith(name)]
        if len(found) == 1:
            return known[found[0]]
        pool = f"pool {self.settings.topics.pool}"
        if found:
            shown = ", ".join(found[:NAMES_SHOWN]) + (", …" if len(found) > NAMES_SHOWN else "")
            raise UsageError(f"host {name!r} is not unique in {pool}: {len(found)} begin so: {shown}")
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "see `commonplace hosts`"
        raise UsageError(f"no host {name!r} reports to {pool}: {hint}")

    def line(self, row: Row) -> HostLine:
        """One host in a line."""
        host, control = row.host, row.control
        return HostLine(
            name=host.name,
            status=row.status,
            flags=self.flags(row),
            instances=len(host.allocations),
            leased=sum(a.state == "leased" for a in host.allocations.values()),
            builds=host.builds,
            resources=amounts(row),
            age_s=round(max(0, self.now_ms - host.log_time_ms) / 1000, 1),
            epoch=host.epoch,
            generation=host.generation,
            agent=host.agent,
            hash=hashing.to_hex(host.hash),
            stale=host.stale,
            reason=control.reason if control else "",
        )

    def lines(self) -> list[HostLine]:
        """All hosts."""
        return [self.line(row) for row in self.hosts()]

    def flags(self, row: Row) -> list[str]:
        """Why a host is not ranked, whatever its status, and whether claims were lost."""
        host = row.host
        told = {
            "newer": bool(host.version),
            "stale": bool(host.stale) and not host.version,
            "silent": not self.view.columns.alive[row.index],
            "gap": host.gap,
        }
        return [flag for flag, holds in told.items() if holds]


def amounts(row: Row) -> dict[str, Amounts]:
    """Capacity, use and what is free of each class that a host has or holds."""
    host = row.host
    found = {}
    for name in [*host.inventory, *(n for n in host.used if n not in host.inventory)]:
        item, used = host.inventory.get(name), host.used.get(name, 0)
        capacity = item.capacity if item else 0
        found[name] = Amounts(capacity, used, capacity - used)
    return found


def totals(lines: Iterable[HostLine]) -> dict[str, Amounts]:
    """The sums of a fleet, by resource class."""
    sums: dict[str, list[int]] = {}
    for line in lines:
        for name, amount in line.resources.items():
            known = sums.setdefault(name, [0, 0, 0])
            for i, value in enumerate((amount.capacity, amount.used, amount.free)):
                known[i] += value
    return {name: Amounts(*values) for name, values in sums.items()}


def host_control(values: Mapping[str, bytes], name: str) -> HostControl | None:
    """What operators said of a host, from the control topic's values; UsageError where a newer version said it."""
    value = values.get(f"host/{name}")
    record = decode("control", value) if value is not None else None
    if isinstance(record, Bad) and record.newer:
        raise UsageError(f"control record host/{name}: {record.reason}: upgrade this program before changing it")
    return record if isinstance(record, HostControl) else None


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
