"""The hosts log: keys, epochs, generations, bases and hashes of the reports (invariant 9).

    entry ─▶ key and record ─▶ void? ─▶ state of the report ─▶ replay of what it settled ─▶ what it changed

Per host only its state at the newest report is kept.
"""

from typing import Any

from commonplace.ops.audit.answers import Answers
from commonplace.ops.audit.chain import Chain, disagreement, parse_key
from commonplace.ops.audit.changes import Changes
from commonplace.ops.audit.claims import Claims
from commonplace.ops.audit.evidence import Entry, Options
from commonplace.ops.audit.findings import Findings
from commonplace.ops.audit.hashes import partition_of
from commonplace.ops.audit.intake import Intake
from commonplace.ops.audit.settle import Place, Replay, Told
from commonplace.ops.audit.state import View, of_delta, of_snapshot
from commonplace.ops.audit.stays import Stays
from commonplace.ops.audit.wire import Broken
from commonplace.ops.audit.wire_hosts import Delta, Snapshot, Start


class Hosts:
    """All hosts of a pool."""

    def __init__(self, intake: Intake, claims: Claims, answers: Answers, findings: Findings, options: Options) -> None:
        self._intake, self._claims, self._answers, self._findings, self._options = (
            intake,
            claims,
            answers,
            findings,
            options,
        )
        self._topic = intake.log.name
        self._changes = Changes(intake.log.name, answers, findings, options)
        self.chains: dict[str, Chain] = {}
        self.stays = Stays()
        self._elsewhere: dict[tuple[int, bytes | None], int] = {}
        """Keys of hosts on a partition that is not theirs, which no agent reads there: the last offset of each."""

    def read(self) -> None:
        """Read the topic, and the claims as far as the reports answer them."""
        for entry, record in self._intake:
            self._entry(entry, record)

    # -- one entry ----------------------------------------------------------------------------------------------------------------------

    def _entry(self, entry: Entry, record: Any) -> None:
        host, kind, epoch = parse_key(entry.key)
        wrong = self._misplaced(entry, host, kind)
        if wrong:
            if not isinstance(record, Broken):
                self._intake.broken(entry, wrong)
            if kind:  # whoever catches up takes the last record of a key, as compaction leaves it
                place = (entry.partition, entry.key)
                if place in self._elsewhere:
                    self._intake.replaced.add((entry.partition, self._elsewhere[place]))
                self._elsewhere[place] = entry.offset
            self._no_report(entry, "a record that is no report of a host")
            return
        self.stays.take(entry, host, kind, epoch)
        chain = self.chains.get(host)
        if chain is None:
            chain = self.chains[host] = Chain(
                host, entry.partition, View() if self._intake.seen.whole(entry.partition) else None
            )
        if record is None:
            self._tombstone(entry, chain, kind, epoch)
            return
        if not isinstance(record, Broken):
            wrong = disagreement(entry, record, host, kind, epoch)
            if wrong:
                record = self._intake.broken(entry, wrong)
        if isinstance(record, Broken):
            if kind == "start" and record.newer:
                chain.open(entry.offset, entry.timestamp_ms)  # it fences, in every version
            if kind == "start" or epoch >= chain.epoch:
                chain.blind = "a record that cannot be used lies between"
                if kind == "snapshot":
                    chain.base = None
            self._no_report(entry, "a record that cannot be used")
        elif isinstance(record, Start):
            self._start(entry, chain, record)
        else:
            self._report(entry, chain, record)

    def _misplaced(self, entry: Entry, host: str, kind: str) -> str:
        if not kind:
            return "its key is none of this topic's"
        if host not in self.chains and partition_of(host, self._intake.log.partitions) != entry.partition:
            return f"{host} does not belong on partition {entry.partition}"
        if host in self.chains and self.chains[host].partition != entry.partition:
            return f"{host} does not belong on partition {entry.partition}"
        return ""

    def _tombstone(self, entry: Entry, chain: Chain, kind: str, epoch: int) -> None:
        self._no_report(entry, "a tombstone")
        if kind == "snapshot" and epoch == chain.epoch and not chain.removed:
            self._changes.forgotten(entry, chain)
            chain.forget()
        self._intake.superseded()

    def _start(self, entry: Entry, chain: Chain, record: Start) -> None:
        self._no_report(entry, "a start record")
        chain.open(entry.offset, entry.timestamp_ms)
        self._findings.figures["starts"] += 1
        if record.removed:
            self._changes.forgotten(entry, chain)
            chain.forget()
        self._intake.applied()

    def _no_report(self, entry: Entry, what: str) -> None:
        """Whoever names this position for a grant is wrong."""
        for promise in self._answers.grants.pop((entry.partition, entry.offset), ()):
            self._answers.broken(
                3, promise, f"whose grant it finds at hosts {entry.partition}/{entry.offset}, which is {what}"
            )

    # -- one report ---------------------------------------------------------------------------------------------------------------------

    def _report(self, entry: Entry, chain: Chain, record: Snapshot | Delta) -> None:
        if self._void(entry, chain, record):
            self._intake.superseded()
            return
        self._intake.applied()
        findings = self._findings
        findings.figures["reports"] += 1
        if record.epoch > chain.epoch:
            self._unseen_epoch(entry, chain, record.epoch)
        blind = self._blind(entry, chain, record)
        view = self._view(entry, chain, record)
        if view is None:
            self._changes.unseen(entry)
        else:
            self._watermark(entry, chain, record)
            told = Told()
            if record.settled:
                place = Place(self._topic, entry.partition, entry.offset, entry.timestamp_ms, chain.name)
                told = Replay(place, chain.view, view, blind, self._claims, findings).run(
                    record, chain.leases, self._options
                )
            self._changes.judge(entry, chain, record, view, told, blind)
        chain.follow(record, entry.offset, self._intake.seen.gone(entry.partition), view)
        self._claims.forget(chain.name, record.claims_through)

    def _blind(self, entry: Entry, chain: Chain, record: Snapshot | Delta) -> str:
        """Why the report does not follow directly on the one before, or "": generations count up by one, from 1."""
        if chain.blind:
            return chain.blind
        if not chain.fresh and record.generation == chain.generation + 1:
            return ""
        if self._intake.seen.gone(entry.partition) != chain.gone:
            return "reports between are gone by compaction"
        return "" if chain.fresh and record.generation <= 1 else "a report between never reached the log"

    def _void(self, entry: Entry, chain: Chain, record: Snapshot | Delta) -> bool:
        """Whether a newer epoch or generation has replaced the report; such a one may not be anybody's evidence."""
        figures = self._findings.figures
        if record.epoch < chain.epoch or (record.epoch == chain.epoch and chain.removed):
            figures["reports_void"] += 1
            self._findings.passed(9)
            if chain.fresh and not chain.removed:
                chain.blind = chain.blind or "its successor goes on from a void report"
            for promise in self._answers.grants.pop((entry.partition, entry.offset), ()):
                self._answers.broken(
                    9, promise, f"whose grant is the void report at hosts {entry.partition}/{entry.offset}"
                )
            return True
        if record.epoch > chain.epoch or record.generation > chain.generation:
            return False
        figures["reports_repeated"] += 1
        if record.generation < chain.generation:
            self._violated(
                9,
                entry,
                f"{chain.name} goes back from generation {chain.generation} to {record.generation} of epoch {chain.epoch}",
            )
        elif record.hash != chain.hash:
            self._violated(
                9,
                entry,
                f"{chain.name} reports generation {record.generation} of epoch {chain.epoch} twice, with other content",
            )
        self._no_report(entry, "a repetition")
        return True

    def _unseen_epoch(self, entry: Entry, chain: Chain, epoch: int) -> None:
        if self._intake.seen.lost(entry.partition, epoch) or chain.blind:
            self._findings.unprovable(9, "the start record is gone by compaction")
        else:
            self._violated(9, entry, f"{chain.name} reports under epoch {epoch}, where no start record of it stands")
        chain.open(epoch)

    def _view(self, entry: Entry, chain: Chain, record: Snapshot | Delta) -> View | None:
        """The state the report shows, held against its hash; None if the snapshot it rests on is not there."""
        if isinstance(record, Snapshot):
            view = of_snapshot(record, chain.view)
            chain.base, chain.base_generation = view, record.generation
        elif chain.base is not None and record.base_generation == chain.base_generation:
            view = of_delta(record, chain.base, chain.view)
        else:
            if chain.blind or not self._intake.seen.whole(entry.partition):
                self._findings.unprovable(9, "the snapshot under a delta is gone by compaction")
            else:
                self._violated(
                    9,
                    entry,
                    f"{chain.name} rests a delta on generation {record.base_generation}, which is not its last snapshot",
                )
            return None
        if f"{view.hash:016x}" == record.hash:
            self._findings.passed(9)
        else:
            self._violated(
                9, entry, f"{chain.name} reports state hash {record.hash}, its content hashes to {view.hash:016x}"
            )
        return view

    def _watermark(self, entry: Entry, chain: Chain, record: Snapshot | Delta) -> None:
        if record.claims_topic != self._claims.topic_id:
            return
        if record.claims_through >= self._claims.end(chain.name):
            text = f"{chain.name} has taken claims through {record.claims_through}, the log ends at {self._claims.end(chain.name)}"
            self._violated(9, entry, text)
        elif (
            record.claims_topic == chain.claims_topic
            and record.claims_through < chain.claims_through
            and not chain.fresh
        ):
            self._violated(
                9,
                entry,
                f"{chain.name} takes claims_through back from {chain.claims_through} to {record.claims_through}",
            )

    # -- the end ------------------------------------------------------------------------------------------------------------------------

    def settle(self, newest_ms: int) -> None:
        """Judge what only the end shows: what no decision names, instances held twice, and grants at positions where nothing was read."""
        self._changes.unnamed(newest_ms)
        self._changes.doubles(self.chains.values())
        for (partition, offset), promises in self._answers.grants.items():
            lost = self._intake.seen.lost(partition, offset)
            for promise in promises:
                if lost:
                    self._findings.unprovable(3, "the report of the grant is gone by compaction")
                else:
                    self._answers.broken(
                        3, promise, f"whose grant it finds at hosts {partition}/{offset}, where the log has no record"
                    )

    def _violated(self, invariant: int, entry: Entry, text: str) -> None:
        self._findings.violated(invariant, text, self._topic, entry.partition, entry.offset)
