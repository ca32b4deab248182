"""What no host of the pool could ever take is said at once, with what is nearest to what was asked."""

from typing import Any

import pytest

from commonplace.core import replica_events as re
from commonplace.core.codec import encode
from commonplace.core.ledger_events import Configure
from commonplace.core.records.control import Aggregate, CellAsk, Flavor, Profile
from commonplace.core.records.decisions import IMPOSSIBLE, Decision
from commonplace.core.records.hosts import HostCell
from commonplace.core.records.requests import Build
from commonplace.core.resources import Inventory
from commonplace.ops import render
from test_constrained_requests import Place

BIG = {"VCPU": Inventory(total=64), "MEMORY_MB": Inventory(total=4096), "DISK_GB": Inventory(total=999)}


@pytest.fixture
def place() -> Place:
    """h1 is of zone z1 and has an AVX512, h2 and h3 are of zone z2; h3 has many cpus and little memory."""
    made = Place("h1", "h2", "h3")
    for host, zone in (("h1", "z1"), ("h2", "z2"), ("h3", "z2")):
        made.label(host, zone=zone)
    made.ledgers["h1"].receive(Configure(traits=("HW_CPU_X86_AVX512F",)), made.now)
    made.ledgers["h3"].receive(Configure(inventory=BIG), made.now)
    made.report("h1")
    made.report("h3")
    return made


def flavored(place: Place, resources: dict[str, int]) -> Decision:
    place.say(Flavor(name="odd", resources=resources))
    place.request(Build(id="r-odd", flavor="odd"))
    assert not [one for one in place.turn() if isinstance(one, re.SendClaim)]
    (decision,) = place.decisions("r-odd")
    return decision


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"zone": "z11"}, "no host is in zone 'z11': did you mean z1?"),
        ({"zone": "elsewhere"}, "no host is in zone 'elsewhere': there are z1, z2"),
        ({"host": "h11"}, "no host 'h11' reports to this pool: did you mean h1?"),
        ({"host": "somewhere"}, "no host 'somewhere' reports to this pool: see `commonplace hosts`"),
        (
            {"traits_required": ("HW_CPU_X86_AVX512",)},
            "no host has trait HW_CPU_X86_AVX512: did you mean HW_CPU_X86_AVX512F?",
        ),
        ({"traits_required": ("CUSTOM_ZZZ",)}, "no host has trait CUSTOM_ZZZ: see `commonplace host show`"),
        (
            {"traits_any_of": (("HW_CPU_X86_AVX512", "CUSTOM_B"),)},
            "no host has any of the traits CUSTOM_B, HW_CPU_X86_AVX512: did you mean HW_CPU_X86_AVX512F?",
        ),
    ],
)
def test_an_unknown_name_is_told_with_the_nearest_known_one(place: Place, fields: dict[str, Any], said: str) -> None:
    refusal = place.refused(**fields)
    assert (refusal.result, refusal.reason) == ("no_valid_host", IMPOSSIBLE)
    assert refusal.message.startswith(said)


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        ({"VCPU": 1, "CUSTOM_GPU": 1}, "no host has any CUSTOM_GPU: see `commonplace hosts -o wide`"),
        ({"VCPUS": 1}, "no host has any VCPUS: did you mean VCPU?"),
        (
            {"VCPU": 65},
            "no host could ever hold 65 VCPU: the largest, h3, takes 64: ask for less, or add larger hosts",
        ),
        (
            {"VCPU": 32, "MEMORY_MB": 8192},
            "no host could ever hold all of it at once: h3 comes closest, with 4096 MEMORY_MB, 64 VCPU",
        ),
    ],
)
def test_a_size_that_no_host_could_ever_hold_is_told_with_the_largest(
    place: Place, resources: dict[str, int], said: str
) -> None:
    refusal = flavored(place, resources)
    assert (refusal.result, refusal.reason) == ("no_valid_host", IMPOSSIBLE)
    assert refusal.message.startswith(said)
    assert refusal.explanation is not None
    assert refusal.explanation.evaluated == 3


def celled(place: Place, **cells: HostCell) -> None:
    """h3 reports these cells."""
    place.ledgers["h3"].receive(Configure(inventory=BIG | {"PCPU": Inventory(total=8)}, cells=cells), place.now)
    place.report("h3")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"cells": (CellAsk(cpus=20, memory_mb=64),)}, "no host could ever lay it on its cells: h3, with the largest, needs 20"),
        ({"cells": (CellAsk(cpus=4, memory_mb=64),) * 3}, "h3, with the largest, has 2 cells for 3: ask for smaller cells"),
        ({"cells": (CellAsk(cpus=16, memory_mb=64),)}, ""),
        ({"cells": (CellAsk(cpus_dedicated=5, memory_mb=64),)}, "no host could ever lay it on its cells"),
    ],
)  # fmt: skip
def test_cells_that_no_host_could_ever_lay_are_told_with_the_largest(
    place: Place, fields: dict[str, Any], said: str
) -> None:
    celled(
        place,
        a=HostCell(cpus="0-15", cpus_dedicated="32-35", memory_mb=2048),
        b=HostCell(cpus="16-31", cpus_dedicated="36-39", memory_mb=2048),
    )
    asks: tuple[CellAsk, ...] = fields["cells"]
    resources = {
        "VCPU": sum(a.cpus for a in asks),
        "PCPU": sum(a.cpus_dedicated for a in asks),
        "MEMORY_MB": sum(a.memory_mb for a in asks),
    }
    place.say(Flavor(name="odd", resources={name: n for name, n in resources.items() if n}, **fields))
    if not said:
        place.ledgers["h3"].receive(Configure(status="disabled"), place.now)  # away, and it may come back
        place.report("h3")
    place.request(Build(id="r-odd", flavor="odd"))
    assert not [one for one in place.turn() if isinstance(one, re.SendClaim)]
    (refusal,) = place.decisions("r-odd")
    assert refusal.reason == (IMPOSSIBLE if said else "filters")
    assert said in refusal.message


