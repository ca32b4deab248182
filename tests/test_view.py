"""The view: overlays, operators, liveness, shards, figures, and bounds against what anybody may write."""

import numpy as np
import pytest
from msgspec.structs import replace

from commonplace.bench.flavors import flavors
from commonplace.bench.ledgers import Ledgers, allocation_of, claim_of
from commonplace.core import view as views
from commonplace.core.codec import encode
from commonplace.core.host_keys import delta_key, snapshot_key, start_key
from commonplace.core.hosts import NOTHING_FRESH, HostState
from commonplace.core.ledger import Ledger
from commonplace.core.ledger_events import Configure, Found
from commonplace.core.ranking import ScoreRow, plain_scores
from commonplace.core.records.control import HostControl
from commonplace.core.records.hosts import Start
from commonplace.core.resources import AMOUNT_MAX, Inventory
from commonplace.core.rows import Overlay, Row
from commonplace.core.rules import Ask
from commonplace.core.scoreboard import NEVER
from commonplace.core.turned_away import explain
from commonplace.core.view import View
from world import inventory


def report(view: View, name: str, at_ms: int = 1_000, now_ms: int = 1_000, **configure: object) -> Ledger:
    """A host's start record and first snapshot."""
    offset = sum(view.outcomes.values())
    ledger = Ledger(name, offset, 0, "t", -1)
    ledger.receive(Configure(inventory=configure.pop("inventory", inventory()), **configure), 0)  # type: ignore[arg-type]
    view.fold(0, offset, at_ms, start_key(name), encode(Start(host=name)), now_ms)
    view.fold(0, offset + 1, at_ms, snapshot_key(name, offset), encode(ledger.snapshot("a")), now_ms)
    return ledger


def go_on(view: View, ledger: Ledger, at_ms: int = 1_000, now_ms: int = 1_000) -> None:
    offset = sum(view.outcomes.values())
    view.fold(0, offset, at_ms, delta_key(ledger.host, ledger.epoch), encode(ledger.delta()), now_ms)


def figures(view: View, row: Row) -> tuple[int, int, int]:
    view.write()
    columns = view.columns
    return int(columns.free["VCPU"][row.index]), int(columns.builds[row.index]), int(columns.instances[row.index])


def test_an_overlay_takes_room_and_hash_and_gives_them_back() -> None:
    view = View(1)
    report(view, "h")
    row = view.rows["h"]
    before, at_first = row.predicted_hash, figures(view, row)
    one, two = Overlay("a-1", {"VCPU": 3}, "g", 5), Overlay("a-2", {"VCPU": 1}, "g", 2**64 - 3)
    view.lay(row, one)
    view.lay(row, two)
    assert figures(view, row) == (12, 2, 2)
    assert view.groups == {"g": {0: 2}}
    assert row.predicted_hash == (before + 2) % 2**64
    view.lift(row, one)
    view.lift(row, two)
    assert figures(view, row) == at_first
    assert (view.groups, row.predicted_hash) == ({}, before)


def test_an_overlay_outlives_every_report_until_it_is_lifted() -> None:
    view = View(1)
    ledger = report(view, "h")
    view.lay(view.rows["h"], Overlay("a-1", {"VCPU": 3}, "", 5))
    go_on(view, ledger)
    report(view, "h")
    assert figures(view, view.rows["h"]) == (13, 1, 1)


def test_of_host_and_operator_the_stricter_word_counts() -> None:
    view = View(1)
    view.control(HostControl(name="h", status="draining"), "h")  # said before the host was ever seen
    report(view, "h")
    view.write()
    assert not view.columns.usable[0]
    view.control(None, "h")
    view.write()
    assert view.columns.usable[0]
    report(view, "h", status="disabled")
    view.write()
    assert not view.columns.usable[0]


@pytest.mark.parametrize(("log_ms", "own_ms", "silent"), [(0, 0, 0), (30, 30, 0), (31, 0, 1), (0, 31, 1), (31, 31, 1)])
def test_a_host_is_silent_by_log_time_or_by_our_own_clock(log_ms: int, own_ms: int, silent: int) -> None:
    view = View(1)
    report(view, "h", at_ms=1_000, now_ms=500)
    view.newest_log_time_ms = 1_000 + log_ms
    assert view.liveness(30, 500 + own_ms) == silent
    assert view.statuses()["silent"] == silent


