"""Checkers of the invariants of the architecture page: told of every append in total order, they judge from the log alone.

    append ──▶ requests, decisions ──▶ answers.py: what is effective
          ├──▶ claims ──▶ owners.py, acting.py: who acts on what
          └──▶ hosts ──▶ reports.py: own fold ──▶ grants.py, judge.py: the report against the claims that it settles
    world ──▶ owners.py, acting.py, readers.py: what replicas, agents and frontends say and do; at_rest.py: what must hold in the end

Nothing here asks a replica what it believes; of the core only the decoding of records is shared. What the log cannot say (who owned a
partition when, where a replica stood when it began to serve) the world tells, which knows it without asking.
"""

from collections.abc import Callable, Collection
from typing import Final

from commonplace.core.codec import Bad, decode
from commonplace.core.records.claims import Claim, Confirm, Release
from commonplace.core.records.control import Flavor
from commonplace.core.records.quarantine import Quarantined
from commonplace.sim import acting
from commonplace.sim.answers import Answers, Report, parse
from commonplace.sim.cells import as_asked
from commonplace.sim.findings import Findings, Place, Violation
from commonplace.sim.grants import Grants
from commonplace.sim.model import FAR_MS, Asked, Hashes, Host
from commonplace.sim.owners import Owners
from commonplace.sim.reports import Reports
from commonplace.sim.seen import Raw, Seen
from commonplace.sim.together import Together

JUMPS_MAX_MS: Final = 300_000
"""By how much the broker's clock may jump in all, so that log times still tell which ids may be used again: of a window of 15 minutes,
of which a schedule's work takes some six."""
LEASE_SLACK_MS: Final = 60_000
"""Default of how long after its lease a leased allocation may still be reported at the end: reading, reporting, a heartbeat."""


