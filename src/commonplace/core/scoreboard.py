"""Scores of many asks side by side: hosts that changed are scored for every active ask in one pass.

    scores   a line per ask, a value per host: what `ScoreRow`s (ranking.py) read and choose from
    own      the same with −inf outside this replica's soft shard; the same memory where every host is in it
    late     hosts outside the shard that changed: most choices never ask for their scores, so these are put off until one does

A pass has the fixed cost of some twenty numpy calls, whether it scores one host for one ask or fifty for sixty-four: what asks require is
a bound per figure of a host and ask, so that one comparison is most of the filters. The order of float operations is that of
`ranking.column_scores`, the oracle of the tests.
"""

from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from commonplace.core.columns import Bools, Floats, Ints
from commonplace.core.rules import Ask
from commonplace.core.view import View

NEVER: Final = -np.inf
SHARES: Final = {"cpu": "VCPU", "disk": "DISK_GB", "ram": "MEMORY_MB"}
COUNTED: Final = {"io_ops": 0}
"""Weighers by a count, and its line of the view's table."""

IDLE_CHANGES_MAX = 1_024
"""An ask that was not used for so many changes is left out of passes until it is used again: with 256 active ones in turn each is used
four times meanwhile."""

_ANY: Final = int(np.iinfo(np.int64).min)


class Member(Protocol):
    """A score row as the board knows it: `seen` is the number of the change from which on it has taken in nothing by itself."""

    ask: Ask
    slot: int
    seen: int
    joined: bool
    own: Floats
    late: set[int]

    def look(self, rows: int) -> None:
        """Read so many hosts' scores in the board's matrices of now."""


def may_join(ask: Ask) -> bool:
    """Whether a pass can score an ask: its weighers go by a share or a count, and are added in the order of all."""
    names = [name for name, _ in ask.weighers]
    return (
        names == sorted(names)
        and all(name in SHARES or name in COUNTED for name in names)
        and all(amount > 0 for _, amount in ask.resources)
    )


