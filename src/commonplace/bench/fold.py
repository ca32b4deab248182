"""Folding alone, in this process: one delta, and the score rows of all active flavors brought up to date. CPU time.

    after each delta     fold, columns written, every flavor's row refreshed
    after each turn      so many deltas folded, then every row refreshed once: as a replica does under load

Compared with scoring every host anew for every flavor, in the same run; rows that differ from that stop the run.
"""

from collections.abc import Callable
from statistics import median
from time import process_time_ns
from typing import Any, Final

from msgspec import Struct

from commonplace import collector
from commonplace.bench.facts import cpu_us, machine
from commonplace.bench.flavors import flavors
from commonplace.bench.ledgers import Ledgers, Written, allocation_of, claim_of
from commonplace.bench.rank import SCANS, asks_of, check, spread_of, view_of
from commonplace.core.placing import ASKS_TOGETHER
from commonplace.core.ranking import ScoreRow, column_scores
from commonplace.core.scoreboard import Scoreboard
from commonplace.core.view import View
from commonplace.words import counted

STRIDE: Final = 7_919
"""A prime: deltas come from hosts all over the fleet."""


class Plan(Struct, frozen=True, kw_only=True):
    """`deltas` a round, each of another host, so many rounds; `turn` of them before the rows are refreshed once."""

    hosts: int = 10_000
    flavors: int = 64
    placement: str = "spread"
    deltas: int = 256
    turn: int = 64
    rounds: int = 20


def run(plan: Plan, tell: Callable[[str], None]) -> dict[str, Any]:
    """Measure and return the report; medians over rounds."""
    tell(f"making a view of {counted(plan.hosts, 'host')}")
    fleet = _Fleet(plan)
    collector.calm()  # as in the scheduler's own process
    tell(f"{counted(plan.rounds, 'round')} of {counted(plan.deltas, 'delta')}, twice")
    folds: list[float] = []
    refreshes: list[float] = []
    turns: list[float] = []
    for _ in range(plan.rounds):
        fold_us, refresh_us = _round(fleet, 1)
        folds.append(fold_us)
        refreshes.append(refresh_us)
        turns.append(sum(_round(fleet, plan.turn)))
    check(fleet.view, fleet.rows)
    asks = [row.ask for row in fleet.rows]
    anew = median(cpu_us(lambda: [column_scores(fleet.view, ask, slice(None)) for ask in asks]) for _ in range(SCANS))
    both = median(map(sum, zip(folds, refreshes, strict=True)))
    return {
        "benchmark": "fold",
        "machine": machine(),
        "hosts": plan.hosts,
        "flavors": plan.flavors,
        "deltas": 2 * plan.deltas * plan.rounds,
        "rounds": plan.rounds,
        "turn": plan.turn,
        "fold_us": round(median(folds), 2),
        "fold_us_rounds": spread_of(folds),
        "refresh_us": round(median(refreshes), 2),
        "fold_and_refresh_us": round(both, 2),
        "fold_and_refresh_us_in_turns": round(median(turns), 2),
        "scan_by_columns_us": round(anew, 1),
        "scan_times": round(anew / both),
    }


class _Fleet:
    """Hosts, a view that follows them, and the active flavors' rows."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.ledgers = plan, Ledgers(plan.hosts)
        self.view: View = view_of(self.ledgers)
        self.board = Scoreboard(self.view)
        self.rows = [ScoreRow(self.view, ask, self.board) for ask in asks_of(plan.flavors, plan.placement)]
        self.flavors = flavors(plan.flavors)
        self.rounds = self.claims = 0

    def reports(self) -> list[Written]:
        """A round's deltas, each of another host whose delta before the view has folded already, as it has of every host soon."""
        names, first = self.ledgers.names, self.rounds * self.plan.deltas
        self.rounds += 1
        hosts = [names[(first + i) * STRIDE % len(names)] for i in range(self.plan.deltas)]
        for record in [self._claimed(host) for host in hosts]:
            self.view.fold(record.partition, *record.raw, 0)
        for row in self.rows:
            row.refresh()
        return [self._claimed(host) for host in hosts]

    def _claimed(self, host: str) -> Written:
        """The host's report of one allocation more."""
        self.claims += 1
        flavor = self.flavors[self.claims % len(self.flavors)]
        self.ledgers.take(claim_of(host, allocation_of(f"{self.claims:x}", flavor)))
        return self.ledgers.report(host)


def _round(fleet: _Fleet, turn: int) -> tuple[float, float]:
    """µs a delta, of folding it and of bringing the rows up to date after every `turn` deltas."""
    view, board, rows, reports = fleet.view, fleet.board, fleet.rows, fleet.reports()
    folding = refreshing = 0
    for at in range(0, len(reports), turn):
        start = process_time_ns()
        for record in reports[at : at + turn]:
            view.fold(record.partition, record.offset, record.log_time_ms, record.key, record.value, 0)
        view.write()
        folded = process_time_ns()
        if len(rows) >= ASKS_TOGETHER:
            board.refresh()
        else:
            for row in rows:
                row.refresh()
        refreshing += process_time_ns() - folded
        folding += folded - start
    return folding / len(reports) / 1_000, refreshing / len(reports) / 1_000
