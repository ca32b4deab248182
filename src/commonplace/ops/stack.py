"""A local system as separate processes, for the demo, replays, benchmarks and tests.

    broker ▸ topics ▸ fleet ▸ schedulers        started in this order, each waited for; stopped in the other

Each process is the command line's own (`commonplace fleet …`) and writes its log into one directory. They end with the
process that started them, however that ends.
"""

import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from commonplace.core.records.control import Flavor
from commonplace.kafka.control import put_flavors
from commonplace.kafka.ports import free_port
from commonplace.ops.stack_environ import settings_environ
from commonplace.ops.stack_process import STOP_TIMEOUT_S, Process, StackError, tail
from commonplace.settings import VARIABLE_PREFIX, Settings, load

START_TIMEOUT_S: Final = 120.0
"""A broker takes 3 s on an idle machine and has been seen to need 25 on a loaded one; a large fleet comes on top."""

PROBE_INTERVAL_S: Final = 0.05

_ENDING: Final = (signal.SIGINT, signal.SIGTERM)


class Stack:
    """A broker, its topics, a fleet of simulated hosts and replicas; a context manager, for one thread.

    `kafka` False takes the embedded broker, which is not Kafka. `bootstrap` names a broker that runs already: then none
    is started. 0 `hosts`: no fleet; 0 `replicas`: none yet. `first` numbers the first host, so that pools on one broker
    have hosts of their own names. `flavors` are written before anything serves. `settings` hold for all processes and for
    `stack.settings`, which clients use; of its [kafka] table only a named broker's is kept. `environ`
    (COMMONPLACE__SECTION__KEY) comes on top. Logs go to `work_dir`; without one they are removed at a clean end or an
    interrupt, and kept after a failure.
    """

    def __init__(
        self,
        *,
        hosts: int,
        replicas: int = 2,
        kafka: bool = False,
        shape: str = "",
        first: int = 1,
        boot_s: float = 0.0,
        failure_rate: float = 0.0,
        bootstrap: str = "",
        flavors: Sequence[Flavor] = (),
        settings: Settings | None = None,
        environ: Mapping[str, str] | None = None,
        work_dir: Path | None = None,
    ) -> None:
        assert hosts >= 0, f"{hosts} hosts"
        assert replicas >= 0, f"{replicas} replicas"
        self.processes: dict[str, Process] = {}
        self.bootstrap = bootstrap
        self._hosts, self._replicas, self._kafka = hosts, replicas, kafka
        self._shape, self._first, self._boot_s, self._failure_rate = shape, first, boot_s, failure_rate
        self._flavors = tuple(flavors)
        self._base = settings or Settings()
        self._extra = dict(environ or {})
        self._temporary = work_dir is None
        self._work_dir = work_dir

    @property
    def work_dir(self) -> Path:
        """Where the logs go; a temporary directory is made when it is first asked for."""
        if self._work_dir is None:
            self._work_dir = Path(tempfile.mkdtemp(prefix="commonplace-stack-"))
        self._work_dir.mkdir(parents=True, exist_ok=True)
        return self._work_dir

    @property
    def environ(self) -> dict[str, str]:
        """The environment of the processes: ours, with the stack's settings instead of our own."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(VARIABLE_PREFIX)}
        kept.pop("COMMONPLACE_CONFIG", None)
        return {**kept, **settings_environ(self._base, self.bootstrap), **self._extra}

    @property
    def settings(self) -> Settings:
        """The settings that the processes run with, for a client of the same system."""
        return load(environ=self.environ)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException as e:
            self.__exit__(type(e), e, e.__traceback__)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()
        if self._temporary and (error is None or isinstance(error, KeyboardInterrupt)):
            shutil.rmtree(self.work_dir, ignore_errors=True)

    def start(self) -> None:
        """Start everything and block until it serves; StackError names what did not, and why."""
        if not self.bootstrap:
            self.bootstrap = self._start_broker()
            create_topics = self._kafka  # the embedded broker makes its own
        else:
            create_topics = True
        if create_topics:
            self._run_once("topics", "topics", "create")
        if self._flavors:
            put_flavors(self.settings, *self._flavors)
        if self._hosts:
            self.start_fleet()
        for number in range(1, self._replicas + 1):
            self.start_scheduler(f"r{number}", wait=False)
        for number in range(1, self._replicas + 1):
            self.await_ready(f"r{number}")

    def start_fleet(self, *, wait: bool = True, environ: Mapping[str, str] | None = None) -> Process:
        """Start the fleet and wait until all its hosts have reported; `environ` is added to the stack's."""
        arguments = ["--hosts", str(self._hosts), "--first", str(self._first), "--boot-s", str(self._boot_s)]
        arguments += ["--failure-rate", str(self._failure_rate)]
        arguments += ["--shape", self._shape] if self._shape else []
        return self._serve("fleet", "fleet", *arguments, wait=wait, environ=environ)

    def start_agent(
        self, name: str, file: Path, *, wait: bool = True, environ: Mapping[str, str] | None = None
    ) -> Process:
        """Start an agent for the hosts of an inventory file, and wait until all have reported; `environ` is added to the stack's."""
        arguments = ("agent", "--name", name, "--driver", "static", "--file", str(file))
        return self._serve(name, *arguments, wait=wait, environ=environ)

    def start_scheduler(self, name: str, *, wait: bool = True, environ: Mapping[str, str] | None = None) -> Process:
        """Start a replica of that name, also one that was killed before; `environ` is added to the stack's."""
        return self._serve(name, "scheduler", "--name", name, wait=wait, environ=environ)

    def check(self) -> None:
        """StackError when a process has ended that nobody stopped."""
        for process in self.processes.values():
            process.require_running()

    def await_ready(self, name: str) -> None:
        """Block until the process serves."""
        process = self.processes[name]
        deadline = time.monotonic() + START_TIMEOUT_S
        while not process.ready():
            process.require_running()
            if time.monotonic() > deadline:
                raise StackError(
                    f"{name} was not ready within {START_TIMEOUT_S:g} s; its log {process.log} ends:\n{tail(process.log)}"
                )
            time.sleep(PROBE_INTERVAL_S)

    def end(self, name: str) -> None:
        """Stop one process, SIGTERM first, and forget it."""
        process = self.processes.pop(name)
        process.signal(signal.SIGTERM)
        process.wait(STOP_TIMEOUT_S)

    def kill(self, name: str) -> None:
        """End one process with SIGKILL and forget it."""
        self.processes.pop(name).kill()

    def stop(self) -> None:
        """Stop everything that still runs: schedulers and fleet together, the broker when they are gone."""
        served = [process for name, process in self.processes.items() if name != "broker"]
        for process in served:
            process.signal(signal.SIGCONT)
            process.signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for process in served:
            process.wait(max(0.0, deadline - time.monotonic()))
        if "broker" in self.processes:
            self.processes["broker"].signal(signal.SIGTERM)
            self.processes["broker"].wait(2 * STOP_TIMEOUT_S)
        self.processes.clear()

    def _start_broker(self) -> str:
        kind = ("--port", str(free_port())) if self._kafka else ("--embedded",)
        broker = self._spawn("broker", "broker", *kind)
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            broker.require_running()
            if address := _first_address(broker):
                return address
            time.sleep(PROBE_INTERVAL_S)
        raise StackError(f"no broker within {START_TIMEOUT_S:g} s; its log {broker.log} ends:\n{tail(broker.log)}")

    def _serve(
        self, name: str, *arguments: str, wait: bool = True, environ: Mapping[str, str] | None = None
    ) -> Process:
        port = free_port()
        process = self._spawn(name, *arguments, "--http", f"127.0.0.1:{port}", port=port, environ=environ)
        if wait:
            self.await_ready(name)
        return process

    def _run_once(self, name: str, *arguments: str) -> None:
        process = self._spawn(name, *arguments)
        process.wait(START_TIMEOUT_S)
        del self.processes[name]
        if process.popen.returncode:
            process.require_running()

    def _spawn(self, name: str, *arguments: str, port: int = 0, environ: Mapping[str, str] | None = None) -> Process:
        assert name not in self.processes, f"{name} runs already"
        log = self.work_dir / f"{name}.log"
        with _uninterrupted():
            process = self.processes[name] = Process(name, arguments, log, {**self.environ, **(environ or {})}, port)
        return process


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """SIGINT and SIGTERM wait until the block is over: a process that was begun is then known, and its watchdog with it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def _first_address(broker: Process) -> str:
    """The line HOST:PORT that `commonplace broker` prints; its talk in the same log has spaces."""
    with broker.log.open("rb") as log:
        log.seek(broker.said_from)
        said = log.read().decode(errors="replace")
    for line in said.split("\n")[:-1]:
        host, colon, port = line.strip().rpartition(":")
        if colon and host and " " not in host and port.isdigit():
            return line.strip()
    return ""
