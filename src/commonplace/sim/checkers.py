"""Checkers of the invariants of the architecture page: told of every append in total order, they judge from the log alone.

    append ──▶ requests, decisions, claims ──▶ answers.py: what is effective, who acts on what
          └──▶ hosts ──▶ own fold (model.py) ──▶ judge.py: the report against the claims that it settles

Nothing here asks a replica what it believes; of the core only the decoding of records is shared. What the log cannot say (who owned a
partition when, where a replica stood when it began to serve) the world tells, which knows it without asking.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from commonplace.core.codec import Bad, decode
from commonplace.core.records import Build, Claim, Confirm, Decision, Flavor, Quarantined, Release
from commonplace.sim.answers import Answers, Report, parse
from commonplace.sim.cells import as_asked
from commonplace.sim.findings import Findings, Place, Violation
from commonplace.sim.grants import Grants
from commonplace.sim.model import FAR_MS, Asked, Hashes, Host, digest_at
from commonplace.sim.owners import Owners
from commonplace.sim.reports import Reports
from commonplace.sim.seen import Raw, Seen
from commonplace.sim.together import Together

JUMPS_MAX_MS: Final = 300_000
"""By how much the broker's clock may jump in all, so that log times still tell which ids may be used again: of a window of 15 minutes,
of which a schedule's work takes some six."""
LEASE_SLACK_MS: Final = 60_000
"""Default of how long after its lease a leased allocation may still be reported at the end: reading, reporting, a heartbeat."""

