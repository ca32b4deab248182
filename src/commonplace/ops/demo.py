"""The demo: a whole system as separate processes on this machine, a fleet that fills up, one refusal explained, and an audit.

stack: broker ▸ topics ▸ fleet ▸ replicas   ▸   load (a process)   ▸   watch hosts and load   ▸   audit   ▸   stop all
"""

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from commonplace.core.records.control import Flavor
from commonplace.core.records.decisions import Decision
from commonplace.core.rows import Row
from commonplace.kafka.control import STARTER_FLAVORS
from commonplace.ops import audit
from commonplace.ops.demo_load import GIANT
from commonplace.ops.fleet_view import FleetView
from commonplace.ops.replay.fleet import packing
from commonplace.ops.replay.run import fullness
from commonplace.ops.stack import Stack
from commonplace.ops.stack_process import Process, StackError, tail
from commonplace.settings import Settings
from commonplace.words import counted

FRAME_S: Final = 0.25
BOOT_S: Final = 0.5
SEED: Final = 42
SHARED_TIMEOUT_S: Final = 20.0
"""A rebalance takes up to two heartbeats of the group, 2 s each; a loaded machine, more."""

LOAD: Final = "load"
STRANDED_FOR: Final = "m1.medium"


class Plan(Struct, frozen=True, kw_only=True):
    """What the demo runs. `rate` is requests a second, `seconds` how long they come."""

    hosts: int = 200
    replicas: int = 2
    rate: float = 200.0
    seconds: float = 15.0
    kafka: bool = False
    shape: str = "mixed"
    settings: Settings
    work_dir: Path | None = None

    @property
    def broker(self) -> str:
        """What runs as the broker, in words that leave no doubt."""
        return "Apache Kafka" if self.kafka else "embedded broker, not Kafka"


class Frame(Struct, frozen=True, kw_only=True):
    """One look at the demo. `shares` is the used share of each host's fullest class, in the order of their names."""

    elapsed_s: float
    shares: list[float]
    builds: int
    instances: int
    used: dict[str, float]
    decisions_per_s: float
    progress: dict[str, Any]
    refusal: Decision | None


class Screen:
    """What the demo tells while it goes on; this one tells nothing."""

    def stage(self, text: str) -> None:
        """What happens now."""

    def frame(self, frame: Frame) -> None:
        """How things stand, several times a second."""


def run(plan: Plan, screen: Screen) -> tuple[dict[str, Any], Decision | None]:
    """Run the demo and return its report (fields as of `replay`) and the refusal it explains; blocks.

    Raises StackError when a process ends. However it ends, nothing is left running.
    """
    started = f"{plan.broker}, {counted(plan.hosts, 'host')}, {counted(plan.replicas, 'replica')}"
    screen.stage(f"starting: {started}, each a process of its own")
    stack = Stack(
        hosts=plan.hosts,
        replicas=plan.replicas,
        kafka=plan.kafka,
        shape=plan.shape,
        boot_s=BOOT_S,
        flavors=_flavors(plan.settings),
        settings=plan.settings,
        work_dir=plan.work_dir,
    )
    with stack, FleetView(stack.settings) as view:
        _await_shared(plan, stack, view.read(), screen)
        screen.stage(f"load: {plan.rate:g} requests/s for {plan.seconds:g} s")
        told, refusal = _watch(plan, stack, view, screen)
        screen.stage("auditing the raw topics")
        audited = audit.run(stack.settings)
        full = told.pop("full")
        report = {
            **_head(plan),
            **told,
            **_fleet(view.read().hosts(), full),
            "audit": audited.to_dict(),
            "clean": audited.clean,
        }
    return report, refusal


def _flavors(settings: Settings) -> list[Flavor]:
    """The starter flavors and the giant, spread so that every replica decides for each."""
    topics = settings.topics
    replace = msgspec.structs.replace
    return [replace(f, pool=topics.pool, spread=topics.requests_partitions) for f in (*STARTER_FLAVORS, GIANT)]


def _await_shared(plan: Plan, stack: Stack, view: FleetView, screen: Screen) -> None:
    """Wait until every replica that can have a share of the requests has one; a late rebalance would look like a stall."""
    screen.stage("waiting until the replicas share the requests")
    partitions = plan.settings.topics.requests_partitions
    until = time.monotonic() + SHARED_TIMEOUT_S
    while time.monotonic() < until:
        if view.shared(plan.replicas, partitions):
            return
        _turn(view, FRAME_S)
        _check(stack)
    screen.stage(f"the replicas do not share the requests after {SHARED_TIMEOUT_S:g} s; going on all the same")


