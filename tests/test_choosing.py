"""The choice for requests that call for more than their ask is that of a plain scan; what their filters turn away is explained by name."""

from random import Random
from typing import Any
from zlib import crc32

import numpy as np
import pytest

from commonplace.core import choosing
from commonplace.core.catalog import Catalog
from commonplace.core.choosing import choose
from commonplace.core.codec import encode
from commonplace.core.ranking import ScoreRow, column_scores, plain_scores, seed_of
from commonplace.core.raw_weighers import RAW
from commonplace.core.records.control import Aggregate, Flavor, Profile
from commonplace.core.records.hosts import Allocation
from commonplace.core.records.requests import Build
from commonplace.core.resources import Inventory
from commonplace.core.rows import Row
from commonplace.core.rules import Wishes
from commonplace.core.turned_away import explain
from commonplace.core.weigher_names import INCREMENTAL
from peer.fleet import Fleet, wishes

CPUS = 16
FLAVOR = Flavor(name="m1", resources={"VCPU": 2, "MEMORY_MB": 64})


def random_fleet(random: Random, hosts: int) -> Fleet:
    """Hosts of many loads in two zones; some are of a group."""
    fleet = Fleet()
    for index in range(hosts):
        used = [
            Allocation(
                id=f"a-{index}-{i}",
                instance=f"i-{index}-{i}",
                group=random.choice(("", "g")),
                resources={"VCPU": random.randint(0, 4), "MEMORY_MB": 64},
            )
            for i in range(random.randint(0, 4))
        ]
        fleet.host(
            f"h{index}",
            {"VCPU": Inventory(total=CPUS), "MEMORY_MB": Inventory(total=512)},
            used,
            labels={"zone": random.choice(("z1", "z2"))},
            load={"failed_builds": float(random.randint(0, 1))},
        )
    fleet.view.write()
    return fleet


REQUESTS: tuple[dict[str, Any], ...] = (
    {"build": Build(id="r-1", flavor="m1", zone="z1")},
    {"build": Build(id="r-1", flavor="m1", zone="nowhere")},
    {"build": Build(id="r-1", flavor="m1", group="g", group_policy="affinity")},
    {"build": Build(id="r-1", flavor="m1", hints={"query": ('[">", "$num_instances", 1]',)})},
    {
        "build": Build(id="r-1", flavor="m1", group="g", group_policy="soft-affinity"),
        "profile": Profile(name="p", weighers={"cpu": 1.0, "server_group_soft_affinity": 0.1, "build_failure": -2.0}),
    },
    {"build": Build(id="r-1", flavor="m1", zone="z2"), "profile": Profile(name="p", weighers={"num_instances": -1.0})},
    {"profile": Profile(name="p", scale="relative", weighers={"cpu": 1.0, "ram": 2.0, "build_failure": -1.0})},
    {
        "build": Build(id="r-1", flavor="m1", zone="z2"),
        "profile": Profile(name="p", scale="relative", weighers={"cpu": 1.0}, subset_size=3),
    },
)


def scan(fleet: Fleet, request: Wishes, barred: list[int]) -> set[str]:
    """Names of the hosts that may be chosen: the best `subset_size` of those that pass, ties of the last place included."""
    view, profile = fleet.view, request.profile
    hot = plain_scores(view, request.ask)
    passing = [
        row
        for row in view.by_index
        if hot[row.index] > -np.inf
        and row.index not in barred
        and not any(one.plain(view, row, request) for one in request.concerned())
    ]
    if profile.scale == "relative":
        scores = {one.row.index: one.score for one in choosing.weigh(view, passing, request)}
    else:
        scores = {}
        for row in passing:
            cold = (name for name in profile.weighers if name not in INCREMENTAL)
            extra = (profile.weighers[name] * RAW[name].raw(view, row, request) for name in cold)
            scores[row.index] = hot[row.index] + sum(extra)
    for mine in (True, False):
        left = [row for row in passing if view.columns.mine[row.index] or not mine]
        if left:
            best = sorted((scores[row.index] for row in left), reverse=True)[: profile.subset_size]
            return {row.host.name for row in left if scores[row.index] >= best[-1] - 1e-12}
    return set()


