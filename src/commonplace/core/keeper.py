"""The agent's core: keeps the ledgers of one or many hosts through start, claims, reports, leases and fencing (rules 4 to 6).

    starting ──own start record read──▶ resuming ──claims range known──▶ opening ──own first snapshot read──▶ serving
        │                                                                                                       │
        └──────── a later start record of the host: fenced                      bad log: refused ◀──────────────┘

Events in, effects out; the shell polls, receives, performs. The report is the write-ahead log: what follows from a report (instances
started or stopped, tombstones) is an effect only once that report was read back from the topic, byte for byte.
"""

import base64
import heapq
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final
from zlib import crc32

from msgspec import Struct

from commonplace.core.hosts import (
    QUARANTINED,
    START_SUFFIX,
    HostState,
    delta_key,
    fold,
    parse_key,
    read,
    snapshot_key,
    start_key,
)
from commonplace.core.ledger import (
    Change,
    Configure,
    Event,
    Failed,
    Found,
    Gone,
    Lapse,
    Ledger,
    Taken,
    Unreadable,
    Up,
    found_id,
)
from commonplace.core.partition import partition_of
from commonplace.core.records import Allocation, Bad, HostControl, Quarantined, Start, decode, encode
from commonplace.core.resources import Inventory

Raw = tuple[int, int, bytes | None, bytes | None]
"""One record as read: offset, log time in ms, key, value."""


class KeeperSettings(Struct, frozen=True, kw_only=True):
    """Intervals in ms of the agent's clock, and bounds."""

    snapshot_interval_ms: int = 300_000
    snapshot_jitter: float = 0.1
    heartbeat_interval_ms: int = 20_000
    delta_allocations_max: int = 24


class HostSpec(Struct, frozen=True, kw_only=True):
    """A host as its driver describes it."""

    name: str
    inventory: Mapping[str, Inventory]
    traits: tuple[str, ...] = ()
    labels: Mapping[str, str] = {}


# --- events ----------------------------------------------------------------------------------------------------------------------------


class HostsRead(Struct, frozen=True, gc=False):
    """Records of one partition of `hosts`, in order, from its beginning on."""

    partition: int
    records: Sequence[Raw]


class ClaimsRead(Struct, frozen=True, gc=False):
    """Records of one partition of `claims`, in order, and the next offset to be read."""

    partition: int
    records: Sequence[Raw]
    position: int


class ClaimsRange(Struct, frozen=True, gc=False):
    """Answer to `AskClaimsRange`: the topic's id, its first offset and its end, captured after the question."""

    partition: int
    topic_id: str
    low: int
    high: int


class EndCaptured(Struct, frozen=True, gc=False):
    """Answer to `CaptureEnd`: an end of the claims partition that was asked for at `asked_at_ms`."""

    partition: int
    end: int
    asked_at_ms: int


class ControlRead(Struct, frozen=True, gc=False):
    """What operators say of a host; None: nothing any more."""

    host: str
    record: HostControl | None


class ReportFailed(Struct, frozen=True, gc=False):
    """A record of a host was not delivered, or nobody knows."""

    host: str


class DriverSaid(Struct, frozen=True, gc=False):
    """An event of a host's driver."""

    host: str
    event: Up | Failed | Found | Gone | Configure


class LoadMeasured(Struct, frozen=True, gc=False):
    """Measured load of a host, reported beside the hash with the next report."""

    host: str
    load: Mapping[str, float]


class Tick(Struct, frozen=True, gc=False):
    """Time passed."""


# --- effects ---------------------------------------------------------------------------------------------------------------------------


class Send(Struct, frozen=True, gc=False):
    """Produce to `hosts`; on failure answer `ReportFailed(host)`. `value` None is a tombstone."""

    partition: int
    key: bytes
    value: bytes | None
    host: str


class AskClaimsRange(Struct, frozen=True, gc=False):
    """Look up a claims partition's range, after everything read so far."""

    partition: int


class ReadClaims(Struct, frozen=True, gc=False):
    """Read a claims partition from this offset on."""

    partition: int
    offset: int


class CaptureEnd(Struct, frozen=True, gc=False):
    """Look up a claims partition's end now."""

    partition: int


class StartInstance(Struct, frozen=True, gc=False):
    """Tell the driver to start an instance: its allocation is active in a report that stands."""

    host: str
    allocation: Allocation


class StopInstance(Struct, frozen=True, gc=False):
    """Tell the driver to stop an instance: a report that stands no longer holds it."""

    host: str
    allocation: Allocation


