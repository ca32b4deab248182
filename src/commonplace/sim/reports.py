"""The log of hosts, folded anew: which report is void, what each shows, what follows from it (invariants 3, 5, 8, 9).

record ─▶ key ─▶ void? ─▶ rests on its snapshot? ─▶ hash ─▶ judge.py ─▶ followed
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from commonplace.core.codec import Bad, decode
from commonplace.core.records import Delta, Snapshot, Start
from commonplace.ops.audit.hashes import MODULUS, partition_of
from commonplace.sim.answers import Answers, Report
from commonplace.sim.findings import Findings, Place
from commonplace.sim.judge import Judge
from commonplace.sim.model import NO_BASE, Hashes, Host, facts_of, held_by
from commonplace.sim.owners import Owners
from commonplace.sim.seen import Raw, Seen

FROM_VOID: Final = "its successor goes on from what a fenced agent still reported"
FORGED: Final = "a forged report lies before"


class Lapse(NamedTuple):
    """An allocation that a report says lapsed, when that was, and when its lease was over at the latest, in log time."""

    host: str
    allocation: str
    at_ms: int
    latest_ms: float
    place: Place


class Reports:
    """All hosts of a pool."""

    def __init__(
        self,
        seen: Seen,
        findings: Findings,
        answers: Answers,
        owners: Owners,
        hosts: dict[str, Host],
        reports: dict[int, dict[int, Report]],
    ) -> None:
        self._seen, self._findings, self._answers, self._owners = seen, findings, answers, owners
        self.hosts, self._reports = hosts, reports
        self._hashes = Hashes()
        self._keys: dict[bytes, tuple[Host, str, int]] = {}
        self._raws: dict[int, list[Raw]] = {p: [] for p in range(seen.partitions)}
        self._granted: dict[str, tuple[Place, int]] = {}  # allocation ever granted → where, and the offset of its claim
        self.lapses: list[Lapse] = []
        self.confirmed: dict[str, tuple[int, int]] = {}  # allocation → log time and offset of its first confirm

    def take(self, partition: int, raw: Raw) -> None:
        offset, at_ms, key, value = raw
        self._raws[partition].append(raw)
        known = self._keys.get(key or b"")
        if known is None or known[0].partition != partition:
            known = self._new_key(partition, key)
            if known is None:
                self._seen.must_set_aside("hosts", partition, offset, "a key that is no host's of this partition")
                return
        host, kind, epoch = known
        if value is None:
            self._tombstone(host, kind, epoch, offset)
            return
        record = decode("hosts", value)
        if self._seen.injecting and not isinstance(record, Bad):
            record = unprintable(record) or record
        wrong = record.reason if isinstance(record, Bad) else disagreement(record, host, kind, epoch, offset)
        if wrong:
            if kind == "start" and isinstance(record, Bad) and record.newer:
                host.start(offset, at_ms, removed=False)
                host.blind = "an agent of a newer version started"
            if kind == "start" or (epoch >= host.epoch and not host.removed):
                host.spoil(delta=kind == "delta", why=wrong)
                host.note(offset)
                self._forged(host)
                # agents of a topic before write on until they notice, perhaps before anybody reads the new one
                before = host.name in self._seen.lost_hosts and not host.anew
                if not before and not (isinstance(record, Bad) and record.newer):
                    self._seen.must_set_aside("hosts", partition, offset, wrong)
        elif isinstance(record, Start):
            self._start(host, record, offset, at_ms)
        else:
            self._report(host, record, offset, at_ms, value)

    def _new_key(self, partition: int, key: bytes | None) -> tuple[Host, str, int] | None:
        name, kind, epoch = parse_key(key)
        if not kind or partition_of(name, self._seen.partitions) != partition:
            return None
        host = self.hosts.get(name)
        if host is None:
            host = self.hosts[name] = Host(name, partition)
            host.blind = "reports were lost" if name in self._seen.lost_hosts else ""
        known = (host, kind, epoch)
        if key is not None:
            self._keys[key] = known
        return known

    def _start(self, host: Host, record: Start, offset: int, at_ms: int) -> None:
        if offset <= host.epoch:
            return
        if record.removed:
            for identity in host.held:
                promise = self._answers.promised.get(identity)
                if promise is not None and not self._seen.injecting and not host.blind:
                    text = f"{host.name} was forgotten while it held {identity}"
                    self._findings.violated(3, text, ("hosts", host.partition, offset))
            for asked in host.claims:  # which nobody reads any more: whoever serves the host anew begins at their end
                self._seen.bad.pop(("claims", host.partition, asked.offset), None)
            host.claims.clear()
        others = (h for h in self.hosts.values() if h.partition == host.partition and h is not host)
        if (record.removed or host.reported < 0) and all(other.reported < 0 for other in others):
            self._seen.excuse_claims(host.partition)
        host.start(offset, at_ms, removed=record.removed)
        host.anew = True
        host.claims_from = self._seen.ends.get(("claims", host.partition), 0)
        host.low = self._seen.lows.get(host.partition, 0)
        host.note(offset)

    def _tombstone(self, host: Host, kind: str, epoch: int, offset: int) -> None:
        if kind == "start":
            return
        sure = host.blind in ("", FROM_VOID)
        if epoch == host.reported and not host.removed and not self._seen.injecting and sure and host.held:
            text = f"the {kind} of epoch {epoch} of {host.name} is deleted, on which its ledger rests: no later snapshot stands"
            self._findings.violated(9, text, ("hosts", host.partition, offset), ("hosts", host.partition, host.offset))
        if kind == "snapshot" and epoch == host.epoch and not host.removed:
            host.forget()
            host.note(offset)

    def _report(self, host: Host, record: Snapshot | Delta, offset: int, at_ms: int, value: bytes) -> None:
        partition, reports = host.partition, self._reports[host.partition]
        void = self._void(host, record, offset, value)
        if void:
            if host.fresh and record.epoch < host.epoch and not host.removed:
                host.blind = host.blind or FROM_VOID
                if record.claims_topic == host.topic:
                    host.through_void = max(host.through_void, record.claims_through)
            elif record.epoch == host.epoch and not self._seen.injecting and host.blind == FORGED:
                host.outbid = True
                host.note(offset)
            reports[offset] = Report(host, host.held, void)
            return
        host.outbid = False
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
            if not self._seen.injecting:
                text = f"{host.name} reports state hash {record.hash}, its content hashes to {found:016x}"
                self._findings.violated(9, text, ("hosts", partition, offset))
            host.stale = "wrong hash"
        else:
            host.stale = ""
        if self._seen.injecting:
            host.blind = FORGED
            self._forged(host)
        else:
            if self._answers.groups is not None:
                self._answers.groups.forged.discard(host.name)
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
            and host.through <= record.claims_through < self._seen.ends.get(("claims", host.partition), 0)
            and (not host.claims or host.claims[0].offset > record.claims_through)
            and record.gap is None
            and record.claims_topic == host.topic == self._seen.ids.get("claims")
            and not (host.fresh or host.blind or host.stale or self._seen.injecting or host.base_gap or host.gap)
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
        if said is not None and said != value and not self._seen.injecting and not host.blind:
            text = f"{host.name} reports generation {record.generation} of epoch {host.epoch} twice, with other content"
            self._findings.violated(9, text, ("hosts", host.partition, offset))
        return f"that is void, generation {record.generation} came before"

    def _unseen_epoch(self, host: Host, epoch: int, offset: int) -> None:
        if not self._seen.injecting and not host.blind:
            text = f"{host.name} reports under epoch {epoch}, where no start record of it stands"
            self._findings.violated(9, text, ("hosts", host.partition, offset))
        host.start(epoch, host.at_ms, removed=False)
        host.blind = "its start record is not there"

    def _rests(self, host: Host, record: Snapshot | Delta, offset: int) -> bool:
        """Whether a delta rests on the last snapshot; a snapshot rests on nothing."""
        if isinstance(record, Snapshot) or record.base_generation == host.base_generation:
            return True
        if (host.fresh or host.base_generation != NO_BASE) and not self._seen.injecting and not host.blind:
            base = "none of this epoch" if host.fresh else f"generation {host.base_generation}"
            text = f"{host.name} rests a delta on generation {record.base_generation}, its last snapshot is {base}"
            self._findings.violated(9, text, ("hosts", host.partition, offset))
        host.generation = record.generation
        host.stale = "a delta on another base"
        self._forged(host)
        host.blind = FORGED if self._seen.injecting else host.blind or "a delta rests on a snapshot that cannot be used"
        return False

    def _forged(self, host: Host) -> None:
        if self._seen.injecting and self._answers.groups is not None:
            self._answers.groups.forge(host.name)

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

        before, leases, seen = host.held, host.leases, self._seen
        if record.gap and (host.fresh or not host.gap):
            seen.gapped.update(after)
        foreign = record.claims_topic != seen.ids.get("claims", record.claims_topic)
        if host.anew and not host.fresh:
            seen.passed(host.name, host.through)
        unsure = foreign or host.name in seen.lost_hosts or host.name in seen.cut_claims
        judge = Judge(
            host,
            record,
            after,
            facts,
            (offset, at_ms),
            self._hashes,
            violated,
            self._answers.claims,
            unsure=unsure,
            foreign=foreign,
        )
        judge.run()
        for identity in judge.lapsed:
            self._lapsed(host, identity, leases, judge, here)
        if after is not before:
            for identity, allocation in after.items():
                was = before.get(identity)
                anew = was is None or identity in judge.by_claim  # one report may tell of an end and of another grant
                if anew and allocation.origin != "found":
                    self._new_allocation(host, identity, judge.by_claim.get(identity, -1), here)
                    if allocation.group and self._answers.groups is not None:
                        self._answers.groups.granted(allocation.group, identity, host.name)
                if allocation.state == "active" and (was is None or was.state != "active"):
                    self._became_active(host, allocation, here)

    def _new_allocation(self, host: Host, identity: str, claim: int, here: Place) -> None:
        """No claims record is granted twice. Two equal records are two claims: their second grant lapses like any loser."""
        before = self._granted.get(identity)
        if before is not None and claim >= 0 and before[1] == claim and identity not in self._seen.lost_claims:
            text = f"{host.name} grants the claim at {claim} a second time: it holds {identity} again"
            self._findings.violated(5, text, here, before[0])
        self._granted[identity] = (here, claim)

    def _became_active(self, host: Host, allocation: Any, here: Place) -> None:
        """With a gap the ledger keeps whatever it held, because confirms may be among the claims that are gone."""
        answers, identity = self._answers, allocation.id
        if allocation.origin == "found" or identity in self._seen.gapped or identity in answers.promised:
            return
        if answers.forgotten(allocation.request):
            return
        void = answers.void.get(identity)
        text = f"{host.name} made {identity} of {allocation.request} active, which no effective decision names"
        self._findings.violated(2, text, here, *([void] if void else []))

    def _lapsed(self, host: Host, identity: str, leases: Mapping[str, Any], judge: Judge, here: Place) -> None:
        """A lease ends neither before its time nor past a confirm that came in time, nor before the decision's word is over."""
        self._owners.lapses[identity] = (judge.at_ms, here)
        lease = leases.get(identity)
        if lease is None or host.blind or identity in self._seen.lost_claims:
            return
        identity_renewed = judge.renewed.get(identity)
        held = judge.before.get(identity)
        full_ms = held.lease_ms if held is not None else 0
        earliest_ms = (
            lease.earliest_ms if identity_renewed is None else identity_renewed + full_ms
        ) - self._seen.drift * full_ms
        if identity_renewed is None:  # else it began anew nobody knows when between two reports
            latest_ms = lease.latest_ms + self._seen.drift * full_ms
            self.lapses.append(Lapse(host.name, identity, judge.at_ms, latest_ms, here))
        if judge.at_ms < earliest_ms:
            text = f"{host.name} lets {identity} lapse {earliest_ms - judge.at_ms:.0f} ms before its lease is over"
            self._findings.violated(3, text, here)
        confirmed = self.confirmed.get(identity)
        granted = self._granted.get(identity, (here, -1))[1]
        if confirmed is not None and confirmed[0] < earliest_ms and confirmed[1] > granted:
            text = f"{host.name} lets {identity} lapse although its confirm stood in the log "
            text += f"{earliest_ms - confirmed[0]:.0f} ms before its lease was over"
            self._findings.violated(3, text, here, ("claims", host.partition, confirmed[1]))
        promise = self._answers.promised.get(identity)
        if promise is not None and judge.at_ms < promise.until_ms - self._seen.drift * full_ms:
            effective = promise.effective
            text = f"{host.name} lets {identity} lapse {promise.until_ms - judge.at_ms} ms before the time its decision gave to confirm it"
            self._findings.violated(3, text, here, ("decisions", effective.key[0], effective.offset))

    def _watermark(self, host: Host, record: Snapshot | Delta, offset: int) -> None:
        """The watermark lies in the log, never goes back within an epoch, and goes on where the epoch before stopped."""
        if (
            record.claims_topic != self._seen.ids.get("claims", record.claims_topic)
            or host.name in self._seen.cut_claims
        ):
            return
        here, end = ("hosts", host.partition, offset), self._seen.ends.get(("claims", host.partition), 0)
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
            known = max(host.through, host.through_void)
            if host.fresh and host.low > known + 1 and not record.gap:
                text = f"{host.name} starts at {known}, the claims begin at {host.low}, and reports no gap"
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
        host.topic, host.through, host.through_void = record.claims_topic, record.claims_through, -1
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
        if not self._seen.injecting:
            host.blind = ""

    def lose(self, partition: int, end: int, stands: Callable[[int], bool] = lambda _: True) -> None:
        """Fold what is left anew; ledgers that live may know more than the log does, so nothing follows from it at once.

        `stands` tells of an offset below `end` whether compaction left it. It may have taken what only a lost record replaced: who read
        that before still has it, and who comes later does not.
        """
        self._answers.lose_reports(partition)
        kept = [raw for raw in self._raws[partition] if raw[0] < end]
        lost = [host for host in self.hosts.values() if host.partition == partition]
        claims, before = {host.name: host.claims for host in lost}, self._seen.lost_hosts
        through = {h.name: max(h.through, h.through_void, before.get(h.name, -1)) for h in lost}
        self._seen.lost_hosts = before | through
        for host in lost:
            del self.hosts[host.name]
        self._keys = {key: known for key, known in self._keys.items() if known[0].partition != partition}
        self._reports[partition].clear()
        self._raws[partition].clear()
        findings, self._findings = self._findings, Findings()
        for raw in kept:
            self.take(partition, raw)
        self._findings = findings
        for host in self.hosts.values():
            if host.partition == partition:
                host.blind, host.claims = "reports were lost", claims.get(host.name, host.claims)
                host.anew = False
        self._seen.lost_hosts |= through  # which the fold may have passed
        newest = {key: offset for offset, _, key, _ in kept}
        for key, offset in newest.items():
            if key in self._keys and not stands(offset):
                host = self._keys[key][0]
                host.outbid = True
                host.note(end - 1)

    def digest_at(self, positions: Mapping[int, int]) -> tuple[int, set[str]]:
        """State digest of the hosts that are not stale, as everything ever appended below `positions` makes it, and whom it leaves out:
        hosts of which forged reports let nobody be sure."""
        total, unsure = 0, set()
        for host in self.hosts.values():
            position = positions.get(host.partition, 0)
            for state in reversed(host.history):
                if state[0] < position:
                    if state[1] >= 0:
                        total += host.digest_of(state)
                    elif state[1] == -2:
                        unsure.add(host.name)
                    break
        return total % MODULUS, unsure


def unprintable(record: Any) -> Bad | None:
    """Names of allocations reach terminals and metric labels, so control characters in them make a record bad; so do other classes."""
    shown = record.allocations if isinstance(record, Snapshot) else record.upserts if isinstance(record, Delta) else ()
    for a in shown:
        names = (a.id, a.request, a.instance, a.flavor, a.project, a.user, a.kind, a.group, *a.image)
        if not "".join(names).isprintable():
            return Bad("a name with control characters")
        if not all(map(_CLASS.fullmatch, (*a.resources, *(name for amounts in a.cells.values() for name in amounts)))):
            return Bad("a name that no resource class has")
        if not all(cell.isascii() and cell.isprintable() and cell and " " not in cell for cell in a.cells):
            return Bad("a name that no cell has")
    return None


_CLASS: Final = re.compile(r"[A-Z][A-Z0-9_]{0,63}")


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
