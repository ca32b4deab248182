"""The processes of a run: started with links of their own, killed, paused, and started again when they end.

A target that somebody is at work on is busy; nobody else touches it until it is free again.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from chaos_real.plan import AGENTS, FRONTENDS, REPLICAS
from commonplace.core.records.control import Flavor
from commonplace.errors import ExitCode
from commonplace.ops.stack import Stack
from commonplace.ops.stack_process import Process, tail, watch
from commonplace.settings import Settings

RESTART_S: Final = 0.5
READY_S: Final = 90.0
FENCED: Final = int(ExitCode.DENIED)
BOOTSTRAP: Final = "COMMONPLACE__KAFKA__BOOTSTRAP_SERVERS"
PORT_TAKEN: Final = "cannot listen"
EXPECTED: Final = {int(ExitCode.TIMED_OUT), int(ExitCode.NOT_READY)}
"""How a component may end by itself while its broker is away: its supervisor tries anew."""


# until its handler is set, the signal that asks for a burst would end it
_DEAF: Final = ("/bin/sh", "-c", 'trap "" USR1; exec "$@"', "deaf")


class Client(Process):
    """A frontend's process: no command of the command line, and no port."""

    def __init__(self, name: str, arguments: list[str], log: Path, environ: Mapping[str, str]) -> None:
        self.name, self.log, self.port = name, log, 0
        with log.open("ab") as sink:
            self.popen = subprocess.Popen(
                [*_DEAF, sys.executable, "-m", "chaos_real", "frontend", *arguments],
                env=dict(environ),
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )
        self._watchdog = watch(self.popen.pid)

    def ready(self) -> bool:
        """A client serves nobody."""
        return self.running()


