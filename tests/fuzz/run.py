"""Lives of the targets, one seed after another, and what was found."""

import base64
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Final

from fuzz.targets import TARGETS, Target, Trial

TARGETS_DEFAULT: Final = ",".join(TARGETS)
RECORD_CPU_S_MAX: Final = 2.0
"""Longest a record may take, in seconds of this thread: a megabyte decodes in 20 ms, and the rest is room for slow machines."""
FINDINGS_MAX: Final = 5
TURN_S: Final = 5.0
"""How long each target runs before the next has its turn."""


@dataclass
class Report:
    """What was tried, and what came of it."""

    tried: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    slowest_ms: dict[str, float] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)


def run(names: list[str], seed: int, for_s: float, turn_s: float = TURN_S) -> Report:
    """Live lives of the named targets in turn, seeds counting up, until the time is over or there is enough to look at."""
    report, end = Report(slowest_ms=dict.fromkeys(names, 0.0)), time.monotonic() + for_s
    while time.monotonic() < end and len(report.findings) < FINDINGS_MAX:
        for name in names:
            began = time.monotonic()
            until = min(end, began + turn_s)
            while time.monotonic() < until and len(report.findings) < FINDINGS_MAX:
                report.findings += _life(name, seed, report)
                seed += 1
            report.seconds[name] += time.monotonic() - began  # type: ignore[assignment]
    return report


def again(name: str, seed: int) -> list[str]:
    """The findings of one life."""
    return _life(name, seed, Report(slowest_ms={name: 0.0}))


def _life(name: str, seed: int, report: Report) -> list[str]:
    target: Target = TARGETS[name](Random(seed))
    tried, slowest, clock = 0, 0.0, time.thread_time
    trial = Trial("", None, None)
    try:
        while not target.dead:
            trial = target.draw()
            began = clock()
            target.take(trial)
            took = clock() - began
            tried += 1
            if took > slowest:
                slowest = took
                assert took <= RECORD_CPU_S_MAX, f"a record of {len(trial.value or b'')} bytes took {took:.1f} s"
    except Exception:  # noqa: BLE001 - whatever escapes is what is looked for
        said = traceback.format_exc(limit=-6)
        value = base64.b64encode((trial.value or b"")[:3_000]).decode()
        return [f"{name}:{seed}, record {tried} on {trial.topic} under key {trial.key!r}, in base64 {value}\n{said}"]
    finally:
        report.tried[name] += tried
        report.slowest_ms[name] = max(report.slowest_ms[name], slowest * 1000)
    return []
