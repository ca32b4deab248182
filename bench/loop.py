"""The whole loop: broker, fleet, one or more replicas and the load on one machine, claims granted by real ledgers.

    python -m bench.loop saturate            as many decisions a second as it goes
    python -m bench.loop churn               the same, every instance confirmed and later released
    python -m bench.loop rate --rate 1000    latency at a fixed rate, open loop, counted from the intended start

Leases are short where nothing is confirmed, so that they lapse and the fleet never fills. After each run the audit reads its topics.
"""

import argparse
import json
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any
from urllib.request import urlopen

import msgspec

from bench.facts import cpu_s, machine, percentiles, rss_bytes
from commonplace.core.records import Decision, Flavor, Profile, encode
from commonplace.frontend.client import Frontend
from commonplace.frontend.pending import Pending
from commonplace.kafka import control
from commonplace.ops.stack import Stack
from commonplace.settings import Settings

SIGN = {"spread": 1.0, "pack": -1.0}
"""The emptiest host first, or the fullest that it fits on."""


def profile(placement: str) -> Profile:
    """No bound on builds in progress, because an unconfirmed instance counts as one until its lease lapses."""
    sign = SIGN[placement]
    return Profile(name="bench", weighers={"cpu": sign, "ram": sign}, builds_max=0, instances_max=50)


