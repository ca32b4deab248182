"""NUMA cells and devices: what a ledger gives by number, what it refuses, and that whoever folds its reports sees the same cells."""
# ruff: noqa: E501 (a table of cases reads by its lines)

from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commonplace.core import cpu_lists
from commonplace.core.cells import Cells, after, cells_of
from commonplace.core.codec import Bad, decode, encode
from commonplace.core.host_keys import delta_key, parse_key, snapshot_key
from commonplace.core.hosts import APPLIED, HostState, fold
from commonplace.core.laying import Layout, Wanted, misuse, plan
from commonplace.core.ledger import Ledger
from commonplace.core.ledger_events import Configure, Found, Taken
from commonplace.core.numa import Cell, DeviceRoom, Ratios, device_room, lay, misfit, pick_cpus
from commonplace.core.ranking import column_scores
from commonplace.core.records.claims import Claim, Release
from commonplace.core.records.control import CellAsk, DeviceAsk, Flavor
from commonplace.core.records.hosts import Allocation, Assigned, Device, HostCell, Settled
from commonplace.core.records.requests import Build
from commonplace.core.request_filters import numa_topology
from commonplace.core.resources import Inventory
from commonplace.core.rules import Wishes
from commonplace.core.scoreboard import NEVER
from test_replica import Hand

GPUS = tuple(Device(id=f"g{i}", resource_class="VGPU", shares=4) for i in range(2))
CELLS = {
    "0": HostCell(
        cpus="0-3", cpus_dedicated="4-7", siblings=("4,5", "6,7"), memory_mb=8192, pages={2048: 1024}, devices=GPUS
    ),
    "1": HostCell(cpus="8-11", cpus_dedicated="12-15", siblings=("12,13", "14,15"), memory_mb=8192),
}
INVENTORY = {
    "VCPU": Inventory(total=8, allocation_ratio_thousandths=2000),
    "PCPU": Inventory(total=8),
    "MEMORY_MB": Inventory(total=16_384),
    "VGPU": Inventory(total=8),
}


def make(**configure: Any) -> Ledger:
    ledger = Ledger("h", 5, 0, "topic", 9)
    ledger.receive(Configure(**{"inventory": INVENTORY, "cells": CELLS, **configure}), 0)
    return ledger


def ask(identity: str, cells: dict[str, dict[str, int]], **resources: int) -> Allocation:
    """An allocation whose resources are what its cells take together, pages aside."""
    total: dict[str, int] = {}
    for amounts in cells.values():
        for name, amount in amounts.items():
            if not name.startswith("PAGES"):
                total[name] = total.get(name, 0) + amount
    return Allocation(id=identity, instance=f"vm-{identity}", resources=total | resources, cells=cells)


def take(ledger: Ledger, *asked: Allocation, **terms: Any) -> Settled:
    record = Claim(host="h", request="r", mode="fits", lease_ms=60_000, allocations=list(asked), **terms)
    ledger.receive(Taken(ledger.claims_through + 1, 1, record), 0)
    return ledger.settled[-1]


def release(ledger: Ledger, identity: str) -> None:
    ledger.receive(Taken(ledger.claims_through + 1, 1, Release(host="h", request="r", allocation=identity)), 0)


# --- cpu lists --------------------------------------------------------------------------------------------------------


@given(st.frozensets(st.integers(0, 60)))
def test_a_list_of_cpus_is_read_as_it_was_written(cpus: frozenset[int]) -> None:
    assert cpu_lists.parse(cpu_lists.text_of(cpus)) == cpus


@pytest.mark.parametrize("text", ["3-1", "x", "1-", "-1", ",", "0-4096", "1--2", "²"])
def test_a_list_of_cpus_that_cannot_be_meant_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="cpu list"):
        cpu_lists.parse(text)


