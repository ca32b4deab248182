"""What the benchmarks ask for: a profile that only prefers, and flavors of distinct shapes."""

from typing import Final, Literal

from commonplace.core.records.control import CellAsk, Flavor, Profile

PROFILE: Final = "bench"
SIGN: Final = {"spread": 1.0, "pack": -1.0}
"""The emptiest host first, or the fullest that it fits on."""

Asks = Literal["plain", "anti-affinity", "numa"]
"""What a request asks besides its size: that of its group no other is on its host; that all of it lies in one NUMA cell."""

HOST_SHAPE: Final = "64vcpu:256gb:4000gb"
CELLED_SHAPE: Final = "2x(32vcpu:128gb):4000gb"
"""The same host in two cells."""

INSTANCES_MAX: Final = 50
"""On a host, unless a benchmark says otherwise."""

GROUP_SIZE: Final = 8
"""Requests of one group, one after the other."""


def profile(placement: str, builds_max: int = 0, instances_max: int = INSTANCES_MAX) -> Profile:
    """No bound on builds in progress unless one is named: an unconfirmed instance counts as one until its lease lapses."""
    sign = SIGN[placement]
    return Profile(
        name=PROFILE, weighers={"cpu": sign, "ram": sign}, builds_max=builds_max, instances_max=instances_max
    )


def flavors(count: int, spread: int = 1, asks: Asks = "plain") -> list[Flavor]:
    """So many flavors of 1 to 4 vCPUs and 1 to 4 GiB a vCPU, past sixteen with more disk; requests under `spread` keys each."""
    return [_flavor(i, spread, asks == "numa") for i in range(count)]


def _flavor(i: int, spread: int, celled: bool) -> Flavor:
    cpus, memory_mb = 1 + i % 4, 1024 * (1 + i % 4) * (1 + i // 4 % 4)
    return Flavor(
        name=f"b{i}",
        resources={"VCPU": cpus, "MEMORY_MB": memory_mb, "DISK_GB": 10 * (1 + i // 16)},
        profile=PROFILE,
        spread=spread,
        cells=(CellAsk(cpus=cpus, memory_mb=memory_mb),) if celled else (),
    )
