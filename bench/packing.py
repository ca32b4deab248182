"""Packing: how full a fleet gets before a request is refused, by commonplace with racing replicas and by others.

    python -m bench.packing                                     a small synthetic trace; about two minutes
    python -m bench.packing FILE --format azure-v1 --hosts 200  a real trace (docs/replay.md has the formats)
    python -m bench.packing --gpu                               whole GPUs, shares of one, and none; with the weigher `fgd`

Arrivals follow until they ask for more than the fleet has, and nothing leaves; with --lifetimes all of a trace does, departures included.
Time is virtual: what it takes to compute counts for nothing, what it takes to hear of a change does (commonplace.bench.racing).
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import msgspec
from msgspec.structs import replace

from bench import packing_classic
from bench.packing_serial import SERIAL, serial
from bench.packing_trace import GPU, gpu, of_file, synthetic
from commonplace.bench import racing
from commonplace.bench.cases import Case
from commonplace.bench.facts import machine
from commonplace.bench.fullness import Figures, State
from commonplace.core.ask import PROFILES
from commonplace.core.records.control import Profile
from commonplace.ops.replay.formats import FORMATS, TraceError

Contender = Callable[[int], Figures]
"""Makes its figures of a case, given a seed."""


def profiles(case: Case, names: list[str]) -> list[Profile]:
    """The built-in profiles without limits of builds and instances, which have nothing to do with packing; `fgd` knows the case's mix."""
    known = {**PROFILES, "fgd": Profile(name="fgd", weighers={"fgd": -1.0}, mix=case.mix)}
    return [replace(known[name], builds_max=0, instances_max=0) for name in names]