class Fenced(Struct, frozen=True, gc=False):
    """A later agent took this host over; nothing more is written for it. `left` hosts remain."""

    host: str
    by: str
    left: int


class Refused(Struct, frozen=True, gc=False):
    """The host cannot be started: its log may hide a part of the ledger."""

    host: str
    reason: str


class Alarm(Struct, frozen=True, gc=False):
    """Something an operator must see."""

    host: str
    reason: str


class Quarantine(Struct, frozen=True, gc=False):
    """A bad record to be put aside; the shell fills in the topic's full name."""

    topic: str
    partition: int
    offset: int
    reason: str
    key: bytes | None
    value: bytes | None


Effect = (
    Send
    | AskClaimsRange
    | ReadClaims
    | CaptureEnd
    | StartInstance
    | StopInstance
    | Fenced
    | Refused
    | Alarm
    | Quarantine
)

STARTING: Final = "starting"
RESUMING: Final = "resuming"
OPENING: Final = "opening"
SERVING: Final = "serving"
FENCED: Final = "fenced"
REFUSED: Final = "refused"


class Kept:
    """One host as its agent keeps it."""

    __slots__ = (
        "bad_keys", "epochs", "ledger", "nonce", "partition", "phase", "read_base", "running", "sent", "snapshot_due_ms", "spec", "state",
        "told_ms",
    )  # fmt: skip

    def __init__(self, spec: HostSpec, partition: int) -> None:
        self.spec, self.partition = spec, partition
        self.phase = STARTING
        self.nonce = ""
        self.state: HostState | None = HostState(spec.name)
        self.ledger: Ledger | None = None
        self.epochs: set[int] = set()  # lower epochs with keys in the log
        self.bad_keys: dict[bytes, str] = {}
        self.sent: deque[tuple[bytes, list[Effect], bool]] = (
            deque()
        )  # reports not read back: bytes, what follows, whether a snapshot
        self.read_base = False  # the snapshot that deltas rest on was read back
        self.running: set[str] = set()
        self.told_ms = self.snapshot_due_ms = 0