class Checkers:
    """All checkers of one schedule. `drift` is by how much the clock of a process may run fast or slow, as a share.

    Replicas remember a decision for `window_ms` after it, and `kept_max` of them.
    """

    def __init__(
        self,
        partitions: int,
        request_partitions: int,
        *,
        drift: float = 0.0,
        lease_slack_ms: int = LEASE_SLACK_MS,
        window_ms: int = FAR_MS,
        kept_max: int = FAR_MS,
    ) -> None:
        self.partitions, self.request_partitions, self.lease_slack_ms = partitions, request_partitions, lease_slack_ms
        self.hosts: dict[str, Host] = {}
        self.seen = Seen(partitions, drift)
        self.findings = Findings()
        reports: dict[int, dict[int, Report]] = {p: {} for p in range(partitions)}
        self.answers = Answers(self.findings, reports)
        self.answers.window_ms, self.answers.kept_max = window_ms, kept_max
        self.answers.groups = Together(self.findings, self.hosts)
        self.owners = Owners(self.seen, self.findings, self.answers, self.hosts.get)
        hashes = Hashes()
        self.grants = Grants(self.seen, self.findings, self.answers, self.owners, hashes)
        self.reports = Reports(self.seen, self.findings, self.answers, self.grants, hashes, self.hosts, reports)
        self._flavors: dict[str, list[Flavor]] = {}  # every one that ever stood under a name
        self._claims_from: dict[int, int] = {}  # partition → first offset that an agent read
        self._takers: dict[str, Callable[[int, Raw], None]] = {
            "hosts": self.reports.take,
            "claims": self._claim_record,
            "requests": self._request_record,
            "decisions": self._decision_record,
            "control": self._state_record("control"),
            "replicas": self._state_record("replicas"),
            "quarantine": self._quarantine_record,
        }

    @property
    def violations(self) -> list[Violation]:
        """What was violated, in the order in which it was seen."""
        return self.findings.violations

    # -- the log ------------------------------------------------------------------------------------------------------------------------

    def appended(self, topic: str, topic_id: str, partition: int, raw: Raw) -> None:
        """A record stands in the log. Called at every append, in total order."""
        taker = self._takers.get(topic)
        if taker is None:
            return
        known = self.seen.ids.get(topic)
        if known != topic_id:
            if known is not None:
                self.recreated(topic)
            self.seen.ids[topic] = topic_id
        self.seen.ends[topic, partition] = raw[0] + 1
        taker(partition, raw)

    def claims_read(self, partition: int, offset: int) -> None:
        """An agent begins to read a partition of claims here: what no agent ever read, nobody puts aside."""
        self._claims_from[partition] = min(offset, self._claims_from.get(partition, offset))

    def marked(self, topic: str, partition: int, offset: int) -> None:
        """A transaction's marker took an offset that no reader meets."""
        self.seen.ends[topic, partition] = offset + 1

    def recreated(self, topic: str, topic_id: str | None = None) -> None:
        """A topic was deleted and made anew, empty: what stood in it is nobody's evidence any more."""
        if topic_id is not None:
            self.seen.ids[topic] = topic_id
        self.seen.bad = {place: why for place, why in self.seen.bad.items() if place[0] != topic}
        for at in [at for at in self.seen.ends if at[0] == topic]:
            del self.seen.ends[at]
        if topic == "hosts":
            for partition in range(self.partitions):
                self.reports.lose(partition, 0)
        elif topic == "claims":
            for partition in range(self.partitions):
                self._lose_claims(partition, 0)
            self.seen.lost_hosts = dict.fromkeys(self.seen.lost_hosts, -1)
            self.seen.cut_claims = dict.fromkeys(self.seen.cut_claims, -1)
        elif topic == "requests":
            for partition in range(self.request_partitions):
                self.answers.lose_requests(partition, 0)
            self.answers.skipped.clear()
        elif topic == "decisions":
            for partition in range(self.request_partitions):
                self.answers.lose_decisions(partition, 0)

    def truncated(self, topic: str, partition: int, end: int, left: Collection[int] | None = None) -> None:
        """An unclean election lost what stood from `end` on; `left` are the offsets that compaction had left below, None for all."""
        was = self.seen.ends.get((topic, partition), 0)
        if end >= was:
            return
        self.seen.ends[topic, partition] = end
        lost = [place for place in self.seen.bad if place[:2] == (topic, partition) and place[2] >= end]
        for place in lost:
            del self.seen.bad[place]
        if topic == "hosts":
            self.reports.lose(partition, end, lambda offset: left is None or offset in left)
        elif topic == "claims":
            self._lose_claims(partition, end)
            for host in self.hosts.values():
                if host.partition == partition:
                    host.anew = False
                    self.seen.cut_claims[host.name] = max(was - 1, self.seen.cut_claims.get(host.name, -1))
        elif topic == "requests":
            self.answers.lose_requests(partition, end)
            self.answers.skipped[partition] = max(was, self.answers.skipped.get(partition, 0))
        elif topic == "decisions":
            self.answers.lose_decisions(partition, end)

    def clock_jumped(self, ms: int) -> None:
        """The broker's clock jumped: past some minutes log times tell no more which ids may be used again."""
        self.answers.jumped_ms += abs(ms)
        self.answers.windowless = self.answers.jumped_ms > JUMPS_MAX_MS

    def expired(self, topic: str, partition: int, begin: int) -> None:
        """Retention took what stood before `begin`."""
        if topic == "claims":
            self.seen.lows[partition] = begin
            taken = max((host.through for host in self.hosts.values() if host.partition == partition), default=-1)
            unread = [at for at in self.seen.bad if at[:2] == (topic, partition) and taken < at[2] < begin]
            for place in unread:  # nobody can put aside what nobody could read
                del self.seen.bad[place]

    def _lose_claims(self, partition: int, end: int) -> None:
        """Confirms and releases may be among what is gone, and old claims be read a second time."""
        self.seen.lost_claims |= self.answers.claimed_on(partition)
        self.seen.lows[partition] = min(self.seen.lows.get(partition, 0), end)
        for host in self.hosts.values():
            if host.partition == partition:
                host.blind = "claims were lost"
                host.claims.clear()

    # -- claims, requests, decisions, quarantine ----------------------------------------------------------------------------------------

    def _claim_record(self, partition: int, raw: Raw) -> None:
        offset, at_ms, key, value = raw
        here = ("claims", partition, offset)
        record = parse(value)
        name = (key or b"").decode(errors="replace")
        host = self.hosts.get(name)
        wrong = record.reason if isinstance(record, Bad) else "" if record.host == name else "key is not its host"
        if host is None or host.partition != partition:
            if wrong and self._is_read(partition, offset) and not (isinstance(record, Bad) and record.newer):
                self.seen.must_set_aside("claims", partition, offset, wrong)
            if name in self.seen.lost_hosts:  # whoever starts it anew with the ledger it has takes this claim, too
                self.seen.lost_hosts[name] = offset
            return
        if wrong:
            read = host.reported >= 0 and self._is_read(partition, offset)
            if read and not (isinstance(record, Bad) and record.newer):
                self.seen.must_set_aside("claims", partition, offset, wrong)
            host.claims.append(Asked(offset, at_ms, None))
            return
        host.claims.append(Asked(offset, at_ms, record))
        if self.seen.injecting:
            return
        if isinstance(record, Confirm):
            self.grants.confirmed.setdefault(record.allocation, (at_ms, offset))
            acting.confirmed(self.answers, record.request, record.allocation, here)
        elif isinstance(record, Release) and record.leased_only:
            acting.loser_released(self.answers, record.request, record.allocation, here)
        elif isinstance(record, Claim):
            self.owners.claimed(record)
            self._as_asked(record, host, here)
            if self.answers.groups is not None:
                self.answers.groups.claimed(record.replica, record.host, (a.id for a in record.allocations))
            if record.mode != "renew":
                self.answers.claimed(record, here)

    def _is_read(self, partition: int, offset: int) -> bool:
        """Whether an agent reads that far back in the claims for some host: not where an offset was given again below every watermark."""
        here = (host for host in self.hosts.values() if host.partition == partition and host.reported >= 0)
        return any(host.through < offset for host in here)

    def _as_asked(self, claim: Claim, host: Host, here: Place) -> None:
        """What is claimed is what the request's flavor asks for, or did before it was set anew."""
        asked = self.answers.asked
        contents = [a.build for p in range(self.request_partitions) for a in asked.get((p, claim.request), ())]
        flavors = [flavor for build in contents for flavor in self._flavors.get(build.flavor, ())]
        if claim.mode == "renew" or not flavors:
            return
        for allocation in claim.allocations:
            if not as_asked(allocation, flavors, host.facts.cells):
                taken = (
                    f"{allocation.resources}{f' and {allocation.cells}' if allocation.cells else ''} of {claim.host}"
                )
                text = f"the claim for {allocation.id} of {claim.request} takes {taken}"
                self.findings.violated(6, f"{text}, which is not what its flavor asks for", here)

    def _request_record(self, partition: int, raw: Raw) -> None:
        wrong = self.answers.request(partition, *raw)
        if wrong and raw[0] >= self.answers.skipped.get(partition, 0):  # else it stands below what was committed
            self.seen.must_set_aside("requests", partition, raw[0], wrong)

    def _decision_record(self, partition: int, raw: Raw) -> None:
        if self.seen.injecting:
            self.answers.forged(partition, raw[2], raw[3])
            return
        # what is bad need not be put aside: who owns no request of then never reads it
        self.answers.decision(partition, *raw)

    def _state_record(self, topic: str) -> Callable[[int, Raw], None]:
        """Of `control` and `replicas` nothing is judged but that they can be read; flavors say what their requests may claim."""

        def taker(partition: int, raw: Raw) -> None:
            record = decode(topic, raw[3]) if raw[3] is not None else None
            if isinstance(record, Flavor):
                self._flavors.setdefault(record.name, []).append(record)
            if isinstance(record, Bad) and not record.newer:
                self.seen.must_set_aside(topic, partition, raw[0], record.reason)

        return taker

    def _quarantine_record(self, partition: int, raw: Raw) -> None:
        record = decode("quarantine", raw[3] or b"")
        if isinstance(record, Quarantined):
            self.seen.set_aside.add((record.topic.rpartition(".")[2], record.partition, record.offset))
