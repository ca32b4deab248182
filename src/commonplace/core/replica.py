"""A scheduler replica: admit, rank, claim, settle, decide; events in, effects out (rules 1, 4, 6, 7).

    requests ──admit──▶ Placer: rank, claim, settle ──every instance held──▶ decision sent ──acknowledged──▶ offset committed
                                                                                  │
                                                                  decisions read back: the first in log order is effective;
                                                                  what it does not name of the request's allocations is released

`receive` is the only place that changes a replica. It decides nothing before `CaughtUp`, and nothing on a partition whose earlier
decisions it has not read.
"""

import heapq
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from commonplace.core.answers import placed, rejected, unplaced
from commonplace.core.ask import tail_of
from commonplace.core.catalog import Catalog
from commonplace.core.deliveries import Deliveries
from commonplace.core.group_policy import changed as policy_changed
from commonplace.core.group_turns import GroupTurns, standing
from commonplace.core.history import History, Known, Part
from commonplace.core.hosts import parse_key
from commonplace.core.impossible import impossible
from commonplace.core.keeper_events import Quarantine
from commonplace.core.partition import partition_of
from commonplace.core.peers import Peers
from commonplace.core.placing import Placer
from commonplace.core.ranking import explain, group_full, group_key
from commonplace.core.rebuild import objection
from commonplace.core.records import (
    IMPOSSIBLE,
    Allocation,
    Bad,
    Build,
    Cancel,
    Decision,
    Explanation,
    Id,
    Position,
    ReplicaReport,
    Result,
    decode,
    encode,
)
from commonplace.core.replacing import as_if_gone
from commonplace.core.replica_events import (
    Assigned,
    CaughtUp,
    ClaimDelivered,
    Commit,
    ControlRead,
    DecisionDelivered,
    DecisionsRead,
    Effect,
    HistoryRead,
    HostsRead,
    Lost,
    PeersRead,
    Raw,
    ReadHistory,
    ReleaseDelivered,
    ReplicaSettings,
    RequestsRead,
    Tick,
    Turn,
)
from commonplace.core.request_checks import count_misuse, likeness, unshowable
from commonplace.core.requests import content_digest, key_misfit, serialised, serialised_group
from commonplace.core.rules import Standing, Wishes
from commonplace.core.view import Row, View
from commonplace.core.work import ANSWERED, DROPPED, OPEN, Held, Work

ID_REUSED = "id_reused"
DEADLINE_CHECK_MS = 200
LIVENESS_CHECK_MS = 1_000
DEADLINES_SWEPT_MIN = 1_024
"""Below so many entries the heap of deadlines is not worth sweeping."""


