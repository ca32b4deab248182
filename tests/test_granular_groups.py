"""Granular groups: each from one cell of a host, exactly where a way exists; what cannot be meant is refused with what to do."""

from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commonplace.core.catalog import Catalog
from commonplace.core.cells import Cells
from commonplace.core.codec import encode
from commonplace.core.grouping import misuse, place, units_of
from commonplace.core.keeper_events import HostSpec
from commonplace.core.laying import layout_of, plan, why_not
from commonplace.core.numa import Cell, DeviceRoom, Ratios
from commonplace.core.records.control import Flavor, GroupAsk
from commonplace.core.records.requests import Build
from commonplace.core.resources import Inventory
from test_cells import CELLS, INVENTORY
from world import World


def a_flavor(*groups: GroupAsk, policy: Any = "", **more: Any) -> Flavor:
    total: dict[str, int] = {}
    for one in groups:
        for name, amount in one.resources.items():
            total[name] = total.get(name, 0) + amount
    return Flavor(name="f", **({"resources": total or {"VCPU": 1}, "groups": groups, "group_policy": policy} | more))


def group(name: str, beside: str = "", **resources: int) -> GroupAsk:
    return GroupAsk(name=name, resources=resources, beside=beside)


small = st.builds(
    lambda shared, dedicated, memory, gpus, used: Cell(
        shared=frozenset(range(shared)),
        dedicated=frozenset(range(8, 8 + dedicated)),
        memory_mb=memory,
        shared_used=used,
        devices=(DeviceRoom("VGPU", "g", gpus, gpus),) if gpus else (),
    ),
    st.integers(0, 3), st.integers(0, 3), st.integers(0, 6), st.integers(0, 3), st.integers(0, 2),
)  # fmt: skip
asked = st.dictionaries(
    st.sampled_from(("VCPU", "PCPU", "MEMORY_MB", "VGPU")), st.integers(1, 3), min_size=1, max_size=3
)


def holds(cell: Cell, amounts: dict[str, int], cpu_ratio: int) -> bool:
    """Whether a cell without pages and threads has all of it free, written from the words of docs/protocol.md."""
    vcpus, pcpus, memory = (amounts.get(name, 0) for name in ("VCPU", "PCPU", "MEMORY_MB"))
    free_gpus = sum(device.free for device in cell.devices)
    if amounts.get("VGPU", 0) > free_gpus or pcpus > len(cell.dedicated - cell.pinned) or vcpus > len(cell.shared):
        return False
    if memory > cell.memory_mb - cell.memory_used_mb:
        return False
    # who asks for dedicated cpus alone takes nothing of what is shared
    asks_shared = vcpus or (memory and not pcpus)
    return not asks_shared or cell.shared_used + vcpus <= len(cell.shared) * cpu_ratio


@settings(max_examples=400, deadline=None)
@given(st.lists(small, min_size=1, max_size=4), st.lists(asked, min_size=1, max_size=4), st.booleans())
def test_groups_are_placed_exactly_when_one_of_all_ways_does(
    host: list[Cell], groups: list[dict[str, int]], isolate: bool
) -> None:
    cells: Cells = {str(i): cell for i, cell in enumerate(host)}
    units = tuple(tuple(sorted(one.items())) for one in groups)

    def good(way: tuple[str, ...]) -> bool:
        if isolate and len(set(way)) < len(way):
            return False
        sums: dict[str, dict[str, int]] = {}
        for name, one in zip(way, groups, strict=True):
            for resource, amount in one.items():
                here = sums.setdefault(name, {})
                here[resource] = here.get(resource, 0) + amount
        return all(holds(cells[name], amounts, 2) for name, amounts in sums.items())

    taken = place(cells, units, isolate, Ratios(cpu=2000))
    assert (taken is not None) is any(good(way) for way in product(cells, repeat=len(groups)))
    if taken is not None:
        assert all(holds(cells[name], amounts, 2) for name, amounts in taken.items())
        for resource in ("VCPU", "PCPU", "MEMORY_MB", "VGPU"):
            assert sum(a.get(resource, 0) for a in taken.values()) == sum(g.get(resource, 0) for g in groups)
        if isolate:
            assert len(taken) == len(groups)


