"""Requests and their decisions: which decision is effective, and whether every request has one (invariant 2).

What the decisions say of hosts (grants, allocations that must hold, allocations that are void) is collected for the host pass.

    decision ──▶ within the idempotency window of an effective one: void, or says it again
             ──▶ on a request made past window and slack: effective, a new use of the id
             ──▶ in between: either, by when its replica forgot; nothing is proved by it
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from msgspec import Struct

from commonplace.ops.audit.evidence import Entry, Options
from commonplace.ops.audit.findings import Findings
from commonplace.ops.audit.hashes import request_digest
from commonplace.ops.audit.intake import Intake
from commonplace.ops.audit.places import Places, Where, where_of
from commonplace.ops.audit.wire import Broken
from commonplace.ops.audit.wire_requests import Build, Cancel, Decision

RequestKey = tuple[int, str]
"""Partition and request id: the scope within which one decision is effective."""


Stands = Literal["effective", "void", "either"]

LOST = "decisions of that time are gone by retention, or of a later version"
AT_THE_EDGE = "the id was used again as its idempotency window ended"


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
    """The effective decision of a request, or, not `sure`, one that may be. `last_ms`: last said; `before`: of an earlier use of the id."""

    offset: int
    timestamp_ms: int
    said: tuple[Any, ...]
    content: str
    last_ms: int
    sure: bool = True
    before: "Effective | None" = None


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
        self._again: dict[tuple[int, int], Asked] = {}  # by their places: records that say again what is asked already
        self.effective: dict[RequestKey, Effective] = {}  # the newest
        self.refused: set[tuple[int, int]] = set()  # positions of requests that were rejected
        self._reused: dict[tuple[int, str, str], int] = {}  # partition, request, content → when it was last told so
        self._first_ms: dict[int, int] = {}  # partition → log time of the oldest decision kept
        self.promised: dict[str, Promise] = {}  # allocation → what an effective decision says of it
        self.void: dict[str, Promise] = {}
        self.unsure: dict[str, Promise] = {}
        self.grants: dict[tuple[int, int], list[Promise]] = {}
        self.decided: dict[str, int] = {}  # request → log time of its newest effective decision
        self._newer: set[int] = set()  # partitions with decisions of a later version
        self.places = Places(decisions.log.name, findings, options)

    @property
    def topic(self) -> str:
        """Full name of the topic of decisions."""
        return self._decisions.log.name

    @property
    def whole(self) -> bool:
        """Whether every decision ever written was read."""
        return all(map(self._decisions.seen.whole, self._decisions.log.high))

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
        """Note a record of a request; returns whether it asks for something new."""
        digest = request_digest(build)
        deadline_ms = build.deadline_ms or self._options.deadline_default_ms
        where = where_of(build, entry.timestamp_ms)
        asked = Asked(digest, entry.offset, entry.timestamp_ms, deadline_ms, excused, build.count_min, where)
        contents = self.asked.setdefault((entry.partition, build.id), [])
        if any(one.digest == digest and not self._past(asked.timestamp_ms, one.timestamp_ms) for one in contents):
            self._again[entry.partition, entry.offset] = asked
            return False
        contents.append(asked)
        return True

    def _past(self, at_ms: int, since_ms: int) -> bool:
        """Whether window and slack are over for sure."""
        return at_ms > since_ms + self._options.idempotency_window_ms + self._options.slack_ms

    # -- decisions ----------------------------------------------------------------------------------------------------------------------

    def _decision(self, entry: Entry, record: Any) -> None:
        self._first_ms.setdefault(entry.partition, entry.timestamp_ms)
        if record is None:
            record = self._decisions.broken(entry, "a decision without a value")
        if isinstance(record, Broken):
            if record.newer:
                self._newer.add(entry.partition)
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
                self._reused[(entry.partition, record.request, record.content)] = entry.timestamp_ms
                self._decisions.applied()
                return
        self._judge(entry, record)

    def _judge(self, entry: Entry, record: Decision) -> None:
        """The first decision is effective; an equal one repeats it, another one is void unless it opens a new use of the id."""
        key, figures = (entry.partition, record.request), self._findings.figures
        said = (record.result, tuple(sorted(placed.allocation for placed in record.placed)))
        newest = self.effective.get(key)
        asked = self._asked_at(key, record)
        stands = self._stands(entry, asked, newest)
        for known in uses(newest):
            if known.said == said and (stands == "void" or known.content == record.content):
                figures["decisions_repeated"] += 1
                known.last_ms = entry.timestamp_ms
                self._decisions.superseded()
                return
        if stands == "void":
            figures["decisions_void"] += 1
            self._decisions.superseded()
        else:
            ms = entry.timestamp_ms
            self.effective[key] = Effective(entry.offset, ms, said, record.content, ms, stands == "effective", newest)
            self.decided[record.request] = max(ms, self.decided.get(record.request, 0))
            figures[record.result] += 1
            self._decisions.applied()
        if record.result == "placed":
            self._promise(entry, record, asked, stands)

    def _asked_at(self, key: RequestKey, record: Decision) -> Asked | None:
        """The record that a decision says it answers."""
        here = (record.position.partition, record.position.offset)
        if here[0] != key[0]:
            return None
        return next((asked for asked in self.asked.get(key, ()) if asked.offset == here[1]), self._again.get(here))

    def _stands(self, entry: Entry, asked: Asked | None, newest: Effective | None) -> Stands:
        """Whether a decision that differs from those before it on its id is effective, void, or may be either."""
        sure = next((known for known in uses(newest) if known.sure), None)
        if newest is None or sure is None:
            return "effective"
        if entry.timestamp_ms <= sure.timestamp_ms + self._options.idempotency_window_ms:
            return "void"
        if asked is None:
            return "either"
        if asked.timestamp_ms <= sure.timestamp_ms:
            return "void"
        return "effective" if self._past(asked.timestamp_ms, newest.timestamp_ms) else "either"

    def _promise(self, entry: Entry, record: Decision, asked: Asked | None, stands: Stands) -> None:
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
        asked = asked or (contents[0] if len(contents) == 1 else None)
        if stands == "effective" and asked is not None and asked.digest == record.content and asked.where:
            self.places.decided(entry, record, asked.where)
        into = {"effective": self.promised, "void": self.void, "either": self.unsure}[stands]
        for placed in record.placed:
            promise = Promise(
                record.request,
                placed.index,
                placed.host,
                placed.allocation,
                entry.partition,
                entry.offset,
                entry.timestamp_ms,
                stands != "void",
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
            decided = list(uses(self.effective.get((partition, request))))
            for at, asked in enumerate(contents):
                if not asked.excused:
                    self._settle(partition, request, asked, decided, at == 0, newest_ms)
        whole = {partition: self._requests.seen.whole(partition) for partition in self._requests.log.high}
        for (partition, request), newest in self.effective.items():
            *_, effective = uses(newest)
            if (partition, request) in self.asked or effective.said[0] == "rejected":
                continue
            if whole.get(partition, True):
                text = f"decision answers request {request}, which was never made on this partition"
                self._findings.violated(2, text, self._decisions.log.name, partition, effective.offset)
            else:
                self._findings.unprovable(2, "the request is gone by retention")

    def _settle(
        self, partition: int, request: str, asked: Asked, decided: Sequence[Effective], first: bool, newest_ms: int
    ) -> None:
        findings, options = self._findings, self._options
        before = next((known for known in decided if known.timestamp_ms < asked.timestamp_ms), None)
        again = before is not None and asked.timestamp_ms > before.timestamp_ms + options.idempotency_window_ms
        # an answer to an earlier use is none to this one
        since_ms = asked.timestamp_ms - options.skew_ms if again else 0
        answers = [
            known.sure
            for known in decided
            if known.last_ms >= since_ms and (known.content == asked.digest or (not known.content if again else first))
        ]
        if any(answers) or self._reused.get((partition, request, asked.digest), -1) >= since_ms:
            findings.passed(2)
            return
        if answers:
            findings.unprovable(2, AT_THE_EDGE)
            return
        due_ms = asked.timestamp_ms + asked.deadline_ms + options.slack_ms
        if newest_ms < due_ms:
            findings.pending(2, "request is within its deadline")
            findings.figures["requests_pending"] += 1
        elif self._may_be_lost(partition, asked.timestamp_ms):
            findings.unprovable(2, LOST)
        else:
            what = (
                "has no decision"
                if not decided or again
                else "came with a used id and other content, and was never told so"
            )
            text = f"request {request} {what} {(newest_ms - asked.timestamp_ms) / 1000:.0f} s after it was made"
            findings.violated(2, text, self._requests.log.name, partition, asked.offset)

    def may_be_lost(self, request: str, since_ms: int) -> bool:
        """Whether a decision on a request, written after that time, may have been there and was not read."""
        partitions = self._decisions.log.high
        made_ms = since_ms + self._options.skew_ms
        made = [p for p in partitions if any(a.timestamp_ms <= made_ms for a in self.asked.get((p, request), ()))]
        return any(self._may_be_lost(partition, since_ms) for partition in made or partitions)

    def _may_be_lost(self, partition: int, timestamp_ms: int) -> bool:
        """Whether a decision written after that time may have been there and was not read."""
        seen = self._decisions.seen
        if partition in self._newer:
            return True
        if seen.whole(partition):
            return False
        return timestamp_ms < self._first_ms.get(partition, 1 << 62) or seen.gone(partition) > 0


def uses(newest: Effective | None) -> Iterator[Effective]:
    """The effective decisions of one request id, newest first: one for each use of it."""
    while newest is not None:
        yield newest
        newest = newest.before


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
