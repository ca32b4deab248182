"""A schedule as readable lines: time, who, what. Nothing here is made unless somebody asks for it."""

from typing import Any

from commonplace.core.codec import Bad, decode
from commonplace.core.records.claims import Claim, Confirm, Release
from commonplace.core.records.control import Flavor, HostControl
from commonplace.core.records.decisions import Decision
from commonplace.core.records.hosts import Delta, Snapshot, Start
from commonplace.core.records.replicas import ReplicaReport
from commonplace.core.records.requests import Build, Cancel


class Trace:
    """Collects lines; `now` is set by the world."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.now = 0

    def tells(self, who: str, what: str) -> None:
        """Something happened to somebody."""
        self.lines.append(f"{self.now / 1000:10.3f}  {who:<12}  {what}")

    def reads(self, who: str, topic: str, partition: int, start: int, stop: int) -> None:
        """A reader moved on."""
        self.tells(who, f"reads {topic}[{partition}] {start}" + (f"..{stop - 1}" if stop - start > 1 else ""))

    def appended(
        self, who: str, topic: str, partition: int, offset: int, key: bytes | None, value: bytes | None
    ) -> None:
        """A record stands in a log."""
        self.tells(who, f"→ {topic}[{partition}]@{offset}  {told(topic, key, value)}")


def told(topic: str, key: bytes | None, value: bytes | None) -> str:
    """A record in a few words."""
    name = (key or b"-").decode(errors="replace")
    if value is None:
        return f"tombstone of {name}"
    record = decode(topic, value)
    if isinstance(record, Bad):
        return f"{name}: unusable: {record.reason}"[:200]
    return _words(record) or f"{name} {type(record).__name__.lower()}"


def _words(record: Any) -> str:
    match record:
        case Start():
            return f"{record.host} starts, agent {record.agent}" + (", removed" if record.removed else "")
        case Snapshot():
            return f"{record.host} epoch {record.epoch} snapshot {record.generation} {_report(record)}"
        case Delta():
            return f"{record.host} epoch {record.epoch} delta {record.generation} on {record.base_generation} {_report(record)}"
        case Claim():
            ids = ", ".join(f"{a.request}.{a.index} as {a.id}" for a in record.allocations)
            return f"{record.mode} claim by {record.replica} on {record.host}: {ids} expects {record.expected[:6]}"
        case Confirm():
            return f"confirm {record.allocation} of {record.request} on {record.host}"
        case Release():
            which = " if leased" if record.leased_only else ""
            return f"release {record.allocation} of {record.request} on {record.host}{which}"
        case Build():
            return f"request {record.id}: {record.count} × {record.flavor}" + (
                f" in {record.group}≤{record.group_max}" if record.group_max else ""
            )
        case Cancel():
            return f"cancel {record.id}"
        case Decision():
            where = ", ".join(f"{p.index} on {p.host} as {p.allocation}" for p in record.placed)
            return f"decision {record.request}: {record.result} {record.reason}{where} by {record.replica}"
        case Flavor():
            return f"flavor {record.name}: {record.resources}"
        case HostControl():
            return f"host {record.name}: {record.status}"
        case ReplicaReport():
            return f"{record.replica} is {record.state}, owns {record.partitions}"
    return ""


def _report(record: Snapshot | Delta) -> str:
    listed = record.allocations if isinstance(record, Snapshot) else record.upserts
    held = " ".join(f"{a.id}:{a.state}{'*' if a.building else ''}" for a in listed)
    gone = "".join(f" −{i}" for i in record.removed) if isinstance(record, Delta) else ""
    settled = " ".join(f"{s.verdict} {s.allocation}{' ' + s.reason if s.reason else ''};" for s in record.settled)
    status = f" {record.status}" if record.status not in (None, "enabled") else ""
    return f"through {record.claims_through} #{record.hash[:6]}{status}{' gap' if record.gap else ''} [{held}{gone}] {settled}".rstrip()
