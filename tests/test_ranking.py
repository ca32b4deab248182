"""Score rows kept up to date change by change are the plain scan's scores, exactly; and so are choices and explanations."""

from random import Random
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from columns import unequal
from commonplace.core import columns, peaks, ranking, scoreboard
from commonplace.core import view as views
from commonplace.core.columns import Floats
from commonplace.core.filters import FILTERS
from commonplace.core.ledger_events import Configure
from commonplace.core.peaks import Peaks
from commonplace.core.ranking import ScoreRow, first_best, group_full, plain_scores, seed_of
from commonplace.core.records.control import HostControl
from commonplace.core.records.requests import Build
from commonplace.core.resources import Inventory
from commonplace.core.rows import Overlay, Row
from commonplace.core.rules import Ask
from commonplace.core.scoreboard import NEVER, Scoreboard
from commonplace.core.turned_away import explain
from commonplace.core.view import View
from fold_logs import MOVES, Writer
from world import Raw

HOSTS = tuple(f"h{i}" for i in range(5))
OTHER_MOVES = (
    "lay",
    "lay",
    "lay",
    "lift",
    "control",
    "liveness",
    "shard",
    "rank",
    "rank",
    "units",
    "swap",
    "arrive",
    "together",
)
ASKS = (
    Ask((("MEMORY_MB", 512), ("VCPU", 1)), weighers=(("cpu", 1.0), ("io_ops", -0.05), ("ram", 1.0))),
    Ask((("VCPU", 3),), ("CUSTOM_A",), weighers=(("cpu", -1.0), ("disk", 0.3), ("ram", -1.0))),
    Ask((("CUSTOM_GPU", 1), ("VCPU", 2)), (), ("CUSTOM_B",), (("cpu", 1 / 3), ("ram", 0.1)), 2, 4),
    Ask((("CUSTOM_NONE", 1),), ("CUSTOM_C",)),
    Ask(()),
    Ask(
        (("MEMORY_MB", 512), ("VCPU", 2)),
        ("CUSTOM_B",),
        ("CUSTOM_A",),
        (("disk", 1.0), ("io_ops", -1.0), ("ram", 1 / 7)),
        3,
    ),
    Ask((("VCPU", 1),), weighers=(("cpu", 1 / 3), ("num_instances", -0.1))),
    Ask((("MEMORY_MB", 1024), ("VCPU", 3)), weighers=(("ram", 0.3), ("cpu", 0.7), ("io_ops", 0.1))),
    Ask((("VCPU", 1),), weighers=(("io_ops", 0.5),), instances_max=3),
)
moves = st.lists(st.tuples(st.integers(0, len(HOSTS) - 1), st.sampled_from(MOVES + 2 * OTHER_MOVES)), max_size=50)
quick = settings(derandomize=True, deadline=None, max_examples=120)


