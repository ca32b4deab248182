"""A frontend as a process: replays a trace at a steady rate, keeps a history, and takes it up again after its own death.

SIGTERM ends it in order: nothing more is submitted, what is open is awaited. SIGUSR1 makes it submit a burst.
"""

import argparse
import heapq
import json
import random
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count, cycle, islice
from pathlib import Path
from queue import Empty, SimpleQueue
from statistics import median
from typing import Any, Final

import msgspec
from confluent_kafka import KafkaError, Message

from chaos_real.history import History, Writer, now_ms, read
from commonplace.core.codec import encode
from commonplace.core.records.decisions import Decision
from commonplace.core.records.requests import Build
from commonplace.errors import CommonplaceError, StateChanged, TimedOut
from commonplace.frontend import Frontend
from commonplace.frontend.pending import Pending
from commonplace.logs import configure
from commonplace.ops.replay import formats
from commonplace.settings import Settings, load

LIFETIME_S: Final = 25.0
"""What the median lifetime of the trace is stretched to."""

HELD_MAX: Final = 250
"""Instances that a client keeps; past it the oldest is given back."""

END_WAIT_S: Final = 60.0
TRACE_ROWS_MAX: Final = 20_000
DEADLINE_MS: Final = 20_000
STUBBORN_S: Final = 2.0
"""Wait before an id without an answer is asked for again."""

LAST: Final = 40
"""Requests at the end: enough for every partition, but for one run in a thousand."""

CANCELLED, FORGOTTEN, LATE, SEVERAL, WAITED = 0.03, 0.04, 0.03, 0.05, 0.03
"""Shares of the requests that are cancelled, never confirmed, confirmed when their lease is over, for several instances,
and whose host's answer to the confirm is waited for."""


class Recording(Frontend):
    """A frontend whose acknowledgements go into the history too."""

    def __init__(self, settings: Settings, history: Writer) -> None:
        self.history = history
        super().__init__(settings)

    def _request_delivered(self, token: int, error: KafkaError | None, message: Message) -> None:
        if error is None:
            record = json.loads(message.value() or b"{}")
            self.history.write("acked", id=record["id"], p=message.partition(), o=message.offset())
        super()._request_delivered(token, error, message)

    def _unawaited_delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            record = json.loads(message.value() or b"{}")
            if record["type"] in ("confirm", "release"):
                place = {"p": message.partition(), "o": message.offset()}
                self.history.write("taken", type=record["type"], allocation=record["allocation"], **place)
        super()._unawaited_delivered(error, message)