def contenders(case: Case, args: argparse.Namespace) -> Iterator[Contender]:
    """Everybody who packs the case."""
    for name in SERIAL:
        yield partial(serial, case, name)
    delays = (args.delay_ms // 8, args.delay_ms)
    pace = racing.Pace(rate=args.rate, delay_ms=delays, mode=args.mode, attempts_max=args.attempts)
    for profile in profiles(case, args.profiles.split(",")):
        for count in args.replicas:
            yield partial(racing.racing, case, profile, count, pace)
    slow = packing_classic.Pace(rate=args.rate, poll_ms=args.poll_ms, build_ms=args.delay_ms)
    for policy in packing_classic.POLICIES:
        for count in args.replicas:
            yield partial(packing_classic.classic, case, policy, count, slow)


def run(case: Case, args: argparse.Namespace) -> list[list[Figures]]:
    """Every contender's runs, each with a seed of its own."""
    found = []
    for contender in contenders(case, args):
        runs = []
        for seed in range(args.seed, args.seed + args.runs):
            began = time.process_time()
            runs.append(contender(seed))
            runs[-1].seconds = round(time.process_time() - began, 2)
        print(f"  {runs[0].contender}, {runs[0].replicas}: {runs[0].seconds} s", file=sys.stderr, flush=True)
        found.append(runs)
    return found


def table(case: Case, found: list[list[Figures]]) -> str:
    """A line a contender, means over its runs; the class that best fit fills most is what is compared."""
    classes = ["VCPU", "MEMORY_MB"] + ([GPU] if any(GPU in spec.inventory for spec in case.hosts) else [])
    best = found[0][0]
    main = max(classes, key=lambda name: _at(best.first_refusal or best.end, name))
    short = {"VCPU": "cpu", "MEMORY_MB": "ram", GPU: "gpu"}
    head = (
        f"{'':22}{'n':>3} |{'first refusal after':>20}"
        + "".join(f"{short[name]:>8}" for name in classes)
        + f"{'to best':>9} |{'end ' + short[main]:>8}{'to best':>9} |{'hosts':>6}{'empty':>6}"
        + f" |{'no ram':>7}{'no cpu':>7} |{'refused':>8}{'conflict':>9}{'retries':>8}{'failed':>7}"
    )
    lines = [head]
    for runs in found:
        first = [one.first_refusal or one.end for one in runs]
        ends, halves = [one.end for one in runs], [one.half for one in runs]
        lines.append(
            f"{runs[0].contender:22}{runs[0].replicas:>3} |{mean(s.answered for s in first if s):>20.0f}"
            + "".join(f"{mean(_at(s, name) for s in first):>8.2%}" for name in classes)
            + f"{_to(first, best.first_refusal or best.end, main):>+9.2%}"
            + f" |{mean(_at(s, main) for s in ends):>8.2%}{_to(ends, best.end, main):>+9.2%}"
            + f" |{mean(s.hosts_used for s in halves if s):>6.0f}{mean(s.hosts_empty for s in halves if s):>6.0f}"
            + "".join(f"{mean(s.stranded[n] for s in first if s):>{w}.2%}" for n, w in (("VCPU", 9), ("MEMORY_MB", 7)))
            + f" |{mean(f.refused for f in runs):>8.0f}{mean(f.conflict_fraction for f in runs):>9.3f}"
            + f"{mean(f.retries for f in runs):>8.0f}{mean(f.failed_builds for f in runs):>7.0f}"
        )
    return "\n".join([*lines, "", *LEGEND])


LEGEND = (
    "first refusal: requests answered before it, and the share of capacity that is allocated then; hosts, empty: when half is asked for",
    "no ram: free vCPUs on hosts without memory for the smallest flavor; no cpu: the other way round; both at the first refusal",
    "conflict: claims that hosts turned down per granted one, retries: how many; failed: builds already answered that failed for good",
)


def _at(found: State | None, name: str) -> float:
    return found.allocated[name] if found else 0.0


def _to(found: list[State | None], best: State | None, name: str) -> float:
    return mean(_at(one, name) for one in found) / _at(best, name) - 1


def case_of(args: argparse.Namespace) -> Case:
    """The case that the command line names."""
    if args.trace:
        return of_file(args.trace, args.format, args.shape, args.hosts, args.beyond, args.lifetimes)
    return (gpu if args.gpu else synthetic)(args.seed, args.shape, args.hosts, args.beyond)


def arguments(given: list[str]) -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.packing", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trace", nargs="?", type=Path, help="a trace file; none: a synthetic one")
    parser.add_argument("--format", choices=tuple(FORMATS), default="azure-v1")
    parser.add_argument("--gpu", action="store_true", help="a synthetic trace of GPU shares")
    parser.add_argument("--hosts", type=int, default=100)
    parser.add_argument("--shape", default="", help="host shapes as in `commonplace fleet`; none: those of the format")
    parser.add_argument("--beyond", type=float, default=0.1, help="ask for so much more than the fleet has, as a share")
    parser.add_argument("--lifetimes", action="store_true", help="let VMs leave as the trace says, and take all of it")
    parser.add_argument("--profiles", default="", help="of commonplace; default pack,spread,default,nova, or pack,fgd")
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 4, 8], metavar="N")
    parser.add_argument("--mode", choices=("strict", "fits"), default="strict", help="how claims are judged")
    parser.add_argument("--attempts", type=int, default=16, help="claims of a request before it is given up")
    parser.add_argument("--rate", type=float, default=1000.0, help="requests a second")
    parser.add_argument("--delay-ms", type=int, default=40, help="the latest reader is so late, the first an eighth")
    parser.add_argument("--poll-ms", type=float, default=1000.0, help="classic: each scheduler polls so often")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", type=int, default=1, help="runs of each contender, means in the table")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    args = parser.parse_args(given)
    args.profiles = args.profiles or ("pack,fgd" if args.gpu else "pack,spread,default,nova")
    unknown = set(args.profiles.split(",")) - {*PROFILES, "fgd"}
    if unknown:
        parser.error(f"--profiles {min(unknown)}: the bench knows {', '.join([*PROFILES, 'fgd'])}")
    return args


def main(given: list[str]) -> None:
    """Run and print."""
    args = arguments(given)
    try:
        case = case_of(args)
    except TraceError as error:
        sys.exit(str(error))
    about: dict[str, Any] = {
        "trace": case.name,
        "hosts": len(case.hosts),
        "flavors": len(case.flavors),
        "arrivals": case.arrivals,
        "impossible_left_out": case.impossible,
        **{name: getattr(args, name) for name in ("rate", "delay_ms", "poll_ms", "mode", "attempts", "seed", "runs")},
    }
    found = run(case, args)
    if args.output == "json":
        print(json.dumps({"case": about, "machine": machine(), "figures": msgspec.to_builtins(found)}, indent=1))
        return
    for facts in (about, machine()):
        print(", ".join(f"{name} {value}" for name, value in facts.items()))
    print(f"\n{table(case, found)}")


if __name__ == "__main__":
    main(sys.argv[1:])
