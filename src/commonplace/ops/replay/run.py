"""A whole replay: survey the trace, have a system to replay it on, drive it, read the fleet, audit, and report."""

import difflib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from msgspec import Struct

from commonplace.agent.shapes import parse_shapes
from commonplace.core.ask import PROFILES
from commonplace.core.codec import encode
from commonplace.core.hosts import HostState
from commonplace.core.records.control import AGGREGATE_HOSTS_MAX, Aggregate, Flavor
from commonplace.errors import NotReady, UsageError
from commonplace.frontend import Frontend
from commonplace.kafka import control
from commonplace.ops import audit
from commonplace.ops.replay import fleet
from commonplace.ops.replay.book import Book
from commonplace.ops.replay.drive import Driver
from commonplace.ops.replay.formats import FORMATS, Survey, read, survey
from commonplace.ops.replay.schedule import Arrive, Event, events
from commonplace.ops.replay.together import Vm, keepable, shapes_of
from commonplace.ops.stack import Stack
from commonplace.settings import Settings

CONTROL_SETTLE_S: Final = 1.0
"""Replicas that run already read new flavors in milliseconds; nobody tells us when, so wait a thousand of them."""

IN_FLIGHT_DEFAULT: Final = 512
"""Requests without an answer when there is no speed: enough to fill every batch, few enough for short queues."""


class Plan(Struct, frozen=True, kw_only=True):
    """What to replay, on what, and how. `hosts` 0: on the system that `settings` name, which runs already."""

    path: Path
    form: str
    limit: int = 0
    speed: float = 0.0
    in_flight_max: int = IN_FLIGHT_DEFAULT
    tail: bool = True
    hosts: int = 0
    shape: str = ""
    replicas: int = 2
    kafka: bool = False
    profile: str = "default"
    settings: Settings
    work_dir: Path | None = None


Progress = Callable[[str, Book | None, int], None]
"""Told what goes on: a stage's name, the book once there is one, and how many requests the trace has."""


def replay(plan: Plan, progress: Progress = lambda stage, book, total: None) -> dict[str, Any]:
    """Replay a trace and return the report (docs/replay.md); blocks until the audit is done.

    Raises TraceError before anything is started, StackError when a process ends, and what the frontend raises.
    """
    progress("reading the trace", None, 0)
    trace = survey(plan.path, plan.form, plan.limit)
    _require_profile(plan)
    progress("starting", None, trace.arrivals)
    cells = bool(trace.cells) and _has_cells(plan)
    if trace.cells and not cells:
        trace.ignored["numa"] = sum(trace.requested[name] for name in trace.cells)
    with _system(plan, _flavors(plan, trace, cells)) as (settings, check):
        return _replay_on(plan, trace, settings, check, progress)


def _replay_on(
    plan: Plan, trace: Survey, settings: Settings, check: Callable[[], None], progress: Progress
) -> dict[str, Any]:
    hosts = fleet.read_hosts(settings)
    if not hosts:
        raise NotReady(
            f"no host reports to pool {settings.topics.pool} at {settings.bootstrap}: start a fleet or agents"
        )
    book = Book(fleet.capacity(hosts))

    def watch() -> None:
        check()
        progress("replaying", book, trace.arrivals)

    domains = _domains(trace, hosts)
    if domains:
        control.write(settings, {f"aggregate/{one.name}": encode(one) for one in domains})
        time.sleep(CONTROL_SETTLE_S)
    elif trace.domains:
        trace.ignored["domain"] += trace.domains.total()
    together = _together(trace, hosts)
    common, common_resources = _most_common(trace)
    with Frontend(settings) as frontend:
        driver = Driver(
            frontend,
            book,
            run_id=f"replay-{os.urandom(4).hex()}",
            in_flight_max=plan.in_flight_max,
            domains=bool(domains),
            together=together,
            speed=plan.speed,
            watch=watch,
        )
        sequence = events(read(plan.path, plan.form, plan.limit), tail=plan.tail)
        arrivals, departures = _split(sequence, trace.arrivals)
        driver.run(arrivals)
        at_end = book.shares()  # before the tail departs
        packing = fleet.packing(fleet.read_hosts(settings), common, common_resources)
        driver.run(departures())
    progress("auditing", book, trace.arrivals)
    audited = audit.run(settings)
    return {
        **_report(plan, trace, book, driver.busy_s, len(together)),
        **fullness(packing, msgspec.to_builtins(book.first_refusal), at_end),
        "hosts_gone": max(0, len(hosts) - packing.hosts),
        "audit": audited.to_dict(),
        "clean": audited.clean,
    }


@contextmanager
def _system(plan: Plan, flavors: list[Flavor]) -> Iterator[tuple[Settings, Callable[[], None]]]:
    """A system with these flavors: one of our own, or the one that runs."""
    if not plan.hosts:
        control.put_flavors(plan.settings, *flavors)
        time.sleep(CONTROL_SETTLE_S)
        yield plan.settings, lambda: None
        return
    stack = Stack(
        hosts=plan.hosts,
        shape=plan.shape or FORMATS[plan.form].host_shape,
        replicas=plan.replicas,
        kafka=plan.kafka,
        flavors=flavors,
        settings=plan.settings,
        work_dir=plan.work_dir,
    )
    with stack:
        yield stack.settings, stack.check


def _has_cells(plan: Plan) -> bool:
    """Whether any host of the system reports NUMA cells: where none does, a trace's cells would fit nowhere."""
    if plan.hosts:
        return any(shape.cells for shape in parse_shapes(plan.shape or FORMATS[plan.form].host_shape))
    return any(host.reported_cells for host in fleet.read_hosts(plan.settings))


