"""The agent's shell: poll, receive, perform; one thread, one data consumer, one producer.

    control to its end ▸ start records ▸ hosts from the beginning ▸ drivers look ▸ claims
    turn: read ▸ let the keeper receive ▸ write its reports ▸ one flush ▸ rest, where flushes come close together

What the keeper asks for is done here and nowhere else. Losing records, or topics made anew, end this life of the agent: the process
then begins another with a new keeper and new start records.
"""

import logging
import secrets
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

from commonplace.agent.crew import Crew
from commonplace.agent.figures import AgentFigures
from commonplace.agent.looks import Looks
from commonplace.clock import steady_ms
from commonplace.collector import calm
from commonplace.core.codec import Bad, decode
from commonplace.core.host_keys import START_SUFFIX
from commonplace.core.keeper import Keeper
from commonplace.core.keeper_events import (
    AdoptInstance,
    Alarm,
    AskClaimsRange,
    CaptureEnd,
    ClaimsRange,
    ClaimsRead,
    ControlRead,
    EndCaptured,
    Fenced,
    HostsRead,
    KeeperSettings,
    Quarantine,
    ReadClaims,
    Refused,
    ReportFailed,
    Send,
    StartInstance,
    StopInstance,
    Tick,
    quarantined,
)
from commonplace.core.kept import RESUMING
from commonplace.core.ledger_events import Bounds
from commonplace.core.records.control import HostControl
from commonplace.errors import CommonplaceError, NotReady
from commonplace.errors import Fenced as FencedError
from commonplace.failpoints import hit
from commonplace.kafka.outbox import Outbox, QuarantineWriter
from commonplace.kafka.pace import Pace
from commonplace.kafka.tail import Batch, Lost, Tail
from commonplace.kafka.topics import TopicFacts, Topics
from commonplace.settings import Settings

POLL_S: Final = 0.05
"""Longest wait for a record; leases, heartbeats and drivers are served between waits."""

TICK_MS: Final = 50
RETRY_MS: Final = 1_000
"""Wait after a lookup that the broker did not answer: each try may block for seconds."""
GRACE_S: Final = 5.0
"""How long an agent that was told to stop waits for its reports; what is missing is settled when it comes back."""

ASIDE_S: Final = 5.0
"""How long a report waits until what was put aside before it is acknowledged: a quarter of a heartbeat's interval."""

ALARMS_TOLD_MAX: Final = 20
"""Alarms of one turn that are logged one by one: a topic made anew alarms for every host."""

HOST_CONTROL: Final = b"host/"

_LOG: Final = logging.getLogger(__name__)


class Rebuild(Exception):
    """The ledgers can't be trusted any more: start every host anew from its log."""


def keeper_settings(settings: Settings) -> KeeperSettings:
    """The core's intervals and bounds from the settings file."""
    a = settings.agent
    return KeeperSettings(
        snapshot_interval_ms=int(a.snapshot_interval_s * 1000),
        snapshot_jitter=a.snapshot_jitter,
        heartbeat_interval_ms=int(a.heartbeat_interval_s * 1000),
        delta_allocations_max=a.delta_allocations_max,
        lapse_interval_ms=int(a.lapse_interval_s * 1000),
        bounds=Bounds(lease_ms_max=a.lease_ms_max, report_bytes_max=a.report_bytes_max, settled_max=a.settled_max),
    )


