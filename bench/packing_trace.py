"""What is packed: hosts, flavors, and the events of a trace up to a demand that the hosts cannot hold."""

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from commonplace.agent.shapes import hosts, parse_shapes
from commonplace.core.keeper_events import HostSpec
from commonplace.core.records import DeviceAsk, Flavor
from commonplace.ops.replay.formats import FORMATS, Arrival, read, shape_name
from commonplace.ops.replay.schedule import Arrive, Event, events

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


class Case(Struct, frozen=True, kw_only=True):
    """A fleet and what is asked of it, in order.

    `half_at`: how many arrivals ask for half of some class's capacity. `impossible`: those that no empty host could hold, left out.
    """

    name: str
    hosts: tuple[HostSpec, ...]
    flavors: dict[str, Flavor]
    events: tuple[Event, ...]
    arrivals: int
    half_at: int
    impossible: int

    @property
    def mix(self) -> dict[str, float]:
        """Share of each flavor among the arrivals."""
        asked = Counter(e.arrival.flavor for e in self.events if isinstance(e, Arrive))
        return {name: count / asked.total() for name, count in sorted(asked.items())}


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


def case(
    name: str,
    arrivals: Iterable[Arrival],
    devices: Mapping[str, tuple[DeviceAsk, ...]],
    shape: str,
    count: int,
    beyond: float,
    lifetimes: bool,
) -> Case:
    """Take arrivals until they ask for (1 + beyond) times the capacity of some class, or, with `lifetimes`, all of them."""
    fleet = tuple(
        HostSpec(name=host, inventory=inventory, labels=labels, cells=cells)
        for host, inventory, _, labels, cells in hosts(count, parse_shapes(shape))
    )
    room: Counter[str] = Counter()
    for spec in fleet:
        room.update({name: item.capacity for name, item in spec.inventory.items()})
    flavors: dict[str, Flavor] = {}
    taken: list[Arrival] = []
    asked: Counter[str] = Counter()
    impossible = half_at = 0
    for arrival in arrivals:
        if not any(_holds(spec, arrival.resources) for spec in fleet):
            impossible += 1
            continue
        asked.update(arrival.resources)
        if not lifetimes and any(asked[name] > room[name] * (1 + beyond) for name in asked):
            break
        if not half_at and any(asked[name] > room[name] / 2 for name in asked):
            half_at = len(taken)
        wanted = devices.get(arrival.flavor, ())
        flavors.setdefault(
            arrival.flavor, Flavor(name=arrival.flavor, resources=arrival.resources, devices=wanted, spread=64)
        )
        taken.append(arrival if lifetimes else replace(arrival, lifetime_s=None))
    return Case(
        name=name,
        hosts=fleet,
        flavors=flavors,
        events=tuple(events(taken, tail=False)),
        arrivals=len(taken),
        half_at=len(taken) // 2 if lifetimes else half_at,
        impossible=impossible,
    )


def _holds(spec: HostSpec, resources: Mapping[str, int]) -> bool:
    return all(name in spec.inventory and spec.inventory[name].capacity >= n for name, n in resources.items())


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
