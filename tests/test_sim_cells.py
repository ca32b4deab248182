"""The simulator's own reading of cells: what a claim may take of them, and what may be given of them by number."""

from typing import Any

import pytest

from commonplace.core.records.claims import Claim
from commonplace.core.records.control import CellAsk, DeviceAsk, Flavor
from commonplace.core.records.hosts import Allocation, Assigned, Whole
from commonplace.core.resources import Inventory
from commonplace.sim.cells import as_asked, misgiven, uneven
from commonplace.sim.model import Facts
from commonplace.sim.plan import Config
from commonplace.sim.shapes import SHAPES, cells_of, flavor_of, inventory_of

CONFIG = Config(cells=2, dedicated=4, threads=2, cards=2, card_shares=2, huge_pages=1_024, apart=True)
FACTS = Facts((inventory_of(CONFIG, 8, 0), (), {}, "enabled", cells_of(CONFIG, 8)))
FLAVORS = {item.name: flavor_of(item, 1) for item in SHAPES}


def held(cells: dict[str, dict[str, int]], **fields: Any) -> Allocation:
    resources: dict[str, int] = {}
    for parts in cells.values():
        for name, amount in parts.items():
            if not name.startswith("PAGES"):
                resources[name] = resources.get(name, 0) + amount
    return Allocation(**{"id": "a", "resources": resources, "cells": cells, **fields})


def claim(*asked: Allocation, **terms: Any) -> Claim:
    return Claim(host="h", request="r", lease_ms=1, allocations=list(asked), **terms)


@pytest.mark.parametrize(
    ("flavor", "cells", "right"),
    [
        ("pinned", {"0": {"PCPU": 1, "MEMORY_MB": 1024}}, True),
        ("pinned", {"0": {"PCPU": 1}, "1": {"MEMORY_MB": 1024}}, False),
        ("pinned", {"2": {"PCPU": 1, "MEMORY_MB": 1024}}, False),
        ("wide", {"0": {"PCPU": 1, "MEMORY_MB": 1024}, "1": {"PCPU": 1, "MEMORY_MB": 1024}}, True),
        ("wide", {"0": {"PCPU": 2, "MEMORY_MB": 2048}}, False),
        ("loose", {"1": {"VCPU": 1, "PCPU": 1, "MEMORY_MB": 1024}}, True),
        ("paged", {"0": {"VCPU": 1, "MEMORY_MB": 1024, "PAGES_2048": 512}}, True),
        ("paged", {"0": {"VCPU": 1, "MEMORY_MB": 1024, "PAGES_4": 262_144}}, False),
        ("slice", {"0": {"VCPU": 1, "MEMORY_MB": 1024, "VGPU": 1}}, True),
        ("slice", {"0": {"VCPU": 1, "MEMORY_MB": 1024}, "1": {"VGPU": 1}}, False),
        ("slice", {"0": {"VCPU": 1, "MEMORY_MB": 1024}, "apart": {"VGPU": 1}}, False),
        ("cards", {"0": {"VCPU": 1, "MEMORY_MB": 1024, "VGPU": 1}, "1": {"VGPU": 1}}, True),
        ("cards", {"0": {"VCPU": 1, "MEMORY_MB": 1024, "VGPU": 3}}, False),
    ],
)
def test_a_claim_takes_of_cells_just_what_its_flavor_asks_for(
    flavor: str, cells: dict[str, dict[str, int]], right: bool
) -> None:
    allocation = held(cells, resources=FLAVORS[flavor].resources)
    assert as_asked(allocation, [FLAVORS[flavor]], FACTS.cells) is right
    grown = Allocation(id="b", resources={}, replaces="a", becomes=Whole(resources=allocation.resources, cells=cells))
    assert as_asked(grown, [FLAVORS[flavor]], FACTS.cells) is right
    assert not as_asked(held(cells, resources={"VCPU": 7}), [FLAVORS[flavor]], FACTS.cells)


def test_devices_near_no_cell_are_for_who_does_not_insist() -> None:
    cells = {"0": {"VCPU": 1, "MEMORY_MB": 64}, "apart": {"VGPU": 1}}
    for policy, right in (("legacy", True), ("preferred", True), ("required", False)):
        flavor = Flavor(
            name="f",
            resources={"VCPU": 1, "MEMORY_MB": 64, "VGPU": 1},
            cells=(CellAsk(cpus=1, memory_mb=64),),
            devices=(DeviceAsk(resource_class="VGPU", policy=policy),),  # type: ignore[arg-type]
        )
        assert as_asked(held(cells), [flavor], FACTS.cells) is right


