"""What operators do to a host: words on `control`, and forgetting, the one thing that an operator writes to `hosts`.

    look ▸ fence (a start record) ▸ look again ▸ remove (a start record, removed) ▸ look again ▸ tombstones ▸ control record

Why in this order: docs/decisions/0005-forget-fences-first.md. Until the removal a refusal has lost nothing: a fenced agent
that is started again goes on from its last report.
"""

import time
from collections.abc import Callable
from typing import Final

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message
from msgspec import Struct

from commonplace.core.codec import decode, encode
from commonplace.core.complaints import complaint
from commonplace.core.host_keys import delta_key, parse_key, snapshot_key, start_key
from commonplace.core.hosts import HostState, fold
from commonplace.core.partition import partition_of
from commonplace.core.records.control import HostControl
from commonplace.core.records.hosts import Start, Status
from commonplace.errors import CommonplaceError, StateChanged, TimedOut, UsageError
from commonplace.kafka import client, control
from commonplace.kafka.tail import Raw, Tail
from commonplace.kafka.topics import Topics, require_topics
from commonplace.ops.fleet_view import FleetView, host_control
from commonplace.settings import Settings
from commonplace.words import counted

FORGETTER: Final = "operator:forget"
"""Who the start records of forgetting say they are of: their age says nothing of whether an agent lives."""

CLOCK_KEY: Final = "host/-clock"
"""A control key that no host can have; its tombstone changes nothing, and its log time is the broker's clock."""

WRITE_TIMEOUT_S: Final = 15.0
STALL_TIMEOUT_S: Final = 30.0
DRAIN_POLL_S: Final = 0.5
SHOWN: Final = 3

Step = Callable[[str], None]
"""Told what was done, in words, right after it was."""


class BrokerTime(Struct, frozen=True):
    """The broker's clock, and by this machine's when it was asked and answered; all in ms since 1970."""

    log_time_ms: int
    asked_ms: int
    answered_ms: int

    @property
    def ahead_ms(self) -> int:
        """How far this machine's clock is ahead of the broker's at least; negative: behind; 0 within the round trip."""
        return max(0, self.asked_ms - self.log_time_ms) or min(0, self.answered_ms - self.log_time_ms)


class Forgotten(Struct, frozen=True):
    """A host that is gone: the removal's offset, its last epoch, and how many of its keys were deleted."""

    host: str
    epoch: int
    keys: int


# --- words on control --------------------------------------------------------------------------------------------------


def set_status(settings: Settings, host: str, status: Status, reason: str) -> HostControl:
    """Say that a host is enabled, disabled or draining; what was said of its gap stays. Returns once acknowledged."""
    return _say(settings, host, status=status, reason=reason)


def clear_gap(settings: Settings, host: str, epoch: int) -> HostControl:
    """Say that an operator has looked at the gap which the host reports in this epoch."""
    return _say(settings, host, gap_cleared=epoch)


def _say(settings: Settings, host: str, **changes: object) -> HostControl:
    said = host_control(control.read(settings), host) or HostControl(name=host)
    try:
        record = msgspec.convert({**msgspec.to_builtins(said), **changes, "v": 1}, HostControl)
    except msgspec.ValidationError as e:
        raise UsageError(f"host {host}: {complaint(str(e))}") from e
    control.write(settings, {f"host/{host}": encode(record)})
    return record


def await_empty(view: FleetView, host: str, timeout_s: float, tell: Callable[[int], None]) -> None:
    """Block until the host holds no allocation, telling how many are left; raises `TimedOut` past `timeout_s` (0: never)."""
    deadline = time.monotonic() + timeout_s
    told = -1
    while left := len(view.view.rows[host].host.allocations):
        if left != told:
            told = left
            tell(left)
        if timeout_s and time.monotonic() > deadline:
            raise TimedOut(
                f"host {host} still holds {counted(left, 'allocation')} after {timeout_s:g} s: it stays draining"
            )
        view.turn(DRAIN_POLL_S)


