"""Random fleets and requests: the `nova` arithmetic and the filters against a plain reading of the tables, which shares no code with them.

The reading below knows hosts and requests as dicts of what was drawn; docs/profiles.md is all it follows.
"""

from itertools import permutations
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commonplace.core.choosing import weigh
from commonplace.core.filters import FILTERS
from commonplace.core.numa import Cell, Ratios, lay, misfit
from commonplace.core.records.control import Aggregate, CellAsk, Flavor, Profile
from commonplace.core.records.hosts import Allocation
from commonplace.core.records.requests import Build
from commonplace.core.resources import Inventory
from commonplace.core.rules import Wishes
from peer.fleet import Fleet, wishes

Drawn = dict[str, Any]
FILTERS_NAMED = (
    "aggregate_multi_tenancy_isolation", "aggregate_type_affinity", "aggregate_instance_extra_specs", "aggregate_num_instances",
    "isolated_hosts", "different_host", "same_host", "metrics", "server_group_affinity", "compute_capabilities",
)  # fmt: skip
WEIGHERS = (
    "ram",
    "cpu",
    "disk",
    "io_ops",
    "num_instances",
    "build_failure",
    "hypervisor_version",
    "server_group_soft_affinity",
    "metrics",
)


def draw_host(random: Random, name: str) -> Drawn:
    count = random.randint(0, 3)
    return {
        "name": name,
        "cpus": random.randint(4, 16),
        "ratio": random.choice((1000, 1500, 4000)),
        "mb": random.randint(400, 1000),
        "gb": random.randint(1, 50),
        "instances": [
            {
                "name": f"i-{name}-{i}", "group": random.choice(("", "g")), "cpus": random.randint(0, 4), "mb": random.randint(0, 200),
                "gb": random.randint(0, 9), "building": random.random() < 0.5,
            }
            for i in range(count)
        ],
        "zone": random.choice(("", "z1", "z2")),
        "kind": random.choice(("kvm", "xen")),
        "version": random.randint(1, 5),
        "failed": random.choice((0, 0, 3)),
        "idle": random.choice((None, 1.0, 2.5)),
    }  # fmt: skip


def draw_request(random: Random, hosts: list[Drawn]) -> Drawn:
    some = [one["name"] for host in hosts for one in host["instances"]] or ["nobody"]
    return {
        "cpus": random.randint(1, 4),
        "mb": random.randint(1, 200),
        "zone": random.choice(("", "", "", "z1", "default")),
        "project": random.choice(("blue", "red")),
        "image": random.choice(("", "windows")),
        "different": random.sample(some, min(len(some), random.choice((0, 0, 2)))),
        "same": random.sample(some, min(len(some), random.choice((0, 0, 0, 3)))),
        "policy": random.choice(("", "affinity", "soft-affinity")),
        "specs": random.choice(({}, {}, {"capabilities:hypervisor_type": "s== kvm"}, {"ssd": "<or> yes <or> fast"})),
    }


def draw_aggregates(random: Random, hosts: list[Drawn]) -> list[Drawn]:
    offered = {
        "filter_tenant_id": ("blue", "red", "blue,red"),
        "instance_type": ("m1", "m2, m1", "m2"),
        "max_instances_per_host": ("1", "3", "x"),
        "ssd": ("yes", "no, fast"),
        "ram_weight_multiplier": ("-2", "0.5"),
        "build_failure_weight_multiplier": ("7",),
    }
    return [
        {
            "name": f"agg-{i}",
            "hosts": [host["name"] for host in hosts if random.random() < 0.4],
            "metadata": {key: random.choice(values) for key, values in offered.items() if random.random() < 0.3},
        }
        for i in range(random.randint(0, 3))
    ]


def profile(random: Random) -> Profile:
    return Profile(
        name="p",
        scale="relative",
        weighers={name: random.choice((-1.0, 0.5, 2.0)) for name in WEIGHERS if random.random() < 0.7},
        filters=tuple(name for name in FILTERS_NAMED if random.random() < 0.3),
        builds_max=random.choice((0, 3)),
        instances_max=random.choice((3, 50)),
        isolated_hosts=("h0", "h1"),
        isolated_images=("windows",),
        metrics={"idle": 2.0},
        metrics_required=False,
        metrics_missing_weight=-3.0,
    )


