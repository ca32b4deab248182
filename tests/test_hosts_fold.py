"""The fold of `hosts`: any compaction, loss, batching or starting point ends in the state of the reader of everything."""

from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from columns import unequal
from commonplace.core import hashing
from commonplace.core.codec import encode
from commonplace.core.host_keys import Key, delta_key, parse_key, snapshot_key, start_key
from commonplace.core.hosts import APPLIED, QUARANTINED, SUPERSEDED, HostState, fold
from commonplace.core.ledger import Ledger
from commonplace.core.partition import partition_of
from commonplace.core.records.hosts import Allocation, Delta, Snapshot, Start
from commonplace.core.resources import Inventory
from commonplace.core.view import View
from fold_logs import MOVES, Writer, compacted, without_some_deltas
from world import Raw

HOSTS = ("h0", "h1")
moves = st.lists(st.tuples(st.integers(0, len(HOSTS) - 1), st.sampled_from(MOVES)), max_size=60)
quick = settings(derandomize=True, deadline=None, max_examples=150)


def wrote(steps: list[tuple[int, str]], random: Random) -> tuple[list[Raw], list[Writer]]:
    log: list[Raw] = []
    writers = [Writer(host, log, random) for host in HOSTS]
    for writer, move in steps:
        writers[writer].move(move)
    return log, writers


def written(steps: list[tuple[int, str]], random: Random) -> list[Raw]:
    return wrote(steps, random)[0]


def read(log: list[Raw]) -> View:
    view = View(1)
    for offset, at_ms, key, value in log:
        view.fold(0, offset, at_ms, key, value, 0)
    return view


@quick
@given(moves, st.integers(0, 2**32))
def test_any_compaction_and_loss_ends_in_the_state_of_the_reader_of_everything(
    steps: list[tuple[int, str]], seed: int
) -> None:
    random = Random(seed)
    log = written(steps, random)
    everything = read(log)
    for _ in range(6):
        left = compacted(without_some_deltas(log, random) if random.random() < 0.5 else log, random)
        view = read(left)
        assert view.digest() == everything.digest()
        assert unequal(view, everything) == []


@quick
@given(moves, st.integers(0, 2**32))
def test_a_reader_that_meets_compaction_under_way_ends_in_the_same_state(
    steps: list[tuple[int, str]], seed: int
) -> None:
    """It reads the head of the log as it was, and the rest as compaction has left it meanwhile."""
    random = Random(seed)
    log = written(steps, random)
    at = random.randint(0, len(log))
    rest = [r for r in compacted(log, random) if r[0] >= at]
    tombstones = {
        r[2] for r in log[at:] if r[3] is None
    }  # those stay for a day: a reader slower than that starts afresh
    missed = [r for r in log[at:] if r[3] is None and r not in rest and r[2] in tombstones]
    view = read(sorted([*log[:at], *rest, *missed], key=lambda r: r[0]))
    everything = read(log)
    assert view.digest() == everything.digest()
    assert unequal(view, everything) == []


@quick
@given(moves, st.integers(0, 2**32))
def test_what_stands_in_the_end_is_the_last_report_of_the_highest_epoch(
    steps: list[tuple[int, str]], seed: int
) -> None:
    random = Random(seed)
    log, writers = wrote(steps, random)
    view = read(compacted(log, random))
    for writer in writers:
        host = view.rows[writer.host].host
        if writer.sent_base:
            assert (host.stale, host.hash, host.allocations) == ("", *writer.reported)
        else:
            assert host.stale == "starting"


@quick
@given(moves, st.integers(0, 2**32))
def test_the_hash_after_every_record_is_that_of_the_content(steps: list[tuple[int, str]], seed: int) -> None:
    states = {host: HostState(host) for host in HOSTS}
    for offset, at_ms, key, value in written(steps, Random(seed)):
        parsed = parse_key(key)
        assert parsed is not None
        state = states[parsed.host]
        fold(state, parsed, offset, at_ms, value)
        anew = Ledger.recover(state, 0, 0, 0)
        host_part = hashing.host_part(state.inventory, state.traits, state.labels, state.status, state.reported_cells)
        assert state.hash == (host_part + anew.hash - anew.host_hash) & hashing.MASK or state.generation < 0
        used = {name: amount for name, amount in state.used.items() if amount}
        assert used == {name: amount for name, amount in anew.used.items() if amount}
        assert state.groups == anew.groups
        assert state.builds == anew.builds


@quick
@given(moves, st.integers(0, 2**32))
def test_every_record_read_is_applied_superseded_or_quarantined(steps: list[tuple[int, str]], seed: int) -> None:
    log = written(steps, Random(seed))
    assert sum(read(log).outcomes.values()) == len(log)


