"""What replicas tell each other."""

from typing import Literal

from commonplace.core.records.fields import Record, Short


class ReplicaReport(Record, tag="replica", kw_only=True):
    """A replica's registration and cycle report; it counts as alive while its newest report is younger than the liveness timeout."""

    replica: Short
    state: Literal["catching_up", "ready", "leaving"] = "catching_up"
    partitions: list[int] = []
    hosts: int = 0
    decisions: int = 0
    conflict_fraction: float = 0.0
    digest: Short = ""
    positions: dict[str, int] = {}
