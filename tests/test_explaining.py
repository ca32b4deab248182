"""A request against the fleet: counts per filter with a sample, what each single change would win, and weights that add up to the score."""

from random import Random
from typing import Any

import pytest
from msgspec.structs import replace

from commonplace.core.catalog import Catalog
from commonplace.core.codec import encode
from commonplace.core.explaining import Table, table, wishes_of
from commonplace.core.ranking import ScoreRow, plain_scores
from commonplace.core.records.control import Aggregate, Flavor, Profile
from commonplace.core.records.hosts import Allocation
from commonplace.core.records.requests import Build
from commonplace.core.relaxing import Relaxed
from commonplace.core.resources import Inventory
from commonplace.core.scoreboard import NEVER
from commonplace.core.turned_away import explain
from commonplace.ops import explain_render
from peer.fleet import Fleet

FLAVOR = Flavor(name="m1", resources={"VCPU": 4, "MEMORY_MB": 8192})
AVX = "HW_CPU_X86_AVX512F"


def catalog(*records: Flavor | Profile | Aggregate) -> Catalog:
    made = Catalog("default")
    for record in (FLAVOR, *records):
        _, _, reason = made.fold(f"{type(record).__name__.lower()}/{record.name}".encode(), encode(record))
        assert not reason, reason
    return made


def inventory(vcpus: int = 16, memory_mb: int = 65_536) -> dict[str, Inventory]:
    return {"VCPU": Inventory(total=vcpus), "MEMORY_MB": Inventory(total=memory_mb)}


def ask(fleet: Fleet, known: Catalog, best: int = 5, **fields: Any) -> Table:
    fleet.view.write()
    fleet.view.columns.alive[:] = True
    return table(fleet.view, known, Build(id="r-1", flavor="m1", **fields), best)


def changes(found: Table) -> list[tuple[str, str, str, int]]:
    return [(one.filter, one.part, one.to, one.hosts) for one in found.would_fit]


def test_each_filter_counts_its_hosts_and_shows_one_with_needed_and_had() -> None:
    fleet = Fleet()
    fleet.host("small-1", inventory(memory_mb=4096), traits=(AVX,))
    fleet.host("small-2", inventory(memory_mb=6144), traits=(AVX,))
    fleet.host("plain", inventory())
    fleet.host("away", inventory(), traits=(AVX,), status="draining")
    found = ask(fleet, catalog(), traits_required=(AVX,))
    assert (found.evaluated, found.passing) == (4, 0)
    assert {line.filter: (line.hosts, line.alone) for line in found.filters} == {
        "status": (1, 1),
        "traits": (1, 1),
        "capacity": (2, 2),
    }
    by_name = {line.filter: line for line in found.filters}
    capacity = by_name["capacity"].sample
    assert (capacity.host, capacity.resource, capacity.needed, capacity.had) == ("small-2", "MEMORY_MB", 8192, 6144)
    assert (by_name["traits"].needed, by_name["traits"].sample.detail) == (AVX, f"lacks {AVX}")
    assert by_name["status"].sample.detail == "draining"
    assert found.closest is not None
    assert found.closest.host == "small-2"


def test_what_would_fit_names_the_single_change_and_its_hosts() -> None:
    fleet = Fleet()
    fleet.host("small-1", inventory(memory_mb=6144), traits=(AVX,))
    fleet.host("small-2", inventory(memory_mb=6144), traits=(AVX,))
    fleet.host("small-3", inventory(memory_mb=4096), traits=(AVX,))
    fleet.host("plain", inventory())
    fleet.host("both", inventory(memory_mb=7168))
    fleet.host("away", inventory(), traits=(AVX,), status="draining")
    assert changes(ask(fleet, catalog(), traits_required=(AVX,))) == [
        ("capacity", "MEMORY_MB", "6144", 2),
        ("status", "draining", "", 1),
        ("traits", AVX, "", 1),
    ]


def test_an_amount_that_would_fit_keeps_to_the_units_of_the_host() -> None:
    fleet = Fleet()
    fleet.host("h1", {"VCPU": Inventory(total=8), "MEMORY_MB": Inventory(total=7000, step_size=1024)})
    assert changes(ask(fleet, catalog())) == [("capacity", "MEMORY_MB", "6144", 1)]


def test_disk_may_come_from_a_volume() -> None:
    fleet = Fleet()
    fleet.host("h1", {**inventory(), "DISK_GB": Inventory(total=10)})
    fleet.host("h2", inventory())
    fleet.host("h3", inventory(vcpus=1))
    known = catalog(Flavor(name="m1", resources={**FLAVOR.resources, "DISK_GB": 20}))
    found = ask(fleet, known)
    assert changes(found) == [("capacity", "DISK_GB", "", 2), ("capacity", "DISK_GB", "10", 1)]
    assert explain_render.change(found.would_fit[0]) == "booted from a volume"
    assert ask(fleet, known, boot_from_volume=True).passing == 2


