"""Reading of one topic with its account: every record is applied, superseded or quarantined (invariant 10)."""

from collections import deque
from collections.abc import Container, Iterator
from typing import Any, Final

from msgspec import Struct

from commonplace.ops.audit.evidence import Entry, Log, Options, Seen
from commonplace.ops.audit.findings import Findings
from commonplace.ops.audit.wire import Broken, Quarantined, read

FLOOD_MS: Final = 2_000
"""Log time within which the notices of one of a writer's seconds stand, as the seconds of two clocks overlap and a send takes time."""


class Bad(Struct, frozen=True):
    """A record that must have been quarantined."""

    kind: str
    partition: int
    offset: int
    timestamp_ms: int
    reason: str


class Quarantine:
    """Which records were quarantined, since when that is known, and when a writer may have had more to say than it may."""

    def __init__(self, log: Log | None, options: Options) -> None:
        self._options = options
        self._floods: list[tuple[int, int]] = []  # log times from the first to the last notice of one
        newest: dict[str, deque[int]] = {}  # writer → log times of as many notices as it may write in a second
        self.places: dict[str, dict[tuple[int, int], int]] = {}  # topic → place → log time of its newest notice
        self.since_ms = 0
        self.read = 0
        for entry in log.records if log else ():
            self.read += 1
            if self.read == 1 and log and log.low.get(entry.partition, 0):
                self.since_ms = entry.timestamp_ms
            record = read("quarantine", entry.value or b"")
            if isinstance(record, Quarantined):
                places = self.places.setdefault(record.topic, {})
                place = (record.partition, record.offset)
                places[place] = max(entry.timestamp_ms, places.get(place, 0))
                times = newest.setdefault(record.by, deque(maxlen=options.quarantined_per_s_max))
                times.append(entry.timestamp_ms)
                if len(times) == times.maxlen and times[-1] - times[0] <= FLOOD_MS:
                    self._flood(times[0], times[-1])

    def _flood(self, first_ms: int, last_ms: int) -> None:
        if self._floods and first_ms <= self._floods[-1][1]:
            first_ms, last_ms = self._floods[-1][0], max(last_ms, self._floods[-1][1])
            self._floods.pop()
        self._floods.append((first_ms, last_ms))

    def may_be_dropped(self, written_ms: int) -> bool:
        """Whether a writer had written as many notices as it may in a second when it read a bad record of that log time."""
        read_ms = written_ms + self._options.grace_ms
        return any(first <= read_ms and written_ms <= last + FLOOD_MS for first, last in self._floods)

    def names(self, topic: str, partition: int, offset: int, timestamp_ms: int) -> bool:
        """Whether a notice names that record, and not one that stood there before the topic was made anew: such a notice is older."""
        noticed_ms = self.places.get(topic, {}).get((partition, offset))
        return noticed_ms is not None and noticed_ms + self._options.skew_ms >= timestamp_ms


class Intake:
    """The records of one topic, decoded, each counted once."""

    def __init__(self, kind: str, log: Log, quarantine: Quarantine, findings: Findings) -> None:
        self.kind, self.log, self.seen = kind, log, Seen(log.low)
        self.bad: list[Bad] = []
        self.replaced: set[tuple[int, int]] = set()
        """Bad records whose place another may have taken before anybody read them: readers may pass over them."""
        self.newest_ms = 0
        self._quarantine = quarantine
        self._findings = findings
        self._count = {"read": 0, "applied": 0, "superseded": 0, "quarantined": 0, "newer": 0}

    def __iter__(self) -> Iterator[tuple[Entry, Any]]:
        """Yield each entry with its record, None for a tombstone, Broken where it cannot be used."""
        count = self._count
        for entry in self.log.records:
            count["read"] += 1
            self.seen.take(entry.partition, entry.offset)
            if entry.timestamp_ms > self.newest_ms:
                self.newest_ms = entry.timestamp_ms
            record = read(self.kind, entry.value) if entry.value is not None else None
            if isinstance(record, Broken):
                self._broken(entry, record)
            elif self._quarantine.names(self.log.name, entry.partition, entry.offset, entry.timestamp_ms):
                record = Broken("quarantined by a reader")
                count["quarantined"] += 1
            yield entry, record
        self.seen.close(self.log.high)

    def applied(self) -> None:
        """The record just read took effect."""
        self._count["applied"] += 1

    def superseded(self) -> None:
        """The record just read is void, a repetition, or made way for a later one."""
        self._count["superseded"] += 1

    def broken(self, entry: Entry, reason: str) -> Broken:
        """The record just read breaks a rule that needs more than its bytes."""
        broken = Broken(reason)
        self._broken(entry, broken)
        return broken

    def _broken(self, entry: Entry, record: Broken) -> None:
        if record.newer:
            self._count["newer"] += 1
            return
        self._count["quarantined"] += 1
        self.bad.append(Bad(self.kind, entry.partition, entry.offset, entry.timestamp_ms, record.reason))

    def settle(
        self, quarantine: Quarantine, newest_ms: int, options: Options, answered: Container[tuple[int, int]] = ()
    ) -> None:
        """Judge invariant 10 of this topic: every bad record has its quarantine record (or, a request, its refusal)."""
        findings, name = self._findings, self.log.name
        for bad in self.bad:
            place = (bad.partition, bad.offset)
            if place in answered or quarantine.names(name, *place, bad.timestamp_ms):
                findings.passed(10)
            elif bad.timestamp_ms < quarantine.since_ms:
                findings.unprovable(10, "quarantine records of that time are gone by retention")
            elif quarantine.may_be_dropped(bad.timestamp_ms):
                findings.unprovable(10, "a reader quarantined as many a second as it may, and only counted the rest")
            elif bad.timestamp_ms > newest_ms - options.grace_ms:
                findings.pending(10, "bad record is younger than the grace")
            elif place in self.replaced:
                findings.unprovable(10, "another record under its key may have taken its place before anybody read it")
            else:
                findings.violated(10, f"record cannot be used ({bad.reason}) and nobody quarantined it", name, *place)
        count = self._count
        if self.kind != "control":  # flavors alone are nothing to check
            findings.passed(10, count["applied"] + count["superseded"])
        for what, number in count.items():
            if number:
                findings.figures[f"{self.kind}_{what}"] = number