@pytest.mark.parametrize("asked", REQUESTS, ids=range(len(REQUESTS)))
@pytest.mark.parametrize("picks", [0, 2, 16])
def test_choice_is_among_the_best_of_a_plain_scan(
    asked: dict[str, Any], picks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "PICKS_MAX", picks)
    random = Random(crc32(str(asked).encode()))
    for turn in range(24):
        fleet = random_fleet(random, random.choice((1, 5, 30)))
        if turn % 2:
            fleet.view.shard(np.array([random.random() < 0.3 for _ in fleet.view.by_index]))
        request = wishes(**{"flavor": FLAVOR, **asked})
        scores = ScoreRow(fleet.view, request.ask)
        scores.refresh()
        barred = [0] if turn % 3 == 0 else []
        seed = seed_of("r-1", 0, turn)
        row, wanted = choose(scores, request, seed, barred), scan(fleet, request, barred)
        assert row is not None if wanted else row is None
        assert row is None or row.host.name in wanted


@pytest.mark.parametrize("asked", REQUESTS[-2:], ids=range(2))
@pytest.mark.parametrize("said", [{}, {"cpu_weight_multiplier": "-3"}], ids=["plain", "overridden"])
def test_hosts_ordered_by_arrays_are_in_the_order_of_their_weights(asked: dict[str, Any], said: dict[str, str]) -> None:
    random = Random(7)
    for _ in range(20):
        fleet = random_fleet(random, random.choice((1, 2, 40)))
        listed = tuple(name for name in fleet.view.rows if random.random() < 0.5)
        request = wishes(
            **{"flavor": FLAVOR, **asked, "aggregates": (Aggregate(name="a", hosts=listed, metadata=said),)}
        )
        weighed = [one.row for one in choosing.weigh(fleet.view, fleet.view.by_index, request)]
        assert choosing.in_weight_order(fleet.view, fleet.view.by_index, request) == weighed


def test_ties_and_subsets_are_spread_by_the_seed_and_alike_everywhere() -> None:
    fleet = Fleet()
    for index in range(6):
        fleet.host(f"h{index}", {"VCPU": Inventory(total=CPUS)}, labels={"zone": f"z{index % 2}"})
    for profile in (
        Profile(name="p", weighers={"cpu": 1.0}),
        Profile(name="p", scale="relative", weighers={"cpu": 1.0}, subset_size=3),
    ):
        request = wishes(Build(id="r-1", flavor="m1", zone="z1"), Flavor(name="m1", resources={"VCPU": 1}), profile)
        scores = ScoreRow(fleet.view, request.ask)
        scores.refresh()
        picks = [choose(scores, request, seed_of(f"r-{i}", 0, 0)) for i in range(60)]
        assert picks == [choose(scores, request, seed_of(f"r-{i}", 0, 0)) for i in range(60)]
        assert {row.host.name for row in picks if row} == {"h1", "h3", "h5"}


def test_columns_of_num_instances_are_its_plain_form() -> None:
    fleet = random_fleet(Random(5), 20)
    ask = wishes(flavor=FLAVOR, profile=Profile(name="p", weighers={"num_instances": -1.0, "cpu": 0.5})).ask
    assert dict(ask.weighers).keys() == {"num_instances", "cpu"}
    assert column_scores(fleet.view, ask, slice(None)).tolist() == plain_scores(fleet.view, ask)


