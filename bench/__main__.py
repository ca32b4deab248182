"""The set: every benchmark of `commonplace bench`, one after the other, each a process and a system of its own.

    python -m bench [--quick] [--runs 3] [NAME…]     a JSON file a run under bench/results/, and a table of medians at the end

About half an hour a run; `--quick` is a smoke run of a few minutes whose figures mean nothing and are not kept.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any, Final

RESULTS: Final = Path(__file__).parent / "results"
CALL: Final = (sys.executable, "-c", "import sys; from commonplace.cli.main import main; sys.exit(main())", "bench")

LARGE_HOSTS: Final = (
    *("loop", "--window", "2048", "--placement", "pack", "--lease", "2"),
    *("--shape", "512vcpu:2048gb:32000gb", "--instances-max", "100"),
)
"""Hosts so large, and leases so short, that 1,000 of them hold some 20,000 grants a second."""

SET: Final[dict[str, tuple[str, ...]]] = {
    "saturate-pack": ("loop", "--window", "4096", "--placement", "pack"),
    "saturate-spread": ("loop", "--window", "4096"),
    "churn": (
        *("loop", "--mode", "churn", "--placement", "pack", "--shape", "16vcpu:128gb:4000gb"),
        *("--hold", "8", "--window", "768", "--lease", "30"),
    ),
    "saturate-anti-affinity": ("loop", "--window", "4096", "--placement", "pack", "--asks", "anti-affinity"),
    "saturate-numa": ("loop", "--window", "4096", "--placement", "pack", "--asks", "numa"),
    "saturate-1000-hosts": (*LARGE_HOSTS, "--hosts", "1000"),
    "saturate-10000-hosts": (*LARGE_HOSTS, "--hosts", "10000"),
    "saturate-100000-hosts": (*LARGE_HOSTS, "--hosts", "100000"),
    "rate-1000": ("loop", "--rate", "1000"),
    "rate-10000": ("loop", "--rate", "10000", "--placement", "pack"),
    "burst": ("burst",),
    "catchup": ("catchup", "--partitions", "4"),
    "catchup-empty": ("catchup", "--partitions", "4", "--instances", "0"),
    "catchup-100000-hosts": ("catchup", "--partitions", "4", "--hosts", "100000"),
    "rank": ("rank",),
    "rank-pack": ("rank", "--placement", "pack"),
    "fold": ("fold",),
    "conflicts": ("conflicts",),
    "conflicts-4": ("conflicts", "--replicas", "4"),
    "conflicts-1": ("conflicts", "--replicas", "1"),
}
"""`python -m bench` and its results are named so → the command."""

QUICK: Final[dict[str, tuple[str, ...]]] = {
    "loop": ("--hosts", "500", "--warmup", "3", "--seconds", "5"),
    "burst": ("--hosts", "500", "--warmup", "3", "--builds", "100", "--bursts", "2"),
    "catchup": ("--hosts", "500", "--starts", "1"),
    "rank": ("--hosts", "500", "--rounds", "2"),
    "fold": ("--hosts", "500", "--rounds", "2"),
    "conflicts": ("--hosts", "100", "--seconds", "1", "--replicas", "2"),
}

FIGURES: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    "loop": (
        ("decisions_per_s",),
        ("latency_ms", "p50"),
        ("latency_ms", "p99"),
        ("cpu_us_a_decision", "r1"),
        ("broker_requests_a_decision", "all"),
        ("conflict_fraction",),
    ),
    "burst": (("all_decided_ms", "median"), ("latency_ms", "p50"), ("conflict_fraction",)),
    "catchup": (("catchup_s", "median"), ("ready_s", "median"), ("rss_bytes_a_host",)),
    "rank": (("rank_us",), ("scan_by_columns_us",), ("plain_scan_us",)),
    "fold": (("fold_us",), ("fold_and_refresh_us",), ("fold_and_refresh_us_in_turns",)),
    "conflicts": (
        ("conflict_fraction", "pack"),
        ("conflict_fraction", "spread"),
        *(("by_placement", one, "replica_cpu_us_a_decision", "apart_from_folds") for one in ("pack", "spread")),
    ),
}
"""What the table shows of each command's report, by its path there."""


def run(arguments: tuple[str, ...]) -> dict[str, Any]:
    """One benchmark's report; CalledProcessError where it fails or its audit is not clean."""
    done = subprocess.run([*CALL, *arguments, "-o", "json"], stdout=subprocess.PIPE, check=True)
    return dict(json.loads(done.stdout))


def line(name: str, reports: list[Mapping[str, Any]]) -> str:
    """The figures that people ask for, medians over the runs."""
    told = [f"{' '.join(path)} {median(_at(one, path) for one in reports):g}" for path in FIGURES[SET[name][0]]]
    audits = {one["audit"]["audit"] for one in reports if "audit" in one}
    return f"{name:22} {', '.join(told)}" + (f", audit {', '.join(sorted(audits))}" if audits else "")


def _at(report: Mapping[str, Any], path: tuple[str, ...]) -> float:
    value: Any = report
    for key in path:
        value = value[key]
    return float(value if value is not None else "nan")


def main(given: list[str]) -> None:
    """Run the set."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SET)}; none: all")
    parser.add_argument("--quick", action="store_true", help="small and short; figures mean nothing")
    parser.add_argument("--runs", type=int, default=1, help="of each; the table has medians")
    args = parser.parse_args(given)
    if unknown := set(args.names) - set(SET):
        parser.error(f"{min(unknown)}: the set has {', '.join(SET)}")
    RESULTS.mkdir(exist_ok=True)
    lines = []
    for name in args.names or SET:
        arguments = SET[name] + (QUICK[SET[name][0]] if args.quick else ())
        reports: list[Mapping[str, Any]] = []
        for number in range(1, args.runs + 1):
            print(f"== {name}, run {number}: commonplace bench {' '.join(arguments)}", file=sys.stderr, flush=True)
            reports.append(run(arguments))
            if not args.quick:
                (RESULTS / f"{name}.{number}.json").write_text(json.dumps(reports[-1], indent=1) + "\n")
        lines.append(line(name, reports))
    print("\n".join(lines))


if __name__ == "__main__":
    main(sys.argv[1:])