# --- watching ----------------------------------------------------------------------------------------------------------


def _watch(plan: Plan, stack: Stack, view: FleetView, screen: Screen) -> tuple[dict[str, Any], Decision | None]:
    """Start the load and look on until it is done; returns its figures and the refusal."""
    arguments = ("demo-load", "--rate", str(plan.rate), "--seconds", str(plan.seconds), "--seed", str(SEED))
    log = stack.work_dir / f"{LOAD}.log"
    process = stack.processes[LOAD] = Process(LOAD, arguments, log, stack.environ, port=0)
    lines = _Lines(process)
    watched = _Watched(time.monotonic())
    while True:
        running = process.running()
        for line in lines.new():
            watched.take(line)
        screen.frame(watched.frame(view))
        if not running:
            break
        _turn(view, FRAME_S)
        _check(stack)
    del stack.processes[LOAD]
    process.wait(0)
    if watched.done is None or process.popen.returncode:
        raise StackError(
            f"the load ended by itself (exit {process.popen.returncode}); its log {log} ends:\n{tail(log)}"
        )
    return watched.done, watched.refusal


def _check(stack: Stack) -> None:
    """StackError when a process other than the load has ended: the load does when it is done."""
    for name, process in stack.processes.items():
        if name != LOAD:
            process.require_running()


def _turn(view: FleetView, seconds: float) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        view.turn(left)


class _Watched:
    """What the load has told so far."""

    def __init__(self, begun_s: float) -> None:
        self._begun_s = begun_s
        self._progress: dict[str, Any] = {}
        self._answered: list[tuple[float, int]] = []
        self.refusal: Decision | None = None
        self.done: dict[str, Any] | None = None

    def take(self, line: dict[str, Any]) -> None:
        """One line of the load's."""
        match line.pop("load"):
            case "progress":
                self._progress = line
                self._answered.append((line["at_s"], line["placed"] + line["refused"]))
                del self._answered[:-5]
            case "refusal":
                self.refusal = msgspec.convert(line["decision"], Decision)
            case "done":
                self.done = line

    def frame(self, view: FleetView) -> Frame:
        """How things stand."""
        rows = view.hosts()
        return Frame(
            elapsed_s=time.monotonic() - self._begun_s,
            shares=[_share(row) for row in rows],
            builds=sum(row.host.builds for row in rows),
            instances=sum(len(row.host.allocations) for row in rows),
            used=packing([row.host for row in rows], STRANDED_FOR, {}).allocated_share,
            decisions_per_s=self._per_s(),
            progress=self._progress,
            refusal=self.refusal,
        )

    def _per_s(self) -> float:
        if len(self._answered) < 2:
            return 0.0
        (first_s, first), (last_s, last) = self._answered[0], self._answered[-1]
        return (last - first) / (last_s - first_s) if last_s > first_s else 0.0


def _share(row: Row) -> float:
    host = row.host
    return max(
        (host.used.get(name, 0) / item.capacity for name, item in host.inventory.items() if item.capacity), default=0.0
    )


class _Lines:
    """The load's JSON lines in its log, as they come; what librdkafka or a logger says in between is passed over."""

    def __init__(self, process: Process) -> None:
        self._log, self._at = process.log, process.said_from

    def new(self) -> Iterator[dict[str, Any]]:
        """Whole lines since the last call."""
        with self._log.open("rb") as file:
            file.seek(self._at)
            data = file.read()
        whole, newline, _ = data.rpartition(b"\n")
        self._at += len(whole) + len(newline)
        for line in whole.splitlines():
            if line.startswith(b'{"load"'):
                yield msgspec.json.decode(line)


# --- report ------------------------------------------------------------------------------------------------------------


def _head(plan: Plan) -> dict[str, Any]:
    return {"broker": plan.broker, "replicas": plan.replicas, "rate": plan.rate, "cpus": os.cpu_count()}


def _fleet(rows: Sequence[Row], full: dict[str, Any]) -> dict[str, Any]:
    """Hosts used and packing, in the words of `replay`; `full` is what the load's book told of it."""
    stranded_for = next(f for f in STARTER_FLAVORS if f.name == STRANDED_FOR)
    packed = packing([row.host for row in rows], stranded_for.name, stranded_for.resources)
    return fullness(packed, **full)
