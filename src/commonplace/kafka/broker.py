"""A local Apache Kafka: one node on loopback, run from Maven artifacts on Java, for development and tests.

data_dir/
  server.properties   written at every start
  data/               Kafka's own; formatted once
  broker.log          what the JVM said, appended
"""

import atexit
import base64
import fcntl
import logging
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from commonplace.kafka.jars import BrokerError, ensure_jars
from commonplace.kafka.java import find_java
from commonplace.kafka.ports import free_port, is_free, require_free

# A start takes 2.4 s on an idle machine; a loaded two-core one has been seen to need ten times that.
START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 20.0
PROBE_INTERVAL_S = 0.05
PROBE_TIMEOUT_S = 2.0

# Serial GC pauses 11-13 ms, G1 7, Parallel with two threads 2-3.5: pauses rule the p99 of a small broker.
JAVA_OPTIONS = ("-Xms256m", "-Xmx512m", "-XX:+UseParallelGC", "-XX:ParallelGCThreads=2")

# Loopback, one node: whatever is replicated by default has to be told not to. One network and one I/O thread save
# 16-20 % of a small broker's CPU. No delay before a group's first rebalance, or every consumer test waits 3 s.
PROPERTIES: Mapping[str, str] = {
    "node.id": "1",
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "num.network.threads": "1",
    "num.io.threads": "1",
    # A killed broker can register again only when its last session has run out; the default of 9 s would be waited
    # for at every restart after a kill (measured: 12.4 s, with 4 s half of it).
    "broker.session.timeout.ms": "4000",
    "broker.heartbeat.interval.ms": "1000",
    "auto.create.topics.enable": "false",
    "group.initial.rebalance.delay.ms": "0",
    "offsets.topic.num.partitions": "4",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
}


class DataInUse(BrokerError):
    """Another broker runs on that data directory."""


class StartFailed(BrokerError):
    """The broker ended or did not answer while starting; the message names its log."""