ZONE, TRAIT = "availability_zone", "traits"
CHANGES: list[tuple[dict[str, Any], list[tuple[str, str, str, int]]]] = [
    ({"zone": "z9"}, [(ZONE, "z9", "", 3), (ZONE, "z9", "z2", 2), (ZONE, "z9", "z1", 1)]),
    ({"host": "h9"}, [("requested_host", "", "", 3)]),
    ({"host": "h1", "zone": "z2"}, [(ZONE, "z2", "", 1), (ZONE, "z2", "z1", 1), ("requested_host", "", "", 2)]),
    (
        {"hosts_ignored": ("h1",), "zone": "z1"},
        [(ZONE, "z1", "", 2), (ZONE, "z1", "z2", 2), ("ignored_hosts", "h1", "", 1)],
    ),
    ({"member_of": ("blue", "!green")}, [("member_of", "!green", "", 1), ("member_of", "blue", "", 2)]),
    (
        {"traits_any_of": (("CUSTOM_A",), ("CUSTOM_B",))},
        [("traits_any_of", "CUSTOM_A", "", 1), ("traits_any_of", "CUSTOM_B", "", 1)],
    ),
    (
        {"traits_forbidden": ("CUSTOM_A", "CUSTOM_B", "CUSTOM_C")},
        [(TRAIT, "!CUSTOM_A", "", 1), (TRAIT, "!CUSTOM_B", "", 1), (TRAIT, "!CUSTOM_C", "", 1)],
    ),
    ({"hints": {"query": ('[">", "$vcpus_total", 99]',)}}, [("json", "", "", 3)]),
    ({"group": "g", "group_max": 1}, [("group", "g", "2", 1)]),
]


@pytest.mark.parametrize(("fields", "wanted"), CHANGES, ids=lambda value: str(value)[:40])
def test_each_part_of_a_request_is_tried_without(
    fields: dict[str, Any], wanted: list[tuple[str, str, str, int]]
) -> None:
    fleet = Fleet()
    held = [Allocation(id="a", instance="i", group="g", resources={"VCPU": 1})]
    fleet.host("h1", inventory(), held, labels={"zone": "z1"}, traits=("CUSTOM_A",))
    fleet.host("h2", inventory(), labels={"zone": "z2"}, traits=("CUSTOM_B",))
    fleet.host("h3", inventory(), labels={"zone": "z2"}, traits=("CUSTOM_C",))
    known = catalog(Aggregate(name="blue", hosts=("h1",)), Aggregate(name="green", hosts=("h1",)))
    assert sorted(changes(ask(fleet, known, **fields))) == sorted(wanted)


def without(known: Catalog, build: Build, change: Relaxed) -> Build | None:
    """The request asked otherwise as a change says; None for changes that are not the request's."""
    match change.filter:
        case "traits" if change.part.startswith("!"):
            return replace(build, traits_forbidden=tuple(t for t in build.traits_forbidden if t != change.part[1:]))
        case "traits":
            return replace(build, traits_required=tuple(t for t in build.traits_required if t != change.part))
        case "availability_zone":
            return replace(build, zone=change.to)
        case "requested_host":
            return replace(build, host="")
        case "member_of":
            return replace(build, member_of=tuple(one for one in build.member_of if one != change.part))
        case "group":
            return replace(build, group_max=int(change.to))
        case "capacity":
            resources = {**FLAVOR.resources, change.part: int(change.to)}
            known.fold(b"flavor/other", encode(Flavor(name="other", resources=resources)))
            return replace(build, flavor="other")
    return None


def random_fleet(random: Random) -> Fleet:
    fleet = Fleet()
    for index in range(30):
        held = [
            Allocation(id=f"a-{index}-{i}", group=random.choice(("", "g")), resources={"VCPU": 2})
            for i in range(random.randint(0, 3))
        ]
        fleet.host(
            f"h{index}",
            inventory(random.choice((4, 8, 16)), random.choice((4096, 8192, 65_536))),
            held,
            traits=tuple(sorted(random.sample(("CUSTOM_A", "CUSTOM_B", "CUSTOM_C"), random.randint(0, 3)))),
            labels={"zone": random.choice(("z1", "z2"))},
            status=random.choice(("enabled", "enabled", "enabled", "disabled")),
        )
    return fleet


def random_build(random: Random) -> Build:
    return Build(
        id="r-1",
        flavor="m1",
        traits_required=("CUSTOM_A",),
        traits_forbidden=("CUSTOM_B",),
        zone=random.choice(("", "z1")),
        member_of=random.choice(((), ("blue",), ("!blue",))),
        host=random.choice(("", "", "h3")),
        group="g",
        group_max=1,
    )


