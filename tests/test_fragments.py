"""Fragments of devices, by hand, by columns, and in a ranking."""

from random import Random
from typing import Any

import numpy as np
import pytest

from commonplace.core.aggregates import NO_AGGREGATES
from commonplace.core.ask import ask_of
from commonplace.core.catalog import Catalog
from commonplace.core.choosing import choose
from commonplace.core.codec import encode
from commonplace.core.filter_table import filters_of
from commonplace.core.fragments import expected
from commonplace.core.inventory_of_cells import inventory_of
from commonplace.core.mixes import mix_of
from commonplace.core.ranking import ScoreRow, seed_of
from commonplace.core.records.control import DeviceAsk, Flavor, Profile
from commonplace.core.records.hosts import Allocation, Assigned, Device, HostCell
from commonplace.core.records.requests import Build
from commonplace.core.resources import Inventory
from commonplace.core.rows import Row
from commonplace.core.rules import Rules, Wishes
from commonplace.core.weighers import WEIGHERS
from peer.fleet import Fleet

GPU = "CUSTOM_GPU"


def flavor(name: str, vcpus: int, count: int = 0, shares: int = 0) -> Flavor:
    devices = (DeviceAsk(resource_class=GPU, count=count, shares=shares),) if count else ()
    return Flavor(
        name=name, resources={"VCPU": vcpus, **({GPU: count * shares} if count else {})}, devices=devices, profile="p"
    )


HALF, WHOLE, PAIR, PLAIN = (
    flavor("half", 2, 1, 5),
    flavor("whole", 4, 1, 10),
    flavor("pair", 8, 2, 10),
    flavor("none", 4),
)
FLAVORS = (HALF, WHOLE, PAIR, PLAIN)
MIX = {"half": 4.0, "whole": 4.0, "none": 2.0}


def devices(*free: int) -> list[tuple[str, int, int]]:
    return [(GPU, one, 10) for one in free]


@pytest.mark.parametrize(
    ("vcpus", "free", "fragment"),
    [
        # half: 0.2 of a device is too small; whole: 0.2 and 0.6 are; none: all of it is
        (16, (10, 6, 2), 0.4 * 0.2 + 0.4 * 0.8 + 0.2 * 1.8),
        # 3 vcpus: `whole` does not run, so all is a fragment to it
        (3, (10, 6, 2), 0.4 * 0.2 + 0.4 * 1.8 + 0.2 * 1.8),
        # no device is free enough for `half`
        (16, (4, 4), 0.8),
        (0, (10, 10), 2.0),
        (16, (), 0.0),
    ],
)
def test_expected_fragment_is_what_flavors_cannot_use_weighed_by_the_mix(
    vcpus: int, free: tuple[int, ...], fragment: float
) -> None:
    mix = mix_of(Profile(name="p", mix=MIX), FLAVORS)
    assert expected({"VCPU": vcpus}, devices(*free), mix) == pytest.approx(fragment)


def test_several_devices_are_useful_only_where_there_are_as_many() -> None:
    mix = mix_of(Profile(name="p", mix={"pair": 1.0}), FLAVORS)
    assert expected({"VCPU": 16}, devices(10, 9), mix) == pytest.approx(1.9)
    assert expected({"VCPU": 16}, devices(10, 10, 9), mix) == pytest.approx(0.9)


def test_a_mix_that_names_none_is_of_all_alike_and_one_that_names_strangers_leaves_them_out() -> None:
    assert [part.share for part in mix_of(Profile(name="p"), FLAVORS)] == [0.25] * 4
    assert [part.share for part in mix_of(Profile(name="p", mix={"half": 3.0, "gone": 9.0}), FLAVORS)] == [1.0]
    assert mix_of(Profile(name="p", mix={"gone": 1.0}), FLAVORS) == ()


def held(name: str, vcpus: int, taken: dict[str, int]) -> Allocation:
    amount = sum(taken.values())
    resources = {"VCPU": vcpus, **({GPU: amount} if amount else {})}
    cells = {"0": {GPU: amount}} if amount else {}
    assigned = {"0": Assigned(devices=taken)} if amount else None
    return Allocation(id=name, instance=name, resources=resources, cells=cells, assigned=assigned)


