"""The fleet as its own reports show it: capacity, what is allocated, and what is left where nothing fits."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct

from commonplace.core.host_keys import parse_key
from commonplace.core.hosts import HostState, fold
from commonplace.core.partition import partition_of
from commonplace.core.resources import misfit
from commonplace.frontend import history
from commonplace.kafka import client
from commonplace.kafka.topics import Topics, require_topics
from commonplace.settings import Settings


class Packing(Struct, frozen=True):
    """How full a fleet is. Shares are of its capacity, by resource class, 0 to 1.

    `stranded_share` is free on hosts where the `stranded_for` flavor no longer fits.
    """

    hosts: int
    hosts_used: int
    hosts_empty: int
    allocated_share: dict[str, float]
    stranded_share: dict[str, float]
    stranded_for: str


def read_hosts(settings: Settings) -> list[HostState]:
    """Every host of the pool as of now; blocks while it reads the hosts topic once through.

    Only the last record of each key is folded: what compaction would leave, and so the same state (rule 1).
    """
    broker, facts, _ = require_topics(settings, only=("hosts",))
    fitted = client.settings_for(settings, broker)
    name = Topics(settings.topics.prefix, settings.topics.pool).hosts
    partitions = range(facts[name].partitions)
    consumer = client.consumer(fitted)
    try:
        starts = history.since(consumer, fitted, name, partitions, None)
        stops = history.ends(consumer, fitted, name, partitions)
    finally:
        consumer.close()
    last: dict[tuple[int, bytes], history.Row] = {}
    for partition, rows in history.read(fitted, name, starts, stops):
        for row in rows:
            if row[2] is not None:
                last.pop((partition, row[2]), None)  # put again at the end: a key keeps the place of its last record
                last[partition, row[2]] = row
    return list(_folded(last, len(partitions)))


def _folded(rows: Mapping[tuple[int, bytes], history.Row], partitions: int) -> Iterator[HostState]:
    """Fold records by partition and key; one that stands on another partition than its host's is none of its host's."""
    states: dict[str, HostState] = {}
    for (partition, raw_key), (offset, log_time_ms, _, value) in rows.items():
        key = parse_key(raw_key)
        if key is not None and partition_of(key.host, partitions) == partition:
            fold(states.setdefault(key.host, HostState(key.host)), key, offset, log_time_ms, value)
    return (state for state in states.values() if state.inventory and not state.removed)


def capacity(hosts: Iterable[HostState]) -> Counter[str]:
    """What all hosts may allocate, by resource class."""
    total: Counter[str] = Counter()
    for host in hosts:
        total.update({name: item.capacity for name, item in host.inventory.items()})
    return total


def packing(hosts: Iterable[HostState], flavor: str, resources: Mapping[str, int]) -> Packing:
    """How full these hosts are, and what is stranded for a flavor of these resources."""
    known = list(hosts)
    total = capacity(known)
    used: Counter[str] = Counter()
    stranded: Counter[str] = Counter()
    for host in known:
        used.update(host.used)
        if not fits(host, resources):
            stranded.update({n: max(0, item.capacity - host.used.get(n, 0)) for n, item in host.inventory.items()})
    occupied = sum(bool(host.allocations) for host in known)
    return Packing(
        hosts=len(known),
        hosts_used=occupied,
        hosts_empty=len(known) - occupied,
        allocated_share=_shares(used, total),
        stranded_share=_shares(stranded, total),
        stranded_for=flavor,
    )


def fits(host: HostState, resources: Mapping[str, int]) -> bool:
    """Whether a host has room for these resources."""
    return not any(misfit(host.inventory.get(n), host.used.get(n, 0), amount) for n, amount in resources.items())


def _shares(part: Mapping[str, int], total: Mapping[str, int]) -> dict[str, float]:
    return {name: round(part.get(name, 0) / whole, 4) for name, whole in sorted(total.items()) if whole}
