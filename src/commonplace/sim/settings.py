"""What a schedule's bounds come to for those who live under them: cores, topics, checkers, and what operators say first.

A function each of the configuration alone: nothing here changes while a schedule runs.
"""

from collections.abc import Iterator
from typing import Final

from commonplace.core.codec import encode
from commonplace.core.keeper_events import KeeperSettings
from commonplace.core.ledger_events import Bounds
from commonplace.core.records.control import Profile
from commonplace.core.replica_events import ReplicaSettings
from commonplace.sim.checkers import Checkers
from commonplace.sim.log import Rules, Topic
from commonplace.sim.plan import Config, SetFlavor
from commonplace.sim.shapes import SHAPES, flavor_of

COMPACTED: Final = ("hosts", "control", "replicas")
FLAVORS: Final = {"small": (1, 1024), "medium": (2, 4096), "large": (5, 2048)}

Word = tuple[bytes, bytes | None]
"""Key and value of a record on `control`."""


def replica_settings(c: Config) -> ReplicaSettings:
    """Bounds of every replica's core."""
    return ReplicaSettings(
        mode=c.mode,
        liveness_timeout_ms=c.liveness_ms,
        lease_ms=c.lease_ms,
        lease_margin_ms=c.lease_margin_ms,
        claim_timeout_ms=c.claim_timeout_ms,
        attempts_max=c.attempts_max,
        queue_max=c.queue_max,
        claims_in_flight_max=c.claims_in_flight_max,
        decisions_kept_max=c.decisions_kept_max,
        idempotency_window_ms=c.idempotency_window_ms,
        deadline_ms=c.deadline_ms,
        peer_timeout_ms=3 * c.report_ms,
        request_partitions=c.request_partitions,
    )


def keeper_settings(c: Config) -> KeeperSettings:
    """Bounds of every agent's core."""
    return KeeperSettings(
        snapshot_interval_ms=c.snapshot_ms,
        heartbeat_interval_ms=c.heartbeat_ms,
        delta_allocations_max=c.delta_allocations_max,
        lapse_interval_ms=c.lapse_ms,
        bounds=Bounds(settled_max=c.settled_max),
    )


def topics_of(c: Config) -> dict[str, Topic]:
    """The pool's topics, empty, under the rules that they are made with."""
    compact = Rules(
        compact=True,
        min_compaction_lag_ms=round(2 * c.snapshot_ms * 1.1),
        delete_retention_ms=c.delete_retention_ms,
        segment_records=c.segment_records,
    )
    state = Rules(compact=True, delete_retention_ms=c.delete_retention_ms, segment_records=c.segment_records)
    kept = Rules(segment_records=c.segment_records)
    claims = Rules(segment_records=c.segment_records, retention_ms=c.claims_retention_ms or None)
    shapes = {
        "hosts": (c.partitions, compact),
        "claims": (c.partitions, claims),
        "requests": (c.request_partitions, kept),
        "decisions": (c.request_partitions, kept),
        "control": (1, state),
        "replicas": (1, state),
        "quarantine": (1, kept),
    }
    return {name: Topic(name, partitions, rules) for name, (partitions, rules) in shapes.items()}


def checkers_of(c: Config) -> Checkers:
    """Who judges the schedule, by its own bounds."""
    return Checkers(
        c.partitions,
        c.request_partitions,
        drift=c.drift / 1_000,
        lease_slack_ms=6 * c.heartbeat_ms + 30_000,
        window_ms=c.idempotency_window_ms,
        kept_max=c.decisions_kept_max,
    )


# --- what operators say ----------------------------------------------------------------------------------------------


def said_first(c: Config) -> Iterator[Word]:
    """What operators say on `control` before anybody starts: the profile and the flavors."""
    weighers = {"cpu": 1.0, "ram": 1.0, "io_ops": -0.05}
    profile = Profile(name="default", weighers=weighers, builds_max=c.builds_max, instances_max=c.instances_max)
    yield b"profile/default", encode(profile)
    for name, (vcpus, memory_mb) in FLAVORS.items():
        yield said_of(SetFlavor(at_ms=0, name=name, vcpus=vcpus, memory_mb=memory_mb), c.spread)
    for item in SHAPES if c.cells else ():
        yield said_of(item, c.spread)


def said_of(item: SetFlavor, spread: int) -> Word:
    """An operator's word on a flavor."""
    record = encode(flavor_of(item, spread)) if item.vcpus or item.pcpus else None
    return f"flavor/{item.name}".encode(), record
