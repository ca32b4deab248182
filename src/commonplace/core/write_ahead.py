"""What an agent writes to `hosts` for its hosts: start records, snapshots, deltas, tombstones.

    ledger changed ──▶ dirty ──report──▶ sent ──read back, byte for byte──▶ what follows from it may be done
                         ▲                │
                         └────────────────┴── not delivered, lost, overwritten: written anew, as a snapshot

The report is the ledger's write-ahead log (rule 5).
"""

import heapq
from collections.abc import Mapping
from itertools import takewhile
from zlib import crc32

from commonplace.core.codec import encode
from commonplace.core.deliveries import resend_pause_ms
from commonplace.core.host_keys import delta_key, snapshot_key, start_key
from commonplace.core.keeper_events import Effect, KeeperSettings, Send
from commonplace.core.kept import OPENING, SERVING, STARTING, Kept, Sent, forget_oldest
from commonplace.core.records.hosts import Start


class WriteAhead:
    """The reports of an agent's hosts: which are due, which are on their way, and what follows from each.

    `claims_position` says how far the claims of each partition were read, `effects` takes what must be sent and what may be done.
    """

    def __init__(
        self,
        name: str,
        nonce: str,
        hosts: Mapping[str, Kept],
        settings: KeeperSettings,
        claims_position: Mapping[int, int],
        effects: list[Effect],
    ) -> None:
        self.name, self.nonce, self.hosts, self.settings = name, nonce, hosts, settings
        self.dirty: dict[str, None] = {}  # hosts to report, in the order they changed
        self.actions: dict[str, list[Effect]] = {}  # host → what follows from its next report
        self.heartbeats: list[tuple[int, str]] = []
        self.starts: dict[str, int] = {}  # host → when to write its start record anew unless read back, in that order
        self.undelivered: dict[str, None] = {}  # hosts to write for anew once their pause is over
        self._unread: set[str] = set()  # hosts that were written for since they last awaited nothing
        self.reports = self.snapshots = 0
        self._claims_position, self._effects = claims_position, effects
        self._serial = 0

    # -- epochs -------------------------------------------------------------------------------------------------------------------------

    def start(self, kept: Kept, now_ms: int) -> None:
        """Write a start record, under a nonce of its own."""
        self._serial += 1
        kept.nonce = f"{self.nonce}-{self._serial:x}"
        self._unread.add(kept.spec.name)
        self.starts.pop(kept.spec.name, None)
        self.starts[kept.spec.name] = now_ms + self.settings.snapshot_interval_ms
        record = Start(host=kept.spec.name, agent=self.name, nonce=kept.nonce)
        self._effects.append(Send(kept.partition, start_key(kept.spec.name), encode(record), kept.spec.name))

    def open(self, kept: Kept, now_ms: int) -> None:
        """Write the first snapshot of an epoch; from then on the host is heard of at every heartbeat."""
        self._snapshot(kept, now_ms)
        interval_ms = self.settings.heartbeat_interval_ms
        spread = int(interval_ms * crc32(kept.spec.name.encode()) / 2**32)
        heapq.heappush(self.heartbeats, (now_ms + spread, kept.spec.name))

    def outbid(self, kept: Kept, now_ms: int) -> None:
        """No report of this epoch will be heard any more: begin another, with the ledger as it is. Until then nothing is reported."""
        kept.read_base = False
        kept.outbid = True
        self.start(kept, now_ms)

    def go_on(self, kept: Kept, offset: int, now_ms: int) -> None:
        """A start record of ours stands: what was on its way under the epoch before is void, so its consequences wait for a snapshot."""
        ledger, host = kept.ledger, kept.spec.name
        assert ledger is not None
        kept.old_epochs.add(ledger.epoch)
        ledger.epoch, ledger.generation = offset, 0
        kept.outbid = False
        self.actions[host] = [e for _, follows, _ in kept.sent for e in follows] + self.actions.get(host, [])
        kept.sent.clear()
        self.stands(kept)
        if kept.phase in (OPENING, SERVING):
            self._snapshot(kept, now_ms)

    def end(self, kept: Kept) -> None:
        """The host is another's: nothing more is written for it."""
        host = kept.spec.name
        kept.outbid = False
        kept.sent.clear()
        self.dirty.pop(host, None)
        self.undelivered.pop(host, None)
        self.actions.pop(host, None)

    # -- read back ----------------------------------------------------------------------------------------------------------------------

    def awaits(self) -> bool:
        """Whether anything that was written is still to be read back."""
        while self._unread:
            host = self._unread.pop()
            kept = self.hosts[host]
            if kept.sent or kept.outbid or kept.phase == STARTING:
                self._unread.add(host)
                return True
        return False

    def read_back(self, kept: Kept, sent: Sent) -> bool:
        """A report of ours stands in the log: what follows from it may be done. Returns whether it is a snapshot."""
        _, follows, is_snapshot = sent
        if kept.failures:
            self.stands(kept)
        if follows:
            self._effects.extend(follows)
        if is_snapshot and not any(later[2] for later in kept.sent):
            kept.read_base = True
        if is_snapshot and kept.old_epochs:
            self._delete_old(kept)
        return is_snapshot

    def after_lost(self, kept: Kept, value: bytes) -> Sent | None:
        """The report sent as these bytes, if any: those before it were not delivered and never will be; it says all that they said."""
        for position, (sent, _, _) in enumerate(kept.sent):
            if sent == value:
                for _ in range(position):
                    self._effects.extend(kept.sent.popleft()[1])
                return kept.sent.popleft()
        return None

    def stands(self, kept: Kept) -> None:
        """Something of ours stands in the log: the next that is not delivered is written anew at once."""
        kept.failures = kept.resend_ms = 0
        if not kept.sent:
            self.undelivered.pop(kept.spec.name, None)

    def _delete_old(self, kept: Kept) -> None:
        """The epoch's first snapshot stands: nobody needs the reports before it."""
        host, ledger = kept.spec.name, kept.ledger
        assert ledger is not None
        for epoch in sorted(kept.old_epochs - {ledger.epoch}):
            self._effects.append(Send(kept.partition, snapshot_key(host, epoch), None, host))
            self._effects.append(Send(kept.partition, delta_key(host, epoch), None, host))
        kept.old_epochs.clear()

    # -- written anew -------------------------------------------------------------------------------------------------------------------

    def write_again(self, kept: Kept, now_ms: int) -> None:
        """Write anew for a host what was not delivered: at once, then after pauses that double until something of ours is read back."""
        if now_ms < kept.resend_ms:
            self.undelivered[kept.spec.name] = None
            return
        self.undelivered.pop(kept.spec.name, None)
        kept.resend_ms = now_ms + resend_pause_ms(kept.failures)
        kept.failures += 1
        if kept.phase == STARTING or kept.outbid:
            self.start(kept, now_ms)
        else:
            forget_oldest(kept)
            self.want_snapshot(kept)

    def want_snapshot(self, kept: Kept) -> None:
        """Let the next report be a snapshot, now."""
        if kept.phase in (OPENING, SERVING) and not kept.outbid:
            kept.snapshot_due_ms = 0
            kept.read_base = True  # a snapshot rests on nothing, so it need not wait
            self.dirty[kept.spec.name] = None

    def tick(self, now_ms: int) -> None:
        """Time passed: what waits too long is written anew, and hosts with nothing to tell are heard of."""
        self._start_again(now_ms)
        heartbeats, interval = self.heartbeats, self.settings.heartbeat_interval_ms
        while heartbeats and heartbeats[0][0] <= now_ms:
            _, host = heapq.heappop(heartbeats)
            kept = self.hosts[host]
            if kept.phase not in (OPENING, SERVING):
                continue
            due = kept.told_ms + interval
            if not kept.read_base and kept.told_ms + self.settings.snapshot_interval_ms <= now_ms:
                self.want_snapshot(kept)  # acknowledged, and lost with the log's tail: nothing else would end the wait
            if due <= now_ms:
                self.dirty[host] = None
                due = now_ms + interval
            heapq.heappush(heartbeats, (due, host))

    def _start_again(self, now_ms: int) -> None:
        """Write anew what was not delivered, and a start record that was acknowledged and lost with the log's tail: nothing else would end
        the wait."""
        for host in [host for host in self.undelivered if self.hosts[host].resend_ms <= now_ms]:
            self.write_again(self.hosts[host], now_ms)
        for host, _ in list(takewhile(lambda entry: entry[1] <= now_ms, self.starts.items())):
            del self.starts[host]
            kept = self.hosts[host]
            if kept.phase == STARTING or kept.outbid:
                self.start(kept, now_ms)

    # -- reports ------------------------------------------------------------------------------------------------------------------------

    def report_dirty(self, now_ms: int) -> None:
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
            position = self._claims_position.get(kept.partition)
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
        self._unread.add(host)
        self.reports += 1
        self._effects.append(Send(kept.partition, key, value, host))

    def _jittered(self, kept: Kept) -> int:
        """Snapshot interval ± jitter, different for each host and generation, the same in every run."""
        ledger = kept.ledger
        share = crc32(f"{kept.spec.name} {ledger.generation if ledger else 0}".encode()) / 2**32
        return int(self.settings.snapshot_interval_ms * (1 + self.settings.snapshot_jitter * (2 * share - 1)))
