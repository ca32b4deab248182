"""Failpoints kill their own process at the pass named, and nothing where none is set."""

import signal
import subprocess
import sys

import pytest

from commonplace import failpoints
from commonplace.errors import SettingsError

PROGRAM = "from commonplace.failpoints import hit\nfor n in range(5): hit('after_rank'); print(n, flush=True)"


def run(setting: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={"COMMONPLACE_FAILPOINTS": setting},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize(
    ("setting", "passed"), [("after_rank:3", 2), ("after_rank", 0), ("before_report:1,after_rank:5", 4)]
)
def test_the_process_is_killed_at_the_pass_named(setting: str, passed: int) -> None:
    ended = run(setting)
    assert ended.returncode == -signal.SIGKILL
    assert len(ended.stdout.split()) == passed


def test_other_failpoints_are_passed() -> None:
    assert run("before_report:1").returncode == 0


@pytest.mark.parametrize("text", ["after_lunch", "after_rank:0", "after_rank:x", "after_rank:-1"])
def test_a_failpoint_that_nobody_passes_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="COMMONPLACE_FAILPOINTS"):
        failpoints.parse(text)


def test_none_set_costs_an_empty_call() -> None:
    assert failpoints.hit is failpoints._never