class Replica:
    """One scheduler process's state. Times are ms of its own monotonic clock, log times are the broker's."""

    def __init__(
        self, name: str, nonce: str, hosts_partitions: int, claims_topic: str, settings: ReplicaSettings
    ) -> None:
        self.name, self.settings = name, settings
        self.view = View(hosts_partitions)
        self.catalog = Catalog(settings.pool)
        self.history = History(settings.decisions_kept_max, settings.idempotency_window_ms)
        self.placer = Placer(
            name, nonce, self.view, settings, claims_topic, self._emit, self._answer, self._unplaced, self._stray,
            self._standing,
        )  # fmt: skip
        self.turns = GroupTurns()
        self.folded: dict[int, int] = {}  # partition of `hosts` → offset of the last record read
        self.parts: dict[int, Part] = {}
        self.works: dict[str, Work] = {}
        self._rejected: dict[tuple[int, str], str] = {}  # answered without a work, not read back: request → content
        self.peers = Peers(name)
        self.deliveries = Deliveries(self._emit, self.parts, hosts_partitions)
        self.ready = False
        self.decisions: dict[tuple[str, str], int] = {}  # (result, flavor) → how many
        self.eliminated: dict[str, int] = {}  # filter → hosts it turned away, over all requests that found none
        self._now = 0
        self._deadlines: list[
            tuple[int, int, Work]
        ] = []  # heap: when, number of the work, because works do not compare
        self._opened = 0
        self._checked_ms = self._liveness_ms = 0
        self._staged: dict[tuple[int, bytes], Raw] = {}
        self._explained: tuple[Any, Explanation, str] | None = None
        self._effects: list[Effect] = []
        self._handlers: dict[type, Any] = {
            HostsRead: self._hosts,
            ControlRead: self._control,
            PeersRead: self._peers,
            CaughtUp: self._caught_up,
            Assigned: self._assigned,
            Lost: self._lost,
            RequestsRead: self._requests,
            DecisionsRead: self._decisions,
            HistoryRead: self._history_read,
            ClaimDelivered: self._claim_delivered,
            DecisionDelivered: self.deliveries.decided,
            ReleaseDelivered: self.deliveries.released,
            Turn: self._turn,
            Tick: self._tick,
        }

    def receive(self, event: Any, now_ms: int) -> list[Effect]:
        """Take one event; returns what the shell must do, in order."""
        self._now = now_ms
        self._handlers[type(event)](event, now_ms)
        effects, self._effects = self._effects, []
        return effects

    def receive_all(self, events: Sequence[Any], now_ms: int) -> list[Effect]:
        """Take events in order, as `receive` would one by one."""
        self._now = now_ms
        handlers = self._handlers
        for event in events:
            handlers[type(event)](event, now_ms)
        effects, self._effects = self._effects, []
        return effects

    def _emit(self, effect: Effect) -> None:
        self._effects.append(effect)

    def _quarantine(self, topic: str, partition: int, record: Raw, reason: str) -> None:
        self._effects.append(Quarantine(topic, partition, record[0], reason, record[2], record[3]))

    # -- state --------------------------------------------------------------------------------------------------------------------------

    def _hosts(self, event: HostsRead, now_ms: int) -> None:
        if event.records:
            self.folded[event.partition] = event.records[-1][0]
        if self.ready:
            self._fold_hosts(event.partition, event.records, now_ms)
        else:
            self._stage(event.partition, event.records, now_ms)

    def _stage(self, partition: int, records: Sequence[Raw], now_ms: int) -> None:
        """While catching up keep the last record of each key, as compaction would: only what is left of it is folded."""
        staged = self._staged
        for record in records:
            key = record[2]
            # popped, so that the order stays that of the log
            before = staged.pop((partition, key), None) if key is not None else None
            if before is not None:
                self.view.outcomes["superseded"] += 1
            elif parse_key(key) is None:
                self._fold_hosts(partition, [record], now_ms)  # of no host: nothing takes its place unseen
                continue
            assert key is not None
            staged[partition, key] = record

    def _fold_hosts(self, partition: int, records: Sequence[Raw], now_ms: int) -> None:
        fold, settle = self.view.fold, self.placer.settle
        for record in records:
            row, reason = fold(partition, record[0], record[1], record[2], record[3], now_ms)
            if reason:
                self._quarantine("hosts", partition, record, reason)
            elif row is not None and (row.pending or row.renewals or row.host.fresh):
                settle(row, now_ms)

    def _control(self, event: ControlRead, now_ms: int) -> None:
        for record in event.records:
            host, said, reason = self.catalog.fold(record[2], record[3], record[1])
            if reason:
                self._quarantine("control", 0, record, reason)
            elif host:
                self.view.control(said, host)

    def _peers(self, event: PeersRead, now_ms: int) -> None:
        for record, reason in self.peers.fold(event.records, now_ms):
            self._quarantine("replicas", 0, record, reason)

    def _caught_up(self, event: CaughtUp, now_ms: int) -> None:
        staged, self._staged = self._staged, {}
        for (partition, _), record in staged.items():
            self._fold_hosts(partition, [record], now_ms)
        self.ready = True
        self.view.liveness(self.settings.liveness_timeout_ms, now_ms)

    # -- partitions ---------------------------------------------------------------------------------------------------------------------

    def _assigned(self, event: Assigned, now_ms: int) -> None:
        assert self.ready, "a replica joins its group only once it has caught up"
        self.parts[event.partition] = Part(event.end)

    def _lost(self, event: Lost, now_ms: int) -> None:
        """Stop at once: what was claimed lapses by itself unless the new owner takes it up."""
        if self.parts.pop(event.partition, None) is None:
            return
        for request in [request for request, work in self.works.items() if work.partition == event.partition]:
            self.works.pop(request).state = DROPPED
        self._rejected = {at: content for at, content in self._rejected.items() if at[0] != event.partition}
        self.history.drop(event.partition)
        self.turns.drop(event.partition)
        self.deliveries.drop(event.partition)

    def _history_read(self, event: HistoryRead, now_ms: int) -> None:
        part = self.parts.get(event.partition)
        if part is None or part.history:
            return
        part.history = True
        waiting, part.waiting = part.waiting, []
        self._read_requests(event.partition, part, waiting, now_ms)

    # -- admit --------------------------------------------------------------------------------------------------------------------------

    def _requests(self, event: RequestsRead, now_ms: int) -> None:
        part = self.parts.get(event.partition)
        if part is None:
            return  # read before the partition was lost
        traces = event.traces or {}
        for record in event.records:
            part.undecided.add(record[0], traces.get(record[0], ""))
        if part.history:
            self._read_requests(event.partition, part, event.records, now_ms)
            return
        part.waiting.extend(event.records)
        if not part.asked and event.records:
            part.asked = True
            # the earlier of then and now: where the clock was put back since, decisions on it bear the earlier times
            appended_ms = min(event.records[0][1], self.view.newest_log_time_ms)
            from_ms = appended_ms - self.settings.idempotency_window_ms
            self._effects.append(ReadHistory(event.partition, from_ms))

    def _read_requests(self, partition: int, part: Part, records: Sequence[Raw], now_ms: int) -> None:
        good: list[tuple[int, int, Build | Cancel]] = []
        for record in records:
            offset, log_time_ms, key, value = record
            if offset >= part.end:  # else read again perhaps
                self.view.request_time(partition, log_time_ms)
            request = decode("requests", value) if value is not None else Bad("no value")
            if isinstance(request, Bad):
                self._bad_request(part, partition, record, request.reason)
            elif why := self._misplaced(partition, key, request):
                self._bad_request(part, partition, record, why)
            else:
                good.append((offset, log_time_ms, request))
        self._admit_all(partition, part, good, now_ms)

    def _misplaced(self, partition: int, key: bytes | None, request: Build | Cancel) -> str:
        """Why a request may not stand where it stands: a group on two partitions would have two owners."""
        partitions = self.settings.request_partitions
        if partitions and serialised_group(request) and partition_of(key or b"", partitions) != partition:
            of = partition_of(key or b"", partitions)
            return f"key {key!r:.80} of a group belongs on partition {of}: use the partitioner murmur2, and a new id"
        return key_misfit(key, request)

    def _bad_request(self, part: Part, partition: int, record: Raw, reason: str) -> None:
        """Put a bad request aside, and answer it where it can be told whose it is."""
        self._quarantine("requests", partition, record, reason)
        request_id = _id_in(record[3])
        if request_id and self._unknown(request_id):
            self._decide(
                partition,
                request_id,
                [record[0]],
                rejected(request_id, Position(partition, record[0]), self.name, "invalid", reason),
                0,
            )
        else:
            part.undecided.done(record[0])

    def _admit_all(
        self, partition: int, part: Part, records: list[tuple[int, int, Build | Cancel]], now_ms: int
    ) -> None:
        again = [
            r.id
            for offset, _, r in records
            if (self._stranger(r.id, partition) if isinstance(r, Cancel) else offset < part.end and self._unknown(r.id))
        ]
        found = self.view.allocations_of(again) if again else {}
        for offset, log_time_ms, request in records:
            # the same id under another flavor or group is another request, on another partition perhaps: hands off what it holds
            held = [(row, a) for row, a in found.get(request.id, ()) if _is_of(a, request)]
            if isinstance(request, Cancel):
                self._cancel(partition, offset, request, held, now_ms)
            else:
                self._admit(partition, offset, log_time_ms, request, held if offset < part.end else [], now_ms)

    def _unknown(self, request: str) -> bool:
        return request not in self.works and next(self.history.every(request), None) is None

    def _stranger(self, request: str, partition: int) -> bool:
        """Whether nothing is known of a request of this partition; one of the same id on another is not it."""
        work = self.works.get(request)
        return (work is None or work.partition != partition) and self.history.get(request, partition) is None

    def _admit(
        self,
        partition: int,
        offset: int,
        log_time_ms: int,
        build: Build,
        held: list[tuple[Row, Allocation]],
        now_ms: int,
    ) -> None:
        content = content_digest(build)
        known = self.history.get(build.id, partition) or next(self.history.every(build.id), None)
        work = self.works.get(build.id)
        if known is not None:
            return self._say_again(partition, offset, build, content, known)
        if work is not None:
            if work.content != content or work.partition != partition:
                return self._reuse(partition, offset, build, content)
            work.offsets.append(offset)
            if work.state == ANSWERED:
                self._deliver(partition, build.id, work.answer, [offset], "again", build.flavor, 0)
            return None
        if self._rejected.get((partition, build.id), "") not in ("", content):
            return self._reuse(partition, offset, build, content)
        reason = self._refusal(build, log_time_ms)
        waiting = len(self.placer.queue) + len(self.placer.parked) + self.turns.waiting
        if not reason and waiting >= self.settings.queue_max:
            reason = f"overloaded: {self.settings.queue_max} requests wait already; submit it later, under a new id"
            answer = rejected(build.id, Position(partition, offset), self.name, "overloaded", reason, build, content)
            return self._decide(partition, build.id, [offset], answer, 0)
        if reason:
            answer = rejected(build.id, Position(partition, offset), self.name, "invalid", reason, build, content)
            return self._decide(partition, build.id, [offset], answer, 0)
        self._open(partition, offset, log_time_ms, build, content, held, now_ms)
        return None

    def _refusal(self, build: Build, log_time_ms: int) -> str:
        terms = self.catalog.terms(build)
        elsewhere = self.catalog.elsewhere(build, log_time_ms) if terms.elsewhere else ""
        wrong = elsewhere or terms.refusal or unshowable(build) or count_misuse(build)
        return wrong or (policy_changed(self.view, build) if build.group else "")

    def _open(
        self,
        partition: int,
        offset: int,
        log_time_ms: int,
        build: Build,
        content: str,
        held: list[tuple[Row, Allocation]],
        now_ms: int,
    ) -> None:
        settings = self.settings
        ask = self.catalog.terms(build).ask
        age_ms = max(0, self.view.newest_log_time_ms - log_time_ms)
        deadline_ms = now_ms + (build.deadline_ms or settings.deadline_ms) - age_ms
        work = Work(
            build,
            content,
            partition,
            offset,
            now_ms - age_ms,
            deadline_ms,
            build.lease_ms or settings.lease_ms,
            ask,
            tail_of(ask, build.group),
            self.parts[partition].undecided.trace(offset),
        )
        self.works[build.id] = work
        if serialised(build):
            self.turns.join(work)
        self._note_deadline(work)
        if deadline_ms <= now_ms and all(a.state != "active" for _, a in held):  # out of date: no claim is worth it
            work.strays = [(row, allocation.id) for row, allocation in held]
            return self._expired(work, now_ms)
        if build.rebuild_check:
            return self._rebuild_check(work, now_ms)
        if held:
            self._take_up(work, held, now_ms)
        if work.called:
            self._queue(work)
        if work.complete:
            self._answer(work, now_ms)
        return None

    def _rebuild_check(self, work: Work, now_ms: int) -> None:
        """Say whether the host would do, and claim nothing."""
        assert work.ask.rules is not None, "a request that names a host has rules"
        why = objection(self.view, Wishes(work.build, work.ask, work.ask.rules))
        result: Result = "no_valid_host" if why else "passed"
        self._close(work, result, "rebuild_check", why or f"host {work.build.host} would do", None, now_ms)

    def _queue(self, work: Work) -> None:
        """Have every instance ranked that holds nothing and has nothing claimed."""
        self.placer.prioritised = self.placer.prioritised or work.build.priority > 0
        for index, slot in enumerate(work.slots):
            if slot.held is None and slot.pending is None:
                self.placer.queue.append((work, index))

    def _standing(self, work: Work) -> Standing | None:
        """Where the group of a serialised request stands."""
        if not serialised(work.build):
            return None
        return standing(self.view, work, lambda allocation: self._is_member(allocation, work.partition))

    def _is_member(self, allocation: Allocation, partition: int) -> bool:
        """Whether an effective decision on the group's partition names a leased allocation, or did too long ago to be remembered."""
        known = self.history.get(allocation.request, partition)
        # where its id is known of another request, it was told so, and what was claimed for it is left over
        if known is None:
            return self._unknown(allocation.request)
        decision = decode("decisions", known.value)
        return isinstance(decision, Bad) or any(placed.allocation == allocation.id for placed in decision.placed)

    def _note_deadline(self, work: Work) -> None:
        """Remember when a request expires; the heap is swept when most of it is of requests decided long before their deadline."""
        if len(self._deadlines) >= max(DEADLINES_SWEPT_MIN, 2 * len(self.works)):
            self._deadlines = [entry for entry in self._deadlines if entry[2].state == OPEN]
            heapq.heapify(self._deadlines)
        self._opened += 1
        heapq.heappush(self._deadlines, (work.deadline_ms, self._opened, work))

    def _take_up(self, work: Work, held: list[tuple[Row, Allocation]], now_ms: int) -> None:
        """Allocations that an owner before us won for this request: active ones answer it, leased ones are renewed (rule 7)."""
        held.sort(key=lambda found: found[1].state != "active")
        # claims that the owner before us had given up may have been granted: one by one good, together perhaps on two hosts
        mixed = serialised(work.build) and work.build.count > 1
        for row, allocation in held:
            slot = work.slots[allocation.index] if allocation.index < len(work.slots) else None
            leftover = mixed and allocation.state == "leased"
            if slot is None or slot.held is not None or slot.pending is not None or leftover:
                work.strays.append((row, allocation.id))
            elif allocation.state == "active" and not row.host.stale:
                slot.held = Held(row, allocation.id, allocation.instance, row.offset, now_ms, work.lease_ms, True)
            else:  # a stale host answers the renewal with its next good report, also for what is active
                self.placer.renew(work, allocation.index, row, allocation, now_ms)

    def _say_again(self, partition: int, offset: int, build: Build, content: str, known: Known) -> None:
        decision = decode("decisions", known.value)
        if known.partition == partition and (isinstance(decision, Bad) or decision.content in ("", content)):
            self._deliver(partition, build.id, known.value, [offset], "again", build.flavor, 0)
        else:
            self._reuse(partition, offset, build, content)

    def _reuse(self, partition: int, offset: int, build: Build, content: str) -> None:
        message = f"request id {build.id} was used for another request: choose a new id; the first one stands"
        answer = rejected(build.id, Position(partition, offset), self.name, ID_REUSED, message, build, content)
        self._decide(partition, build.id, [offset], answer, 0)

    # -- cancel -------------------------------------------------------------------------------------------------------------------------

    def _cancel(
        self, partition: int, offset: int, cancel: Cancel, held: list[tuple[Row, Allocation]], now_ms: int
    ) -> None:
        known = self.history.get(cancel.id, partition)
        work = self.works.get(cancel.id)
        if known is not None:
            decision = decode("decisions", known.value)
            placed = [] if isinstance(decision, Bad) else decision.placed
            self.deliveries.give_back([(p.host, p.allocation) for p in placed], cancel.id, partition, offset)
        elif work is not None and work.partition == partition:
            work.cancels.append(offset)
            if work.state == OPEN:
                self._close(work, "rejected", "cancelled", "cancelled by its submitter", None, now_ms)
        else:  # decided so long ago that the answer is forgotten, or never asked for: what the fleet holds of it goes
            self.deliveries.give_back([(row.host.name, a.id) for row, a in held], cancel.id, partition, offset)

    # -- decide -------------------------------------------------------------------------------------------------------------------------

    def _answer(self, work: Work, now_ms: int | None = None) -> None:
        """Every instance holds a granted allocation: say so, while the leases surely hold (rule 6)."""
        now = self._now if now_ms is None else now_ms
        lease_ms = work.lease_ms
        for index, slot in enumerate(work.slots):
            held = slot.held
            if held is None:
                assert slot.given_up, f"instance {index} of {work.build.id} is neither held nor given up"
                continue
            allocation = held.row.host.allocations.get(held.allocation)
            if allocation is None:  # gone while the others were claimed
                slot.held = None
                return self.placer.again(work, index)
            if not held.active:
                lease_ms = min(lease_ms, held.lease_ms)
                if now - held.sent_ms > (held.lease_ms - self._margin(held.lease_ms)) // 2:
                    slot.held = None
                    return self.placer.renew(work, index, held.row, allocation, now)
        work.placed = True
        confirm_within_ms = lease_ms - self._margin(lease_ms)
        alternates = self.placer.alternates(work) if work.build.alternates else ()
        return self._sent(work, placed(work, self.name, confirm_within_ms, now, alternates), now)

    def _margin(self, lease_ms: int) -> int:
        """What is kept of a lease for clocks and ways, in ms: never more than a quarter."""
        return min(self.settings.lease_margin_ms, lease_ms // 4)

    def _unplaced(self, work: Work, index: int, why: str) -> None:
        """No host passes for an instance, or none was won: go without it, or answer with the counts per filter and the closest miss."""
        if work.state != OPEN:
            return
        if work.build.count_min:
            work.slots[index].given_up = True
            if sum(not slot.given_up for slot in work.slots) >= work.build.count_min:
                if work.complete:
                    self._answer(work)
                return
        with as_if_gone(self.view, work.build, work.instance(index)):
            explanation, never = self._explanation(work)
        for name, count in explanation.filters.items():
            self.eliminated[name] = self.eliminated.get(name, 0) + count
        counts = ", ".join(f"{count} {name}" for name, count in explanation.filters.items())
        message = why or never or f"0 of {explanation.evaluated} hosts{': ' + counts if counts else ''}"
        reason = "attempts" if why else IMPOSSIBLE if never else "filters"
        self._close(work, "no_valid_host", reason, message, explanation, self._now)

    def _explanation(self, work: Work) -> tuple[Explanation, str]:
        """Why no host passes, and why none ever could; kept until the view changes, because a full fleet refuses many requests alike."""
        view, build = self.view, work.build
        view.write()
        rules = work.ask.rules
        wishes = Wishes(build, work.ask, rules, self._standing(work)) if rules is not None else None
        like = group_key(build) if wishes is None and not build.source else likeness(build)
        at = (work.ask, like, build.group_max, view.changed_from + len(view.changed))
        if self._explained is None or self._explained[0] != at:
            barred = group_full(view, build)
            never = impossible(view, work.ask, build)
            positions = {str(partition): offset for partition, offset in sorted(self.folded.items())}
            told = replace(explain(view, work.ask, barred, wishes), positions=positions)
            self._explained = (at, told, never)
        return self._explained[1:]

    def _close(
        self, work: Work, result: Result, reason: str, message: str, explanation: Explanation | None, now_ms: int
    ) -> None:
        self._sent(work, unplaced(work, self.name, result, reason, message, explanation), now_ms)

    def _sent(self, work: Work, decision: Decision, now_ms: int) -> None:
        work.state = ANSWERED
        work.answer = encode(decision)
        waited_ms = max(0, now_ms - work.received_ms)
        self._deliver(
            work.partition, work.build.id, work.answer, work.offsets, decision.result, work.build.flavor, waited_ms
        )

    def _decide(self, partition: int, request_id: str, offsets: list[int], decision: Decision, waited_ms: int) -> None:
        """Send a decision that claims nothing."""
        if decision.reason != ID_REUSED:
            self._rejected.setdefault((partition, request_id), decision.content)
        self._deliver(partition, request_id, encode(decision), offsets, decision.result, decision.flavor, waited_ms)

    def _deliver(
        self,
        partition: int,
        request_id: str,
        value: bytes,
        offsets: list[int],
        result: str,
        flavor: str,
        waited_ms: int,
    ) -> None:
        if result != "again":
            flavor = (
                flavor if flavor in self.catalog.flavors else ""
            )  # what people misspell must not become a figure each
            self.decisions[result, flavor] = self.decisions.get((result, flavor), 0) + 1
        self.deliveries.decide(partition, request_id, value, offsets, result, flavor, waited_ms)

    def _claim_delivered(self, event: ClaimDelivered, now_ms: int) -> None:
        self.placer.delivered(event.allocation, event.offset, now_ms)

    # -- read back ----------------------------------------------------------------------------------------------------------------------

    def _decisions(self, event: DecisionsRead, now_ms: int) -> None:
        if event.partition not in self.parts:
            return
        history = self.history
        for record in event.records:
            _, log_time_ms, key, value = record
            request = (key or b"").decode(errors="replace")
            work = self.works.get(request)
            if work is not None and work.answer == value and value:
                history.first(request, event.partition, log_time_ms, value)
                self._effective(work, None)
                continue
            reason = self._other_decision(event.partition, request, log_time_ms, value)
            if reason:
                self._quarantine("decisions", event.partition, record, reason)

    def _other_decision(self, partition: int, request: str, log_time_ms: int, value: bytes | None) -> str:
        """A decision that is not what we just sent: of an owner before us, said again, void, or garbage. Returns why to put it aside."""
        known = self.history.get(request, partition)
        if known is not None and known.value == value:
            return ""
        decision = decode("decisions", value) if value is not None else Bad("no value")
        if isinstance(decision, Bad):
            return "" if decision.newer else decision.reason
        if decision.request != request:
            return f"key is of request {request!r:.80}, record of {decision.request!r}"
        if decision.reason == ID_REUSED:
            return ""  # answers another content; never the effective one
        self._rejected.pop((partition, request), None)
        if decision.group and decision.placed:
            self.turns.note(partition, decision, self.folded)
        if not self.history.first(request, partition, log_time_ms, value or b""):
            self.placer.counts.void += 1
            return ""
        work = self.works.get(request)
        if work is not None and work.partition == partition:
            self._effective(work, decision)
        return ""

    def _effective(self, work: Work, other: Decision | None) -> None:
        """The effective decision of a request of ours was read back; `other` when it is not the one we sent."""
        del self.works[work.build.id]
        if serialised(work.build):
            self.turns.leave(work)
        if other is None and work.placed and not work.strays and not work.cancels:
            return  # the common case: ours, and nothing of it to give back
        if other is not None:
            self.placer.counts.void += work.state == ANSWERED
            work.state = ANSWERED
            self.deliveries.done(work.partition, work.offsets)
        placed = decode("decisions", work.answer).placed if other is None else other.placed
        named = {p.allocation for p in placed}
        losers = [(slot.held.row.host.name, slot.held.allocation) for slot in work.slots if slot.held]
        renewed = [
            slot.pending for slot in work.slots if slot.pending and slot.pending.allocation_id in self.placer.renewals
        ]
        losers += [(pending.row.host.name, pending.allocation_id) for pending in renewed]
        losers += [(row.host.name, allocation) for row, allocation in work.strays]
        losers = [loser for loser in losers if loser[1] not in named]
        self.placer.counts.strays += len(losers)
        self.deliveries.release_losers(losers, work.build.id, work.partition)
        for cancel in work.cancels:
            self.deliveries.give_back([(p.host, p.allocation) for p in placed], work.build.id, work.partition, cancel)

    def _stray(self, row: Row, allocation: Allocation) -> None:
        """A leased allocation that no slot of ours waits for: released once the effective decision is known not to name it."""
        request = allocation.request
        work = self.works.get(request)
        if work is not None:
            held = any(slot.held is not None and slot.held.allocation == allocation.id for slot in work.slots)
            if not held and allocation.id not in self.placer.pending and _is_of(allocation, work.build):
                work.strays.append((row, allocation.id))
            return
        for known in self.history.every(request):
            decision = decode("decisions", known.value)
            if (
                known.partition not in self.parts
                or not self.parts[known.partition].history
                or isinstance(decision, Bad)
            ):
                continue
            if (decision.flavor, decision.group) != (allocation.flavor, allocation.group):
                continue  # of another request, which came with the same id on another partition
            if all(p.allocation != allocation.id for p in decision.placed):
                self.placer.counts.strays += 1
                self.deliveries.release_losers([(row.host.name, allocation.id)], request, known.partition)
            return

    # -- time ---------------------------------------------------------------------------------------------------------------------------

    def _turn(self, event: Turn, now_ms: int) -> None:
        if self.ready:
            for work in self.turns.due(self.folded):
                self._queue(work)
            self.placer.turn(now_ms)
        for partition, part in self.parts.items():
            committed = part.undecided.committed
            if committed > part.committed:
                part.committed = committed
                self._effects.append(Commit(partition, committed))

    def _tick(self, event: Tick, now_ms: int) -> None:
        self.deliveries.send_again(now_ms)
        if now_ms - self._checked_ms >= DEADLINE_CHECK_MS:
            self._checked_ms = now_ms
            self.placer.timeouts(now_ms)
            self._expire(now_ms)
        if self.ready and now_ms - self._liveness_ms >= LIVENESS_CHECK_MS:
            self._liveness_ms = now_ms
            self.view.liveness(self.settings.liveness_timeout_ms, now_ms)
            self.history.forget_old()
            live = self.peers.live(now_ms, self.view.newest_log_time_ms, self.settings.peer_timeout_ms)
            self.peers.reshard(self.view, live)

    def _expire(self, now_ms: int) -> None:
        deadlines = self._deadlines
        while deadlines and deadlines[0][0] <= now_ms:
            work = heapq.heappop(deadlines)[2]
            if work.state == OPEN:
                self._expired(work, now_ms)

    def _expired(self, work: Work, now_ms: int) -> None:
        waited = max(0, now_ms - work.received_ms)
        limit = work.deadline_ms - work.received_ms
        self._close(
            work,
            "expired",
            "deadline",
            f"not placed within its deadline of {limit} ms, after {waited} ms",
            None,
            now_ms,
        )

    # -- reading ------------------------------------------------------------------------------------------------------------------------

    def report(self, state: str, positions: dict[str, int]) -> ReplicaReport:
        """This replica's registration and cycle report."""
        return ReplicaReport(
            replica=self.name,
            state=state,  # type: ignore[arg-type]  # the shell passes one of the three
            partitions=sorted(self.parts),
            hosts=len(self.view.rows),
            decisions=sum(self.decisions.values()),
            conflict_fraction=round(self.placer.counts.conflict_fraction, 6),
            digest=f"{self.view.digest():016x}",
            positions=positions,
        )

    @property
    def unacknowledged(self) -> int:
        """Decisions and releases written, or to be written again, that nobody has acknowledged."""
        return len(self.deliveries)

    @property
    def waiting(self) -> int:
        """Requests read and not yet decided."""
        return sum(len(part.undecided) for part in list(self.parts.values()))  # also read by the thread that is scraped


_id_decoder = msgspec.json.Decoder(dict[str, Any])


def _id_in(value: bytes | None) -> str:
    """The id of a request that could not be decoded as one, if it has a good one."""
    try:
        found = _id_decoder.decode(value or b"").get("id")
        return str(msgspec.convert(found, Id))
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return ""


def _is_of(allocation: Allocation, request: Build | Cancel) -> bool:
    """Whether an allocation that bears a request's id may be its own: flavor and group make its key. A cancel need not name a group."""
    if allocation.flavor != request.flavor:
        return False
    return allocation.group == request.group or (isinstance(request, Cancel) and not request.group)