LAPSE_SLACK_MS: Final = 10_000
"""How long after its lease a lapse may be reported though nothing goes wrong: a look at the end of the claims, the way to the log."""


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
        self._seen = Seen(partitions, drift)
        self._findings = Findings()
        reports: dict[int, dict[int, Report]] = {p: {} for p in range(partitions)}
        self.answers = Answers(self._findings, reports)
        self.answers.window_ms, self.answers.kept_max = window_ms, kept_max
        self.answers.groups = Together(self._findings, self.hosts)
        self.owners = Owners(self._seen, self._findings, self.answers, self.hosts.get)
        hashes = Hashes()
        self.grants = Grants(self._seen, self._findings, self.answers, self.owners, hashes)
        self.reports = Reports(self._seen, self._findings, self.answers, self.grants, hashes, self.hosts, reports)
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
    def injecting(self) -> bool:
        """Whether what is appended now is garbage that a fault writes."""
        return self._seen.injecting

    @injecting.setter
    def injecting(self, value: bool) -> None:
        self._seen.injecting = value

    @property
    def violations(self) -> list[Violation]:
        """What was violated, in the order in which it was seen."""
        return self._findings.violations

    @property
    def bad(self) -> Mapping[Place, str]:
        """Records that somebody must put aside, with why."""
        return self._seen.bad

    # -- the log ------------------------------------------------------------------------------------------------------------------------

    def appended(self, topic: str, topic_id: str, partition: int, raw: Raw) -> None:
        """A record stands in the log. Called at every append, in total order."""
        taker = self._takers.get(topic)
        if taker is None:
            return
        known = self._seen.ids.get(topic)
        if known != topic_id:
            if known is not None:
                self.recreated(topic)
            self._seen.ids[topic] = topic_id
        self._seen.ends[topic, partition] = raw[0] + 1
        taker(partition, raw)

    def claims_read(self, partition: int, offset: int) -> None:
        """An agent begins to read a partition of claims here: what no agent ever read, nobody puts aside."""
        self._claims_from[partition] = min(offset, self._claims_from.get(partition, offset))

    def marked(self, topic: str, partition: int, offset: int) -> None:
        """A transaction's marker took an offset that no reader meets."""
        self._seen.ends[topic, partition] = offset + 1

    def recreated(self, topic: str, topic_id: str | None = None) -> None:
        """A topic was deleted and made anew, empty: what stood in it is nobody's evidence any more."""
        if topic_id is not None:
            self._seen.ids[topic] = topic_id
        self._seen.bad = {place: why for place, why in self._seen.bad.items() if place[0] != topic}
        for at in [at for at in self._seen.ends if at[0] == topic]:
            del self._seen.ends[at]
        if topic == "hosts":
            for partition in range(self.partitions):
                self.reports.lose(partition, 0)
        elif topic == "claims":
            for partition in range(self.partitions):
                self._lose_claims(partition, 0)
            self._seen.lost_hosts = dict.fromkeys(self._seen.lost_hosts, -1)
            self._seen.cut_claims = dict.fromkeys(self._seen.cut_claims, -1)
        elif topic == "requests":
            for partition in range(self.request_partitions):
                self.answers.lose_requests(partition, 0)
            self.answers.skipped.clear()
        elif topic == "decisions":
            for partition in range(self.request_partitions):
                self.answers.lose_decisions(partition, 0)

    def truncated(self, topic: str, partition: int, end: int, left: Collection[int] | None = None) -> None:
        """An unclean election lost what stood from `end` on; `left` are the offsets that compaction had left below, None for all."""
        was = self._seen.ends.get((topic, partition), 0)
        if end >= was:
            return
        self._seen.ends[topic, partition] = end
        lost = [place for place in self._seen.bad if place[:2] == (topic, partition) and place[2] >= end]
        for place in lost:
            del self._seen.bad[place]
        if topic == "hosts":
            self.reports.lose(partition, end, lambda offset: left is None or offset in left)
        elif topic == "claims":
            self._lose_claims(partition, end)
            for host in self.hosts.values():
                if host.partition == partition:
                    host.anew = False
                    self._seen.cut_claims[host.name] = max(was - 1, self._seen.cut_claims.get(host.name, -1))
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
            self._seen.lows[partition] = begin
            taken = max((host.through for host in self.hosts.values() if host.partition == partition), default=-1)
            unread = [at for at in self._seen.bad if at[:2] == (topic, partition) and taken < at[2] < begin]
            for place in unread:  # nobody can put aside what nobody could read
                del self._seen.bad[place]

    def _lose_claims(self, partition: int, end: int) -> None:
        """Confirms and releases may be among what is gone, and old claims be read a second time."""
        self._seen.lost_claims |= self.answers.claimed_on(partition)
        self._seen.lows[partition] = min(self._seen.lows.get(partition, 0), end)
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
                self._seen.must_set_aside("claims", partition, offset, wrong)
            return
        if wrong:
            read = host.reported >= 0 and self._is_read(partition, offset)
            if read and not (isinstance(record, Bad) and record.newer):
                self._seen.must_set_aside("claims", partition, offset, wrong)
            host.claims.append(Asked(offset, at_ms, None))
            return
        host.claims.append(Asked(offset, at_ms, record))
        if self._seen.injecting:
            return
        if isinstance(record, Confirm):
            self.grants.confirmed.setdefault(record.allocation, (at_ms, offset))
            self.answers.confirm(record.request, record.allocation, here)
        elif isinstance(record, Release):
            self.answers.released.add(record.allocation)
            if record.leased_only:
                self.answers.release_of_loser(record.request, record.allocation, here)
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
                self._findings.violated(6, f"{text}, which is not what its flavor asks for", here)

    def _request_record(self, partition: int, raw: Raw) -> None:
        wrong = self.answers.request(partition, *raw)
        if wrong and raw[0] >= self.answers.skipped.get(partition, 0):  # else it stands below what was committed
            self._seen.must_set_aside("requests", partition, raw[0], wrong)

    def _decision_record(self, partition: int, raw: Raw) -> None:
        if self._seen.injecting:
            self.answers.forged(partition, raw[2], raw[3])
            return
        self.answers.decision(
            partition, *raw
        )  # what is bad need not be put aside: who owns no request of then never reads it

    def _state_record(self, topic: str) -> Callable[[int, Raw], None]:
        """Of `control` and `replicas` nothing is judged but that they can be read; flavors say what their requests may claim."""

        def taker(partition: int, raw: Raw) -> None:
            record = decode(topic, raw[3]) if raw[3] is not None else None
            if isinstance(record, Flavor):
                self._flavors.setdefault(record.name, []).append(record)
            if isinstance(record, Bad) and not record.newer:
                self._seen.must_set_aside(topic, partition, raw[0], record.reason)

        return taker

    def _quarantine_record(self, partition: int, raw: Raw) -> None:
        record = decode("quarantine", raw[3] or b"")
        if isinstance(record, Quarantined):
            self.put_aside(record.topic.rpartition(".")[2], record.partition, record.offset)

    def put_aside(self, topic: str, partition: int, offset: int) -> None:
        """Somebody put a bad record aside."""
        self._seen.set_aside.add((topic, partition, offset))

    # -- what the world knows -----------------------------------------------------------------------------------------------------------

    def serves(self, replica: str, positions: Mapping[int, int], ends: Mapping[int, int]) -> None:
        """A replica begins to serve, having read `hosts` to `positions`; `ends` were the ends when it started (invariant 7)."""
        self.owners.serves(replica, positions, ends)

    def assigned(self, replica: str, partition: int) -> None:
        """A replica was told that a request partition is its own."""
        self.owners.assigned(replica, partition)

    def lost(self, replica: str, partition: int | None = None) -> None:
        """A replica was told that a request partition, or every one, is its own no more; or it is gone."""
        self.owners.lost(replica, partition)

    def decides(self, replica: str, partition: int, value: bytes, now_ms: int, *, again: bool = False) -> None:
        """A replica hands a decision to its outbox; `again`: one that it or somebody else wrote before (invariants 3 and 7)."""
        self.owners.decides(replica, partition, value, now_ms, again=again)

    def froze(self, replica: str) -> None:
        """A replica's clock stands still for a while."""
        self.owners.froze(replica)

    def claims(self, replica: str, allocation: str) -> None:
        """A replica hands a claim or a renewal to its outbox."""
        self.owners.claims(replica, allocation)

    def releases(self, value: bytes) -> None:
        """A replica hands a release to its outbox (invariant 2)."""
        self.owners.releases(value)

    def takes_claims(self, agent: str, epochs: Mapping[str, int], position: int) -> None:
        """An agent begins to take claims for hosts in these epochs, having read their partition of `hosts` to `position` (rule 5)."""
        for name, epoch in epochs.items():
            host = self.hosts.get(name)
            if host is None or host.epoch != epoch or (name in self._seen.lost_hosts and not host.anew):
                continue  # a later start record stands, or its own was lost: it will read of it
            if host.reported != epoch or host.opened_at >= position:
                text = f"{agent} takes claims of {name} at {position} of hosts, "
                text += f"before it has read back the first snapshot of its epoch {epoch}"
                self._findings.violated(7, text, ("hosts", host.partition, epoch))

    def fleet(self, replica: str, positions: Mapping[int, int], names: Collection[str]) -> None:
        """A replica that read `hosts` to `positions` believes these hosts to be there (invariant 8)."""
        for name in names:
            host = self.hosts.get(name)
            if (
                host is not None
                and host.removed
                and positions.get(host.partition) == self._seen.ends.get(("hosts", host.partition))
            ):
                text = f"{replica} sees {name}, which was forgotten"
                self._findings.violated(8, text, ("hosts", host.partition, host.epoch))

    def commits(self, partition: int, offset: int) -> None:
        """A group's committed offset moved (rule 7)."""
        self.answers.committed(partition, offset)

    def told(self, partition: int, record: Decision) -> None:
        """A frontend gave its caller this decision for an answer (invariant 2)."""
        placed = frozenset(p.allocation for p in record.placed)
        self.answers.told(partition, record.request, record.result, placed, record.reason)

    def digest(
        self, replica: str, positions: Mapping[int, int], digest_without: Callable[[Collection[str]], int]
    ) -> None:
        """A replica that is caught up and read `hosts` to `positions` has this state digest, some hosts left out (invariant 8)."""
        if any(position < 0 for position in positions.values()):
            return  # it is about to notice that records were lost
        found, unsure = digest_at(self.hosts.values(), positions)
        digest = digest_without(unsure)
        if found != digest:
            at = ", ".join(f"{partition}/{position}" for partition, position in sorted(positions.items()))
            places = [("hosts", partition, position - 1) for partition, position in sorted(positions.items())]
            text = f"{replica} has digest {digest:016x} at hosts {at}, everything up to there makes {found:016x}"
            self._findings.violated(8, text, *places)

    def accounts(self, who: str, read: int, outcomes: Mapping[str, int]) -> None:
        """A replica has read so many records of `hosts`, and says what became of them (invariant 10)."""
        if read != sum(outcomes.values()):
            said = ", ".join(f"{count} {name}" for name, count in outcomes.items())
            self._findings.violated(10, f"{who} has read {read} records of hosts and accounts for {said}")

    # -- the end ------------------------------------------------------------------------------------------------------------------------

    def settled(
        self,
        now_ms: int,
        submitted: Mapping[str, Build],
        *,
        calm_ms: int = FAR_MS,
        deadline_ms: int = 30_000,
        lapse_ms: int = 0,
        dead: Collection[str] = (),
        kept: Callable[[str, int, int], bool] = lambda topic, partition, offset: True,
    ) -> None:
        """Faults stopped at `calm_ms` and everything due has come.

        `submitted` were acknowledged, an agent looks for lapses each `lapse_ms`, `dead` hosts have no agent, `kept` tells whether a record
        still stood when somebody could read it.
        """
        answers, findings = self.answers, self._findings
        answers.settle(lambda build: build.deadline_ms or deadline_ms, calm_ms)
        self.owners.settle(calm_ms)
        self._lapses(calm_ms, lapse_ms)
        known = {request for _, request in answers.asked}
        for request in submitted:
            if request not in known:
                findings.violated(4, f"request {request} was acknowledged and stands nowhere")
        instances: dict[tuple[str, str, int], list[tuple[Host, Any]]] = {}
        for host in self.hosts.values():
            here = ("hosts", host.partition, host.offset)
            for allocation in host.held.values():
                if allocation.origin == "found":
                    continue
                instances.setdefault((allocation.flavor, allocation.request, allocation.index), []).append(
                    (host, allocation)
                )
                if allocation.id not in self._seen.gapped and host.name not in dead:
                    self._settled_allocation(host, allocation, now_ms, here)
        for (_, request, index), holders in instances.items():
            excused = request in answers.anew or any(
                allocation.id in self._seen.gapped or host.name in dead for host, allocation in holders
            )
            if len(holders) > 1 and not excused:
                where = ", ".join(
                    f"{allocation.id} ({allocation.state}) on {host.name}" for host, allocation in holders[:4]
                )
                places = [("hosts", host.partition, host.offset) for host, _ in holders]
                findings.violated(5, f"instance {request}.{index} has {len(holders)} allocations: {where}", *places)
        for place, why in self._seen.bad.items():
            if place not in self._seen.set_aside and kept(*place):
                findings.violated(
                    10, f"the record at {place[0]} {place[1]}/{place[2]} is bad ({why}) and nobody put it aside", place
                )

    def _lapses(self, calm_ms: int, lapse_ms: int) -> None:
        """Once faults have stopped a lease that is over lapses at once."""
        for lapse in self.grants.lapses:
            late_ms = lapse.at_ms - max(lapse.latest_ms, calm_ms) - lapse_ms - LAPSE_SLACK_MS
            if late_ms > 0:
                text = f"{lapse.host} let {lapse.allocation} lapse {late_ms:.0f} ms later than its lease was over, without faults"
                self._findings.violated(5, text, lapse.place)

    def _settled_allocation(self, host: Host, allocation: Any, now_ms: int, here: Place) -> None:
        answers, findings, identity = self.answers, self._findings, allocation.id
        if allocation.state == "leased":
            lease = host.leases.get(identity)
            due_ms = (lease.latest_ms if lease else 0) + self._seen.drift * allocation.lease_ms + self.lease_slack_ms
            if due_ms < now_ms:
                findings.violated(
                    5,
                    f"{host.name} still holds {identity} leased {now_ms - due_ms:.0f} ms after its lease ran out",
                    here,
                )
            return
        promise = answers.promised.get(identity)
        if promise is None:
            if not answers.forgotten(allocation.request):
                findings.violated(
                    2, f"{host.name} holds {identity} of {allocation.request}, which no effective decision names", here
                )
        elif (
            promise.effective.key in answers.cancelled
            and not answers.windowless
            # else an owner may cancel by another decision than its submitter was told and confirmed
            and promise.effective.key not in answers.undone
            and identity not in self._seen.lost_claims
            and not answers.gone(promise.effective.key)
        ):
            at = promise.effective.key
            text = f"{host.name} holds {identity} of {allocation.request}, which was cancelled"
            findings.violated(2, text, here, ("requests", at[0], answers.cancelled[at]))