def fleet_of(hosts: list[Drawn]) -> Fleet:
    fleet = Fleet()
    for host in hosts:
        labels = {"hypervisor_type": host["kind"], "hypervisor_version": str(host["version"])}
        fleet.host(
            host["name"],
            {
                "VCPU": Inventory(total=host["cpus"], allocation_ratio_thousandths=host["ratio"]),
                "MEMORY_MB": Inventory(total=host["mb"]),
                "DISK_GB": Inventory(total=host["gb"]),
            },
            [
                Allocation(
                    id=f"a-{one['name']}",
                    instance=one["name"],
                    group=one["group"],
                    building=one["building"],
                    resources={"VCPU": one["cpus"], "MEMORY_MB": one["mb"], "DISK_GB": one["gb"]},
                )
                for one in host["instances"]
            ],
            labels=labels | ({"zone": host["zone"]} if host["zone"] else {}),
            load={"failed_builds": float(host["failed"])} | ({} if host["idle"] is None else {"idle": host["idle"]}),
        )
    fleet.view.write()
    return fleet


def request_of(drawn: Drawn, aggregates: list[Drawn], by: Profile) -> Wishes:
    hints = {"different_host": tuple(drawn["different"]), "same_host": tuple(drawn["same"])}
    build = Build(
        id="r-1", flavor="m1", project=drawn["project"], image=drawn["image"], zone=drawn["zone"], group_policy=drawn["policy"],
        group="g" if drawn["policy"] else "", hints={name: names for name, names in hints.items() if names},
    )  # fmt: skip
    flavor = Flavor(name="m1", resources={"VCPU": drawn["cpus"], "MEMORY_MB": drawn["mb"]}, extra_specs=drawn["specs"])
    known = [Aggregate(name=one["name"], hosts=tuple(one["hosts"]), metadata=one["metadata"]) for one in aggregates]
    return wishes(build, flavor, by, known)


# --- the plain reading -----------------------------------------------------------------------------------------------


def said(host: Drawn, aggregates: list[Drawn], key: str) -> list[str]:
    return [one["metadata"][key] for one in aggregates if host["name"] in one["hosts"] and key in one["metadata"]]


def smallest(host: Drawn, aggregates: list[Drawn], key: str) -> float | None:
    try:
        return min([float(text) for text in said(host, aggregates, key)], default=None)
    except ValueError:
        return None


def words(texts: list[str]) -> set[str]:
    return {word.strip() for text in texts for word in text.split(",")}


def may_take(host: Drawn, request: Drawn, hosts: list[Drawn], aggregates: list[Drawn], by: Profile) -> bool:
    here = {one["name"] for one in host["instances"]}
    usual = {
        "compute_capabilities",
        "server_group_affinity",
        "aggregate_multi_tenancy_isolation",
        "different_host",
        "same_host",
    }
    named, count = set(by.filters) or usual, len(host["instances"])
    most = by.instances_max
    if "aggregate_num_instances" in named:
        own = smallest(host, aggregates, "max_instances_per_host")
        most = by.instances_max if own is None else int(own)
    grouped = [other["name"] for other in hosts if any(one["group"] == "g" for one in other["instances"])]
    tenants, flavors = said(host, aggregates, "filter_tenant_id"), said(host, aggregates, "instance_type")
    isolated = host["name"] in by.isolated_hosts
    checks = {
        "": [
            sum(one["cpus"] for one in host["instances"]) + request["cpus"] <= host["cpus"] * host["ratio"] // 1000,
            request["cpus"] <= host["cpus"],
            sum(one["mb"] for one in host["instances"]) + request["mb"] <= host["mb"],
            not by.builds_max or sum(one["building"] for one in host["instances"]) < by.builds_max,
            count < most,
            not request["zone"] or (host["zone"] or "default") == request["zone"],
        ],
        "aggregate_multi_tenancy_isolation": [not tenants or request["project"] in words(tenants)],
        "aggregate_type_affinity": [not flavors or "m1" in words(flavors)],
        "aggregate_instance_extra_specs": [
            "ssd" not in request["specs"] or bool(words(said(host, aggregates, "ssd")) & {"yes", "fast"})
        ],
        "compute_capabilities": ["capabilities:hypervisor_type" not in request["specs"] or host["kind"] == "kvm"],
        "isolated_hosts": [(request["image"] == "windows") == isolated],
        "different_host": [not here & set(request["different"])],
        "same_host": [not request["same"] or bool(here & set(request["same"]))],
        "metrics": [host["idle"] is not None],
        "server_group_affinity": [request["policy"] != "affinity" or not grouped or host["name"] in grouped],
    }
    return all(all(held) for name, held in checks.items() if name == "" or name in named)


