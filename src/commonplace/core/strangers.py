"""Claims records that no host of this agent can answer: whose they are, or that they are nobody's (rule 9).

An agent reads whole partitions, so it knows every host that ever started on its partitions of `hosts`. A claims record of a known host
is that host's agent's to judge. One that no agent could ever take (no key, a key that is no host's, a record that can't be read) is bad
at once. A readable one for an unknown host may be for a host that started a moment ago, whose start record was not read yet:

    start record ── t0 ─── claim ── t1 ──▶ judged once `hosts` was read past t1 + slack: the start record, if any, lies before
"""

from collections import deque
from collections.abc import Iterator
from typing import Final, NamedTuple

from commonplace.core.codec import Bad, decode
from commonplace.core.host_keys import START_SUFFIX, parse_key
from commonplace.core.names import is_host_name
from commonplace.core.partition import partition_of
from commonplace.core.records.hosts import Start

NAMES_MAX: Final = 262_144
"""Names known, of other agents' hosts too: twice the largest pool in mind, some 30 MB. Past it no name counts as unknown any more."""

WAITING_MAX: Final = 1_024
"""Records held until they can be judged; they are garbage or a start's first second. Past it the oldest is passed over, and counted."""

SLACK_MS: Final = 5_000
"""How far the clocks of two brokers, which date `hosts` and `claims`, may differ. Past it a good claim may be put aside in the eyes of
auditors; its own agent takes it all the same."""


class Record(NamedTuple):
    """A claims record as read; of its value only what a quarantine record shows is kept while it waits."""

    partition: int
    offset: int
    log_time_ms: int
    key: bytes
    value: bytes


class Strangers:
    """Names seen on `hosts`, by partition, and the claims records that name none of them."""

    def __init__(self, partitions: int, names_max: int = NAMES_MAX, waiting_max: int = WAITING_MAX) -> None:
        self._partitions, self._names_max, self._waiting_max = partitions, names_max, waiting_max
        self.names: dict[int, set[bytes]] = {number: set() for number in range(partitions)}
        self.passed_over = 0
        self._known = 0
        self._full = False
        self._waiting: deque[Record] = deque()

    def saw(self, partition: int, name: bytes, key: bytes, value: bytes | None) -> None:
        """A record of another agent's host was read from `hosts`."""
        names = self.names[partition]
        if key.endswith(START_SUFFIX):
            record = decode("hosts", value) if value is not None else None
            if isinstance(record, Start) and record.removed:
                self._known -= name in names
                names.discard(name)
                return
        if name in names or value is None or parse_key(key) is None:
            return
        if not is_host_name(name.decode()) or not self._belongs(partition, name):  # a key may be a megabyte long
            return
        self._full = self._full or self._known >= self._names_max
        if not self._full:
            names.add(name)
            self._known += 1

    def judge(self, partition: int, offset: int, log_time_ms: int, key: bytes | None, value: bytes | None) -> str:
        """Why a record for none of the known hosts is bad, "" while that is not known: then `due` tells later."""
        if not key:
            return "key is missing: a claim's key is its host"
        name = key.decode(errors="replace")
        if not is_host_name(name):
            return f"key {name!a:.80} is no host's name"
        if not self._belongs(partition, key):
            return f"belongs on partition {partition_of(key, self._partitions)}"
        record = decode("claims", value) if value is not None else Bad("no value")
        if isinstance(record, Bad):
            if not record.newer:
                return record.reason
        elif record.host != name:
            return f"key is of host {name}, record of {record.host}"
        if not self._full:
            self._wait(Record(partition, offset, log_time_ms, key, (value or b"")[:1024]))
        return ""

    def due(self, partition: int, newest_ms: int) -> Iterator[tuple[Record, str]]:
        """Records that waited and are bad after all, now that a partition of `hosts` was read to a record of `newest_ms`."""
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, deque()
        for record in waiting:
            if record.partition != partition or record.log_time_ms + SLACK_MS >= newest_ms:
                self._waiting.append(record)
            elif record.key not in self.names[partition] and not self._full:
                yield record, f"key {record.key.decode()} is of no host that ever started"

    def _wait(self, record: Record) -> None:
        if len(self._waiting) >= self._waiting_max:
            self._waiting.popleft()
            self.passed_over += 1
        self._waiting.append(record)

    def _belongs(self, partition: int, name: bytes) -> bool:
        return partition_of(name, self._partitions) == partition