class Scoreboard:
    """The scores of several asks; members are those that a pass brings up to date, all others do so themselves."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.scores: Floats = np.empty((0, 0))
        self.own: Floats = self.scores
        self.late: set[int] = set()  # of every member
        self.members: list[Member] = []
        self.seen = -1  # every member has taken in the changes before this one
        self._rows = 0
        self._vacant: list[int] = []
        self._entered: dict[int, Member] = {}
        self._looked_at = 0  # the change at which idle members were last looked for
        self._planned_for: Any = None

    # -- slots --------------------------------------------------------------------------------------------------------------------------

    def enter(self, member: Member) -> int:
        """A slot for an ask: its line of the matrices."""
        if not self._vacant:
            slots, room = self.scores.shape
            more = max(1, slots)
            self._vacant = list(range(slots + more - 1, slots - 1, -1))
            self._lay_out(slots + more, room, self.own is self.scores, self._rows)
        slot = self._vacant.pop()
        self._entered[slot] = member
        return slot

    def leave(self, member: Member) -> None:
        """Give an ask's slot back."""
        if member.joined:
            self._drop([member])
        del self._entered[member.slot]
        self._vacant.append(member.slot)

    def fit(self) -> None:
        """Make room for all hosts of the view. Where hosts came or the shard became part or whole, every row must start afresh."""
        columns = self.view.columns
        whole = bool(columns.mine[: columns.rows].all())
        if self._rows != columns.rows or whole != (self.own is self.scores):
            self._drop(list(self.members), forget=True)
            self.late = set()
            self._rows = columns.rows
            slots, room = self.scores.shape
            if room != columns.room or whole != (self.own is self.scores):
                self._lay_out(slots, columns.room, whole, 0)

    def _lay_out(self, slots: int, room: int, whole: bool, kept: int) -> None:
        """New matrices, with the scores of as many hosts as are kept."""
        scores, own = self.scores, self.own
        self.scores = np.empty((slots, room))
        self.scores[: len(scores), :kept] = scores[:, :kept]
        self.own = self.scores if whole else np.empty((slots, room))
        if not whole:
            self.own[: len(own), :kept] = own[:, :kept]
        for member in self._entered.values():
            member.look(min(kept, len(member.own)))

    # -- members ------------------------------------------------------------------------------------------------------------------------

    def join(self, member: Member) -> None:
        """Take in a row that is up to date but for hosts that it has put off."""
        member.joined = True
        self.late |= member.late
        member.late = set()
        self.members.append(member)
        self._planned_for = None

    def _drop(self, members: list[Member], forget: bool = False) -> None:
        for member in members:
            member.joined = False
            member.late |= self.late
            member.seen = -1 if forget else max(member.seen, self.seen)
        self.members = [member for member in self.members if member.joined]
        self._planned_for = None

    def _drop_idle(self, end: int) -> None:
        first = self.view.changed_from
        self._looked_at = end
        if idle := [m for m in self.members if m.seen < end - IDLE_CHANGES_MAX or max(m.seen, self.seen) < first]:
            self._drop(idle)

    # -- passes -------------------------------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Bring every member up to date, in this replica's shard."""
        view = self.view
        view.write()
        first = view.changed_from
        end = first + len(view.changed)
        if end - self._looked_at >= IDLE_CHANGES_MAX or self.seen < first:
            self._drop_idle(end)
        if end == self.seen or not self.members or self._rows != view.columns.rows:
            return
        start = max(self.seen, first)
        if end - start > len(self.members):
            start = max(start, min([member.seen for member in self.members]))
        changed = set(view.changed[start - first :])
        if self.own is not self.scores:
            changed = put_off(changed, view, self.late)
        if changed:
            self._take_in(changed, self.own)
        self.seen = end

    def refresh_late(self) -> None:
        """Bring every member up to date where that was put off."""
        late, self.late = self.late, set()
        if late and self.members:
            self.view.write()
            self._take_in(late, self.scores)

    def _take_in(self, changed: set[int], own: Floats) -> None:
        hosts = np.fromiter(changed, np.intp, len(changed))
        if self._planned_for is not self.view.columns.at:
            self._plan()
        at = hosts[:, None]
        self.scores[self._slots, at] = scores = self._score(hosts)
        if own is not self.scores:
            own[self._slots, at] = scores

    def _score(self, hosts: NDArray[np.intp]) -> Floats:
        """A line of scores for each host, in the order of the members."""
        columns = self.view.columns
        figures = columns.table.take(hosts, 1)
        has = figures.take(self._bounded, 0)
        np.minimum(has, figures.take(self._bounded_too, 0), out=has)
        if self._limits:
            limited = has[-self._limits :]
            np.negative(limited, out=limited)
        passed = np.logical_and.reduce(has[:, :, None] >= self._least)
        able = columns.usable[hosts] & columns.alive[hosts]
        if np.count_nonzero(able) < len(hosts):
            passed &= able[:, None]
        if self._traits or columns.uneven or self._lacking is not None:
            passed &= self._passed_rarely(hosts, figures)
        shares = (figures.take(self._weighed, 0)[:, :, None] - self._wanted) / self._spans(figures)
        shares *= self._multipliers
        return np.where(passed, sum(shares, np.zeros(passed.shape)), NEVER)

    def _spans(self, figures: Ints) -> Ints | Floats:
        """What the free amounts are shares of; of nothing, infinity: then they are 0."""
        spans: Ints | Floats = figures.take(self._spanned, 0)
        if self._counts:
            spans[self._counts] = 1
        if np.count_nonzero(spans) < spans.size:
            spans = np.where(spans > 0, spans, np.inf)
        return spans[:, :, None]

    def _passed_rarely(self, hosts: NDArray[np.intp], figures: Ints) -> Bools:
        """What few asks require or few hosts demand: traits, units, a class that no host has."""
        view = self.view
        passed = np.ones((len(hosts), len(self.members)), np.bool_)
        if self._lacking is not None:
            passed &= ~self._lacking
        for name, (requiring, forbidding) in self._traits.items():
            has = view.trait_column(name)[hosts][:, None]
            passed &= np.where(has, ~forbidding, ~requiring)
        for name in view.columns.uneven & self._amounts.keys():
            amounts, line = self._amounts[name], view.columns.line
            least, step = figures[line("unit_min", name)], figures[line("unit_step", name)]
            units = (amounts >= least[:, None]) & (amounts % np.maximum(step, 1)[:, None] == 0)
            passed &= units | (amounts == 0)
        return passed

    def _plan(self) -> None:
        """What a pass compares and multiplies by, laid out anew where members or the view's columns have changed."""
        columns, asks = self.view.columns, [member.ask for member in self.members]
        self._planned_for = columns.at
        self._slots = np.array([member.slot for member in self.members], np.intp)
        resources = [dict(ask.resources) for ask in asks]
        classes = sorted({name for wanted in resources for name in wanted} & columns.free.keys())
        self._amounts = {name: np.array([wanted.get(name, 0) for wanted in resources]) for name in classes}
        self._bound(asks, resources, classes)
        lacking = [not wanted.keys() <= columns.free.keys() for wanted in resources]
        self._lacking = np.array(lacking) if any(lacking) else None
        named = {name for ask in asks for name in (*ask.traits_required, *ask.traits_forbidden)}
        self._traits = {
            name: (
                np.array([name in ask.traits_required for ask in asks]),
                np.array([name in ask.traits_forbidden for ask in asks]),
            )
            for name in named
        }
        weighers = [dict(ask.weighers) for ask in asks]
        names = sorted(
            {name for one in weighers for name in one if SHARES.get(name, name) in (*columns.free, *COUNTED)}
        )
        self._counts = [place for place, name in enumerate(names) if name in COUNTED]
        self._weighed = _lines([COUNTED[n] if n in COUNTED else columns.line("free", SHARES[n]) for n in names])
        self._spanned = _lines([COUNTED[n] if n in COUNTED else columns.line("capacity", SHARES[n]) for n in names])
        shape = (len(names), 1, len(asks))
        wanted = [one.get(SHARES.get(name, ""), 0) for name in names for one in resources]
        self._wanted = np.array(wanted, np.int64).reshape(shape)
        multipliers = [one.get(name, 0.0) for name in names for one in weighers]
        self._multipliers = np.array(multipliers, np.float64).reshape(shape)

    def _bound(self, asks: list[Ask], resources: list[dict[str, int]], classes: list[str]) -> None:
        """Lines of the view's table that asks bound: free and what one may take from below, then counts from above."""
        line = self.view.columns.line
        mosts = (tuple(ask.builds_max for ask in asks), tuple(ask.instances_max for ask in asks))
        limits = [place for place, most in enumerate(mosts) if any(most)]
        least = [[wanted.get(name, _ANY) for wanted in resources] for name in classes]
        least += [[1 - most if most else _ANY for most in mosts[place]] for place in limits]
        self._limits = len(limits)
        self._bounded = _lines([*(line("free", name) for name in classes), *limits])
        self._bounded_too = _lines([*(line("unit_max", name) for name in classes), *limits])
        self._least = np.array(least, np.int64).reshape(len(least), 1, len(asks))


def put_off(changed: set[int], view: View, late: set[int]) -> set[int]:
    """Those of the changed hosts that are in the shard; the others become late."""
    mine = view.columns.mine_at
    own = {index for index in changed if mine[index]}
    late |= changed - own
    return own


def _lines(numbers: list[int]) -> NDArray[np.intp]:
    return np.array(numbers, np.intp)
