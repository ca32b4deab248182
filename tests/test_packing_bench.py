"""The pure parts of bench/packing: what is measured, who packs, and the classic arrangement."""

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
from bench import packing
from bench.packing_bins import Bins, best_fit, choose, first_fit
from bench.packing_classic import Pace, classic
from bench.packing_serial import SERIAL, serial
from bench.packing_trace import GPU, GPU_SHARES, gpu, synthetic

from commonplace.bench.cases import Case, case
from commonplace.bench.fullness import Figures, State, Watch, state
from commonplace.bench.racing import Pace as RacingPace
from commonplace.bench.racing import racing
from commonplace.core.records.control import DeviceAsk, Flavor
from commonplace.ops.replay.formats import Arrival
from commonplace.ops.replay.schedule import Arrive


def arrivals(*sizes: tuple[int, int], lifetime_s: float | None = None) -> list[Arrival]:
    """VMs of so many vCPUs and MB, one a second."""
    return [
        Arrival(
            id=f"vm-{n}",
            at_s=float(n),
            flavor=f"f-{vcpus}-{memory}",
            resources={"VCPU": vcpus, "MEMORY_MB": memory},
            lifetime_s=lifetime_s,
        )
        for n, (vcpus, memory) in enumerate(sizes)
    ]


def packed(shape: str, count: int, *sizes: tuple[int, int], **options: Any) -> Case:
    return case("hand", arrivals(*sizes), {}, shape, count, **{"beyond": 9.0, "lifetimes": False, **options})


def test_state_measures_shares_hosts_and_what_is_stranded() -> None:
    capacity = {"VCPU": np.array([10, 10, 10, 10]), "MEMORY_MB": np.array([100, 100, 100, 100])}
    free = {"VCPU": np.array([10, 4, 0, 1]), "MEMORY_MB": np.array([100, 10, 30, 50])}
    flavors = [
        Flavor(name="a", resources={"VCPU": 1, "MEMORY_MB": 20}),
        Flavor(name="b", resources={"VCPU": 4, "MEMORY_MB": 40}),
    ]
    found = state(capacity, free, np.array([0, 3, 2, 1]), flavors, 7)
    assert found == State(
        answered=7,
        allocated={"VCPU": 25 / 40, "MEMORY_MB": 210 / 400},
        hosts_used=3,
        hosts_empty=1,
        stranded={"VCPU": 4 / 40, "MEMORY_MB": 30 / 400},  # the second has no 20 MB, the third no vCPU
    )


def test_watch_keeps_the_first_refusal_and_half_of_the_way() -> None:
    figures, looks = Figures(contender="x"), list[int]()

    def look(answered: int) -> State:
        looks.append(answered)
        return State(answered=answered, allocated={}, hosts_used=0, hosts_empty=0, stranded={})

    watch = Watch(figures, 2)
    watch.placed(look)
    watch.placed(look)
    watch.refused("no host", look)
    watch.refused("no host", look)
    assert looks == [2, 2]
    assert (figures.placed, figures.refused, figures.reasons) == (2, 2, {"no host": 2})
    assert figures.half == figures.first_refusal


def test_best_fit_takes_the_fullest_first_fit_the_first() -> None:
    bins = Bins(packed("8vcpu:1gb", 3, (2, 128), (4, 256)))
    small, large = bins.case.flavors["f-2-128"], bins.case.flavors["f-4-256"]
    bins.take(1, large)
    assert choose(bins, small, best_fit) == 1
    assert choose(bins, small, first_fit) == 0
    assert choose(bins, small, best_fit, barred=(1,)) == 0
    bins.take(1, large)
    assert choose(bins, small, best_fit) == 0, "the fullest has no room"


def test_what_is_given_back_is_free_again_devices_too() -> None:
    half = (DeviceAsk(resource_class=GPU, count=1, shares=50),)
    one = Arrival(id="a", at_s=0, flavor="g", resources={"VCPU": 1, "MEMORY_MB": 1024, GPU: 50})
    bins = Bins(case("hand", [one], {"g": half}, "1x(8vcpu:64gb:2gpux100)", 1, 1.0, False))
    placed = [bins.take(0, bins.case.flavors["g"]) for _ in range(3)]
    assert bins.devices.tolist() == [[0, 50]], "the second share goes to the device in use"
    for each in placed:
        bins.give(each)
    assert bins.devices.tolist() == [[100, 100]]
    assert bins.state(0).allocated == {GPU: 0.0, "MEMORY_MB": 0.0, "VCPU": 0.0}


@pytest.mark.parametrize("name", SERIAL)
def test_serial_policies_answer_everything_and_fill_what_they_can(name: str) -> None:
    found = serial(packed("4vcpu:1gb", 2, *[(2, 128)] * 6), name, 1)
    assert (found.placed, found.refused) == (4, 2)
    assert found.first_refusal is not None
    assert (found.first_refusal.answered, found.first_refusal.allocated["VCPU"]) == (4, 1.0)


def test_what_leaves_makes_room() -> None:
    leaving = case("hand", arrivals(*[(4, 128)] * 3, lifetime_s=1.0), {}, "4vcpu:1gb", 1, 0.0, True)
    assert serial(leaving, "best fit", 1).refused == 0


SLOW = Pace(rate=1000, poll_ms=60_000, build_ms=10)


