"""The frontend's state machine: which records to send, and which decision answers which submit (rules 6 and 7).

    Submit ──▶ refused here ───────────────────────────────────────▶ Answer(Refusal)
       └─────▶ waiting ── first decision of its id, with its content ▶ Answer(Decision)
                  └────── not sent, or no decision in time ──────────▶ Answer(Refusal)

No I/O, clock, logging or threads: `receive` takes an event and the time and returns effects. Times are milliseconds of
a monotonic clock of the caller's. A decision is effective when it is the first in log order for its partition and
request id that is no `id_reused`; so whoever submits an id that may have been submitted before lets the session see
the decisions from before that (`Submit.held`, `Looked`).
"""

from collections import deque
from typing import Final

from msgspec import Struct

from commonplace.core.codec import Bad, decode, encode
from commonplace.core.partition import partition_of
from commonplace.core.records import ID_REUSED, Build, Cancel, Confirm, Decision, Flavor, Release
from commonplace.core.requests import GROUP_KEY, digest_of, request_key, serialised_group
from commonplace.frontend import checks
from commonplace.frontend.events import (
    Answer,
    AskConfirm,
    AskRelease,
    ControlRead,
    DecisionsRead,
    Effect,
    Event,
    LookBack,
    Looked,
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
from commonplace.frontend.routes import Routes

KEPT_MAX: Final = 10_000
"""Effective decisions kept for confirm, cancel and repeated submits; at ~1 KB each they stay near 10 MB."""


class _Waiting(Struct, gc=False):
    """A request that has no answer yet."""

    build: Build
    key: bytes
    value: bytes
    partition: int
    tokens: list[int]
    submitted_ms: int
    until_ms: int
    held: bool
    content: str = ""
    """Digest of the request, once it was needed."""
    acknowledged: bool = False
    early: Decision | None = None
    """Read while held: effective unless the history has an earlier one."""
    trace: str = ""


class _Known(Struct, gc=False):
    """The effective decision of a request, and until when it may be confirmed as far as we can tell."""

    decision: Decision
    content: str
    confirm_until_ms: int | None
    group: str = ""
    """Its key's group, where that is serialised."""


class Session:
    """One frontend's view of one pool; `receive` is the only place that changes it."""

    def __init__(self, pool: str, requests_partitions: int, claims_partitions: int, in_flight_max: int) -> None:
        self.pool = pool
        self.routes = Routes()
        self.repeated = 0  # decisions for a request that was answered here before: said again, or void
        self._requests_partitions = requests_partitions
        self._claims_partitions = claims_partitions
        self._in_flight_max = in_flight_max
        self._waiting: dict[bytes, _Waiting] = {}  # by request id, as the decisions' keys have it
        self._by_token: dict[int, bytes] = {}
        self._known: dict[bytes, _Known] = {}
        # next(iter(dict)) walks over what was deleted at its front: 5 us at 10,000 entries, where a deque takes none
        self._known_order: deque[bytes] = deque()
        self._withdrawn: set[bytes] = set()
        self._withdrawn_order: deque[bytes] = deque()
        self._partitions: dict[str, int] = {}  # by request key; bounded by flavors × spread
        self._tick_ms: int | None = None  # no deadline lies before it

    @property
    def flavors(self) -> dict[str, Flavor]:
        """The flavors on `control`, by name."""
        return self.routes.flavors

    @property
    def control_bad(self) -> int:
        """Records of `control` that could not be used."""
        return self.routes.bad

    @property
    def in_flight(self) -> int:
        """Submits without an answer."""
        return len(self._by_token)

    def known(self, request: str) -> Decision | None:
        """The effective decision of a request answered here, while it is kept."""
        known = self._known.get(request.encode(errors="surrogatepass"))
        return known.decision if known else None

    def receive(self, event: Event, now_ms: int) -> list[Effect]:
        """Take one event and say what to do about it."""
        match event:
            case DecisionsRead():
                return self._decisions(event, now_ms)
            case Submit():
                return self._submit(event, now_ms)
            case Sent():
                return self._sent(event)
            case AskConfirm():
                return self._confirm(event, now_ms)
            case AskRelease():
                return self._release(event)
            case Tick():
                return self._tick(now_ms)
            case Looked():
                return self._looked(event, now_ms)
            case Withdraw():
                return self._withdraw(event)
            case SendFailed():
                return self._send_failed(event)
            case ControlRead():
                self.routes.fold(event.rows)
                return []

    # --- submit ---

    def _submit(self, event: Submit, now_ms: int) -> list[Effect]:
        build = event.build
        value = _written(build)
        if isinstance(value, Bad):
            return [_refused(event.token, f"request {checks.shown(build.id)}: {value.reason}")]
        pool = "" if event.routed else self.pool
        if wrong := checks.invalid(build, value, self.flavors, self.routes.routing.pools, pool):
            return [_refused(event.token, wrong)]
        name = build.id.encode()
        if (waiting := self._waiting.get(name)) is not None:
            return self._join(waiting, event, value)
        if (known := self._known.get(name)) is not None:
            return [self._again(known, event, value)]
        if self.in_flight >= self._in_flight_max:
            return [Answer(event.token, self._overloaded())]
        return self._wait_for(event, name, value, now_ms)

    def _wait_for(self, event: Submit, name: bytes, value: bytes, now_ms: int) -> list[Effect]:
        build = event.build
        key = request_key(build, self.flavors[build.flavor])
        partition = self._partition(key)
        until_ms = now_ms + event.timeout_ms
        waiting = _Waiting(
            build, key.encode(), value, partition, [event.token], now_ms, until_ms, event.held, trace=event.trace
        )
        self._waiting[name] = waiting
        self._by_token[event.token] = name
        if self._tick_ms is None or until_ms < self._tick_ms:
            self._tick_ms = until_ms
        if event.held:
            return [LookBack(partition, build.id, event.token)]
        return [SendRequest(partition, waiting.key, value, event.token, event.trace)]

    def _join(self, waiting: _Waiting, event: Submit, value: bytes) -> list[Effect]:
        """The same request is on its way: whoever asks again gets its answer."""
        if waiting.value != value:
            return [_refused(event.token, checks.reused(event.build.id))]
        if self.in_flight >= self._in_flight_max:
            return [Answer(event.token, self._overloaded())]
        waiting.tokens.append(event.token)
        self._by_token[event.token] = event.build.id.encode()
        return []

    def _again(self, known: _Known, event: Submit, value: bytes) -> Answer:
        if known.content != digest_of(value):
            return _refused(event.token, checks.reused(event.build.id))
        return Answer(event.token, known.decision)

    def _overloaded(self) -> Refusal:
        message = (
            f"{self.in_flight} requests await a decision, the most allowed (frontend.in_flight_max): wait for some"
        )
        return Refusal(Why.OVERLOADED, message)

    def _partition(self, key: str) -> int:
        partition = self._partitions.get(key)
        if partition is None:
            partition = partition_of(key, self._requests_partitions)
            if not key.startswith(GROUP_KEY):  # groups come and go, flavors and spreads are few
                self._partitions[key] = partition
        return partition

    # --- sent, decided, timed out ---

    def _sent(self, event: Sent) -> list[Effect]:
        name = self._by_token.get(event.token)
        if name is not None:  # else the decision was faster
            self._waiting[name].acknowledged = True
        return []

    def _send_failed(self, event: SendFailed) -> list[Effect]:
        name = self._by_token.get(event.token)
        if name is None:
            return []
        message = f"request {name.decode()} was not acknowledged: {event.error}; it may stand in the log all the same, "
        return self._give_up(name, Refusal(Why.NOT_SENT, message + "so ask again with the same id"))

    def _decisions(self, event: DecisionsRead, now_ms: int) -> list[Effect]:
        waiting_for, known = self._waiting, self._known
        effects: list[Effect] = []
        for offset, _, key, value in event.rows:
            waiting = waiting_for.get(key)  # type: ignore[arg-type]  # None is nobody's key
            if waiting is None:
                if key in known:
                    self.repeated += 1
            elif waiting.partition == event.partition:  # elsewhere it is no answer: rule 7 judges per partition
                effects += self._decided(waiting, event.partition, offset, key or b"", value, now_ms)
        return effects

    def _decided(
        self, waiting: _Waiting, partition: int, offset: int, key: bytes, value: bytes | None, now_ms: int
    ) -> list[Effect]:
        decision = _decision(key, value)
        if isinstance(decision, Bad):
            return [Quarantine(partition, offset, decision.reason, key, value or b"")]
        if waiting.held:
            # The history may hold an earlier one; of those that follow it only the first can matter.
            if waiting.early is None and _answers(decision, waiting):
                waiting.early = decision
            return []
        if not _answers(decision, waiting):
            return []
        return self._settle(key, waiting, decision, waiting.submitted_ms + decision.confirm_within_ms)

    def _looked(self, event: Looked, now_ms: int) -> list[Effect]:
        name = event.request.encode()
        waiting = self._waiting.get(name)
        if waiting is None or waiting.tokens[0] != event.token or not waiting.held:
            return []
        waiting.held = False
        for _, _, key, value in event.rows:
            if key == name:
                decision = _decision(name, value)
                if isinstance(decision, Decision) and _answers(decision, waiting):
                    return self._settle(
                        name, waiting, decision, None
                    )  # decided for an earlier submit: its clock is unknown
        if waiting.early is not None:
            return self._settle(name, waiting, waiting.early, None)
        return [SendRequest(waiting.partition, waiting.key, waiting.value, waiting.tokens[0], waiting.trace)]

    def _settle(self, name: bytes, waiting: _Waiting, decision: Decision, confirm_until_ms: int | None) -> list[Effect]:
        self._forget(name, waiting)
        if decision.reason != ID_REUSED:  # that one is about this submit, not about the id
            group = serialised_group(waiting.build)
            self._known[name] = _Known(decision, _content(waiting), confirm_until_ms, group)
            self._known_order.append(name)
            if len(self._known_order) > KEPT_MAX:
                del self._known[self._known_order.popleft()]
        return [Answer(token, decision) for token in waiting.tokens]

    def _tick(self, now_ms: int) -> list[Effect]:
        if self._tick_ms is None or now_ms < self._tick_ms:
            return []
        effects: list[Effect] = []
        for name in [name for name, w in self._waiting.items() if w.until_ms <= now_ms]:
            effects += self._give_up(name, _too_slow(self._waiting[name], now_ms))
        self._tick_ms = min((w.until_ms for w in self._waiting.values()), default=None)
        return effects

    def _give_up(self, name: bytes, refusal: Refusal) -> list[Effect]:
        waiting = self._waiting[name]
        self._forget(name, waiting)
        return [Answer(token, refusal) for token in waiting.tokens]

    def _forget(self, name: bytes, waiting: _Waiting) -> None:
        del self._waiting[name]
        for token in waiting.tokens:
            del self._by_token[token]

    # --- confirm, release, cancel ---

    def _confirm(self, event: AskConfirm, now_ms: int) -> list[Effect]:
        decision = event.decision
        if wrong := checks.not_in(decision, event.allocations, "confirm"):
            return [_refused(event.token, wrong)]
        known = self._known.get(decision.request.encode())
        if known is not None and known.decision != decision:
            message = f"this decision of {decision.request} is void: an earlier one stands in the log, confirm that"
            return [_refused(event.token, message)]
        if decision.request.encode() in self._withdrawn:
            message = f"{checks.shown(decision.request)} was cancelled here, what it held is given back: submit again under a new id"
            return [Answer(event.token, Refusal(Why.LATE, message))]
        until_ms = known.confirm_until_ms if known else None
        if until_ms is not None and now_ms > until_ms:
            message = (
                f"confirm of {decision.request} comes {(now_ms - until_ms) / 1000:.1f} s too late: its lease has "
                "lapsed or is about to; submit again under a new request id"
            )
            return [Answer(event.token, Refusal(Why.LATE, message))]
        return [
            self._claim_record(Confirm(host=p.host, request=decision.request, allocation=p.allocation), event.token)
            for p in decision.placed
            if not event.allocations or p.allocation in event.allocations
        ]

    def _release(self, event: AskRelease) -> list[Effect]:
        decision = event.decision
        if wrong := checks.not_in(decision, event.allocations, "release"):
            return [_refused(event.token, wrong)]
        return [
            self._claim_record(Release(host=p.host, request=decision.request, allocation=p.allocation), event.token)
            for p in decision.placed
            if not event.allocations or p.allocation in event.allocations
        ]

    def _claim_record(self, record: Confirm | Release, token: int) -> SendClaimRecord:
        partition = partition_of(record.host, self._claims_partitions)
        return SendClaimRecord(partition, record.host.encode(), encode(record), token, record.allocation)

    def _withdraw(self, event: Withdraw) -> list[Effect]:
        named = _written(Cancel(id=event.request, flavor=event.flavor, group=event.group))
        if isinstance(named, Bad):
            return [_refused(event.token, f"cancel of {checks.shown(event.request)}: {named.reason}")]
        flavor, group = self._key_parts(event)
        if not flavor:
            message = (
                f"request {checks.shown(event.request)} is not known here: name its flavor, which its key is made of"
            )
            return [_refused(event.token, message)]
        if flavor not in self.flavors:
            return [_refused(event.token, checks.unknown_flavor(flavor, self.flavors))]
        record = Cancel(id=event.request, flavor=flavor, group=group)
        value = encode(record)
        checked = decode("requests", value)
        if isinstance(checked, Bad):
            return [_refused(event.token, f"cancel of {checks.shown(event.request)}: {checked.reason}")]
        self._note_withdrawn(event.request.encode())
        key = request_key(record, self.flavors[flavor])
        return [SendRequest(self._partition(key), key.encode(), value, event.token)]

    def _note_withdrawn(self, name: bytes) -> None:
        """A cancelled request is not confirmed any more: the confirm may come after the release, and hold what nobody gives back."""
        if name not in self._withdrawn:
            self._withdrawn.add(name)
            self._withdrawn_order.append(name)
            if len(self._withdrawn) > KEPT_MAX:
                self._withdrawn.remove(self._withdrawn_order.popleft())

    def _key_parts(self, event: Withdraw) -> tuple[str, str]:
        """Flavor and serialised group of a request, which its key is made of."""
        name = event.request.encode()
        if (waiting := self._waiting.get(name)) is not None:
            return waiting.build.flavor, serialised_group(waiting.build)
        if (known := self._known.get(name)) is not None and known.decision.flavor:
            return known.decision.flavor, known.group
        return event.flavor, event.group


def _written(record: Build | Cancel) -> bytes | Bad:
    """The record's bytes. There are none with surrogates in it, which Python makes of bytes that are no UTF-8 (arguments, file names)."""
    try:
        return encode(record)
    except UnicodeEncodeError as error:
        return Bad(f"{checks.shown(error.object)} is not UTF-8: write it so")


def _answers(decision: Decision, waiting: _Waiting) -> bool:
    """Whether a decision is about this content; `id_reused` must name it, the others only may."""
    if decision.reason == ID_REUSED or decision.content:
        return decision.content == _content(waiting)
    return True


def _content(waiting: _Waiting) -> str:
    if not waiting.content:
        waiting.content = digest_of(waiting.value)
    return waiting.content


def _decision(key: bytes, value: bytes | None) -> Decision | Bad:
    decision = decode("decisions", value) if value is not None else Bad("a decision is never deleted")
    if isinstance(decision, Decision) and decision.request.encode(errors="replace") != key:
        return Bad(f"key {checks.shown(key.decode(errors='replace'))} names another request than the record")
    assert isinstance(decision, Decision | Bad)
    return decision


def _refused(token: int, message: str) -> Answer:
    return Answer(token, Refusal(Why.INVALID, message))


def _too_slow(waiting: _Waiting, now_ms: int) -> Refusal:
    state = "it stands in the log" if waiting.acknowledged else "the broker has not acknowledged it"
    message = (
        f"no decision for {waiting.build.id} within {(now_ms - waiting.submitted_ms) / 1000:.1f} s ({state}): see that "
        "a scheduler runs, and ask again with the same id; what was granted meanwhile lapses"
    )
    return Refusal(Why.TIMED_OUT, message)