def snapshot(epoch: int, generation: int, *ids: str, status: str = "enabled") -> Snapshot:
    ledger = Ledger("h", epoch, 0, "t", 5)
    ledger.inventory, ledger.status = {"VCPU": Inventory(total=8)}, status  # type: ignore[assignment]
    state = HostState("h")
    state.allocations = {i: Allocation(id=i, resources={"VCPU": 1}) for i in ids}
    ledger = Ledger.recover(state, epoch, 0, 0)
    ledger.generation = generation - 1
    return ledger.snapshot("a")


def delta(
    epoch: int, generation: int, base: int, *ids: str, removed: tuple[str, ...] = (), held: tuple[str, ...] = ()
) -> Delta:
    """A delta that adds `ids` and takes `removed` away, after which the host holds `held`."""
    upserts = [Allocation(id=i, resources={"VCPU": 1}) for i in ids]
    return Delta(
        host="h", epoch=epoch, generation=generation, base_generation=base, claims_topic="t", claims_through=9,
        hash=snapshot(epoch, 1, *held).hash, upserts=upserts, removed=list(removed),
    )  # fmt: skip


def after(*records: tuple[str, int, Start | Snapshot | Delta | None]) -> tuple[HostState, list[str]]:
    """The state after records (kind of key, epoch of key, value) at offsets 10, 20, … and what became of each."""
    state, outcomes = HostState("h"), []
    for i, (kind, epoch, record) in enumerate(records, 1):
        made = {"start": start_key("h"), "snapshot": snapshot_key("h", epoch), "delta": delta_key("h", epoch)}
        key = parse_key(made[kind])
        assert key is not None
        outcomes.append(fold(state, key, 10 * i, i, encode(record) if record else None)[0])
    return state, outcomes


START = ("start", 0, Start(host="h"))


upserts = st.lists(
    st.builds(
        Allocation,
        id=st.sampled_from("abcd"),
        resources=st.sampled_from(({"VCPU": 1}, {"VCPU": 2})),
        state=st.sampled_from(("leased", "active")),
        building=st.booleans(),
        group=st.sampled_from(("", "g")),
    ),
    max_size=4,
)


@quick
@given(st.lists(st.tuples(upserts, st.lists(st.sampled_from("abcd"), max_size=3)), min_size=1, max_size=6))
def test_what_earlier_deltas_said_never_matters(said: list[tuple[list[Allocation], list[str]]]) -> None:
    """Also where a delta names an id twice, or both removes and upserts it: order counts within a delta, nothing between them."""
    deltas: list[tuple[str, int, Start | Snapshot | Delta | None]] = []
    for generation, (named, removed) in enumerate(said, 2):
        one = delta(10, generation, 1, removed=tuple(removed))
        one.upserts = named
        deltas.append(("delta", 10, one))
    base = ("snapshot", 10, snapshot(10, 1, "a", "b"))
    everything, _ = after(START, base, *deltas)
    last, _ = after(START, base, deltas[-1])
    assert everything.allocations == last.allocations
    assert {k: v for k, v in everything.used.items() if v} == {k: v for k, v in last.used.items() if v}
    assert (everything.groups, everything.builds, everything.hash) == (last.groups, last.builds, last.hash)


def test_a_start_record_makes_stale_until_its_epochs_snapshot() -> None:
    state, _ = after(START, ("snapshot", 10, snapshot(10, 1, "a")), START)
    assert (state.stale, state.epoch, list(state.allocations)) == ("starting", 30, ["a"])
    state, outcomes = after(START, ("snapshot", 10, snapshot(10, 1, "a")), START, ("snapshot", 10, snapshot(10, 2, "z")),
                            ("delta", 10, delta(10, 3, 2)), ("snapshot", 30, snapshot(30, 1, "a", "b")))  # fmt: skip
    assert outcomes == [APPLIED, APPLIED, APPLIED, SUPERSEDED, SUPERSEDED, APPLIED]
    assert (state.stale, sorted(state.allocations)) == ("", ["a", "b"])


def test_a_delta_for_another_snapshot_makes_stale_until_one_for_the_right_one() -> None:
    first = ("snapshot", 10, snapshot(10, 1, "a"))
    state, _ = after(START, first, ("delta", 10, delta(10, 3, 2, "b")))
    assert "snapshot 2, which was not seen" in state.stale
    assert list(state.allocations) == ["a"]
    state, _ = after(START, first, ("delta", 10, delta(10, 3, 2, "b")), ("snapshot", 10, snapshot(10, 4, "c")))
    assert (state.stale, list(state.allocations)) == ("", ["c"])


def test_an_equal_generation_is_a_duplicate() -> None:
    one = ("snapshot", 10, snapshot(10, 1, "a"))
    assert after(START, one, one)[1] == [APPLIED, APPLIED, SUPERSEDED]


