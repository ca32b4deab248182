"""The set: every figure of docs/results.md, one after the other, each in a system of its own.

    python -m bench [--quick]     a JSON file a run under bench/results/, and a table at the end

About 13 minutes; `--quick` is a smoke run of a minute or two whose figures mean nothing.
"""

import json
import sys
from pathlib import Path
from typing import Any

from bench import loop

RESULTS = Path(__file__).parent / "results"

SET: dict[str, list[str]] = {
    "saturate-pack": ["saturate", "--window", "4096", "--placement", "pack"],
    "saturate-spread": ["saturate", "--window", "4096"],
    "churn": [
        "churn",
        "--placement",
        "pack",
        "--shape",
        "16vcpu:128gb:4000gb",
        "--hold",
        "15",
        "--window",
        "512",
        "--lease",
        "30",
    ],
    "rate-1000": ["rate", "--rate", "1000"],
}
QUICK = ["--hosts", "500", "--warmup", "3", "--seconds", "5"]


def table(results: dict[str, dict[str, Any]]) -> str:
    """The figures that people ask for, a line a run."""
    lines = [
        f"{'run':16} {'decisions/s':>12} {'placed':>8} {'p50 ms':>8} {'p99 ms':>8} {'conflicts':>10} {'replica µs':>11} {'audit':>6}"
    ]
    for name, r in results.items():
        lat, cpu = r["latency_ms"], r["cpu_us_a_decision"]
        lines.append(
            f"{name:16} {r['decisions_per_s']:>12} {r['placed_share']:>8.2%} {lat.get('p50', 0):>8} {lat.get('p99', 0):>8} "
            f"{r['conflict_fraction']:>10} {cpu.get('r1', 0):>11} {r['audit'][:6]:>6}"
        )
    return "\n".join(lines)


def main(given: list[str]) -> None:
    """Run the set."""
    RESULTS.mkdir(exist_ok=True)
    results = {}
    for name, arguments in SET.items():
        print(f"== {name}: python -m bench.loop {' '.join(arguments)}", flush=True)
        results[name] = loop.main([*arguments, *(QUICK if "--quick" in given else [])])
        if "--quick" not in given:
            (RESULTS / f"{name}.json").write_text(json.dumps(results[name], indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main(sys.argv[1:])
