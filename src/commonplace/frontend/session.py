"""The frontend's state machine: which records to send, and which decision answers which submit (rules 6 and 7).

    Submit ──▶ refused here ───────────────────────────────────────▶ Answer(Refusal)
       └─────▶ waiting ── first decision of its id, with its content ▶ Answer(Decision)
                  └────── not sent, or no decision in time ──────────▶ Answer(Refusal)

No I/O, clock, logging or threads: `receive` takes an event and the time and returns effects. Times are milliseconds of
a monotonic clock of the caller's. A decision is effective when it is the first in log order for its partition and
request id that is no `id_reused`; so whoever submits an id that may have been submitted before lets the session see
the decisions from before that (`Submit.held`, `Looked`).
"""

from commonplace.core.codec import Bad, decode, encode
from commonplace.core.partition import partition_of
from commonplace.core.records.claims import Confirm, Release
from commonplace.core.records.control import Flavor
from commonplace.core.records.decisions import ID_REUSED, Decision
from commonplace.core.records.requests import Build, Cancel
from commonplace.core.requests import GROUP_KEY, digest_of, request_key, serialised_group
from commonplace.frontend import checks
from commonplace.frontend.answered import Answered, Known
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
from commonplace.frontend.waiting import Waiting, answers, content_of, decision_of, too_slow
from commonplace.words import counted