@pytest.mark.parametrize(
    "cell",
    [
        {"cpus": "3-1"},
        {"siblings": ["0,1", "1,2"]},
        {"devices": [{"id": "a", "class": "VGPU"}, {"id": "a", "class": "VGPU"}]},
        {"devices": [{"id": "a", "class": "VCPU"}]},
        {"devices": [{"id": "a", "class": "PAGES_4"}]},
        {"pages": {"0": 1}},
        {"networks": ["a\nb"]},
    ],
)
def test_a_report_with_a_cell_that_cannot_be_is_bad(cell: dict[str, Any]) -> None:
    snapshot = {"type": "snapshot", "v": 1, "host": "h", "epoch": 0, "generation": 1, "claims_topic": "t"}
    snapshot |= {"claims_through": -1, "hash": "0" * 16, "inventory": {}, "cells": {"0": cell}}
    assert isinstance(decode("hosts", encode(snapshot)), Bad)
    snapshot["cells"] = {"0": {}}
    assert not isinstance(decode("hosts", encode(snapshot)), Bad)


# --- the ledger -------------------------------------------------------------------------------------------------------


def test_a_grant_says_which_cpus_and_devices_and_nobody_else_gets_them() -> None:
    ledger = make()
    for identity in "ab":
        assert (
            take(ledger, ask(identity, {"0": {"PCPU": 2, "MEMORY_MB": 10, "VGPU": 4}}), shares={"VGPU": 4}).verdict
            == "granted"
        )
    given_ = [ledger.allocations[identity].assigned for identity in "ab"]
    assert given_ == [
        {"0": Assigned(cpus="4-5", devices={"g0": 4})},
        {"0": Assigned(cpus="6-7", devices={"g1": 4})},
    ]
    release(ledger, "a")
    assert take(ledger, ask("c", {"0": {"PCPU": 1, "VGPU": 1}})).verdict == "granted"
    assert ledger.allocations["c"].assigned == {"0": Assigned(cpus="4", devices={"g0": 1})}


@pytest.mark.parametrize(
    ("asked", "terms", "reason", "why"),
    [
        (ask("a", {"2": {"VCPU": 1}}), {}, "constraint", "no cell 2"),
        (ask("a", {"\x1b": {"VCPU": 1}}), {}, "constraint", "no cell \\x1b"),
        (ask("a", {"0": {"VCPU": 5}}), {}, "full", "cell 0: needs 5 shared cpus"),
        (ask("a", {"0": {"PCPU": 5}}), {}, "full", "cell 0: needs 5 dedicated cpus, 4 free"),
        (ask("a", {"0": {"PCPU": 4}}), {"threads": "isolate"}, "full", "cell 0: has several threads a core"),
        (ask("a", {"1": {"MEMORY_MB": 8193}}), {}, "full", "cell 1: needs 8193 MB"),
        (ask("a", {"1": {"VGPU": 1}}), {}, "constraint", "cell 1: has no VGPU"),
        (ask("a", {"0": {"CUSTOM_X": 0}}), {}, "constraint", "cell 0: has no CUSTOM_X"),
        (ask("a", {"0": {"VGPU": 3}}), {"shares": {"VGPU": 2}}, "constraint", "no multiple of 2"),
        (ask("a", {"0": {"VGPU": 9}}), {}, "full", "needs 9, 8 free"),
        (ask("a", {"0": {"VGPU": 6}}), {"shares": {"VGPU": 3}}, "", ""),
        (ask("a", {"0": {"VGPU": 6}}), {"shares": {"VGPU": 2}}, "full", "needs 6, 4 free by 2 a device"),
        (ask("a", {"0": {"MEMORY_MB": 64, "PAGES_2048": 32}}), {}, "", ""),
        (ask("a", {"0": {"MEMORY_MB": 64, "PAGES_2048": 31}}), {}, "constraint", "not the pages of 64 MB"),
        (ask("a", {"0": {"MEMORY_MB": 4096, "PAGES_2048": 2048}}), {}, "full", "no free pages of 2048 kB"),
        (ask("a", {"0": {"MEMORY_MB": 64, "PAGES_4": 16384}}), {}, "constraint", "has no PAGES_4"),
        (ask("a", {}, VGPU=1), {}, "constraint", "1 VGPU in all, 0 from cells"),
        (ask("a", {}, PCPU=1), {}, "constraint", "1 PCPU in all, 0 from cells"),
        (ask("a", {"0": {"VCPU": 2}}, VCPU=1), {}, "constraint", "2 VCPU from cells, 1 in all"),
        (ask("a", {}, VCPU=8), {}, "", ""),
    ],
)  # fmt: skip
@pytest.mark.parametrize("mode", ["fits", "strict"])
def test_a_claim_is_refused_for_what_a_cell_cannot_give(
    mode: Any, asked: Allocation, terms: dict[str, Any], reason: str, why: str
) -> None:
    ledger = make()
    expected = f"{ledger.hash:016x}"
    record = Claim(host="h", request="r", mode=mode, expected=expected, lease_ms=9, allocations=[asked], **terms)
    ledger.receive(Taken(10, 1, record), 0)
    settled = ledger.settled[-1]
    assert (settled.verdict, settled.reason) == ("rejected" if reason else "granted", reason)
    assert why in settled.detail
    assert settled.detail.isprintable()


