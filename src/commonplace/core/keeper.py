"""The agent's core: keeps the ledgers of one or many hosts through start, claims, reports, leases and fencing (rules 4 to 6).

    starting ──own start record read──▶ resuming ──claims range known──▶ opening ──own first snapshot read──▶ serving
        │                                                                                                       │
        └──────── a later start record of the host: fenced                      bad log: refused ◀──────────────┘

Events in, effects out; the shell polls, receives, performs. The report is the write-ahead log: what follows from a report (instances
started or stopped, tombstones) is an effect only once that report was read back from the topic, byte for byte.
"""

import heapq
from collections import Counter
from collections.abc import Iterable
from itertools import takewhile
from typing import Any
from zlib import crc32

from commonplace.core.codec import Bad, decode, encode
from commonplace.core.deliveries import resend_pause_ms
from commonplace.core.host_keys import START_SUFFIX, delta_key, parse_key, snapshot_key, start_key
from commonplace.core.hosts import read
from commonplace.core.keeper_events import (
    AdoptInstance,
    Alarm,
    AskClaimsRange,
    CaptureEnd,
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
    Send,
    StartInstance,
    StopInstance,
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
    forget_oldest,
    incomplete,
    is_own_start,
    recovered,
    replay,
    resume,
)
from commonplace.core.ledger import Ledger
from commonplace.core.ledger_events import (
    Change,
    Configure,
    Event,
    Failed,
    Found,
    Gone,
    Lapse,
    Taken,
    Unreadable,
    found_id,
)
from commonplace.core.partition import partition_of
from commonplace.core.records import HostControl, Start
from commonplace.core.strangers import Strangers

LAPSE_CHECK_MS = 200
"""Least time between two questions for a partition's end, without which no lease lapses: each costs a round trip."""

GENERATION_MAX = 2**52
"""A generation past which an epoch is given up: the wire ends at 2^53 − 1, and a report a ms takes 140,000 years to come here."""