def test_a_refusal_counts_the_filters_of_the_request_by_name() -> None:
    fleet = Fleet()
    for index in range(4):
        fleet.host(
            f"h{index}",
            {"VCPU": Inventory(total=1 if index == 3 else CPUS)},
            labels={"zone": "z1" if index > 1 else "z2"},
        )
    request = wishes(
        Build(id="r-1", flavor="m1", zone="z1", hosts_ignored=("h2",)), Flavor(name="m1", resources={"VCPU": 2})
    )
    told = explain(fleet.view, request.ask, (), request)
    assert told.filters == {"capacity": 1, "ignored_hosts": 1, "availability_zone": 2}
    assert told.without == {"capacity": 1, "ignored_hosts": 1, "availability_zone": 2}
    assert told.closest is not None
    assert (told.closest.filter, told.closest.detail) == ("availability_zone", "is in zone z2")


# --- the catalog decides which requests call for more --------------------------------------------------------------------


def catalog(*records: Flavor | Profile | Aggregate) -> Catalog:
    made = Catalog("default")
    for one in (FLAVOR, *records):
        kind = type(one).__name__.lower()
        assert made.fold(f"{kind}/{one.name}".encode(), encode(one)) == ("", None, "")
    return made


def rules_of(made: Catalog, **fields: Any) -> Any:
    terms = made.terms(Build(id="r-1", flavor="m1", **fields))
    assert not terms.refusal
    return terms.ask.rules


def test_a_plain_request_has_no_rules_and_so_costs_nothing_more() -> None:
    made = catalog(Aggregate(name="east", hosts=("h1",), zone="z1", metadata={"rack": "7"}))
    assert rules_of(made) is None
    assert rules_of(made, project="blue", group="g", group_max=1) is None
    assert rules_of(made, zone="z1") is not None
    assert (
        made.terms(Build(id="r-1", flavor="m1", zone="z1")).ask
        == made.terms(Build(id="r-2", flavor="m1", zone="z2")).ask
    )


@pytest.mark.parametrize(
    "record",
    [
        Aggregate(name="east", metadata={"filter_tenant_id": "blue"}),
        Flavor(name="m1", resources={"VCPU": 1}, extra_specs={"capabilities:x": "1"}),
        Profile(name="default", scale="relative"),
        Profile(name="default", subset_size=2),
        Profile(name="default", filters=("aggregate_io_ops",)),
        Profile(name="default", weighers={"build_failure": -1.0}),
        Profile(name="default", architecture_default="x86_64"),
    ],
)
def test_what_concerns_every_request_gives_all_of_them_rules(record: Flavor | Profile | Aggregate) -> None:
    assert rules_of(catalog(record)) is not None


def test_rules_follow_the_records_while_hosts_change_nothing() -> None:
    made = catalog(Aggregate(name="east", metadata={"filter_tenant_id": "blue"}))
    before = rules_of(made)
    made.fold(b"host/h1", None)
    assert rules_of(made) == before
    made.fold(b"aggregate/east", None)
    assert rules_of(made) is None
    assert made.aggregates.keys == set()


def test_a_profile_is_chosen_by_the_request_and_changed_while_running() -> None:
    made = catalog(Profile(name="tight", weighers={"ram": -1.0}))
    assert made.terms(Build(id="r-1", flavor="m1", profile="tight")).ask.weighers == (("ram", -1.0),)
    made.fold(b"profile/tight", encode(Profile(name="tight", weighers={"RAMWeigher": 2.0})))
    assert made.terms(Build(id="r-1", flavor="m1", profile="tight")).ask.weighers == (("ram", 2.0),)
    assert "did you mean 'tight'?" in made.terms(Build(id="r-1", flavor="m1", profile="tigth")).refusal
    made.fold(b"profile/tight", None)
    assert "unknown profile 'tight'" in made.terms(Build(id="r-1", flavor="m1", profile="tight")).refusal