class Agent:
    """One life of an agent: from start records to a signal, a fence or a rebuild. `figures` and `crew` outlive it."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        facts: dict[str, TopicFacts],
        crew: Crew,
        figures: AgentFigures,
        stop: Callable[[], bool],
    ) -> None:
        self.name, self.settings, self.crew, self.figures, self._stop = name, settings, crew, figures, stop
        self.topics = Topics(settings.topics.prefix, settings.topics.pool)
        self._claims_topic_id = facts[self.topics.claims].topic_id
        partitions = facts[self.topics.hosts].partitions
        self.keeper = Keeper(name, crew.specs(), partitions, secrets.token_hex(8), keeper_settings(settings))
        self.tail = Tail(settings)
        self._looks = Looks(self.tail, self.topics.hosts, self.keeper.log.awaits)
        self.outbox = Outbox(settings, errors_only=True)
        self._pace = Pace()
        self.quarantine = QuarantineWriter(self.outbox, self.topics.quarantine)
        self._failed: list[str] = []  # hosts of records that were not delivered
        self._on_failure = {host: partial(self._not_delivered, host) for host in self.keeper.hosts}
        self._asked: set[int] = set()  # partitions whose claims range is wanted once their drivers have looked
        self._looked: set[str] = set()
        self._captured: list[EndCaptured] = []
        self._alarms: list[str] = []
        self._refused = ""
        self._fenced = ""
        self._aside = False  # whether bad records were put aside since the last report
        self._tick_ms = 0
        self._lookup_trouble = ""
        self._reported = False
        self.serves = False
        """Whether a host of this life ever took claims."""
        self._settled_in = False
        self._perform: dict[type, Callable[[Any], None]] = {
            Send: self._send,
            AskClaimsRange: lambda e: self._asked.add(e.partition),
            ReadClaims: self._read_claims,
            CaptureEnd: self._capture_end,
            StartInstance: self._start_instance,
            StopInstance: self._stop_instance,
            AdoptInstance: lambda e: self.crew.perform(e, steady_ms() / 1000),
            Quarantine: self._put_aside,
            Alarm: self._alarm,
            Fenced: self._note_fenced,
            Refused: self._note_refused,
        }

    # -- life ---------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Start the hosts and serve until told to stop. Blocks.

        Raises `Rebuild` when the hosts must be started anew, `Fenced` when other agents took all of them, `Denied` when the broker
        refuses a topic, and `CommonplaceError` when none can be started.
        """
        figures = self.figures
        figures.attach(self.keeper)
        figures.outbox, figures.quarantine = self.outbox, self.quarantine
        try:
            self._begin()
            while not self._stop():
                self._turn()
        except (Lost, NotReady) as e:
            raise Rebuild(str(e)) from e
        finally:
            figures.reason = "leaving"
            missing = self.outbox.close(GRACE_S)
            if missing:
                _LOG.warning("%d records were not acknowledged; what they tell is settled at the next start", missing)
            self.tail.close()

    def _begin(self) -> None:
        """Read what operators say to its end, write the start records, read the hosts' past."""
        low, end = self.tail.range(self.topics.control, 0)
        self.tail.add(self.topics.control, 0, low)
        ends = {(self.topics.control, 0): end}
        while (ends := self.tail.behind(ends)) and not self._stop():
            for batch in self.tail.turn(POLL_S):
                self._control_read(batch)
        self._do(self.keeper.begin(steady_ms()))
        for partition in sorted(self.keeper.unready):
            self.tail.add(self.topics.hosts, partition, self.tail.range(self.topics.hosts, partition)[0])
        self.figures.reason = ""

    def _turn(self) -> None:
        topics, keeper = self.topics, self.keeper
        claimed = read = False
        claims = 0
        for batch in self.tail.turn(POLL_S):
            if batch.topic == topics.hosts:
                read = True
                self._do(keeper.receive(HostsRead(batch.partition, batch.records), steady_ms()))
            elif batch.topic == topics.claims:
                effects = keeper.receive(ClaimsRead(batch.partition, batch.records, batch.position), steady_ms())
                if batch.records:
                    claims += len(batch.records)
                    hit("after_claims_read")
                claimed = claimed or bool(effects)
                self._do(effects)
            else:
                self._control_read(batch)
        now_ms = steady_ms()
        if now_ms >= self._tick_ms:
            self._tick_ms = now_ms + TICK_MS
            self._serve_drivers(now_ms)
            self._do(keeper.receive(Tick(), now_ms))
            captured, self._captured = self._captured, []
            for end in captured:
                self._do(keeper.receive(end, steady_ms()))
            if not self._settled_in and not any(keeper.unready.values()):
                self._settled_in = True
                # the ledgers live as long as the process: a collection that walks ten thousand of them stops it for 0.4 s
                calm()
        self._looks.turned(now_ms, claimed=claimed, read=read)
        flushed = self.outbox.flush_turn()
        if self._reported:
            self._reported = False
            hit("before_report_ack")
        failed, self._failed = self._failed, []
        for host in failed:
            self._do(keeper.receive(ReportFailed(host), steady_ms()))
        self._tell()
        if flushed:
            self._pace.rest(claims)

    def _serve_drivers(self, now_ms: int) -> None:
        now_s = now_ms / 1000
        for said in self.crew.poll(now_s):
            self._do(self.keeper.receive(said, now_ms))
        for load in self.crew.loads(now_s):
            self._do(self.keeper.receive(load, now_ms))
        for partition in sorted(self._asked):
            self._look(partition, now_s)

    def _look(self, partition: int, now_s: float) -> None:
        """Answer where a partition's claims lie, once all that runs on its starting hosts is known."""
        waiting = False
        for host, kept in self.keeper.hosts.items():
            if kept.partition != partition or kept.phase != RESUMING or host in self._looked:
                continue
            for said in self.crew.look(host, now_s):
                self._do(self.keeper.receive(said, steady_ms()))
            if self.crew.has_looked(host):
                self._looked.add(host)
            else:
                waiting = True
        if waiting:
            return
        found = self._claims_range(partition)
        if found is not None:
            self._asked.discard(partition)
            self._do(self.keeper.receive(ClaimsRange(partition, self._claims_topic_id, *found), steady_ms()))

    def _claims_range(self, partition: int) -> tuple[int, int] | None:
        """First offset and end of a claims partition now; None while the broker does not say, and the keeper asks again."""
        try:
            return self.tail.range(self.topics.claims, partition)
        except CommonplaceError as e:
            if str(e) != self._lookup_trouble:
                self._lookup_trouble = str(e)
                _LOG.warning("%s", e)
            self._tick_ms = steady_ms() + RETRY_MS
            return None

    def _tell(self) -> None:
        """Log this turn's alarms, and end when no host is left."""
        alarms, self._alarms = self._alarms, []
        self.figures.alarms += len(alarms)
        for alarm in alarms[:ALARMS_TOLD_MAX]:
            _LOG.warning("%s", alarm)
        if len(alarms) > ALARMS_TOLD_MAX:
            _LOG.warning("… and %d more such alarms", len(alarms) - ALARMS_TOLD_MAX)
        if self.keeper.left == 0:
            if self._fenced:
                raise FencedError(f"{self._fenced}; no host is left to agent {self.name}: do not start it again")
            raise CommonplaceError(self._refused)

    # -- reading ------------------------------------------------------------------------------------------------------

    def _control_read(self, batch: Batch) -> None:
        for offset, _, key, value in batch.records:
            if key is None or not key.startswith(HOST_CONTROL):
                continue
            host = key[len(HOST_CONTROL) :].decode(errors="replace")
            record = decode("control", value) if value is not None else None
            if isinstance(record, HostControl | None) and (record is None or record.name == host):
                self._do(self.keeper.receive(ControlRead(host, record), steady_ms()))
                continue
            reason = record.reason if isinstance(record, Bad) else f"key is of host {host!a}, record of another"
            self._put_aside(Quarantine("control", 0, offset, reason, key, value))

    # -- effects ------------------------------------------------------------------------------------------------------

    def _do(self, effects: Iterable[Any]) -> None:
        perform = self._perform
        for effect in effects:
            perform[type(effect)](effect)

    def _read_claims(self, effect: ReadClaims) -> None:
        self.serves = True
        self.tail.add(self.topics.claims, effect.partition, effect.offset)

    def _send(self, effect: Send) -> None:
        if self._aside:
            self._aside = False
            # a report tells that everything before its watermark was taken into account: nobody reads a bad claim again
            self.outbox.settle(ASIDE_S)
        if effect.value is not None and not effect.key.endswith(START_SUFFIX):
            hit("before_report")
            self._reported = True
        self.outbox.send(self.topics.hosts, effect.partition, effect.key, effect.value, self._on_failure[effect.host])

    def _not_delivered(self, host: str, offset: int, error: str) -> None:
        self._failed.append(host)

    def _capture_end(self, effect: CaptureEnd) -> None:
        asked_at_ms = steady_ms()  # before the question: the end must be younger than the leases that it lets lapse
        found = self._claims_range(effect.partition)
        if found is not None:
            # received once all effects of this event are performed: reports must stand in the log in their order
            self._captured.append(EndCaptured(effect.partition, found[1], asked_at_ms))

    def _start_instance(self, effect: StartInstance) -> None:
        self.figures.started += 1
        self.crew.perform(effect, steady_ms() / 1000)

    def _stop_instance(self, effect: StopInstance) -> None:
        self.figures.stopped += 1
        self.crew.perform(effect, steady_ms() / 1000)

    def _put_aside(self, effect: Quarantine) -> None:
        topic: str = getattr(self.topics, effect.topic)
        self._aside = True
        if self.quarantine.put(quarantined(effect, topic, self.name), steady_ms()):
            _LOG.warning("%s [%d] offset %d put aside: %s", topic, effect.partition, effect.offset, effect.reason)

    def _alarm(self, effect: Alarm) -> None:
        self._alarms.append(f"host {effect.host}: {effect.reason}")

    def _note_fenced(self, effect: Fenced) -> None:
        self._fenced = f"host {effect.host} was taken over by {effect.by}"
        self._alarms.append(self._fenced)

    def _note_refused(self, effect: Refused) -> None:
        self._refused = effect.reason
        self._alarms.append(effect.reason)
