"""Failpoints: named places in the code where a test may kill the process. They cost one empty call where none is set.

COMMONPLACE_FAILPOINTS=before_report:3           SIGKILL at the third pass of before_report
COMMONPLACE_FAILPOINTS=before_report,after_rank  … at the first pass of either

agent       after_claims_read, before_report, before_report_ack
scheduler   after_consume, after_rank, after_claim_sent, after_grant_seen, before_decision, after_decision_before_commit
"""

import os
import signal
from collections.abc import Callable
from typing import Final

from commonplace.errors import SettingsError

VARIABLE: Final = "COMMONPLACE_FAILPOINTS"

AGENT: Final = ("after_claims_read", "before_report", "before_report_ack")
SCHEDULER: Final = (
    "after_consume",
    "after_rank",
    "after_claim_sent",
    "after_grant_seen",
    "before_decision",
    "after_decision_before_commit",
)
NAMES: Final = frozenset((*AGENT, *SCHEDULER))


def _never(name: str) -> None:
    """No failpoint is set."""


def parse(text: str) -> dict[str, int]:
    """`name:nth,name` as name → pass; raises `SettingsError` for what no code passes."""
    passes: dict[str, int] = {}
    for part in filter(None, text.split(",")):
        name, _, nth = part.strip().partition(":")
        if name not in NAMES:
            raise SettingsError(f"{VARIABLE}: no failpoint {name!r}; there are {', '.join(sorted(NAMES))}")
        if not (nth or "1").isdecimal() or int(nth or 1) < 1:
            raise SettingsError(f"{VARIABLE}: {part!r}: the pass must be a number from 1 on, as in {name}:3")
        passes[name] = int(nth or 1)
    return passes


def _counting(passes: dict[str, int]) -> Callable[[str], None]:
    left = dict(passes)

    def hit(name: str) -> None:
        if name in left:
            left[name] -= 1
            if left[name] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return hit


hit: Callable[[str], None] = _counting(parse(os.environ[VARIABLE])) if os.environ.get(VARIABLE) else _never
"""Pass the failpoint `name`; chosen when this module is imported."""
