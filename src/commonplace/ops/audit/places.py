"""Where requests let their instances be, and whether what was placed is there (invariant 12).

    request ──▶ what it asks ─┬─ decision: host, ignored hosts, aggregates, one host for a group that stays together
                              ├─ claim of the grant: carries the group's limit and the traits, so that the host had to hold them
                              └─ members decided before it, and whether their hosts still held them then

The rest of a request (zones, images, hints, skew) goes by labels as they were at that moment, which the log does not tell for sure.
"""

from msgspec import Struct

from commonplace.ops.audit.evidence import Entry, Options
from commonplace.ops.audit.findings import Findings
from commonplace.ops.audit.wire import Aggregate, Broken
from commonplace.ops.audit.wire_hosts import Allocation, Claim
from commonplace.ops.audit.wire_requests import Build, Decision, Placed

INVARIANT = 12
FOREVER_MS = 1 << 62


class Where(Struct, frozen=True, gc=False):
    """What a request asks of the places of its instances."""

    request: str
    asked_ms: int
    host: str
    ignored: tuple[str, ...]
    member_of: tuple[str, ...]
    group: str
    group_max: int
    together: bool
    required: tuple[str, ...]
    forbidden: tuple[str, ...]
    any_of: tuple[tuple[str, ...], ...]


class Member(Struct, gc=False):
    """An instance of a group that stays together, as its effective decision placed it."""

    request: str
    instance: str
    host: str
    allocation: str


class Chosen(Struct, frozen=True, gc=False):
    """A placed decision on a request that names aggregates."""

    where: Where
    hosts: tuple[str, ...]
    partition: int
    offset: int
    timestamp_ms: int


def where_of(build: Build, asked_ms: int) -> Where | None:
    """What a request asks of places; None for one that asks nothing, as most do."""
    named = (build.host, build.hosts_ignored, build.member_of, build.group)
    if not any(named) and not (build.traits_required or build.traits_forbidden or build.traits_any_of):
        return None
    return Where(
        build.id,
        asked_ms,
        build.host,
        build.hosts_ignored,
        build.member_of,
        build.group,
        build.group_max,
        build.group_policy == "affinity" and bool(build.group),
        build.traits_required,
        build.traits_forbidden,
        build.traits_any_of,
    )


