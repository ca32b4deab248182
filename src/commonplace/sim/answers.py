"""Requests and decisions: which decision is effective, and that it answers what was asked with what was granted (invariants 2, 3, 5, 9).

A request id is one request per partition: the same id under a flavor of another partition is another request.
"""

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any

import msgspec
from msgspec import Struct

from commonplace.core.codec import Bad, decode
from commonplace.core.records.claims import Claim
from commonplace.core.records.decisions import ID_REUSED, Decision
from commonplace.core.records.requests import Build, Cancel
from commonplace.sim.findings import Findings, Place
from commonplace.sim.model import FAR_MS, Held, Host
from commonplace.sim.together import Together

RequestKey = tuple[int, str]
"""Partition and request id."""

_encode = msgspec.json.Encoder().encode


class Report(Struct, frozen=True, gc=False):
    """What stands at a position of `hosts`: whose report, what it shows, and why it is nobody's evidence, or ""."""

    host: Host
    held: Held
    void: str = ""


class Effective(Struct, gc=False):
    """An effective decision: what it said, where, and of which request."""

    key: RequestKey
    result: str
    placed: frozenset[str]
    content: str
    offset: int
    at_ms: int
    reason: str = ""


class Promise(Struct, frozen=True, gc=False):
    """An allocation that an effective decision names, and until when it must hold in log time."""

    effective: Effective
    host: str
    until_ms: int


class Asked(Struct, gc=False):
    """The first record of one content of a request that stands; `gone` where it was lost, or written anew below what was committed."""

    build: Build
    offset: int
    at_ms: int
    gone: bool = False


