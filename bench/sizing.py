"""What a deployment needs, worked out from unit costs that were measured: records, bytes, CPU, memory, time to catch up (docs/sizing.md).

    python -m bench.sizing --hosts 100000 --rate 500 --replicas 3 --agents 200 --partitions 16

A model, and no measurement: each constant says what it was measured by. It takes every instance as placed, confirmed and later released,
and every report as its own record, which is the worst case: hosts that are packed report several grants at once.
"""

import argparse
import json
import sys
from dataclasses import asdict, dataclass

REQUEST_B, CLAIM_B, CONFIRM_B, RELEASE_B, DECISION_B = 62, 345, 150, 130, 452
"""Key and value, flavors of three classes, ids as the frontend makes them; before compression."""
REPORT_B, UPSERT_B, SETTLED_B, SNAPSHOT_B = 160, 205, 60, 262
"""A delta that says nothing new, what each allocation changed since the snapshot adds, a settled entry; an empty host's snapshot."""
REPORTS_AN_INSTANCE = 3
"""Granted, confirmed, released."""
DELTA_ALLOCATIONS_MAX = 24
"""`agent.delta_allocations_max`: past it an agent sends a snapshot."""

HEARTBEAT_US, FOLD_US, SNAPSHOT_US, SNAPSHOT_INSTANCE_US = 10, 30, 25, 2
"""Replica, CPU: a heartbeat (7 without changes to repeat, 18 with ten), a report with news, a snapshot and each instance in it."""
DECISION_US = 110
"""Replica, CPU a decision without its folds: admit, rank, claim, settle, answer, read and write."""
FLEET_US, BROKER_US, BROKER_REQUEST_US = 60, 20, 100
"""CPU of an agent and of the broker a report or decision where requests are full; the broker's a request where they are not."""
FETCH_US, FETCHES_MAX = 50, 1_000
"""CPU of the broker a fetch that brings a record or two: 37 ms for 770 fetches between two runs of `python -m bench.bystander`, so roughly.
Most fetches a second of one client: assumed, as each waits for the one before; a fleet made 1,900 requests of all kinds at 1,000 decisions
a second."""
QUIET_FETCHES = 3
"""Of an agent that nothing comes for, a second, by its intervals: long polls that end empty, and its looks at `hosts`."""
CLAIMED_S = 0.5
"""So long after a claim an agent reads `hosts` as it comes (agent/looks.py)."""
CATCHUP_US, CATCHUP_INSTANCE_US = 75, 8
"""Reading and folding a host anew."""
HOST_B, INSTANCE_B = 1_940, 300
"""Resident in a replica: `bench catchup` with 10,000 hosts, 1.94 KB a host without instances and 4.94 KB with ten; 4.83 KB with
ten at 100,000. Later runs with ten at 10,000 gave 4.99 to 5.78 KB (bench/README.md)."""


@dataclass(frozen=True)
class Deployment:
    """One pool. Intervals in seconds, as in the settings."""

    hosts: int = 10_000
    instances: int = 10
    """On each host."""
    rate: float = 100.0
    """Instances placed a second; as many end."""
    replicas: int = 3
    agents: int = 100
    """Processes, each with as many hosts."""
    partitions: int = 4
    """Of `hosts` and of `claims`."""
    frontends: int = 3
    heartbeat_s: float = 20.0
    snapshot_s: float = 300.0


@dataclass(frozen=True)
class Needs:
    """What it comes to. Network without compression and replication; CPU in cores."""

    heartbeats_per_s: float
    snapshots_per_s: float
    reports_per_s: float
    hosts_mb_per_s: float
    claims_mb_per_s: float
    requests_and_decisions_mb_per_s: float
    out_to_replicas_mb_per_s: float
    out_to_agents_mb_per_s: float
    fetches_by_agents_per_s: float
    brokers_cores_for_fetches: float
    replica_idle_cores: float
    replica_cores: float
    rate_max: float
    """Instances a second at which a replica's core is full."""
    replica_memory_mb: float
    catchup_s: float


def needs(d: Deployment) -> Needs:
    """The model. Heartbeats are counted for every host, though one that has reported need not send any."""
    changed = (
        min(DELTA_ALLOCATIONS_MAX, d.rate * d.snapshot_s / d.hosts) / 2
    )  # grows from none to the most between snapshots
    report_b = REPORT_B + changed * UPSERT_B
    heartbeats, snapshots, reports = d.hosts / d.heartbeat_s, d.hosts / d.snapshot_s, REPORTS_AN_INSTANCE * d.rate
    hosts_b = (
        heartbeats * report_b + snapshots * (SNAPSHOT_B + d.instances * UPSERT_B) + reports * (report_b + SETTLED_B)
    )
    claims_b = d.rate * (CLAIM_B + CONFIRM_B + RELEASE_B)
    decided_b = d.rate * (REQUEST_B + DECISION_B)
    idle_us = heartbeats * HEARTBEAT_US + snapshots * (SNAPSHOT_US + d.instances * SNAPSHOT_INSTANCE_US)
    each_us = REPORTS_AN_INSTANCE * FOLD_US + DECISION_US / d.replicas
    hosts_per_s, claims_per_s = heartbeats + snapshots + reports, 3 * d.rate
    touched = 1 - (1 - 1 / d.partitions) ** (d.hosts / d.agents)  # share of the partitions that an agent's hosts lie on
    reading = min(1.0, CLAIMED_S * d.rate / d.agents)  # share of the time in which an agent reads `hosts` as it comes
    fetches = d.agents * (QUIET_FETCHES + min(FETCHES_MAX, touched * (claims_per_s + reading * hosts_per_s)))
    return Needs(
        heartbeats_per_s=heartbeats,
        snapshots_per_s=snapshots,
        reports_per_s=reports,
        hosts_mb_per_s=hosts_b / 1e6,
        claims_mb_per_s=claims_b / 1e6,
        requests_and_decisions_mb_per_s=decided_b / 1e6,
        out_to_replicas_mb_per_s=(d.replicas * hosts_b + 2 * decided_b) / 1e6,
        out_to_agents_mb_per_s=d.agents * touched * (hosts_b + claims_b) / 1e6,
        fetches_by_agents_per_s=fetches,
        brokers_cores_for_fetches=fetches * FETCH_US / 1e6,
        replica_idle_cores=idle_us / 1e6,
        replica_cores=(idle_us + d.rate * each_us) / 1e6,
        rate_max=(1e6 - idle_us) / each_us,
        replica_memory_mb=d.hosts * (HOST_B + d.instances * INSTANCE_B) / 1e6,
        catchup_s=d.hosts * (CATCHUP_US + d.instances * CATCHUP_INSTANCE_US) / 1e6,
    )


def main(given: list[str]) -> None:
    """Print what a deployment needs."""
    parser = argparse.ArgumentParser(prog="python -m bench.sizing", description=__doc__)
    for name, value in asdict(Deployment()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    args = vars(parser.parse_args(given))
    output = args.pop("output")
    found = asdict(needs(Deployment(**args)))
    if output == "json":
        print(json.dumps({"deployment": args, "needs": found}))
        return
    for name, value in found.items():
        print(f"{name:34} {value:>12,.2f}")


if __name__ == "__main__":
    main(sys.argv[1:])