class Keeper:
    """All hosts of one agent. `receive` is the only place that changes it."""

    def __init__(
        self, name: str, specs: Iterable[HostSpec], partitions: int, nonce: str, settings: KeeperSettings
    ) -> None:
        self.name, self.partitions, self.nonce, self.settings = name, partitions, nonce, settings
        self.hosts = {spec.name: Kept(spec, partition_of(spec.name, partitions)) for spec in specs}
        self.left = len(self.hosts)  # neither fenced nor refused
        self.unready: dict[int, set[str]] = {
            p: set() for p in range(partitions)
        }  # hosts whose first snapshot was not read back
        for name, kept in self.hosts.items():
            self.unready[kept.partition].add(name)
        self.by_key = {name.encode(): kept for name, kept in self.hosts.items()}
        self.controls: dict[str, HostControl] = {}
        self.claims_position: dict[int, int] = {}
        self.dirty: dict[str, None] = {}
        self.actions: dict[str, list[Effect]] = {}  # host → what follows from its next report
        self.leases: dict[int, list[tuple[int, str, str]]] = {
            p: [] for p in range(partitions)
        }  # heaps: when, host, allocation
        self.barriers: dict[int, tuple[int, int]] = {}  # partition → (asked at, end) of a lapse under way
        self.heartbeats: list[tuple[int, str]] = []
        self.counts = {
            "granted": 0,
            "rejected": 0,
            "confirmed": 0,
            "released": 0,
            "lapsed": 0,
            "failed": 0,
            "reports": 0,
            "snapshots": 0,
        }
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
        record = Start(host=kept.spec.name, agent=self.name, nonce=kept.nonce)
        self._effects.append(Send(kept.partition, start_key(kept.spec.name), encode(record), kept.spec.name))

    def _hosts_read(self, event: HostsRead, now_ms: int) -> None:
        by_key = self.by_key
        self._ask_range = False
        for offset, log_time_ms, key, value in event.records:
            if key is None:
                continue
            kept = by_key.get(key.partition(b"/")[0])
            if kept is None or kept.partition != event.partition or kept.phase in (FENCED, REFUSED):
                continue
            if (
                kept.sent and kept.sent[0][0] == value
            ):  # byte for byte: cheaper than decoding, and nobody else writes just this
                self._read_back(kept, kept.sent.popleft())
            elif kept.phase == STARTING:
                self._replay(kept, offset, log_time_ms, key, value, now_ms)
            elif key.endswith(START_SUFFIX):
                self._other_start(kept, offset, key, value, now_ms)
            elif value is not None:
                self._foreign(kept, event.partition, offset, key, value)
        if self._ask_range:
            self._effects.append(AskClaimsRange(event.partition))

    def _replay(self, kept: Kept, offset: int, log_time_ms: int, key: bytes, value: bytes | None, now_ms: int) -> None:
        """Fold the host's past until its own start record is read."""
        parsed = parse_key(key)
        assert kept.state is not None
        if parsed is None:
            return
        if parsed.kind == "start" and value is not None:
            record = decode("hosts", value)
            if isinstance(record, Start) and record.nonce == kept.nonce:
                self._started(kept, offset, log_time_ms, now_ms)
                return
        if parsed.kind != "start":
            if value is None:
                kept.epochs.discard(parsed.epoch)
            else:
                kept.epochs.add(parsed.epoch)
        generation, epoch = kept.state.generation, kept.state.epoch
        outcome, reason = fold(kept.state, parsed, offset, log_time_ms, value)
        if outcome == QUARANTINED or (reason and kept.state.version):
            kept.bad_keys[key] = f"offset {offset}: {reason}"
        elif (kept.state.epoch, kept.state.generation) != (epoch, generation):
            if parsed.kind == "snapshot":
                kept.bad_keys.clear()
            else:
                kept.bad_keys.pop(key, None)

    def _started(self, kept: Kept, offset: int, log_time_ms: int, now_ms: int) -> None:
        state = kept.state
        assert state is not None
        if kept.bad_keys:
            key, reason = next(iter(kept.bad_keys.items()))
            return self._refuse(
                kept, f"its ledger may be incomplete: record under key {key.decode(errors='replace')} is bad ({reason})"
            )
        if (
            state.epoch >= 0
            and state.stale
            and state.stale != "starting"
            and not state.removed
            and state.epoch in kept.epochs
        ):
            return self._refuse(kept, f"its ledger may be incomplete: the last report is unusable ({state.stale})")
        known = bool(kept.epochs) and not state.removed
        if known:
            kept.ledger = Ledger.recover(state, offset, log_time_ms, now_ms)
        else:
            kept.ledger = Ledger(kept.spec.name, offset, log_time_ms, "", -1)
        spec = kept.spec
        kept.ledger.receive(Configure(spec.inventory, spec.traits, spec.labels, self._status(spec.name)), now_ms)
        kept.epochs.discard(offset)
        kept.state = None
        kept.phase = RESUMING
        self._ask_range = True

    def _refuse(self, kept: Kept, reason: str) -> None:
        kept.phase = REFUSED
        self.left -= 1
        self._effects.append(
            Refused(kept.spec.name, f"host {kept.spec.name} is not started: {reason}; repair or forget the host first")
        )
        self._ready(kept)

    def _claims_range(self, event: ClaimsRange, now_ms: int) -> None:
        for kept in self.hosts.values():
            if kept.partition == event.partition and kept.phase == RESUMING:
                self._resume(kept, event, now_ms)

    def _resume(self, kept: Kept, at: ClaimsRange, now_ms: int) -> None:
        ledger = kept.ledger
        assert ledger is not None
        if not ledger.claims_topic:
            ledger.claims_through = at.high - 1
        elif ledger.claims_topic != at.topic_id or ledger.claims_through >= at.high:
            why = (
                "the claims topic was made anew"
                if ledger.claims_topic != at.topic_id
                else "its watermark lies beyond the end of the claims"
            )
            self._effects.append(Alarm(kept.spec.name, f"{why}: reading from its start"))
            ledger.claims_through = at.low - 1
        elif at.low > ledger.claims_through + 1:
            ledger.assume_active()
            self._effects.append(
                Alarm(
                    kept.spec.name,
                    f"claims {ledger.claims_through + 1} to {at.low - 1} have expired: what it holds stays held, gap",
                )
            )
            ledger.claims_through = at.low - 1
        ledger.claims_topic = at.topic_id
        self._apply_control(kept, now_ms)
        for allocation, when in ledger.leases.items():
            heapq.heappush(self.leases[kept.partition], (when, ledger.host, allocation))
        kept.phase = OPENING
        self._snapshot(kept, now_ms)
        heapq.heappush(
            self.heartbeats, (now_ms + self._spread(kept, self.settings.heartbeat_interval_ms), kept.spec.name)
        )

    def _read_back(self, kept: Kept, sent: tuple[bytes, list[Effect], bool]) -> None:
        """A report of ours stands in the log: what follows from it may be done."""
        _, follows, is_snapshot = sent
        self._effects.extend(follows)
        if is_snapshot and not any(later[2] for later in kept.sent):
            kept.read_base = True
        if kept.phase == OPENING and is_snapshot:
            kept.phase = SERVING
            host = kept.spec.name
            for epoch in sorted(kept.epochs):
                self._effects.append(Send(kept.partition, snapshot_key(host, epoch), None, host))
                self._effects.append(Send(kept.partition, delta_key(host, epoch), None, host))
            kept.epochs.clear()
            assert kept.ledger is not None
            for allocation in kept.ledger.allocations.values():
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
            k.ledger
            for k in self.hosts.values()
            if k.partition == partition and k.phase == SERVING and k.ledger is not None
        ]
        if ledgers:
            offset = min(ledger.claims_through for ledger in ledgers) + 1
            self.claims_position[partition] = offset
            self._effects.append(ReadClaims(partition, offset))

    def _other_start(self, kept: Kept, offset: int, key: bytes, value: bytes | None, now_ms: int) -> None:
        """A start record that is not ours: of a later agent it fences us."""
        record = decode("hosts", value) if value is not None else Bad("tombstone")
        if isinstance(record, Start) and kept.ledger is not None and offset > kept.ledger.epoch:
            kept.phase = FENCED
            kept.sent.clear()
            self.dirty.pop(kept.spec.name, None)
            self.left -= 1
            self._effects.append(
                Fenced(kept.spec.name, "an operator, who forgot it" if record.removed else record.agent, self.left)
            )
            self._ready(kept)
        elif isinstance(record, Bad) and value is not None:
            self._foreign(kept, kept.partition, offset, key, value)

    def _foreign(self, kept: Kept, partition: int, offset: int, key: bytes, value: bytes) -> None:
        """A record under our keys that is not the next we sent: a lost one before it, a duplicate, or garbage."""
        for position, (sent, _, _) in enumerate(kept.sent):
            if sent == value:  # those before it were not delivered, and never will be in this order
                for _ in range(position):
                    _, follows, _ = kept.sent.popleft()
                    self.actions.setdefault(kept.spec.name, []).extend(follows)
                return self._read_back(kept, kept.sent.popleft())
        parsed = parse_key(key)
        record = read(parsed, offset, value) if parsed else Bad("key of no known form")
        if isinstance(record, Bad):
            self._effects.append(Quarantine("hosts", partition, offset, record.reason, key, value))
        ours = not isinstance(record, Bad) and not isinstance(record, Start) and kept.ledger is not None
        if ours and record.epoch == kept.ledger.epoch and record.generation <= kept.ledger.generation:  # type: ignore[union-attr]
            return None  # a retry of ours, written twice
        if kept.ledger is not None and (isinstance(record, Bad) or (ours and record.epoch == kept.ledger.epoch)):  # type: ignore[union-attr]
            if ours:  # somebody wrote reports in our name: only a higher generation is heard
                kept.ledger.generation = record.generation  # type: ignore[union-attr]
            self._want_snapshot(kept)

    def _report_failed(self, event: ReportFailed, now_ms: int) -> None:
        kept = self.hosts[event.host]
        if kept.phase == STARTING:
            self._start(kept, now_ms)
        elif kept.phase in (OPENING, SERVING):
            self._want_snapshot(kept)

    def _want_snapshot(self, kept: Kept) -> None:
        kept.snapshot_due_ms = 0
        kept.read_base = True  # a snapshot rests on nothing, so it need not wait
        self.dirty[kept.spec.name] = None

    # -- claims -------------------------------------------------------------------------------------------------------------------------

    def _claims_read(self, event: ClaimsRead, now_ms: int) -> None:
        hosts, dirty = self.by_key, self.dirty
        for offset, log_time_ms, key, value in event.records:
            kept = hosts.get(key) if key else None
            if kept is None:
                continue  # of another agent's host
            if kept.partition != event.partition:
                self._effects.append(
                    Quarantine("claims", event.partition, offset, f"belongs on partition {kept.partition}", key, value)
                )
                continue
            ledger = kept.ledger
            if kept.phase != SERVING or ledger is None or offset <= ledger.claims_through:
                continue
            host = kept.spec.name
            record = decode("claims", value) if value is not None else Bad("no value")
            if isinstance(record, Bad) or record.host != host:
                reason = record.reason if isinstance(record, Bad) else f"key is of host {host}, record of {record.host}"
                self._effects.append(Quarantine("claims", event.partition, offset, reason, key, value))
                self._apply(
                    kept,
                    Unreadable(offset, "version" if isinstance(record, Bad) and record.newer else "constraint"),
                    now_ms,
                )
            else:
                self._apply(kept, Taken(offset, log_time_ms, record), now_ms)
            dirty[host] = None
        if event.position > self.claims_position.get(event.partition, -1):
            self.claims_position[event.partition] = event.position
        self._lapse(event.partition, now_ms)

    def _apply(self, kept: Kept, event: Event, now_ms: int) -> None:
        """Let a ledger take an event and note what follows from it once reported."""
        ledger = kept.ledger
        assert ledger is not None
        settled = len(ledger.settled)
        host = kept.spec.name
        for change in ledger.receive(event, now_ms):
            self._changed(kept, host, ledger, change)
        counts = self.counts
        for entry in ledger.settled[settled:]:
            if entry.verdict in counts:
                counts[entry.verdict] += 1

    def _changed(self, kept: Kept, host: str, ledger: Ledger, change: Change) -> None:
        before, after = change.before, change.after
        if after is not None and after.id in ledger.leases:  # granted or renewed
            heapq.heappush(self.leases[kept.partition], (ledger.leases[after.id], host, after.id))
        elif after is None and before is not None:
            if before.id in kept.running:
                kept.running.discard(before.id)
                self.actions.setdefault(host, []).append(StopInstance(host, before))
        elif after is not None and after.building and after.state == "active" and after.id not in kept.running:
            kept.running.add(after.id)
            self.actions.setdefault(host, []).append(StartInstance(host, after))

    # -- leases -------------------------------------------------------------------------------------------------------------------------

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
            if heap and heap[0][0] <= now_ms and partition not in self.barriers and partition in self.claims_position:
                self._effects.append(CaptureEnd(partition))
        heartbeats, interval = self.heartbeats, self.settings.heartbeat_interval_ms
        while heartbeats and heartbeats[0][0] <= now_ms:
            _, host = heapq.heappop(heartbeats)
            kept = self.hosts[host]
            if kept.phase not in (OPENING, SERVING):
                continue
            due = kept.told_ms + interval
            if due <= now_ms:
                self.dirty[host] = None
                due = now_ms + interval
            heapq.heappush(heartbeats, (due, host))

    # -- drivers and operators ----------------------------------------------------------------------------------------------------------

    def _driver_said(self, event: DriverSaid, now_ms: int) -> None:
        kept = self.hosts[event.host]
        said = event.event
        if isinstance(said, Configure):
            kept.spec = HostSpec(
                name=kept.spec.name,
                inventory=kept.spec.inventory if said.inventory is None else said.inventory,
                traits=kept.spec.traits if said.traits is None else said.traits,
                labels=kept.spec.labels if said.labels is None else said.labels,
            )
        if kept.ledger is None or kept.phase not in (RESUMING, OPENING, SERVING):
            return
        if isinstance(said, Found) and any(
            a.instance == said.instance and a.origin == "claim" for a in kept.ledger.allocations.values()
        ):
            return
        if isinstance(said, Gone) and found_id(said.instance) not in kept.ledger.allocations:
            return
        before = (kept.ledger.hash, kept.ledger.builds)
        if isinstance(said, Failed):
            kept.running.discard(said.allocation)
        self._apply(kept, said, now_ms)
        if (kept.ledger.hash, kept.ledger.builds) != before or isinstance(said, Failed):
            self.dirty[event.host] = None

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
        self.counts["snapshots"] += 1
        self._send_report(
            kept, snapshot_key(kept.spec.name, ledger.epoch), encode(ledger.snapshot(self.name)), True, now_ms
        )

    def _send_report(self, kept: Kept, key: bytes, value: bytes, is_snapshot: bool, now_ms: int) -> None:
        host = kept.spec.name
        kept.sent.append((value, self.actions.pop(host, []), is_snapshot))
        kept.told_ms = now_ms
        self.counts["reports"] += 1
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


def quarantined(effect: Quarantine, topic: str, by: str) -> Quarantined:
    """The record that puts a bad one aside: bounded, printable."""
    key = (effect.key or b"")[:200].decode(errors="replace")
    return Quarantined(
        topic=topic, partition=effect.partition, offset=effect.offset, reason=effect.reason[:1024], by=by[:128], key=ascii(key)[1:-1][:1024],
        sample=base64.b64encode((effect.value or b"")[:1024]).decode(),
    )  # fmt: skip
