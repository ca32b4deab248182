"""A request for several instances that must stand together is founded on a host that takes all of them, where there is one."""

from typing import Any

import pytest

from commonplace.core.codec import encode
from commonplace.core.keeper_events import HostSpec
from commonplace.core.records.control import CellAsk, Flavor, Profile
from commonplace.core.records.requests import Build
from commonplace.core.resources import Inventory
from test_cells import CELLS, INVENTORY
from world import World, flavor, inventory

TOGETHER: dict[str, Any] = {"group": "g", "group_policy": "affinity"}


def world(*hosts: HostSpec, **profile: Any) -> World:
    made = World(partitions=1, request_partitions=1)
    made.append("control", 0, b"profile/default", encode(Profile(name="default", **profile)))
    made.flavor(flavor("small"))
    made.agent(specs=list(hosts))
    made.settle()
    made.scheduler("r1")
    return made


def place(made: World, **fields: Any) -> Any:
    made.submit(Build(id="q", **({"flavor": "small"} | TOGETHER | fields)))
    made.settle()
    return made.decisions("q")[0]


def hosts(decision: Any) -> list[str]:
    return sorted({placed.host for placed in decision.placed})


PACK: dict[str, float] = {"cpu": -1.0}
"""The host that is fullest is best for one."""


def test_a_group_is_founded_where_all_of_its_request_fit() -> None:
    made = world(
        *(HostSpec(name=n, inventory=inventory(vcpus=v)) for n, v in (("h1", 2), ("h2", 8), ("h3", 3))), weighers=PACK
    )
    decision = place(made, count=4)
    assert (decision.result, hosts(decision), decision.conflicts) == ("placed", ["h2"], 0)


def test_builds_in_progress_count_because_all_are_claimed_at_once() -> None:
    made = world(
        HostSpec(name="h1", inventory=inventory(vcpus=8)),
        HostSpec(name="h2", inventory=inventory(vcpus=9)),
        weighers=PACK,
        builds_max=5,
    )
    made.submit(Build(id="one", flavor="small", host="h1"))
    made.settle()
    assert hosts(place(made, count=5)) == ["h2"]


def test_where_no_host_takes_all_a_part_goes_where_the_part_fits_or_nothing_is_placed() -> None:
    specs = [HostSpec(name=n, inventory=inventory(vcpus=v)) for n, v in (("h1", 1), ("h2", 3))]
    assert place(world(*specs, weighers=PACK), count=4).result == "no_valid_host"
    decision = place(world(*specs, weighers=PACK), count=4, count_min=2)
    assert (decision.result, hosts(decision), len(decision.placed)) == ("placed", ["h2"], 3)


@pytest.mark.parametrize(("count", "result"), [(2, "placed"), (3, "no_valid_host")])
def test_cells_are_laid_for_all_of_them(count: int, result: str) -> None:
    whole = INVENTORY | {"DISK_GB": Inventory(total=99)}
    one_cell = {"0": CELLS["0"]}
    made = world(
        HostSpec(name="h1", inventory=whole, cells=one_cell),
        HostSpec(name="h2", inventory=whole, cells=CELLS),
        weighers=PACK,
    )
    made.flavor(Flavor(name="pinned", resources={"PCPU": 3}, cells=(CellAsk(cpus_dedicated=3),)))
    made.flavor(flavor("tiny", memory_mb=16))
    made.submit(Build(id="before", flavor="tiny", host="h1"))  # so that h1 is the better one for one
    made.settle()
    assert made.decisions("before")[0].result == "placed"
    decision = place(made, flavor="pinned", count=count)
    assert decision.result == result
    assert result != "placed" or hosts(decision) == ["h2"]