def test_allocations_of_one_claim_are_weighed_together() -> None:
    ledger = make()
    three = [ask(identity, {"0": {"PCPU": 2}}) for identity in "abc"]
    assert take(ledger, *three).reason == "full"
    assert not ledger.allocations
    assert take(ledger, *three[:2]).verdict == "granted"
    assert [one.assigned for one in ledger.allocations.values()] == [{"0": Assigned(cpus=c)} for c in ("4-5", "6-7")]


def test_cells_are_oversubscribed_by_the_hosts_ratio_and_no_further() -> None:
    ledger = make()
    assert [take(ledger, ask(i, {"0": {"VCPU": 4}})).verdict for i in "ab"] == ["granted", "granted"]
    assert take(ledger, ask("c", {"0": {"VCPU": 1}})).reason == "full"
    assert take(ledger, ask("d", {"1": {"VCPU": 1}})).verdict == "granted"


def test_shared_cpus_beside_dedicated_ones_count_in_their_cell() -> None:
    ledger = make()
    assert take(ledger, ask("a", {"0": {"PCPU": 1, "VCPU": 4}})).verdict == "granted"
    assert take(ledger, ask("b", {"0": {"PCPU": 1, "VCPU": 4}})).verdict == "granted"  # twice the 4 cpus of the cell
    refused = take(ledger, ask("c", {"0": {"PCPU": 1, "VCPU": 1}}))
    assert (refused.reason, refused.detail) == ("full", "cell 0: needs 1 shared cpus beside the 8 used of 4")
    assert take(ledger, ask("d", {"0": {"PCPU": 1}})).verdict == "granted"


def test_who_has_a_cpu_that_its_cell_lost_counts_there_until_it_goes() -> None:
    ledger = make()
    assert take(ledger, ask("a", {"0": {"PCPU": 2}})).verdict == "granted"  # 4-5
    fewer = CELLS | {"0": HostCell(cpus="0-3", cpus_dedicated="6-7", memory_mb=8192)}
    ledger.receive(Configure(inventory=INVENTORY, cells=fewer), 0)
    assert take(ledger, ask("b", {"0": {"PCPU": 1}})).detail == "cell 0: needs 1 dedicated cpus, 0 free"
    release(ledger, "a")
    assert take(ledger, ask("c", {"0": {"PCPU": 2}})).verdict == "granted"


def test_a_restarted_agent_keeps_what_it_gave() -> None:
    ledger = make()
    take(ledger, ask("a", {"0": {"PCPU": 1, "VGPU": 4}}), shares={"VGPU": 4})
    take(ledger, ask("b", {"0": {"PCPU": 1, "VGPU": 4}}), shares={"VGPU": 4})
    release(ledger, "a")
    past = HostState("h")
    key = parse_key(snapshot_key("h", 5))
    assert key is not None
    assert fold(past, key, 6, 1, encode(ledger.snapshot("agent"))) == (APPLIED, "")
    again = Ledger.recover(past, 7, 0, 0)
    again.receive(Configure(inventory=INVENTORY, cells=CELLS), 0)
    assert again.allocations["b"].assigned == {"0": Assigned(cpus="5", devices={"g1": 4})}
    assert again.cells == ledger.cells
    take(again, ask("c", {"0": {"PCPU": 3, "VGPU": 4}}), shares={"VGPU": 4})
    assert again.allocations["c"].assigned == {"0": Assigned(cpus="4,6-7", devices={"g0": 4})}


