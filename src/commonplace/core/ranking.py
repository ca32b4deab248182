"""Ranking: the best host for an ask, as an argmax over a score row that is kept up to date host by host.

    score = Σ multiplier × raw over the weighers, −inf where a filter says no

A row of scores belongs to one ask (a flavor under a profile). It brings itself up to date from the hosts that changed since it was last
used, alone or with all active asks at once (scoreboard.py), so a choice costs no scan of filters. `plain_scores` is the same by the plain
forms, the oracle of the tests.
"""

from collections.abc import Collection
from typing import Any
from zlib import crc32

import numpy as np

from commonplace.core.columns import Floats
from commonplace.core.filters import FILTERS, Rows
from commonplace.core.peaks import Peaks
from commonplace.core.records.requests import Build
from commonplace.core.rows import Row
from commonplace.core.rules import Ask
from commonplace.core.scoreboard import NEVER, SHARES, Scoreboard, may_join, put_off
from commonplace.core.view import View
from commonplace.core.weighers import WEIGHERS

SCALAR_ROWS_MAX = 12
"""Up to so many changed rows are scored one by one: below it the fixed cost of ~20 numpy calls (20 µs) outweighs 1.6 µs a row."""

TOGETHER_ROWS_MIN, TOGETHER_SCORES_MIN = 6, 24
"""From so many changed rows, and scores of them for all active asks, on they are all worked out at once: the same cost, spread."""

NOBODY = -1
"""No host's number."""

PEAKS_FROM = 32_768
"""From so many hosts on a choice by block maxima costs less than a pass over all scores."""


def column_scores(view: View, ask: Ask, rows: Rows) -> Floats:
    """Scores of the given rows by the column forms."""
    view.write()
    passed = np.ones(view.columns.rows, np.bool_)[rows]
    for _, _, column in FILTERS:
        passed = passed & column(view, rows, ask)
    total = np.zeros(passed.shape)
    for name, multiplier in ask.weighers:
        total = total + multiplier * WEIGHERS[name][1](view, rows, ask)
    return np.where(passed, total, NEVER)


def plain_scores(view: View, ask: Ask) -> list[float]:
    """Scores of every host by the plain forms: the oracle."""
    scores = []
    for row in view.by_index:
        if any(plain(view, row, ask) for _, plain, _ in FILTERS):
            scores.append(NEVER)
            continue
        total = 0.0
        for name, multiplier in ask.weighers:
            total = total + multiplier * WEIGHERS[name][0](view, row, ask)
        scores.append(total)
    return scores


