"""The ledgers of an agent's hosts, and what reaches them: claims, leases that ran out, what drivers and operators say."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from commonplace.core.codec import Bad, decode
from commonplace.core.keeper_events import (
    CaptureEnd,
    ClaimsRead,
    ControlRead,
    DriverSaid,
    Effect,
    EndCaptured,
    HostSpec,
    LoadMeasured,
    Quarantine,
    StartInstance,
    StopInstance,
)
from commonplace.core.kept import FENCED, OPENING, REFUSED, RESUMING, SERVING, Kept
from commonplace.core.leases import Leases
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
from commonplace.core.records.control import HostControl
from commonplace.core.strangers import Strangers
from commonplace.core.write_ahead import WriteAhead


class Ledgers:
    """Takes events to the ledgers whom they concern, and notes what follows once the next report of each stands."""

    def __init__(
        self,
        hosts: Mapping[str, Kept],
        log: WriteAhead,
        leases: Leases,
        strangers: Strangers,
        claims_position: dict[int, int],
        effects: list[Effect],
    ) -> None:
        self.hosts, self.log, self.leases, self.claims_position = hosts, log, leases, claims_position
        self.controls: dict[str, HostControl] = {}
        self.verdicts: Counter[str] = Counter()
        self._by_key = {host.encode(): kept for host, kept in hosts.items()}
        self._strangers, self._effects = strangers, effects
        self._actions, self._note_lease = log.actions, leases.note

    # -- claims -------------------------------------------------------------------------------------------------------------------------

    def claims_read(self, event: ClaimsRead, now_ms: int) -> None:
        """Each ledger takes its claims; what no host of this agent can answer is put aside, or another agent's."""
        hosts, dirty, partition = self._by_key, self.log.dirty, event.partition
        others = self._strangers.names[partition]
        for offset, log_time_ms, key, value in event.records:
            kept = hosts.get(key) if key else None
            if kept is None:
                if key not in others:  # else of another agent's host
                    reason = self._strangers.judge(partition, offset, log_time_ms, key, value)
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

    def strangers_due(self, partition: int, newest_ms: int) -> None:
        """Put aside the claims that turn out to be nobody's, now that a partition of `hosts` was read to a record of `newest_ms`."""
        for record, reason in self._strangers.due(partition, newest_ms):
            self._bad_claim(record.partition, record.offset, reason, record.key, record.value)

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
                self._actions.setdefault(host, []).append(StopInstance(host, before))
        elif after.id in ledger.leases:  # granted or renewed
            self._note_lease(kept, ledger.leases[after.id], after.id)
        elif after.building and after.state == "active" and after.id not in kept.running:
            kept.running.add(after.id)
            self._actions.setdefault(host, []).append(StartInstance(host, after))

    # -- leases -------------------------------------------------------------------------------------------------------------------------

    def tick(self, now_ms: int) -> None:
        """Time passed: ask for ends of claims where a lease ran out."""
        self._effects.extend(CaptureEnd(partition) for partition in self.leases.due(now_ms, self.claims_position))

    def end_captured(self, event: EndCaptured, now_ms: int) -> None:
        """Leases that had run out when this end was asked for lapse once the claims are read to it."""
        self.leases.barriers[event.partition] = (event.asked_at_ms, event.end)
        self._lapse(event.partition, now_ms)

    def _lapse(self, partition: int, now_ms: int) -> None:
        for asked_at_ms, host, allocations in self.leases.ran_out(partition, self.claims_position.get(partition, -1)):
            kept = self.hosts[host]
            if kept.phase != SERVING or kept.ledger is None:
                continue
            for allocation in allocations:
                if allocation in kept.ledger.leases:
                    self._apply(kept, Lapse(allocation, asked_at_ms), now_ms)
                    self.log.dirty[host] = None

    # -- drivers and operators ----------------------------------------------------------------------------------------------------------

    def driver_said(self, event: DriverSaid, now_ms: int) -> None:
        """A driver tells of its host or of what runs there."""
        kept, said = self.hosts[event.host], event.event
        if isinstance(said, Configure):
            kept.spec = configured(kept.spec, said)
        ledger = kept.ledger
        if ledger is None or kept.phase not in (RESUMING, OPENING, SERVING) or _explained(kept, ledger, said):
            return
        before = (ledger.hash, ledger.builds)
        self._apply(kept, said, now_ms)
        if (ledger.hash, ledger.builds) != before:
            self.log.dirty[event.host] = None

    def load_measured(self, event: LoadMeasured, now_ms: int) -> None:
        """Report a load with whatever is reported next."""
        kept = self.hosts[event.host]
        if kept.ledger is not None:
            kept.ledger.load = dict(event.load)

    def control_read(self, event: ControlRead, now_ms: int) -> None:
        """Operators say something of a host, or take it back."""
        if event.record is None:
            self.controls.pop(event.host, None)
        else:
            self.controls[event.host] = event.record
        kept = self.hosts.get(event.host)
        if kept is not None:
            self.apply_control(kept, now_ms)

    def apply_control(self, kept: Kept, now_ms: int) -> None:
        """Let a host's ledger know what operators say of it."""
        ledger = kept.ledger
        if ledger is None or kept.phase in (FENCED, REFUSED):
            return
        host = kept.spec.name
        control = self.controls.get(host)
        cleared = ledger.gap and control is not None and control.gap_cleared >= ledger.epoch
        if self.status(host) != ledger.status or cleared:
            ledger.receive(Configure(status=self.status(host), gap_cleared=cleared), now_ms)
            if kept.phase in (OPENING, SERVING):
                self.log.dirty[host] = None

    def status(self, host: str) -> Any:
        """What operators want a host to be."""
        control = self.controls.get(host)
        return control.status if control else "enabled"


def configured(spec: HostSpec, said: Configure) -> HostSpec:
    """A host as its driver describes it anew; what it leaves out stays."""
    return HostSpec(
        name=spec.name,
        inventory=spec.inventory if said.inventory is None else said.inventory,
        traits=spec.traits if said.traits is None else said.traits,
        labels=spec.labels if said.labels is None else said.labels,
        cells=spec.cells if said.cells is None else said.cells,
    )


def _explained(kept: Kept, ledger: Ledger, said: Event) -> bool:
    """Whether what the driver said changes nothing in the ledger: instances that a claim brought are not found ones."""
    if isinstance(said, Failed):
        kept.running.discard(said.allocation)  # there is nothing to stop
    elif isinstance(said, Found):
        return any(a.instance == said.instance and a.origin == "claim" for a in ledger.allocations.values())
    elif isinstance(said, Gone):
        return found_id(said.instance) not in ledger.allocations
    return False
