"""The synchronous client: performs what the session says, with one thread that reads and one that writes.

    caller ── submit ──▶ session ──▶ queue ──▶ writer: produce all, one flush a turn ──▶ requests, claims
    caller ◀── Pending ◀── session ◀── reader: poll, consume what is there ◀── decisions, control

The session is shared under one lock, held for a batch at a time. Answers are given on the reader's thread, errors of the
broker's on the writer's.
"""

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import count
from types import TracebackType
from typing import Any, Final, Literal, Self

from confluent_kafka import KafkaError, Message

from commonplace.clock import steady_ms
from commonplace.core.records.decisions import Decision
from commonplace.core.records.requests import Build
from commonplace.core.traceparent import misfit
from commonplace.errors import BrokerUnavailable, CommonplaceError, StateChanged, TimedOut, UsageError
from commonplace.frontend import following, history
from commonplace.frontend.events import (
    Answer,
    AskConfirm,
    AskRelease,
    ControlRead,
    DecisionsRead,
    Effect,
    Event,
    LookBack,
    Quarantine,
    Refusal,
    SendClaimRecord,
    SendFailed,
    SendRequest,
    Sent,
    Submit,
    Tick,
    Why,
    Withdraw,
)
from commonplace.frontend.ids import Ids
from commonplace.frontend.outcome import Acknowledged, await_outcomes, watch_from
from commonplace.frontend.pending import Pending
from commonplace.frontend.session import Session
from commonplace.frontend.settling import Outcome
from commonplace.frontend.writing import Delivered, Writer
from commonplace.kafka import client as kafka_client
from commonplace.kafka.outbox import FLUSH_S
from commonplace.kafka.topics import Topics, require_topics
from commonplace.settings import Settings

POLL_S: Final = 0.05
"""Longest sleep of the reader: how late a timeout or a close is noticed; records wake it at once."""
_log = logging.getLogger(__name__)

_ERRORS: Final[dict[Why, type[CommonplaceError]]] = {
    Why.INVALID: UsageError,
    Why.OVERLOADED: CommonplaceError,
    Why.LATE: StateChanged,
    Why.TIMED_OUT: TimedOut,
    Why.NOT_SENT: BrokerUnavailable,
}