def test_found_instances_hold_the_cpus_that_their_driver_names() -> None:
    ledger = make()
    ledger.receive(
        Found(instance="vm", resources={"PCPU": 2}, cells={"0": {"PCPU": 2}}, assigned={"0": Assigned(cpus="4,6")}), 0
    )
    take(ledger, ask("a", {"0": {"PCPU": 2}}))
    assert ledger.allocations["a"].assigned == {"0": Assigned(cpus="5,7")}
    ledger = make()
    ledger.receive(
        Found(instance="vm", resources={"PCPU": 2}, cells={"0": {"PCPU": 2}}, assigned={"0": Assigned(cpus="4,6")}), 0
    )
    assert take(ledger, ask("a", {"0": {"PCPU": 2}}), threads="require").reason == "full"


amounts = st.fixed_dictionaries({}, optional={"VCPU": st.integers(0, 3), "PCPU": st.integers(0, 3), "VGPU": st.integers(0, 5), "MEMORY_MB": st.sampled_from((64, 4096))})  # fmt: skip
moves = st.one_of(
    st.tuples(st.just("claim"), st.dictionaries(st.sampled_from("01"), amounts, min_size=1), st.sampled_from(("prefer", "require"))),
    st.tuples(st.just("release"), st.integers(0, 5), st.none()),
    st.tuples(st.just("cells"), st.sampled_from((CELLS, {"0": CELLS["0"]}, {})), st.none()),
    st.tuples(st.just("snapshot"), st.none(), st.none()),
)  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(st.lists(moves, max_size=12))
def test_ledger_and_reader_agree_on_the_cells_and_no_number_is_given_twice(todo: list[Any]) -> None:
    ledger, reader, offset = make(), HostState("h"), 6

    def report(value: bytes, key: bytes) -> None:
        nonlocal offset
        parsed = parse_key(key)
        assert parsed is not None
        assert fold(reader, parsed, offset, 1, value) == (APPLIED, "")
        offset += 1

    report(encode(ledger.snapshot("a")), snapshot_key("h", 5))
    for number, (what, first, second) in enumerate(todo):
        if what == "claim":
            take(ledger, ask(f"a{number}", first), threads=second)
        elif what == "release":
            release(ledger, f"a{first}")
        elif what == "cells":
            ledger.receive(Configure(cells=first), 0)
        if what == "snapshot":
            report(encode(ledger.snapshot("a")), snapshot_key("h", 5))
        else:
            report(encode(ledger.delta()), delta_key("h", 5))
        assert not reader.stale
        anew = cells_of(ledger.reported_cells)
        cpus: list[tuple[str, int]] = []
        for one in ledger.allocations.values():
            anew = after(anew, one.cells, one.assigned, 1)
            cpus += [(cell, cpu) for cell, a in (one.assigned or {}).items() for cpu in cpu_lists.parse(a.cpus)]
        assert reader.cells == ledger.cells == anew
        assert len(cpus) == len(set(cpus))
        assert all(device.free >= 0 for cell in ledger.cells.values() for device in cell.devices)


# --- laying -----------------------------------------------------------------------------------------------------------

small = st.builds(
    Cell,
    shared=st.frozensets(st.integers(0, 3), max_size=3),
    dedicated=st.frozensets(st.integers(4, 7), max_size=3),
    memory_mb=st.integers(0, 9),
    socket=st.integers(-1, 1),
    devices=st.lists(
        st.builds(DeviceRoom, resource_class=st.sampled_from("AB"), id=st.uuids().map(str), free=st.integers(0, 3), shares=st.just(3)), max_size=3
    ).map(tuple),
)  # fmt: skip
asks = st.builds(CellAsk, cpus=st.integers(0, 2), cpus_dedicated=st.integers(0, 2), memory_mb=st.integers(0, 6))


@st.composite
def wanted(draw: st.DrawFn) -> tuple[Wanted, ...]:
    found = []
    for name in draw(st.sets(st.sampled_from("AB"))):
        shares = draw(st.integers(1, 3))
        policy = draw(st.sampled_from(("required", "preferred", "legacy", "socket")))
        found.append(Wanted(name, shares * draw(st.integers(1, 3)), shares, policy))
    return tuple(found)