def flavors(count: int) -> list[Flavor]:
    """So many flavors of 1 to 4 vCPUs and 1 to 4 GiB a vCPU."""
    return [
        Flavor(
            name=f"b{i}",
            resources={"VCPU": 1 + i % 4, "MEMORY_MB": 1024 * (1 + i % 4) * (1 + i // 4 % 4), "DISK_GB": 10},
            profile="bench",
        )
        for i in range(count)
    ]


@dataclass
class Load:
    """What was asked and answered; written by the frontend's reader thread and by the loop that submits."""

    frontend: Frontend
    names: list[str]
    churn_s: float = 0.0
    measuring: bool = False
    submitted: int = 0
    decided: int = 0
    placed: int = 0
    other: dict[str, int] = field(default_factory=dict)
    latencies_ms: list[float] = field(default_factory=list)
    held: deque[tuple[float, Decision]] = field(default_factory=deque)
    room: threading.Semaphore | None = None

    def submit(self, count: int, intended: float) -> None:
        """Submit `count` requests that should have started at `intended` (monotonic seconds)."""
        f, names, n = self.frontend, self.names, self.submitted
        builds = [f.request(names[(n + i) % len(names)]) for i in range(count)]
        self.submitted += count
        for pending in f.submit_many(builds):
            pending.add_done_callback(lambda p: self._done(p, intended))

    def _done(self, pending: Pending, intended: float) -> None:
        now = time.monotonic()
        if self.room is not None:
            self.room.release()
        answer = pending.answer()
        if self.measuring:
            self.decided += 1
            self.latencies_ms.append((now - intended) * 1000)
        if isinstance(answer, Decision) and answer.result == "placed":
            self.placed += self.measuring
            if self.churn_s:
                self.frontend.confirm(answer)
                self.held.append((now + self.churn_s, answer))
        elif self.measuring:
            kind = f"{answer.result}: {answer.reason}" if isinstance(answer, Decision) else type(answer).__name__
            self.other[kind] = self.other.get(kind, 0) + 1

    def release_due(self) -> None:
        """Release what was held for long enough."""
        now = time.monotonic()
        while self.held and self.held[0][0] <= now:
            self.frontend.release(self.held.popleft()[1])


def closed_loop(load: Load, window: int, until: float) -> None:
    """Keep `window` requests in flight."""
    room = load.room = load.room or threading.Semaphore(window)
    while time.monotonic() < until:
        if not room.acquire(timeout=0.05):
            load.release_due()
            continue
        count = 1
        while count < 64 and room.acquire(blocking=False):
            count += 1
        load.submit(count, time.monotonic())
        load.release_due()


def open_loop(load: Load, rate: float, until: float) -> None:
    """Submit at a fixed rate, whatever the answers do."""
    start, sent = time.monotonic(), 0
    while (now := time.monotonic()) < until:
        due = int((now - start) * rate) + 1  # the first one at once: request n is due n / rate after the start
        while sent < due:
            load.submit(1, start + sent / rate)
            sent += 1
        load.release_due()
        time.sleep(max(0.0, min(0.001, start + sent / rate - time.monotonic())))


def metrics(port: int) -> dict[str, float]:
    """A replica's figures, by name with labels."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return {
        line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if line and not line.startswith("#")
    }


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Start the stack, warm up, measure, audit."""
    environ = {
        "COMMONPLACE__SCHEDULER__LEASE_MS": str(int(args.lease * 1000)),
        "COMMONPLACE__SCHEDULER__LEASE_MARGIN_MS": "2000",
        "COMMONPLACE__SCHEDULER__CLAIM_TIMEOUT_MS": "5000",
    }
    settings = Settings(topics=msgspec.structs.replace(Settings().topics, **dict.fromkeys(
        ("hosts_partitions", "claims_partitions", "requests_partitions"), args.partitions)))  # fmt: skip
    shapes = flavors(args.flavors)
    with Stack(
        hosts=args.hosts,
        replicas=args.replicas,
        kafka=True,
        shape=args.shape,
        flavors=shapes,
        settings=settings,
        environ=environ,
    ) as stack:
        fresh = _catchup(stack, args.hosts)
        control.write(stack.settings, {"profile/bench": encode(profile(args.placement))})
        with Frontend(stack.settings) as frontend:
            load = Load(frontend, [shape.name for shape in shapes], churn_s=args.hold if args.mode == "churn" else 0.0)
            figures = _measure(stack, load, args)
        figures["catchup_fresh"], figures["catchup"] = fresh, _catchup(stack, args.hosts)
        figures["audit"] = _audit(stack) if args.audit else "not run"
    return figures


def _measure(stack: Stack, load: Load, args: argparse.Namespace) -> dict[str, Any]:
    def drive(seconds: float) -> None:
        until = time.monotonic() + seconds
        if args.mode == "rate":
            open_loop(load, args.rate, until)
        else:
            closed_loop(load, args.window, until)

    pids = {name: process.popen.pid for name, process in stack.processes.items()}
    drive(args.warmup)
    before, started, me = {name: cpu_s(pid) for name, pid in pids.items()}, time.monotonic(), time.process_time()
    claims = {name: metrics(stack.processes[name].port) for name in pids if name.startswith("r")}
    load.measuring = True
    drive(args.seconds)
    load.measuring = False
    seconds = time.monotonic() - started
    cpu = {name: cpu_s(pid) - before[name] for name, pid in pids.items()}
    cpu["load"] = time.process_time() - me
    after = {name: metrics(stack.processes[name].port) for name in claims}
    granted = sum(
        after[r]['commonplace_claims_total{verdict="granted"}']
        - claims[r]['commonplace_claims_total{verdict="granted"}']
        for r in after
    )
    rejected = sum(_rejected(after[r]) - _rejected(claims[r]) for r in after)
    stack.check()
    return {
        "mode": args.mode, "placement": args.placement, "hosts": args.hosts, "replicas": args.replicas,
        "flavors": args.flavors, "partitions": args.partitions,
        "seconds": round(seconds, 1), "warmup_s": args.warmup, "lease_s": args.lease, "machine": machine(),
        "decided": load.decided, "decisions_per_s": round(load.decided / seconds),
        "placed_share": round(load.placed / max(1, load.decided), 4), "refused": load.other,
        "latency_ms": percentiles(load.latencies_ms), "conflict_fraction": round(rejected / max(1.0, granted), 5),
        "claims": _claims(claims, after),
        "cpu_us_a_decision": {name: round(used / max(1, load.decided) * 1e6, 1) for name, used in cpu.items()},
        "cores_used": round(sum(cpu.values()) / seconds, 2),
        "rss_mib": {name: round(rss_bytes(pid) / 2**20) for name, pid in pids.items()},
    }  # fmt: skip


def _claims(before: dict[str, dict[str, float]], after: dict[str, dict[str, float]]) -> dict[str, int]:
    """Claims by verdict over all replicas, between two readings."""
    found: dict[str, int] = {}
    for replica, values in after.items():
        for name, value in values.items():
            if name.startswith("commonplace_claims_total") and value > before[replica].get(name, 0):
                verdict = name.split('"')[1]
                found[verdict] = found.get(verdict, 0) + round(value - before[replica].get(name, 0))
    return found


def _rejected(values: dict[str, float]) -> float:
    return sum(value for name, value in values.items() if name.startswith('commonplace_claims_total{verdict="rejected'))


def _catchup(stack: Stack, hosts: int) -> dict[str, float]:
    """A replica started now: seconds from exec to ready, its own catch-up, resident bytes a host beyond an empty replica's."""
    started = time.monotonic()
    process = stack.start_scheduler("late")
    ready_s = time.monotonic() - started
    own = metrics(process.port)["commonplace_catchup_seconds"]
    resident = rss_bytes(process.popen.pid)
    stack.end("late")
    return {
        "ready_s": round(ready_s, 2),
        "catchup_s": round(own, 2),
        "rss_bytes": resident,
        "rss_bytes_a_host": round(resident / hosts),
    }


def _audit(stack: Stack) -> str:
    from commonplace.ops.audit import run as audit

    report = audit(stack.settings)
    return "clean" if report.clean else json.dumps(report.to_dict())[:2000]


def arguments(given: list[str]) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(prog="python -m bench.loop", description=__doc__)
    parser.add_argument("mode", choices=("saturate", "churn", "rate"))
    parser.add_argument("--placement", choices=tuple(SIGN), default="spread")
    parser.add_argument("--hosts", type=int, default=10_000)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--flavors", type=int, default=8)
    parser.add_argument("--partitions", type=int, default=1, help="of hosts, claims, requests and decisions each")
    parser.add_argument("--rate", type=float, default=1000.0, help="requests a second, mode rate")
    parser.add_argument("--window", type=int, default=1024, help="requests in flight, modes saturate and churn")
    parser.add_argument("--warmup", type=float, default=30.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--lease", type=float, default=10.0)
    parser.add_argument("--hold", type=float, default=15.0, help="seconds an instance lives, mode churn")
    parser.add_argument("--shape", default="64vcpu:256gb:4000gb")
    parser.add_argument("--audit", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    return parser.parse_args(given)


def main(given: list[str]) -> dict[str, Any]:
    """Run one benchmark and print its figures."""
    args = arguments(given)
    figures = run(args)
    if args.output == "json":
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:20} {value}")
    return figures


if __name__ == "__main__":
    main(sys.argv[1:])