def test_a_wrong_hash_makes_stale_until_the_next_good_delta() -> None:
    wrong = delta(10, 2, 1, "b", held=("a",))
    state, _ = after(START, ("snapshot", 10, snapshot(10, 1, "a")), ("delta", 10, wrong))
    assert "recomputed" in state.stale
    state, _ = after(START, ("snapshot", 10, snapshot(10, 1, "a")), ("delta", 10, wrong),
                     ("delta", 10, delta(10, 3, 1, "c", held=("a", "c"))))  # fmt: skip
    assert (state.stale, sorted(state.allocations)) == ("", ["a", "c"])


def test_an_upsert_of_a_removed_id_puts_it_in_place() -> None:
    state, _ = after(
        START, ("snapshot", 10, snapshot(10, 1, "a")), ("delta", 10, delta(10, 2, 1, "a", removed=("a",), held=("a",)))
    )
    assert (state.stale, list(state.allocations), state.used) == ("", ["a"], {"VCPU": 1})


def test_a_host_whose_snapshot_is_deleted_is_removed_until_it_starts_anew() -> None:
    first = ("snapshot", 10, snapshot(10, 1, "a"))
    state, outcomes = after(
        START, first, ("snapshot", 10, None), ("delta", 10, delta(10, 2, 1)), ("snapshot", 10, snapshot(10, 3, "a"))
    )
    assert outcomes == [APPLIED, APPLIED, APPLIED, SUPERSEDED, SUPERSEDED]
    assert (state.removed, state.stale, state.allocations) == (True, "removed", {})
    state, _ = after(START, first, ("snapshot", 10, None), START, ("snapshot", 40, snapshot(40, 1)))
    assert (state.removed, state.stale) == (False, "")
    state, outcomes = after(START, first, START, ("snapshot", 30, snapshot(30, 1, "a")), ("snapshot", 10, None))
    assert (outcomes[-1], state.removed, list(state.allocations)) == (SUPERSEDED, False, ["a"])


def test_a_later_epoch_whose_start_record_is_compacted_away_ends_a_removal() -> None:
    """What is left of an epoch whose agent died while it deleted its keys: the delta, and the tombstone of the snapshot."""
    state, _ = after(("delta", 5, delta(5, 4, 1, "b", held=("a", "b"))), ("snapshot", 5, None))
    assert state.removed
    for kind, value in (("delta", delta(30, 2, 1, "d", held=("c", "d"))), ("snapshot", snapshot(30, 3, "c", "d"))):
        key = parse_key(delta_key("h", 30) if kind == "delta" else snapshot_key("h", 30))
        assert key is not None
        assert fold(state, key, 40, 4, encode(value))[0] == APPLIED
    assert (state.removed, state.stale, list(state.allocations)) == (False, "", ["c", "d"])


@pytest.mark.parametrize("kind", ["start", "snapshot"])
def test_deltas_never_end_what_a_bad_start_record_or_snapshot_began(kind: str) -> None:
    state = after(START, ("snapshot", 10, snapshot(10, 1, "a")))[0]
    key = parse_key(start_key("h") if kind == "start" else snapshot_key("h", 10))
    later = parse_key(delta_key("h", 10))
    assert key is not None
    assert later is not None
    assert fold(state, key, 30, 3, b"{")[0] == QUARANTINED
    fold(state, later, 40, 4, encode(delta(10, 2, 1, "b", held=("a", "b"))))
    assert state.stale
    snap = parse_key(snapshot_key("h", 10))
    assert snap is not None
    fold(state, snap, 50, 5, encode(snapshot(10, 3, "a", "b")))
    assert not state.stale


def test_a_record_of_a_newer_version_makes_unranked_and_is_not_quarantined() -> None:
    state = after(START, ("snapshot", 10, snapshot(10, 1, "a")))[0]
    key = parse_key(delta_key("h", 10))
    assert key is not None
    assert fold(state, key, 30, 3, b'{"type":"delta","v":2}')[0] == APPLIED
    assert (state.version, bool(state.stale)) == (2, True)
    fold(state, key, 40, 4, encode(delta(10, 2, 1, "b", held=("a", "b"))))
    assert (state.version, state.stale) == (0, "")


