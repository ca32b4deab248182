"""What if: the shipped replica and ledgers on a copy. What a plan says fits is what the arithmetic and the next plan say too."""

from collections.abc import Callable
from random import Random

import numpy as np
import pytest
from msgspec.structs import replace

from commonplace.agent.shapes import parse_shape
from commonplace.core.catalog import Catalog
from commonplace.core.columns import Ints
from commonplace.core.explaining import wishes_of
from commonplace.core.records.control import Aggregate, CellAsk, Flavor, Profile
from commonplace.core.records.decisions import Decision
from commonplace.core.records.hosts import HostCell
from commonplace.core.records.requests import Build
from commonplace.core.resources import Inventory
from commonplace.core.room import divisible, room
from commonplace.core.view import View
from commonplace.errors import UsageError
from commonplace.ops import plan as plans
from commonplace.ops.capacity import capacity
from commonplace.ops.plan_copy import Moment
from commonplace.ops.plan_trial import Trial
from plan_fleet import SETTINGS, Log, held, inventory

M1 = Flavor(name="m1", resources={"VCPU": 4, "MEMORY_MB": 8192})
PLAN = Build(id="plan-1", flavor="m1")


def fleet(*vcpus: int) -> Log:
    log = Log()
    log.say(M1)
    for index, one in enumerate(vcpus):
        log.host(f"h{index}", inventory(one))
    return log


def hosts(*decisions: Decision) -> list[str]:
    return [one.host for decision in decisions for one in decision.placed]


def answers(trial: Trial, *builds: Build) -> str:
    """The digest of a plan of these requests."""
    named = [replace(build, id=f"plan-{number}") for number, build in enumerate(builds, 1)]
    return plans.digest(trial, named, plans._placed(trial, named, [build.id for build in named]))


def test_instances_go_where_the_replica_ranks_them_and_every_claim_is_granted() -> None:
    trial = fleet(16, 8, 4).trial()
    decisions = trial.place([PLAN])
    assert hosts(*decisions) == ["h0"]
    assert trial.replica.claims.counts.granted == 1
    assert trial.replica.claims.counts.rejected == {}


def test_a_fill_uses_every_host_up_and_says_why_no_more_fits() -> None:
    filled = fleet(16, 8, 3).trial().fill(PLAN, 1000)
    assert filled.hosts == {"h0": 4, "h1": 2}
    assert filled.refusal is not None
    assert filled.refusal.explanation is not None
    assert filled.refusal.explanation.filters == {"capacity": 3}


def test_a_fill_stops_at_its_bound() -> None:
    filled = fleet(16, 16).trial().fill(PLAN, 3)
    assert (filled.count, filled.refusal) == (3, None)


def test_builds_in_progress_stand_in_no_plans_way() -> None:
    log = Log()
    log.say(M1, Profile(name="default", weighers={"cpu": 1.0}, builds_max=1))
    log.host("h0", inventory(16), [replace(one, building=True) for one in held((4, 1024))])
    assert log.trial().fill(PLAN, 1000).hosts == {"h0": 3}


def test_limits_on_builds_by_aggregate_stand_in_no_plans_way_either() -> None:
    log = Log()
    log.say(M1, Profile(name="default", weighers={"cpu": 1.0}, filters=("AggregateIoOpsFilter",)))
    log.say(Aggregate(name="slow", hosts=("h0",), metadata={"max_io_ops_per_host": "1"}))
    log.host("h0", inventory(16), [replace(one, building=True) for one in held((4, 1024))])
    assert log.trial().fill(PLAN, 1000).hosts == {"h0": 3}


def test_all_or_nothing_takes_nothing_where_not_all_fit() -> None:
    trial = fleet(8, 8).trial()
    refused, fits = replace(PLAN, id="five", count=5), replace(PLAN, id="four", count=4)
    assert [one.result for one in trial.place([refused])] == ["no_valid_host"]
    assert len(hosts(*trial.place([fits]))) == 4


def test_where_some_are_enough_a_plan_places_what_fits() -> None:
    (answer,) = plans._placed(fleet(8, 8).trial(), [replace(PLAN, count=5, count_min=2)], ["web"])
    assert (answer.result, answer.fits, answer.count) == ("placed", 4, 5)


