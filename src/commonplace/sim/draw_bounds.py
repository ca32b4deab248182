"""Bounds and intervals of a schedule, drawn."""

from typing import Final

from commonplace.sim.dice import Dice
from commonplace.sim.plan import Config

SETTLED_MAX: Final = (0, 1, 1, 1, 3, 3, *(64,) * 44)
"""Where reports do not tell what they settled, a ledger can hardly be judged: so few schedules have that."""


def draw_bounds(dice: Dice, profile: str) -> Config:
    """Every bound and interval, by what the profile is about."""
    lease_ms = dice.scale(5_000, 300_000) if dice.chance(300) else dice.scale(5_000, 20_000)
    heartbeat_ms = max(2_500, lease_ms // dice.between(1, 4))
    compacting = profile == "compaction" or dice.chance(200)
    if compacting:  # what is younger than two snapshots is never compacted, so these must be short
        heartbeat_ms = dice.scale(1_000, 3_000)
    snapshot_ms = heartbeat_ms * (dice.between(1, 3) if compacting else dice.between(2, 8))
    hosts = dice.of((1, 1, 1, 2, 2, 2, 3, 3, 4, 6)) if dice.chance(970) else dice.scale(9, 200)
    clocks = profile == "clocks" or dice.chance(100)
    retention_ms = (
        dice.scale(6 * heartbeat_ms, 60 * heartbeat_ms) if dice.chance(500 if compacting else 100) else 3_600_000_000
    )
    return Config(
        hosts=hosts,
        vcpus=dice.of((4, 6, 8, 8, 16, 16, 32)),
        reserved=dice.of((0, 0, 0, 1)),
        agents=dice.of((1, 1, 1, 2, 3)),
        replicas=dice.of((1, 2, 2, 2, 3, 3, 4)) if dice.chance(960) else dice.between(5, 8),
        frontends=dice.of((1, 1, 2)),
        partitions=dice.of((1, 1, 2, 2, 3)),
        request_partitions=dice.of((1, 2, 2, 3)),
        run_ms=dice.scale(*((15_000, 60_000) if compacting else (4_000, 30_000)))
        + (lease_ms if dice.chance(400) else 0),
        latency_ms=dice.of((2, 5, 10, 30, 100, 300)),
        partial=dice.of((0, 0, 50, 200, 500)),
        skip=dice.of((0, 0, 50, 200, 400)),
        drift=dice.of((1, 3, 8)) if clocks else 0,
        mode="fits" if dice.chance(150) else "strict",
        lease_ms=lease_ms,
        lease_margin_ms=dice.scale(max(500, lease_ms // 20), max(1_000, lease_ms // 3)),
        deadline_ms=dice.scale(2_000, 20_000),
        claim_timeout_ms=dice.scale(500, 8_000),
        attempts_max=dice.of((1, 2, 4, 16, 16)),
        queue_max=dice.of((1, 5, 20, 1_000, 1_000, 1_000)),
        claims_in_flight_max=dice.of((1, 2, 6, 1_000, 1_000)),
        decisions_kept_max=100_000,
        liveness_ms=heartbeat_ms * dice.between(3, 6),
        report_ms=dice.scale(4_000, 20_000),
        session_ms=dice.scale(1_500, 12_000),
        tick_ms=dice.of((100, 250, 500, 1_000)),
        snapshot_ms=snapshot_ms,
        heartbeat_ms=heartbeat_ms,
        lapse_ms=dice.of((0, 0, 500, 2_000)),
        delta_allocations_max=dice.of((0, 1, 2, 4, 24)),
        settled_max=dice.of(SETTLED_MAX),
        boot_ms=dice.scale(50, 5_000),
        boot_failures=dice.of((0, 0, 0, 100, 300)),
        builds_max=dice.of((0, 1, 2, 8, 8, 8)),
        instances_max=dice.of((0, 2, 4, 50, 50, 50, 50)),
        segment_records=dice.of((1, 2, 5, 20, 100)),
        delete_retention_ms=max(15_000, retention_ms),
        claims_retention_ms=dice.scale(1_500, 2 * lease_ms)
        if dice.chance(400 if profile == "compaction" else 80)
        else 0,
        delivery_timeout_ms=dice.scale(500, 6_000),
        spread=dice.of((1, 1, 2, 4)),
    )