class Rig:
    """A view that everything happens to, and score rows that follow it by either path."""

    def __init__(self, random: Random) -> None:
        self.random, self.log, self.read = random, list[Raw](), 0
        self.view = View(1)
        self.now = 1_000
        self.rows = [ScoreRow(self.view, ask) for ask in ASKS]
        self.vector = [ScoreRow(self.view, ask) for ask in ASKS]
        for row in self.vector:
            row._scalar = False
        self.board = Scoreboard(self.view)
        self.together = [ScoreRow(self.view, ask, self.board) for ask in ASKS]
        self.writers = [Writer(host, self.log, random) for host in HOSTS]
        self.fold()

    def fold(self) -> None:
        for offset, at_ms, key, value in self.log[self.read :]:
            self.view.fold(0, offset, at_ms, key, value, self.now)
        self.read = len(self.log)

    def move(self, host: int, name: str) -> None:
        row, random = self.view.rows[HOSTS[host]], self.random
        match name:
            case "lay":
                ask = random.choice(ASKS[:2])
                self.view.lay(row, Overlay(f"o{random.random()}", dict(ask.resources), random.choice(("", "g")), 7))
            case "lift" if row.pending:
                self.view.lift(row, random.choice(row.pending))
            case "control":
                status = random.choice(("enabled", "draining", "disabled"))
                self.view.control(random.choice((None, HostControl(name=HOSTS[host], status=status))), HOSTS[host])  # type: ignore[arg-type]
            case "liveness":
                self.now += 10
                self.view.liveness(30, self.now)
            case "shard":
                self.view.shard(random.choice((None, np.array([random.random() < 0.5 for _ in self.view.by_index]))))
            case "rank":
                self.check()
            case "together":
                self.board.refresh()
            case "swap":
                self.board.leave(self.together.pop(random.randrange(len(self.together))))
                self.together += [
                    ScoreRow(self.view, random.choice(ASKS), self.board) for _ in range(random.choice((0, 1, 2)))
                ]
            case "arrive":
                self.writers.append(Writer(f"late{len(self.writers)}", self.log, random))
                self.fold()
            case "units":
                vcpu = Inventory(total=16, min_unit=random.choice((1, 1, 2)), step_size=random.choice((1, 1, 3)))
                ledger = self.writers[host].ledger
                assert ledger is not None
                ledger.receive(Configure({"VCPU": vcpu}, (), {}, "enabled"), 0)
                self.writers[host].move("snapshot")
                self.fold()
            case "lift":
                pass
            case _:
                self.writers[host].move(name)
                if random.random() < 0.7:
                    self.fold()

    def check(self) -> None:
        self.view.write()
        mine = self.view.columns.mine
        if self.random.random() < 0.7:
            self.board.refresh()
        some = [row for row in self.together if self.random.random() < 0.7]
        for rows in (self.rows, self.vector, some):
            for row in rows:
                row.refresh()
                wanted = plain_scores(self.view, row.ask)
                if self.random.random() < 0.5:  # else what others hold stays put off
                    assert row.scores.tolist() == wanted
                assert row.own.tolist() == [score if mine[i] else NEVER for i, score in enumerate(wanted)]
                barred = group_full(
                    self.view, Build(id="r", flavor="f", group="g", group_max=self.random.choice((1, 2)))
                )
                seed = seed_of("r", 0, self.random.randint(0, 9))
                assert row.choose(seed, barred) is plain_choice(self.view, row.ask, seed, barred)
                assert row.choose(seed) is plain_choice(self.view, row.ask, seed, [])
                if rows is not self.rows:
                    continue
                explanation = explain(self.view, row.ask, barred)
                assert explanation.filters == plain_counts(self.view, row.ask, barred)
                assert explanation.without == plain_without(self.view, row.ask, barred)
                assert explanation.evaluated == sum(not other.host.removed for other in self.view.by_index)


def plain_choice(view: View, ask: Ask, seed: bytes, barred: list[int]) -> Row | None:
    """The best of this replica's own hosts, or of all when none of those passes; of equal ones the first from a seeded start on."""
    scores = [NEVER if i in barred else score for i, score in enumerate(plain_scores(view, ask))]
    for own in (True, False):
        left = [i for i, score in enumerate(scores) if score > NEVER and (view.columns.mine[i] or not own)]
        if left:
            best = [i for i in left if scores[i] == max(scores[i] for i in left)]
            start = crc32(seed) % len(scores)
            return view.by_index[min(best, key=lambda i: (i - start) % len(scores))]
    return None


def plain_counts(view: View, ask: Ask, barred: list[int]) -> dict[str, int]:
    """How many hosts each filter is the first to turn away."""
    counts: dict[str, int] = {}
    for failed in plain_failures(view, ask, barred):
        if failed:
            counts[failed[0]] = counts.get(failed[0], 0) + 1
    return counts


def plain_without(view: View, ask: Ask, barred: list[int]) -> dict[str, int]:
    """How many hosts each filter turns away alone."""
    counts: dict[str, int] = {}
    for failed in plain_failures(view, ask, barred):
        if len(failed) == 1:
            counts[failed[0]] = counts.get(failed[0], 0) + 1
    return counts


def plain_failures(view: View, ask: Ask, barred: list[int]) -> list[list[str]]:
    """The filters that turn each host away that is not removed, in their order."""
    return [
        [name for name, plain, _ in FILTERS if plain(view, row, ask)] + ["group"] * (row.index in barred)
        for row in view.by_index
        if not row.host.removed
    ]


@quick
@given(moves, st.integers(0, 2**32))
def test_score_rows_are_the_plain_scan_whatever_happened(steps: list[tuple[int, str]], seed: int) -> None:
    rig = Rig(Random(seed))
    for host, move in steps:
        rig.move(host, move)
    rig.check()


