"""Resize in place: an instance stays where it fits, and needs only what it grows by (docs/decisions/0011)."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commonplace.core import cpu_lists, hashing
from commonplace.core.cells import Terms, after, cells_of
from commonplace.core.codec import encode
from commonplace.core.keeper_events import DriverSaid, HostSpec, StartInstance, StopInstance
from commonplace.core.ledger import Ledger
from commonplace.core.ledger_events import Configure, Found, Taken, Up
from commonplace.core.records.claims import Claim, Confirm, Release
from commonplace.core.records.control import CellAsk, DeviceAsk, Flavor
from commonplace.core.records.hosts import Allocation, Assigned, HostCell, Whole
from commonplace.core.records.requests import Build
from commonplace.core.replacing import difference
from commonplace.core.resources import Inventory
from test_cells import CELLS, INVENTORY
from world import Agent, Scheduler, World, flavor, inventory


def a_host(vcpus: int = 8, **more: Any) -> HostSpec:
    return HostSpec(name="h1", inventory=inventory(vcpus=vcpus), **more)


class Stage:
    """One host and one replica, and an instance `vm` of five vcpus that is active there."""

    def __init__(self, *specs: HostSpec, first: str = "large") -> None:
        self.world = World(partitions=1, request_partitions=1)
        for record in (flavor("small"), flavor("large", vcpus=5), flavor("huge", vcpus=8), flavor("giant", vcpus=9)):
            self.world.flavor(record)
        self.agent: Agent = self.world.agent(specs=list(specs) or [a_host()])
        self.world.settle()
        self.scheduler: Scheduler = self.world.scheduler("r1")
        self.first = first

    def place(self, request: str, name: str, **fields: Any) -> Any:
        self.world.submit(Build(id=request, flavor=name, **fields))
        self.world.settle()
        return self.world.decisions(request)[0]

    def begin(self) -> str:
        """The id of the first allocation, confirmed and up."""
        first = self.confirm(self.place("q0", self.first, instances=("vm",)))
        self.agent.receive(DriverSaid("h1", Up(first)))
        self.world.settle()
        return first

    def say(self, kind: Any, request: str, allocation: str, **fields: Any) -> None:
        record = kind(host="h1", request=request, allocation=allocation, **fields)
        self.world.append("claims", 0, b"h1", encode(record))
        self.world.settle()

    def confirm(self, decision: Any) -> str:
        assert decision.result == "placed", decision
        (placed,) = decision.placed
        self.say(Confirm, decision.request, placed.allocation)
        return str(placed.allocation)

    @property
    def ledger(self) -> Ledger:
        found = self.agent.keeper.hosts["h1"].ledger
        assert found is not None
        return found

    def grow(self, name: str = "huge", **fields: Any) -> Any:
        return self.place("q1", name, instances=("vm",), source="h1", **fields)


def test_resize_in_place_needs_only_the_difference_and_its_confirm_lets_the_old_go() -> None:
    stage = Stage()
    old = stage.begin()
    (placed,) = stage.grow().placed
    assert placed.host == "h1"
    held = stage.ledger.allocations
    assert held[placed.allocation].resources == {"VCPU": 3}
    assert (held[placed.allocation].replaces, held[old].state) == (old, "active")
    assert stage.ledger.used["VCPU"] == 8
    assert stage.place("q2", "small").result == "no_valid_host"  # room for the larger of the two is held
    stage.say(Confirm, "q1", placed.allocation)
    (left,) = stage.ledger.allocations.values()
    assert (left.id, left.state, left.resources["VCPU"], left.replaces, left.becomes) == (
        placed.allocation, "active", 8, "", None,
    )  # fmt: skip
    row = stage.scheduler.replica.view.rows["h1"]
    assert row.host.stale == ""
    assert row.host.hash == stage.ledger.hash
    acted = [e for e in stage.agent.other if isinstance(e, (StartInstance, StopInstance))]
    assert [(type(e), e.allocation.id) for e in acted[-2:]] == [(StopInstance, old), (StartInstance, placed.allocation)]


def test_without_its_source_both_sizes_count() -> None:
    stage = Stage()
    stage.begin()
    assert stage.place("q1", "huge", instances=("vm",)).result == "no_valid_host"


def test_what_no_difference_makes_fit_is_refused_with_what_the_host_would_have() -> None:
    stage = Stage()
    stage.begin()
    stage.confirm(stage.place("other", "small"))
    refusal = stage.grow()
    assert refusal.result == "no_valid_host"
    assert refusal.explanation.closest.needed == 8
    assert refusal.explanation.closest.had == 7  # all but what the other has: its own does not count
    assert "no host could ever hold 9 VCPU" in stage.place("q3", "giant", instances=("vm",), source="h1").message


def beside(vcpus: int = 64) -> Stage:
    """The instance on h1, and an empty h2 that every profile would choose."""
    stage = Stage(a_host(labels={"zone": "z1"}), HostSpec(name="h2", inventory=inventory(vcpus=vcpus)))
    stage.confirm(stage.place("q0", "large", instances=("vm",), host="h1"))
    return stage


@pytest.mark.parametrize("fields", [{}, {"zone": "z1"}, {"profile": "nova"}, {"group": "g", "group_max": 1}])
def test_a_resize_that_fits_where_it_stands_stays_however_good_others_are(fields: dict[str, Any]) -> None:
    (placed,) = beside().grow(**fields).placed
    assert placed.host == "h1"


@pytest.mark.parametrize("fields", [{"hosts_ignored": ("h1",)}, {"host": "h2"}, {"zone": "default"}])
def test_a_resize_that_is_asked_to_move_moves(fields: dict[str, Any]) -> None:
    stage = beside()
    (placed,) = stage.grow(**fields).placed
    assert placed.host == "h2"
    assert stage.ledger.used["VCPU"] == 5


def test_a_resize_that_does_not_fit_where_it_stands_moves() -> None:
    (placed,) = beside().grow("giant").placed
    assert placed.host == "h2"


def test_a_resize_off_a_host_that_drains_moves() -> None:
    stage = beside()
    stage.ledger.receive(Configure(status="draining"), 0)
    stage.world.settle(600_000)
    (placed,) = stage.grow().placed
    assert placed.host == "h2"


def test_the_flavor_that_an_instance_has_is_no_resize_and_goes_where_it_is_best_off() -> None:
    (placed,) = beside().grow("large").placed
    assert placed.host == "h2"


def test_shrinking_frees_room_at_the_confirm() -> None:
    stage = Stage(first="huge")
    stage.begin()
    (placed,) = stage.grow("small").placed
    assert stage.ledger.allocations[placed.allocation].resources == {}
    assert stage.place("q2", "small").result == "no_valid_host"
    stage.say(Confirm, "q1", placed.allocation)
    assert stage.ledger.used["VCPU"] == 1
    assert stage.place("q3", "large").result == "placed"


@pytest.mark.parametrize("end", ["lapse", "release"])
def test_resize_that_is_not_confirmed_leaves_the_old_as_it_was(end: str) -> None:
    stage = Stage()
    old = stage.begin()
    before = stage.ledger.hash
    (placed,) = stage.grow(lease_ms=60_000).placed
    if end == "release":
        stage.say(Release, "q1", placed.allocation, leased_only=True)
    else:
        stage.world.now += 90_000
        stage.world.settle()
        stage.world.settle()
    assert list(stage.ledger.allocations) == [old]
    assert stage.ledger.hash == before


def test_what_is_to_replace_an_instance_that_goes_by_itself_holds_all_that_it_becomes() -> None:
    stage = Stage()
    old = stage.begin()
    (placed,) = stage.grow().placed
    stage.say(Release, "q0", old)
    (left,) = stage.ledger.allocations.values()
    assert (left.state, left.resources["VCPU"], left.replaces) == ("leased", 8, "")
    stage.say(Confirm, "q1", placed.allocation)
    assert [(a.state, a.resources["VCPU"]) for a in stage.ledger.allocations.values()] == [("active", 8)]


def test_a_restarted_agent_knows_what_replaces_what() -> None:
    stage = Stage()
    stage.begin()
    (placed,) = stage.grow().placed
    stage.world.members.remove(stage.agent)
    stage.world.now += 1_000
    stage.agent = stage.world.agent(specs=[a_host()], name="agent-2")
    stage.world.settle()
    stage.say(Confirm, "q1", placed.allocation)
    assert [(a.id, a.resources["VCPU"]) for a in stage.ledger.allocations.values()] == [(placed.allocation, 8)]


def test_the_confirm_after_a_gap_still_lets_the_old_go() -> None:
    stage = Stage()
    stage.begin()
    (placed,) = stage.grow().placed
    stage.ledger.assume_active()
    assert {a.state for a in stage.ledger.allocations.values()} == {"active"}
    stage.say(Confirm, "q1", placed.allocation)
    assert list(stage.ledger.allocations) == [placed.allocation]


def test_an_instance_that_grows_does_not_count_for_group_or_instances_where_it_stands() -> None:
    stage = Stage()
    stage.first = "small"
    stage.confirm(stage.place("q0", "small", instances=("vm",), group="g", group_max=1))
    assert stage.grow("large", group="g", group_max=1).result == "placed"


def test_an_instance_of_another_project_is_not_replaced() -> None:
    stage = Stage()
    stage.confirm(stage.place("q0", "large", instances=("vm",), project="blue"))
    assert stage.grow(project="green").result == "no_valid_host"


# --- what the ledger refuses -----------------------------------------------------------------------------------------


def ledger(cells: dict[str, HostCell] | None = None) -> Ledger:
    made = Ledger("h", 0, 0, "t", -1)
    made.receive(Configure(inventory=INVENTORY if cells else inventory(vcpus=8), cells=cells), 0)
    return made


def taken(made: Ledger, record: Any) -> Any:
    made.receive(Taken(made.claims_through + 1, 0, record), 0)
    return made.settled[-1]


def fits(request: str, *asked: Allocation, **terms: Any) -> Claim:
    return Claim(host="h", request=request, mode="fits", lease_ms=60_000, allocations=list(asked), **terms)


def part(name: str = "b", **fields: Any) -> Allocation:
    said: dict[str, Any] = {"resources": {"VCPU": 1}, "replaces": "a", "becomes": Whole(resources={"VCPU": 3})} | fields
    return Allocation(id=name, instance="vm", **said)


@pytest.mark.parametrize(
    ("asked", "reason", "says"),
    [
        ([part(resources={"VCPU": 2})], "constraint", "the difference"),
        ([part(resources={})], "constraint", "the difference"),
        ([part(replaces="z")], "stale", "not held"),
        ([part(replaces="", becomes=Whole(resources={}))], "constraint", "claimed alone"),
        ([part(becomes=None)], "constraint", "claimed alone"),
        ([part(), part("c")], "constraint", "claimed alone"),
        ([part(project="other")], "constraint", "another instance"),
        ([part(replaces="new", resources={"VCPU": 2})], "constraint", "not active"),
        ([part(replaces="found:vm", resources={"VCPU": 2})], "constraint", "another"),
        ([part(becomes=Whole(resources={"VCPU": 9}), resources={"VCPU": 7})], "full", "VCPU: needs 9, 6 free"),
    ],
)
def test_claim_that_replaces_wrongly_is_rejected(asked: list[Allocation], reason: str, says: str) -> None:
    made = ledger()
    taken(made, fits("r", Allocation(id="a", instance="vm", resources={"VCPU": 2})))
    taken(made, Confirm(host="h", request="r", allocation="a"))
    taken(made, fits("r3", Allocation(id="new", instance="vm", resources={"VCPU": 1})))
    made.receive(Found(instance="vm", resources={"VCPU": 1}), 0)
    verdict = taken(made, fits("r2", *asked))
    assert (verdict.verdict, verdict.reason) == ("rejected", reason)
    assert says in verdict.detail


def test_one_allocation_is_replaced_by_one_at_a_time() -> None:
    made = ledger()
    taken(made, fits("r", Allocation(id="a", instance="vm", resources={"VCPU": 2})))
    taken(made, Confirm(host="h", request="r", allocation="a"))
    assert taken(made, fits("r2", part())).verdict == "granted"
    assert taken(made, fits("r3", part("c"))).reason == "constraint"


# --- cells -----------------------------------------------------------------------------------------------------------


def pinned(cpus: int, memory_mb: int = 64, gpus: int = 0) -> Flavor:
    devices = (DeviceAsk(resource_class="VGPU", count=gpus, policy="preferred"),) if gpus else ()
    resources = {"PCPU": cpus, "MEMORY_MB": memory_mb} | ({"VGPU": gpus} if gpus else {})
    cells = (CellAsk(cpus_dedicated=cpus, memory_mb=memory_mb),)
    return Flavor(name=f"p{cpus}-{gpus}", resources=resources, cells=cells, devices=devices)


def numbers(allocation: Allocation) -> set[tuple[str, int]]:
    return {(cell, cpu) for cell, given in (allocation.assigned or {}).items() for cpu in cpu_lists.parse(given.cpus)}


def test_dedicated_cpus_and_devices_stay_when_an_instance_grows_on_its_cell() -> None:
    stage = Stage(HostSpec(name="h1", inventory=INVENTORY | {"DISK_GB": Inventory(total=999)}, cells=CELLS))
    for one in (pinned(2, gpus=1), pinned(3, 128, gpus=1), pinned(1, 32)):
        stage.world.flavor(one)
    stage.first = "p2-1"
    old = stage.begin()
    before = stage.ledger.allocations[old]
    (placed,) = stage.grow("p3-1").placed
    more = stage.ledger.allocations[placed.allocation]
    assert (more.resources, len(numbers(more))) == ({"PCPU": 1, "MEMORY_MB": 64}, 1)
    stage.say(Confirm, "q1", placed.allocation)
    (whole,) = stage.ledger.allocations.values()
    assert numbers(whole) == numbers(before) | numbers(more)
    devices = [{cell: given.devices for cell, given in (one.assigned or {}).items()} for one in (before, whole)]
    assert devices[0] == devices[1]
    assert stage.scheduler.replica.view.rows["h1"].host.cells == stage.ledger.cells
    (smaller,) = stage.place("q2", "p1-0", instances=("vm",), source="h1").placed
    stage.say(Confirm, "q2", smaller.allocation)
    (left,) = stage.ledger.allocations.values()
    assert numbers(left) < numbers(whole)
    assert all(not given.devices for given in (left.assigned or {}).values())
    assert stage.scheduler.replica.view.rows["h1"].host.cells == stage.ledger.cells


def test_whole_cores_that_an_instance_has_do_not_count_for_what_it_grows_by() -> None:
    cells = {"0": HostCell(cpus="0-3", cpus_dedicated="0-3", siblings=("0,1", "2,3"), memory_mb=8192)}
    stage = Stage(HostSpec(name="h1", inventory=INVENTORY | {"DISK_GB": Inventory(total=999)}, cells=cells))
    one = CellAsk(cpus_dedicated=1, memory_mb=64, threads="isolate")
    stage.world.flavor(Flavor(name="alone", resources={"PCPU": 1, "MEMORY_MB": 64}, cells=(one,)))
    stage.world.flavor(pinned(1))
    stage.world.flavor(pinned(3))
    stage.first = "alone"
    old = stage.begin()
    assert len(numbers(stage.ledger.allocations[old])) == 2
    stage.confirm(stage.place("q2", "p1-0"))
    decision = stage.grow("p3-0")  # it has two of the four cpus: alone it would fit, but two more are not there
    assert (decision.result, decision.conflicts) == ("no_valid_host", 0)


def test_memory_in_other_pages_is_not_there_twice_and_nothing_is_claimed() -> None:
    stage = Stage(HostSpec(name="h1", inventory=INVENTORY | {"DISK_GB": Inventory(total=999)}, cells={"0": CELLS["0"]}))
    amounts = {"VCPU": 1, "MEMORY_MB": 2048}
    for name, size in (("plain", 0), ("paged", 2048)):
        one = CellAsk(cpus=1, memory_mb=2048, page_kb=size)
        stage.world.flavor(Flavor(name=name, resources=amounts, cells=(one,)))
    stage.first = "plain"
    stage.begin()
    for request in ("q2", "q3", "q4"):
        stage.confirm(stage.place(request, "plain"))
    decision = stage.grow("paged")
    assert (decision.result, decision.conflicts) == ("no_valid_host", 0)


@pytest.mark.parametrize(
    ("old", "new", "threads", "more"),
    [
        ({"0": {"PCPU": 2}}, {"0": {"PCPU": 4}}, "prefer", {"0": {"PCPU": 2}}),
        ({"0": {"PCPU": 2}}, {"1": {"PCPU": 2}}, "require", {"1": {"PCPU": 2}}),
        ({"0": {"PCPU": 2}}, {"0": {"PCPU": 2}}, "require", None),
        ({"0": {"VGPU": 1}}, {"0": {"VGPU": 1}}, "prefer", {}),
        ({"0": {"VGPU": 1}}, {"0": {"VGPU": 2}}, "prefer", None),
        (
            {"0": {"MEMORY_MB": 8, "PAGES_4": 2048}},
            {"0": {"MEMORY_MB": 12, "PAGES_2048": 6}},
            "prefer",
            {"0": {"MEMORY_MB": 12, "PAGES_2048": 6}},
        ),
    ],
)
def test_what_is_given_by_number_stays_or_the_resize_counts_both(
    old: Any, new: Any, threads: str, more: dict[str, Any] | None
) -> None:
    def whole(cells: dict[str, dict[str, int]]) -> dict[str, int]:
        return {n: sum(c.get(n, 0) for c in cells.values()) for c in cells.values() for n in c if "PAGES" not in n}

    found = difference(
        Allocation(id="a", resources=whole(old), cells=old),
        Whole(resources=whole(new), cells=new),
        Terms(threads, {}),  # type: ignore[arg-type]  # one of the three
        cells_of(CELLS),
    )
    assert (found[1] if found else None) == more


def test_a_device_stays_where_it_gives_as_many_shares_as_the_new_size_wants_of_each() -> None:
    held = {"0": {"VGPU": 2}}
    old = Allocation(id="a", resources={"VGPU": 2}, cells=held, assigned={"0": Assigned(devices={"g0": 2})})
    assert "g0" in {device.id for device in CELLS["0"].devices}
    whole = Whole(resources={"VGPU": 2}, cells=held)
    by_shares = {each: difference(old, whole, Terms("prefer", {"VGPU": each}), cells_of(CELLS)) for each in (1, 2)}
    assert by_shares == {1: None, 2: ({}, {})}  # two devices by one share are not one device by two


amounts = st.dictionaries(
    st.sampled_from(sorted(CELLS)),
    st.fixed_dictionaries(
        {}, optional={"PCPU": st.integers(1, 3), "VCPU": st.integers(1, 2), "MEMORY_MB": st.integers(1, 64), "VGPU": st.integers(1, 2)}
    ).filter(bool),
    min_size=1,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(("a", "b", "c")), amounts, st.booleans()), min_size=1, max_size=10))
def test_whatever_is_replaced_no_cpu_and_no_share_is_given_twice_and_cells_are_the_sum_of_allocations(
    steps: list[tuple[str, dict[str, dict[str, int]], bool]],
) -> None:
    made, serial = ledger(CELLS), 0
    for instance, cells, confirms in steps:
        serial += 1
        resources = {n: sum(c.get(n, 0) for c in cells.values()) for c in cells.values() for n in c}
        old = next((a for a in made.allocations.values() if a.instance == instance and a.state == "active"), None)
        asked = Allocation(id=f"a{serial}", instance=instance, resources=resources, cells=cells)
        if old is not None:
            whole = Whole(resources=resources, cells=cells)
            more = difference(old, whole, Terms("prefer", {}), cells_of(CELLS))
            if more is None:
                continue
            asked = Allocation(
                id=asked.id, instance=instance, resources=more[0], cells=more[1], replaces=old.id, becomes=whole
            )
        granted = taken(made, fits(f"r{serial}", asked)).verdict == "granted"
        consistent(made)
        if granted:
            kind = Confirm if confirms else Release
            taken(made, kind(host="h", request=f"r{serial}", allocation=asked.id))
            consistent(made)
            if confirms:
                assert made.allocations[asked.id].resources == resources
                assert len(numbers(made.allocations[asked.id])) == resources.get("PCPU", 0)


def consistent(made: Ledger) -> None:
    free, used = cells_of(CELLS), dict[str, int]()
    given: set[tuple[str, int]] = set()
    total = made.host_hash
    for one in made.allocations.values():
        assert given.isdisjoint(numbers(one))
        given |= numbers(one)
        free = after(free, one.cells, one.assigned, 1)
        total += hashing.allocation_hash(one)
        for name, amount in one.resources.items():
            used[name] = used.get(name, 0) + amount
    assert made.cells == free
    assert all(device.free >= 0 for cell in free.values() for device in cell.devices)
    assert made.hash == total & hashing.MASK
    assert all(amount <= INVENTORY[name].capacity for name, amount in used.items())
    assert {n: a for n, a in made.used.items() if a} == used
