"""A fleet and what is asked of it, in order: what replicas race for in conflicts, and what packing compares."""

from collections import Counter
from collections.abc import Iterable, Mapping

from msgspec import Struct
from msgspec.structs import replace

from commonplace.agent.shapes import hosts, parse_shapes
from commonplace.core.keeper_events import HostSpec
from commonplace.core.records.control import DeviceAsk, Flavor
from commonplace.ops.replay.formats import Arrival
from commonplace.ops.replay.schedule import Arrive, Event, events


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


def fleet_of(shape: str, count: int) -> tuple[HostSpec, ...]:
    """Simulated hosts, as `commonplace fleet` makes them."""
    return tuple(
        HostSpec(name=host, inventory=inventory, labels=labels, cells=cells)
        for host, inventory, _, labels, cells in hosts(count, parse_shapes(shape))
    )


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
    fleet = fleet_of(shape, count)
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