class Answers:
    """Requests and decisions of a pool, in the order of their appends."""

    def __init__(self, findings: Findings, reports: Mapping[int, Mapping[int, Report]]) -> None:
        self.findings, self._reports = findings, reports
        self.asked: dict[RequestKey, list[Asked]] = {}
        self.builds: dict[int, dict[int, str]] = {}  # partition → offset → request id
        self.undecided: dict[int, dict[int, RequestKey]] = {}  # partition → offset → request
        self.cancelled: dict[RequestKey, int] = {}
        self.effective: dict[RequestKey, Effective] = {}
        self.by_request: dict[str, list[Effective]] = {}
        self.promised: dict[str, Promise] = {}
        self.void: dict[str, Place] = {}  # allocation → the void decision that names it
        self.reused: set[tuple[RequestKey, str]] = set()
        self.claims: dict[str, tuple[Claim, Place]] = {}  # allocation → the first claim that asked for it
        self.lost: dict[RequestKey, dict[int, int]] = {}  # request → offsets of its lost records → log time
        self.skipped: dict[
            int, int
        ] = {}  # partition → committed before a truncation, perhaps, though written anew since
        self.window_ms = self.kept_max = FAR_MS  # decisions are remembered for so long, and so many of them
        self.jumped_ms = 0  # by so much in all the broker's clock jumped, which ages are counted by
        self.anew: set[str] = set()  # ids decided again once their first decision may be forgotten: another request's
        self.windowless = False  # the broker's clock jumped far: which ids may be used again nobody can say
        self.undone: set[RequestKey] = set()  # whose effective decision was lost, or forged: another may be now
        self.groups: Together | None = None
        # allocations claimed before reports were lost: grants may not stand where decisions find them
        self.unfound: set[str] = set()

    # -- requests -----------------------------------------------------------------------------------------------------------------------

    def request(self, partition: int, offset: int, at_ms: int, key: bytes | None, value: bytes | None) -> str:
        """A record of `requests`; returns why it is bad, or ""."""
        record = decode("requests", value) if value is not None else Bad("no value")
        if isinstance(record, Bad):
            return record.reason
        if not _may_stand_under((key or b"").decode(errors="replace"), record):
            return "key is not its flavor or group"
        at, gone = (partition, record.id), offset < self.skipped.get(partition, 0)
        if isinstance(record, Cancel):
            if at in self.asked and not gone and not self.gone(at):
                self.cancelled.setdefault(at, offset)
            return ""
        contents = self.asked.setdefault(at, [])
        known = next((asked for asked in contents if asked.build == record), None)
        if known is None:
            contents.append(Asked(record, offset, at_ms, gone))
        elif known.gone and not gone:  # its submitter asked again
            self.lost.setdefault(at, {}).setdefault(known.offset, known.at_ms)
            known.offset, known.at_ms, known.gone = offset, at_ms, False
        if not gone and (at not in self.effective or len(contents) > 1):
            self.undecided.setdefault(partition, {})[offset] = at
        self.builds.setdefault(partition, {})[offset] = record.id
        return ""

    def gone(self, key: RequestKey) -> bool:
        """Whether no record of a request stands where anybody reads it: then it is owed nothing."""
        return all(asked.gone for asked in self.asked.get(key, ()))

    def lose_requests(self, partition: int, end: int) -> None:
        """Requests that are gone need no decision; their ids stay known, because decisions on them may still come.

        What was claimed for them is left, until it lapses: of their groups nobody can say where the next one is to be.
        """
        for at, contents in self.asked.items():
            for asked in contents if at[0] == partition else ():
                if asked.offset >= end and not asked.gone:
                    asked.gone = True
                    self.lost.setdefault(at, {})[asked.offset] = asked.at_ms
                    self.doubt((asked.build.group,))
        self.cancelled = {at: offset for at, offset in self.cancelled.items() if at[0] != partition or offset < end}
        for offset in [offset for offset in self.builds.get(partition, {}) if offset >= end]:
            del self.builds[partition][offset]
            self.undecided.get(partition, {}).pop(offset, None)

    # -- decisions ----------------------------------------------------------------------------------------------------------------------

    def decision(self, partition: int, offset: int, at_ms: int, key: bytes | None, value: bytes | None) -> str:
        """A record of `decisions`; returns why it is bad, or ""."""
        record = decode("decisions", value) if value is not None else Bad("no value")
        if isinstance(record, Bad):
            return "" if record.newer else record.reason
        if key != record.request.encode():
            return "key is not the request it answers"
        self._decided(partition, offset, at_ms, record)
        return ""

    def _decided(self, partition: int, offset: int, at_ms: int, record: Decision) -> None:
        at, here = (partition, record.request), ("decisions", partition, offset)
        if record.position.partition != partition:
            where = record.position.partition
            text = f"decision on {record.request} stands on partition {partition}, its request on {where}"
            self.findings.violated(2, text, here)
        if record.reason == ID_REUSED:
            self.reused.add((at, record.content))
            return
        placed = frozenset(p.allocation for p in record.placed)
        first = self.effective.get(at)
        if first is not None and self.old(first.at_ms, at_ms):
            self.anew.add(record.request)
        if first is None:
            first = Effective(at, record.result, placed, record.content, offset, at_ms, record.reason)
            self.effective[at] = first
            self.by_request.setdefault(record.request, []).append(first)
            self._answers_a_request(first, record, here)
            if record.result == "placed":
                self._placed(first, record, here)
        elif (first.result, first.placed) != (record.result, placed):
            for allocation in placed - first.placed:
                self.void.setdefault(allocation, here)
            if record.result == "placed":
                self._grants(record, "void ", here)

    def _answers_a_request(self, effective: Effective, record: Decision, here: Place) -> None:
        partition, request = effective.key
        contents = self.asked.get(effective.key)
        if contents is None:
            if record.reason != "invalid":
                self.findings.violated(
                    2, f"decision answers request {request}, which was never made on this partition", here
                )
            return
        open_here = self.undecided.get(partition, {})
        for offset in [offset for offset, key in open_here.items() if key == effective.key]:
            del open_here[offset]
        there = self.builds.get(partition, {}).get(record.position.offset, request)
        lost = self.lost.get(effective.key, {})
        if there != request and record.position.offset not in lost and record.reason != "invalid":
            text = f"decision on {request} names offset {record.position.offset}, where request {there} stands"
            self.findings.violated(2, text, here)
        if record.content and all(digest(asked.build) != record.content for asked in contents):
            self.findings.violated(
                2, f"decision on {request} answers content {record.content}, which nobody submitted", here
            )

    def _placed(self, effective: Effective, record: Decision, here: Place) -> None:
        indexes = sorted(p.index for p in record.placed)
        contents = self.asked.get(effective.key)
        least = min((a.build.count_min for a in contents or () if a.build.count_min), default=record.count)
        partly = least <= len(indexes) == len(set(indexes)) and set(indexes) <= set(range(record.count))
        if indexes != list(range(record.count)) and not partly:
            self.findings.violated(
                3, f"decision places indexes {indexes[:8]} of {record.request}, which asked for {record.count}", here
            )
        if contents and all(asked.build.count != record.count for asked in contents):
            text = f"decision says {record.request} asked for {record.count}, it asked for {contents[0].build.count}"
            self.findings.violated(3, text, here)
        first_ms = min((asked.at_ms for asked in contents or ()), default=-(1 << 62))
        submitted_ms = self.lost.get(effective.key, {}).get(record.position.offset, first_ms)
        for placed in record.placed:
            self.promised[placed.allocation] = Promise(effective, placed.host, submitted_ms + record.confirm_within_ms)
            self.void.pop(placed.allocation, None)
        self._grants(record, "", here)
        asked = next((a.build for a in contents or () if digest(a.build) == record.content), None)
        if self.groups is not None and asked is not None and asked.group:
            # what was claimed for a member in vain counts as one once the decision is forgotten, until it lapses
            if self.old(next(iter(self.effective.values())).at_ms, effective.at_ms):
                self.doubt([asked.group])
            self.groups.decided(asked, record, here)

    def _grants(self, record: Decision, what: str, here: Place) -> None:
        """Each allocation must be shown by the report that the decision names, and that report must have counted."""
        for placed in record.placed:
            if placed.allocation in self.unfound:
                continue
            partition, offset = placed.grant.partition, placed.grant.offset
            grant = ("hosts", partition, offset)
            report = self._reports.get(partition, {}).get(offset)
            says = f"{what}decision on {record.request} places {placed.allocation} on {placed.host}, "
            says += f"whose grant it finds at hosts {partition}/{offset}"
            if report is None:
                self.findings.violated(3, f"{says}: no report stands there", here, grant)
                continue
            held = report.held.get(placed.allocation)
            if report.void:
                self.findings.violated(9, f"{says}: {report.void}", here, grant)
            elif report.host.name != placed.host or held is None:
                self.findings.violated(3, f"{says}: {report.host.name}'s report there does not show it", here, grant)
            elif (held.request, held.index) != (record.request, placed.index):
                self.findings.violated(3, f"{says}: there it is of {held.request}.{held.index}", here, grant)

    # -- claims, and what was lost or forgotten -----------------------------------------------------------------------------------------

    def claimed(self, claim: Claim, here: Place) -> None:
        """Allocation ids are unique for ever: another claim never names one again; the same record may stand twice."""
        for allocation in claim.allocations:
            first, where = self.claims.setdefault(allocation.id, (claim, here))
            if first is not claim and first != claim:
                text = f"a claim of {claim.request} on {claim.host} names {allocation.id}, "
                text += f"which a claim of {first.request} on {first.host} named before"
                self.findings.violated(5, text, here, where)

    def lose_reports(self, partition: int) -> None:
        """Reports were lost: what was claimed before need not be shown any more, nor the groups of it be known."""
        found = self.claimed_on(partition) - self.unfound
        self.unfound |= found
        self.doubt(allocation.group for identity in found for allocation in self.claims[identity][0].allocations)

    def claimed_on(self, partition: int) -> set[str]:
        """Allocations that were ever claimed on hosts of a partition."""
        return {identity for identity, (_, here) in self.claims.items() if here[1] == partition}

    def doubt(self, groups: Iterable[str]) -> None:
        """Records about members of these groups were lost: where the next one is to be nobody can say."""
        if self.groups is not None:
            self.groups.doubtful.update(groups)

    def lose_decisions(self, partition: int, end: int) -> None:
        """Decisions were lost from `end` on: who reads on decides anew what they had decided."""
        for key, effective in self.effective.items():
            if key[0] == partition and effective.offset >= end:
                self._undo(key)

    def forged(self, partition: int, key: bytes | None, value: bytes | None) -> None:
        """A record that a fault wrote: a decision under its request's key is effective like any."""
        record = decode("decisions", value or b"")
        if isinstance(record, Decision) and key == record.request.encode():
            self._undo((partition, record.request))

    def _undo(self, key: RequestKey) -> None:
        self.undone.add(key)
        self.doubt(asked.build.group for asked in self.asked.get(key, ()))

    def undecided_again(self, request: str) -> bool:
        """Whether an effective decision on the request was lost, or forged."""
        return any(key[1] == request for key in self.undone)

    def old(self, decided_ms: int, at_ms: int) -> bool:
        """Whether replicas may have forgotten a decision by then."""
        return at_ms - decided_ms + self.jumped_ms > self.window_ms or len(self.effective) > self.kept_max

    def asked_anew(self, promise: Promise) -> bool:
        """Whether the id of what was promised was used again once replicas may have forgotten its decision.

        Who takes its partition over then takes up what the id leases for that request, whose lease holds from there on (decision 4).
        """
        decided_ms = promise.effective.at_ms
        return any(
            asked.at_ms > decided_ms and self.old(decided_ms, asked.at_ms)
            for asked in self.asked.get(promise.effective.key, ())
        )

    def forgotten(self, request: str) -> bool:
        """Whether another decision than the first may be effective: that was lost, or time, or a clock that jumped ahead, let the first
        use of the id be forgotten, so that its second is a request of its own.
        """
        if request in self.anew or self.undecided_again(request):
            return True
        return self.windowless and any(key[1] == request and len(uses) > 1 for key, uses in self.asked.items())

    def used_elsewhere(self, key: RequestKey, end: int = 1 << 62) -> bool:
        """Whether every content that came under a key below `end` was told that its id was used, by a request on another partition."""
        contents = [asked for asked in self.asked.get(key, []) if asked.offset < end and not asked.gone]
        told = all((key, digest(asked.build)) in self.reused for asked in contents)
        return told and any(partition != key[0] and request == key[1] for partition, request in self.asked)


def _may_stand_under(key: str, record: Build | Cancel) -> bool:
    """Whether a request's key is its group, where affinity or skew is asked for, else its flavor."""
    grouped = isinstance(record, Cancel) or record.group_policy == "affinity" or record.max_skew > 0
    if grouped and record.group:
        return key == f"group/{record.group}"
    flavor, slash, spread = key.partition("/")
    return flavor == record.flavor and (not slash or spread.isdigit())


def digest(build: Build) -> str:
    """Digest of what a request asks for: BLAKE2b over its record written anew."""
    return blake2b(_encode(build), digest_size=8).hexdigest()


def parse(value: bytes | None) -> Any:
    """A claims record, or Bad."""
    return decode("claims", value) if value is not None else Bad("no value")