def test_groups_beside_one_another_share_a_cell() -> None:
    flavor = a_flavor(group("a", VGPU=1), group("b", PCPU=2), group("c", "a", PCPU=1))
    assert units_of(flavor) == ((("PCPU", 1), ("VGPU", 1)), (("PCPU", 2),))


@pytest.mark.parametrize(
    ("flavor", "says"),
    [
        (a_flavor(group("a", VGPU=1), group("a", VGPU=1)), "two groups are called a: give each its own name"),
        (a_flavor(group("a", "b", VGPU=1), group("b", "c", VGPU=1), group("c", "a", VGPU=1)), "a beside b beside c beside a: drop one"),
        (a_flavor(group("a", "a", VGPU=1)), "in a circle, a beside a"),
        (a_flavor(group("a", "z", VGPU=1)), "beside z, which is no group of it: name one of a"),
        (a_flavor(group("a", VGPU=1), group("b", "a", VGPU=1), policy="isolate"), "keeps groups apart: drop one of the two"),
        (a_flavor(group("a", VGPU=1), resources={"VGPU": 2}), "its groups take 1 VGPU, its resources name 2: set resources VGPU to 1"),
        (a_flavor(group("a", VCPU=2), resources={"VCPU": 1}), "its groups take 2 VCPU, its resources name 1"),
        (a_flavor(group("a", VCPU=1), cells=({"cpus": 1},)), "the same resources twice: describe it by groups alone"),
        (a_flavor(policy="isolate"), "and it has none: name groups, or drop it"),
    ],
    ids=["overlapping names", "cyclic", "cyclic with itself", "unknown", "isolate", "devices", "cpus", "cells too", "none"],
)  # fmt: skip
def test_cyclic_overlapping_or_uneven_groups_are_refused_with_what_to_do(flavor: Flavor, says: str) -> None:
    assert says in misuse(flavor)


def test_a_flavor_with_cyclic_groups_is_not_used_and_its_requests_say_why() -> None:
    catalog = Catalog("default")
    flavor = a_flavor(group("a", "b", VGPU=1), group("b", "a", VGPU=1))
    _, _, why = catalog.fold(b"flavor/f", encode(flavor))
    assert "go round in a circle" in why
    assert "cannot be used" in catalog.refusal("f") or "unknown flavor" in catalog.refusal("f")


@pytest.mark.parametrize(
    ("flavor", "says"),
    [
        (a_flavor(*(group(n, VCPU=1) for n in "abc"), policy="isolate"), "cells for 3 groups, which isolate"),
        (a_flavor(group("a", VGPU=9)), "needs 9 VGPU in one cell"),
    ],
)
def test_a_host_that_cannot_place_the_groups_says_what_it_lacks(flavor: Flavor, says: str) -> None:
    from commonplace.core.cells import cells_of

    cells = cells_of(CELLS)
    layout = layout_of(flavor, flavor.resources, cells)
    assert plan(cells, layout, Ratios()) is None
    assert says in why_not(cells, layout, Ratios())


@pytest.mark.parametrize("policy", ["none", "isolate"])
def test_groups_are_claimed_granted_and_given_by_number(policy: str) -> None:
    world = World(partitions=1, request_partitions=1)
    flavor = a_flavor(group("a", PCPU=1, VGPU=1), group("b", PCPU=1, MEMORY_MB=64), policy=policy)
    world.flavor(flavor)
    agent = world.agent(specs=[HostSpec(name="h1", inventory=INVENTORY | {"DISK_GB": Inventory(total=9)}, cells=CELLS)])
    world.settle()
    world.scheduler("r1")
    world.submit(Build(id="q", flavor="f"))
    world.settle()
    assert world.decisions("q")[0].result == "placed"
    ledger = agent.keeper.hosts["h1"].ledger
    assert ledger is not None
    (held,) = ledger.allocations.values()
    assert len(held.cells) == (2 if policy == "isolate" else 1)
    assert sum(len((given.cpus or "").split(",")) for given in (held.assigned or {}).values() if given.cpus) >= 1
