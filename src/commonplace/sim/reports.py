"""The log of hosts, folded anew: which report is void, what each shows, how far it has read (invariants 3, 6, 9, 10).

record ─▶ key ─▶ void? ─▶ rests on its snapshot? ─▶ hash ─▶ grants.py, if it counts ─▶ followed
"""

from collections.abc import Callable
from typing import Any, Final

from commonplace.core.codec import Bad, decode
from commonplace.core.records.hosts import Delta, Snapshot, Start
from commonplace.ops.audit.chain import parse_key
from commonplace.ops.audit.hashes import MODULUS, partition_of
from commonplace.sim.answers import Answers, Report
from commonplace.sim.findings import Findings
from commonplace.sim.grants import Grants
from commonplace.sim.host_records import disagreement, unprintable
from commonplace.sim.model import NO_BASE, Hashes, Host, facts_of, held_by
from commonplace.sim.seen import Raw, Seen

FROM_VOID: Final = "its successor goes on from what a fenced agent still reported"
FORGED: Final = "a forged report lies before"


class Reports:
    """All hosts of a pool."""

    def __init__(
        self,
        seen: Seen,
        findings: Findings,
        answers: Answers,
        grants: Grants,
        hashes: Hashes,
        hosts: dict[str, Host],
        reports: dict[int, dict[int, Report]],
    ) -> None:
        self._seen, self._findings, self._answers, self._grants = seen, findings, answers, grants
        self.hosts, self._reports = hosts, reports
        self._hashes = hashes
        self._keys: dict[bytes, tuple[Host, str, int]] = {}
        self._raws: dict[int, list[Raw]] = {p: [] for p in range(seen.partitions)}

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
            self._grants.judge(host, record, after, facts, offset, at_ms)
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
        self._seen.cut_hosts.add(partition)
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
        found, self._findings.violations = self._findings.violations, []
        for raw in kept:
            self.take(partition, raw)
        self._findings.violations = found
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