class ScoreRow:
    """The scores of every host for one ask; `own` is the same with −inf outside this replica's soft shard, and all that most choices read.

    Rows of one board are brought up to date together where that is cheaper.
    """

    def __init__(self, view: View, ask: Ask, board: Scoreboard | None = None) -> None:
        self.view, self.ask = view, ask
        self.board = Scoreboard(view) if board is None else board
        self.slot = self.board.enter(self)
        self.joined = False
        self.seen = -1  # serial number of the next change to take in, unless the board did
        self.late: set[int] = set()  # hosts outside the shard whose changes are put off
        self._wanted = dict(ask.resources)
        self._planned_for: Any = None
        self._scalar = may_join(ask)
        self._most: float = np.inf  # none of its own scores is higher
        self._alone = NOBODY  # who alone has the highest, where that is known: when packing, mostly the host that was claimed last
        self.look(0)

    def look(self, rows: int) -> None:
        """Read so many hosts' scores in the board's matrices of now."""
        board = self.board
        self._all: Floats = board.scores[self.slot, :rows]
        self.own: Floats = self._all if board.own is board.scores else board.own[self.slot, :rows]
        self._scores_at: Any = self._all.data  # typeshed knows memoryviews of integers only
        self._own_at: Any = self.own.data
        self._peaks: dict[bool, Peaks] = {}  # of one's own hosts or of all, where there are many
        self._doubt()

    def _doubt(self) -> None:
        """Scores were changed of which no account is kept here."""
        self._most, self._alone = np.inf, NOBODY

    def refresh(self) -> None:
        """Take in what changed since the last use."""
        view, board = self.view, self.board
        view.write()
        end = view.changed_from + len(view.changed)
        seen = self.seen
        if self.joined and board.seen > seen:
            seen = board.seen
            self._doubt()
        if seen < view.changed_from or len(self.own) != view.columns.rows:
            self._start()
        elif seen < end:
            self._take_in(set(view.changed[seen - view.changed_from :]))
        self.seen = end
        if self._scalar and not self.joined:
            board.join(self)

    @property
    def scores(self) -> Floats:
        """The scores of all hosts, with what was put off. `refresh` first."""
        if self.joined and self.board.late:
            self.board.refresh_late()
        if self.late:
            self.view.write()
            index = np.fromiter(self.late, np.intp, len(self.late))
            self._all[index] = column_scores(self.view, self.ask, index)
            self.late = set()
        return self._all

    def _start(self) -> None:
        self.board.fit()
        columns = self.view.columns
        self.look(columns.rows)
        self.late = set()
        self._all[:] = scores = column_scores(self.view, self.ask, slice(None))
        if self.own is not self._all:
            self.own[:] = np.where(columns.mine[: columns.rows], scores, NEVER)

    def _take_in(self, rows: set[int]) -> None:
        if self.own is not self._all:
            rows = put_off(rows, self.view, self.late)
        count, columns = len(rows), self.view.columns
        if self.joined and (
            count > SCALAR_ROWS_MAX
            or (count >= TOGETHER_ROWS_MIN and count * len(self.board.members) >= TOGETHER_SCORES_MIN)
        ):
            self.board.refresh()
            if self.joined:
                self._doubt()
                return
        if count <= SCALAR_ROWS_MAX and self._scalar:
            if self._planned_for is not columns.at:
                self._plan()
            self._take_in_each(rows)
        else:
            index = np.fromiter(rows, np.intp, count)
            self._all[index] = self.own[index] = column_scores(self.view, self.ask, index)
            self._doubt()

    def _take_in_each(self, rows: set[int]) -> None:
        scores_at, own_at, most, alone = self._scores_at, self._own_at, self._most, self._alone
        for i in rows:
            scores_at[i] = own_at[i] = score = self._score(i)
            if score > most:
                most, alone = score, i
            elif score == most or i == alone:
                alone = NOBODY
        self._most, self._alone = most, alone

    def strike(self, index: int) -> None:
        """Leave out a host, which a filter that has no column turned away for the whole ask, until it changes."""
        self._scores_at[index] = self._own_at[index] = NEVER
        if index == self._alone:
            self._alone = NOBODY
        for peaks in self._peaks.values():
            peaks.doubt(index)

    def _plan(self) -> None:
        """What scoring one host reads, looked up once until the columns move."""
        columns, ask = self.view.columns, self.ask
        self._planned_for = at = columns.at
        self._missing = any(name not in at for name, _ in ask.resources)
        self._needs = [(*at[name][:4], amount) for name, amount in ask.resources if name in at]
        self._weighs = []
        for name, multiplier in ask.weighers:
            resource = SHARES.get(name, "")
            cells = at.get(resource)
            self._weighs.append((multiplier, name == "io_ops", cells, self._wanted.get(resource, 0)))

    def _score(self, i: int) -> float:
        """One row's score: the column forms unrolled for one host, in the same order of float operations."""
        columns, ask = self.view.columns, self.ask
        if not (columns.usable_at[i] and columns.alive_at[i]) or self._missing:
            return NEVER
        if ask.builds_max and columns.builds_at[i] >= ask.builds_max:
            return NEVER
        if ask.instances_max and columns.instances_at[i] >= ask.instances_max:
            return NEVER
        for free, least, most, step, amount in self._needs:
            if free[i] < amount or not least[i] <= amount <= most[i] or amount % (step[i] or 1):
                return NEVER
        for name in ask.traits_required:
            if not self.view.trait_column(name)[i]:
                return NEVER
        for name in ask.traits_forbidden:
            if self.view.trait_column(name)[i]:
                return NEVER
        total = 0.0
        for multiplier, is_io_ops, cells, wanted in self._weighs:
            if is_io_ops:
                total += multiplier * columns.builds_at[i]
            elif cells and (capacity := cells[4][i]) > 0:
                total += multiplier * ((cells[0][i] - wanted) / capacity)
            else:
                total += multiplier * 0.0
        return total

    def choose(self, seed: bytes, barred: Collection[int] = (), among: int = 1) -> Row | None:
        """The best host outside `barred`, own shard first, ties broken by the seed; None when none passes. `refresh` first.

        With `among` > 1 the seed picks one of so many best.
        """
        if self._alone != NOBODY and not barred and among == 1:
            return self.view.by_index[self._alone]
        if len(self.own) == 0:
            return None
        for everywhere in (False,) if self.own is self._all else (False, True):
            scores = self.scores if everywhere else self.own
            kept = bar(scores, barred) if barred else ()
            if among > 1:
                pick = one_of_best(scores, among, crc32(seed))
            elif barred or len(scores) < PEAKS_FROM:
                pick = first_best(scores, crc32(seed) % len(scores))
            else:
                pick = self._peaks_of(scores).first_best(crc32(seed) % len(scores))
            best = scores.item(pick)
            if scores is self.own and not barred and among == 1:
                self._most = best
            for index, score in kept:
                scores[index] = score
            if best > NEVER:
                return self.view.by_index[pick]
        return None

    def _peaks_of(self, scores: Floats) -> Peaks:
        own = scores is self.own
        if own not in self._peaks:
            self._peaks[own] = Peaks(scores)
        self._peaks[own].follow(self.view, self.seen)
        return self._peaks[own]


