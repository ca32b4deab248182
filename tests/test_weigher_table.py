"""Every weigher has the raw value that it says, and relative scores are normalised over the hosts that passed."""

from typing import Any

import pytest

from commonplace.core.ask import PROFILES
from commonplace.core.choosing import normalised, weigh
from commonplace.core.filter_table import canonical
from commonplace.core.raw_weighers import RAW, CannotWeigh, multiplier
from commonplace.core.records.control import Aggregate, Profile
from commonplace.core.records.hosts import Allocation
from commonplace.core.records.requests import Build
from commonplace.core.resources import Inventory
from peer.fleet import Fleet, wishes

INVENTORY = {
    "VCPU": Inventory(total=8, allocation_ratio_thousandths=2000),
    "MEMORY_MB": Inventory(total=1000, reserved=100),
    "DISK_GB": Inventory(total=10),
    "CUSTOM_PCI_8086_1520": Inventory(total=4),
}


def build(**fields: Any) -> Build:
    return Build(id="r-1", flavor="m1", **fields)


def held(instance: str, **fields: Any) -> Allocation:
    return Allocation(**{"id": f"a-{instance}", "instance": instance, "resources": {}, **fields})


USED = held("i-0", resources={"VCPU": 5, "MEMORY_MB": 600, "DISK_GB": 4, "CUSTOM_PCI_8086_1520": 1}, building=True)
MEMBERS = (held("i-1", group="g"), held("i-2", group="g"), held("i-3"))
DEBIAN = held("i-1", image=("arch=x86_64", "os=debian"))
LINUX = {"os": "debian", "arch": "arm"}

OURS = {"fgd"}
"""Weighers that Nova has not."""

CASES: tuple[tuple[str, dict[str, Any], dict[str, Any], float], ...] = (
    # weigher, what the host is, what is asked, raw value
    ("cpu", {"allocations": (USED,)}, {}, 11.0),
    ("ram", {"allocations": (USED,)}, {}, 300),
    ("disk", {"allocations": (USED,)}, {}, 6 * 1024),
    ("disk", {"load": {"free_disk_mb": 77.0}}, {}, 77.0),
    ("io_ops", {"allocations": (USED,)}, {}, 1),
    ("num_instances", {"allocations": MEMBERS}, {}, 3),
    ("build_failure", {"load": {"failed_builds": 2.0}}, {}, 2),
    ("hypervisor_version", {"labels": {"hypervisor_version": "6002000"}}, {}, 6002000),
    ("hypervisor_version", {"labels": {"hypervisor_version": "six"}}, {}, 0),
    ("pci", {"allocations": (USED,)}, {}, 97),
    ("pci", {"inventory": {"CUSTOM_PCI_8086_1520": Inventory(total=500)}}, {}, 1),
    (
        "server_group_soft_affinity",
        {"allocations": MEMBERS},
        {"build": build(group="g", group_policy="soft-affinity")},
        2,
    ),
    ("server_group_soft_affinity", {"allocations": MEMBERS}, {"build": build(group="g")}, 0),
    (
        "server_group_soft_anti_affinity",
        {"allocations": MEMBERS},
        {"build": build(group="g", group_policy="soft-anti-affinity")},
        -2,
    ),
    ("metrics", {"load": {"a": 2.0, "b": 3.0}}, {"profile": Profile(name="p", metrics={"a": 2.0, "b": -1.0})}, 1.0),
    (
        "metrics",
        {},
        {"profile": Profile(name="p", weighers={"metrics": 1.0}, metrics={"a": 2.0}, metrics_required=False)},
        -10_000,
    ),
    (
        "metrics",
        {},
        {"profile": Profile(name="p", weighers={"metrics": 0.0}, metrics={"a": 2.0}, metrics_required=False)},
        0,
    ),
    (
        "image_properties",
        {"allocations": (DEBIAN, held("i-2", image=("os=debian",)))},
        {"build": build(image_properties=LINUX)},
        2,
    ),
    (
        "image_properties",
        {"allocations": (DEBIAN,)},
        {"build": build(image_properties=LINUX), "profile": Profile(name="p", image_weights={"os": 3.0})},
        3,
    ),
    ("cross_cell", {"labels": {"cell": "c1"}}, {"build": build(cell="c1")}, 1),
    ("cross_cell", {"labels": {"cell": "c2"}}, {"build": build(cell="c1")}, -1),
    ("cross_cell", {"labels": {"cell": "c2"}}, {}, 0),
    ("fgd", {"allocations": (USED,)}, {}, 0),  # test_fragments.py has the others
)