class Cast(Stack):
    """Replicas, a fleet, agents and frontends, each over a link of its own; `links` are ports by name."""

    def __init__(
        self,
        bootstrap: str,
        settings: Settings,
        work_dir: Path,
        links: Mapping[str, int],
        flavors: list[Flavor],
        clients: Mapping[str, list[str]],
        agents: Mapping[str, Path],
        hosts: int,
        shape: str,
    ) -> None:
        super().__init__(
            hosts=hosts,
            shape=shape,
            boot_s=0.2,
            bootstrap=bootstrap,
            settings=settings,
            flavors=flavors,
            work_dir=work_dir,
        )
        self._links, self._clients, self._agents = links, clients, agents
        self._busy: set[str] = set()
        self._lock = threading.Lock()
        self._since: dict[str, float] = {}
        self.exits: Counter[str] = Counter()  # "who: how" of those that ended by themselves
        self.problems: list[str] = []
        self.second: list[Process] = []  # older of two agents for the same hosts, that must end by themselves
        self.stopping = False

    # -- starting ---------------------------------------------------------------------------------------------------------

    def begin(self, name: str, environ: Mapping[str, str] | None = None) -> Process:
        """Start a process; it need not be ready when this returns."""
        if name in FRONTENDS:
            process: Process = self._client(name, environ or {})
        elif name == "fleet":
            process = self.start_fleet(wait=False, environ=environ)
        elif name in AGENTS:
            arguments = ("agent", "--name", name, "--driver", "static", "--file", str(self._agents[name]))
            process = self._serve(name, *arguments, wait=False, environ=environ)
        else:
            process = self.start_scheduler(name, wait=False, environ=environ)
        self._since[name] = time.monotonic()
        return process

    def _spawn(self, name: str, *arguments: str, port: int = 0, environ: Mapping[str, str] | None = None) -> Process:
        return super()._spawn(name, *arguments, port=port, environ={**self._way(name), **(environ or {})})

    def _client(self, name: str, environ: Mapping[str, str]) -> Process:
        paths = [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
        here = {**self.environ, **self._way(name), **environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        process = Client(name, self._clients[name], self.work_dir / f"{name}.log", here)
        self.processes[name] = process
        return process

    def _way(self, name: str) -> dict[str, str]:
        return {BOOTSTRAP: f"127.0.0.1:{self._links[name]}"} if name in self._links else {}

    # -- ending -----------------------------------------------------------------------------------------------------------

    def end_with(self, name: str, number: int, timeout_s: float = 20.0) -> int:
        """End a process with a signal, and forget it; returns its exit code."""
        process = self.processes.pop(name)
        process.signal(number)
        process.wait(timeout_s)
        return int(process.popen.returncode)

    def stop(self) -> None:
        """Stop everything, elders too."""
        for elder in self.second:
            elder.kill()
        self.second.clear()
        super().stop()

    def forget(self, name: str) -> Process:
        """Leave a process to itself: another takes its name."""
        return self.processes.pop(name)

    def gone(self, name: str, within_s: float) -> int | None:
        """The exit code of a process that ends by itself, None if it does not in time."""
        process = self.processes[name]
        try:
            code = process.popen.wait(within_s)
        except subprocess.TimeoutExpired:
            return None
        del self.processes[name]
        process.wait(0)
        return int(code)

    # -- supervision ------------------------------------------------------------------------------------------------------

    @contextmanager
    def busy(self, *targets: str) -> Iterator[bool]:
        """Take the targets for oneself; False, and none is taken, if one is busy."""
        with self._lock:
            free = not self._busy & set(targets)
            if free:
                self._busy |= set(targets)
        try:
            yield free
        finally:
            if free:
                with self._lock:
                    self._busy -= set(targets)

    def supervise(self) -> None:
        """Start again what has ended by itself, and note how it ended."""
        for name in (*REPLICAS, *AGENTS, *FRONTENDS):
            with self.busy(name) as mine:
                if mine:
                    self._look_after(name)
        for older in list(self.second):
            if not older.running():
                older.wait(0)
                self.second.remove(older)
                self._note("second agent's elder", older.popen.returncode, {FENCED, *EXPECTED})

    def _look_after(self, name: str) -> None:
        process = self.processes.get(name)
        if process is not None and process.running():
            return
        if process is not None:
            del self.processes[name]
            process.wait(0)
            may = {*EXPECTED, FENCED} if name in AGENTS else EXPECTED
            if PORT_TAKEN in tail(process.log, 1):  # somebody else on this machine was faster: no fault of ours
                may = {*may, int(ExitCode.ERROR)}
            self._note(name, int(process.popen.returncode), may)
        elif time.monotonic() - self._since.get(name, 0.0) < RESTART_S:
            return
        if not self.stopping or name not in FRONTENDS:
            self.begin(name)

    def _note(self, name: str, code: int, may: set[int]) -> None:
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit {code}"
        self.exits[f"{name}: {how}"] += 1
        if code not in may:
            log = self.work_dir / f"{name}.log"
            self.problems.append(f"{name} ended by itself ({how}); its log {log.name} ends:\n{tail(log)}")

    def not_ready(self) -> str:
        """Who does not serve now; "" if everybody does."""
        names = self.not_ready_among((*REPLICAS, *AGENTS))
        return f"not ready: {', '.join(names)}" if names else ""

    def not_ready_among(self, names: Sequence[str]) -> list[str]:
        """Who of them does not serve now."""
        return [n for n in names if (process := self.processes.get(n)) is None or not process.ready()]

    def begun(self, name: str) -> float:
        """When the process was started last, on the monotonic clock."""
        return self._since.get(name, 0.0)

    def tracebacks(self) -> list[str]:
        """The logs that hold a traceback, with its last line: a component met something nobody had thought of."""
        found = []
        for log in sorted(self.work_dir.glob("*.log")):
            lines = log.read_text(errors="replace").splitlines()
            for at, line in enumerate(lines):
                if "Traceback (most recent call last)" in line:
                    end = next((x for x in lines[at + 1 :] if x and not x.startswith((" ", "\t"))), "")
                    # a signal that comes while Python imports is told so, and ignored, by Python itself
                    if not end.startswith("KeyboardInterrupt"):
                        found.append(f"{log.name}: {end[:300] or line[-300:]}")
        return found


def is_root() -> bool:
    """Whether this process may mount."""
    return hasattr(os, "geteuid") and os.geteuid() == 0