class LocalBroker:
    """One Kafka node on 127.0.0.1 with a data directory of its own; not thread-safe.

    Without `data_dir` its data lives in a temporary directory that `close` removes; without `port` a free one is
    chosen, once, so that a restart keeps the address. `java_options` and `properties` are added last and win.
    It is killed when the process that started it ends, however that ends.
    """

    def __init__(
        self,
        data_dir: Path | None = None,
        port: int | None = None,
        java_options: Sequence[str] = (),
        properties: Mapping[str, str] | None = None,
    ) -> None:
        self._temporary = data_dir is None
        self.data_dir = data_dir.absolute() if data_dir else Path(tempfile.mkdtemp(prefix="commonplace-kafka-"))
        self.port = port or free_port()
        self.log_path = self.data_dir / "broker.log"
        self._java_options = tuple(java_options)
        self._properties = dict(properties or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        """The address for clients, HOST:PORT; the same over restarts."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The JVM's process id. Raises BrokerError while it does not run."""
        return self._running().pid

    @property
    def alive(self) -> bool:
        """Whether the JVM runs; a paused one does."""
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def start(self) -> None:
        """Start and block until a metadata request is answered; data that is there is kept.

        Raises JavaMissing, JavaTooOld, PortInUse, DataInUse, StartFailed, and what `ensure_jars` raises.
        """
        if self.alive:
            raise BrokerError(f"the broker on {self.bootstrap} runs already (pid {self.pid}): stop it first")
        java = find_java()
        classpath = f"{ensure_jars()}/*"
        require_free(self.port)
        self.data_dir.mkdir(parents=True, exist_ok=True)
        with (self.data_dir / "lock").open("w") as lock:
            self._lock(lock)
            self._write_properties()
            if not (self.data_dir / "data" / "meta.properties").exists():
                self._format(java, classpath)
            self._process = self._spawn(java, classpath, lock)
        atexit.register(self.kill)
        self._watchdog = _watch(self._process.pid, self.data_dir if self._temporary else None)
        try:
            self._await_ready()
        except BaseException:
            self.kill()
            raise

    def stop(self, timeout: float = STOP_TIMEOUT_S) -> None:
        """End the JVM with SIGTERM and wait; past `timeout` seconds with SIGKILL. A stopped broker is left as it is."""
        if self._process is None:
            return
        if self.alive:
            self._process.send_signal(signal.SIGCONT)  # a paused one would not hear the next signal
            self._process.terminate()
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._reap()

    def kill(self) -> None:
        """End the JVM with SIGKILL, as a power cut would, and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._reap()

    def pause(self) -> None:
        """Stop the JVM where it stands (SIGSTOP): connections stay open, nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused JVM go on (SIGCONT)."""
        os.kill(self.pid, signal.SIGCONT)

    def restart(self) -> None:
        """Stop, if it runs, and start on the same data and port; blocks as `start` does."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop, and remove the data if it was temporary."""
        self.stop()
        if self._temporary:
            shutil.rmtree(self.data_dir, ignore_errors=True)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            raise BrokerError(f"the broker on {self.bootstrap} does not run: start it; its log is {self.log_path}")
        return self._process

    def _reap(self) -> None:
        assert self._process is not None
        # The watchdog goes first: while the JVM is not waited for, its pid can't belong to anybody else.
        if self._watchdog is not None:
            self._watchdog.kill()
            self._watchdog.communicate()
            self._watchdog = None
        self._process.wait()
        self._process = None
        atexit.unregister(self.kill)

    def _lock(self, lock: IO[str]) -> None:
        """Two brokers on one data directory ruin it: Kafka's own lock comes after its quorum has begun to write."""
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataInUse(f"another broker uses {self.data_dir}: stop it, or choose another --data-dir") from None

    def _spawn(self, java: str, classpath: str, lock: IO[str]) -> subprocess.Popen[bytes]:
        command = [java, *JAVA_OPTIONS, *self._java_options, "-Dorg.slf4j.simpleLogger.showDateTime=true"]
        command += ["-cp", classpath, "kafka.Kafka", "server.properties"]
        with self.log_path.open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=self.data_dir,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # The lock goes with the JVM: it is held for as long as that lives, whatever becomes of us.
                pass_fds=(lock.fileno(),),
                # A session of its own: Ctrl-C on the terminal reaches us, and we decide in which order things stop.
                start_new_session=True,
            )

    def _write_properties(self) -> None:
        path = self.data_dir / "server.properties"
        controller = self._controller_port(path)
        properties = {
            **PROPERTIES,
            "listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap}",
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller}",
            # Relative to the directory that it runs in: this file is read as Latin-1, and a comma would begin another.
            "log.dirs": "data",
            **self._properties,
        }
        path.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))

    def _controller_port(self, path: Path) -> int:
        """Keep the controller's port over restarts where it is free: voters are stored with their address."""
        if path.exists():
            known = re.search(r"^controller\.quorum\.bootstrap\.servers=127\.0\.0\.1:(\d+)$", path.read_text(), re.M)
            if known and is_free(int(known[1])) and int(known[1]) != self.port:
                return int(known[1])
        return free_port(taken=self.port)

    def _format(self, java: str, classpath: str) -> None:
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
        command = [java, "-XX:TieredStopAtLevel=1", "-cp", classpath, "kafka.tools.StorageTool", "format"]
        # `-t=` in one word: a cluster id may begin with a dash.
        command += ["--standalone", f"-t={cluster_id}", "-c", "server.properties"]
        try:
            done = subprocess.run(
                command, cwd=self.data_dir, capture_output=True, text=True, timeout=START_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise StartFailed(
                f"Kafka did not format {self.data_dir} within {START_TIMEOUT_S:g} s: see what else this machine and its disk do"
            ) from None
        with self.log_path.open("a") as log:
            log.write(done.stdout + done.stderr)
        if done.returncode != 0:
            raise StartFailed(f"Kafka could not format {self.data_dir} (exit {done.returncode}): {self._last_words()}")

    def _await_ready(self) -> None:
        process = self._running()
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise StartFailed(f"Kafka ended while starting (exit {process.returncode}): {self._last_words()}")
            if not is_free(self.port) and answers(self.bootstrap):
                return
            time.sleep(PROBE_INTERVAL_S)
        raise StartFailed(
            f"Kafka did not answer on {self.bootstrap} within {START_TIMEOUT_S:.0f} s: {self._last_words()}"
        )

    def _last_words(self) -> str:
        with self.log_path.open(errors="replace") as log:
            lines = deque((line.strip() for line in log if line.strip()), maxlen=200)
        telling = [line for line in lines if re.search(r"ERROR|FATAL|Exception|Error:", line)] or list(lines)
        cause = [line for line in telling if re.search(r"Exception|Error:", line)]  # stands below the complaint, mostly
        words = [line[:300] for line in dict.fromkeys([*telling[:1], *cause[:1]])]
        return f"{': '.join(words) or 'it said nothing'}; more in {self.log_path}"


def answers(bootstrap: str, timeout: float = PROBE_TIMEOUT_S) -> bool:
    """Return whether a Kafka broker answers a metadata request there within `timeout` seconds."""
    silent = logging.Logger("probe", level=logging.CRITICAL + 1)  # a refused connection is an answer, not news
    client = AdminClient({"bootstrap.servers": bootstrap, "socket.timeout.ms": 1000}, logger=silent)
    try:
        return bool(client.list_topics(timeout=timeout).brokers)
    except KafkaException:
        return False


def _watch(pid: int, temporary: Path | None) -> subprocess.Popen[bytes]:
    """Start a process that kills `pid` when we end: it waits on a pipe whose other end only we hold."""
    script = 'read -r _; kill -KILL "$1"; if [ -n "$2" ]; then rm -rf -- "$2"; fi'
    return subprocess.Popen(
        ["/bin/sh", "-c", script, "watchdog", str(pid), str(temporary or "")],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