@pytest.mark.parametrize(("name", "host", "asked", "value"), CASES, ids=[f"{n}-{i}" for i, (n, *_) in enumerate(CASES)])
def test_weigher_has_its_raw_value(name: str, host: dict[str, Any], asked: dict[str, Any], value: float) -> None:
    fleet = Fleet()
    row = fleet.host("h1", **{"inventory": INVENTORY, **host})
    assert RAW[name].raw(fleet.view, row, wishes(**asked)) == value


def test_every_weigher_has_a_case_and_all_but_ours_a_name_in_nova_and_a_default_in_the_nova_profile() -> None:
    assert {name for name, *_ in CASES} == set(RAW) == {*PROFILES["nova"].weighers, *OURS}
    theirs = (
        "RAM CPU Disk IoOps NumInstances BuildFailure HypervisorVersion PCI ServerGroupSoftAffinity ServerGroupSoftAntiAffinity "
        "Metrics ImageProperties CrossCell"
    )
    assert {canonical(f"{name}Weigher", "Weigher") for name in theirs.split()} == set(RAW) - OURS


def test_a_required_metric_that_is_not_reported_cannot_be_weighed() -> None:
    fleet = Fleet()
    row = fleet.host("h1")
    request = wishes(profile=Profile(name="p", weighers={"metrics": 1.0}, metrics={"a": 1.0}))
    with pytest.raises(CannotWeigh, match="h1 does not report metric a"):
        RAW["metrics"].raw(fleet.view, row, request)


@pytest.mark.parametrize(
    ("raw", "floor", "expected"),
    [
        ([1, 3, 2], None, [0.0, 1.0, 0.5]),
        ([4, 4], None, [0.0, 0.0]),
        ([4, 8], 0.0, [0.5, 1.0]),
        ([-4, 8], 0.0, [0.0, 1.0]),
        ([-4, -8], 0.0, [0.0, 0.0]),
        ([5], 0.0, [1.0]),
    ],
)
def test_values_are_normalised_from_the_least_or_the_floor(
    raw: list[float], floor: float | None, expected: list[float]
) -> None:
    assert normalised(raw, floor) == expected


def four(**profile: Any) -> tuple[Fleet, list[Any], Any]:
    """Hosts with 100, 300, 200 and 300 MB free."""
    fleet = Fleet()
    rows = [fleet.host(f"h{i}", {"MEMORY_MB": Inventory(total=mb)}) for i, mb in enumerate((100, 300, 200, 300))]
    return fleet, rows, Profile(**{"name": "p", "scale": "relative", "weighers": {"ram": 2.0}, **profile})


def test_relative_scores_are_sorted_and_ties_keep_their_order() -> None:
    fleet, rows, profile = four()
    weighed = weigh(fleet.view, rows, wishes(profile=profile))
    assert [(one.row.host.name, one.score) for one in weighed] == [
        ("h1", 2.0),
        ("h3", 2.0),
        ("h2", 4 / 3),
        ("h0", 2 / 3),
    ]
    assert weighed[2].parts["ram"] == (200, 2 / 3, 2.0)


def test_a_host_alone_scores_nothing() -> None:
    fleet, rows, profile = four()
    assert [one.score for one in weigh(fleet.view, rows[:1], wishes(profile=profile))] == [0.0]


@pytest.mark.parametrize(
    ("said", "factor"),
    [((), 2.0), (("5",), 5.0), (("5", "3"), 3.0), (("5", "much"), 2.0), (("-1",), -1.0)],
)
def test_aggregates_override_a_multiplier_and_the_smallest_wins(said: tuple[str, ...], factor: float) -> None:
    _, rows, profile = four()
    aggregates = [
        Aggregate(name=f"a{i}", hosts=("h1",), metadata={"ram_weight_multiplier": one}) for i, one in enumerate(said)
    ]
    request = wishes(profile=profile, aggregates=aggregates)
    assert multiplier(rows[1], request, "ram") == factor
    assert multiplier(rows[2], request, "ram") == 2.0


def test_the_override_for_failed_builds_is_written_without_the_minus() -> None:
    fleet = Fleet()
    row = fleet.host("h1")
    aggregate = Aggregate(name="a", hosts=("h1",), metadata={"build_failure_weight_multiplier": "7"})
    assert multiplier(row, wishes(profile=PROFILES["nova"], aggregates=[aggregate]), "build_failure") == -7.0