def test_a_fill_counts_one_by_one_whatever_count_the_request_has() -> None:
    assert fleet(8, 8).trial().fill(replace(PLAN, count=5, count_min=3), 100).count == 4


def test_what_one_request_took_the_next_does_not_get() -> None:
    trial = fleet(8).trial()
    results = [trial.place([replace(PLAN, id=f"r-{i}")])[0].result for i in range(3)]
    assert results == ["placed", "placed", "no_valid_host"]


def test_anti_affinity_is_kept_by_the_ledgers() -> None:
    for count, result in ((3, "placed"), (4, "no_valid_host")):
        (decision,) = fleet(16, 16, 16).trial().place([replace(PLAN, count=count, group="web", group_max=1)])
        assert decision.result == result
        assert len(set(hosts(decision))) == len(decision.placed)


def test_affinity_follows_the_group_that_is_there() -> None:
    log = fleet(64)
    log.host("h9", inventory(64), held((1, 1024), group="web"))
    build = replace(PLAN, group="web", group_policy="affinity")
    assert hosts(*log.trial().place([build])) == ["h9"]


def test_a_spread_over_a_label_is_kept_member_by_member() -> None:
    log = Log()
    log.say(M1)
    for name, zone, vcpus in (("h0", "z1", 64), ("h1", "z1", 64), ("h2", "z2", 8)):
        log.host(name, inventory(vcpus), labels={"zone": zone})
    build = replace(PLAN, group="web", spread_over="zone", max_skew=1)
    filled = log.trial().fill(build, 100)
    assert filled.hosts["h2"] == 2
    assert filled.count == 5  # z2 takes two members, z1 may have one more
    assert filled.refusal is not None


def test_an_unknown_flavor_is_refused_with_the_nearest_known_one() -> None:
    (decision,) = fleet(16).trial().place([replace(PLAN, flavor="m11")])
    assert decision.result == "rejected"
    assert "did you mean 'm1'?" in decision.message


PROFILES: list[Profile] = [
    Profile(name="default", weighers={"cpu": 1.0, "ram": 1.0}, instances_max=4),
    Profile(name="default", weighers={"cpu": -1.0}, instances_max=0),
    Profile(name="default", scale="relative", weighers={"ram": 1.0}),
    Profile(
        name="default",
        weighers={"cpu": 1.0},
        filters=("aggregate_num_instances", "AggregateIoOpsFilter", "aggregate_instance_extra_specs"),
    ),
]


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: f"{profile.scale} {profile.filters}")
@pytest.mark.parametrize("seed", range(6))
def test_division_counts_what_placing_one_by_one_fills(profile: Profile, seed: int) -> None:
    random, log = Random(seed), Log()
    specs = (
        {"aggregate_instance_extra_specs:ssd": "true"} if "aggregate_instance_extra_specs" in profile.filters else {}
    )
    log.say(replace(M1, traits_required=("CUSTOM_A",), extra_specs=specs), profile)
    log.say(Aggregate(name="ssd", labels={"disk": "ssd"}, metadata={"ssd": "true", "max_instances_per_host": "3"}))
    for index in range(12):
        log.host(
            f"h{index}",
            {
                "VCPU": Inventory(total=random.choice((3, 8, 17)), allocation_ratio_thousandths=random.choice((1000, 1500))),
                "MEMORY_MB": Inventory(total=65_536, reserved=512, max_unit=random.choice((0, 4096, 32_768))),
            },
            held(*((random.randint(0, 3), 1024) for _ in range(random.randint(0, 3)))),
            traits=random.choice(((), ("CUSTOM_A",), ("CUSTOM_A",))),
            labels={"disk": random.choice(("ssd", "ssd", "hdd"))},
            status=random.choice(("enabled", "enabled", "draining")),
        )  # fmt: skip
    trial = log.trial()
    view = trial.replica.view
    wishes = wishes_of(trial.replica.catalog, PLAN)
    assert not isinstance(wishes, str)
    counts = room(view, wishes)
    told = {row.host.name: int(counts[row.index]) for row in view.by_index if counts[row.index]}
    assert trial.fill(PLAN, 10_000).hosts == told


