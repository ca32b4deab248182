"""`python -m chaos_real`: run (the default), audit DIR, and frontend, which a run starts itself."""

import argparse
import faulthandler
import json
import random
import shutil
import signal
import sys
from pathlib import Path

import msgspec

from chaos_real import client
from chaos_real.judge import judge, told
from chaos_real.run import Options, Outcome, run
from commonplace.settings import Settings

VIOLATED = 8


def main(arguments: list[str]) -> int:
    """Exit 0 when nothing is violated, 8 when something is."""
    if arguments[:1] == ["frontend"]:
        return client.main(arguments[1:])
    parser = argparse.ArgumentParser(prog="chaos_real")
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run", help="inject faults for a while, settle, judge")
    running.add_argument("--minutes", type=float, default=10.0)
    running.add_argument("--seed", type=int, default=None, help="default: another one each time, printed")
    running.add_argument("--gap-s", type=float, default=0.8, help="seconds between injections, on average")
    running.add_argument("--trace", type=Path, default=None, help="a trace to replay; default: one made from the seed")
    running.add_argument("--form", default="csv", help="its format, as of `commonplace replay --format`")
    running.add_argument("--keep", type=Path, default=None, help="where the run's directory is made")
    running.add_argument("--keep-clean", action="store_true", help="keep the directory though nothing was violated")
    running.add_argument("--counts", type=Path, default=None, help="append what was injected to this JSON Lines file")
    running.add_argument(
        "--every-kind", action="store_true", help="all kinds of faults, one of each first; default: a part"
    )
    auditing = commands.add_parser("audit", help="judge the directory of a run again")
    auditing.add_argument("directory", type=Path)
    args = parser.parse_args(arguments)
    faulthandler.enable()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what was begun is put away, as after Ctrl-C
    return _audit(args.directory) if args.command == "audit" else _run(args)


def _run(args: argparse.Namespace) -> int:
    seed = random.SystemRandom().randrange(1_000_000) if args.seed is None else args.seed
    outcome = run(
        Options(
            seed=seed,
            seconds=args.minutes * 60,
            gap_s=args.gap_s,
            trace=args.trace,
            form=args.form,
            keep=args.keep,
            swarm=not args.every_kind,
            say=lambda text: print(text, flush=True),
        )
    )
    _tell(outcome)
    if args.counts is not None:
        with args.counts.open("a") as file:
            row = {"seed": seed, "seconds": outcome.seconds, "violations": len(outcome.violations)}
            file.write(json.dumps({**row, "injections": outcome.injections, "figures": outcome.figures}) + "\n")
    if outcome.violations:
        print(f"{len(outcome.violations)} violations; the run stays in {outcome.directory}")
        return VIOLATED
    if not args.keep_clean:
        shutil.rmtree(outcome.directory)
    return 0


def _tell(outcome: Outcome) -> None:
    for kind, count in outcome.injections.items():
        skipped = outcome.skipped.get(kind, 0)
        print(f"{count:5}  {kind}{f' ({skipped} skipped)' if skipped else ''}")
    print(f"{sum(outcome.injections.values()):5}  injections of {len(outcome.injections)} kinds, seed {outcome.seed}")
    for title, figures in (("processes that ended by themselves", outcome.exits), ("figures", outcome.figures)):
        print(f"{title}: " + ", ".join(f"{key} {value}" for key, value in figures.items()))
    print("resident, at most: " + ", ".join(f"{name} {mb} MB" for name, mb in sorted(outcome.rss_mb_max.items())))
    print(f"settled in {outcome.settled_s:g} s; audit of every record: {outcome.audit.get('audit')}")


def _audit(directory: Path) -> int:
    about = json.loads((directory / "run.json").read_bytes())
    verdict = judge(directory, msgspec.convert(about["settings"], Settings))
    for number, tally in verdict.audit["invariants"].items():
        print(
            f"invariant {number}: {tally['checked']} checked, {tally['violated']} violated, {tally['unprovable']} unprovable"
        )
    print(told(verdict) or "nothing is violated")
    return VIOLATED if verdict.violations else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