def test_a_change_wins_just_the_hosts_that_pass_once_it_is_made() -> None:
    tried = set()
    for seed in range(40):
        random = Random(seed)
        fleet, build = random_fleet(random), random_build(random)
        known = catalog(Aggregate(name="blue", labels={"zone": "z1"}))
        found = table(fleet.view, known, build)
        for change in found.would_fit:
            other = without(known, build, change)
            if other is not None:
                tried.add(change.filter)
                before = 0 if other.zone not in ("", build.zone) else found.passing  # another zone has none of those
                assert table(fleet.view, known, other, best=0).passing - before == change.hosts, change
    assert tried >= {"traits", "capacity", "group", ZONE, "requested_host", "member_of"}


@pytest.mark.parametrize("profile", ["default", "spread", "pack"])
def test_the_best_of_an_absolute_profile_are_those_of_the_score_row_and_their_weights_add_up(profile: str) -> None:
    random, fleet = Random(1), Fleet()
    for index in range(40):
        fleet.host(f"h{index}", inventory(random.choice((8, 16, 64)), random.choice((16_384, 65_536))))
    known = catalog()
    found = ask(fleet, known, best=6, profile=profile)
    wishes = wishes_of(known, Build(id="r-1", flavor="m1", profile=profile))
    assert not isinstance(wishes, str)
    row = ScoreRow(fleet.view, wishes.ask)
    row.refresh()
    best = sorted((score for score in row.scores if score > NEVER), reverse=True)[:6]
    assert [one.score for one in found.candidates] == pytest.approx(best)
    for one in found.candidates:
        assert one.score == pytest.approx(sum(weight.weighted for weight in one.weighers.values()))
        assert one.score == pytest.approx(plain_scores(fleet.view, wishes.ask)[fleet.view.rows[one.host].index])
        for weight in one.weighers.values():
            assert weight.weighted == pytest.approx(weight.normalised * weight.multiplier)


def test_the_raw_value_under_an_absolute_profile_is_what_is_free() -> None:
    fleet = Fleet()
    fleet.host("h1", inventory(16, 65_536))
    (one,) = ask(fleet, catalog()).candidates
    assert (one.weighers["ram"].raw, one.weighers["cpu"].raw) == (65_536, 16)
    assert one.weighers["cpu"].normalised == pytest.approx((16 - 4) / 16)
    shown = "\n".join(
        explain_render.table(ask(fleet, catalog(Profile(name="p", weighers={"io_ops": -1.0})), profile="p"))
    )
    assert "0 → 0 × -1 = 0\n" in shown


def test_the_best_under_novas_arithmetic_are_normalised_over_the_hosts_that_pass() -> None:
    fleet = Fleet()
    for name, memory_mb in (("h1", 16_384), ("h2", 32_768), ("h3", 65_536), ("full", 4096)):
        fleet.host(name, inventory(memory_mb=memory_mb))
    found = ask(fleet, catalog(Profile(name="ours", scale="relative", weighers={"ram": 2.0})), profile="ours")
    assert [(one.host, one.score) for one in found.candidates] == [
        ("h3", 2.0),
        ("h2", pytest.approx(1.0)),
        ("h1", pytest.approx(0.5)),
    ]
    assert found.candidates[0].weighers["ram"].raw == 65_536
    assert "32768 → 0.5 × 2 = 1" in "\n".join(explain_render.table(found))


def test_a_weigher_without_a_column_counts_as_in_the_choice() -> None:
    fleet = Fleet()
    fleet.host("bad", inventory(), load={"failed_builds": 3.0})
    fleet.host("good", inventory())
    known = catalog(Profile(name="ours", weighers={"cpu": 1.0, "build_failure": -2.0}))
    found = ask(fleet, known, profile="ours")
    assert [one.host for one in found.candidates] == ["good", "bad"]
    weight = found.candidates[1].weighers["build_failure"]
    assert (weight.raw, weight.multiplier, weight.weighted) == (3.0, -2.0, -6.0)


def test_a_request_that_cannot_be_served_is_refused_with_the_reason() -> None:
    found = ask(Fleet(), catalog(), profile="defualt")
    assert "did you mean 'default'?" in found.refusal
    assert found.evaluated == 0


def test_counts_are_those_of_the_decision() -> None:
    fleet = Fleet()
    for index in range(9):
        fleet.host(f"h{index}", inventory(memory_mb=4096 * (1 + index % 2)), traits=(AVX,) if index % 3 else ())
    known = catalog()
    found = ask(fleet, known, traits_required=(AVX,), zone="z9")
    wishes = wishes_of(known, Build(id="r-1", flavor="m1", traits_required=(AVX,), zone="z9"))
    assert not isinstance(wishes, str)
    told = explain(fleet.view, wishes.ask, (), wishes)
    assert {line.filter: line.hosts for line in found.filters} == told.filters
    assert {line.filter: line.alone for line in found.filters if line.alone} == told.without
    assert [line.sample for line in found.filters] == told.samples
    assert [one.filter for one in told.samples] == list(told.filters)
