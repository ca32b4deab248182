"""The demo as a user runs it, short and on the embedded broker: what it prints, that it is clean, and that it leaves nothing running."""

import io
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from rich.console import Console

import cli
from commonplace.core.records.decisions import Decision, Explanation, Miss, Position
from commonplace.ops.demo import Frame, Plan, _Lines
from commonplace.ops.demo_load import arrivals
from commonplace.ops.demo_view import BLOCKS, EMPTY, Plain, Terminal, grouped, strip
from commonplace.ops.stack_process import Process
from commonplace.settings import Settings

SHORT = ("--hosts", "30", "--rate", "60", "--seconds", "3")
STARTED_TIMEOUT_S = 90.0


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start_demo() -> Iterator[Start]:
    """Starts demos; whatever a failed test left running is interrupted, as a user would."""
    demos: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> "subprocess.Popen[str]":
        demos.append(cli.start("demo", *SHORT, *arguments))
        return demos[-1]

    yield start
    for demo in demos:
        if demo.poll() is None:
            demo.send_signal(signal.SIGINT)
            demo.communicate(timeout=40)


def said(demo: "subprocess.Popen[str]", word: str) -> str:
    """Read stderr until a line begins so."""
    assert demo.stderr is not None
    while line := demo.stderr.readline():
        if line.startswith(word):
            return line
    raise AssertionError(f"the demo ended before it said {word!r}")


def test_the_load_of_an_earlier_demo_in_the_same_directory_is_not_listened_to(tmp_path: Path) -> None:
    log = tmp_path / "load.log"
    log.write_text('{"load":"done","full":{}}\n')
    process = Process("load", ("--version",), log, dict(os.environ), port=0)
    lines = _Lines(process)
    process.wait(30)
    with log.open("a") as file:
        file.write('{"load":"progress"}\n')
    assert list(lines.new()) == [{"load": "progress"}]


def test_demo_off_a_terminal_prints_plain_lines_a_refusal_and_a_clean_audit(start_demo: Start, tmp_path: Path) -> None:
    demo = start_demo("--work-dir", str(tmp_path))
    out, err = demo.communicate(timeout=STARTED_TIMEOUT_S)
    assert demo.returncode == 0, err
    lines = out.splitlines()
    assert lines[0].startswith("no valid host for r-")
    assert lines[0].endswith("(demo.giant × 1): 0 of 30 hosts")
    assert any("traits" in line for line in lines)
    assert any("capacity" in line and "most free" in line for line in lines)
    assert any(line.startswith("closest: host-") for line in lines)
    assert "audit               clean" in lines
    assert "embedded broker, not Kafka" in lines[lines.index("") + 1]
    assert "starting: embedded broker, not Kafka, 30 hosts, 2 replicas" in err
    assert "decisions/s" in err
    assert "\x1b" not in out + err
    assert {path.stem for path in tmp_path.iterdir()} >= {"broker", "fleet", "r1", "r2", "load"}


def test_demo_as_json_is_one_object_with_the_names_of_replay(start_demo: Start) -> None:
    demo = start_demo("-o", "json", "--replicas", "1", "--hosts", "6")  # so few that they fill up
    out, err = demo.communicate(timeout=STARTED_TIMEOUT_S)
    assert demo.returncode == 0, err
    told = json.loads(out)
    wanted = {"requests", "placed", "refused", "decisions_per_s", "latency_ms", "conflict_fraction", "hosts_used"}
    assert wanted | {"packing", "audit", "reasons", "confirmed", "released", "unanswered"} <= set(told)
    assert set(told["latency_ms"]) == {"p50", "p90", "p99"}
    assert told["requests"] == told["placed"] + told["refused"]
    assert told["placed"] > 60
    assert told["refused"] >= 1
    assert told["unanswered"] == 0
    assert 0 < told["hosts_used"] <= told["hosts"] == 6
    named = {"at_first_refusal", "at_end", "hosts_empty", "reported_share", "stranded_share", "stranded_for"}
    assert set(told["packing"]) == named  # as in docs/replay.md
    assert told["packing"]["at_end"]["VCPU"] > 0
    assert told["packing"]["at_end"] == told["packing"]["reported_share"]
    first = told["packing"]["at_first_refusal"]
    assert 1 < first["request_number"] < told["requests"]
    assert 0 < first["allocated_share"]["VCPU"] <= 1
    assert told["audit"]["audit"] == "clean"
    assert told["refusal"]["result"] == "no_valid_host"
    assert told["broker"] == "embedded broker, not Kafka"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing_running(start_demo: Start, number: signal.Signals) -> None:
    demo = start_demo("--seconds", "60")
    said(demo, "  ")  # the first figures: all of it runs
    children = psutil.Process(demo.pid).children(recursive=True)
    programs = {" ".join(child.cmdline()[3:5]) for child in children}
    assert {"broker --embedded", "fleet --hosts", "scheduler --name", "demo-load --rate"} <= programs
    demo.send_signal(number)
    _, err = demo.communicate(timeout=40)
    assert demo.returncode == 130
    assert "Traceback" not in err
    _, alive = psutil.wait_procs(children, timeout=10)
    assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []


def test_an_interrupt_while_it_starts_leaves_nothing_running(start_demo: Start) -> None:
    demo = start_demo()
    said(demo, "starting:")
    until = time.monotonic() + 30
    while not (children := psutil.Process(demo.pid).children(recursive=True)) and time.monotonic() < until:
        time.sleep(0.02)
    demo.send_signal(signal.SIGINT)
    demo.communicate(timeout=40)
    assert demo.returncode == 130
    _, alive = psutil.wait_procs(children, timeout=10)
    assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []


def test_a_shape_that_cannot_be_meant_is_told_before_anything_starts() -> None:
    cli.assert_one_line(cli.run("demo", "--shape", "nonsense"), 2, "nonsense")
    cli.assert_one_line(cli.run("demo", "-b", "127.0.0.1:1"), 2, "leave out -b")


def test_the_load_is_hidden_from_help() -> None:
    assert "demo-load" not in cli.run("--help").stdout
    assert "demo " in cli.run("--help").stdout


# --- the pieces --------------------------------------------------------------------------------------------------------

REFUSAL = Decision(
    request="r-7",
    result="no_valid_host",
    position=Position(0, 1),
    flavor="demo.giant",
    explanation=Explanation(
        evaluated=4,
        filters={"traits": 3, "capacity": 1},
        closest=Miss(host="host-4", filter="capacity", resource="VCPU", needed=9, had=4),
    ),
)


def frame(**fields: object) -> Frame:
    progress = {"placed": 7, "refused": 1, "released": 2, "conflicts": 1, "granted": 4, "p50_ms": 3.25, "p99_ms": None}
    plain = {
        "elapsed_s": 1.0,
        "shares": [0.0, 0.5, 1.0],
        "builds": 2,
        "instances": 5,
        "used": {"VCPU": 0.5},
        "decisions_per_s": 120.0,
        "progress": progress,
        "refusal": REFUSAL,
    }
    return Frame(**{**plain, **fields})  # type: ignore[arg-type]


def test_the_strip_shows_each_host_as_full_as_it_is() -> None:
    assert strip([0.0, 0.01, 0.5, 1.0], 10).plain == EMPTY + BLOCKS[0] + BLOCKS[4] + BLOCKS[7]
    assert strip([0.0] * 25, 10).plain.splitlines() == [EMPTY * 10, EMPTY * 10, EMPTY * 5]


def test_many_hosts_share_cells_and_none_is_left_out() -> None:
    assert grouped([0.0, 1.0, 0.5, 0.5, 1.0], 3) == [0.5, 0.5, 1.0]
    assert len(grouped([0.1] * 10_000, 640)) <= 640
    assert grouped([], 10) == []


def test_the_live_view_draws_hosts_figures_and_the_refusal() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=110, height=40)
    with Terminal(Plan(settings=Settings()), console) as screen:
        screen.stage("starting")
        screen.frame(frame())
    drawn = out.getvalue()
    for part in ("embedded broker, not Kafka", "120 decisions/s", "7 placed, 2 refused", "p50 3.2 ms, p99 –", "host-4"):
        assert part in drawn


def test_plain_lines_come_every_two_seconds_and_tell_the_refusal_once() -> None:
    lines: list[str] = []
    screen = Plain(lines.append)
    for elapsed_s in (1.0, 1.25, 2.5, 3.5):
        screen.frame(frame(elapsed_s=elapsed_s))
    assert len(lines) == 3
    assert lines[0].startswith("no valid host for r-7")
    assert "hosts used 2 of 3 (VCPU 50%)" in lines[1]


def test_the_same_seed_asks_for_the_same_at_the_rate_named() -> None:
    first, again = list(arrivals(100, 5, seed=1)), list(arrivals(100, 5, seed=1))
    assert first == again
    assert 350 < len(first) < 650
    assert len({arrival.id for arrival in first}) == len(first)
    assert any(arrival.lifetime_s for arrival in first)
    assert first != list(arrivals(100, 5, seed=2))[: len(first)]