CELLS = {
    "0": HostCell(cpus="0-3", cpus_dedicated="4-7", siblings=("4,5", "6,7"), memory_mb=32_768),
    "1": HostCell(cpus="8-11", cpus_dedicated="12-15", siblings=("12,13", "14,15"), memory_mb=32_768),
}


def test_cells_are_filled_as_their_ledgers_give_them() -> None:
    log = Log()
    ask = CellAsk(cpus_dedicated=3, memory_mb=8192)
    log.say(replace(M1, resources={"PCPU": 3, "MEMORY_MB": 8192}, cells=(ask,)))
    log.host("h0", {"PCPU": Inventory(total=8), "MEMORY_MB": Inventory(total=65_536)}, cells=CELLS)
    log.host("h1", inventory(64))
    trial = log.trial()
    wishes = wishes_of(trial.replica.catalog, PLAN)
    assert not isinstance(wishes, str)
    assert not divisible(trial.replica.view, wishes)
    assert trial.fill(PLAN, 100).hosts == {
        "h0": 2
    }  # one of three in each cell, though eight cpus are enough for two and more
    assert trial.replica.claims.counts.rejected == {}


def test_capacity_counts_cells_by_filling_and_the_rest_by_division() -> None:
    log = Log()
    log.say(M1, Flavor(name="cells", resources={"PCPU": 3}, cells=(CellAsk(cpus_dedicated=3),)))
    log.host("h0", {**inventory(16), "PCPU": Inventory(total=8)}, cells=CELLS)
    trial = log.trial()

    def fill(view: View, catalog: Catalog, build: Build) -> Ints:
        found = np.zeros(view.columns.rows, np.int64)
        for host, count in log.trial().fill(build, 100).hosts.items():
            found[view.rows[host].index] = count
        return found

    counted = capacity(trial.replica.view, trial.replica.catalog, fill)
    assert {one.flavor: one.fits for one in counted.flavors} == {"m1": 4, "cells": 2}


def test_capacity_says_what_runs_out_first() -> None:
    log = Log()
    log.say(M1, Profile(name="default", weighers={"cpu": 1.0}, instances_max=3))
    log.host("cpus", inventory(8))
    log.host("memory", inventory(64, 16_384))
    log.host("limit", inventory(64))
    log.host("full", inventory(3))
    trial = log.trial()
    (found,) = capacity(trial.replica.view, trial.replica.catalog, lambda *_: np.zeros(4, np.int64)).flavors
    assert found.bound_by == {"MEMORY_MB": 1, "VCPU": 1, "instances": 1}
    assert found.fits == 2 + 2 + 3


def test_a_plan_is_the_same_in_whatever_order_the_log_was_read() -> None:
    log, other = Log(), Log()
    for each, names in ((log, "abcd"), (other, "dcba")):
        each.say(M1)
        for name in names:
            each.host(name, inventory(16))
    build = replace(PLAN, count=3)
    assert hosts(*log.trial().place([build])) == hosts(*other.trial().place([build]))


# --- suppositions ------------------------------------------------------------------------------------------------------


def test_a_host_supposed_gone_is_no_candidate() -> None:
    copy = fleet(16, 8).copy()
    copy.without("h0")
    trial = Trial(copy, SETTINGS)
    assert trial.fill(PLAN, 100).hosts == {"h1": 2}


def test_hosts_supposed_take_instances_as_their_shape_allows() -> None:
    copy = fleet(3).copy()
    assert copy.add([parse_shape("8vcpu:64gb*2"), parse_shape("16vcpux2:64gb")]) == [
        "added-00001",
        "added-00002",
        "added-00003",
    ]
    assert Trial(copy, SETTINGS).fill(PLAN, 100).hosts == {"added-00001": 2, "added-00002": 2, "added-00003": 8}


def test_hosts_supposed_have_the_cells_of_their_shape() -> None:
    log = Log()
    log.say(replace(M1, resources={"VCPU": 3}, cells=(CellAsk(cpus=3),)))
    log.host("h0", inventory(64))
    copy = log.copy()
    copy.add([parse_shape("2x(4vcpu:16gb)")])
    assert Trial(copy, SETTINGS).fill(PLAN, 100).hosts == {"added-00001": 2}


