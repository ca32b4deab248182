"""The set of benchmarks and its plots: what they name exists, and what they draw can be read."""

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import typer
from bench.__main__ import FIGURES, QUICK, SET, line
from bench.plots import Chart, svg

from commonplace.cli import common
from commonplace.cli.bench import app


@pytest.mark.parametrize("name", SET)
def test_every_benchmark_of_the_set_parses_in_full_and_in_short(name: str) -> None:
    command: Any = typer.main.get_command(app)
    common.prepare(command)
    common.forget()
    arguments = [*SET[name], *QUICK[SET[name][0]], "-o", "json"]
    with command.make_context("bench", list(arguments)) as context:
        _, member, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        member.make_context(arguments[0], rest, parent=context)
    assert arguments[0] in FIGURES


def test_every_figure_of_the_page_is_measured_by_a_benchmark_of_the_set() -> None:
    page = (Path(__file__).parent.parent / "bench" / "README.md").read_text()
    table = page.partition("| figure | goal | measured | by |\n")[2].partition("\n\n")[0].splitlines()[1:]
    named = {name for row in table for name in re.findall(r"`([^`]+)`", row.rsplit("|", 2)[1])}
    assert len(table) >= 15
    assert named - set(SET) == set()


def test_a_line_of_the_set_has_medians_and_every_verdict_of_the_audits() -> None:
    reports: list[Any] = [
        {
            "all_decided_ms": {"median": ms},
            "latency_ms": {"p50": 2.0},
            "conflict_fraction": 0.0,
            "audit": {"audit": word},
        }
        for ms, word in ((9.0, "clean"), (1.0, "not run"), (4.0, "clean"))
    ]
    assert line("burst", reports) == (
        "burst                  all_decided_ms median 4, latency_ms p50 2, conflict_fraction 0, audit clean, not run"
    )


def test_a_chart_is_a_picture_with_every_curve_and_larger_stands_higher() -> None:
    drawn = svg(Chart("A & B", "hosts", "µs", {"rank": [(1_000.0, 5.0), (100_000.0, 50.0)], "flat": [(1_000.0, 5.0)]}))
    picture = ElementTree.fromstring(drawn)
    texts = [one.text for one in picture.iter() if one.tag.endswith("text")]
    assert {"A & B", "hosts", "µs", "rank", "flat", "1,000", "100,000"} <= set(texts)
    (first, *_) = [one.get("points") or "" for one in picture.iter() if one.tag.endswith("polyline")]
    (x1, y1), (x2, y2) = [tuple(map(float, point.split(","))) for point in first.split()]
    assert x1 < x2
    assert y1 > y2
