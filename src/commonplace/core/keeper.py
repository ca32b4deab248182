"""The agent's core: keeps the ledgers of one or many hosts through start, claims, reports, leases and fencing (rules 4 to 6).

    starting ──own start record read──▶ resuming ──claims range known──▶ opening ──own first snapshot read──▶ serving
        │                                                                                                       │
        └──────── a later start record of the host: fenced                      bad log: refused ◀──────────────┘

Events in, effects out; the shell polls, receives, performs. The report is the write-ahead log: what follows from a report (instances
started or stopped, tombstones) is an effect only once that report was read back from the topic, byte for byte.
"""

from collections.abc import Iterable
from typing import Any
from zlib import crc32

from commonplace.core.codec import Bad, decode
from commonplace.core.host_keys import START_SUFFIX, parse_key
from commonplace.core.hosts import read
from commonplace.core.keeper_events import (
    AdoptInstance,
    Alarm,
    AskClaimsRange,
    ClaimsRange,
    ClaimsRead,
    ControlRead,
    DriverSaid,
    Effect,
    EndCaptured,
    Fenced,
    HostSpec,
    HostsRead,
    KeeperSettings,
    LoadMeasured,
    Quarantine,
    ReadClaims,
    Refused,
    ReportFailed,
    StartInstance,
    Tick,
)
from commonplace.core.kept import (
    FENCED,
    OPENING,
    REFUSED,
    RESUMING,
    SERVING,
    STARTING,
    Kept,
    incomplete,
    is_own_start,
    recovered,
    replay,
    resume,
)
from commonplace.core.leases import Leases
from commonplace.core.ledger_events import Configure
from commonplace.core.ledgers import Ledgers
from commonplace.core.partition import partition_of
from commonplace.core.records.hosts import Start
from commonplace.core.strangers import Strangers
from commonplace.core.write_ahead import WriteAhead

GENERATION_MAX = 2**52
"""A generation past which an epoch is given up: the wire ends at 2^53 − 1, and a report a ms takes 140,000 years to come here."""