def host(fleet: Fleet, name: str, vcpus: int, *held_shares: int, used: int = 0) -> Row:
    """A host with a device of ten shares for each of `held_shares`, so many of which are taken, and `used` vcpus."""
    cells = {
        "0": HostCell(
            cpus=f"0-{vcpus - 1}",
            devices=tuple(Device(id=f"g{n}", resource_class=GPU, shares=10) for n in range(len(held_shares))),
        )
    }
    allocations = [held(f"{name}-a{n}", 0, {f"g{n}": taken}) for n, taken in enumerate(held_shares) if taken]
    if used:
        allocations.append(held(f"{name}-u", used, {}))
    inventory = inventory_of(cells) | {"VCPU": Inventory(total=vcpus)}
    return fleet.host(name, inventory, allocations, cells=cells)


def asking(asked: Flavor, mix: dict[str, float] | None = None, **weighers: float) -> Wishes:
    profile = Profile(name="p", weighers=weighers or {"fgd": -1.0}, mix=mix or {}, builds_max=0)
    rules = Rules(asked, profile, NO_AGGREGATES, filters_of(()), 0, mix_of(profile, FLAVORS))
    build = Build(id="r-1", flavor=asked.name)
    return Wishes(build, ask_of(asked, build, profile, rules), rules)


def test_increase_is_worked_out_on_the_device_that_the_ledger_would_give() -> None:
    """`half` on devices with 10 and 6 free takes 5 of the 6. Before: 0.4 × 0.6 (whole) + 0.2 × 1.6 (none) = 0.56.

    After, 10 and 1 free: 0.4 × 0.1 (half) + 0.4 × 0.1 (whole) + 0.2 × 1.1 (none) = 0.30.
    """
    fleet = Fleet()
    row = host(fleet, "h1", 16, 0, 4)
    wishes = asking(HALF, MIX)
    assert WEIGHERS["fgd"][0](fleet.view, row, wishes.ask) == pytest.approx(0.30 - 0.56)


def test_a_share_goes_to_a_device_in_use_and_cpus_are_taken_where_devices_are_gone() -> None:
    fleet = Fleet()
    for name, shares in (("fresh", (0, 0)), ("used", (5, 10)), ("full", (10, 10))):
        host(fleet, name, 5, *shares)
    for asked, wanted in ((HALF, "used"), (PLAIN, "full")):
        wishes = asking(asked, {"half": 1.0, "whole": 1.0, "pair": 1.0})
        scores = ScoreRow(fleet.view, wishes.ask)
        scores.refresh()
        row = choose(scores, wishes, seed_of("r-1", 0, 0))
        assert row is not None
        assert row.host.name == wanted


def test_column_form_agrees_with_the_plain_form() -> None:
    random = Random(5)
    for _ in range(30):
        fleet = Fleet()
        for number in range(random.choice((1, 7, 40))):
            shares = [random.choice((0, 0, 3, 5, 10)) for _ in range(random.randrange(4))]
            vcpus = random.choice((4, 16))
            if random.random() < 0.2:
                fleet.host(f"h{number}", {"VCPU": Inventory(total=vcpus)})
            else:
                host(fleet, f"h{number}", vcpus, *shares, used=random.randrange(vcpus))
        mix: dict[str, Any] = {one.name: random.random() for one in FLAVORS if random.random() < 0.8}
        wishes = asking(random.choice(FLAVORS), mix)
        fleet.view.write()
        plain, column = WEIGHERS["fgd"]
        rows = np.array(sorted(random.sample(range(len(fleet.view.by_index)), len(fleet.view.by_index) // 2 + 1)))
        for chosen in (slice(None), rows):
            expected_values = [plain(fleet.view, row, wishes.ask) for row in np.array(fleet.view.by_index)[chosen]]
            assert column(fleet.view, chosen, wishes.ask).tolist() == pytest.approx(expected_values, abs=1e-8)


def test_catalog_mixes_the_flavors_of_the_pool_where_the_profile_weighs_fragments() -> None:
    catalog = Catalog("default")
    for record in (*FLAVORS, Flavor(name="other", resources={"VCPU": 1}, pool="elsewhere")):
        catalog.fold(f"flavor/{record.name}".encode(), encode(record))
    for weigher, parts in (("fgd", 4), ("cpu", 0)):
        catalog.fold(b"profile/p", encode(Profile(name="p", weighers={weigher: -1.0})))
        rules = catalog.terms(Build(id="r-1", flavor="half")).ask.rules
        assert rules is not None, "a flavor with devices has rules under every profile"
        assert len(rules.mix) == parts
    catalog.fold(b"profile/p", encode(Profile(name="p", weighers={"fgd": -1.0})))
    assert catalog.terms(Build(id="r-1", flavor="none")).ask.rules is not None
