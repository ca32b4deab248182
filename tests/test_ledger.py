"""The ledger: every transition, every reason, and what its reports make of a reader."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commonplace.core import hashing
from commonplace.core.codec import encode
from commonplace.core.host_keys import Key
from commonplace.core.hosts import APPLIED, HostState, fold
from commonplace.core.ledger import TRANSITIONS, Ledger
from commonplace.core.ledger_events import (
    Bounds,
    Configure,
    Failed,
    Found,
    Gone,
    Lapse,
    Taken,
    Unreadable,
    Up,
    found_id,
)
from commonplace.core.records.claims import Claim, Confirm, Release
from commonplace.core.records.hosts import Allocation, Assigned, Settled, Snapshot
from commonplace.core.resources import Inventory

START_MS = 1_000_000
LEASE_MS = 60_000
INVENTORY = {"VCPU": Inventory(total=8), "MEMORY_MB": Inventory(total=16_384)}


def make(bounds: Bounds = Bounds(), **configure: Any) -> Ledger:  # noqa: B008 - frozen
    ledger = Ledger("h", 5, START_MS, "topic", 9, bounds)
    ledger.receive(Configure(inventory=INVENTORY, traits=("T_A",), labels={"zone": "z"}), 0)
    if configure:
        ledger.receive(Configure(**configure), 0)
    return ledger


def ask(allocation: str = "a", vcpus: int = 2, **fields: Any) -> Allocation:
    resources = fields.pop("resources", {"VCPU": vcpus, "MEMORY_MB": 1024})
    return Allocation(id=allocation, instance=f"vm-{allocation}", resources=resources, **fields)


def claim(ledger: Ledger, *asked: Allocation, expected: int | None = None, **fields: Any) -> Claim:
    state = hashing.to_hex(ledger.hash if expected is None else expected)
    fields = {"lease_ms": LEASE_MS, **fields}
    return Claim(host="h", request="r", expected=state, allocations=list(asked or [ask()]), **fields)


def take(ledger: Ledger, record: Claim | Confirm | Release, now_ms: int = 0, log_time_ms: int = START_MS) -> Settled:
    """Give the record the next offset and return the last verdict."""
    ledger.receive(Taken(ledger.claims_through + 1, log_time_ms, record), now_ms)
    return ledger.settled[-1]


def confirm(allocation: str = "a") -> Confirm:
    return Confirm(host="h", request="r", allocation=allocation)


def release(allocation: str = "a", leased_only: bool = False) -> Release:
    return Release(host="h", request="r", allocation=allocation, leased_only=leased_only)


# --- transitions -----------------------------------------------------------------------------------------------------


def in_state(state: str) -> Ledger:
    ledger = make()
    if state != "absent":
        assert take(ledger, claim(ledger)).verdict == "granted"
    if state == "active":
        assert take(ledger, confirm()).verdict == "confirmed"
    ledger.settled.clear()
    return ledger


def send(ledger: Ledger, event: str) -> None:
    record = {
        "claim": lambda: claim(ledger),
        "renew": lambda: claim(ledger, mode="renew"),
        "confirm": confirm,
        "release": release,
        "release_leased": lambda: release(leased_only=True),
    }
    if event in record:
        take(ledger, record[event](), now_ms=10)  # type: ignore[operator]
    elif event == "lapse":
        ledger.receive(Lapse("a", LEASE_MS), LEASE_MS)
    elif event == "failed":
        ledger.receive(Failed("a", "no disk"), 10)


@pytest.mark.parametrize(
    ("state", "event", "after", "verdict", "reason"),
    [(state, event, *rest) for (state, event), rest in TRANSITIONS.items() if event != "gone"],
)
def test_every_entry_of_the_table(state: str, event: str, after: str, verdict: str, reason: str) -> None:
    ledger = in_state(state)
    send(ledger, event)
    held = ledger.allocations.get("a")
    assert (held.state if held else "absent") == after
    said = [(s.verdict, s.reason) for s in ledger.settled]
    assert said == [(verdict, reason)] or (event in ("lapse", "failed") and verdict == "ignored" and said == [])


@pytest.mark.parametrize("state", ["absent", "leased", "active"])
def test_the_table_knows_every_record_in_every_state(state: str) -> None:
    for event in ("claim", "renew", "confirm", "release", "release_leased", "lapse", "failed"):
        assert (state, event) in TRANSITIONS


def test_an_event_that_a_state_does_not_know_names_both() -> None:
    ledger = in_state("leased")
    ledger.allocations["found:x"] = ledger.allocations["a"]
    with pytest.raises(AssertionError, match="found:x of h is leased, which knows no gone"):
        ledger.receive(Gone("x"), 0)


# --- verdicts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "reason", "detail"),
    [
        ({"expected": 1}, "stale", "the state is"),
        ({"traits_required": ("T_A", "T_B")}, "constraint", "lacks T_B"),
        ({"traits_forbidden": ("T_A",)}, "constraint", "has T_A"),
        ({"asked": [ask(vcpus=9)]}, "full", "VCPU: needs 9, 8 free"),
        ({"asked": [ask(vcpus=5), ask("b", vcpus=4)]}, "full", "VCPU: needs 4, 3 free"),
        ({"asked": [ask(resources={"VGPU": 1})]}, "full", "VGPU: the host has none"),
        ({"asked": [ask(), ask()]}, "constraint", "twice"),
        ({"asked": [ask("")]}, "constraint", "without an id"),
        ({"asked": [ask("found:vm")]}, "constraint", "found"),
        ({"asked": [ask(project="a\nb")]}, "constraint", "control characters"),
        ({"asked": [ask(cells={"0": {"VCPU": 1}})]}, "constraint", "no cells"),
        ({"asked": [ask(group="g"), ask("b", group="g")], "group_max": 1}, "constraint", "group g is full"),
        ({"asked": [ask(), ask("b")], "builds_max": 1}, "constraint", "builds in progress"),
        ({"asked": [ask(), ask("b")], "instances_max": 1}, "constraint", "instances"),
        ({"log_time_ms": START_MS - LEASE_MS - 1}, "expired", "before this agent started"),
    ],
)
def test_a_refused_claim_says_why_and_changes_nothing(case: dict[str, Any], reason: str, detail: str) -> None:
    ledger = make()
    before = (ledger.hash, dict(ledger.used), dict(ledger.groups), ledger.builds, ledger.bytes)
    log_time_ms = case.pop("log_time_ms", START_MS)
    said = take(ledger, claim(ledger, *case.pop("asked", []), **case), log_time_ms=log_time_ms)
    assert (said.verdict, said.reason) == ("rejected", reason)
    assert detail in said.detail
    assert ledger.allocations == {}
    assert (ledger.hash, ledger.used, ledger.groups, ledger.builds, ledger.bytes) == before


@pytest.mark.parametrize("status", ["disabled", "draining"])
def test_a_host_that_is_not_enabled_grants_nothing(status: str) -> None:
    ledger = make(status=status)
    assert take(ledger, claim(ledger)).reason == "disabled"


def test_fits_grants_on_another_state_where_strict_does_not() -> None:
    ledger = make()
    take(ledger, claim(ledger, ask("x")))
    assert take(ledger, claim(ledger, ask("a"), expected=1)).reason == "stale"
    assert take(ledger, claim(ledger, ask("b"), expected=1, mode="fits")).verdict == "granted"


@pytest.mark.parametrize(
    ("inventory", "fits", "too_many"),
    [
        (Inventory(total=10, reserved=3), 7, 8),
        (Inventory(total=10, allocation_ratio_thousandths=1500), 10, 11),  # one allocation: no more than the total
        (Inventory(total=10, reserved=1, allocation_ratio_thousandths=333), 2, 3),
        (Inventory(total=10, min_unit=2), 2, 1),
        (Inventory(total=10, max_unit=4), 4, 5),
        (Inventory(total=10, step_size=4), 8, 6),
    ],
)
def test_capacity_is_placements(inventory: Inventory, fits: int, too_many: int) -> None:
    ledger = make(inventory={"VCPU": inventory})
    assert take(ledger, claim(ledger, ask("a", resources={"VCPU": too_many}))).reason == "full"
    assert take(ledger, claim(ledger, ask("b", resources={"VCPU": fits}))).verdict == "granted"


def test_an_inventory_that_shrinks_under_what_is_held_refuses_more() -> None:
    ledger = make()
    take(ledger, claim(ledger, ask(vcpus=6)))
    ledger.receive(Configure(inventory={"VCPU": Inventory(total=4), "MEMORY_MB": Inventory(total=16_384)}), 0)
    assert take(ledger, claim(ledger, ask("b", vcpus=1))).reason == "full"


def test_an_amount_of_nothing_fits_anywhere_and_is_not_held() -> None:
    ledger = make()
    assert take(ledger, claim(ledger, ask(resources={"VCPU": 1, "DISK_GB": 0}))).verdict == "granted"
    assert ledger.allocations["a"].resources == {"VCPU": 1}


def test_of_racers_on_one_state_the_first_wins() -> None:
    ledger = make()
    racers = [claim(ledger, ask(f"a{n}", vcpus=1)) for n in range(5)]
    said = [take(ledger, racer) for racer in racers]
    assert [(s.verdict, s.reason) for s in said] == [("granted", "")] + [("rejected", "stale")] * 4


def test_a_claim_does_not_say_what_is_for_the_ledger_to_say() -> None:
    ledger = make()
    given = {"cell": Assigned(cpus="0")}
    bold = ask(request="q", state="active", origin="found", building=False, lease_ms=1, assigned=given)
    assert take(ledger, claim(ledger, bold)).verdict == "granted"
    held = ledger.allocations["a"]
    assert (held.request, held.state, held.origin, held.building) == ("r", "leased", "claim", True)
    assert (held.lease_ms, held.assigned) == (LEASE_MS, None)


def test_claims_pipelined_on_predicted_states_are_all_granted() -> None:
    ledger = make()
    state = ledger.hash
    for n in range(8):
        asked = ask(f"a{n}", vcpus=1)
        record = claim(ledger, asked, expected=state)
        state = (state + hashing.allocation_hash(asked)) & hashing.MASK
        assert take(ledger, record).verdict == "granted"
    assert ledger.hash == state


def test_a_claim_met_again_at_its_offset_or_below_is_not_taken_twice() -> None:
    ledger = make()
    record = claim(ledger)
    ledger.receive(Taken(20, START_MS, record), 0)
    ledger.receive(Taken(20, START_MS, record), 0)
    ledger.receive(Taken(7, START_MS, confirm()), 0)
    assert [s.verdict for s in ledger.settled] == ["granted"]
    assert ledger.claims_through == 20


def test_what_cannot_be_read_grants_nothing_and_counts_as_taken_into_account() -> None:
    ledger = make()
    ledger.receive(Unreadable(30, "version"), 0)
    assert (ledger.claims_through, ledger.settled[-1].reason) == (30, "version")


def test_a_grant_whose_snapshot_would_pass_the_record_limit_is_refused() -> None:
    ledger = make(Bounds(report_bytes_max=205_000), inventory={"VCPU": Inventory(total=100)})
    said = [take(ledger, claim(ledger, ask(f"a{n}", resources={"VCPU": 1}))) for n in range(12)]
    granted = [s for s in said if s.verdict == "granted"]
    assert 2 < len(granted) < 12
    assert said[-1].reason == "full"
    assert "record limit" in said[-1].detail


def test_a_snapshot_full_of_the_largest_grants_stays_under_the_record_limit() -> None:
    ledger = make(inventory={"VCPU": Inventory(total=10_000)})
    long = "\U0001f980" * 128  # four bytes each
    for n in range(1_001):
        largest = ask(
            f"a{n:07}", resources={"VCPU": 1}, project=long, user=long, kind=long, group=long, image=(long,) * 16
        )
        said = take(ledger, claim(ledger, largest))
    assert said.reason == "full"
    assert len(ledger.allocations) > 50
    assert len(encode(ledger.snapshot("agent"))) < Bounds().report_bytes_max


def test_a_report_lists_so_many_settled_claims_and_counts_the_rest() -> None:
    ledger = make(Bounds(settled_max=3))
    for n in range(5):
        ledger.receive(Unreadable(10 + n), 0)
    report = ledger.snapshot("agent")
    assert ([s.offset for s in report.settled], report.settled_omitted) == ([10, 11, 12], 2)
    assert ledger.delta().settled == []


# --- leases ----------------------------------------------------------------------------------------------------------


def test_a_lease_longer_than_the_bound_is_cut_and_the_report_says_so() -> None:
    ledger = make(Bounds(lease_ms_max=1000))
    take(ledger, claim(ledger, lease_ms=99_000), now_ms=50)
    assert ledger.leases["a"] == 1050
    assert ledger.allocations["a"].lease_ms == 1000


def test_a_renewed_lease_outlives_its_first_end() -> None:
    ledger = make()
    take(ledger, claim(ledger), now_ms=0)
    take(ledger, claim(ledger, mode="renew"), now_ms=40_000)
    assert ledger.receive(Lapse("a", LEASE_MS), LEASE_MS) == []
    assert "a" in ledger.allocations
    ledger.receive(Lapse("a", 100_000), 100_000)
    assert "a" not in ledger.allocations


def test_what_is_held_is_renewed_though_the_brokers_clock_was_put_back() -> None:
    """The replica takes a renewal for granted where the allocation is still held, so nothing held may refuse one."""
    ledger = make()
    take(ledger, claim(ledger))
    told = take(ledger, claim(ledger, mode="renew"), now_ms=40_000, log_time_ms=START_MS - 3_600_000)
    assert told.verdict == "renewed"
    assert ledger.leases["a"] == 40_000 + LEASE_MS


def test_a_renewal_for_longer_is_kept_over_a_restart() -> None:
    ledger = make()
    take(ledger, claim(ledger))
    before = ledger.hash
    take(ledger, claim(ledger, mode="renew", lease_ms=3 * LEASE_MS))
    again = Ledger.recover(read([ledger.snapshot("x")]), 50, START_MS, now_ms=7)
    assert ledger.hash == before
    assert again.leases == {"a": 7 + 3 * LEASE_MS}


def test_a_confirm_met_before_the_barrier_saves_the_allocation() -> None:
    ledger = make()
    take(ledger, claim(ledger))
    take(ledger, confirm())
    assert ledger.receive(Lapse("a", LEASE_MS), LEASE_MS) == []
    assert ledger.allocations["a"].state == "active"


def test_a_restart_begins_every_lease_anew_and_keeps_the_rest() -> None:
    ledger = make()
    take(ledger, claim(ledger, ask("a")))
    take(ledger, claim(ledger, ask("b", group="g")))
    take(ledger, confirm("b"))
    ledger.receive(Up("b"), 0)
    again = Ledger.recover(read([ledger.snapshot("agent")]), 77, START_MS, now_ms=500)
    again.receive(Configure(inventory=INVENTORY, traits=("T_A",), labels={"zone": "z"}), 500)
    assert again.leases == {"a": 500 + LEASE_MS}
    assert (again.hash, again.used, again.groups, again.builds) == (ledger.hash, ledger.used, {"g": 1}, 1)
    assert (again.claims_topic, again.claims_through) == (ledger.claims_topic, ledger.claims_through)


def test_claims_lost_to_retention_make_what_is_held_active_and_the_host_says_gap() -> None:
    ledger = make()
    take(ledger, claim(ledger))
    ledger.assume_active()
    assert (ledger.gap, ledger.leases, ledger.allocations["a"].state) == (True, {}, "active")
    ledger.receive(Configure(gap_cleared=True), 0)
    assert ledger.gap is False


# --- instances -------------------------------------------------------------------------------------------------------


def test_found_instances_count_and_only_their_driver_ends_them() -> None:
    ledger = make()
    ledger.receive(Found(instance="vm", resources={"VCPU": 7}), 0)
    assert take(ledger, claim(ledger, ask(vcpus=2))).reason == "full"
    assert take(ledger, release(found_id("vm"))).verdict == "ignored"
    ledger.receive(Gone("vm"), 0)
    assert take(ledger, claim(ledger, ask(vcpus=2))).verdict == "granted"


def test_a_found_instance_is_counted_whatever_its_driver_calls_it_and_reported_so_that_all_can_read_it() -> None:
    ledger = make()
    found = Found(instance="vm", resources={"VCPU": 7}, project="a\u202eb", user="\u00a0", flavor="m1")
    ledger.receive(found, 0)
    ledger.receive(found, 0)
    report = ledger.snapshot("agent")
    assert [(a.project, a.user, a.flavor) for a in report.allocations] == [("a?b", "?", "m1")]
    state = HostState("h")
    assert fold(state, Key("h", "snapshot", report.epoch), report.epoch + 1, 0, encode(report)) == ("applied", "")
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"instance": "vm", "resources": {"vcpus": 7}}, Found)


def test_found_names_of_any_length_are_told_apart() -> None:
    names = ["x" * 128, "x" * 127 + "y", "x" * 122, "x" * 123]
    assert len({found_id(name) for name in names}) == 4
    assert all(len(found_id(name)) <= 128 for name in names)


def test_a_build_is_in_progress_until_the_driver_reports_it_up() -> None:
    ledger = make()
    take(ledger, claim(ledger))
    before = ledger.hash
    assert ledger.builds == 1
    ledger.receive(Up("a"), 0)
    ledger.receive(Up("a"), 0)
    assert (ledger.builds, ledger.hash) == (0, before)


# --- reports ---------------------------------------------------------------------------------------------------------


def read(reports: list[Any], state: HostState | None = None) -> HostState:
    state = state or HostState("h")
    for report in reports:
        kind = "snapshot" if isinstance(report, Snapshot) else "delta"
        assert fold(state, Key("h", kind, report.epoch), report.epoch + 1, 1, encode(report)) == (APPLIED, "")
    return state


def test_an_id_that_went_and_came_again_stands_in_the_delta() -> None:
    ledger = make()
    ledger.receive(Found(instance="vm", resources={"VCPU": 1}), 0)
    first = ledger.snapshot("agent")
    ledger.receive(Gone("vm"), 0)
    ledger.receive(Found(instance="vm", resources={"VCPU": 3}), 0)
    delta = ledger.delta()
    state = read([first, delta])
    assert [bytes(written) for written in delta.upserts] == [encode(ledger.allocations["found:vm"])]
    assert delta.removed == []
    assert (state.stale, state.used) == ("", {"VCPU": 3})


EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("claim"), st.integers(0, 5), st.integers(1, 4), st.booleans()),
        st.tuples(st.just("renew"), st.integers(0, 5)),
        st.tuples(st.just("confirm"), st.integers(0, 5)),
        st.tuples(st.just("release"), st.integers(0, 5), st.booleans()),
        st.tuples(st.just("lapse"), st.integers(0, 5)),
        st.tuples(st.just("up"), st.integers(0, 5)),
        st.tuples(st.just("failed"), st.integers(0, 5)),
        st.tuples(st.just("found"), st.integers(0, 2), st.integers(1, 3)),
        st.tuples(st.just("gone"), st.integers(0, 2)),
        st.tuples(st.just("status"), st.sampled_from(["enabled", "disabled", "draining"])),
        st.tuples(st.just("total"), st.integers(4, 16)),
        st.tuples(st.just("labels"), st.sampled_from(["z1", "z2"])),
        st.tuples(st.just("snapshot")),
        st.tuples(st.just("delta"), st.booleans()),
    ),
    max_size=60,
)


def apply(ledger: Ledger, event: tuple[Any, ...]) -> None:
    match event:
        case ("claim", n, vcpus, strict):
            asked = ask(f"a{n}", vcpus=vcpus, group=f"g{n % 2}")
            predicted = (ledger.hash + hashing.allocation_hash(asked)) & hashing.MASK
            said = take(ledger, claim(ledger, asked, mode="strict" if strict else "fits"))
            assert said.verdict != "granted" or ledger.hash == predicted
        case ("renew", n):
            take(ledger, claim(ledger, ask(f"a{n}"), mode="renew"))
        case ("confirm", n):
            before = ledger.hash
            take(ledger, confirm(f"a{n}"))
            assert ledger.hash == before
        case ("release", n, leased_only):
            take(ledger, release(f"a{n}", leased_only))
        case ("lapse", n):
            ledger.receive(Lapse(f"a{n}", LEASE_MS), LEASE_MS)
        case ("up", n):
            ledger.receive(Up(f"a{n}"), 0)
        case ("failed", n):
            ledger.receive(Failed(f"a{n}", "x"), 0)
        case ("found", n, vcpus):
            ledger.receive(Found(instance=f"vm{n}", resources={"VCPU": vcpus}), 0)
        case ("gone", n):
            if found_id(f"vm{n}") in ledger.allocations:
                ledger.receive(Gone(f"vm{n}"), 0)
        case ("status", status):
            ledger.receive(Configure(status=status), 0)
        case ("total", total):
            ledger.receive(Configure(inventory={**INVENTORY, "VCPU": Inventory(total=total)}), 0)
        case ("labels", zone):
            ledger.receive(Configure(labels={"zone": zone}), 0)


def same(ledger: Ledger, state: HostState) -> None:
    assert state.stale == ""
    assert (state.hash, state.allocations) == (ledger.hash, ledger.allocations)
    assert {k: v for k, v in state.used.items() if v} == {k: v for k, v in ledger.used.items() if v}
    assert (state.builds, state.groups, state.status) == (ledger.builds, ledger.groups, ledger.status)
    assert state.claims_through == ledger.claims_through


@settings(max_examples=300, deadline=None)
@given(EVENTS)
def test_reports_fold_to_the_ledger_whatever_happened_and_whichever_deltas_were_lost(
    events: list[tuple[Any, ...]],
) -> None:
    ledger = make()
    state = read([ledger.snapshot("agent")])
    for event in events:
        if event[0] == "snapshot":
            read([ledger.snapshot("agent")], state)
        elif event[0] == "delta":
            report = ledger.delta()
            if event[1]:
                read([report], state)
                same(ledger, state)
        else:
            apply(ledger, event)
    read([ledger.delta()], state)
    same(ledger, state)


@settings(max_examples=100, deadline=None)
@given(EVENTS)
def test_the_ledgers_sums_are_those_of_its_allocations_and_no_grant_passes_capacity(
    events: list[tuple[Any, ...]],
) -> None:
    ledger = make()
    for event in events:
        before = dict(ledger.used)
        if event[0] not in ("snapshot", "delta"):
            apply(ledger, event)
        if event[0] == "claim" and ledger.used != before:
            assert all(amount <= ledger.inventory[name].capacity for name, amount in ledger.used.items())
    held = ledger.allocations.values()
    total = hashing.host_part(ledger.inventory, ledger.traits, ledger.labels, ledger.status)
    assert ledger.hash == (total + sum(map(hashing.allocation_hash, held))) & hashing.MASK
    assert ledger.used.get("VCPU", 0) == sum(a.resources["VCPU"] for a in held)
    assert ledger.builds == sum(a.building for a in held)
    assert set(ledger.leases) == {a.id for a in held if a.state == "leased"}
    assert (ledger.bytes == 0) == (not ledger.allocations)
