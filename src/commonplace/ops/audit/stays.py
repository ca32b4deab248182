"""From when to when each host reported to a pool, and whether it did so to two at once: then both sell the same machine."""

from collections.abc import Mapping

from msgspec import Struct

from commonplace.ops.audit.chain import parse_key
from commonplace.ops.audit.evidence import Entry, Log, Options
from commonplace.ops.audit.findings import Findings

INVARIANT = 11


class Stay(Struct):
    """One epoch of a host in a pool, from the first report that is left to the last; the place is the last one's."""

    epoch: int
    first_ms: int
    last_ms: int
    partition: int
    offset: int


class Stays:
    """All stays in a pool, by host; reports that a later epoch voids are none."""

    def __init__(self) -> None:
        self.of: dict[str, list[Stay]] = {}
        self._started: dict[str, int] = {}

    def take(self, entry: Entry, host: str, kind: str, epoch: int) -> None:
        """Note a record of `hosts` by its key and log time; what it says does not matter."""
        if entry.value is None:
            return
        if kind == "start":
            self._started[host] = max(entry.offset, self._started.get(host, -1))
            return
        if epoch < self._started.get(host, -1):
            return
        stays = self.of.setdefault(host, [])
        if not stays or stays[-1].epoch != epoch:
            stays.append(Stay(epoch, entry.timestamp_ms, entry.timestamp_ms, entry.partition, entry.offset))
            return
        last = stays[-1]
        last.last_ms, last.partition, last.offset = max(last.last_ms, entry.timestamp_ms), entry.partition, entry.offset


def read_stays(log: Log) -> Stays:
    """The stays in another pool, from its `hosts`."""
    stays = Stays()
    for entry in log.records:
        host, kind, epoch = parse_key(entry.key)
        if kind:
            stays.take(entry, host, kind, epoch)
    return stays


def judge(mine: Stays, topic: str, elsewhere: Mapping[str, Log], findings: Findings, options: Options) -> None:
    """A fact for each host of the pool where there are others: no stay of it here overlaps one of it there."""
    if not elsewhere:
        return
    others = {pool: read_stays(log) for pool, log in elsewhere.items()}
    for host, stays in mine.of.items():
        found = [
            (pool, here, min(here.last_ms, there.last_ms) - max(here.first_ms, there.first_ms))
            for pool, theirs in others.items()
            for there in theirs.of.get(host, ())
            for here in stays
            if min(here.last_ms, there.last_ms) - max(here.first_ms, there.first_ms) >= options.skew_ms
        ]
        if not found:
            findings.passed(INVARIANT)
            continue
        pool, here, both_ms = max(found, key=lambda one: one[2])
        text = f"{host} reported here and to pool {pool} for {both_ms / 1000:.1f} s at once: stop the agent of the wrong pool"
        findings.violated(INVARIANT, text, topic, here.partition, here.offset)