def test_hosts_that_report_after_the_brokers_clock_was_put_back_are_alive_and_the_others_as_old_as_before() -> None:
    hour, view = 3_600_000, View(1)
    ledgers = [report(view, host, at_ms=2 * hour, now_ms=0) for host in ("h0", "h1")]
    for seconds in range(1, 5):
        go_on(view, ledgers[0], at_ms=hour + 10_000 * seconds, now_ms=10_000 * seconds)
        assert view.liveness(30_000, 10_000 * seconds) == (seconds > 3)
    assert [bool(alive) for alive in view.columns.alive[:2]] == [True, False]
    go_on(view, ledgers[1], at_ms=hour + 41_000, now_ms=41_000)
    assert view.liveness(30_000, 41_000) == 0
    assert view.newest_log_time_ms == hour + 41_000


def test_a_silent_host_is_alive_with_its_next_report() -> None:
    view = View(1)
    ledger = report(view, "h")
    view.liveness(30, 10_000)
    row = ScoreRow(view, Ask((("VCPU", 1),)))
    row.refresh()
    assert row.scores.tolist() == [NEVER]
    go_on(view, ledger, at_ms=10_000, now_ms=10_000)
    row.refresh()
    assert row.scores.tolist() == [0.0]


def test_a_class_that_comes_late_counts_what_is_held_of_it_already() -> None:
    view = View(1)
    ledger = report(view, "h0")
    ledger.receive(Found(instance="i", resources={"CUSTOM_GPU": 2}), 0)
    go_on(view, ledger)
    report(view, "h1", inventory={**inventory(), "CUSTOM_GPU": Inventory(total=4)})
    view.write()
    assert view.columns.free["CUSTOM_GPU"][:2].tolist() == [-2, 4]


def test_a_class_that_goes_leaves_no_room() -> None:
    view = View(1)
    report(view, "h")
    report(view, "h", inventory={"MEMORY_MB": Inventory(total=100)})
    row = ScoreRow(view, Ask((("VCPU", 1),)))
    row.refresh()
    assert row.scores.tolist() == [NEVER]
    assert explain(view, row.ask).filters == {"capacity": 1}


def test_an_inventory_that_shrinks_under_its_allocations_has_less_than_nothing_free() -> None:
    view = View(1)
    ledger = report(view, "h")
    ledger.receive(Found(instance="i", resources={"VCPU": 10}), 0)
    ledger.receive(Configure(inventory=inventory(vcpus=4)), 0)
    go_on(view, ledger)
    assert figures(view, view.rows["h"])[0] == -6
    closest = explain(view, Ask((("VCPU", 1),))).closest
    assert closest is not None
    assert (closest.needed, closest.had) == (1, 0)


def test_capacities_beyond_64_bits_are_ranked() -> None:
    view = View(1)
    report(view, "h", inventory={"VCPU": Inventory(total=AMOUNT_MAX, allocation_ratio_thousandths=1_000_000_000)})
    row = ScoreRow(view, Ask((("VCPU", AMOUNT_MAX),)))
    row.refresh()
    assert row.scores.tolist() == plain_scores(view, row.ask) == [0.0]


def test_traits_that_no_host_has_take_no_memory_however_many_are_asked_for() -> None:
    view = View(1)
    ledger = report(view, "h", traits=("CUSTOM_A",))
    for i in range(100):
        assert not view.trait_column(f"CUSTOM_{i}").any()
    assert view.columns.trait == {}
    assert view.trait_column("CUSTOM_A")[0]
    ledger.receive(Configure(traits=("CUSTOM_7",)), 0)
    go_on(view, ledger)
    assert view.trait_column("CUSTOM_7")[0]
    assert not view.trait_column("CUSTOM_A").any()
    assert set(view.columns.trait) == {"CUSTOM_7"}


def test_columns_grow_with_the_fleet_and_keep_what_they_hold() -> None:
    view = View(1)
    for i in range(1_030):
        report(view, f"h{i}", traits=("CUSTOM_A",) if i % 2 else ())
    assert int(view.trait_column("CUSTOM_A").sum()) == 515
    row = ScoreRow(view, Ask((("VCPU", 1),), weighers=(("cpu", 1.0),)))
    row.refresh()
    assert row.scores.tolist() == plain_scores(view, row.ask)
    assert view.columns.mine[:1_030].all()