@pytest.mark.parametrize(
    ("profile", "why"),
    [
        (Profile(name="p", weighers={"rm": 1.0}), "profile p names weigher 'rm': did you mean 'ram'?"),
        (
            Profile(name="p", filters=("JsonFilters",)),
            "profile p names filter 'JsonFilters': did you mean 'json_filters'?",
        ),
        (
            Profile(name="p", filters=("isolated_host",)),
            "profile p names filter 'isolated_host': did you mean 'isolated_hosts'?",
        ),
        (Profile(name="p", weighers={"ram": 1e10}), "profile p multiplies ram by 10000000000.0; at most ±1000000000"),
    ],
)
def test_a_profile_with_unknown_names_is_refused_with_the_nearest(profile: Profile, why: str) -> None:
    _, _, reason = Catalog("default").fold(b"profile/p", encode(profile))
    assert reason.startswith(why.split("did you")[0])
    if "json" not in why:
        assert reason == why


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"group_policy": "affinity"}, "no group is named"),
        ({"group": "g", "group_policy": "anti-affinity"}, "without group_max"),
        ({"group": "g", "group_policy": "affinity", "group_max": 1}, "drop one of the two"),
        ({"host": "h1", "hosts_ignored": ("h1",)}, "both demanded and ignored"),
        ({"traits_any_of": ((),)}, "empty set"),
        (
            {"traits_any_of": (("CUSTOM_A",),), "traits_forbidden": ("CUSTOM_A",)},
            "every trait of CUSTOM_A is forbidden",
        ),
        ({"member_of": ("eats",)}, "unknown aggregate 'eats' in member_of: did you mean 'east'?"),
        ({"member_of": ("zzz",)}, "see `commonplace aggregate list`"),
        ({"member_of": ("east", "!east")}, "both required and forbidden"),
        ({"hints": {"query": ("[",)}}, "no JSON"),
        ({"hints": {"query": ('["~", 1, 2]',)}}, 'operator "~"'),
        ({"hints": {"query": ('"$x"',)}}, "a list is needed"),
        ({"hints": {"query": ("[" * 17 + "]" * 17,)}}, "nested more than 16 deep"),
        ({"hints": {"query": ('["=", "' + "x" * 4096 + '", 1]',)}}, "at most 4096"),
        ({"hints": {"query": ("[]", "[]")}}, "has 2 values"),
        ({"hints": {"same_host": ()}}, "has no value"),
        ({"hints": {"same_host": ("i",), "different_host": ("i",)}}, "instance i is to be both joined and avoided"),
        ({"hints": {"build_near_host_ip": ("10.0.0.999",)}}, "make no network"),
        ({"hints": {"build_near_host_ip": ("10.0.0.9",), "cidr": ("/99",)}}, "make no network"),
    ],
)
def test_a_request_that_cannot_be_is_refused_with_what_to_do(fields: dict[str, Any], why: str) -> None:
    made = catalog(Aggregate(name="east"))
    refusal = made.terms(Build(id="r-1", flavor="m1", **fields)).refusal
    assert why in refusal
    assert len(refusal) < 400


def test_hints_that_no_filter_reads_are_carried_and_ignored() -> None:
    assert rules_of(catalog(), hints={"reservation": ("x",)}) is not None


def hosts_of(made: Catalog, rows: list[Row]) -> list[list[str]]:
    return [[one.name for one in made.aggregates.of(row)] for row in rows]


def test_hosts_are_in_aggregates_by_name_or_by_labels_and_in_one_zone() -> None:
    fleet = Fleet()
    rows = [
        fleet.host("h1", labels={"rack": "7", "zone": "own"}),
        fleet.host("h2", labels={"rack": "7"}),
        fleet.host("h3"),
    ]
    made = catalog(Aggregate(name="a", hosts=("h1", "h3"), zone="z1"), Aggregate(name="b", labels={"rack": "7"}))
    assert hosts_of(made, rows) == [["a", "b"], ["b"], ["a"]]
    assert [made.aggregates.zone(row) for row in rows] == ["z1", "default", "z1"]
    made.fold(b"aggregate/a", None)
    assert hosts_of(made, rows) == [["b"], ["b"], []]
    assert [made.aggregates.zone(row) for row in rows] == ["own", "default", "default"]