def _domains(trace: Survey, hosts: list[HostState]) -> list[Aggregate]:
    """An aggregate for each fault domain of the trace, racks dealt out in turn; none where one could not name its hosts."""
    names = sorted(trace.domains)
    if not names or len(hosts) > len(names) * (AGGREGATE_HOSTS_MAX // 2):  # half: racks need not be of one size
        return []
    racks = sorted({host.labels.get("rack", host.name) for host in hosts})
    of_rack = {rack: names[index % len(names)] for index, rack in enumerate(racks)}
    members: dict[str, list[str]] = {name: [] for name in names}
    for host in hosts:
        members[of_rack[host.labels.get("rack", host.name)]].append(host.name)
    return [Aggregate(name=name, hosts=tuple(found)) for name, found in members.items()]


def _together(trace: Survey, hosts: list[HostState]) -> frozenset[str]:
    """The groups that stay on one host and that one could hold; the VMs of the others are counted as ignored."""
    vms = {name: Vm(resources, trace.cells.get(name, ())) for name, resources in trace.flavors.items()}
    kept = keepable(trace.together, vms, shapes_of(hosts))
    left = sum(members.total() for name, members in trace.together.items() if name not in kept)
    if left:
        trace.ignored["affinity of a group larger than any host"] += left
    return kept


def _flavors(plan: Plan, trace: Survey, cells: bool) -> list[Flavor]:
    """The trace's shapes as flavors. Each is spread over as many keys as there are partitions: traces have one flavor
    that is half of all requests, and one key would leave it to one replica."""
    topics = plan.settings.topics
    return [
        Flavor(
            name=name,
            resources=resources,
            pool=topics.pool,
            profile=plan.profile,
            spread=topics.requests_partitions,
            cells=trace.cells.get(name, ()) if cells else (),
        )
        for name, resources in sorted(trace.flavors.items())
    ]


def _require_profile(plan: Plan) -> None:
    """UsageError for a profile that no replica knows: each request would be refused for it."""
    known = set(PROFILES)
    if not plan.hosts:
        known |= {key.removeprefix("profile/") for key in control.read(plan.settings) if key.startswith("profile/")}
    if plan.profile not in known:
        nearest = difflib.get_close_matches(plan.profile, known, n=1, cutoff=0.0)[0]
        raise UsageError(
            f"--profile {plan.profile}: not known; the nearest is {nearest}, all are {', '.join(sorted(known))}"
        )


def _most_common(trace: Survey) -> tuple[str, dict[str, int]]:
    name = max(sorted(trace.requested), key=lambda flavor: trace.requested[flavor])
    return name, trace.flavors[name]


def _split(sequence: Iterator[Event], arrivals: int) -> tuple[Iterator[Event], Callable[[], Iterator[Event]]]:
    """The events through the last arrival, and those after it, which must be asked for when the first are used up."""

    def through_last() -> Iterator[Event]:
        left = arrivals
        while left:
            event = next(sequence)
            left -= isinstance(event, Arrive)
            yield event

    return through_last(), lambda: sequence


def _report(plan: Plan, trace: Survey, book: Book, busy_s: float, together: int) -> dict[str, Any]:
    return {
        "trace": plan.path.name,
        "format": plan.form,
        "broker": "running" if not plan.hosts else "Apache Kafka" if plan.kafka else "embedded, not Kafka",
        "replicas": plan.replicas if plan.hosts else None,
        "speed": plan.speed or "as fast as answers come",
        "ignored": dict(trace.ignored.most_common()),
        "affinity_groups": {"asked": len(trace.together), "kept": together},
        "flavors": len(trace.flavors),
        **figures(book, busy_s),
    }


def figures(book: Book, busy_s: float) -> dict[str, Any]:
    """What became of all requests: the part of the report that every load has, under the same names."""
    decided = book.placed + book.refused
    return {
        "requests": book.requests,
        "placed": book.placed,
        "refused": book.refused,
        "unanswered": book.unanswered,
        "reasons": dict(book.reasons.most_common()),
        "confirmed": book.confirmed,
        "released": book.released,
        "seconds": round(busy_s, 3),
        "decisions_per_s": round(decided / busy_s, 1) if busy_s else 0.0,
        "latency_ms": latency_ms(book),
        "conflict_fraction": round(book.conflicts / book.granted, 4) if book.granted else 0.0,
    }


def fullness(packing: fleet.Packing, at_first_refusal: Any, at_end: dict[str, float]) -> dict[str, Any]:
    """How full the fleet is: as the hosts report it, and as the load's book had it at the first refusal and at the end."""
    return {
        "hosts": packing.hosts,
        "hosts_used": packing.hosts_used,
        "packing": {
            "at_first_refusal": at_first_refusal,
            "at_end": at_end,
            "hosts_empty": packing.hosts_empty,
            "reported_share": packing.allocated_share,
            "stranded_share": packing.stranded_share,
            "stranded_for": packing.stranded_for,
        },
    }


def latency_ms(book: Book) -> dict[str, float | None]:
    """Percentiles from the moment a request was due to its decision, in ms; None where there was none."""
    if not book.latencies_s:
        return {"p50": None, "p90": None, "p99": None}
    values = np.percentile(np.frombuffer(book.latencies_s), (50, 90, 99)) * 1000
    return {name: round(float(value), 3) for name, value in zip(("p50", "p90", "p99"), values, strict=True)}