class Session:
    """One frontend's view of one pool; `receive` is the only place that changes it."""

    def __init__(self, pool: str, requests_partitions: int, claims_partitions: int, in_flight_max: int) -> None:
        self.pool = pool
        self.routes = Routes()
        self.repeated = 0  # decisions for a request that was answered here before: said again, or void
        self._requests_partitions = requests_partitions
        self._claims_partitions = claims_partitions
        self._in_flight_max = in_flight_max
        self._waiting: dict[bytes, Waiting] = {}  # by request id, as the decisions' keys have it
        self._by_token: dict[int, bytes] = {}
        self._answered = Answered()
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
        known = self._answered.known.get(request.encode(errors="surrogatepass"))
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
        if (known := self._answered.known.get(name)) is not None:
            return [self._again(known, event, value)]
        if self.in_flight >= self._in_flight_max:
            return [Answer(event.token, self._overloaded())]
        return self._wait_for(event, name, value, now_ms)

    def _wait_for(self, event: Submit, name: bytes, value: bytes, now_ms: int) -> list[Effect]:
        build = event.build
        key = request_key(build, self.flavors[build.flavor])
        partition = self._partition(key)
        until_ms = now_ms + event.timeout_ms
        waiting = Waiting(
            build, key.encode(), value, partition, [event.token], now_ms, until_ms, event.held, trace=event.trace
        )
        self._waiting[name] = waiting
        self._by_token[event.token] = name
        if self._tick_ms is None or until_ms < self._tick_ms:
            self._tick_ms = until_ms
        if event.held:
            return [LookBack(partition, build.id, event.token)]
        return [SendRequest(partition, waiting.key, value, event.token, event.trace)]

    def _join(self, waiting: Waiting, event: Submit, value: bytes) -> list[Effect]:
        """The same request is on its way: whoever asks again gets its answer."""
        if waiting.value != value:
            return [_refused(event.token, checks.reused(event.build.id))]
        if self.in_flight >= self._in_flight_max:
            return [Answer(event.token, self._overloaded())]
        waiting.tokens.append(event.token)
        self._by_token[event.token] = event.build.id.encode()
        return []

    def _again(self, known: Known, event: Submit, value: bytes) -> Answer:
        if known.content != digest_of(value):
            return _refused(event.token, checks.reused(event.build.id))
        return Answer(event.token, known.decision)

    def _overloaded(self) -> Refusal:
        waiting = counted(self.in_flight, "request awaits", "requests await")
        message = f"{waiting} a decision, the most allowed (frontend.in_flight_max): wait for some"
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
        for token in event.tokens:
            name = self._by_token.get(token)
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
        waiting_for, known = self._waiting, self._answered.known
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
        self, waiting: Waiting, partition: int, offset: int, key: bytes, value: bytes | None, now_ms: int
    ) -> list[Effect]:
        decision = decision_of(key, value)
        if isinstance(decision, Bad):
            return [Quarantine(partition, offset, decision.reason, key, value or b"")]
        if waiting.held:
            # The history may hold an earlier one; of those that follow it only the first can matter.
            if waiting.early is None and answers(decision, waiting):
                waiting.early = decision
            return []
        if not answers(decision, waiting):
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
                decision = decision_of(name, value)
                if isinstance(decision, Decision) and answers(decision, waiting):
                    # decided for an earlier submit: its clock is unknown
                    return self._settle(name, waiting, decision, None)
        if waiting.early is not None:
            return self._settle(name, waiting, waiting.early, None)
        return [SendRequest(waiting.partition, waiting.key, waiting.value, waiting.tokens[0], waiting.trace)]

    def _settle(self, name: bytes, waiting: Waiting, decision: Decision, confirm_until_ms: int | None) -> list[Effect]:
        self._forget(name, waiting)
        if decision.reason != ID_REUSED:  # that one is about this submit, not about the id
            group = serialised_group(waiting.build)
            self._answered.note(name, Known(decision, content_of(waiting), confirm_until_ms, group))
        return [Answer(token, decision) for token in waiting.tokens]

    def _tick(self, now_ms: int) -> list[Effect]:
        if self._tick_ms is None or now_ms < self._tick_ms:
            return []
        effects: list[Effect] = []
        for name in [name for name, w in self._waiting.items() if w.until_ms <= now_ms]:
            effects += self._give_up(name, too_slow(self._waiting[name], now_ms))
        self._tick_ms = min((w.until_ms for w in self._waiting.values()), default=None)
        return effects

    def _give_up(self, name: bytes, refusal: Refusal) -> list[Effect]:
        waiting = self._waiting[name]
        self._forget(name, waiting)
        return [Answer(token, refusal) for token in waiting.tokens]

    def _forget(self, name: bytes, waiting: Waiting) -> None:
        del self._waiting[name]
        for token in waiting.tokens:
            del self._by_token[token]

    # --- confirm, release, cancel ---

    def _confirm(self, event: AskConfirm, now_ms: int) -> list[Effect]:
        decision = event.decision
        if wrong := checks.not_in(decision, event.allocations, "confirm"):
            return [_refused(event.token, wrong)]
        if (refusal := self._answered.unconfirmable(decision, now_ms)) is not None:
            return [Answer(event.token, refusal)]
        return self._claim_records(Confirm, event)

    def _release(self, event: AskRelease) -> list[Effect]:
        if wrong := checks.not_in(event.decision, event.allocations, "release"):
            return [_refused(event.token, wrong)]
        return self._claim_records(Release, event)

    def _claim_records(self, kind: type[Confirm | Release], event: AskConfirm | AskRelease) -> list[Effect]:
        request = event.decision.request
        return [
            self._claim_record(kind(host=p.host, request=request, allocation=p.allocation), event.token)
            for p in event.decision.placed
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
        self._answered.withdraw(event.request.encode())
        key = request_key(record, self.flavors[flavor])
        return [SendRequest(self._partition(key), key.encode(), value, event.token)]

    def _key_parts(self, event: Withdraw) -> tuple[str, str]:
        """Flavor and serialised group of a request, which its key is made of."""
        name = event.request.encode()
        if (waiting := self._waiting.get(name)) is not None:
            return waiting.build.flavor, serialised_group(waiting.build)
        if (known := self._answered.known.get(name)) is not None and known.decision.flavor:
            return known.decision.flavor, known.group
        return event.flavor, event.group


def _written(record: Build | Cancel) -> bytes | Bad:
    """The record's bytes. There are none with surrogates in it, which Python makes of bytes that are no UTF-8 (arguments, file names)."""
    try:
        return encode(record)
    except UnicodeEncodeError as error:
        return Bad(f"{checks.shown(error.object)} is not UTF-8: write it so")


def _refused(token: int, message: str) -> Answer:
    return Answer(token, Refusal(Why.INVALID, message))
