"""Admit: requests of a partition whose earlier decisions are known become works, or are answered at once (rule 7)."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from commonplace.core import hashing
from commonplace.core.answers import rejected
from commonplace.core.book import Book, is_of
from commonplace.core.catalog import Catalog, Terms
from commonplace.core.codec import Bad, decode
from commonplace.core.deciding import Decider
from commonplace.core.deliveries import Deliveries
from commonplace.core.group_policy import changed as policy_changed
from commonplace.core.history import Known, Part
from commonplace.core.partition import partition_of
from commonplace.core.rebuild import objection
from commonplace.core.records.decisions import ID_REUSED, Position, Result
from commonplace.core.records.fields import Id
from commonplace.core.records.hosts import Allocation
from commonplace.core.records.requests import Build, Cancel
from commonplace.core.replica_events import Effect, HistoryRead, Raw, ReadHistory, ReplicaSettings, RequestsRead, aside
from commonplace.core.request_checks import count_misuse, unshowable
from commonplace.core.requests import content_digest, key_misfit, serialised, serialised_group
from commonplace.core.rows import Row
from commonplace.core.rules import Ask, Wishes
from commonplace.core.view import View
from commonplace.core.work import ANSWERED, OPEN, Held, Work


class Admission:
    """Takes in what stands on the request partitions: builds, redelivered or new, and cancels."""

    def __init__(
        self,
        name: str,
        view: View,
        catalog: Catalog,
        book: Book,
        decider: Decider,
        deliveries: Deliveries,
        settings: ReplicaSettings,
        emit: Callable[[Effect], None],
    ) -> None:
        self._name, self._view, self._catalog, self._book = name, view, catalog, book
        self._decider, self._placer, self._deliveries = decider, decider.placer, deliveries
        self._settings, self._emit = settings, emit

    def requests(self, event: RequestsRead, now_ms: int) -> None:
        """Admit records that were read, or keep them until the partition's earlier decisions are known."""
        part = self._book.parts.get(event.partition)
        if part is None:
            return  # read before the partition was lost
        part.undecided.add([record[0] for record in event.records], event.traces or {})
        if part.history:
            self._read_requests(event.partition, part, event.records, now_ms)
            return
        part.waiting.extend(event.records)
        if not part.asked and event.records:
            part.asked = True
            # the earlier of then and now: where the clock was put back since, decisions on it bear the earlier times
            appended_ms = min(event.records[0][1], self._view.newest_log_time_ms)
            from_ms = appended_ms - self._settings.idempotency_window_ms
            self._emit(ReadHistory(event.partition, from_ms))

    def history_read(self, event: HistoryRead, now_ms: int) -> None:
        """The partition's earlier decisions are known: admit what waited for them."""
        part = self._book.parts.get(event.partition)
        if part is None or part.history:
            return
        part.history = True
        waiting, part.waiting = part.waiting, []
        self._read_requests(event.partition, part, waiting, now_ms)

    def _read_requests(self, partition: int, part: Part, records: Sequence[Raw], now_ms: int) -> None:
        good: list[tuple[int, int, Build | Cancel]] = []
        for record in records:
            offset, log_time_ms, key, value = record
            if offset >= part.end:  # else read again perhaps
                self._view.request_time(partition, log_time_ms)
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
        if key == request.flavor.encode() and not serialised_group(request):
            return ""  # as most come
        partitions = self._settings.request_partitions
        if partitions and serialised_group(request) and partition_of(key or b"", partitions) != partition:
            of = partition_of(key or b"", partitions)
            return f"key {key!r:.80} of a group belongs on partition {of}: use the partitioner murmur2, and a new id"
        return key_misfit(key, request)

    def _bad_request(self, part: Part, partition: int, record: Raw, reason: str) -> None:
        """Put a bad request aside, and answer it where it can be told whose it is."""
        self._emit(aside("requests", partition, record, reason))
        request_id = _id_in(record[3])
        if request_id and self._book.unknown(request_id):
            answer = rejected(request_id, Position(partition, record[0]), self._name, "invalid", reason)
            self._decider.decide(partition, request_id, [record[0]], answer, 0)
        else:
            part.undecided.done(record[0])

    def _admit_all(
        self, partition: int, part: Part, records: list[tuple[int, int, Build | Cancel]], now_ms: int
    ) -> None:
        book = self._book
        again = [
            r.id
            for offset, _, r in records
            if (offset < part.end and book.unknown(r.id) if isinstance(r, Build) else book.stranger(r.id, partition))
        ]
        found = self._view.allocations_of(again) if again else {}
        for offset, log_time_ms, request in records:
            # the same id under another flavor or group is another request, on another partition perhaps: hands off what it holds
            held = [(row, a) for row, a in found[request.id] if is_of(a, request)] if request.id in found else []
            if isinstance(request, Build):
                self._admit(partition, offset, log_time_ms, request, held if offset < part.end else [], now_ms)
            else:
                self._cancel(partition, offset, request, held, now_ms)

    def _admit(
        self,
        partition: int,
        offset: int,
        log_time_ms: int,
        build: Build,
        held: list[tuple[Row, Allocation]],
        now_ms: int,
    ) -> None:
        book, content = self._book, content_digest(build)
        newest = book.history.newest(build.id)
        work = book.works.get(build.id)
        if newest is not None:
            known = book.history.get(build.id, partition) or newest
            return self._say_again(partition, offset, build, content, known)
        if work is not None:
            if work.content != content or work.partition != partition:
                return self._reuse(partition, offset, build, content)
            work.offsets.append(offset)
            if work.state == ANSWERED:
                self._decider.deliver(partition, build.id, work.answer, [offset], "again", build.flavor, 0)
            return None
        if book.rejected and book.rejected.get((partition, build.id), ("", 0))[0] not in ("", content):
            return self._reuse(partition, offset, build, content)
        terms = self._catalog.terms(build)
        reason = self._refusal(build, terms, log_time_ms)
        waiting = len(self._placer.queue) + len(self._placer.parked) + book.turns.waiting
        if not reason and waiting >= self._settings.queue_max:
            reason = f"overloaded: {self._settings.queue_max} requests wait already; submit it later, under a new id"
            answer = rejected(build.id, Position(partition, offset), self._name, "overloaded", reason, build, content)
            return self._decider.decide(partition, build.id, [offset], answer, 0)
        if reason:
            answer = rejected(build.id, Position(partition, offset), self._name, "invalid", reason, build, content)
            return self._decider.decide(partition, build.id, [offset], answer, 0)
        self._open(partition, offset, log_time_ms, build, content, terms.ask, held, now_ms)
        return None

    def _refusal(self, build: Build, terms: Terms, log_time_ms: int) -> str:
        elsewhere = self._catalog.elsewhere(build, log_time_ms) if terms.elsewhere else ""
        wrong = elsewhere or terms.refusal or unshowable(build) or count_misuse(build)
        return wrong or (policy_changed(self._view, build) if build.group else "")

    def _open(
        self,
        partition: int,
        offset: int,
        log_time_ms: int,
        build: Build,
        content: str,
        ask: Ask,
        held: list[tuple[Row, Allocation]],
        now_ms: int,
    ) -> None:
        settings = self._settings
        age_ms = max(0, self._view.newest_log_time_ms - log_time_ms)
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
            hashing.tail_of(ask.resources, build.group, ()),
            self._book.parts[partition].undecided.trace(offset),
        )
        self._book.works[build.id] = work
        if serialised(build):
            self._book.turns.join(work)
        self._decider.look_at(work, deadline_ms)
        if deadline_ms <= now_ms and all(a.state != "active" for _, a in held):  # out of date: no claim is worth it
            work.strays = [(row, allocation.id) for row, allocation in held]
            return self._decider.expired(work, now_ms)
        if build.rebuild_check:
            return self._rebuild_check(work, now_ms)
        if held:
            self._take_up(work, held, now_ms)
        if work.called:
            self._placer.enqueue(work)
        if held and work.complete:
            self._decider.answer(work, now_ms)
        return None

    def _rebuild_check(self, work: Work, now_ms: int) -> None:
        """Say whether the host would do, and claim nothing."""
        assert work.ask.rules is not None, "a request that names a host has rules"
        why = objection(self._view, Wishes(work.build, work.ask, work.ask.rules))
        result: Result = "no_valid_host" if why else "passed"
        self._decider.close(work, result, "rebuild_check", why or f"host {work.build.host} would do", None, now_ms)

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
                self._placer.claims.renew(work, allocation.index, row, allocation, now_ms)

    def _say_again(self, partition: int, offset: int, build: Build, content: str, known: Known) -> None:
        decision = decode("decisions", known.value)
        if known.partition == partition and (isinstance(decision, Bad) or decision.content in ("", content)):
            self._decider.deliver(partition, build.id, known.value, [offset], "again", build.flavor, 0)
        else:
            self._reuse(partition, offset, build, content)

    def _reuse(self, partition: int, offset: int, build: Build, content: str) -> None:
        message = f"request id {build.id} was used for another request: choose a new id; the first one stands"
        answer = rejected(build.id, Position(partition, offset), self._name, ID_REUSED, message, build, content)
        self._decider.decide(partition, build.id, [offset], answer, 0)

    def _cancel(
        self, partition: int, offset: int, cancel: Cancel, held: list[tuple[Row, Allocation]], now_ms: int
    ) -> None:
        known = self._book.history.get(cancel.id, partition)
        work = self._book.works.get(cancel.id)
        if known is not None:
            decision = decode("decisions", known.value)
            placed = [] if isinstance(decision, Bad) else decision.placed
            self._deliveries.give_back([(p.host, p.allocation) for p in placed], cancel.id, partition, offset)
        elif work is not None and work.partition == partition:
            work.cancels.append(offset)
            if work.state == OPEN:
                self._decider.close(work, "rejected", "cancelled", "cancelled by its submitter", None, now_ms)
        else:  # decided so long ago that the answer is forgotten, or never asked for: what the fleet holds of it goes
            self._deliveries.give_back([(row.host.name, a.id) for row, a in held], cancel.id, partition, offset)


_id_decoder = msgspec.json.Decoder(dict[str, Any])


def _id_in(value: bytes | None) -> str:
    """The id of a request that could not be decoded as one, if it has a good one."""
    try:
        found = _id_decoder.decode(value or b"").get("id")
        return str(msgspec.convert(found, Id))
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return ""
