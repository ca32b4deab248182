"""Checkers of the invariants of the architecture page: told of every append in total order, they judge from the log alone.

    append ──▶ requests, decisions, claims ──▶ answers.py: what is effective, who acts on what
          └──▶ hosts ──▶ own fold (model.py) ──▶ judge.py: the report against the claims that it settles

Nothing here asks a replica what it believes; of the core only the decoding of records is shared. What the log cannot say (who owned a
partition when, where a replica stood when it began to serve) the world tells, which knows it without asking.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from commonplace.core.hashing import digest64
from commonplace.core.records import (
    Bad,
    Build,
    Claim,
    Confirm,
    Decision,
    Delta,
    Quarantined,
    Release,
    Snapshot,
    Start,
    decode,
)
from commonplace.ops.audit.hashes import MODULUS, partition_of
from commonplace.sim.answers import Answers, Report, parse
from commonplace.sim.findings import Findings, Place, Violation
from commonplace.sim.judge import Judge
from commonplace.sim.model import FAR_MS, NO_BASE, Asked, Hashes, Host, facts_of, held_by
from commonplace.sim.owners import Owners

Raw = tuple[int, int, bytes | None, bytes | None]

LEASE_SLACK_MS: Final = 60_000
"""Default of how long after its lease a leased allocation may still be reported at the end: reading, reporting, a heartbeat."""


class Checkers:
    """All checkers of one schedule.

    `drift` is by how much the clock of a process may run fast or slow, as a share. While `injecting` is set, appended records are garbage
    that a fault wrote: they are folded like any, and nobody is blamed for them.
    """

    def __init__(
        self, partitions: int, request_partitions: int, *, drift: float = 0.0, lease_slack_ms: int = LEASE_SLACK_MS
    ) -> None:
        self.partitions, self.request_partitions = partitions, request_partitions
        self.drift, self.lease_slack_ms = drift, lease_slack_ms
        self.injecting = False
        self.hosts: dict[str, Host] = {}
        self._findings = Findings()
        self._hashes = Hashes()
        self._keys: dict[bytes, tuple[Host, str, int]] = {}
        self._reports: dict[int, dict[int, Report]] = {p: {} for p in range(partitions)}
        self._raws: dict[int, list[Raw]] = {p: [] for p in range(partitions)}
        self._ids: dict[str, str] = {}  # topic → its id
        self._ends: dict[tuple[str, int], int] = {}
        self._lows: dict[int, int] = {}  # claims partition → first offset kept
        self._granted: dict[str, tuple[Place, int]] = {}  # allocation ever granted → where, and the offset of its claim
        self._confirmed: dict[str, tuple[int, int]] = {}  # allocation → log time and offset of its first confirm
        self._lost_claims: set[int] = set()  # partitions of claims that lost acknowledged records
        self._lost_hosts: set[int] = set()  # the same of hosts
        self._bad: dict[Place, str] = {}  # records that somebody must quarantine
        self._set_aside: set[Place] = set()
        self._claims_from: dict[int, int] = {}  # partition → first offset that an agent read
        self.answers = Answers(self._findings, self._reports)
        self.owners = Owners(self._findings, self.answers, self.hosts.get)
        self.owners.lossy = self._lost_claims
        self._takers: dict[str, Callable[[int, Raw], None]] = {
            "hosts": self._host_record,
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
        return self._findings.violations

    # -- the log ------------------------------------------------------------------------------------------------------------------------

    def appended(self, topic: str, topic_id: str, partition: int, raw: Raw) -> None:
        """A record stands in the log. Called at every append, in total order."""
        taker = self._takers.get(topic)
        if taker is None:
            return
        known = self._ids.get(topic)
        if known != topic_id:
            if known is not None:
                self.recreated(topic)
            self._ids[topic] = topic_id
        self._ends[topic, partition] = raw[0] + 1
        taker(partition, raw)

    def claims_read(self, partition: int, offset: int) -> None:
        """An agent begins to read a partition of claims here: what no agent ever read, nobody puts aside."""
        self._claims_from[partition] = min(offset, self._claims_from.get(partition, offset))

    def marked(self, topic: str, partition: int, offset: int) -> None:
        """A transaction's marker took an offset that no reader meets."""
        self._ends[topic, partition] = offset + 1

    def recreated(self, topic: str, topic_id: str | None = None) -> None:
        """A topic was deleted and made anew, empty: what stood in it is nobody's evidence any more."""
        if topic_id is not None:
            self._ids[topic] = topic_id
        self._bad = {place: why for place, why in self._bad.items() if place[0] != topic}
        for at in [at for at in self._ends if at[0] == topic]:
            del self._ends[at]
        if topic == "hosts":
            for partition in range(self.partitions):
                self._lose_hosts(partition, 0)
        elif topic == "claims":
            for partition in range(self.partitions):
                self._lose_claims(partition, 0)
        elif topic == "requests":
            for partition in range(self.request_partitions):
                self._lose_requests(partition, 0)
        elif topic == "decisions":
            self.answers.lossy = True

    def truncated(self, topic: str, partition: int, end: int) -> None:
        """An unclean election lost what stood from `end` on."""
        was = self._ends.get((topic, partition), 0)
        if end >= was:
            return
        self._ends[topic, partition] = end
        lost = [place for place in self._bad if place[:2] == (topic, partition) and place[2] >= end]
        for place in lost:
            del self._bad[place]
        if topic == "hosts":
            self._lose_hosts(partition, end)
        elif topic == "claims":
            self._lose_claims(partition, end)
        elif topic == "requests":
            self._lose_requests(partition, end)
            self.answers.skipped[partition] = max(was, self.answers.skipped.get(partition, 0))
        elif topic == "decisions":
            self.answers.lossy = True

    def clock_jumped(self) -> None:
        """The broker's clock jumped: log times tell no more which ids may be used again."""
        self.answers.windowless = True

    def expired(self, topic: str, partition: int, begin: int) -> None:
        """Retention took what stood before `begin`."""
        if topic == "claims":
            self._lows[partition] = begin

    def _lose_requests(self, partition: int, end: int) -> None:
        """Requests that are gone need no decision; their ids stay known, because decisions on them may still come."""
        answers = self.answers
        for at in [
            at
            for at, contents in answers.asked.items()
            if at[0] == partition and any(a.offset >= end for a in contents)
        ]:
            answers.gone.add(at)
        for offset in [offset for offset in answers.builds.get(partition, {}) if offset >= end]:
            del answers.builds[partition][offset]
            answers.undecided.get(partition, {}).pop(offset, None)

    def _lose_claims(self, partition: int, end: int) -> None:
        """Confirms and releases may be among what is gone, and old claims be read a second time."""
        self._lost_claims.add(partition)
        self._lows[partition] = min(self._lows.get(partition, 0), end)
        for host in self.hosts.values():
            if host.partition == partition:
                host.blind = "claims were lost"
                host.claims.clear()

    def _lose_hosts(self, partition: int, end: int) -> None:
        """Fold what is left anew; ledgers that live may know more than the log does, so nothing follows from it at once."""
        self.answers.hosts_lossy = True
        self._lost_hosts.add(partition)
        kept = [raw for raw in self._raws[partition] if raw[0] < end]
        lost = [host for host in self.hosts.values() if host.partition == partition]
        claims = {host.name: host.claims for host in lost}
        for host in lost:
            del self.hosts[host.name]
        self._keys = {key: known for key, known in self._keys.items() if known[0].partition != partition}
        self._reports[partition].clear()
        self._raws[partition].clear()
        findings, self._findings = self._findings, Findings()
        for raw in kept:
            self._host_record(partition, raw)
        self._findings = findings
        for host in self.hosts.values():
            if host.partition == partition:
                host.blind, host.claims = "reports were lost", claims.get(host.name, host.claims)

    # -- hosts --------------------------------------------------------------------------------------------------------------------------

    def _host_record(self, partition: int, raw: Raw) -> None:
        offset, at_ms, key, value = raw
        self._raws[partition].append(raw)
        known = self._keys.get(key or b"")
        if known is None or known[0].partition != partition:
            known = self._new_key(partition, key)
            if known is None:
                self._must_set_aside("hosts", partition, offset, "a key that is no host's of this partition")
                return
        host, kind, epoch = known
        if value is None:
            self._tombstone(host, kind, epoch, offset)
            return
        record = decode("hosts", value)
        if self.injecting and not isinstance(record, Bad):
            record = unprintable(record) or record
        wrong = record.reason if isinstance(record, Bad) else disagreement(record, host, kind, epoch, offset)
        if wrong:
            if kind == "start" or (epoch >= host.epoch and not host.removed):
                host.spoil(delta=kind == "delta", why=wrong)
                host.note(offset)
                if not (isinstance(record, Bad) and record.newer):
                    self._must_set_aside("hosts", partition, offset, wrong)
        elif isinstance(record, Start):
            self._start(host, record, offset, at_ms)
        else:
            self._report(host, record, offset, at_ms, value)

    def _new_key(self, partition: int, key: bytes | None) -> tuple[Host, str, int] | None:
        name, kind, epoch = parse_key(key)
        if not kind or partition_of(name, self.partitions) != partition:
            return None
        host = self.hosts.get(name)
        if host is None:
            host = self.hosts[name] = Host(name, partition)
            host.blind = "reports were lost" if partition in self._lost_hosts else ""
        known = (host, kind, epoch)
        if key is not None:
            self._keys[key] = known
        return known

    def _start(self, host: Host, record: Start, offset: int, at_ms: int) -> None:
        if offset <= host.epoch:
            return
        if record.removed:
            for identity in host.held:
                promise = self.answers.promised.get(identity)
                if promise is not None and not self.injecting and not host.blind:
                    text = f"{host.name} was forgotten while it held {identity}"
                    self._findings.violated(3, text, ("hosts", host.partition, offset))
            host.claims.clear()
        host.start(offset, at_ms, removed=record.removed)
        host.claims_from = self._ends.get(("claims", host.partition), 0)
        host.low = self._lows.get(host.partition, 0)
        host.note(offset)

    def _tombstone(self, host: Host, kind: str, epoch: int, offset: int) -> None:
        if kind == "start":
            return
        if epoch == host.reported and not host.removed and not self.injecting and not host.blind and host.held:
            text = f"the {kind} of epoch {epoch} of {host.name} is deleted, on which its ledger rests: no later snapshot stands"
            self._findings.violated(9, text, ("hosts", host.partition, offset), ("hosts", host.partition, host.offset))
        if kind == "snapshot" and epoch == host.epoch and not host.removed:
            host.forget()
            host.note(offset)

    def _report(self, host: Host, record: Snapshot | Delta, offset: int, at_ms: int, value: bytes) -> None:
        partition, reports = host.partition, self._reports[host.partition]
        void = self._void(host, record, offset, value)
        if void:
            reports[offset] = Report(host, host.held, void)
            return
        if record.epoch > host.epoch:
            self._unseen_epoch(host, record.epoch, offset)
        if not self._rests(host, record, offset):
            reports[offset] = Report(host, host.held, "it rests on a snapshot that nobody has seen")
            host.note(offset)
            return
        after, facts = held_by(host, record), facts_of(host, record)
        if after is host.held and facts is host.facts and self._only_a_heartbeat(host, record):
            host.generation, host.offset, host.at_ms = record.generation, offset, at_ms
            host.through = record.claims_through
            reports[offset] = Report(host, after)
            host.note(offset)
            return
        total = host.sum if after is host.held else self._hashes.sum(after)
        found = (facts.hash + total) % MODULUS
        if f"{found:016x}" != record.hash:
            if not self.injecting:
                text = f"{host.name} reports state hash {record.hash}, its content hashes to {found:016x}"
                self._findings.violated(9, text, ("hosts", partition, offset))
            host.stale = "wrong hash"
        else:
            host.stale = ""
        if self.injecting:
            host.blind = "a forged report lies before"
        else:
            self._judge(host, record, after, facts, offset, at_ms)
            self._watermark(host, record, offset)
        self._follow(host, record, after, facts, total, offset, at_ms)
        reports[offset] = Report(host, after, host.stale)
        host.note(offset)

    def _only_a_heartbeat(self, host: Host, record: Snapshot | Delta) -> bool:
        """Whether a report says nothing but how far its ledger has read, and follows directly on the one before: most do."""
        return (
            not record.settled
            and isinstance(record, Delta)
            and record.hash == host.said_hash
            and record.generation == host.generation + 1
            and host.through <= record.claims_through < self._ends.get(("claims", host.partition), 0)
            and (not host.claims or host.claims[0].offset > record.claims_through)
            and record.gap is None
            and record.claims_topic == host.topic == self._ids.get("claims")
            and not (host.fresh or host.blind or host.stale or self.injecting or host.base_gap or host.gap)
        )

    def _void(self, host: Host, record: Snapshot | Delta, offset: int, value: bytes) -> str:
        """Why a newer epoch or generation has replaced the report, or ""."""
        if record.epoch < host.epoch:
            return f"that is void, of epoch {record.epoch} after a start record at {host.epoch}"
        if record.epoch > host.epoch:
            return ""
        if host.removed:
            return "that is void, the host was forgotten"
        said = host.said.get(record.generation)
        if said is None and record.generation > host.generation:
            host.said[record.generation] = value
            return ""
        if said is not None and said != value and not self.injecting and not host.blind:
            text = f"{host.name} reports generation {record.generation} of epoch {host.epoch} twice, with other content"
            self._findings.violated(9, text, ("hosts", host.partition, offset))
        return f"that is void, generation {record.generation} came before"

    def _unseen_epoch(self, host: Host, epoch: int, offset: int) -> None:
        if not self.injecting and not host.blind:
            text = f"{host.name} reports under epoch {epoch}, where no start record of it stands"
            self._findings.violated(9, text, ("hosts", host.partition, offset))
        host.start(epoch, host.at_ms, removed=False)
        host.blind = "its start record is not there"

    def _rests(self, host: Host, record: Snapshot | Delta, offset: int) -> bool:
        """Whether a delta rests on the last snapshot; a snapshot rests on nothing."""
        if isinstance(record, Snapshot) or record.base_generation == host.base_generation:
            return True
        if (host.fresh or host.base_generation != NO_BASE) and not self.injecting and not host.blind:
            base = "none of this epoch" if host.fresh else f"generation {host.base_generation}"
            text = f"{host.name} rests a delta on generation {record.base_generation}, its last snapshot is {base}"
            self._findings.violated(9, text, ("hosts", host.partition, offset))
        host.generation = record.generation
        host.stale = "a delta on another base"
        host.blind = host.blind or "a delta rests on a snapshot that cannot be used"
        return False

    def _judge(
        self, host: Host, record: Snapshot | Delta, after: dict[str, Any], facts: Any, offset: int, at_ms: int
    ) -> None:
        if not host.blind:
            if host.fresh:
                host.blind = "reports of the epoch before it did not reach the log" if record.generation > 1 else ""
            elif record.generation != host.generation + 1:
                host.blind = "a report between never reached the log"
        here = ("hosts", host.partition, offset)

        def violated(invariant: int, text: str) -> None:
            self._findings.violated(invariant, f"{host.name} {text}", here)

        before, leases = host.held, host.leases
        unsure = host.partition in self._lost_hosts or host.partition in self._lost_claims
        judge = Judge(host, record, after, facts, (offset, at_ms), self._hashes, violated, unsure=unsure)
        judge.run()
        for identity in judge.lapsed:
            self._lapsed(host, identity, leases, judge, here)
        if after is not before:
            for identity, allocation in after.items():
                was = before.get(identity)
                if was is None and allocation.origin != "found":
                    self._new_allocation(host, identity, judge.by_claim.get(identity, -1), here)
                if allocation.state == "active" and (was is None or was.state != "active"):
                    self._became_active(host, allocation, record.gap or host.gap, here)

    def _new_allocation(self, host: Host, identity: str, claim: int, here: Place) -> None:
        """No claims record is granted twice. Two equal records are two claims: their second grant lapses like any loser."""
        before = self._granted.get(identity)
        if before is not None and claim >= 0 and before[1] == claim and host.partition not in self._lost_claims:
            text = f"{host.name} grants the claim at {claim} a second time: it holds {identity} again"
            self._findings.violated(5, text, here, before[0])
        self._granted[identity] = (here, claim)

    def _became_active(self, host: Host, allocation: Any, gap: bool | None, here: Place) -> None:
        """With a gap the ledger keeps whatever it held, because confirms may be among the claims that are gone."""
        answers, identity = self.answers, allocation.id
        if allocation.origin == "found" or gap or answers.lossy or identity in answers.promised:
            return
        void = answers.void.get(identity)
        text = f"{host.name} made {identity} of {allocation.request} active, which no effective decision names"
        self._findings.violated(2, text, here, *([void] if void else []))

    def _lapsed(self, host: Host, identity: str, leases: Mapping[str, Any], judge: Judge, here: Place) -> None:
        """A lease ends neither before its time nor past a confirm that came in time, nor before the decision's word is over."""
        self.owners.lapses[identity] = (judge.at_ms, here)
        lease = leases.get(identity)
        if lease is None or host.blind or host.partition in self._lost_claims:
            return
        identity_renewed = judge.renewed.get(identity)
        held = judge.before.get(identity)
        full_ms = held.lease_ms if held is not None else 0
        earliest_ms = (
            lease.earliest_ms if identity_renewed is None else identity_renewed + full_ms
        ) - self.drift * full_ms
        if judge.at_ms < earliest_ms:
            text = f"{host.name} lets {identity} lapse {earliest_ms - judge.at_ms:.0f} ms before its lease is over"
            self._findings.violated(3, text, here)
        confirmed = self._confirmed.get(identity)
        granted = self._granted.get(identity, (here, -1))[1]
        if confirmed is not None and confirmed[0] < earliest_ms and confirmed[1] > granted:
            text = f"{host.name} lets {identity} lapse although its confirm stood in the log "
            text += f"{earliest_ms - confirmed[0]:.0f} ms before its lease was over"
            self._findings.violated(3, text, here, ("claims", host.partition, confirmed[1]))
        promise = self.answers.promised.get(identity)
        if promise is not None and judge.at_ms < promise.until_ms - self.drift * full_ms:
            effective = promise.effective
            text = f"{host.name} lets {identity} lapse {promise.until_ms - judge.at_ms} ms before the time its decision gave to confirm it"
            self._findings.violated(3, text, here, ("decisions", effective.key[0], effective.offset))

    def _watermark(self, host: Host, record: Snapshot | Delta, offset: int) -> None:
        """The watermark lies in the log, never goes back within an epoch, and goes on where the epoch before stopped."""
        if record.claims_topic != self._ids.get("claims", record.claims_topic) or host.partition in self._lost_claims:
            return
        here, end = ("hosts", host.partition, offset), self._ends.get(("claims", host.partition), 0)
        through = record.claims_through
        if through >= end:
            self._findings.violated(10, f"{host.name} has taken claims through {through}, the log ends at {end}", here)
        if host.reported < 0:
            if host.fresh and through < host.claims_from - 1 and not host.blind:
                text = f"{host.name} has no report yet and takes claims from {through + 1}, "
                text += f"written before its start record; they begin at {host.claims_from}"
                self._findings.violated(6, text, here)
        elif record.claims_topic == host.topic:
            if through < host.through and not host.blind:
                self._findings.violated(
                    10, f"{host.name} takes its watermark back from {host.through} to {through}", here
                )
            if host.fresh and host.low > host.through + 1 and not record.gap:
                text = f"{host.name} starts at {host.through}, the claims begin at {host.low}, and reports no gap"
                self._findings.violated(3, text, here)

    def _follow(
        self,
        host: Host,
        record: Snapshot | Delta,
        after: dict[str, Any],
        facts: Any,
        total: int,
        offset: int,
        at_ms: int,
    ) -> None:
        host.generation, host.offset, host.at_ms, host.reported = record.generation, offset, at_ms, record.epoch
        host.topic, host.through = record.claims_topic, record.claims_through
        if after is not host.held:
            host.builds = sum(1 for allocation in after.values() if allocation.building)
        host.held, host.facts, host.sum, host.said_hash = after, facts, total, record.hash
        if isinstance(record, Snapshot):
            host.base, host.base_facts, host.base_gap = after, facts, record.gap
            host.base_generation = NO_BASE if host.stale else record.generation
            host.gap = record.gap
        else:
            host.gap = host.base_gap if record.gap is None else record.gap
        if host.fresh:
            host.opened_at = offset
        host.fresh = host.removed = False
        if not self.injecting:
            host.blind = ""

    # -- claims, requests, decisions, quarantine ----------------------------------------------------------------------------------------

    def _claim_record(self, partition: int, raw: Raw) -> None:
        offset, at_ms, key, value = raw
        here = ("claims", partition, offset)
        record = parse(value)
        name = (key or b"").decode(errors="replace")
        host = self.hosts.get(name)
        wrong = record.reason if isinstance(record, Bad) else "" if record.host == name else "key is not its host"
        if host is None or host.partition != partition:
            served = any(h.partition == partition and h.reported >= 0 for h in self.hosts.values())
            if wrong and served and not (isinstance(record, Bad) and record.newer):
                self._must_set_aside("claims", partition, offset, wrong)
            return
        if wrong:
            if host.reported >= 0 and not (isinstance(record, Bad) and record.newer):
                self._must_set_aside("claims", partition, offset, wrong)
            host.claims.append(Asked(offset, at_ms, None))
            return
        host.claims.append(Asked(offset, at_ms, record))
        if self.injecting:
            return
        if isinstance(record, Confirm):
            self._confirmed.setdefault(record.allocation, (at_ms, offset))
            self.answers.confirm(record.request, record.allocation, here)
        elif isinstance(record, Release):
            self.answers.released.add(record.allocation)
            if record.leased_only:
                self.answers.release_of_loser(record.request, record.allocation, here)
        elif isinstance(record, Claim):
            self.owners.claimed(record)
            if record.mode != "renew":
                self.answers.claimed(record, here)

    def _request_record(self, partition: int, raw: Raw) -> None:
        wrong = self.answers.request(partition, *raw)
        if wrong:
            self._must_set_aside("requests", partition, raw[0], wrong)

    def _decision_record(self, partition: int, raw: Raw) -> None:
        if self.injecting and not isinstance(decode("decisions", raw[3] or b""), Bad):
            self.answers.lossy = True  # a forged decision is effective like any
            return
        self.answers.decision(
            partition, *raw
        )  # what is bad need not be put aside: who owns no request of then never reads it

    def _state_record(self, topic: str) -> Callable[[int, Raw], None]:
        """Of `control` and `replicas` nothing is judged but that they can be read."""

        def taker(partition: int, raw: Raw) -> None:
            record = decode(topic, raw[3]) if raw[3] is not None else None
            if isinstance(record, Bad) and not record.newer:
                self._must_set_aside(topic, partition, raw[0], record.reason)

        return taker

    def _quarantine_record(self, partition: int, raw: Raw) -> None:
        record = decode("quarantine", raw[3] or b"")
        if isinstance(record, Quarantined):
            self.put_aside(record.topic.rpartition(".")[2], record.partition, record.offset)

    def put_aside(self, topic: str, partition: int, offset: int) -> None:
        """Somebody put a bad record aside."""
        self._set_aside.add((topic, partition, offset))

    def _must_set_aside(self, topic: str, partition: int, offset: int, why: str) -> None:
        if topic == "hosts" and partition in self._lost_hosts:
            return  # agents of the topic before write on until they notice, perhaps before anybody reads the new one
        self._bad[topic, partition, offset] = why

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
        self.owners.decides(replica, partition, value, now_ms, again=again, judged=not self.answers.hosts_lossy)

    def releases(self, value: bytes) -> None:
        """A replica hands a release to its outbox (invariant 2)."""
        self.owners.releases(value)

    def takes_claims(self, agent: str, epochs: Mapping[str, int], position: int) -> None:
        """An agent begins to take claims for hosts in these epochs, having read their partition of `hosts` to `position` (rule 5)."""
        for name, epoch in epochs.items():
            host = self.hosts.get(name)
            if host is None or host.epoch != epoch or host.partition in self._lost_hosts:
                continue  # a later start record stands: it will read of it
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
                and positions.get(host.partition) == self._ends.get(("hosts", host.partition))
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

    def digest(self, replica: str, positions: Mapping[int, int], digest: int) -> None:
        """A replica that is caught up and read `hosts` to `positions` has this state digest (invariant 8)."""
        if any(position < 0 for position in positions.values()):
            return  # it is about to notice that records were lost
        found = self.digest_at(positions)
        if found != digest:
            at = ", ".join(f"{partition}/{position}" for partition, position in sorted(positions.items()))
            places = [("hosts", partition, position - 1) for partition, position in sorted(positions.items())]
            text = f"{replica} has digest {digest:016x} at hosts {at}, everything up to there makes {found:016x}"
            self._findings.violated(8, text, *places)

    def digest_at(self, positions: Mapping[int, int]) -> int:
        """State digest of the hosts that are not stale, as everything ever appended below `positions` makes it."""
        total = 0
        for host in self.hosts.values():
            history, position = host.history, positions.get(host.partition, 0)
            for offset, epoch, generation, through, packed in reversed(history):
                if offset < position:
                    if epoch >= 0:
                        text = (
                            f"{host.name} {epoch} {generation} {through} {packed >> 64} {packed & (MODULUS - 1):016x}"
                        )
                        total += digest64(text.encode())
                    break
        return total % MODULUS

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
        dead: Collection[str] = (),
        kept: Callable[[str, int, int], bool] = lambda topic, partition, offset: True,
    ) -> None:
        """Faults stopped at `calm_ms` and everything due has come.

        `submitted` were acknowledged, `dead` hosts have no agent, `kept` tells whether a record still stood when somebody could read it.
        """
        answers, findings = self.answers, self._findings
        answers.settle(lambda build: build.deadline_ms or deadline_ms, calm_ms)
        self.owners.settle(calm_ms)
        known = {request for _, request in answers.asked}
        for request in submitted:
            if request not in known and not answers.gone:
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
                if not host.gap and host.name not in dead:
                    self._settled_allocation(host, allocation, now_ms, here)
        for (_, request, index), holders in instances.items():
            if len(holders) > 1 and not any(host.gap or host.name in dead for host, _ in holders):
                where = ", ".join(
                    f"{allocation.id} ({allocation.state}) on {host.name}" for host, allocation in holders[:4]
                )
                places = [("hosts", host.partition, host.offset) for host, _ in holders]
                findings.violated(5, f"instance {request}.{index} has {len(holders)} allocations: {where}", *places)
        for place, why in self._bad.items():
            if place not in self._set_aside and kept(*place):
                findings.violated(
                    10, f"the record at {place[0]} {place[1]}/{place[2]} is bad ({why}) and nobody put it aside", place
                )

    def _settled_allocation(self, host: Host, allocation: Any, now_ms: int, here: Place) -> None:
        answers, findings, identity = self.answers, self._findings, allocation.id
        if allocation.state == "leased":
            lease = host.leases.get(identity)
            due_ms = (lease.latest_ms if lease else 0) + self.drift * allocation.lease_ms + self.lease_slack_ms
            if due_ms < now_ms:
                findings.violated(
                    5,
                    f"{host.name} still holds {identity} leased {now_ms - due_ms:.0f} ms after its lease ran out",
                    here,
                )
            return
        promise = answers.promised.get(identity)
        if promise is None:
            if not answers.lossy:
                findings.violated(
                    2, f"{host.name} holds {identity} of {allocation.request}, which no effective decision names", here
                )
        elif (
            promise.effective.key in answers.cancelled and host.partition not in self._lost_claims and not answers.gone
        ):
            at = promise.effective.key
            text = f"{host.name} holds {identity} of {allocation.request}, which was cancelled"
            findings.violated(2, text, here, ("requests", at[0], answers.cancelled[at]))