def test_classic_schedulers_with_old_copies_take_one_place_twice() -> None:
    one_place = packed("4vcpu:1gb", 1, (4, 128), (4, 128))
    found = next(f for seed in range(20) if (f := classic(one_place, "pack", 2, SLOW, seed)).reasons != {"no host": 1})
    assert (found.placed, found.refused, found.failed_builds) == (1, 1, 1)
    assert found.reasons == {"failed build": 1}, "answered, turned down, and no host is left to retry on"


def test_classic_retry_finds_the_host_that_is_left() -> None:
    runs = [classic(packed("4vcpu:1gb", 2, (4, 128), (4, 128)), "pack", 2, SLOW, seed) for seed in range(20)]
    assert {(found.placed, found.failed_builds) for found in runs} == {(2, 0)}
    assert {found.retries for found in runs} == {0, 1}


def test_classic_build_fails_after_three_retries_though_a_host_has_room() -> None:
    full = packed("4vcpu:1gb", 8, *[(4, 128)] * 8)
    runs = [classic(full, "pack", 2, SLOW, seed) for seed in range(60)]
    assert all(found.placed + found.refused == 8 for found in runs)
    failed = [found for found in runs if found.failed_builds]
    assert failed
    assert all(found.placed == 8 - found.failed_builds and found.retries >= 3 for found in failed)


def test_classic_scheduler_alone_knows_what_it_placed() -> None:
    found = classic(packed("4vcpu:1gb", 3, *[(2, 128)] * 8), "pack", 1, SLOW, 1)
    assert (found.placed, found.reasons, found.retries) == (6, {"no host": 2}, 0)


@pytest.mark.parametrize("replicas", [1, 4])
def test_racing_replicas_answer_everything_and_never_overfill(replicas: int) -> None:
    small = synthetic(3, "", 8, 0.2)
    (profile,) = packing.profiles(small, ["pack"])
    found = racing(small, profile, replicas, RacingPace(rate=2000, delay_ms=(5, 30), mode="strict"), 1)
    assert found.placed + found.refused == small.arrivals
    assert found.end is not None
    assert max(found.end.allocated.values()) <= 1.0
    alone = serial(small, "best fit", 1)
    assert alone.end is not None
    assert found.end.allocated["VCPU"] == pytest.approx(alone.end.allocated["VCPU"], abs=0.03)
    assert (found.conflict_fraction > 0) == (replicas > 1)


def test_racing_is_the_same_for_the_same_seed_and_releases_what_leaves() -> None:
    leaving = case("hand", arrivals(*[(2, 128)] * 30, lifetime_s=5.0), {}, "4vcpu:1gb", 3, 0.0, True)
    (profile,) = packing.profiles(leaving, ["spread"])
    pace = RacingPace(rate=20, delay_ms=(5, 30), mode="fits")
    first, second = (racing(leaving, profile, 2, pace, 4) for _ in range(2))
    assert first == second
    assert (first.placed, first.refused) == (30, 0)


def test_traces_are_the_same_for_the_same_seed_and_ask_for_more_than_there_is() -> None:
    one, other, third = synthetic(1, "", 5, 0.5), synthetic(1, "", 5, 0.5), synthetic(2, "", 5, 0.5)
    assert one.events == other.events != third.events
    asked = sum(e.arrival.resources["VCPU"] for e in one.events if isinstance(e, Arrive))
    assert asked == pytest.approx(1.5 * 5 * 24, abs=8) or asked > 5 * 24


def test_gpu_trace_has_the_published_proportions() -> None:
    made = gpu(1, "", 400, 0.0)
    kinds = Counter(_kind(e.arrival.resources.get(GPU, 0)) for e in made.events if isinstance(e, Arrive))
    shares = {kind: count / made.arrivals for kind, count in kinds.items()}
    assert shares == pytest.approx({"none": 0.133, "share": 0.378, "one": 0.48, "several": 0.009}, abs=0.03)


def _kind(shares: int) -> str:
    return "none" if not shares else "share" if shares < GPU_SHARES else "one" if shares == GPU_SHARES else "several"


def test_fgd_uses_more_of_the_devices_than_best_fit_does() -> None:
    made = gpu(1, "", 40, 0.1)
    (fgd,) = packing.profiles(made, ["fgd"])
    ours = racing(made, fgd, 1, RacingPace(rate=1000, delay_ms=(5, 40), mode="strict"), 1)
    theirs = serial(made, "best fit", 1)
    assert ours.end is not None
    assert theirs.end is not None
    assert ours.end.allocated[GPU] > theirs.end.allocated[GPU]


@pytest.mark.parametrize("output", ["table", "json"])
def test_command_line_prints_every_contender(output: str, capsys: pytest.CaptureFixture[str]) -> None:
    packing.main(["--hosts", "4", "--replicas", "2", "--profiles", "pack", "--runs", "2", "-o", output])
    said = capsys.readouterr().out
    if output == "json":
        read = json.loads(said)
        names = [runs[0]["contender"] for runs in read["figures"]]
        assert all(len(runs) == 2 for runs in read["figures"])
        assert read["machine"]["cores"]
    else:
        names = [line[:22].strip() for line in said.splitlines() if " |" in line][1:]
    serials = [f"serial {name}" for name in SERIAL]
    assert names == [*serials, "commonplace pack", "classic pack", "classic spread"]