class Client:
    """One client's work; everything but callbacks happens on the thread of `run`."""

    def __init__(
        self,
        frontend: Recording,
        builds: Iterator[tuple[Build, float]],
        per_s: float,
        burst_size: int,
        rng: random.Random,
    ) -> None:
        self.frontend, self.history, self.rng = frontend, frontend.history, rng
        self.builds, self.per_s = builds, per_s
        self.burst_size = min(burst_size, frontend.settings.frontend.in_flight_max // 2)
        self._lifetimes: dict[str, float] = {}
        self.held: dict[str, tuple[Decision, list[str]]] = {}  # by request, oldest first
        self.open = 0
        self.stopping = False
        self.bursts = 0
        self._answers: SimpleQueue[Pending] = SimpleQueue()
        self._due: list[tuple[int, int, Callable[[], None]]] = []
        self._order = count()
        self._waiting = ThreadPoolExecutor(2, thread_name_prefix="outcome")
        self._lease_ms = frontend.settings.scheduler.lease_ms

    def run(self) -> None:
        """Work until told to stop, then until what is open is answered."""
        self._at(0, self._arrive)
        while not self.stopping:
            self._step()
            for _ in range(self.bursts):
                self.bursts -= 1
                self._submit([self._build() for _ in range(self.burst_size)], fresh=True)
        # a decision that is broken is met by the owner of its partition, once that has requests
        self._submit([self._build() for _ in range(LAST)], fresh=True)
        end_ms = now_ms() + END_WAIT_S * 1000
        while self.open and now_ms() < end_ms:
            self._step()
        self._waiting.shutdown(cancel_futures=True)
        self.frontend.flush(END_WAIT_S)

    def take_up(
        self, open_builds: list[dict[str, Any]], held: dict[str, list[str]], decisions: dict[str, Decision]
    ) -> None:
        """Go on where the process before this one ended: ask again by the same ids, keep what it held."""
        for request, allocations in held.items():
            self.held[request] = (decisions[request], allocations)
        builds = [msgspec.convert(build, Build) for build in open_builds]
        if builds:
            self._submit(builds, fresh=False)

    # -- what happens when ------------------------------------------------------------------------------------------------

    def _at(self, in_s: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._due, (now_ms() + round(in_s * 1000), next(self._order), call))

    def _step(self) -> None:
        """Do what is due, or take answers until something is."""
        wait_s = 0.1
        if self._due:
            left_ms = self._due[0][0] - now_ms()
            if left_ms <= 0:
                heapq.heappop(self._due)[2]()
                wait_s = 0.0
            else:
                wait_s = min(wait_s, left_ms / 1000)
        try:
            while True:
                self._answered(self._answers.get(timeout=wait_s) if wait_s else self._answers.get_nowait())
                wait_s = 0.0
        except Empty:
            return

    def _arrive(self) -> None:
        if not self.stopping:
            self._at(self.rng.expovariate(self.per_s), self._arrive)
            self._submit([self._build()], fresh=True)

    def _build(self) -> Build:
        build, lifetime_s = next(self.builds)
        more: dict[str, Any] = {"id": self.frontend.new_id()}
        if self.rng.random() < SEVERAL:
            more["count"] = self.rng.randint(2, 4)
        self._lifetimes[more["id"]] = lifetime_s
        return msgspec.structs.replace(build, **more)

    def _submit(self, builds: list[Build], *, fresh: bool) -> None:
        for build in builds:
            self.history.write("submit", build=json.loads(encode(build)))
        self.open += len(builds)
        for pending in self.frontend.submit_many(builds, fresh=fresh):
            pending.add_done_callback(self._answers.put)
        for build in builds:
            if fresh and self.rng.random() < CANCELLED:
                self._at(self.rng.random() * 0.3, lambda id=build.id, flavor=build.flavor: self._cancel(id, flavor))  # type: ignore[misc]

    def _cancel(self, request: str, flavor: str) -> None:
        self.history.write("cancel", id=request)
        self.frontend.cancel(request, flavor)

    # -- answers ------------------------------------------------------------------------------------------------------------

    def _answered(self, pending: Pending) -> None:
        self.open -= 1
        request, answer = pending.request, pending.answer()
        if isinstance(answer, Decision):
            self.history.write("answer", id=request.id, decision=json.loads(encode(answer)))
            if answer.result == "placed":
                self._placed(answer)
            return
        self.history.write("answer", id=request.id, error=type(answer).__name__, text=str(answer))
        if isinstance(answer, CommonplaceError) and not self.stopping and self.rng.random() < 0.7:
            self._at(STUBBORN_S, lambda: self._submit([request], fresh=False))

    def _placed(self, decision: Decision) -> None:
        roll = self.rng.random()
        if roll < FORGOTTEN:
            return
        if roll < FORGOTTEN + LATE:
            self._at(self._lease_ms / 1000 * self.rng.uniform(0.8, 1.5), lambda: self._confirm(decision, wait=False))
            return
        self._confirm(decision, wait=roll > 1 - WAITED)

    def _confirm(self, decision: Decision, *, wait: bool) -> None:
        allocations = [placed.allocation for placed in decision.placed]
        self.history.write("confirm", id=decision.request, allocations=allocations)
        if wait:
            self._waiting.submit(self._await_outcome, decision)
        else:
            try:
                self.frontend.confirm(decision)
            except StateChanged:
                self.history.write("refused", id=decision.request, allocations=allocations)
                return
        self.held[decision.request] = (decision, allocations)
        lifetime_s = self._lifetimes.pop(decision.request, LIFETIME_S)
        self._at(lifetime_s, lambda: self._release(decision.request))
        while len(self.held) > HELD_MAX:
            self._release(next(iter(self.held)))

    def _await_outcome(self, decision: Decision) -> None:
        """On a thread of its own: what the host says to a confirm."""
        try:
            for outcome in self.frontend.confirm(decision, wait=True):
                name = type(outcome).__name__
                self.history.write("outcome", id=decision.request, allocation=outcome.allocation, outcome=name)
        except (StateChanged, TimedOut) as e:
            allocations = [placed.allocation for placed in decision.placed]
            if isinstance(e, StateChanged):
                self.history.write("refused", id=decision.request, allocations=allocations)
        except CommonplaceError as e:
            print(f"confirm of {decision.request}: {e}", file=sys.stderr)

    def _release(self, request: str) -> None:
        if request in self.held:
            decision, allocations = self.held.pop(request)
            self.history.write("release", id=request, allocations=allocations)
            self.frontend.release(decision, *allocations)


def trace(path: Path, form: str, nth: int, of: int) -> Iterator[tuple[Build, float]]:
    """The client's share of a trace, again and again: requests without an id, and how long each instance lives, in seconds."""
    rows = list(islice(formats.read(path, form, TRACE_ROWS_MAX), nth, None, of))
    known = [row.lifetime_s for row in rows if row.lifetime_s]
    stretch = LIFETIME_S / median(known) if known else 1.0
    for row in cycle(rows):
        build = Build(
            id="none",
            flavor=row.flavor,
            project=row.project,
            group=row.group if row.strategy else "",
            group_max=1 if row.strategy else 0,
            deadline_ms=DEADLINE_MS,
        )
        yield build, (row.lifetime_s * stretch if row.lifetime_s else 1e6)


def main(arguments: list[str]) -> int:
    """The process: settings from the environment, everything else from the command line."""
    parser = argparse.ArgumentParser(prog="chaos_real frontend")
    parser.add_argument("--history", type=Path, required=True)
    parser.add_argument("--trace", type=Path, required=True)
    parser.add_argument("--form", required=True)
    parser.add_argument("--nth", type=int, required=True)
    parser.add_argument("--of", type=int, required=True)
    parser.add_argument("--per-s", type=float, required=True)
    parser.add_argument("--burst", type=int, default=1_000)
    parser.add_argument("--seed", type=int, required=True)
    args = parser.parse_args(arguments)
    configure("warning")
    before = read(args.history)
    writer = Writer(args.history)
    writer.write("begin")
    try:
        return _work(args, before, Recording(load(), writer))
    except CommonplaceError as e:
        print(f"frontend: {e}", file=sys.stderr)
        return int(e.exit_code)


def _work(args: argparse.Namespace, before: History, frontend: Recording) -> int:
    builds = trace(args.trace, args.form, args.nth, args.of)
    client = Client(frontend, builds, args.per_s, args.burst, random.Random(f"{args.seed}/{before.begins}"))

    def stop(_number: int, _frame: object) -> None:
        client.stopping = True

    def burst(_number: int, _frame: object) -> None:
        client.bursts += 1

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGUSR1, burst)
    decisions = {request: msgspec.convert(decision, Decision) for request, decision in before.answers}
    try:
        client.take_up(before.open(), before.held(), decisions)
        client.run()
    finally:
        frontend.close()
    return 0
