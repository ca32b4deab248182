"""Requests and their decisions: which decision is effective, and whether every request has one (invariant 2).

What the decisions say of hosts (grants, allocations that must hold, allocations that are void) is collected for the host pass.
"""

from typing import Any

from msgspec import Struct

from commonplace.ops.audit.evidence import Entry, Options
from commonplace.ops.audit.findings import Findings
from commonplace.ops.audit.hashes import request_digest
from commonplace.ops.audit.intake import Intake
from commonplace.ops.audit.places import Places, Where, where_of
from commonplace.ops.audit.wire import Broken, Build, Cancel, Decision

RequestKey = tuple[int, str]
"""Partition and request id: the scope within which one decision is effective."""


class Asked(Struct, gc=False):
    """The first record of one content of a request. `excused`: it was quarantined and needs no answer."""

    digest: str
    offset: int
    timestamp_ms: int
    deadline_ms: int
    excused: bool = False
    count_min: int = 0
    where: Where | None = None


class Effective(Struct, gc=False):
    """The effective decision of a request."""

    offset: int
    timestamp_ms: int
    said: tuple[Any, ...]
    content: str


class Promise(Struct, gc=False):
    """An allocation that a placed decision names, and where that decision stands."""

    request: str
    index: int
    host: str
    allocation: str
    partition: int
    offset: int
    timestamp_ms: int
    effective: bool


