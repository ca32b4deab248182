"""Replay end to end: processes, real ledgers, and a clean audit."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from commonplace.cli.main import COMMANDS
from commonplace.ops.replay.samples import sample

needs_all_commands = pytest.mark.skipif(
    not {"fleet", "scheduler", "audit"} <= set(COMMANDS), reason="a command that the stack starts is not there"
)


def replay(trace: Path, form: str, *options: str) -> "subprocess.CompletedProcess[str]":
    program = "import sys; from commonplace.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "replay", str(trace), "--format", form, "-o", "json", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@needs_all_commands
@pytest.mark.timeout(300)
@pytest.mark.parametrize("form", ["azure-v1", "azure-2020", "csv"])
def test_a_trace_ends_with_every_request_decided_and_a_clean_audit(tmp_path: Path, form: str) -> None:
    (trace := tmp_path / "trace").write_text("\n".join(sample(form, 300)))
    done = replay(trace, form, "--hosts", "20", "--replicas", "2")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["requests"] == report["placed"] + report["refused"] == 300
    assert report["unanswered"] == 0
    assert report["confirmed"] == report["placed"]
    assert report["hosts"] == 20
    assert 1 <= report["hosts_used"] <= 20, report
    assert report["audit"]["audit"] == "clean"


@needs_all_commands
@pytest.mark.timeout(300)
def test_a_fleet_that_is_too_small_refuses_and_says_how_full_it_was(tmp_path: Path) -> None:
    (trace := tmp_path / "trace").write_text("\n".join(sample("huawei", 100)))
    done = replay(trace, "huawei", "--hosts", "1", "--host-shape", "16vcpu:64gb", "--replicas", "1")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["refused"] > 0
    assert all(reason.startswith("no_valid_host") for reason in report["reasons"])
    # partitions answer in any order, so the first refusal may be read before placements that came first
    assert report["packing"]["at_first_refusal"]["request_number"] >= 1
    assert 0 < report["packing"]["at_end"]["VCPU"] <= 1
    assert report["packing"]["at_end"] == report["packing"]["reported_share"]
    assert report["ignored"] == {"numa": 100}  # the one host reports no cells
    assert report["affinity_groups"]["asked"] >= report["affinity_groups"]["kept"] > 0