def worth(host: Drawn, request: Drawn, name: str) -> float:
    used = {key: sum(one[key] for one in host["instances"]) for key in ("cpus", "mb", "gb")}
    members = sum(one["group"] == "g" for one in host["instances"])
    values = {
        "ram": max(0, host["mb"] - used["mb"]),
        "cpu": max(0, host["cpus"] * host["ratio"] / 1000 - used["cpus"]),
        "disk": max(0, (host["gb"] - used["gb"]) * 1024),
        "io_ops": sum(one["building"] for one in host["instances"]),
        "num_instances": len(host["instances"]),
        "build_failure": host["failed"],
        "hypervisor_version": host["version"],
        "server_group_soft_affinity": members if request["policy"] == "soft-affinity" else 0,
        "metrics": -3.0 if host["idle"] is None else host["idle"] * 2.0,
    }
    return float(values[name])


def scores(passing: list[Drawn], request: Drawn, aggregates: list[Drawn], by: Profile) -> dict[str, float]:
    total = {host["name"]: 0.0 for host in passing}
    for name, multiplier in by.weighers.items() if len(passing) > 1 else ():
        raw = [worth(host, request, name) for host in passing]
        low, high = 0.0 if name in ("ram", "cpu", "disk", "io_ops") else min(raw), max(raw)
        for host, value in zip(passing, raw, strict=True):
            own = smallest(host, aggregates, f"{name}_weight_multiplier")
            factor = multiplier if own is None else -own if name == "build_failure" else own
            total[host["name"]] += factor * ((value - low) / (high - low) if high != low else 0.0)
    return total


# --- both ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(300))
def test_the_same_hosts_pass_with_the_same_scores_in_the_same_order(seed: int) -> None:
    random = Random(seed)
    hosts = [draw_host(random, f"h{i}") for i in range(random.randint(1, 8))]
    aggregates, by = draw_aggregates(random, hosts), profile(random)
    drawn = draw_request(random, hosts)
    view, request = fleet_of(hosts).view, request_of(drawn, aggregates, by)
    passing = [
        row
        for row in view.by_index
        if not any(plain(view, row, request.ask) for _, plain, _ in FILTERS)
        and not any(one.plain(view, row, request) for one in request.concerned())
    ]
    expected = [host for host in hosts if may_take(host, drawn, hosts, aggregates, by)]
    assert [row.host.name for row in passing] == [host["name"] for host in expected]
    plain_scores = scores(expected, drawn, aggregates, by)
    weighed = weigh(view, passing, request)
    assert {one.row.host.name: one.score for one in weighed} == pytest.approx(plain_scores)
    assert [one.score for one in weighed] == sorted((one.score for one in weighed), reverse=True)


def test_the_draws_reach_every_filter_and_most_requests_leave_a_choice() -> None:
    turned_away: dict[str, int] = {}
    left = 0
    for seed in range(300):
        random = Random(seed)
        hosts = [draw_host(random, f"h{i}") for i in range(random.randint(1, 8))]
        aggregates, by = draw_aggregates(random, hosts), profile(random)
        drawn = draw_request(random, hosts)
        view, request = fleet_of(hosts).view, request_of(drawn, aggregates, by)
        for one in request.concerned():
            turned_away[one.name] = turned_away.get(one.name, 0) + sum(
                bool(one.plain(view, row, request)) for row in view.by_index
            )
        left += sum(may_take(host, drawn, hosts, aggregates, by) for host in hosts) > 1
    assert {name for name, count in turned_away.items() if count >= 10} >= {*FILTERS_NAMED, "availability_zone"}
    assert left > 100


cpus = st.frozensets(st.integers(0, 5), max_size=4)
cells = st.builds(
    Cell,
    shared=cpus,
    dedicated=cpus,
    memory_mb=st.integers(0, 20),
    shared_used=st.integers(0, 2),
    networks=st.frozensets(st.sampled_from("ab"), max_size=1),
)
asks = st.builds(CellAsk, cpus=st.integers(0, 2), cpus_dedicated=st.integers(0, 2), memory_mb=st.integers(0, 12))


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.lists(cells, max_size=4), st.lists(asks, min_size=1, max_size=3), st.sets(st.sampled_from("ab")))
def test_cells_fit_exactly_when_one_of_all_ways_to_lay_them_does(
    host: list[Cell], asked: list[CellAsk], networks: set[str]
) -> None:
    known, ratios = {str(i): cell for i, cell in enumerate(host)}, Ratios(cpu=2000, memory=1500)

    def good(way: tuple[str, ...]) -> bool:
        near = [one for one in networks if any(one in cell.networks for cell in host)]
        return all(not misfit(known[name], ask, ratios) for name, ask in zip(way, asked, strict=True)) and all(
            any(one in known[name].networks for name in way) for one in near
        )

    found = lay(known, tuple(asked), ratios, sorted(networks))
    assert bool(found) is any(good(way) for way in permutations(known, len(asked)))
    assert not found or good(found)
