"""The claims log, read only as far as the host reports that answer it, so that few claims are held at a time."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from commonplace.ops.audit.evidence import Entry
from commonplace.ops.audit.findings import Findings
from commonplace.ops.audit.hashes import partition_of
from commonplace.ops.audit.intake import Intake
from commonplace.ops.audit.wire import Broken
from commonplace.ops.audit.wire_hosts import Claim


class Claimed(NamedTuple):
    """A claim and its log time."""

    record: Claim
    timestamp_ms: int


class Claims:
    """Claims by host and offset, until the host's watermark has passed them."""

    def __init__(self, intake: Intake, findings: Findings) -> None:
        self._intake, self._findings = intake, findings
        self._records: Iterator[tuple[Entry, Any]] = iter(intake)
        self._held: dict[str, dict[int, Claimed]] = {}
        self._read = {partition: low - 1 for partition, low in intake.log.low.items()}
        self._partitions: dict[str, int] = {}
        self._over = False

    @property
    def topic_id(self) -> str:
        return self._intake.log.topic_id

    def partition(self, host: str) -> int:
        """The partition of a host's claims."""
        found = self._partitions.get(host)
        if found is None:
            found = self._partitions[host] = partition_of(host, self._intake.log.partitions)
        return found

    def end(self, host: str) -> int:
        """The offset behind the last claim of the host's partition, as captured."""
        return self._intake.log.high[self.partition(host)]

    def lost(self, host: str, offset: int) -> bool:
        """Whether the record at `offset` of the host's partition is gone."""
        return self._intake.seen.lost(self.partition(host), offset)

    def at(self, host: str, offset: int) -> Claimed | None:
        """The claim for `host` at `offset`, if there is one."""
        self._advance(self.partition(host), offset)
        return self._held.get(host, {}).get(offset)

    def forget(self, host: str, through: int) -> None:
        """Drop the host's claims up to its watermark."""
        held = self._held.get(host)
        if held:
            for offset in [offset for offset in held if offset <= through]:
                del held[offset]
            if not held:
                del self._held[host]

    def drain(self) -> None:
        """Read what no report has answered yet."""
        for _ in self._next():
            pass
        self._findings.figures["claims_open"] = sum(map(len, self._held.values()))

    def _advance(self, partition: int, offset: int) -> None:
        read = self._read
        if self._over or read.get(partition, -1) >= offset:
            return
        for at, position in self._next():
            if at == partition and position >= offset:
                return

    def _next(self) -> Iterator[tuple[int, int]]:
        """Take in the records one by one; yields the place of each."""
        figures = self._findings.figures
        for entry, record in self._records:
            self._read[entry.partition] = entry.offset
            if record is None:
                record = self._intake.broken(entry, "a claim without a value")
            if not isinstance(record, Broken):
                wrong = self._misplaced(entry, record.host)
                if wrong:
                    self._intake.broken(entry, wrong)
                else:
                    self._intake.applied()
                    figures[type(record).__name__.lower() + "s"] += 1
                    if isinstance(record, Claim):
                        self._held.setdefault(record.host, {})[entry.offset] = Claimed(record, entry.timestamp_ms)
            yield entry.partition, entry.offset
        self._over = True

    def _misplaced(self, entry: Entry, host: str) -> str:
        if entry.key != host.encode():
            return f"its key is not its host {host}"
        if entry.partition != self.partition(host):
            return f"{host} belongs on partition {self.partition(host)}"
        return ""