def test_what_hosts_share_while_they_have_nothing_stays_empty() -> None:
    view = View(1)
    ledgers = Ledgers(2)
    flavor = flavors(1)[0]
    for host in ledgers.names:
        ledgers.start(host)
        ledgers.fill(host, 0, flavor)
        view.fold(0, *ledgers.report(host, whole=True).raw, 0)
        row = view.rows[host]
        view.lay(row, Overlay("a", {}, "group", 1))
        view.lift(row, row.pending[0])
        ledgers.take(claim_of(host, replace(allocation_of(f"{host}-b", flavor), group="group")))
        view.fold(0, *ledgers.report(host).raw, 0)
    assert [row.host.groups for row in view.by_index] == [{"group": 1}, {"group": 1}]
    assert not view.by_index[0].pending
    assert not NOTHING_FRESH
    assert not HostState("other").groups


def test_a_shard_is_preferred_and_spilled_over_from() -> None:
    view = View(1)
    for i in range(4):
        report(view, f"h{i}")
    row = ScoreRow(view, Ask((("VCPU", 16),)))
    view.shard(np.array([False, False, True, False]))
    row.refresh()
    picks = {pick.host.name for i in range(20) if (pick := row.choose(b"%d" % i))}
    assert picks == {"h2"}
    view.lay(view.rows["h2"], Overlay("a", {"VCPU": 1}, "", 0))
    row.refresh()
    picks = {pick.host.name for i in range(20) if (pick := row.choose(b"%d" % i))}
    assert picks == {"h0", "h1", "h3"}


def test_a_forgotten_host_is_no_candidate_and_comes_back_empty() -> None:
    view = View(1)
    ledger = report(view, "h")
    ledger.receive(Found(instance="i", resources={"VCPU": 1}, group="g"), 0)
    go_on(view, ledger)
    offset = sum(view.outcomes.values())
    view.fold(0, offset, 1_000, start_key("h"), encode(Start(host="h", removed=True)), 1_000)
    view.fold(0, offset + 1, 1_000, snapshot_key("h", ledger.epoch), None, 1_000)
    row = ScoreRow(view, Ask(()))
    row.refresh()
    assert row.scores.tolist() == [NEVER]
    assert (view.statuses()["removed"], view.groups, view.digest()) == (1, {}, 0)
    report(view, "h")
    assert figures(view, view.rows["h"]) == (16, 0, 0)
    assert view.digest() != 0


def test_the_log_of_changes_is_bounded() -> None:
    view = View(1)
    ledger = report(view, "h")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(views, "CHANGES_MAX", 10)
        for _ in range(50):
            go_on(view, ledger)
            view.write()
        assert len(view.changed) <= 10


def test_keys_remembered_are_bounded_by_the_hosts() -> None:
    view = View(1)
    for i in range(100):
        go_on(view, report(view, f"h{i % 3}"))
    assert 0 < len(view._keys) <= 2 * 3 + 64 + 1


def test_removed_hosts_are_not_counted_in_an_explanation() -> None:
    view = View(1)
    for offset, host in enumerate(("h1", "h2")):
        view.fold(0, offset, 0, start_key(host), encode(Start(host=host)), 0)
    view.fold(0, 2, 0, start_key("h2"), encode(Start(host="h2", removed=True)), 0)
    explanation = explain(view, Ask((("VCPU", 1),)))
    assert (explanation.evaluated, explanation.filters) == (1, {"status": 1})
    assert explanation.closest is not None
    assert explanation.closest.host == "h1"


def test_hosts_of_several_shapes_have_their_own_columns() -> None:
    view = View(1)
    small, large = inventory(), {**inventory(), "VGPU": Inventory(total=4, min_unit=2)}
    for i, shape in enumerate((small, small, large, small, large, large)):
        report(view, f"h{i}", inventory=shape)
    view.write()
    assert view.columns.capacity["VGPU"][:6].tolist() == [0, 0, 4, 0, 4, 4]
    assert view.columns.unit_min["VGPU"][:6].tolist() == [0, 0, 2, 0, 2, 2]
    assert len(set(view.columns.capacity["VCPU"][:6].tolist())) == 1
    assert view.columns.uneven == {"VGPU"}


@pytest.mark.parametrize("name", ["a\x7fb", "a\u200bb", "a\u0085b", "a\\u0007b"])
def test_a_snapshot_with_a_name_that_no_terminal_may_show_is_put_aside(name: str) -> None:
    view = View(1)
    ledger = report(view, "h1")
    told = encode(ledger.snapshot("a")).decode()
    held = f'"allocations":[{{"id":"{name}","resources":{{"VCPU":1}}}}]'
    offset = sum(view.outcomes.values())
    _, reason = view.fold(0, offset, 1_000, snapshot_key("h1", 0), f"{told[:-1]},{held}}}".encode(), 1_000)
    assert "control characters" in reason
