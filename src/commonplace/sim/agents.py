"""A simulated agent process: the shipped `Keeper` in a shell that does what agent/shell.py does."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from commonplace.core.codec import Bad, decode
from commonplace.core.host_keys import DELTA_SUFFIX, START_SUFFIX
from commonplace.core.keeper import Keeper
from commonplace.core.keeper_events import (
    AdoptInstance,
    Alarm,
    AskClaimsRange,
    CaptureEnd,
    ClaimsRange,
    ClaimsRead,
    ControlRead,
    DriverSaid,
    EndCaptured,
    Fenced,
    HostsRead,
    Quarantine,
    Raw,
    ReadClaims,
    Refused,
    ReportFailed,
    Send,
    StartInstance,
    StopInstance,
    Tick,
)
from commonplace.core.kept import FENCED, REFUSED
from commonplace.core.ledger_events import Configure, Failed, Found, Gone, Up
from commonplace.core.records.control import HostControl
from commonplace.sim import readers
from commonplace.sim.members import NEVER, Process
from commonplace.sim.surroundings import Surroundings
from commonplace.sim.wires import Source

RETRY_MS: Final = 200
CONTROL, HOSTS, CLAIMS = range(3)
TICK: Final = Tick()
HOST_CONTROL: Final = b"host/"


class AgentProcess(Process):
    """One agent: the hosts of one unit, from start records to its end."""

    def __init__(self, world: Surroundings, name: str, unit: int, hosts: Sequence[str]) -> None:
        super().__init__(world, name)
        self.unit, self.hosts = unit, tuple(hosts)
        self.told: dict[str, dict[str, Found]] = {host: {} for host in hosts}
        self.seen: dict[str, int] = {}
        self.boots: list[tuple[int, str, str]] = []  # when, host, allocation
        self._perform: dict[type, Callable[[Any], None]] = {
            Send: self._send,
            AskClaimsRange: lambda effect: self.asked.add(effect.partition),
            ReadClaims: self._read_claims,
            CaptureEnd: self._capture_end,
            StartInstance: self._start_instance,
            StopInstance: self._stop_instance,
            AdoptInstance: self._adopt_instance,
            Quarantine: lambda effect: self.world.quarantined(self.name, effect),
            Alarm: self._alarm,
            Fenced: self._fenced,
            Refused: self._refused,
        }
        self.begin(world.now)

    def begin(self, now: int) -> None:
        """Read what operators say to its end; then start every host."""
        world = self.world
        self.life += 1
        self.nonce = world.life_of(self.name)
        self.asked: set[int] = set()
        self.captured: list[EndCaptured] = []
        self.opened = False
        self.over = ""
        self.claims_id = world.topics["claims"].id
        specs = [world.machines[host].spec() for host in self.hosts]
        self.keeper = Keeper(self.name, specs, world.config.partitions, self.nonce, world.keeper_settings)
        control = world.topics["control"]
        self.control_end = control.end(0)
        self.follow("control", 0, control.begin(0), CONTROL, self._control)
        self.wake(self.soon())

    def rebuild(self, why: str) -> None:
        """Start every host anew with a new keeper; drivers stay as they are."""
        world = self.world
        world.count("rebuild")
        if world.trace is not None:
            world.trace.tells(self.name, f"starts all hosts anew: {why}")
        self.begin_anew()

    # -- turn ---------------------------------------------------------------------------------------------------------

    def turn(self, now: int) -> None:
        """One turn of the shell's loop."""
        if not self.sources:
            return None
        if not self.read(now):
            return self.rebuild("records were lost")
        if not self.sources:
            return None
        if not self.opened:
            control = self.world.topics["control"]  # which may have lost its tail since
            if self.sources["control", 0].position < min(self.control_end, control.end(0)):
                return None
            self._open()
        clock = self.clock()
        self._drivers(clock)
        if self.asked:
            for partition in sorted(self.asked):
                self._look(partition)
        self.do(self.keeper.receive(TICK, clock))
        if self.captured:
            captured, self.captured = self.captured, []
            for end in captured:
                self.do(self.keeper.receive(end, self.clock()))
        if self.over:
            self.world.ended(self, self.over)
            return None
        self._plan(now)
        return None

    def _open(self) -> None:
        self.opened = True
        self.do(self.keeper.begin(self.clock()))
        hosts = self.world.topics["hosts"]
        for partition in sorted(self.keeper.unready):
            self.follow("hosts", partition, hosts.begin(partition), HOSTS, self._hosts)

    def _plan(self, now: int) -> None:
        """Wake when a lease, a heartbeat or an instance is due."""
        log, leases, due = self.keeper.log, self.keeper.leases, NEVER
        if log.heartbeats:
            due = log.heartbeats[0][0]
        if log.starts:
            due = min(due, next(iter(log.starts.values())))
        if log.undelivered:
            due = min(due, *(log.hosts[host].resend_ms for host in log.undelivered))
        for partition, moments in leases.moments.items():
            if moments and moments[0] < due and partition not in leases.barriers:
                again = leases.asked_ms.get(partition, 0) + leases.interval_ms
                due = min(due, max(moments[0], again))
        for when, _, _ in self.boots:
            if when < due:
                due = when
        if due < NEVER:
            self.wake(max(self.at_clock(due), now + 5))
        if self.asked:
            self.wake(now + RETRY_MS)

    def do(self, effects: Iterable[Any]) -> None:
        """Do what the keeper asks."""
        perform = self._perform
        for effect in effects:
            perform[type(effect)](effect)

    # -- reading ------------------------------------------------------------------------------------------------------

    def _hosts(self, source: Source, records: Sequence[Raw]) -> None:
        if records:
            self.do(self.keeper.receive(HostsRead(source.partition, records), self.clock()))

    def _claims(self, source: Source, records: Sequence[Raw]) -> None:
        self.do(self.keeper.receive(ClaimsRead(source.partition, records, source.position), self.clock()))

    def _control(self, source: Source, records: Sequence[Raw]) -> None:
        for offset, _, key, value in records:
            if key is None or not key.startswith(HOST_CONTROL):
                continue
            host = key[len(HOST_CONTROL) :].decode(errors="replace")
            record = decode("control", value) if value is not None else None
            if isinstance(record, HostControl | None) and (record is None or record.name == host):
                self.do(self.keeper.receive(ControlRead(host, record), self.clock()))
            else:
                reason = record.reason if isinstance(record, Bad) else f"key is of host {host!a}, record of another"
                self.world.quarantined(self.name, Quarantine("control", 0, offset, reason, key, value))

    def _read_claims(self, effect: ReadClaims) -> None:
        self.world.checkers.claims_read(effect.partition, effect.offset)
        epochs = {
            host: kept.ledger.epoch
            for host, kept in self.keeper.hosts.items()
            if kept.partition == effect.partition and kept.ledger is not None and kept.phase not in (FENCED, REFUSED)
        }
        readers.takes_claims(self.world.checkers, self.nonce, epochs, self.sources["hosts", effect.partition].position)
        self.follow("claims", effect.partition, effect.offset, CLAIMS, self._claims)

    def _capture_end(self, effect: CaptureEnd) -> None:
        partition = effect.partition
        if max(self.world.outages.down_until("claims", partition), self.away_ms) <= self.world.now:
            self.captured.append(EndCaptured(partition, self.world.topics["claims"].end(partition), self.clock()))

    # -- drivers ------------------------------------------------------------------------------------------------------

    def _look(self, partition: int) -> None:
        """Tell what runs on the starting hosts of a partition, then where its claims lie."""
        world, claims = self.world, self.world.topics["claims"]
        if max(world.outages.down_until("claims", partition), self.away_ms) > world.now:
            return
        for host, kept in self.keeper.hosts.items():
            if kept.partition == partition:
                self._changes(host, again=True)
        self.asked.discard(partition)
        low, high = claims.begin(partition), claims.end(partition)
        self.do(self.keeper.receive(ClaimsRange(partition, self.claims_id, low, high), self.clock()))

    def _drivers(self, clock: int) -> None:
        if self.boots and self.boots[0][0] <= clock:
            boots, self.boots = self.boots, []
            for boot in boots:
                if boot[0] <= clock:
                    self._booted(boot[1], boot[2])
                else:
                    self.boots.append(boot)
        if self.world.machines_changed > self.seen.get("", -1):
            self.seen[""] = self.world.machines_changed
            for host in self.hosts:
                self._changes(host)

    def _booted(self, host: str, allocation: str) -> None:
        chance = self.world.config.boot_failures
        failed = chance and self.random() * 1_000 < chance
        said = Failed(allocation, "it did not boot") if failed else Up(allocation)
        self.do(self.keeper.receive(DriverSaid(host, said), self.clock()))

    def _changes(self, host: str, again: bool = False) -> None:
        """Tell what was found on a machine or is gone since; `again`: also what an earlier keeper was told."""
        machine = self.world.machines[host]
        if self.seen.get(host) == machine.changes and not again:
            return
        if self.seen.get(host) is not None and self.seen[host] != machine.changes:
            said: list[Any] = [Configure(inventory=machine.inventory(), cells=machine.cells() or None)]
        else:
            said = []
        self.seen[host] = machine.changes
        told, now = self.told[host], machine.found
        said += [Gone(name) for name, found in told.items() if now.get(name) != found]
        said += [found for name, found in now.items() if again or told.get(name) != found]
        self.told[host] = dict(now)
        for event in said:
            self.do(self.keeper.receive(DriverSaid(host, event), self.clock()))

    def _start_instance(self, effect: StartInstance) -> None:
        self.boots.append((self.clock() + self.world.config.boot_ms, effect.host, effect.allocation.id))

    def _stop_instance(self, effect: StopInstance) -> None:
        self.boots = [boot for boot in self.boots if boot[2] != effect.allocation.id]

    def _adopt_instance(self, effect: AdoptInstance) -> None:
        allocation = effect.allocation
        if allocation.origin == "found":
            found = Found(
                instance=allocation.instance,
                resources=allocation.resources,
                cells=allocation.cells,
                assigned=allocation.assigned,
                project=allocation.project,
                user=allocation.user,
                kind=allocation.kind,
                flavor=allocation.flavor,
                group=allocation.group,
            )
            self.told[effect.host].setdefault(allocation.instance, found)

    # -- effects ------------------------------------------------------------------------------------------------------

    def _send(self, effect: Send) -> None:
        key, host, life = effect.key, effect.host, self.life
        if effect.value is None:
            kind = "tombstone"
        else:
            kind = "start" if key.endswith(START_SUFFIX) else "delta" if key.endswith(DELTA_SUFFIX) else "snapshot"

        def done(offset: int) -> None:
            if offset < 0 and self.life == life:
                self.do(self.keeper.receive(ReportFailed(host), self.clock()))
                self._plan(self.world.now)

        self.send(kind, "hosts", effect.partition, key, effect.value, done)

    def acknowledge(self, entry: Any, offset: int, after_ms: int = 0) -> None:
        """Only failures are told: an agent reads its reports back."""
        if offset < 0:
            super().acknowledge(entry, offset, after_ms)

    def _alarm(self, effect: Alarm) -> None:
        self.world.count("alarm")
        if self.world.trace is not None:
            self.world.trace.tells(self.name, f"alarm: host {effect.host}: {effect.reason}")

    def _fenced(self, effect: Fenced) -> None:
        self.world.count("fenced")
        if self.world.trace is not None:
            self.world.trace.tells(self.name, f"host {effect.host} was taken over by {effect.by}")
        if self.keeper.left == 0:
            self.over = "fenced"

    def _refused(self, effect: Refused) -> None:
        self.world.count("refused")
        self.world.refused.add(effect.host)
        if self.world.trace is not None:
            self.world.trace.tells(self.name, effect.reason)
        if self.keeper.left == 0 and not self.over:
            self.over = "refused"

    def serving(self) -> list[str]:
        """Hosts that this agent looks after."""
        return [host for host, kept in self.keeper.hosts.items() if kept.phase not in (FENCED, REFUSED)]