def test_a_start_record_of_a_newer_version_fences_and_its_agents_clearing_up_removes_nobody() -> None:
    state = HostState("h")
    log: list[tuple[bytes, bytes | None]] = [
        (b"h/start", encode(Start(host="h"))),
        (b"h/0", encode(snapshot(0, 1, "a"))),
        (b"h/start", b'{"type":"start","v":2}'),
        (b"h/0/delta", encode(delta(0, 2, 1, "b", held=("a", "b")))),  # void: of whom it fenced
        (b"h/2", b'{"type":"snapshot","v":2}'),
        (b"h/0", None),
        (b"h/0/delta", None),
    ]
    for offset, (key, value) in enumerate(log):
        parsed = parse_key(key)
        assert parsed is not None
        fold(state, parsed, offset, 0, value)
    assert (state.epoch, state.version, state.removed, list(state.allocations)) == (2, 2, False, ["a"])
    assert state.stale
    fold(state, Key("h", "start", -1), 7, 0, encode(Start(host="h")))
    fold(state, Key("h", "snapshot", 7), 8, 0, encode(snapshot(7, 1, "c")))
    assert (state.version, state.stale, list(state.allocations)) == (0, "", ["c"])


@pytest.mark.parametrize(("key", "value"), [
    (b"x/5", encode(snapshot(5, 1))),                # key of another host
    (b"h/7", encode(snapshot(5, 1))),                # of another epoch
    (b"h/5/delta", encode(snapshot(5, 1))),          # of another kind
    (b"h/999", encode(snapshot(999, 1))),            # an epoch that cannot have been yet
])  # fmt: skip
def test_key_and_payload_must_agree(key: bytes, value: bytes) -> None:
    parsed = parse_key(key)
    assert parsed is not None
    assert fold(HostState(parsed.host), parsed, 100, 1, value)[0] == QUARANTINED


def names_of(told: str, **other: Any) -> tuple[bytes, str]:
    """An allocation that bears a name, and the name as a reason should tell it."""
    return encode(msgspec.structs.replace(Allocation(id="b", resources={"VCPU": 1}), **other)), told


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize(("allocation", "told"), [
    names_of("'b\\n'", id="b\n"),
    names_of("'b'", project="\x1b[2J"),
    names_of("'b'", image=("os=\x07",)),
    names_of("'VCPU\\nr X'", resources={"VCPU\nr X": 1}),
    names_of("'vcpu'", resources={"vcpu": 1}),
    names_of("''", resources={"": 1}),
    names_of("XXX", resources={"X" * 65: 1}),
    names_of("'0 VCPU'", cells={"0 VCPU": {"VCPU": 1}}),
    names_of("'\\x85'", cells={"\x85": {"VCPU": 1}}),
    names_of("'A 1'", cells={"0": {"A 1": 1}}),
])  # fmt: skip
def test_names_that_terminals_or_hashed_bytes_would_obey_make_a_report_bad(
    held: bool, allocation: bytes, told: str
) -> None:
    """Whether it is in a snapshot or a delta, and whether the host holds an allocation of that id already."""
    state = HostState("h")
    good = snapshot(5, 1, *(["b"] if held else []))
    fold(state, Key("h", "start", -1), 5, 0, encode(Start(host="h")))
    fold(state, Key("h", "snapshot", 5), 6, 0, encode(good))
    assert not state.stale
    value = encode(Delta(**IN_EPOCH_5, generation=2, base_generation=1))[:-1] + b',"upserts":[' + allocation + b"]}"
    for key, raw in (
        (Key("h", "delta", 5), value),
        (Key("h", "snapshot", 5), encode(Snapshot(**IN_EPOCH_5, generation=3, inventory={}))[:-1]
         + b',"allocations":[' + allocation + b"]}"),
    ):  # fmt: skip
        outcome, reason = fold(state, key, 7, 0, raw)
        assert outcome == QUARANTINED
        assert told in reason
        assert reason.isprintable()


IN_EPOCH_5: dict[str, Any] = {"host": "h", "epoch": 5, "claims_topic": "t", "claims_through": 1, "hash": "0" * 16}


@pytest.mark.parametrize(
    "key", [None, b"", b"h", b"h/x", b"h/5/x", b"h/5/delta/", b"\xff/5", b"h/-1", b"h/" + b"9" * 20]
)
def test_what_is_no_key_of_hosts_is_quarantined(key: bytes | None) -> None:
    view = View(1)
    row, reason = view.fold(0, 0, 0, key, b"{}", 0)
    assert row is None
    assert reason
    assert view.outcomes["quarantined"] == 1


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J", " h", "-h", "h" * 129, ""])
def test_a_name_that_no_host_may_bear_makes_no_host(name: str) -> None:
    view = View(1)
    assert view.fold(0, 5, 0, f"{name}/3".encode(), encode(Start(host="h")), 0)[1]
    assert not view.rows


def test_a_host_on_another_partition_is_quarantined() -> None:
    view = View(4)
    wrong = (partition_of("h", 4) + 1) % 4
    _, reason = view.fold(wrong, 0, 0, b"h/start", encode(Start(host="h")), 0)
    assert "belongs on partition" in reason