def unprintable(record: Any) -> Bad | None:
    """Names of allocations reach terminals and metric labels, so control characters in them make a record bad."""
    shown = record.allocations if isinstance(record, Snapshot) else record.upserts if isinstance(record, Delta) else ()
    for a in shown:
        if not "".join((a.id, a.request, a.instance, a.flavor, a.project, a.user, a.kind, a.group)).isprintable():
            return Bad("a name with control characters")
    return None


def parse_key(key: bytes | None) -> tuple[str, str, int]:
    """Host, kind (`start`, `snapshot`, `delta`, or "" for no key of this topic) and epoch."""
    try:
        host, _, rest = (key or b"").decode("ascii").partition("/")
    except UnicodeDecodeError:
        return "", "", -1
    if rest == "start":
        return host, "start", -1
    epoch, slash, last = rest.partition("/")
    if not epoch.isdecimal() or len(epoch) > 16 or (slash and last != "delta"):
        return host, "", -1
    return host, "delta" if slash else "snapshot", int(epoch)


def disagreement(record: Any, host: Host, kind: str, epoch: int, offset: int) -> str:
    """How a record contradicts its key, or ""."""
    if record.host != host.name:
        return f"its key is of host {host.name}, the record of {record.host}"
    if isinstance(record, Start):
        return "" if kind == "start" else f"a start record under the key of a {kind}"
    if kind != ("snapshot" if isinstance(record, Snapshot) else "delta") or record.epoch != epoch:
        return f"a report of epoch {record.epoch} under the key of {kind} {epoch}"
    return "" if record.epoch < offset else f"its epoch {record.epoch} is not below its own offset"