def bar(scores: Floats, barred: Collection[int]) -> list[tuple[int, float]]:
    """Leave hosts out; returns what to put back afterwards: they are few, and to copy all scores of a large fleet takes longer."""
    at: Any = scores.data
    kept = [(index, at[index]) for index in barred]
    for index in barred:
        at[index] = NEVER
    return kept


def first_best(scores: Floats, start: int) -> int:
    """Index of the best score; of equal ones the first at or after `start`, going round: ties cost no second scan."""
    pick = start + int(scores[start:].argmax())
    if start:
        before = int(scores[:start].argmax())
        if scores[before] > scores[pick]:
            return before
    return pick


def one_of_best(scores: Floats, among: int, number: int) -> int:
    """Index of one of the `among` best scores that are not filtered, by the number; of any where all are."""
    most = min(among, max(1, int(np.count_nonzero(scores > NEVER))))
    return int(np.argpartition(-scores, most - 1)[number % most])


def seed_of(request: str, index: int, attempt: int) -> bytes:
    """Seed of a choice: the same request, index and attempt break ties alike on every replica."""
    return f"{request}#{index}#{attempt}".encode()


def group_full(view: View, build: Build) -> list[int]:
    """Rows where a request's group has as many members as it may have on one host, pending claims included.

    The instances that the request names do not count where they stand.
    """
    group, most = build.group, build.group_max
    if not group or not most:
        return []
    full = [index for index, members in view.groups.get(group, {}).items() if members >= most]
    if not build.instances:
        return full
    return [index for index in full if view.groups[group][index] - own_here(view.by_index[index], build) >= most]


def group_key(build: Build) -> str:
    """The same for requests of one group that `group_full` bars from the same hosts."""
    return "/".join((build.group, build.project, *build.instances)) if build.instances else build.group


def own_here(row: Row, build: Build) -> int:
    """Members of a request's group on a host that are the very instances it names, as on a move or a resize."""
    here = row.host.allocations.values()
    return sum(
        a.group == build.group
        and a.instance in build.instances
        and a.project == build.project
        and a.request != build.id
        for a in here
    )
