"""`make fuzz`: mutations of records against every target, for some minutes; then `fuzz.guided`, which lets coverage guide them.

python -m fuzz --minutes 10 [--targets decode,fold,loop] [--seed N]     lives after lives, seeds counting up
python -m fuzz --again fold:SEED                                        one life again, to look at a finding
python -m fuzz.guided 10                                                minutes; needs the `fuzz` extra
"""

import argparse
import sys
import time

from fuzz.run import TARGETS_DEFAULT, again, run


def main() -> int:
    """Exit 0, or 1 with the findings printed."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description="Fuzz everything that reads the topics.")
    parser.add_argument("--minutes", type=float, default=1.0, help="how long")
    parser.add_argument("--targets", default=TARGETS_DEFAULT, help="which, separated by commas")
    parser.add_argument("--seed", type=int, default=time.time_ns() // 1_000_000_000, help="of the first life")
    parser.add_argument("--again", default="", metavar="TARGET:SEED", help="one life again")
    options = parser.parse_args()
    if options.again:
        target, _, seed = options.again.partition(":")
        return _told(again(target, int(seed)))
    report = run(options.targets.split(","), options.seed, options.minutes * 60)
    for name, tried in report.tried.items():
        print(
            f"{name}: {tried:,} records in {report.seconds[name]:.0f} s, the slowest took {report.slowest_ms[name]:.1f} ms"
        )
    return _told(report.findings)


def _told(findings: list[str]) -> int:
    for finding in findings:
        print(finding, file=sys.stderr)
    print(f"{len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
