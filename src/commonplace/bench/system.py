"""What the benchmarks on Kafka run on: a broker of their own or the one that -b names, a fleet and replicas, and what all of it used.

broker ▸ topics under a prefix of their own ▸ fleet ▸ replicas        every one a process; the load is this process
"""

import logging
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic, process_time, sleep
from typing import Any, Final
from urllib.request import urlopen

from confluent_kafka import KafkaException
from msgspec import Struct
from msgspec.structs import replace

from commonplace.bench.facts import cpu_s, machine, rss_bytes
from commonplace.bench.flavors import HOST_SHAPE, Asks, flavors
from commonplace.collector import calmed
from commonplace.core.codec import encode
from commonplace.core.records.control import Flavor, Profile
from commonplace.errors import TimedOut
from commonplace.kafka import client, control, traffic
from commonplace.kafka.jars import KAFKA_VERSION
from commonplace.kafka.topics import TOPICS, Topics
from commonplace.ops import audit
from commonplace.ops.fleet_view import FleetView
from commonplace.ops.replay import fleet
from commonplace.ops.replay.run import fullness
from commonplace.ops.stack import Stack
from commonplace.ops.stack_environ import settings_environ
from commonplace.settings import VARIABLE_PREFIX, Settings
from commonplace.words import counted

_LOG: Final = logging.getLogger(__name__)

Tell = Callable[[str], None]
"""Told what goes on."""

METRICS_TIMEOUT_S: Final = 10.0
SHARED_TIMEOUT_S: Final = 30.0
"""A rebalance takes a few heartbeats of the group, 2 s each."""
REMOVE_TIMEOUT_S: Final = 30.0
CLAIM_TIMEOUT_MS: Final = 5_000
LEASE_MARGIN_MS: Final = 2_000
"""Both less than the defaults, as leases are shorter here."""
COUNTED_MS: Final = 1_000
"""Every client tells how many requests it sent so often; a measurement takes many times that."""


class Setup(Struct, frozen=True, kw_only=True):
    """What is started. `running`: the settings name a broker that runs already, which is used instead of one of our own.

    `partitions` are those of hosts and claims; requests get as many, or one for each replica where that is more.
    """

    settings: Settings
    running: bool = False
    hosts: int = 10_000
    replicas: int = 1
    flavors: int = 8
    asks: Asks = "plain"
    partitions: int = 1
    shape: str = HOST_SHAPE
    lease_s: float = 10.0
    audit: bool = True
    work_dir: Path | None = None

    @property
    def request_partitions(self) -> int:
        """A multiple of the replicas, so that each has the same share."""
        replicas = max(1, self.replicas)
        return replicas * math.ceil(self.partitions / replicas)

    @property
    def broker(self) -> str:
        """What runs as the broker."""
        return self.settings.bootstrap if self.running else f"Apache Kafka {KAFKA_VERSION}"

    def made(self) -> list[Flavor]:
        """The flavors that are asked for."""
        return flavors(self.flavors, self.request_partitions, self.asks)


def run_on(setup: Setup, ranked: Profile, tell: Tell, measure: Callable[[Stack], dict[str, Any]]) -> dict[str, Any]:
    """Start the system with its flavors under the profile `ranked`, measure, audit, and return the report; blocks.

    Topics on a broker that ran already are removed again where all went well, else kept as evidence.
    """
    beside = f", {counted(setup.hosts, 'host')}, {counted(setup.replicas, 'replica')}, each a process of its own"
    tell(f"starting: {setup.broker}{beside if setup.hosts else ''}")
    stack = Stack(
        hosts=setup.hosts,
        replicas=setup.replicas,
        kafka=True,
        shape=setup.shape,
        flavors=setup.made(),
        settings=_settings(setup),
        bootstrap=setup.settings.bootstrap if setup.running else "",
        environ={f"{VARIABLE_PREFIX}KAFKA__STATISTICS_INTERVAL_MS": str(COUNTED_MS)},
        work_dir=setup.work_dir,
    )
    with stack:
        control.write(stack.settings, {f"profile/{ranked.name}": encode(ranked)})
        if setup.replicas:
            _await_shared(setup, stack)
        with calmed():  # the load must not be what is measured
            figures = measure(stack)
        audited: dict[str, Any] = {"audit": "not run"}
        if setup.audit:
            tell("auditing the raw topics")
            audited = audit.run(stack.settings).to_dict()
        settings = stack.settings
        stack.stop()
        if setup.running and audited["audit"] != "violated":
            _remove_topics(settings)
    return {**_facts(setup, settings), **figures, "audit": audited}


def _await_shared(setup: Setup, stack: Stack) -> None:
    """Wait until every replica has its share: a load that a rebalance holds up would measure that."""
    until = monotonic() + SHARED_TIMEOUT_S
    with FleetView(stack.settings) as view:
        while not view.read().shared(setup.replicas, setup.request_partitions):
            if monotonic() > until:
                raise TimedOut(f"the replicas do not share the requests after {SHARED_TIMEOUT_S:g} s: see their logs")
            sleep(0.25)


def _facts(setup: Setup, settings: Settings) -> dict[str, Any]:
    """What the figures were measured on; `settings` are those that differ from the defaults."""
    changed = settings_environ(settings, "").items()
    return {
        "machine": machine(),
        "broker": setup.broker,
        "hosts": setup.hosts,
        "replicas": setup.replicas,
        "flavors": setup.flavors,
        "asks": setup.asks,
        "partitions": {"hosts": setup.partitions, "requests": setup.request_partitions},
        "settings": {name.removeprefix(VARIABLE_PREFIX).lower().replace("__", "."): value for name, value in changed},
    }