@settings(quick, max_examples=40)
@given(moves, st.integers(0, 2**32))
def test_score_rows_survive_the_end_of_the_log_of_changes(steps: list[tuple[int, str]], seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(views, "CHANGES_MAX", 4)
        rig = Rig(Random(seed))
        for host, move in steps:
            rig.move(host, move)
            assert len(rig.view.changed) <= 4
        rig.check()


@settings(quick, max_examples=80)
@given(moves, st.integers(0, 2**32), st.sampled_from((1, 3, 20)))
def test_scores_of_asks_that_come_go_and_rest_are_the_plain_scan(
    steps: list[tuple[int, str]], seed: int, idle: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "ROOM_MIN", 4)
        patch.setattr(scoreboard, "IDLE_CHANGES_MAX", idle)
        patch.setattr(ranking, "TOGETHER_ROWS_MIN", 2)
        patch.setattr(ranking, "TOGETHER_SCORES_MIN", 4)
        rig = Rig(Random(seed))
        for host, move in steps:
            rig.move(host, move)
        rig.check()


@settings(quick, max_examples=80)
@given(moves, st.integers(0, 2**32), st.sampled_from((1, 2, 3)))
def test_choices_by_block_maxima_are_the_plain_choice(steps: list[tuple[int, str]], seed: int, anew: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "PEAKS_FROM", 0)
        patch.setattr(peaks, "BLOCK", 2)
        patch.setattr(peaks, "ANEW_BLOCKS", anew)
        rig = Rig(Random(seed))
        for host, move in steps:
            rig.move(host, move)
        rig.check()


@settings(quick, max_examples=80)
@given(st.lists(st.tuples(st.integers(0, 39), st.integers(-1, 3), st.booleans()), max_size=60), st.integers(0, 39))
def test_the_best_by_block_maxima_is_the_first_best(changes: list[tuple[int, int, bool]], start: int) -> None:
    view, scores = View(1), np.full(40, NEVER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peaks, "BLOCK", 7)
        patch.setattr(peaks, "TOGETHER_BLOCKS", 2)
        kept = Peaks(scores)
        for index, score, noted in changes:
            scores[index] = score if score >= 0 else NEVER
            if noted:
                view.changed.append(index)
            else:
                kept.doubt(index)
            if score == 0:
                continue  # taken in with the next
            kept.follow(view, len(view.changed))
            assert kept.first_best(start) == first_best(scores, start)


KEEPING_STEPS = (
    "lay",
    "lay",
    "lift",
    "claim",
    "claim",
    "claim",
    "choose",
    "bar",
    "together",
    "strike",
    "shard",
    "unseen",
)


@settings(quick, max_examples=300)
@given(
    st.lists(st.tuples(st.integers(0, len(HOSTS) - 1), st.sampled_from(KEEPING_STEPS)), min_size=30, max_size=60),
    st.sampled_from((1, 2, 12)),
    st.sampled_from((1, 1024)),
)
def test_a_host_known_to_be_the_best_is_the_first_best(steps: list[tuple[int, str]], scalar: int, idle: int) -> None:
    """Asks that pack and that spread, over hosts that are alike or as full as each other again and again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "SCALAR_ROWS_MAX", scalar)
        patch.setattr(ranking, "TOGETHER_ROWS_MIN", 2)
        patch.setattr(ranking, "TOGETHER_SCORES_MIN", 2)
        patch.setattr(scoreboard, "IDLE_CHANGES_MAX", idle)
        rig = Rig(Random(1))
        for writer in rig.writers:
            assert writer.ledger is not None
            writer.ledger.receive(Configure({"VCPU": Inventory(total=6)}, (), {}, "enabled"), 0)
            writer.move("snapshot")
        rig.fold()
        view, board = rig.view, Scoreboard(rig.view)
        packs, spreads = (ScoreRow(view, Ask((("VCPU", 1),), weighers=(("cpu", m),)), board) for m in (-1.0, 1.0))
        for number, (host, step) in enumerate(steps):
            of, barred = view.rows[HOSTS[host]], [host] if step == "bar" else []
            match step:
                case "lay" | "unseen":
                    view.lay(of, Overlay(f"o{number}", {"VCPU": 1}, "", 7))
                case "lift" if of.pending:
                    view.lift(of, of.pending[0])
                case "together":
                    board.refresh()
                case "strike":
                    packs.refresh()
                    packs.strike(of.index)
                case "shard":
                    view.shard(np.array([i != host for i in range(len(view.by_index))]))
            looking = {"unseen": (), "choose": (packs, spreads), "bar": (packs, spreads)}.get(step, (packs,))
            for row in looking:
                row.refresh()
                wanted = kept_choice(row, b"%d" % number, barred)
                pick = row.choose(b"%d" % number, barred)
                assert pick is wanted
                if step == "claim" and pick is not None:
                    view.lay(pick, Overlay(f"o{number}", {"VCPU": 1}, "", 7))


def kept_choice(row: ScoreRow, seed: bytes, barred: list[int]) -> Row | None:
    """What a pass over the scores as they are kept chooses."""
    for kept in (row.own, row.scores):
        scores = kept.copy()
        scores[barred] = NEVER
        best = first_best(scores, crc32(seed) % len(scores))
        if scores[best] > NEVER:
            return row.view.by_index[best]
    return None


@settings(quick, max_examples=40)
@given(moves, st.integers(0, 2**32))
def test_a_view_changed_step_by_step_is_the_view_built_afresh(steps: list[tuple[int, str]], seed: int) -> None:
    rig = Rig(Random(seed))
    for host, move in steps:
        rig.move(host, move)
        rig.fold()
        fresh = View(1)
        for offset, at_ms, key, value in rig.log:
            fresh.fold(0, offset, at_ms, key, value, 0)
        for name, control in rig.view.controls.items():
            fresh.control(control, name)
        for row in rig.view.by_index:
            for overlay in row.pending:
                fresh.lay(fresh.rows[row.host.name], overlay)
        assert unequal(rig.view, fresh) == []


def test_few_changes_are_scored_one_by_one_and_many_in_one_pass_for_all_asks() -> None:
    rig = Rig(Random(1))
    passes: list[int] = []
    whole = Scoreboard._score

    def counted(board: Scoreboard, hosts: NDArray[np.intp]) -> Floats:
        passes.append(len(hosts) * len(board.members))
        return whole(board, hosts)

    def changed(hosts: int) -> int:
        for writer in rig.writers[:hosts]:
            writer.move("found")
            writer.move("snapshot")
        rig.fold()
        for row in rig.together:
            row.refresh()
        return len(passes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scoreboard, "_score", counted)
        assert changed(5) == 0
        members = len(rig.board.members)
        assert members == sum(row._scalar for row in rig.together) > 2
        assert changed(1) == 0
        patch.setattr(ranking, "TOGETHER_ROWS_MIN", 2)
        patch.setattr(ranking, "TOGETHER_SCORES_MIN", 2 * members)
        assert changed(1) == 0
        assert changed(2) == 1
        assert passes == [2 * members]


def test_a_first_pass_takes_in_every_change_though_there_are_more_asks_than_changes() -> None:
    rig = Rig(Random(1))
    board = Scoreboard(rig.view)
    rows = [ScoreRow(rig.view, ASKS[0], board) for _ in range(99)]
    for row in rows:
        row.refresh()
    for index, host in enumerate(rig.view.by_index):
        rig.view.lay(host, Overlay(f"o{index}", {"VCPU": 1}, "", 7))
    board.refresh()
    assert rig.view.changed_from + len(rig.view.changed) < len(rows)
    wanted = plain_scores(rig.view, ASKS[0])
    assert max(wanted) > NEVER
    assert all(row.scores.tolist() == wanted for row in rows)


def test_a_report_that_changes_no_column_makes_nobody_score_anew() -> None:
    rig = Rig(Random(1))
    rig.writers[0].move("snapshot")
    rig.fold()
    rig.view.write()
    noted = (rig.view.changed_from, len(rig.view.changed))
    rig.writers[0].move("snapshot")
    rig.fold()
    rig.view.write()
    assert (rig.view.changed_from, len(rig.view.changed)) == noted
    rig.writers[0].move("found")
    rig.writers[0].move("delta")
    rig.fold()
    rig.view.write()
    assert (rig.view.changed_from, len(rig.view.changed)) != noted


def test_ties_are_spread_by_request_and_attempt_and_alike_everywhere() -> None:
    """Five equal hosts: forty requests reach every one, and a second replica would choose the same."""
    rig = Rig(Random(3))
    ask = Ask(())
    row, again = ScoreRow(rig.view, ask), ScoreRow(rig.view, ask)
    row.refresh()
    again.refresh()
    alive = {i for i, score in enumerate(row.scores.tolist()) if score > NEVER}
    picks = [row.choose(seed_of(f"r{i}", 0, i % 3)) for i in range(40)]
    assert picks == [again.choose(seed_of(f"r{i}", 0, i % 3)) for i in range(40)]
    assert {pick.index for pick in picks if pick} == alive


@pytest.mark.parametrize("among", [2, 3, 1000])
def test_one_of_the_best_is_chosen_by_the_seed_and_never_one_that_is_filtered(among: int) -> None:
    rig = Rig(Random(3))
    row = ScoreRow(rig.view, Ask(()))
    row.refresh()
    count = len(row.scores)
    row.scores[:] = row.own[:] = np.arange(count, dtype=np.float64)
    row.scores[0] = row.own[0] = NEVER
    picks = {row.choose(seed_of(f"r{i}", 0, 1), among=among) for i in range(200)}
    assert {pick.index for pick in picks if pick} == set(range(max(1, count - among), count))
    row.scores[:] = row.own[:] = NEVER
    assert row.choose(b"seed", among=among) is None
