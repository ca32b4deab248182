"""One process of a local system: the command line's own, with its log and its health; it ends with us at the latest."""

import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Final

from commonplace.errors import CommonplaceError

STOP_TIMEOUT_S: Final = 15.0
"""What a scheduler gets to settle and commit before it is killed; it needs well under one."""

PROBE_TIMEOUT_S: Final = 2.0
LAST_LINES: Final = 8

_ENTRY: Final = (sys.executable, "-c", "import sys; from commonplace.cli.main import main; sys.exit(main())")


class StackError(CommonplaceError):
    """A process of the stack did not start, or ended by itself; the message holds the last lines of its log."""


class Process:
    """One process of the stack: its log, what it says there from byte `said_from` on, and the port of its health and metrics (0: none)."""

    def __init__(self, name: str, arguments: Sequence[str], log: Path, environ: Mapping[str, str], port: int) -> None:
        self.name = name
        self.log = log
        self.port = port
        with log.open("ab") as sink:
            self.said_from = sink.tell()  # before it stands what an earlier run in the same directory said
            # A session of its own: Ctrl-C on the terminal reaches us, and we decide in which order things stop.
            self.popen = subprocess.Popen(
                [*_ENTRY, *arguments],
                env=dict(environ),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )
        self._watchdog = watch(self.popen.pid)

    @property
    def http(self) -> str:
        """HOST:PORT of health and metrics."""
        return f"127.0.0.1:{self.port}"

    def running(self) -> bool:
        """Whether it has not ended; a paused one runs."""
        return self.popen.poll() is None

    def require_running(self) -> None:
        """StackError with the last lines of the log when it has ended."""
        code = self.popen.poll()
        if code is not None:
            raise StackError(f"{self.name} ended by itself ({_exit(code)}); its log {self.log} ends:\n{tail(self.log)}")

    def ready(self) -> bool:
        """Whether /readyz answers 200 now."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=PROBE_TIMEOUT_S)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()

    def signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.running():
            self.popen.send_signal(number)

    def kill(self) -> None:
        """End it as a power cut would, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        self.wait(STOP_TIMEOUT_S)

    def wait(self, timeout_s: float) -> None:
        """Wait for its end; past `timeout_s` end it."""
        try:
            self.popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
        # While a child is not waited for, its pid can't belong to anybody else; after that its watchdog must not act.
        self._watchdog.kill()
        self._watchdog.communicate()


def tail(log: Path, lines: int = LAST_LINES) -> str:
    """The last lines of a log, indented."""
    try:
        text = log.read_text(errors="replace")
    except FileNotFoundError:
        text = ""
    last = [line for line in text.splitlines() if line.strip()][-lines:]
    return "\n".join(f"    {line}" for line in last) or "    (it said nothing)"


def watch(pid: int) -> subprocess.Popen[bytes]:
    """Start a process that ends `pid` when we end: it waits on a pipe whose other end only we hold."""
    script = 'read -r _; kill -CONT "$1"; kill -TERM "$1"'
    return subprocess.Popen(
        ["/bin/sh", "-c", script, "watchdog", str(pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _exit(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit {code}"
