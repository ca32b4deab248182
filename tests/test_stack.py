"""The stack of local processes: what it says when one does not start, and that it leaves none behind."""

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from commonplace.kafka.broker import answers
from commonplace.ops.stack import Stack
from commonplace.ops.stack_process import Process, StackError, tail


def gone(pid: int, timeout_s: float = 20.0) -> bool:
    """Whether the process ends in time; one that nobody waited for yet has ended too."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def test_a_stack_that_does_not_start_says_why_and_leaves_nothing_running(tmp_path: Path) -> None:
    stack = Stack(hosts=1, shape="nonsense", work_dir=tmp_path)
    with pytest.raises(StackError) as raised:
        stack.start()
    stack.stop()
    assert "fleet ended by itself (exit 2)" in str(raised.value)
    assert str(tmp_path / "fleet.log") in str(raised.value)
    assert "commonplace: " in str(raised.value)
    assert stack.processes == {}
    assert not answers(stack.bootstrap, timeout=0.5)


def test_an_entered_stack_that_does_not_start_is_stopped_and_keeps_its_logs(tmp_path: Path) -> None:
    stack = Stack(hosts=1, shape="nonsense", work_dir=tmp_path)
    with pytest.raises(StackError), stack:
        pass
    assert stack.processes == {}
    assert (tmp_path / "broker.log").read_text().startswith(stack.bootstrap)


def test_what_an_earlier_run_left_in_the_same_directory_is_not_taken_for_this_ones(tmp_path: Path) -> None:
    (tmp_path / "broker.log").write_text("127.0.0.1:1\nembedded broker: stop with Ctrl-C\n")
    with Stack(hosts=0, replicas=0, work_dir=tmp_path) as stack:
        assert stack.bootstrap != "127.0.0.1:1"
        assert answers(stack.bootstrap)
    assert (tmp_path / "broker.log").read_text().startswith("127.0.0.1:1\n")


@pytest.mark.parametrize("interrupted", ["start_fleet", "await_ready"])
def test_an_interrupted_start_leaves_no_logs(interrupted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    stack = Stack(hosts=1)
    monkeypatch.setattr(stack, interrupted, interrupt)
    with pytest.raises(KeyboardInterrupt), stack:
        pass
    assert stack.processes == {}
    assert list(tmp_path.glob("commonplace-stack-*")) == []


def test_a_start_that_failed_keeps_its_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(StackError), Stack(hosts=1, shape="nonsense"):
        pass
    assert [path.name for path in tmp_path.glob("commonplace-stack-*/fleet.log")] == ["fleet.log"]


def test_a_process_that_died_is_noticed_with_its_signal(tmp_path: Path) -> None:
    stack = Stack(hosts=1, work_dir=tmp_path)
    process = Process("broker", ("broker", "--embedded"), tmp_path / "broker.log", stack.environ, port=0)
    stack.processes["broker"] = process
    stack.check()
    process.signal(signal.SIGKILL)
    process.popen.wait(20)
    with pytest.raises(StackError, match=r"broker ended by itself \(signal SIGKILL\)"):
        stack.check()
    stack.stop()


def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    program = f"""
import os, signal
from pathlib import Path
from commonplace.ops.stack import Stack
from commonplace.ops.stack_process import Process
log = Path({str(tmp_path / "broker.log")!r})
process = Process("broker", ("broker", "--embedded"), log, Stack(hosts=1).environ, port=0)
print(process.popen.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    started = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, timeout=60, check=False
    )
    assert started.returncode == -signal.SIGKILL
    assert gone(int(started.stdout))


def test_the_end_of_a_log_is_shown_without_blank_lines(tmp_path: Path) -> None:
    (tmp_path / "x.log").write_text("one\n\ntwo\nthree\n\n")
    assert tail(tmp_path / "x.log", 2) == "    two\n    three"
    assert tail(tmp_path / "missing.log") == "    (it said nothing)"
