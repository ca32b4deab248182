"""Small made-up traces in every format, for tests and for trying a replay without a download."""

import random
from collections.abc import Iterator

_SHAPES = ((1, 2), (2, 4), (4, 8), (8, 32))
"""vCPU and GB of memory, small ones first; drawn with falling weights."""

_WEIGHTS = (60, 25, 12, 3)


def sample(form: str, count: int, seed: int = 0) -> Iterator[str]:
    """Lines of a trace with `count` VMs; the same lines for the same arguments."""
    rng = random.Random(f"{form}/{seed}")
    yield HEADERS[form]
    now = 0
    for number in range(count):
        now += rng.choice((0, 0, 0, 300))
        vcpus, memory_gb = rng.choices(_SHAPES, _WEIGHTS)[0]
        yield _ROWS[form](rng, number, now, vcpus, memory_gb)


HEADERS = {
    "azure-v1": "vm_id,arrival_s,batch_id,flavor,vcpus,ram_gb,dur_lo_s,dur_hi_s,censored",
    "azure-2020": "vmId,tenantId,cores,ram,vmTypeId,starttime,endtime",
    "huawei": "flavor_vcpus,flavor_ram,numa,strategy,group,domain",
    "csv": "id,arrival,vcpus,memory,disk,lifetime,project,group,strategy",
}


def _azure_v1(rng: random.Random, number: int, now: int, vcpus: int, memory_gb: int) -> str:
    low = rng.choice((0, 300, 900, 3900))
    return f"{number},{now},{number // 5},s{vcpus},{vcpus},{memory_gb}.0,{low},{low + rng.choice((0, 300))},0"


def _azure_2020(rng: random.Random, number: int, now: int, vcpus: int, memory_gb: int) -> str:
    # the first few are alive at the start; fractions of a core occur
    start = -1497.0 if now == 0 else now / 86_400
    end = "inf" if rng.random() < 0.2 else f"{max(0.0, start) + rng.random()}"
    cores = vcpus * 100 if rng.random() < 0.8 else vcpus * 42
    return f"{number},{number // 3},{cores}.0,{memory_gb * 8}.0,{rng.randrange(2)},{start},{end}"


def _huawei(rng: random.Random, number: int, now: int, vcpus: int, memory_gb: int) -> str:
    group = rng.choice(("", f"affinity,{number // 4}.0,", f"fault_domain,{number // 4}.0,1.0"))
    return f"{vcpus},{memory_gb},{rng.choice((1, 2)) if vcpus > 1 else 1},{group or ',,'}"


def _csv(rng: random.Random, number: int, now: int, vcpus: int, memory_gb: int) -> str:
    group = rng.choice((",", ",", f"g{number // 3},anti-affinity"))
    lifetime = rng.choice(("", "600", "3600"))
    return f"vm-{number},{now},{vcpus},{memory_gb * 1024},{vcpus * 10},{lifetime},p{number % 7},{group}"


_ROWS = {"azure-v1": _azure_v1, "azure-2020": _azure_2020, "huawei": _huawei, "csv": _csv}
