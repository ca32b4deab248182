"""What the benchmarks ask for: a profile that only prefers, and flavors of distinct shapes."""

from typing import Final

from commonplace.core.records import Flavor, Profile

PROFILE: Final = "bench"
SIGN: Final = {"spread": 1.0, "pack": -1.0}
"""The emptiest host first, or the fullest that it fits on."""

HOST_SHAPE: Final = "64vcpu:256gb:4000gb"


def profile(placement: str, builds_max: int = 0) -> Profile:
    """No bound on builds in progress unless one is named: an unconfirmed instance counts as one until its lease lapses."""
    sign = SIGN[placement]
    return Profile(name=PROFILE, weighers={"cpu": sign, "ram": sign}, builds_max=builds_max, instances_max=50)


def flavors(count: int, spread: int = 1) -> list[Flavor]:
    """So many flavors of 1 to 4 vCPUs and 1 to 4 GiB a vCPU, past sixteen with more disk; requests under `spread` keys each."""
    return [
        Flavor(
            name=f"b{i}",
            resources={
                "VCPU": 1 + i % 4,
                "MEMORY_MB": 1024 * (1 + i % 4) * (1 + i // 4 % 4),
                "DISK_GB": 10 * (1 + i // 16),
            },
            profile=PROFILE,
            spread=spread,
        )
        for i in range(count)
    ]