def broker_time(settings: Settings) -> BrokerTime:
    """Ask the broker's clock by a record that changes nothing; blocks for a round trip."""
    name = Topics(settings.topics.prefix, settings.topics.pool).control
    asked = time.time_ns() // 1_000_000
    _, log_time_ms = _append(settings, name, 0, CLOCK_KEY.encode(), None)
    return BrokerTime(log_time_ms, asked, time.time_ns() // 1_000_000)


# --- forget ------------------------------------------------------------------------------------------------------------


def forget(settings: Settings, name: str, step: Step = lambda text: None) -> Forgotten:
    """Forget a host that is silent and empty, for all readers and for ever; blocks for a second or two.

    Raises `StateChanged` where it reports, holds allocations, or an agent came back meanwhile: then it is not forgotten,
    and the message says what became of it. A call that was interrupted is repeated.
    """
    broker, facts, _ = require_topics(settings, ("hosts", "control"))
    fitted = client.settings_for(settings, broker)
    topic = Topics(settings.topics.prefix, settings.topics.pool).hosts
    past = _Past(fitted, topic, name, partition_of(name, facts[topic].partitions))
    try:
        if not past.read_to_end().removed:
            _remove(past, fitted, step)
        keys = past.tombstones()
        for key in keys:
            past.append(key, None)
    finally:
        past.close()
    control.write(fitted, {f"host/{name}": None})
    return Forgotten(name, past.state.epoch, len(keys))


def _remove(past: "_Past", settings: Settings, step: Step) -> None:
    now_ms = broker_time(settings).log_time_ms
    timeout_ms = int(settings.scheduler.liveness_timeout_s * 1000)
    _refuse_living(past, now_ms, timeout_ms)
    _refuse_holding(past)
    seen = past.agent_offset
    step(f"host {past.name} is silent and empty")

    fence = past.append(start_key(past.name), encode(Start(host=past.name, agent=FORGETTER)))
    past.read_to(fence + 1)
    step(f"fenced at offset {fence}")
    if past.agent_offset != seen:
        raise StateChanged(
            f"host {past.name} came back while it was being forgotten (agent {past.agent or 'unknown'}, offset "
            f"{past.agent_offset}): nothing was deleted, but that agent is fenced now: start it again"
        )
    _refuse_holding(past)

    removal = past.append(start_key(past.name), encode(Start(host=past.name, agent=FORGETTER, removed=True)))
    past.read_to(removal + 1)
    step(f"removed at offset {removal}")
    if past.agent_offset > fence:
        lost = f"; it had granted {', '.join(past.held_before[:SHOWN])}: place those again" if past.held_before else ""
        raise StateChanged(
            f"host {past.name}: agent {past.agent or 'unknown'} started while it was being forgotten and is fenced now "
            f"(offset {past.agent_offset}){lost}; start that agent again to have the host back, or forget it again"
        )


def _refuse_living(past: "_Past", now_ms: int, timeout_ms: int) -> None:
    if past.agent_offset < 0 and past.state.epoch < 0:
        raise UsageError(f"no host {past.name} in {past.topic}: see `commonplace hosts`")
    if past.agent_ms >= 0 and now_ms - past.agent_ms < timeout_ms:
        raise StateChanged(
            f"host {past.name} reports (agent {past.agent or 'unknown'}, {(now_ms - past.agent_ms) / 1000:.0f} s ago): "
            f"stop its agent, wait {timeout_ms / 1000:g} s, and forget it then"
        )


def _refuse_holding(past: "_Past") -> None:
    state = past.state
    if state.version:
        raise StateChanged(
            f"host {past.name} cannot be read ({state.stale}): forget it with a newer version of this program"
        )
    if state.allocations:
        some = ", ".join(f"{a.id} of {a.request or a.instance}" for a in list(state.allocations.values())[:SHOWN])
        more = f" and {len(state.allocations) - SHOWN} more" if len(state.allocations) > SHOWN else ""
        raise StateChanged(
            f"host {past.name} holds {counted(len(state.allocations), 'allocation')} ({some}{more}): "
            "start its agent and release them first, then forget it"
        )


class _Past:
    """One host's part of its partition, read as far as asked; `agent_*` is of the newest record that an agent wrote."""

    def __init__(self, settings: Settings, topic: str, name: str, partition: int) -> None:
        self.name, self.topic, self.partition = name, topic, partition
        self.state = HostState(name)
        self.keys: set[bytes] = set()
        self.agent, self.agent_offset, self.agent_ms = "", -1, -1
        self.held_before: list[str] = []
        """Allocations that the newest removal took."""
        self._settings = settings
        self._prefix = f"{name}/".encode()
        self._tail = Tail(settings)
        low, self._end = self._tail.range(topic, partition)
        self._tail.add(topic, partition, low)

    def read_to_end(self) -> HostState:
        """Read to the end captured when this was made."""
        return self.read_to(self._end)

    def read_to(self, end: int) -> HostState:
        """Read up to an offset; raises `TimedOut` where reading stalls."""
        deadline = time.monotonic() + STALL_TIMEOUT_S
        while self._tail.position(self.topic, self.partition) < end:
            for batch in self._tail.turn(1.0):
                deadline = time.monotonic() + STALL_TIMEOUT_S
                for record in batch.records:
                    self._take(record)
            if time.monotonic() > deadline:
                raise TimedOut(
                    f"{self.topic} [{self.partition}]: nothing came for {STALL_TIMEOUT_S:g} s: see the broker"
                )
        return self.state

    def _take(self, record: Raw) -> None:
        offset, at_ms, raw, value = record
        if raw is None or not raw.startswith(self._prefix):
            return
        key = parse_key(raw)
        if key is None:
            return
        held = [a.id for a in self.state.allocations.values()]
        fold(self.state, key, offset, at_ms, value)
        if self.state.removed:
            self.held_before = held or self.held_before
        if key.kind != "start":
            (self.keys.discard if value is None else self.keys.add)(raw)
        starter = _starter(key.kind, value)
        if value is not None and starter != FORGETTER:
            self.agent = starter or self.state.agent or self.agent
            self.agent_offset, self.agent_ms = offset, at_ms

    def tombstones(self) -> list[bytes]:
        """The keys of epochs that the removal ended and that nobody deleted yet, deltas last."""
        epochs = sorted({key.epoch for key in map(parse_key, self.keys) if key and key.epoch < self.state.epoch})
        wanted = [*(snapshot_key(self.name, e) for e in epochs), *(delta_key(self.name, e) for e in epochs)]
        return [key for key in wanted if key in self.keys]

    def append(self, key: bytes, value: bytes | None) -> int:
        """Write one record to the host's partition and return its offset, once acknowledged."""
        return _append(self._settings, self.topic, self.partition, key, value)[0]

    def close(self) -> None:
        """Stop reading."""
        self._tail.close()


def _starter(kind: str, value: bytes | None) -> str:
    """Who wrote a start record; "" for any other."""
    record = decode("hosts", value) if kind == "start" and value is not None else None
    return record.agent if isinstance(record, Start) else ""


def _append(settings: Settings, topic: str, partition: int, key: bytes, value: bytes | None) -> tuple[int, int]:
    """Offset and log time of a record, once acknowledged."""
    places: list[tuple[int, int]] = []
    errors: list[KafkaError] = []

    def delivered(error: KafkaError | None, message: Message) -> None:
        if error is None:
            places.append((message.offset() or 0, message.timestamp()[1]))
        else:
            errors.append(error)

    writer = client.producer(settings)
    writer.produce(topic, value, key, partition, on_delivery=delivered)
    writer.flush(WRITE_TIMEOUT_S)
    if places:
        return places[0]
    if errors and errors[0].code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
        raise client.explained(KafkaException(errors[0]), settings)
    why = errors[0].str() if errors else f"no acknowledgement within {WRITE_TIMEOUT_S:g} s; whether it was is unknown"
    raise CommonplaceError(f"{topic} [{partition}]: {key.decode(errors='replace')} was not written: {why}")