class Frontend:
    """Submits requests to one pool and brings their effective decisions; thread-safe, to be closed.

    Opening blocks for a few round trips and raises `BrokerUnavailable` or `TopicsNotReady`. Create it after a fork.
    """

    def __init__(self, settings: Settings) -> None:
        broker, facts, _ = require_topics(settings)
        self._settings = kafka_client.settings_for(settings, broker)
        self._by_time = not broker.embedded  # whether offsets can be looked up by log time
        self._names = names = Topics(settings.topics.prefix, settings.topics.pool)
        self._facts = facts
        self._in_flight_max = settings.frontend.in_flight_max
        self._session = Session(
            settings.topics.pool, facts[names.requests].partitions, facts[names.claims].partitions, self._in_flight_max
        )
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._room_wanted = 0
        self._tokens = count(1)
        self._ids = Ids()
        self._pending: dict[int, Pending] = {}
        self._acknowledged: list[int] = []  # tokens of requests
        self._unsent: list[Event] = []
        self._stopping = False
        self._failure: CommonplaceError | None = None
        producer = kafka_client.producer(self._settings, required=_producer_required(self._settings))
        self._writer = Writer(producer, names, self._take_acknowledged, self._writer_broke)
        partitions = facts[names.decisions].partitions
        self._consumer, control, self._positions = following.follow(self._settings, names, partitions)
        self._session.receive(ControlRead(control), steady_ms())
        self._reader = threading.Thread(target=self._read, name="frontend-reader", daemon=True)
        self._writer.thread.start()
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    # --- what callers do ---

    def new_id(self) -> str:
        """A request id that nobody has used."""
        return self._ids.new()

    def request(self, flavor: str, *, id: str | None = None, **fields: Any) -> Build:
        """A request for `flavor`, with a new id unless one is named; `fields` are those of `Build`. Raises `UsageError`."""
        if id == "":  # a variable that was not set: a new id would place what may have been placed before
            raise UsageError("the request id is empty: write 1 to 128 characters, or leave it out and one is made")
        return Build(id=id or self.new_id(), flavor=flavor, **fields)

    def place(
        self, flavor: str, *, id: str | None = None, timeout: float | None = None, traceparent: str = "", **fields: Any
    ) -> Decision:
        """Submit and block until the effective decision, placed or not; raises `TimedOut`, `UsageError`, …

        A named `id` may be one submitted before: then its first decision is returned.
        """
        return self.submit(self.request(flavor, id=id, **fields), timeout=timeout, traceparent=traceparent).result()

    def submit(
        self, build: Build, *, timeout: float | None = None, fresh: bool = False, routed: bool = False,
        traceparent: str = "",
    ) -> Pending:  # fmt: skip
        """Submit one request; see `submit_many`."""
        return self.submit_many((build,), timeout=timeout, fresh=fresh, routed=routed, traceparent=traceparent)[0]

    def submit_many(
        self, builds: Sequence[Build], *, timeout: float | None = None, fresh: bool = False, routed: bool = False,
        traceparent: str = "",
    ) -> list[Pending]:  # fmt: skip
        """Submit requests, `timeout` seconds each (default frontend.timeout_s); what is refused is a Pending that raises.

        Blocks while frontend.in_flight_max are open. An id that was not made by `new_id`, or was submitted here before, may be
        decided already, so the decisions of the idempotency window are read first, once for all; `fresh` vouches that none was.
        A flavor that another pool serves is refused, unless `routed` says that the caller chose this pool (`Router` does).
        `traceparent`, of W3C's form, goes beside the records of these requests and into `explain`; raises `UsageError` for another.
        """
        if traceparent and (wrong := misfit(traceparent)):
            raise UsageError(wrong)
        timeout_ms = round((self._settings.frontend.timeout_s if timeout is None else timeout) * 1000)
        pendings = [Pending(build, next(self._tokens)) for build in builds]
        step = max(1, self._in_flight_max // 2)
        for at in range(0, len(pendings), step):
            self._submit(pendings[at : at + step], timeout_ms, fresh, routed, traceparent)
        return pendings

    def confirm(
        self, decision: Decision, *allocations: str, wait: bool = False, timeout: float | None = None
    ) -> list[Outcome]:
        """Confirm what an effective decision placed, or the allocations named. Raises `StateChanged` when its time is over.

        Without `wait` it returns nothing, once the records are on their way; with it, the hosts' answers, one for each
        allocation, or `TimedOut`.
        """
        return self._settle(AskConfirm(decision, next(self._tokens), allocations), decision, wait, timeout)

    def release(
        self, decision: Decision, *allocations: str, wait: bool = False, timeout: float | None = None
    ) -> list[Outcome]:
        """Give back what a decision placed, or the allocations named; `wait` as for `confirm`."""
        return self._settle(AskRelease(decision, next(self._tokens), allocations), decision, wait, timeout)

    def cancel(
        self, request: str, flavor: str = "", group: str = "", *, wait: bool = False, timeout: float | None = None
    ) -> None:
        """Withdraw a request: undecided, it is rejected as cancelled; what its decision names is released.

        Returns once the record is on its way; with `wait` once it stands in the log, or raises `Denied`, `BrokerUnavailable` or `TimedOut`.
        `flavor` is needed for requests this frontend did not submit, and `group` where they asked for affinity or a spread.
        """
        deadline = self._deadline(timeout)
        effects = self._told(Withdraw(request, next(self._tokens), flavor, group))
        if not wait:
            self._perform(effects, self._unawaited_delivered)
            return
        acknowledged = Acknowledged(1)
        self._perform(effects, acknowledged.note)
        acknowledged.all_stand("cancel", deadline)

    def flush(self, timeout: float | None = None) -> None:
        """Block until the broker has acknowledged, or refused, all that was handed over.

        Raises `TimedOut`, and what ended the frontend where something was never written for it.
        """
        deadline = self._deadline(timeout)
        while not self._writer.idle:
            if not self._writer.thread.is_alive():
                self._require_open()
            if time.monotonic() > deadline:
                raise TimedOut(f"the broker at {self._settings.bootstrap} has not acknowledged all records in time")
            time.sleep(FLUSH_S)
        if self._writer.unwritten is not None:
            raise self._writer.unwritten

    def decision(self, request: str) -> Decision | None:
        """The effective decision of a request answered here (the newest 10,000 are kept); never blocks.

        `lookup.read_back` finds those of other frontends.
        """
        with self._lock:
            return self._session.known(request)

    @property
    def in_flight(self) -> int:
        """Submits without an answer."""
        return self._session.in_flight

    @property
    def full(self) -> bool:
        """Whether another submit would block for room."""
        return self._session.in_flight >= self._in_flight_max and self._failure is None and not self._stopping

    def unused(self, request: str) -> bool:
        """Whether this frontend made the id and has not submitted it, so that no decision of it can stand."""
        return self._ids.unused(self._ids.number(request))

    @property
    def settings(self) -> Settings:
        """The settings in use, fitted to the broker."""
        return self._settings

    @property
    def flavors(self) -> list[str]:
        """Names of the flavors on `control`, as last read."""
        with self._lock:
            return sorted(self._session.flavors)

    def close(self) -> None:
        """Send what is queued, answer the rest with an error, end the threads; closing twice is nothing."""
        self._stopping = True
        self._writer.stop()
        for thread in (self._writer.thread, self._reader):
            if thread is not threading.current_thread():
                thread.join()

    # --- submit, settle ---

    def _submit(self, pendings: Sequence[Pending], timeout_ms: int, fresh: bool, routed: bool, trace: str) -> None:
        effects: list[Effect] = []
        with self._lock:
            self._require_open()
            self._wait_for_room(len(pendings))
            self._require_open()  # it may have ended while we waited, and answers nobody any more
            now_ms = steady_ms()
            for pending in pendings:
                self._pending[pending.token] = pending
                number = self._ids.number(pending.request.id)
                held = not fresh and not self._ids.unused(number)
                event = Submit(pending.request, pending.token, timeout_ms, held, routed, trace)
                told = self._session.receive(event, now_ms)
                for effect in told:
                    if isinstance(effect, SendRequest):
                        self._ids.use(number)
                effects += told
            looks = [effect for effect in effects if isinstance(effect, LookBack)]
            positions = dict(self._positions) if looks else {}
        self._perform(effects)
        if looks:
            topic, by_time = self._names.decisions, self._by_time
            self._receive_all(following.look_back(self._settings, topic, looks, positions, by_time=by_time))

    def _require_open(self) -> None:
        if self._failure is not None or self._stopping:
            raise self._failure or CommonplaceError("this frontend is closed: open another")

    def _wait_for_room(self, wanted: int) -> None:
        """Back-pressure on callers; callbacks on our own threads are told `overloaded` instead, as nobody else makes room."""
        if threading.current_thread() in (self._reader, self._writer.thread):
            return
        self._room_wanted += 1
        while self._session.in_flight + wanted > self._in_flight_max and self._failure is None and not self._stopping:
            self._room.wait()
        self._room_wanted -= 1

    def _settle(
        self, event: AskConfirm | AskRelease, decision: Decision, wait: bool, timeout: float | None
    ) -> list[Outcome]:
        deadline = self._deadline(timeout)
        effects = self._told(event)
        if not wait:
            self._perform(effects)
            return []
        records = [e for e in effects if isinstance(e, SendClaimRecord)]
        acknowledged = Acknowledged(len(records))
        what: Literal["confirm", "release"] = "confirm" if isinstance(event, AskConfirm) else "release"
        hosts = self._facts[self._names.hosts]
        reports = watch_from(self._settings, hosts, decision)
        try:
            for record in records:
                self._writer.put(record, partial(acknowledged.receive, record))
            self._writer.wake()
            watched = acknowledged.wait(what, deadline)
            topic_id = self._facts[self._names.claims].topic_id
            return await_outcomes(reports, watched, topic_id, hosts.partitions, self._settings, deadline)
        finally:
            reports.close()

    def _told(self, event: AskConfirm | AskRelease | Withdraw) -> list[Effect]:
        """What the session wants done for a caller who has no Pending; raises the error of one who is refused."""
        with self._lock:
            self._require_open()
            effects = self._session.receive(event, steady_ms())
        for effect in effects:
            if isinstance(effect, Answer) and isinstance(effect.answer, Refusal):
                raise _ERRORS[effect.answer.why](effect.answer.message)
        return effects

    def _deadline(self, timeout: float | None) -> float:
        return time.monotonic() + (self._settings.frontend.timeout_s if timeout is None else timeout)

    # --- effects ---

    def _perform(self, effects: Iterable[Effect], delivered: Delivered | None = None) -> None:
        """Queue what is to be sent and give answers; `delivered` hears of requests in place of the session."""
        queued = False
        for effect in effects:
            match effect:
                case Answer():
                    self._answer(effect)
                case SendRequest():
                    self._writer.put(effect, delivered or partial(self._request_delivered, effect.token))
                    queued = True
                case SendClaimRecord():
                    self._writer.put(effect, self._unawaited_delivered)
                    queued = True
                case Quarantine():
                    self._writer.put_aside(effect)
        if queued:
            self._writer.wake()

    def _answer(self, answer: Answer) -> None:
        pending = self._pending.pop(answer.token, None)
        if pending is None:
            return  # told already that the frontend was closed
        result = answer.answer
        pending.resolve(_ERRORS[result.why](result.message) if isinstance(result, Refusal) else result)

    # --- on the writing thread ---

    def _request_delivered(self, token: int, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self._acknowledged.append(token)
        else:
            self._unsent.append(SendFailed(token, error.str()))

    def _unawaited_delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            _log.warning("a confirm, release or cancel was not acknowledged: %s", error.str())

    def _take_acknowledged(self) -> None:
        if self._acknowledged or self._unsent:
            events: list[Event] = [Sent(self._acknowledged), *self._unsent]
            self._acknowledged, self._unsent = [], []
            self._receive_all(events)

    def _writer_broke(self, error: CommonplaceError | None) -> CommonplaceError:
        if error is not None:
            self._fail(error)
        return self._abandon()

    # --- the reading thread ---

    def _read(self) -> None:
        try:
            while not self._stopping and self._failure is None:
                messages = history.batch(self._consumer, POLL_S)
                self._receive_all([*following.events_of(messages, self._settings, self._names), Tick()])
        except CommonplaceError as error:
            self._fail(error)
        finally:
            self._consumer.close()
            self._abandon()

    def _receive_all(self, events: list[Event]) -> None:
        now_ms = steady_ms()
        effects: list[Effect] = []
        with self._lock:
            for event in events:
                effects += self._session.receive(event, now_ms)
                if isinstance(event, DecisionsRead):
                    self._positions[event.partition] = event.rows[-1][0] + 1
            if effects and self._room_wanted:
                self._room.notify_all()
        self._perform(effects)

    def _fail(self, error: CommonplaceError) -> None:
        _log.error("the frontend stops: %s", error)
        self._failure = error

    def _abandon(self) -> CommonplaceError:
        """Nothing is read, or written, any more: whoever waits is told, nobody hangs; returns what they are told."""
        what = "was closed" if self._stopping else "broke down (see the log)"
        error = self._failure or CommonplaceError(f"the frontend {what} before the decision came: ask again by the id")
        with self._lock:
            self._failure = error
            left = list(self._pending.values())
            self._pending.clear()
            self._room.notify_all()
        for pending in left:
            pending.resolve(error)
        return error


def _producer_required(settings: Settings) -> dict[str, Any]:
    """Records that could not be sent while anybody waited for them are dropped, unless [kafka] says otherwise."""
    if {"message.timeout.ms", "delivery.timeout.ms"} & settings.kafka.keys():
        return {}
    return {"message.timeout.ms": max(1000, round(settings.frontend.timeout_s * 1000))}