class Answers:
    """All requests and decisions of a pool."""

    def __init__(self, requests: Intake, decisions: Intake, findings: Findings, options: Options) -> None:
        self._requests, self._decisions, self._findings, self._options = requests, decisions, findings, options
        self.asked: dict[RequestKey, list[Asked]] = {}
        self.effective: dict[RequestKey, Effective] = {}
        self.refused: set[tuple[int, int]] = set()  # positions of requests that were rejected
        self._reused: set[tuple[int, str, str]] = set()
        self._first_ms: dict[int, int] = {}  # partition → log time of the oldest decision kept
        self.promised: dict[str, Promise] = {}  # allocation → what an effective decision says of it
        self.void: dict[str, Promise] = {}
        self.grants: dict[tuple[int, int], list[Promise]] = {}
        self.decided: set[str] = set()
        self.places = Places(decisions.log.name, findings, options)

    @property
    def topic(self) -> str:
        """Full name of the topic of decisions."""
        return self._decisions.log.name

    def read(self) -> None:
        """Read both topics."""
        for entry, record in self._requests:
            self._request(entry, record)
        for entry, record in self._decisions:
            self._decision(entry, record)
        for void in [allocation for allocation in self.void if allocation in self.promised]:
            del self.void[void]  # a later decision named a part of what the effective one had

    # -- requests -----------------------------------------------------------------------------------------------------------------------

    def _request(self, entry: Entry, record: Any) -> None:
        if record is None:
            record = self._requests.broken(entry, "a request without a value")
        if isinstance(record, Broken):
            return
        why = _wrong_key((entry.key or b"").decode("utf-8", "replace"), record)
        if why:
            self._requests.broken(entry, why)
            if isinstance(record, Build):
                self._add(entry, record, excused=True)
            return
        if isinstance(record, Cancel):
            self._findings.figures["cancels"] += 1
            self._requests.applied()
            return
        if self._add(entry, record, excused=False):
            self._requests.applied()
        else:
            self._findings.figures["requests_repeated"] += 1
            self._requests.superseded()

    def _add(self, entry: Entry, build: Build, *, excused: bool) -> bool:
        digest = request_digest(build)
        contents = self.asked.setdefault((entry.partition, build.id), [])
        if any(asked.digest == digest for asked in contents):
            return False
        deadline_ms = build.deadline_ms or self._options.deadline_default_ms
        where = where_of(build, entry.timestamp_ms)
        contents.append(Asked(digest, entry.offset, entry.timestamp_ms, deadline_ms, excused, build.count_min, where))
        return True

    # -- decisions ----------------------------------------------------------------------------------------------------------------------

    def _decision(self, entry: Entry, record: Any) -> None:
        self._first_ms.setdefault(entry.partition, entry.timestamp_ms)
        if record is None:
            record = self._decisions.broken(entry, "a decision without a value")
        if isinstance(record, Broken):
            return
        if entry.key != record.request.encode("utf-8", "replace"):
            self._decisions.broken(entry, "its key is not the request it answers")
            return
        figures, name = self._findings.figures, self._decisions.log.name
        figures["decisions"] += 1
        if record.position.partition != entry.partition:
            text = f"decision on {record.request} stands on partition {entry.partition}, its request on {record.position.partition}"
            self._findings.violated(2, text, name, entry.partition, entry.offset)
        if record.result == "rejected":
            self.refused.add((record.position.partition, record.position.offset))
            if record.reason == "id_reused":
                figures["id_reused"] += 1
                self._reused.add((entry.partition, record.request, record.content))
                self._decisions.applied()
                return
        self._judge(entry, record)

    def _judge(self, entry: Entry, record: Decision) -> None:
        """The first decision is effective; an equal one repeats it, another one is void."""
        key = (entry.partition, record.request)
        said = (record.result, tuple(sorted(placed.allocation for placed in record.placed)))
        first = self.effective.get(key)
        if first is None:
            self.effective[key] = Effective(entry.offset, entry.timestamp_ms, said, record.content)
            self.decided.add(record.request)
            self._findings.figures[record.result] += 1
            self._decisions.applied()
        else:
            self._findings.figures["decisions_repeated" if first.said == said else "decisions_void"] += 1
            self._decisions.superseded()
            if first.said == said:
                return
        if record.result == "placed":
            self._promise(entry, record, effective=first is None)

    def _promise(self, entry: Entry, record: Decision, *, effective: bool) -> None:
        indexes = sorted(placed.index for placed in record.placed)
        least = min(
            (a.count_min for a in self.asked.get((entry.partition, record.request), ()) if a.count_min),
            default=record.count,
        )
        partly = least <= len(indexes) == len(set(indexes)) and set(indexes) <= set(range(record.count))
        if indexes != list(range(record.count)) and not partly:
            text = f"decision places indexes {indexes[:8]} of {record.request}, which asked for {record.count}"
            self._findings.violated(3, text, self._decisions.log.name, entry.partition, entry.offset)
        contents = self.asked.get((entry.partition, record.request), ())
        if effective and len(contents) == 1 and contents[0].digest == record.content and contents[0].where:
            self.places.decided(entry, record, contents[0].where)
        into = self.promised if effective else self.void
        for placed in record.placed:
            promise = Promise(
                record.request,
                placed.index,
                placed.host,
                placed.allocation,
                entry.partition,
                entry.offset,
                entry.timestamp_ms,
                effective,
            )
            into.setdefault(placed.allocation, promise)
            self.grants.setdefault((placed.grant.partition, placed.grant.offset), []).append(promise)

    def broken(self, invariant: int, promise: Promise, text: str) -> None:
        """A placed decision says what the hosts log denies."""
        text = f"{'' if promise.effective else 'void '}decision on {promise.request} places {promise.allocation} {text}"
        self._findings.violated(invariant, text, self.topic, promise.partition, promise.offset)

    # -- judgement ----------------------------------------------------------------------------------------------------------------------

    def settle(self, newest_ms: int) -> None:
        """Judge invariant 2 of every request and decision, once all is read and the newest log time is known."""
        for (partition, request), contents in self.asked.items():
            effective = self.effective.get((partition, request))
            for at, asked in enumerate(contents):
                self._settle(partition, request, asked, effective, at == 0, newest_ms)
        whole = {partition: self._requests.seen.whole(partition) for partition in self._requests.log.high}
        for (partition, request), effective in self.effective.items():
            if (partition, request) in self.asked or effective.said[0] == "rejected":
                continue
            if whole.get(partition, True):
                text = f"decision answers request {request}, which was never made on this partition"
                self._findings.violated(2, text, self._decisions.log.name, partition, effective.offset)
            else:
                self._findings.unprovable(2, "the request is gone by retention")

    def _settle(
        self, partition: int, request: str, asked: Asked, effective: Effective | None, first: bool, newest_ms: int
    ) -> None:
        findings, options = self._findings, self._options
        if asked.excused:
            return
        answers_it = effective is not None and (first or effective.content == asked.digest)
        if answers_it or (partition, request, asked.digest) in self._reused:
            findings.passed(2)
            return
        due_ms = asked.timestamp_ms + asked.deadline_ms + options.slack_ms
        if newest_ms < due_ms:
            findings.pending(2, "request is within its deadline")
            findings.figures["requests_pending"] += 1
        elif self._may_be_lost(partition, asked.timestamp_ms):
            findings.unprovable(2, "decisions of that time are gone by retention")
        else:
            what = (
                "has no decision"
                if effective is None
                else "came with a used id and other content, and was never told so"
            )
            text = f"request {request} {what} {(newest_ms - asked.timestamp_ms) / 1000:.0f} s after it was made"
            findings.violated(2, text, self._requests.log.name, partition, asked.offset)

    def _may_be_lost(self, partition: int, timestamp_ms: int) -> bool:
        """Whether a decision written after that time may have been there and is gone."""
        seen = self._decisions.seen
        if seen.whole(partition):
            return False
        return timestamp_ms < self._first_ms.get(partition, 1 << 62) or seen.gone(partition) > 0


def _wrong_key(key: str, record: Build | Cancel) -> str:
    """Why a request does not belong under its key, or "": that is its group where affinity or skew is asked for, else its flavor."""
    if isinstance(record, Cancel):
        group = record.group
    else:
        group = record.group if record.group_policy == "affinity" or record.max_skew else ""
    if group:
        return "" if key == f"group/{group}" else f"key {key[:128]!r} is not of group {group!r}"
    flavor, _, spread = key.partition("/")
    wrong = flavor != record.flavor or (spread and not spread.isdecimal())
    return f"key {key[:128]!r} is not of flavor {record.flavor!r}" if wrong else ""
