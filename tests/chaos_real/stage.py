"""What stands on the stage of a run: hosts, load and settings."""

from pathlib import Path
from typing import Final

from commonplace.ops.replay import samples
from commonplace.settings import (
    AgentSettings,
    FrontendSettings,
    LimitsSettings,
    SchedulerSettings,
    Settings,
    TopicsSettings,
)

HOSTS: Final = 16
SHAPE: Final = "64vcpu:256gb:2000gb"
CELL_HOSTS: Final = 8
PER_S: Final = 15.0
"""Requests a second and frontend, as long as no burst is on."""

TRACE_ROWS: Final = 6_000


SETTINGS: Final = Settings(
    topics=TopicsSettings(prefix="chaos", hosts_max_compaction_lag_ms=20_000, delete_retention_ms=120_000),
    agent=AgentSettings(heartbeat_interval_s=1.0, snapshot_interval_s=4.0, lapse_interval_s=1.0),
    scheduler=SchedulerSettings(
        session_timeout_ms=6_000,
        lease_ms=12_000,
        lease_margin_ms=1_500,
        claim_timeout_ms=2_500,
        liveness_timeout_s=10.0,
        deadline_ms_default=20_000,
        queue_max=500,
        topics_check_s=2.0,
        idempotency_window_s=3_600.0,  # longer than a run: past it, whoever asks again asks for something new
    ),
    # a new owner tells again of every bad decision in its window, and what it drops of new ones nobody else reads
    limits=LimitsSettings(quarantined_per_s_max=5_000),
    frontend=FrontendSettings(timeout_s=30.0, in_flight_max=3_000),
)
"""Short times, so that ten minutes hold what is days elsewhere: thousands of leases, snapshots and compactions."""


def trace(directory: Path, seed: int) -> Path:
    """A made-up trace in the neutral format, for a run that was given none."""
    path = directory / "trace.csv"
    path.write_text("\n".join(samples.sample("csv", TRACE_ROWS, seed)) + "\n")
    return path


def inventory(path: Path, name: str) -> Path:
    """The hosts of one of the agents that serve a cell, as a file."""
    rows = []
    for number in range(1, CELL_HOSTS + 1):
        rows.append(f"[hosts.{name}-{number}.inventory]")
        rows += ["VCPU = { total = 32 }", "MEMORY_MB = { total = 131072 }", "DISK_GB = { total = 2000 }", ""]
    path.write_text("\n".join(rows))
    return path