def _settings(setup: Setup) -> Settings:
    """The operator's, with what the benchmark decides; on a broker that runs already under a prefix that nobody has."""
    base, lease_ms = setup.settings, int(setup.lease_s * 1000)
    topics = replace(
        base.topics,
        hosts_partitions=setup.partitions,
        claims_partitions=setup.partitions,
        requests_partitions=setup.request_partitions,
        prefix=f"{base.topics.prefix}-bench-{os.urandom(3).hex()}" if setup.running else base.topics.prefix,
    )
    scheduler = replace(
        base.scheduler,
        lease_ms=lease_ms,
        lease_margin_ms=min(LEASE_MARGIN_MS, lease_ms // 5),
        claim_timeout_ms=min(CLAIM_TIMEOUT_MS, lease_ms // 2),
    )
    return replace(base, topics=topics, scheduler=scheduler)


def _remove_topics(settings: Settings) -> None:
    """Delete the topics of a benchmark and the group of its replicas; what cannot be deleted is told."""
    admin = client.admin(settings)
    names = Topics(settings.topics.prefix, settings.topics.pool).all(TOPICS)
    deleted = {  # a dict of our own: the client still compares its dicts with the answers
        **admin.delete_topics(list(names), operation_timeout=REMOVE_TIMEOUT_S),
        **admin.delete_consumer_groups([client.replica_group(settings)]),
    }
    for name, future in deleted.items():
        try:
            future.result(REMOVE_TIMEOUT_S)
        except KafkaException as e:
            _LOG.warning("%s stays on the broker: %s", name, e.args[0].str())


# --- measuring ---------------------------------------------------------------------------------------------------------


class Reading(Struct, frozen=True):
    """The system at one moment: CPU seconds and requests sent by component so far, and what each process tells of itself."""

    at_s: float
    cpu_s: dict[str, float]
    told: dict[str, dict[str, float]]
    sent: dict[str, float]


def read(stack: Stack) -> Reading:
    """Read all processes: time and CPU now, then what each tells over HTTP; the broker tells nothing."""
    at_s, processes = monotonic(), stack.processes.items()
    cpu = {name: cpu_s(process.popen.pid) for name, process in processes} | {"load": process_time()}
    told = {name: metrics(process.port) for name, process in processes if process.port}
    sent = {name: _sum(values, "commonplace_broker_requests_total") for name, values in told.items()}
    return Reading(at_s, cpu, told, sent | {"load": float(traffic.sent().total())})


def used(before: Reading, after: Reading, decisions: int) -> dict[str, Any]:
    """What a decision cost between two readings, by component, and what became of claims."""
    each = max(1, decisions)
    cpu = {name: after.cpu_s[name] - before.cpu_s[name] for name in after.cpu_s}
    sent = {name: after.sent[name] - before.sent[name] for name in after.sent}
    claims = claims_of(before, after)
    granted = claims.get("granted", 0)
    rejected = sum(count for verdict, count in claims.items() if verdict.startswith("rejected"))
    return {
        "conflict_fraction": round(rejected / max(1, granted), 5),
        "claims": claims,
        "cpu_us_a_decision": {name: round(spent / each * 1e6, 1) for name, spent in cpu.items()},
        "cores_used": round(sum(cpu.values()) / (after.at_s - before.at_s), 2),
        "broker_requests_a_decision": {
            "all": round(sum(sent.values()) / each, 4),
            **{name: round(count / each, 4) for name, count in sent.items()},
        },
    }


def claims_of(before: Reading, after: Reading) -> dict[str, int]:
    """Claims by verdict over all replicas, between two readings."""
    found: dict[str, int] = {}
    for process, values in after.told.items():
        for name, value in values.items():
            new = round(value - before.told[process].get(name, 0))
            if name.startswith("commonplace_claims_total") and process.startswith("r") and new:
                verdict = name.split('"')[1]
                found[verdict] = found.get(verdict, 0) + new
    return found


def resident_mib(stack: Stack) -> dict[str, int]:
    """Resident memory of every process."""
    return {name: round(rss_bytes(process.popen.pid) / 2**20) for name, process in stack.processes.items()}


def metrics(port: int) -> dict[str, float]:
    """A process's figures, by name with labels."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=METRICS_TIMEOUT_S) as answer:
        lines = answer.read().decode().splitlines()
    return {
        line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if line and not line.startswith("#")
    }


def _sum(values: Mapping[str, float], name: str) -> float:
    return sum(value for found, value in values.items() if found.partition("{")[0] == name)


# --- afterwards --------------------------------------------------------------------------------------------------------


def fill(stack: Stack, smallest: Flavor) -> dict[str, Any]:
    """How full the fleet is now, in the words of `replay`."""
    packed = fleet.packing(fleet.read_hosts(stack.settings), smallest.name, smallest.resources)
    return fullness(packed, None, packed.allocated_share)


def late_replica(stack: Stack, name: str = "late") -> dict[str, Any]:
    """A replica started now and stopped when it serves: seconds from exec to ready, of its own catch-up, resident bytes, hosts it knows."""
    began = monotonic()
    process = stack.start_scheduler(name)
    ready_s, told, resident = monotonic() - began, metrics(process.port), rss_bytes(process.popen.pid)
    stack.end(name)
    return {
        "ready_s": round(ready_s, 2),
        "catchup_s": round(told["commonplace_catchup_seconds"], 2),
        "rss_bytes": resident,
        "hosts_enabled": round(told.get('commonplace_hosts{status="enabled"}', 0)),
    }