class Places:
    """Judge of where instances are; told of decisions first, then of what hosts show, then of aggregates."""

    def __init__(self, topic: str, findings: Findings, options: Options) -> None:
        self._topic, self._findings, self._options = topic, findings, options
        self._of: dict[str, Where] = {}  # allocation of an effective decision → what its request asks
        self._chosen: list[Chosen] = []
        self._members: dict[str, list[tuple[Entry, list[Member]]]] = {}  # group → its decisions in log order
        self._together: set[str] = set()
        self._ended: dict[str, int] = {}
        """Allocation → log time of the report that first lacks it; −1 where that is not sure."""
        self._seen: set[str] = set()
        self._shown: dict[tuple[str, str], set[str]] = {}  # group and host → requests of allocations ever shown there
        self._versions: dict[str, list[tuple[int, Aggregate | Broken | None]]] = {}

    # -- decisions ----------------------------------------------------------------------------------------------------------------------

    def decided(self, entry: Entry, record: Decision, where: Where) -> None:
        """An effective decision placed a request that asks something of places."""
        hosts = tuple(placed.host for placed in record.placed)
        for placed in record.placed:
            self._of[placed.allocation] = where
        wrong = self._misplaced(where, hosts)
        if wrong:
            self._violated(entry.partition, entry.offset, f"{record.request} is placed {wrong}")
        elif where.host or where.ignored or where.together:
            self._findings.passed(INVARIANT)
        if where.member_of:
            self._chosen.append(Chosen(where, hosts, entry.partition, entry.offset, entry.timestamp_ms))
        if where.together:
            self._together.add(where.group)
            members = [_member(record.request, placed) for placed in record.placed]
            self._members.setdefault(where.group, []).append((entry._replace(value=None), members))

    def _misplaced(self, where: Where, hosts: tuple[str, ...]) -> str:
        if where.host and any(host != where.host for host in hosts):
            return f"on {min(set(hosts) - {where.host})}, it asked for {where.host}"
        if left_out := sorted(set(hosts) & set(where.ignored)):
            return f"on {left_out[0]}, which it ignores"
        if where.together and len(set(hosts)) > 1:
            return f"on {', '.join(sorted(set(hosts)))}, and group {where.group} stays on one host"
        return ""

    # -- hosts --------------------------------------------------------------------------------------------------------------------------

    def granted(self, entry: Entry, topic: str, allocation: Allocation, claim: Claim) -> None:
        """A claim was granted whose allocation an effective decision names."""
        where = self._of.get(allocation.id)
        if where is None:
            return
        lacks = _lacks(where, allocation, claim)
        if lacks:
            text = f"{claim.host} grants {allocation.id} to {where.request} by a claim {lacks}"
            self._findings.violated(INVARIANT, text, topic, entry.partition, entry.offset)
        else:
            self._findings.passed(INVARIANT)

    def shown(self, host: str, allocation: Allocation) -> None:
        """A report shows an allocation that the one before did not."""
        if allocation.group in self._together:
            self._seen.add(allocation.id)
            self._shown.setdefault((allocation.group, host), set()).add(allocation.request)

    def ended(self, entry: Entry, allocation: Allocation, *, sure: bool) -> None:
        """A report lacks an allocation; `sure`: the report just before had it."""
        if allocation.group in self._together:
            self._ended[allocation.id] = entry.timestamp_ms if sure else -1

    # -- the end ------------------------------------------------------------------------------------------------------------------------

    def control(self, entry: Entry, record: Aggregate | Broken | None) -> None:
        """A record of an aggregate was read, one that cannot be used, or its tombstone."""
        name = (entry.key or b"").decode("utf-8", "replace").removeprefix("aggregate/")
        self._versions.setdefault(name, []).append((entry.timestamp_ms, record))

    def settle(self, whole: bool) -> None:
        """Judge what only the end shows: members of a group on one host, and aggregates; `whole`: all that `control` ever had was read."""
        for group, decisions in self._members.items():
            self._settle_group(group, decisions)
        for one in self._chosen:
            for text in one.where.member_of:
                self._settle_aggregate(one, text, whole)

    def _settle_group(self, group: str, decisions: list[tuple[Entry, list[Member]]]) -> None:
        before: list[Member] = []
        for entry, members in sorted(decisions, key=lambda one: one[0].offset):
            moving = {one.instance for one in members}
            there = {one.host for one in before}
            held = [one for one in before if one.instance not in moving and self._held(one, entry.timestamp_ms)]
            away = {one.host for one in members} - there
            others = {one.request for one in members}
            if held and any(not self._shown.get((group, host), set()) - others for host in away):
                hosts = ", ".join(sorted({one.host for one in held}))
                text = f"{members[0].request} of group {group} is placed on {min(away)}, its members are on {hosts}"
                self._violated(entry.partition, entry.offset, text)
            else:
                self._findings.passed(INVARIANT)
            before += members

    def _held(self, member: Member, at_ms: int) -> bool:
        """Whether a member was held for sure when a decision was written."""
        return (
            member.allocation in self._seen
            and self._ended.get(member.allocation, FOREVER_MS) > at_ms + self._options.skew_ms
        )

    def _settle_aggregate(self, one: Chosen, text: str, whole: bool) -> None:
        """By each state that the aggregates were in between the request and its decision; wrong by all of them is wrong."""
        wanted, names = not text.startswith("!"), text.removeprefix("!").removeprefix("in:").split(",")
        for host in one.hosts:
            possible = {False}
            for name in names:
                possible = {a or b for a in possible for b in self._possible(host, name, one, whole)}
            if wanted not in possible:
                text = f"{one.where.request} is placed on {host}, and asked for {text}"
                self._violated(one.partition, one.offset, text)
            elif len(possible) > 1:
                self._findings.unprovable(
                    INVARIANT, "an aggregate goes by labels, changed just then, or its record is gone"
                )
            else:
                self._findings.passed(INVARIANT)

    def _possible(self, host: str, name: str, one: Chosen, whole: bool) -> set[bool]:
        """Whether a host may have been in an aggregate in that time. Before its first record none was, and requests for it were refused."""
        versions = self._versions.get(name, [])
        since_ms, until_ms = one.where.asked_ms - self._options.slack_ms, one.timestamp_ms + self._options.skew_ms
        ends = [*(ms for ms, _ in versions[1:]), FOREVER_MS]
        found: set[bool] = set()
        for (began_ms, record), end_ms in zip(versions, ends, strict=False):
            if began_ms <= until_ms and end_ms >= since_ms:
                found |= _in(host, record)
        gone = not whole and bool(versions) and versions[0][0] > since_ms
        return found | {True, False} if gone or not found else found

    def _violated(self, partition: int, offset: int, text: str) -> None:
        self._findings.violated(INVARIANT, text, self._topic, partition, offset)


def _member(request: str, placed: Placed) -> Member:
    return Member(request, placed.instance, placed.host, placed.allocation)


def _in(host: str, aggregate: Aggregate | Broken | None) -> set[bool]:
    if aggregate is None:
        return {False}
    if isinstance(aggregate, Broken):
        return {True, False}
    return {True} if host in aggregate.hosts else {True, False} if aggregate.labels else {False}


def _lacks(where: Where, allocation: Allocation, claim: Claim) -> str:
    """What a claim should have carried for its request and does not, or ""."""
    if allocation.group != where.group:
        return f"for group {allocation.group!r}, it asked for {where.group!r}"
    if claim.group_max != where.group_max:
        return (
            f"that allows {claim.group_max or 'any number'} of group {where.group} here, it asked for {where.group_max}"
        )
    for name, asked, carried in (
        ("requires", where.required, claim.traits_required),
        ("forbids", where.forbidden, claim.traits_forbidden),
    ):
        if missing := sorted(set(asked) - set(carried)):
            return f"without trait {missing[0]}, which it {name}"
    if where.any_of != claim.traits_any_of:
        return "without the traits of which it asks for one"
    return ""