def reaches(cells: Cells, way: tuple[str, ...], name: str, policy: str) -> bool:
    """Whether an instance on these cells may have a device of a cell, written from the words of docs/protocol.md."""
    cell = cells[name]
    nowhere = not cell.shared and not cell.dedicated and not cell.memory_mb
    same_socket = any(cells[own].socket == cell.socket != -1 for own in way)
    return (
        not way
        or name in way
        or {"preferred": True, "required": False, "legacy": nowhere, "socket": same_socket}[policy]
    )


@settings(derandomize=True, deadline=None, max_examples=400)
@given(st.lists(small, min_size=1, max_size=4), st.lists(asks, max_size=3), wanted())
def test_cells_and_devices_are_laid_exactly_when_one_of_all_ways_does(
    host: list[Cell], asked: list[CellAsk], devices: tuple[Wanted, ...]
) -> None:
    cells, ratios = {str(i): cell for i, cell in enumerate(host)}, Ratios(cpu=2000)

    def good(way: tuple[str, ...]) -> bool:
        seated = all(not misfit(cells[name], ask, ratios) for name, ask in zip(way, asked, strict=True))
        return seated and all(
            sum(d.free >= one.shares for name, cell in cells.items() if reaches(cells, way, name, one.policy) for d in cell.devices if d.resource_class == one.resource_class) * one.shares >= one.amount
            for one in devices
        )  # fmt: skip

    layout = Layout(tuple(asked), devices)
    taken = plan(cells, layout, ratios)
    assert (taken is not None) is any(good(way) for way in permutations(cells, len(asked)))
    if taken is None:
        return
    for one in devices:
        parts = {name: amounts.get(one.resource_class, 0) for name, amounts in taken.items()}
        assert sum(parts.values()) == one.amount
        assert all(
            part <= device_room(cells[name], one.resource_class, one.shares) for name, part in parts.items() if part
        )
    for name, total in (("VCPU", sum(a.cpus for a in asked)), ("MEMORY_MB", sum(a.memory_mb for a in asked))):
        assert sum(amounts.get(name, 0) for amounts in taken.values()) == total


@settings(derandomize=True, deadline=None, max_examples=300)
@given(
    st.frozensets(st.integers(0, 7)),
    st.frozensets(st.integers(0, 7)),
    st.sampled_from(((), ("0,1", "2,3", "4,5", "6,7"), ("0-3", "4-7"), ("0,1",))),
    st.integers(1, 6),
    st.sampled_from(("prefer", "require", "isolate")),
)
def test_cpus_picked_are_free_as_many_as_asked_and_lie_by_the_policy(
    dedicated: frozenset[int], pinned: frozenset[int], siblings: tuple[str, ...], count: int, threads: Any
) -> None:
    cell = Cell(
        shared=dedicated, dedicated=dedicated, pinned=pinned, siblings=tuple(cpu_lists.parse(one) for one in siblings)
    )
    if misfit(cell, CellAsk(cpus_dedicated=count, threads=threads), Ratios()):
        return
    picked = pick_cpus(cell, count, threads)
    assert picked <= cell.free_dedicated
    cores = [core & picked for core in cell.siblings if core & picked]
    if threads == "isolate":
        whole = [core for core in cell.siblings or [frozenset({cpu}) for cpu in dedicated] if core & picked]
        assert all(core <= picked for core in whole)
        assert len(whole) == count
    else:
        assert len(picked) == count
    if threads == "require" and count > 1:
        assert sum(len(core) == 1 for core in cores) <= 1
        assert sum(map(len, cores)) == count