@pytest.mark.parametrize(
    ("cells", "resources", "words"),
    [
        ({"0": {"VCPU": 4}}, {"VCPU": 4}, ""),
        ({"0": {"VCPU": 5}}, {"VCPU": 5}, "5 VCPU are more than cell 0 has cpus"),
        ({"7": {"VCPU": 1}}, {"VCPU": 1}, "the host has no cell 7"),
        ({}, {"PCPU": 1}, "of 1 PCPU 0 are of a cell"),
        ({"0": {"VGPU": 1}}, {"VGPU": 2}, "of 2 VGPU 1 are of a cell"),
        ({"0": {"MEMORY_MB": 4, "PAGES_2048": 1}}, {"MEMORY_MB": 4}, "1 PAGES_2048 are not the 4 MB of cell 0"),
    ],
)
def test_what_no_cell_can_give_to_one_allocation_is_told(
    cells: dict[str, dict[str, int]], resources: dict[str, int], words: str
) -> None:
    assert next(uneven(claim(held(cells, resources=resources)), FACTS), "") == words


@pytest.mark.parametrize(
    ("amounts", "given", "terms", "words"),
    [
        ({"PCPU": 2}, Assigned(cpus="50,52"), {}, ""),
        ({"PCPU": 2}, Assigned(cpus="50"), {}, "gave a 1 of the 2 PCPU of cell 0 by number"),
        ({"PCPU": 1}, Assigned(cpus="50-51"), {}, "gave a 2 of the 1 PCPU of cell 0 by number"),
        ({"PCPU": 1}, Assigned(cpus="3"), {}, "gave a cpu 3 of cell 0: 1 of 0 are used"),
        ({"PCPU": 2}, Assigned(cpus="50-51"), {"threads": "require"}, ""),
        ({"PCPU": 2}, Assigned(cpus="50,52"), {"threads": "require"}, "which are not threads of the same cores"),
        ({"PCPU": 3}, Assigned(cpus="50-52"), {"threads": "require"}, ""),
        ({"PCPU": 1}, Assigned(cpus="52-53"), {"threads": "isolate"}, ""),
        ({"PCPU": 2}, Assigned(cpus="50-51"), {"threads": "isolate"}, "which are not 2 whole cores"),
        ({"VGPU": 2}, Assigned(devices={"0-0": 2}), {}, ""),
        ({"VGPU": 2}, Assigned(devices={"0-0": 2}), {"shares": {"VGPU": 1}}, "it asks for 1 of each"),
        ({"VGPU": 2}, Assigned(devices={"0-0": 1, "0-1": 1}), {"shares": {"VGPU": 1}}, ""),
        ({"VGPU": 3}, Assigned(devices={"0-0": 3}), {}, "gave a device 0-0 of cell 0: 3 of 2 are used"),
    ],
)
def test_what_is_given_by_number_is_there_free_and_as_it_was_claimed(
    amounts: dict[str, int], given: Assigned, terms: dict[str, Any], words: str
) -> None:
    one = held({"0": amounts}, assigned={"0": given})
    found = list(misgiven(one, claim(one, **terms), {"a": one}, [FACTS]))
    assert found == [] if not words else any(words in text for text in found)


def test_a_cpu_of_two_allocations_is_given_twice_unless_the_facts_before_had_it_otherwise() -> None:
    one = held({"0": {"PCPU": 1}}, assigned={"0": Assigned(cpus="50")})
    other = held({"0": {"PCPU": 1}}, id="b", assigned={"0": Assigned(cpus="50")})
    both = {"a": one, "b": other}
    assert list(misgiven(one, claim(one), both, [FACTS])) == ["gave a cpu 50 of cell 0: 2 of 1 are used"]
    smaller = Facts(({"VCPU": Inventory(total=1)}, (), {}, "enabled", {}))
    assert list(misgiven(one, claim(one), {"a": one}, [FACTS, smaller])) == []  # taken before the cells went


def test_what_a_replaced_allocation_had_is_kept_though_the_host_offers_it_no_more() -> None:
    old = held({"0": {"PCPU": 1}}, id="old", assigned={"0": Assigned(cpus="3")})
    new = held({"0": {"PCPU": 1}}, assigned={"0": Assigned(cpus="3")})
    assert list(misgiven(new, claim(new), {"a": new}, [FACTS], old)) == []
    both = {"a": new, "old": old}
    assert list(misgiven(new, claim(new), both, [FACTS], old)) == ["gave a cpu 3 of cell 0: 2 of 0 are used"]


def test_hosts_say_in_all_what_their_cells_have() -> None:
    assert {name: item.total for name, item in inventory_of(CONFIG, 8, 1).items()} == {
        "VCPU": 8, "PCPU": 8, "MEMORY_MB": 4_096 * 16, "VGPU": 12,
    }  # fmt: skip
    plain = inventory_of(Config(), 8, 9)
    assert plain == {"VCPU": Inventory(total=8, reserved=8), "MEMORY_MB": Inventory(total=32_768)}
    assert cells_of(Config(), 8) == {}