class Keeper:
    """All hosts of one agent. `receive` is the only place that changes it.

    Here a host's epoch begins and ends; `ledgers` take what reaches a host that is served, `log` writes for all.
    """

    def __init__(
        self, name: str, specs: Iterable[HostSpec], partitions: int, nonce: str, settings: KeeperSettings
    ) -> None:
        self.partitions, self.nonce, self.settings = partitions, nonce, settings
        self.hosts = {spec.name: Kept(spec, partition_of(spec.name, partitions)) for spec in specs}
        for host, kept in self.hosts.items():
            kept.lapse_phase = crc32(host.encode()) % max(1, settings.lapse_interval_ms)
        self.left = len(self.hosts)  # neither fenced nor refused
        self.unready: dict[int, set[str]] = {}  # partition → hosts whose first snapshot was not read back
        for host, kept in self.hosts.items():
            self.unready.setdefault(kept.partition, set()).add(host)
        self.claims_position: dict[int, int] = {}
        self._effects: list[Effect] = []
        self.log = WriteAhead(name, nonce, self.hosts, settings, self.claims_position, self._effects)
        self.leases = Leases(self.unready, settings.lapse_interval_ms)
        self._strangers = Strangers(partitions)
        self.ledgers = Ledgers(self.hosts, self.log, self.leases, self._strangers, self.claims_position, self._effects)
        self._by_key = {host.encode(): kept for host, kept in self.hosts.items()}
        self._ask_range = False
        self._handlers: dict[type, Any] = {
            HostsRead: self._hosts_read,
            ClaimsRead: self.ledgers.claims_read,
            ClaimsRange: self._claims_range,
            EndCaptured: self.ledgers.end_captured,
            ControlRead: self.ledgers.control_read,
            ReportFailed: self._report_failed,
            DriverSaid: self.ledgers.driver_said,
            LoadMeasured: self.ledgers.load_measured,
            Tick: self._tick,
        }

    def begin(self, now_ms: int) -> list[Effect]:
        """Write a start record for every host."""
        for kept in self.hosts.values():
            self.log.start(kept, now_ms)
        return self._taken()

    def receive(self, event: Any, now_ms: int) -> list[Effect]:
        """Take one event, return what the shell must do. Reports of hosts that changed are among the effects."""
        self._handlers[type(event)](event, now_ms)
        self.log.report_dirty(now_ms)
        return self._taken()

    def _taken(self) -> list[Effect]:
        effects = self._effects.copy()
        self._effects.clear()
        return effects

    @property
    def phases(self) -> dict[str, int]:
        """How many hosts are in each phase."""
        counts: dict[str, int] = {}
        for kept in self.hosts.values():
            counts[kept.phase] = counts.get(kept.phase, 0) + 1
        return counts

    def _report_failed(self, event: ReportFailed, now_ms: int) -> None:
        kept = self.hosts[event.host]
        if kept.phase not in (FENCED, REFUSED):
            self.log.write_again(kept, now_ms)

    def _tick(self, event: Tick, now_ms: int) -> None:
        self.ledgers.tick(now_ms)
        self.log.tick(now_ms)

    # -- starting -----------------------------------------------------------------------------------------------------------------------

    def _hosts_read(self, event: HostsRead, now_ms: int) -> None:
        by_key, strangers, read_back = self._by_key, self._strangers, self.log.read_back
        names = strangers.names[event.partition]
        self._ask_range = False
        for offset, log_time_ms, key, value in event.records:
            if key is None:
                continue
            name = key.partition(b"/")[0]
            kept = by_key.get(name)
            if kept is None and (name not in names or key.endswith(START_SUFFIX)):
                strangers.saw(event.partition, name, key, value)
            if kept is None or kept.partition != event.partition or kept.phase in (FENCED, REFUSED):
                continue
            # byte for byte: cheaper than decoding, and nobody else writes just this
            if kept.sent and kept.sent[0][0] == value:
                if read_back(kept, kept.sent.popleft()) and kept.phase == OPENING:
                    self._opened(kept)
            elif kept.phase == STARTING:
                self._past_read(kept, offset, log_time_ms, key, value, now_ms)
            elif key.endswith(START_SUFFIX):
                self._later_start(kept, offset, key, value, now_ms)
            elif value is not None:
                self._foreign(kept, offset, key, value, now_ms)
        if self._ask_range:
            self._effects.append(AskClaimsRange(event.partition))
        if event.records:
            self.ledgers.strangers_due(event.partition, event.records[-1][1])

    def _past_read(
        self, kept: Kept, offset: int, log_time_ms: int, key: bytes, value: bytes | None, now_ms: int
    ) -> None:
        """A record from before this agent's own start record, or that record itself."""
        parsed = parse_key(key)
        if parsed is None:
            return
        if is_own_start(kept, parsed, value):
            self._started(kept, offset, log_time_ms, now_ms)
        else:
            replay(kept, parsed, offset, log_time_ms, key, value)

    def _started(self, kept: Kept, offset: int, log_time_ms: int, now_ms: int) -> None:
        """The own start record stands: what was before it is the host's past, and its offset the epoch."""
        reason = incomplete(kept)
        if reason:
            self._refuse(kept, reason)
            return
        spec = kept.spec
        kept.ledger = recovered(kept, offset, log_time_ms, now_ms, self.settings.bounds)
        here = Configure(
            spec.inventory, spec.traits, spec.labels, self.ledgers.status(spec.name), cells=spec.cells or None
        )
        kept.ledger.receive(here, now_ms)
        kept.phase = RESUMING
        self.log.stands(kept)
        self._ask_range = True
        for allocation in kept.ledger.allocations.values():
            if allocation.state == "active" and not allocation.building:  # what is still building is started again
                if allocation.origin == "claim":
                    kept.running.add(allocation.id)
                self._effects.append(AdoptInstance(spec.name, allocation))

    def _refuse(self, kept: Kept, reason: str) -> None:
        kept.phase = REFUSED
        self.left -= 1
        why = f"host {kept.spec.name} is not started: {reason}; repair or forget the host first"
        self._effects.append(Refused(kept.spec.name, why))
        self._ready(kept)

    def _claims_range(self, event: ClaimsRange, now_ms: int) -> None:
        for kept in self.hosts.values():
            if kept.partition == event.partition and kept.phase == RESUMING:
                self._resume(kept, event, now_ms)

    def _resume(self, kept: Kept, at: ClaimsRange, now_ms: int) -> None:
        ledger, host = kept.ledger, kept.spec.name
        assert ledger is not None
        alarm = resume(ledger, at)
        if alarm:
            self._effects.append(Alarm(host, alarm))
        self.ledgers.apply_control(kept, now_ms)
        for allocation, when in ledger.leases.items():
            self.leases.note(kept, when, allocation)
        kept.phase = OPENING
        self.log.open(kept, now_ms)

    def _opened(self, kept: Kept) -> None:
        """The first snapshot stands: the host serves, and what was being built when the agent before ended is started again."""
        kept.phase = SERVING
        host, ledger = kept.spec.name, kept.ledger
        assert ledger is not None
        for allocation in ledger.allocations.values():
            if allocation.state == "active" and allocation.building:
                kept.running.add(allocation.id)
                self._effects.append(StartInstance(host, allocation))
        self._ready(kept)

    def _ready(self, kept: Kept) -> None:
        """One host fewer to wait for; claims are read once every host of the partition has read back its first snapshot."""
        waiting, partition = self.unready[kept.partition], kept.partition
        waiting.discard(kept.spec.name)
        if waiting or partition in self.claims_position:
            return
        ledgers = [
            k.ledger for k in self.hosts.values() if k.partition == partition and k.phase == SERVING and k.ledger
        ]
        if ledgers:
            offset = min(ledger.claims_through for ledger in ledgers) + 1
            self.claims_position[partition] = offset
            self._effects.append(ReadClaims(partition, offset))

    # -- later records: fencing, and what is not ours -----------------------------------------------------------------------------------

    def _later_start(self, kept: Kept, offset: int, key: bytes, value: bytes | None, now_ms: int) -> None:
        """A start record past the one we began with: one of ours begins another epoch, that of a later agent fences us."""
        if value is None or kept.ledger is None or offset <= kept.ledger.epoch:
            return
        record = decode("hosts", value)
        if isinstance(record, Bad):
            if record.newer:  # key and offset are all that fences, in every version
                self._fence(kept, f"an agent of version {record.newer}")
            else:
                self._foreign(kept, offset, key, value, now_ms)
        elif not isinstance(record, Start):
            return
        elif record.nonce.startswith(f"{self.nonce}-") and not record.removed:
            self.log.go_on(kept, offset, now_ms)
        else:
            self._fence(kept, "an operator, who forgot it" if record.removed else record.agent)

    def _fence(self, kept: Kept, by: str) -> None:
        """The host is another's: nothing more is written for it."""
        host = kept.spec.name
        kept.phase = FENCED
        self.log.end(kept)
        self.left -= 1
        self._effects.append(Fenced(host, by, self.left))
        self._ready(kept)

    def _foreign(self, kept: Kept, offset: int, key: bytes, value: bytes, now_ms: int) -> None:
        """A record under our keys that is not the next we sent: one after a lost one, somebody else's, or garbage."""
        sent = self.log.after_lost(kept, value)
        if sent is not None:
            if self.log.read_back(kept, sent) and kept.phase == OPENING:
                self._opened(kept)
            return
        parsed, ledger = parse_key(key), kept.ledger
        record = read(parsed, offset, value) if parsed else Bad("key of no known form")
        if isinstance(record, Bad):
            if not record.newer:
                self._effects.append(Quarantine("hosts", kept.partition, offset, record.reason, key, value))
            self.log.want_snapshot(kept)
        elif isinstance(record, Start) or ledger is None or record.epoch < ledger.epoch or kept.outbid:
            return
        elif record.epoch > ledger.epoch or record.generation >= GENERATION_MAX:
            self.log.outbid(kept, now_ms)
        else:
            # somebody wrote a report in our name: only a higher generation is heard after it
            ledger.generation = max(ledger.generation, record.generation)
            self.log.want_snapshot(kept)