def test_cells_where_no_host_says_its_own_are_told_so(place: Place) -> None:
    place.say(Flavor(name="odd", resources={"VCPU": 1, "MEMORY_MB": 64}, cells=(CellAsk(cpus=1, memory_mb=64),)))
    place.request(Build(id="r-odd", flavor="odd"))
    place.turn()
    (refusal,) = place.decisions("r-odd")
    assert (refusal.reason, refusal.message) == (
        IMPOSSIBLE, "no host says its cells, which flavor odd asks for: have agents report them, or ask without",
    )  # fmt: skip


def test_what_is_only_taken_or_away_for_now_is_not_impossible(place: Place) -> None:
    place.say(Profile(name="default", weighers={"cpu": 1.0}, builds_max=0))
    for _ in range(8):
        place.claim(host="h2")
    assert place.refused(host="h2").reason == "filters"
    place.ledgers["h1"].receive(Configure(status="disabled"), place.now)
    place.report("h1")
    assert place.refused(traits_required=("HW_CPU_X86_AVX512F",)).reason == "filters"


def test_a_zone_that_an_aggregate_makes_is_known(place: Place) -> None:
    place.say(Aggregate(name="east", hosts=("h3",), zone="z9"))
    place.ledgers["h3"].receive(Configure(status="draining"), place.now)
    place.report("h3")
    assert place.refused(zone="z9").reason == "filters"


def test_a_pool_without_hosts_says_that_and_nothing_of_sizes() -> None:
    empty = Place()
    assert empty.refused().reason == "filters"


def test_a_crowd_of_impossible_requests_is_answered_alike(place: Place) -> None:
    place.request(*(Build(id=f"r-{i}", flavor="small", traits_required=("CUSTOM_ZZZ",)) for i in range(20)))
    place.turn()
    assert {one.message for one in place.decisions()} == {
        "no host has trait CUSTOM_ZZZ: see `commonplace host show`"
    }  # fmt: skip
    assert len(place.decisions()) == 20


def test_people_are_told_the_sentence_instead_of_what_would_fit(place: Place) -> None:
    refusal = place.refused(zone="z3", traits_required=("CUSTOM_ZZZ",))
    lines = render.decision(refusal)
    assert lines[-1] == refusal.message
    assert not any(line.startswith("would fit") for line in lines)


# --- contradictions, refused before any host is looked at ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"traits_required": ("CUSTOM_A",), "traits_forbidden": ("CUSTOM_A",)}, "trait CUSTOM_A is both required and forbidden: drop one"),
        ({"host": "h1", "hosts_ignored": ("h1",)}, "host h1 is both demanded and ignored: drop one"),
        ({"traits_any_of": (("CUSTOM_A",),), "traits_forbidden": ("CUSTOM_A",)}, "every trait of CUSTOM_A is forbidden"),
        ({"member_of": ("east", "!east")}, "aggregate east is both required and forbidden in member_of: drop one"),
        ({"member_of": ("eats",)}, "unknown aggregate 'eats' in member_of: did you mean 'east'?"),
        ({"profile": "defualt"}, "unknown profile 'defualt': did you mean 'default'?"),
        ({"hints": {"same_host": ("i",), "different_host": ("i",)}}, "instance i is to be both joined and avoided"),
        ({"host": "h1", "hosts_ignored": ("h2", "h1")}, "host h1 is both demanded and ignored: drop one"),
        ({"source": "h1"}, "source h1 is the host that the instances are on, and none is named: name the instances"),
        ({"hints": {"query": ("[" * 17 + "]" * 17,)}}, "hint query is nested more than 16 deep: flatten it"),
        ({"hints": {"query": ('["=", "$host"',)}}, "hint query is no JSON"),
        ({"hints": {"query": ('["~", "$host", 1]',)}}, 'hint query names operator "~": known are'),
        ({"group_max": 1}, "group_max is set but no group is named"),
        ({"group": "g", "group_policy": "affinity", "group_max": 1}, "group_max 1 is anti-affinity, group_policy is affinity"),
    ],
)  # fmt: skip
def test_a_contradiction_is_rejected_with_what_to_drop(place: Place, fields: dict[str, Any], said: str) -> None:
    place.say(Aggregate(name="east", hosts=("h3",)))
    refusal = place.refused(**fields)
    assert (refusal.result, refusal.reason) == ("rejected", "invalid")
    assert said in refusal.message


def test_an_unknown_flavor_is_rejected_with_the_nearest_known_one(place: Place) -> None:
    place.request(Build(id="r-1", flavor="smal"))
    place.turn()
    (refusal,) = place.decisions("r-1")
    assert (refusal.result, refusal.message) == ("rejected", "unknown flavor 'smal': did you mean 'small'?")


def test_a_hint_that_is_too_long_is_put_aside_and_answered_with_the_bound(place: Place) -> None:
    place.request(encode(Build(id="r-1", flavor="small", hints={"query": ("x" * 4097,)})))
    place.turn()
    (refusal,) = place.decisions("r-1")
    assert (refusal.result, refusal.reason) == ("rejected", "invalid")
    assert "4096" in refusal.message
    assert "hints" in refusal.message
