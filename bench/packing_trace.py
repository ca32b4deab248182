"""What is packed: traces of a file or drawn at random, up to a demand that the hosts cannot hold."""

import random
from collections.abc import Iterator
from pathlib import Path

from msgspec.structs import replace

from commonplace.bench.cases import Case, case
from commonplace.core.records.control import DeviceAsk
from commonplace.ops.replay.formats import FORMATS, Arrival, read, shape_name

GPU = "CUSTOM_GPU"
GPU_SHARES = 100
"""A device is given by hundredths."""

_GPU_HOSTS = {
    "1x(96vcpu:384gb:8gpux100)": 5,
    "1x(104vcpu:512gb:2gpux100)": 3,
    "1x(16vcpu:120gb:2gpux100)": 1,
    "1x(32vcpu:128gb:4gpux100)": 1,
}
GPU_HOSTS = ",".join(shape for shape, times in _GPU_HOSTS.items() for _ in range(times))
"""Servers of that cluster in about its proportions: 16 vCPUs a device."""

HOSTS = "24vcpu:48gb"

_SHAPES = ((1, 1792, 60), (2, 3584, 18), (4, 7168, 10), (8, 14336, 9), (2, 14336, 1), (8, 28672, 1), (1, 768, 1))
"""vCPUs, MB and weight: a public cloud's small first-generation sizes, in round figures."""

_GPU_SHAPES = (
    (8, 30, 0, 0, 78), (16, 32, 0, 0, 40), (32, 48, 0, 0, 15),
    (4, 22, 1, 22, 62), (4, 22, 1, 32, 66), (8, 30, 1, 32, 60), (6, 8, 1, 46, 60), (8, 30, 1, 47, 90), (8, 30, 1, 65, 40),
    (4, 24, 1, 100, 60), (8, 32, 1, 100, 110), (12, 24, 1, 100, 130), (12, 47, 1, 100, 110), (16, 32, 1, 100, 70),
    (16, 65, 2, 100, 2), (32, 130, 4, 100, 2), (88, 320, 8, 100, 5),
)  # fmt: skip
"""vCPUs, GB, devices, shares of each, weight. In thousandths 133 ask for no device, 378 for a share of one, 480 for a whole one, 9 for
several: the distribution that Weng et al. (ATC'23, table 1) publish of a production cluster. The sizes are ours, in its range."""


def of_file(path: Path, form: str, shape: str, count: int, beyond: float, lifetimes: bool) -> Case:
    """A real trace on `count` hosts; cells, groups and domains of it are not asked for."""
    arrivals = (replace(a, cells=(), group="", strategy="", domain="") for a in read(path, form))
    return case(path.name, arrivals, {}, shape or FORMATS[form].host_shape, count, beyond, lifetimes)


def synthetic(seed: int, shape: str, count: int, beyond: float) -> Case:
    """Small and large instances at random, none of which leaves."""
    return case("synthetic", _drawn(seed), {}, shape or HOSTS, count, beyond, False)


def gpu(seed: int, shape: str, count: int, beyond: float) -> Case:
    """Whole devices, shares of one and none, in the published proportions; nothing leaves."""
    devices = {_gpu_name(*size): _devices(size[2], size[3]) for size in _GPU_SHAPES}
    return case("gpu shares", _drawn_gpu(seed), devices, shape or GPU_HOSTS, count, beyond, False)


def _drawn(seed: int) -> Iterator[Arrival]:
    rng = random.Random(f"packing/{seed}")
    weights = [weight for *_, weight in _SHAPES]
    for number in range(10_000_000):
        vcpus, memory_mb, _ = rng.choices(_SHAPES, weights)[0]
        resources = {"VCPU": vcpus, "MEMORY_MB": memory_mb}
        yield Arrival(id=f"vm-{number}", at_s=number, flavor=shape_name("s", resources), resources=resources)


def _drawn_gpu(seed: int) -> Iterator[Arrival]:
    rng = random.Random(f"packing-gpu/{seed}")
    weights = [weight for *_, weight in _GPU_SHAPES]
    for number in range(10_000_000):
        size = rng.choices(_GPU_SHAPES, weights)[0]
        vcpus, memory_gb, devices, shares, _ = size
        resources = {"VCPU": vcpus, "MEMORY_MB": memory_gb * 1024}
        if devices:
            resources[GPU] = devices * shares
        yield Arrival(id=f"vm-{number}", at_s=number, flavor=_gpu_name(*size), resources=resources)


def _gpu_name(vcpus: int, memory_gb: int, devices: int, shares: int, weight: int) -> str:
    return f"g-c{vcpus}-m{memory_gb}-{devices}x{shares}"


def _devices(count: int, shares: int) -> tuple[DeviceAsk, ...]:
    return (DeviceAsk(resource_class=GPU, count=count, shares=shares),) if count else ()
