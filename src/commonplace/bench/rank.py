"""Ranking alone, in this process: the best host for a request, with one host changed between requests. CPU time.

Requests come in turn from flavors that are all active, so a score row takes in the hosts that changed since its flavor was last asked for.
The plain scan is measured in the same run on the same view, and what is fast must choose what it chooses: a difference stops the run.
"""

from collections.abc import Callable
from statistics import median
from time import process_time_ns
from typing import Any, Final

import numpy as np
from msgspec import Struct

from commonplace import collector
from commonplace.bench.facts import cpu_us, machine
from commonplace.bench.flavors import flavors, profile
from commonplace.bench.ledgers import Ledgers
from commonplace.core.ask import ask_of
from commonplace.core.ranking import ScoreRow, column_scores, first_best, plain_scores
from commonplace.core.records.requests import Build
from commonplace.core.rows import Overlay
from commonplace.core.rules import Ask
from commonplace.core.scoreboard import NEVER, Scoreboard
from commonplace.core.view import View
from commonplace.errors import UsageError
from commonplace.words import counted

SCANS: Final = 20
PLAIN_SCANS: Final = 3
CHECKED: Final = 4
"""Rows compared with the plain scan, which takes 0.1 s at 10,000 hosts; all are with the scan by columns."""


class Plan(Struct, frozen=True, kw_only=True):
    """`requests` a round, so many rounds, from so many flavors in turn."""

    hosts: int = 10_000
    flavors: int = 64
    placement: str = "spread"
    requests: int = 512
    rounds: int = 20


def run(plan: Plan, tell: Callable[[str], None]) -> dict[str, Any]:
    """Measure and return the report; medians over rounds."""
    tell(f"making a view of {counted(plan.hosts, 'host')}")
    view = view_of(Ledgers(plan.hosts))
    asks = asks_of(plan.flavors, plan.placement)
    board = Scoreboard(view)
    rows = [ScoreRow(view, ask, board) for ask in asks]
    for row in rows:
        row.refresh()
    collector.calm()  # as in the scheduler's own process
    tell(f"{counted(plan.rounds, 'round')} of {counted(plan.requests, 'request')}")
    rounds = [_round(view, rows, number, plan.requests) for number in range(plan.rounds)]
    tell("scanning, to compare")
    check(view, rows)
    columns = median(cpu_us(lambda: first_best(column_scores(view, asks[0], slice(None)), 0)) for _ in range(SCANS))
    plain = median(cpu_us(lambda: max(plain_scores(view, asks[0]))) for _ in range(PLAIN_SCANS))
    each = median(rounds)
    return {
        "benchmark": "rank",
        "machine": machine(),
        "hosts": plan.hosts,
        "flavors": plan.flavors,
        "placement": plan.placement,
        "requests": plan.requests * plan.rounds,
        "rounds": plan.rounds,
        "rank_us": round(each, 2),
        "rank_us_rounds": spread_of(rounds),
        "scan_by_columns_us": round(columns, 1),
        "plain_scan_us": round(plain, 1),
        "plain_scan_times": round(plain / each),
    }


def view_of(ledgers: Ledgers) -> View:
    """A view that has read the first reports of all hosts."""
    view = View(ledgers.partitions)
    for record in ledgers.begin():
        view.fold(record.partition, *record.raw, 0)
    return view


def asks_of(count: int, placement: str) -> list[Ask]:
    """What so many flavors ask of a host."""
    ranked = profile(placement)
    return [ask_of(flavor, Build(id="r", flavor=flavor.name), ranked) for flavor in flavors(count)]


def check(view: View, rows: list[ScoreRow]) -> None:
    """See that score rows are what the scans make of the view; UsageError where none of their flavors fits on any host."""
    for number, row in enumerate(rows):
        row.refresh()
        assert np.array_equal(row.scores, column_scores(view, row.ask, slice(None))), "the score row is not the scan"
        if number < CHECKED:
            assert row.scores.tolist() == plain_scores(view, row.ask), "the score row is not the plain scan"
    if not any(row.scores.max() > NEVER for row in rows):
        raise UsageError(
            "no flavor fits on any host, so that the figures would say nothing: take more hosts or flavors"
        )


def spread_of(rounds: list[float]) -> dict[str, float]:
    """Lowest and highest of the rounds."""
    return {"min": round(min(rounds), 2), "max": round(max(rounds), 2)}


def _round(view: View, rows: list[ScoreRow], number: int, requests: int) -> float:
    """µs a request: refresh and choice; the claim that is laid over the chosen host counts for nothing."""
    spent = 0
    for i in range(requests):
        row, seed = rows[i % len(rows)], b"%d-%d" % (number, i)
        start = process_time_ns()
        row.refresh()
        chosen = row.choose(seed)
        spent += process_time_ns() - start
        if chosen is None:
            raise UsageError(
                f"--hosts {len(view.by_index)}: full before all requests are placed: more hosts, or fewer --rounds"
            )
        view.lay(chosen, Overlay(seed.decode(), dict(row.ask.resources), "", i))
    return spent / requests / 1_000
