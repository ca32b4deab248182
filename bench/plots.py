"""Growth curves as SVG: ranking and folding by hosts and by active flavors; conflicts by replicas; the loop by hosts and by rate.

    python -m bench.plots [hosts] [flavors] [replicas] [loop] [rates]     measures and writes bench/plots/NAME.svg and NAME.json

Each point is one run of `commonplace bench`; about 15 minutes for all.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final, NamedTuple
from xml.sax.saxutils import escape

from bench.__main__ import LARGE_HOSTS, run

PLOTS: Final = Path(__file__).parent / "plots"
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 360, 64, 190, 34, 44
COLOURS: Final = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700")

Points = list[tuple[float, float]]


class Chart(NamedTuple):
    """Curves over one axis; x is logarithmic, y too where `log_y`."""

    title: str
    x: str
    y: str
    curves: dict[str, Points]
    log_y: bool = True


def by_hosts() -> Chart:
    """1,000 to 100,000 hosts, 64 active flavors."""
    sizes = (1_000, 3_000, 10_000, 30_000, 100_000)
    return _costs(
        "Cost by hosts, 64 active flavors", "hosts", [(n, ("--hosts", str(n), "--rounds", "6")) for n in sizes]
    )


def by_flavors() -> Chart:
    """1 to 64 active flavors, 10,000 hosts."""
    counts = (1, 2, 4, 8, 16, 32, 64)
    arguments = [(n, ("--flavors", str(n), "--rounds", "6")) for n in counts]
    return _costs("Cost by active flavors, 10,000 hosts", "active flavors", arguments)


def _costs(title: str, x: str, points: Sequence[tuple[int, tuple[str, ...]]]) -> Chart:
    ranks = [(n, run(("rank", *arguments))) for n, arguments in points]
    folds = [(n, run(("fold", *arguments))) for n, arguments in points]
    curves = {
        "rank": _curve(ranks, "rank_us"),
        "scan by columns": _curve(ranks, "scan_by_columns_us"),
        "fold": _curve(folds, "fold_us"),
        "fold and scores, turns of 64": _curve(folds, "fold_and_refresh_us_in_turns"),
    }
    return Chart(title, x, "µs CPU", curves)


def by_replicas() -> Chart:
    """1 to 8 replicas that race, 1,000 requests a second together, 1,000 hosts."""
    fixed = ("--hosts", "1000", "--seconds", "3")
    reports = [(n, run(("conflicts", "--replicas", str(n), *fixed))) for n in (1, 2, 4, 8)]
    curves = {
        name: [(float(n), float(r["conflict_fraction"][name])) for n, r in reports] for name in ("pack", "spread")
    }
    return Chart(
        "Conflicts by replicas, 1,000 hosts, 1,000 requests/s", "replicas", "rejected per granted", curves, False
    )


def by_fleet() -> Chart:
    """The whole loop as fast as it goes, packing, 1,000 to 100,000 hosts."""
    reports = [(n, run((*LARGE_HOSTS, "--hosts", str(n), "--seconds", "30"))) for n in (1_000, 10_000, 100_000)]
    return Chart(
        "The loop by hosts, packing", "hosts", "decisions/s", {"one replica": _curve(reports, "decisions_per_s")}, False
    )


def by_rate() -> Chart:
    """Latency of the whole loop at fixed rates, 10,000 hosts."""
    fixed = ("--seconds", "30")
    reports = [(n, run(("loop", "--rate", str(n), *fixed))) for n in (100, 300, 1_000, 2_000, 4_000)]
    curves = {p: [(float(n), float(report["latency_ms"][p])) for n, report in reports] for p in ("p50", "p99")}
    return Chart("Latency by rate, 10,000 hosts", "requests/s", "ms", curves)


def _curve(reports: Sequence[tuple[int, dict[str, Any]]], figure: str) -> Points:
    return [(float(n), float(report[figure])) for n, report in reports]


CHARTS: Final = {"hosts": by_hosts, "flavors": by_flavors, "replicas": by_replicas, "loop": by_fleet, "rates": by_rate}


# --- drawing -----------------------------------------------------------------------------------------------------------


def svg(chart: Chart) -> str:
    """The chart as a picture of its own: no script, no font, no colour of the page's."""
    points = list(chain.from_iterable(chart.curves.values()))
    across = _Axis([x for x, _ in points], LEFT, WIDTH - RIGHT, log=True)
    up = _Axis([y for _, y in points], HEIGHT - BOTTOM, TOP, log=chart.log_y)
    ticks_x = sorted({x for x, _ in points})
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        _text(LEFT, 18, chart.title, weight="bold"),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, chart.x, anchor="middle"),
        _text(6, TOP - 6, chart.y),
    ]
    for x in ticks_x:
        lines.append(_line(across.at(x), TOP, across.at(x), HEIGHT - BOTTOM))
        lines.append(_text(across.at(x), HEIGHT - BOTTOM + 16, f"{x:,.0f}", anchor="middle"))
    for y in up.ticks():
        lines.append(_line(LEFT, up.at(y), WIDTH - RIGHT, up.at(y)))
        lines.append(_text(LEFT - 6, up.at(y) + 4, f"{y:,g}", anchor="end"))
    for number, (name, curve) in enumerate(chart.curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{across.at(x):.1f},{up.at(y):.1f}" for x, y in curve)
        lines.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        lines += [f'<circle cx="{across.at(x):.1f}" cy="{up.at(y):.1f}" r="3" fill="{colour}"/>' for x, y in curve]
        lines.append(_text(WIDTH - RIGHT + 10, TOP + 14 + 18 * number, name, colour=colour))
    return "\n".join([*lines, "</svg>", ""])


class _Axis:
    """From values to places on the picture, between two places."""

    def __init__(self, values: Sequence[float], begin: float, end: float, *, log: bool) -> None:
        self.log, self.begin, self.end = log, begin, end
        self.low, self.high = (min(values), max(values)) if log else (0.0, max(values) or 1.0)
        if log:
            self.low = max(self.low, 1e-9)
            self.high = max(self.high, self.low * 1.01)

    def at(self, value: float) -> float:
        """Where a value stands."""
        if self.log:
            share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = value / self.high
        return self.begin + share * (self.end - self.begin)

    def ticks(self) -> list[float]:
        """Round values, few enough to read."""
        if not self.log:
            return [self.high * part / 4 for part in range(5)]
        tens = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        return [10.0**power for power in tens if self.low <= 10.0**power <= self.high] or [self.low, self.high]


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#ddd"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal", colour: str = "#222") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" fill="{colour}">{escape(text)}</text>'


def main(given: list[str]) -> None:
    """Measure and draw."""
    parser = argparse.ArgumentParser(prog="python -m bench.plots", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(CHARTS)}; none: all")
    names = parser.parse_args(given).names or list(CHARTS)
    if unknown := set(names) - set(CHARTS):
        parser.error(f"{min(unknown)}: there are {', '.join(CHARTS)}")
    PLOTS.mkdir(exist_ok=True)
    for name in names:
        chart = CHARTS[name]()
        (PLOTS / f"{name}.json").write_text(json.dumps(chart._asdict(), indent=1) + "\n")
        (PLOTS / f"{name}.svg").write_text(svg(chart))


if __name__ == "__main__":
    main(sys.argv[1:])