def test_the_best_cell_is_one_without_spare_devices_then_the_one_with_least_room() -> None:
    roomy = Cell(shared=frozenset(range(8)), memory_mb=100)
    tight = Cell(shared=frozenset(range(8)), memory_mb=100, shared_used=4)
    gpu = Cell(shared=frozenset(range(8)), memory_mb=100, shared_used=6, devices=(DeviceRoom("VGPU", "g", 1, 1),))
    cells = {"a": roomy, "b": tight, "c": gpu}
    one = Layout((CellAsk(cpus=2, memory_mb=1),))
    assert list(plan(cells, one, Ratios()) or ()) == ["b"]
    device = Layout((CellAsk(cpus=2, memory_mb=1),), (Wanted("VGPU", 1, 1, "preferred"),))
    assert plan(cells, device, Ratios()) == {"c": {"VCPU": 2, "MEMORY_MB": 1, "VGPU": 1}}
    assert lay(cells, (CellAsk(cpus=8, memory_mb=1),), Ratios()) == ("a",)


@pytest.mark.parametrize(
    ("flavor", "why"),
    [
        ({"resources": {"PCPU": 2}, "cells": (CellAsk(cpus_dedicated=4),)}, "take 4 PCPU, its resources name 2: set resources PCPU to 4"),
        ({"resources": {"PCPU": 4}, "cells": (CellAsk(cpus=1),)}, "take 1 VCPU, its resources name 0"),
        ({"resources": {"VCPU": 4}, "cells": (CellAsk(cpus=1),)}, ""),
        ({"resources": {"VGPU": 4}, "devices": (DeviceAsk(resource_class="VGPU", count=2),)}, "take 2 VGPU, its resources name 4"),
        ({"resources": {"VGPU": 2}, "devices": (DeviceAsk(resource_class="VGPU"),) * 2}, "asks for devices VGPU twice"),
        ({"resources": {"PCPU": 2}, "cells": (CellAsk(cpus_dedicated=1), CellAsk(cpus_dedicated=1, threads="require"))}, "several thread policies"),
    ],
)  # fmt: skip
def test_a_flavor_whose_parts_are_not_its_whole_is_refused_with_what_to_set(flavor: dict[str, Any], why: str) -> None:
    said = misuse(Flavor(name="f", **flavor))
    assert why in said if why else not said


# --- the loop ---------------------------------------------------------------------------------------------------------


class Numa(Hand):
    """A replica and ledgers whose hosts have cells."""

    def __init__(self, *hosts: str, **settings_: Any) -> None:
        super().__init__(*hosts, **settings_)
        for host in hosts:
            inventory = INVENTORY | {"DISK_GB": Inventory(total=999)}
            self.ledgers[host].receive(Configure(inventory=inventory, cells=CELLS), 0)
            self.report(host)
        self.control(
            Flavor(
                name="pinned",
                resources={"PCPU": 2, "MEMORY_MB": 64, "VGPU": 2},
                cells=(CellAsk(cpus_dedicated=2, memory_mb=64, threads="require"),),
                devices=(DeviceAsk(resource_class="VGPU", shares=2, policy="required"),),
            )
        )
        self.control(
            Flavor(name="wide", resources={"VCPU": 4, "MEMORY_MB": 128}, cells=(CellAsk(cpus=2, memory_mb=64),) * 2)
        )
        self.control(Flavor(name="plain", resources={"VCPU": 1, "PCPU": 1, "VGPU": 3}))


def sent(effect: Any) -> Claim:
    claim = decode("claims", effect.value)
    assert isinstance(claim, Claim)
    return claim


def test_claims_under_way_are_counted_per_cell_and_their_hash_is_predicted() -> None:
    hand = Numa("h0", mode="strict")
    builds = [Build(id=f"p{i}", flavor="pinned") for i in range(3)] + [Build(id="w", flavor="wide")]
    claims = hand.claims(*builds)
    assert [sent(one).allocations[0].cells for one in claims] == [
        {"0": {"PCPU": 2, "MEMORY_MB": 64, "VGPU": 2}},
        {"0": {"PCPU": 2, "MEMORY_MB": 64, "VGPU": 2}},
        {"0": {"VCPU": 2, "MEMORY_MB": 64}, "1": {"VCPU": 2, "MEMORY_MB": 64}},
    ]
    assert (sent(claims[0]).threads, sent(claims[0]).shares) == ("require", {"VGPU": 2})
    hand.grant(*claims)
    ledger = hand.ledgers["h0"]
    assert [one.verdict for one in hand.replica.view.rows["h0"].host.settled] == ["granted"] * 3
    assert [one.assigned for one in ledger.allocations.values()] == [
        {"0": Assigned(cpus="4-5", devices={"g0": 2})},
        {"0": Assigned(cpus="6-7", devices={"g0": 2})},
        None,
    ]
    hand.turn()
    (refusal,) = hand.decisions("p2")
    assert refusal.result == "no_valid_host"
    assert refusal.explanation is not None
    assert refusal.explanation.closest is not None
    assert "near the networks or devices" in refusal.explanation.closest.detail