def test_a_moment_past_shows_what_stood_then_and_names_what_may_be_lost() -> None:
    log = Log()
    log.say(M1, at_ms=100)
    log.host("h0", inventory(16), at_ms=100)
    log.host("h0", inventory(16), held((8, 1024)), at_ms=200)
    log.host("h1", inventory(16), at_ms=300)
    assert Trial(log.copy(), SETTINGS).fill(PLAN, 100).hosts == {"h0": 2, "h1": 4}
    then = log.copy(Moment(until_ms=150))
    assert Trial(then, SETTINGS).fill(PLAN, 100).hosts == {"h0": 4}
    assert then.later == {"h0", "h1"}
    by_offset = log.copy(Moment(until_ms=200, partition=0, offset=4))
    assert Trial(by_offset, SETTINGS).fill(PLAN, 100).hosts == {"h0": 2}


# --- digest ------------------------------------------------------------------------------------------------------------

Change = Callable[[Log], object]


def grow(log: Log) -> None:
    log.host("h0", inventory(16), held((1, 1024)))


def elsewhere(log: Log) -> None:
    log.host("h1", inventory(4), held((1, 1024)))


def beat(log: Log) -> None:
    log.host("h0", inventory(16))


def better(log: Log) -> None:
    log.host("h9", inventory(64))


@pytest.mark.parametrize(
    ("change", "moved"),
    [
        (beat, False),
        (elsewhere, False),
        (grow, True),
        (better, True),
        (lambda log: log.say(replace(M1, resources={"VCPU": 5, "MEMORY_MB": 8192})), True),
        (lambda log: log.say(Profile(name="default", weighers={"ram": 1.0})), True),
        (lambda log: log.say(Profile(name="other", weighers={"ram": 1.0})), False),
        (lambda log: log.say(Aggregate(name="east", hosts=("h0",), zone="z1")), True),
        (lambda log: log.say(Aggregate(name="west", hosts=("h1",), zone="z1")), False),
    ],
)
def test_the_digest_moves_with_what_the_plan_rests_on_and_with_nothing_else(change: Change, moved: bool) -> None:
    log = fleet(16, 4)
    before = answers(log.trial(), PLAN)
    assert answers(log.trial(), PLAN) == before
    change(log)
    assert (answers(log.trial(), PLAN) != before) is moved


# --- requests in files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        '{"flavor": "m1", "count": 2}',
        '[{"flavor": "m1", "count": 2}]',
        '{"type": "build", "v": 1, "id": "plan-1", "flavor": "m1", "count": 2}\n',
    ],
)
def test_requests_are_read_as_an_object_or_a_list(text: str) -> None:
    assert plans.builds_of(text, "here") == [Build(id="plan-1", flavor="m1", count=2)]


def test_requests_are_read_one_a_line() -> None:
    found = plans.builds_of('{"flavor": "m1"}\n\n{"flavor": "m2", "id": "db"}\n', "here")
    assert [(one.id, one.flavor) for one in found] == [("plan-1", "m1"), ("db", "m2")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "here: no JSON"),
        ("[]", "here: 0 requests"),
        ("[1]", "request 1 is no object"),
        ('{"flavour": "m1"}', "flavour"),
        ('{"flavor": "m1", "count": 0}', "count"),
        ('{"flavor": "m1"}\n{"flavor"', "neither JSON nor JSON lines"),
        ("[" * 5_000, "nested too deep"),
        ('{"flavor": "m1"}\n' + "[" * 5_000, "nested too deep"),
    ],
)
def test_a_file_that_is_wrong_says_where(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        plans.builds_of(text, "here")
    assert said in str(caught.value)
    assert "here" in str(caught.value)


def test_a_request_that_does_not_fit_whole_says_how_many_of_it_would() -> None:
    (answer,) = plans._placed(fleet(16, 9).trial(), [replace(PLAN, count=9)], ["web"])
    assert (answer.fits, answer.result) == (0, "no_valid_host")
    assert answer.message.endswith("6 of them would fit one by one")
    assert answer.table is not None


def test_instances_are_named_by_the_request_not_by_the_plan() -> None:
    trial = fleet(16).trial()
    (answer,) = plans._placed(trial, [replace(PLAN, count=2)], ["web"])
    assert [one.instance for one in answer.placed] == ["web.0", "web.1"]