class Keeper:
    """All hosts of one agent. `receive` is the only place that changes it."""

    def __init__(
        self, name: str, specs: Iterable[HostSpec], partitions: int, nonce: str, settings: KeeperSettings
    ) -> None:
        self.name, self.partitions, self.nonce, self.settings = name, partitions, nonce, settings
        self.hosts = {spec.name: Kept(spec, partition_of(spec.name, partitions)) for spec in specs}
        for host, kept in self.hosts.items():
            kept.lapse_phase = crc32(host.encode()) % max(1, settings.lapse_interval_ms)
        self.by_key = {host.encode(): kept for host, kept in self.hosts.items()}
        self.left = len(self.hosts)  # neither fenced nor refused
        self.unready: dict[int, set[str]] = {}  # partition → hosts whose first snapshot was not read back
        for host, kept in self.hosts.items():
            self.unready.setdefault(kept.partition, set()).add(host)
        self.strangers = Strangers(partitions)
        self.controls: dict[str, HostControl] = {}
        self.claims_position: dict[int, int] = {}
        self.dirty: dict[str, None] = {}  # hosts to report, in the order they changed
        self.actions: dict[str, list[Effect]] = {}  # host → what follows from its next report
        self.leases: dict[int, list[tuple[int, str, str]]] = {
            p: [] for p in self.unready
        }  # heaps: when, host, allocation
        self.barriers: dict[int, tuple[int, int]] = {}  # partition → (asked at, end) of a lapse under way
        self._lapsed_ms: dict[int, int] = {}  # partition → when its end was last asked for
        self.heartbeats: list[tuple[int, str]] = []
        self.starts: dict[str, int] = {}  # host → when to write its start record anew unless read back, in that order
        self.undelivered: dict[str, None] = {}  # hosts to write for anew once their pause is over
        self.verdicts: Counter[str] = Counter()
        self.reports = self.snapshots = 0
        self._serial = 0
        self._ask_range = False
        self._effects: list[Effect] = []
        self._handlers: dict[type, Any] = {
            HostsRead: self._hosts_read,
            ClaimsRead: self._claims_read,
            ClaimsRange: self._claims_range,
            EndCaptured: self._end_captured,
            ControlRead: self._control_read,
            ReportFailed: self._report_failed,
            DriverSaid: self._driver_said,
            LoadMeasured: self._load_measured,
            Tick: self._tick,
        }

    def begin(self, now_ms: int) -> list[Effect]:
        """Write a start record for every host."""
        for kept in self.hosts.values():
            self._start(kept, now_ms)
        return self._taken()

    def receive(self, event: Any, now_ms: int) -> list[Effect]:
        """Take one event, return what the shell must do. Reports of hosts that changed are among the effects."""
        self._handlers[type(event)](event, now_ms)
        self._report_dirty(now_ms)
        return self._taken()

    def _taken(self) -> list[Effect]:
        effects, self._effects = self._effects, []
        return effects

    # -- starting -----------------------------------------------------------------------------------------------------------------------

    def _start(self, kept: Kept, now_ms: int) -> None:
        self._serial += 1
        kept.nonce = f"{self.nonce}-{self._serial:x}"
        self.starts.pop(kept.spec.name, None)
        self.starts[kept.spec.name] = now_ms + self.settings.snapshot_interval_ms
        record = Start(host=kept.spec.name, agent=self.name, nonce=kept.nonce)
        self._effects.append(Send(kept.partition, start_key(kept.spec.name), encode(record), kept.spec.name))

    def _hosts_read(self, event: HostsRead, now_ms: int) -> None:
        by_key, strangers = self.by_key, self.strangers
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
                self._read_back(kept, kept.sent.popleft())
            elif kept.phase == STARTING:
                self._past_read(kept, offset, log_time_ms, key, value, now_ms)
            elif key.endswith(START_SUFFIX):
                self._later_start(kept, offset, key, value, now_ms)
            elif value is not None:
                self._foreign(kept, offset, key, value, now_ms)
        if self._ask_range:
            self._effects.append(AskClaimsRange(event.partition))
        if event.records:
            for record, reason in strangers.due(event.partition, event.records[-1][1]):
                self._bad_claim(record.partition, record.offset, reason, record.key, record.value)

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
        here = Configure(spec.inventory, spec.traits, spec.labels, self._status(spec.name), cells=spec.cells or None)
        kept.ledger.receive(here, now_ms)
        kept.phase = RESUMING
        self._stands(kept)
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
        self._apply_control(kept, now_ms)
        for allocation, when in ledger.leases.items():
            self._note_lease(kept, when, allocation)
        kept.phase = OPENING
        self._snapshot(kept, now_ms)
        heapq.heappush(self.heartbeats, (now_ms + self._spread(kept, self.settings.heartbeat_interval_ms), host))

    def _read_back(self, kept: Kept, sent: tuple[bytes, list[Effect], bool]) -> None:
        """A report of ours stands in the log: what follows from it may be done."""
        _, follows, is_snapshot = sent
        if kept.failures:
            self._stands(kept)
        if follows:
            self._effects.extend(follows)
        if is_snapshot and not any(later[2] for later in kept.sent):
            kept.read_base = True
        if is_snapshot and kept.old_epochs:
            self._delete_old(kept)
        if kept.phase == OPENING and is_snapshot:
            kept.phase = SERVING
            self._build_on(kept)
            self._ready(kept)

    def _delete_old(self, kept: Kept) -> None:
        """The epoch's first snapshot stands: nobody needs the reports before it."""
        host, ledger = kept.spec.name, kept.ledger
        assert ledger is not None
        for epoch in sorted(kept.old_epochs - {ledger.epoch}):
            self._effects.append(Send(kept.partition, snapshot_key(host, epoch), None, host))
            self._effects.append(Send(kept.partition, delta_key(host, epoch), None, host))
        kept.old_epochs.clear()

    def _build_on(self, kept: Kept) -> None:
        """What was being built when the agent before ended is started again."""
        host, ledger = kept.spec.name, kept.ledger
        assert ledger is not None
        for allocation in ledger.allocations.values():
            if allocation.state == "active" and allocation.building:
                kept.running.add(allocation.id)
                self._effects.append(StartInstance(host, allocation))

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
            self._go_on(kept, offset, now_ms)
        else:
            self._fence(kept, "an operator, who forgot it" if record.removed else record.agent)

    def _fence(self, kept: Kept, by: str) -> None:
        """The host is another's: nothing more is written for it."""
        host = kept.spec.name
        kept.phase = FENCED
        kept.outbid = False
        kept.sent.clear()
        self.dirty.pop(host, None)
        self.undelivered.pop(host, None)
        self.actions.pop(host, None)
        self.left -= 1
        self._effects.append(Fenced(host, by, self.left))
        self._ready(kept)

    def _outbid(self, kept: Kept, now_ms: int) -> None:
        """No report of this epoch will be heard any more: begin another, with the ledger as it is. Until then nothing is reported."""
        kept.read_base = False
        kept.outbid = True
        self._start(kept, now_ms)

    def _go_on(self, kept: Kept, offset: int, now_ms: int) -> None:
        """A start record of ours stands: what was on its way under the epoch before is void, so its consequences wait for a snapshot."""
        ledger, host = kept.ledger, kept.spec.name
        assert ledger is not None
        kept.old_epochs.add(ledger.epoch)
        ledger.epoch, ledger.generation = offset, 0
        kept.outbid = False
        self.actions[host] = [e for _, follows, _ in kept.sent for e in follows] + self.actions.get(host, [])
        kept.sent.clear()
        self._stands(kept)
        if kept.phase in (OPENING, SERVING):
            self._snapshot(kept, now_ms)

    def _foreign(self, kept: Kept, offset: int, key: bytes, value: bytes, now_ms: int) -> None:
        """A record under our keys that is not the next we sent: one after a lost one, somebody else's, or garbage."""
        for position, (sent, _, _) in enumerate(kept.sent):
            if sent == value:
                # those before it were not delivered and never will be; this one says all that they said
                for _ in range(position):
                    self._effects.extend(kept.sent.popleft()[1])
                self._read_back(kept, kept.sent.popleft())
                return
        parsed, ledger = parse_key(key), kept.ledger
        record = read(parsed, offset, value) if parsed else Bad("key of no known form")
        if isinstance(record, Bad):
            if not record.newer:
                self._effects.append(Quarantine("hosts", kept.partition, offset, record.reason, key, value))
            self._want_snapshot(kept)
        elif isinstance(record, Start) or ledger is None or record.epoch < ledger.epoch or kept.outbid:
            return
        elif record.epoch > ledger.epoch or record.generation >= GENERATION_MAX:
            self._outbid(kept, now_ms)
        else:
            # somebody wrote a report in our name: only a higher generation is heard after it
            ledger.generation = max(ledger.generation, record.generation)
            self._want_snapshot(kept)

    def _report_failed(self, event: ReportFailed, now_ms: int) -> None:
        kept = self.hosts[event.host]
        if kept.phase not in (FENCED, REFUSED):
            self._write_again(kept, now_ms)

    def _write_again(self, kept: Kept, now_ms: int) -> None:
        """Write anew for a host what was not delivered: at once, then after pauses that double until something of ours is read back."""
        if now_ms < kept.resend_ms:
            self.undelivered[kept.spec.name] = None
            return
        self.undelivered.pop(kept.spec.name, None)
        kept.resend_ms = now_ms + resend_pause_ms(kept.failures)
        kept.failures += 1
        if kept.phase == STARTING or kept.outbid:
            self._start(kept, now_ms)
        else:
            forget_oldest(kept)
            self._want_snapshot(kept)

    def _stands(self, kept: Kept) -> None:
        """Something of ours stands in the log: the next that is not delivered is written anew at once."""
        kept.failures = kept.resend_ms = 0
        if not kept.sent:
            self.undelivered.pop(kept.spec.name, None)

    def _want_snapshot(self, kept: Kept) -> None:
        if kept.phase in (OPENING, SERVING) and not kept.outbid:
            kept.snapshot_due_ms = 0
            kept.read_base = True  # a snapshot rests on nothing, so it need not wait
            self.dirty[kept.spec.name] = None

    # -- claims -------------------------------------------------------------------------------------------------------------------------

    def _claims_read(self, event: ClaimsRead, now_ms: int) -> None:
        hosts, dirty, partition = self.by_key, self.dirty, event.partition
        others = self.strangers.names[partition]
        for offset, log_time_ms, key, value in event.records:
            kept = hosts.get(key) if key else None
            if kept is None:
                if key not in others:  # else of another agent's host
                    reason = self.strangers.judge(partition, offset, log_time_ms, key, value)
                    if reason:
                        self._bad_claim(partition, offset, reason, key, value)
                continue
            if kept.partition != partition:
                self._bad_claim(partition, offset, f"belongs on partition {kept.partition}", key, value)
                continue
            ledger, host = kept.ledger, kept.spec.name
            if kept.phase != SERVING or ledger is None:
                continue
            record = decode("claims", value) if value is not None else Bad("no value")
            if not isinstance(record, Bad) and record.host != host:
                record = Bad(f"key is of host {host}, record of {record.host}")
            if isinstance(record, Bad):  # told whoever passed it before: a host that began behind it never met it
                self._bad_claim(partition, offset, record.reason, key, value)
            if offset <= ledger.claims_through:
                continue
            if isinstance(record, Bad):
                self._apply(kept, Unreadable(offset, "version" if record.newer else "constraint"), now_ms)
            else:
                self._apply(kept, Taken(offset, log_time_ms, record), now_ms)
            dirty[host] = None
        if event.position > self.claims_position.get(partition, -1):
            self.claims_position[partition] = event.position
        self._lapse(partition, now_ms)

    def _bad_claim(self, partition: int, offset: int, reason: str, key: bytes | None, value: bytes | None) -> None:
        self._effects.append(Quarantine("claims", partition, offset, reason, key, value))

    def _apply(self, kept: Kept, event: Event, now_ms: int) -> None:
        """Let a ledger take an event and note what follows from it once reported."""
        ledger = kept.ledger
        assert ledger is not None
        told = len(ledger.settled)
        for change in ledger.receive(event, now_ms):
            self._changed(kept, ledger, change)
        for entry in ledger.settled[told:]:
            self.verdicts[entry.verdict] += 1

    def _changed(self, kept: Kept, ledger: Ledger, change: Change) -> None:
        before, after, host = change.before, change.after, kept.spec.name
        if after is None:
            if before is not None and before.id in kept.running:
                kept.running.discard(before.id)
                self.actions.setdefault(host, []).append(StopInstance(host, before))
        elif after.id in ledger.leases:  # granted or renewed
            self._note_lease(kept, ledger.leases[after.id], after.id)
        elif after.building and after.state == "active" and after.id not in kept.running:
            kept.running.add(after.id)
            self.actions.setdefault(host, []).append(StartInstance(host, after))

    # -- leases -------------------------------------------------------------------------------------------------------------------------

    def _note_lease(self, kept: Kept, when: int, allocation: str) -> None:
        """Look at a lease in the next slot of its host: those of one host lapse in one report, and the hosts spread their slots."""
        interval = self.settings.lapse_interval_ms
        if interval:
            when += (kept.lapse_phase - when) % interval
        heapq.heappush(self.leases[kept.partition], (when, kept.spec.name, allocation))

    def _lapse(self, partition: int, now_ms: int) -> None:
        """Let leases lapse that ran out before an end was asked for which the claims have been read to."""
        barrier = self.barriers.get(partition)
        if barrier is None or self.claims_position.get(partition, -1) < barrier[1]:
            return
        del self.barriers[partition]
        heap = self.leases[partition]
        while heap and heap[0][0] <= barrier[0]:
            _, host, allocation = heapq.heappop(heap)
            kept = self.hosts[host]
            if kept.phase == SERVING and kept.ledger is not None and allocation in kept.ledger.leases:
                self._apply(kept, Lapse(allocation, barrier[0]), now_ms)
                self.dirty[host] = None

    def _end_captured(self, event: EndCaptured, now_ms: int) -> None:
        self.barriers[event.partition] = (event.asked_at_ms, event.end)
        self._lapse(event.partition, now_ms)

    def _tick(self, event: Tick, now_ms: int) -> None:
        for partition, heap in self.leases.items():
            due = (
                max(
                    heap[0][0], self._lapsed_ms.get(partition, 0) + min(LAPSE_CHECK_MS, self.settings.lapse_interval_ms)
                )
                if heap
                else now_ms + 1
            )
            if due <= now_ms and partition not in self.barriers and partition in self.claims_position:
                self._lapsed_ms[partition] = now_ms
                self._effects.append(CaptureEnd(partition))
        self._start_again(now_ms)
        heartbeats, interval = self.heartbeats, self.settings.heartbeat_interval_ms
        while heartbeats and heartbeats[0][0] <= now_ms:
            _, host = heapq.heappop(heartbeats)
            kept = self.hosts[host]
            if kept.phase not in (OPENING, SERVING):
                continue
            due = kept.told_ms + interval
            if not kept.read_base and kept.told_ms + self.settings.snapshot_interval_ms <= now_ms:
                self._want_snapshot(kept)  # acknowledged, and lost with the log's tail: nothing else would end the wait
            if due <= now_ms:
                self.dirty[host] = None
                due = now_ms + interval
            heapq.heappush(heartbeats, (due, host))

    def _start_again(self, now_ms: int) -> None:
        """Write anew what was not delivered, and a start record that was acknowledged and lost with the log's tail: nothing else would end
        the wait."""
        for host in [host for host in self.undelivered if self.hosts[host].resend_ms <= now_ms]:
            self._write_again(self.hosts[host], now_ms)
        for host, _ in list(takewhile(lambda entry: entry[1] <= now_ms, self.starts.items())):
            del self.starts[host]
            kept = self.hosts[host]
            if kept.phase == STARTING or kept.outbid:
                self._start(kept, now_ms)

    # -- drivers and operators ----------------------------------------------------------------------------------------------------------

    def _driver_said(self, event: DriverSaid, now_ms: int) -> None:
        kept, said = self.hosts[event.host], event.event
        if isinstance(said, Configure):
            spec = kept.spec
            kept.spec = HostSpec(
                name=spec.name,
                inventory=spec.inventory if said.inventory is None else said.inventory,
                traits=spec.traits if said.traits is None else said.traits,
                labels=spec.labels if said.labels is None else said.labels,
                cells=spec.cells if said.cells is None else said.cells,
            )
        ledger = kept.ledger
        if ledger is None or kept.phase not in (RESUMING, OPENING, SERVING) or self._explained(kept, ledger, said):
            return
        before = (ledger.hash, ledger.builds)
        self._apply(kept, said, now_ms)
        if (ledger.hash, ledger.builds) != before:
            self.dirty[event.host] = None

    def _explained(self, kept: Kept, ledger: Ledger, said: Event) -> bool:
        """Whether what the driver said changes nothing in the ledger: instances that a claim brought are not found ones."""
        if isinstance(said, Failed):
            kept.running.discard(said.allocation)  # there is nothing to stop
        elif isinstance(said, Found):
            return any(a.instance == said.instance and a.origin == "claim" for a in ledger.allocations.values())
        elif isinstance(said, Gone):
            return found_id(said.instance) not in ledger.allocations
        return False

    def _load_measured(self, event: LoadMeasured, now_ms: int) -> None:
        kept = self.hosts[event.host]
        if kept.ledger is not None:
            kept.ledger.load = dict(event.load)

    def _status(self, host: str) -> Any:
        control = self.controls.get(host)
        return control.status if control else "enabled"

    def _control_read(self, event: ControlRead, now_ms: int) -> None:
        if event.record is None:
            self.controls.pop(event.host, None)
        else:
            self.controls[event.host] = event.record
        kept = self.hosts.get(event.host)
        if kept is not None:
            self._apply_control(kept, now_ms)

    def _apply_control(self, kept: Kept, now_ms: int) -> None:
        ledger = kept.ledger
        if ledger is None or kept.phase in (FENCED, REFUSED):
            return
        host = kept.spec.name
        control = self.controls.get(host)
        cleared = ledger.gap and control is not None and control.gap_cleared >= ledger.epoch
        if self._status(host) != ledger.status or cleared:
            ledger.receive(Configure(status=self._status(host), gap_cleared=cleared), now_ms)
            if kept.phase in (OPENING, SERVING):
                self.dirty[host] = None

    # -- reports ------------------------------------------------------------------------------------------------------------------------

    def _report_dirty(self, now_ms: int) -> None:
        """Report every host that changed and whose last snapshot was read back; the others wait for that."""
        if not self.dirty:
            return
        dirty, self.dirty = self.dirty, {}
        limit = self.settings.delta_allocations_max
        for host in dirty:
            kept = self.hosts[host]
            if kept.phase not in (OPENING, SERVING):
                continue
            ledger = kept.ledger
            assert ledger is not None
            if not kept.read_base:
                self.dirty[host] = None
                continue
            position = self.claims_position.get(kept.partition)
            if position is not None and kept.phase == SERVING and position - 1 > ledger.claims_through:
                ledger.claims_through = position - 1
            if now_ms >= kept.snapshot_due_ms or ledger.changes > max(limit, len(ledger.allocations) // 2):
                self._snapshot(kept, now_ms)
            else:
                self._send_report(kept, delta_key(host, ledger.epoch), encode(ledger.delta()), False, now_ms)

    def _snapshot(self, kept: Kept, now_ms: int) -> None:
        ledger = kept.ledger
        assert ledger is not None
        kept.read_base = False
        kept.snapshot_due_ms = now_ms + self._jittered(kept)
        self.snapshots += 1
        key = snapshot_key(kept.spec.name, ledger.epoch)
        self._send_report(kept, key, encode(ledger.snapshot(self.name)), True, now_ms)

    def _send_report(self, kept: Kept, key: bytes, value: bytes, is_snapshot: bool, now_ms: int) -> None:
        host = kept.spec.name
        kept.sent.append((value, self.actions.pop(host, []), is_snapshot))
        kept.told_ms = now_ms
        self.reports += 1
        self._effects.append(Send(kept.partition, key, value, host))

    def _jittered(self, kept: Kept) -> int:
        """Snapshot interval ± jitter, different for each host and generation, the same in every run."""
        ledger = kept.ledger
        share = crc32(f"{kept.spec.name} {ledger.generation if ledger else 0}".encode()) / 2**32
        return int(self.settings.snapshot_interval_ms * (1 + self.settings.snapshot_jitter * (2 * share - 1)))

    def _spread(self, kept: Kept, interval_ms: int) -> int:
        return int(interval_ms * crc32(kept.spec.name.encode()) / 2**32)

    # -- reading ------------------------------------------------------------------------------------------------------------------------

    @property
    def phases(self) -> dict[str, int]:
        """How many hosts are in each phase."""
        counts: dict[str, int] = {}
        for kept in self.hosts.values():
            counts[kept.phase] = counts.get(kept.phase, 0) + 1
        return counts