def test_a_flavor_without_cells_gets_its_dedicated_cpus_and_devices_from_cells_all_the_same() -> None:
    hand = Numa("h0")
    (claim,) = hand.claims(Build(id="a", flavor="plain"))
    assert sent(claim).allocations[0].cells == {"0": {"VCPU": 1, "PCPU": 1, "VGPU": 3}}
    hand.grant(claim)
    assert hand.decisions("a")[0].result == "placed"


def test_the_last_cell_goes_to_one_of_two_replicas_and_the_other_is_told_full() -> None:
    """In `fits` mode nothing but the cells stands between two claims on a host that has room in all."""
    one = Numa("h0", mode="fits")
    claims = one.claims(*(Build(id=f"p{i}", flavor="pinned") for i in range(2)))
    rival = ask("rival", {"0": {"PCPU": 2, "MEMORY_MB": 64}})
    ledger = one.ledgers["h0"]
    record = Claim(host="h0", request="r", mode="fits", lease_ms=60_000, allocations=[rival])
    ledger.receive(Taken(0, one.now, record), one.now)
    one.offsets["claims"] = 1
    one.grant(*claims)
    verdicts = [(entry.verdict, entry.reason) for entry in one.replica.view.rows["h0"].host.settled]
    assert verdicts == [("granted", ""), ("granted", ""), ("rejected", "full")]


steps = st.lists(
    st.tuples(st.sampled_from(("pinned", "wide", "plain", "small")), st.sampled_from(("grant", "refuse", "wait"))), max_size=25
)  # fmt: skip


@settings(deadline=None, max_examples=40)
@given(steps, st.randoms(use_true_random=False))
def test_hosts_left_out_of_a_score_row_are_those_that_the_plain_filter_turns_away(todo: list[Any], random: Any) -> None:
    hand = Numa("h0", "h1", "h2", mode="fits")
    waiting: list[Any] = []
    for number, (flavor, fate) in enumerate(todo):
        claims = hand.claims(Build(id=f"r{number}", flavor=flavor)) + (waiting if fate != "wait" else [])
        waiting = claims if fate == "wait" else []
        if fate == "refuse":  # somebody else was there before
            for host in {sent(one).host for one in claims}:
                rival = ask(f"rival{number}", {random.choice("01"): {"VCPU": 1, "PCPU": random.randint(0, 3)}})
                record = Claim(host=host, request="x", mode="fits", lease_ms=9, allocations=[rival])
                ledger = hand.ledgers[host]
                ledger.receive(Taken(hand.offsets["claims"], hand.now, record), hand.now)
                hand.offsets["claims"] += 1
        if claims and fate != "wait":
            hand.grant(*claims)
        placer = hand.replica.placer
        for row_of_scores in placer.score_rows.values():
            row_of_scores.refresh()
            if row_of_scores.ask.rules is None:
                continue
            wishes = Wishes(Build(id="x", flavor="x"), row_of_scores.ask, row_of_scores.ask.rules)
            full = column_scores(hand.replica.view, row_of_scores.ask, slice(None))
            for index, score in enumerate(row_of_scores.scores.tolist()):
                if score != full[index]:
                    assert score == NEVER
                    assert numa_topology(hand.replica.view, hand.replica.view.by_index[index], wishes)


def test_a_flavor_that_takes_more_from_its_cells_than_it_names_is_refused() -> None:
    hand = Numa("h0")
    hand.control(Flavor(name="odd", resources={"VCPU": 1}, cells=(CellAsk(cpus=2),)))
    assert hand.claims(Build(id="a", flavor="odd")) == []
    (decision,) = hand.decisions("a")
    assert (decision.result, decision.reason) == ("rejected", "invalid")
    assert "set resources VCPU to 2" in decision.message
