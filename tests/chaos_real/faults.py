"""The injections, performed: each leaves what it touched as it found it, or starts it again."""

import random
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from chaos_real import garbage
from chaos_real.cast import Cast
from chaos_real.garbage import Bad
from chaos_real.ground import Disk
from chaos_real.plan import AGENTS, BROKER, BY_NAME, Injection
from chaos_real.proxy import Link, Proxy, Way
from chaos_real.scene import Scene
from chaos_real.topics import SILENT
from commonplace.failpoints import VARIABLE as FAILPOINTS
from commonplace.kafka.broker import LocalBroker
from commonplace.kafka.jars import BrokerError
from commonplace.kafka.topics import Topics
from e2e_world import BARE

CLOCK: Final = "COMMONPLACE_CLOCK_OFFSET_MS"
FAILPOINT_WAIT_S: Final = 25.0
ANSWER_S: Final = 3.0
"""A living agent has answered garbage under its own keys after this; until then nobody disturbs it."""

WRITE_S: Final = 10.0
HZ_10: Final = 0.05
SPOILT: Final = {"control": ("delete.retention.ms", "1000")}
"""What of a topic's settings is made wrong: for most a bound in bytes, which is far from reached."""


HOSTS_OF: Final = {"fleet": "host-", "a1": "a1-", "a2": "a2-"}
"""How the names of an agent's hosts begin."""


class Skipped(Exception):
    """The injection did not happen; the message says why."""


class Faults:
    """Performs injections on one run's processes, broker, links and topics; called from several threads."""

    def __init__(
        self, cast: Cast, broker: LocalBroker, disk: Disk, proxy: Proxy, names: Topics, scene: Scene, seed: int
    ) -> None:
        self._cast, self._broker, self._disk, self._proxy = cast, broker, disk, proxy
        self._names, self._scene, self._seed = names, scene, seed
        self._by_prefix: tuple[tuple[str, Callable[[Injection], None]], ...] = (
            ("broker", self._on_broker),
            ("link", self._on_link),
            ("garbage", self._write_garbage),
            ("requests repeated", self._write_requests),
            ("ids reused", self._write_requests),
            ("topic settings", self._change_settings),
            ("burst", self._burst),
            ("second agent", self._second_agent),
            ("", self._on_process),
        )

    def perform(self, injection: Injection) -> None:
        """Inject, hold, heal, on the target or, where somebody is at work on it, on another of its kind. Blocks.

        Raises `Skipped` when all are busy, or it can't be done here.
        """
        act = next(act for prefix, act in self._by_prefix if injection.kind.startswith(prefix))
        targets = BY_NAME[injection.kind].targets
        at = targets.index(injection.target)
        for target in (*targets[at:], *targets[:at]):
            there = msgspec.structs.replace(injection, target=target)
            with self._cast.busy(*self._targets(there)) as mine:
                if mine:
                    act(there)
                    return
        raise Skipped("busy")

    def _targets(self, injection: Injection) -> tuple[str, ...]:
        kind, target = injection.kind, injection.target
        if kind.startswith("link"):
            return (f"link {target}",)
        if kind == "garbage on hosts":
            # an agent that is dead can't answer for its keys, and compaction would take what it needs to start again
            agent = _answering(injection)
            return (BROKER, agent, f"link {agent}")
        if kind.startswith(("garbage", "requests", "ids")):
            return (BROKER, f"topic {target}")
        return (f"topic {target}",) if kind.startswith("topic") else (target,)

    # -- processes --------------------------------------------------------------------------------------------------------

    def _on_process(self, injection: Injection) -> None:
        name, kind = injection.target, injection.kind
        if name not in self._cast.processes or not self._cast.processes[name].running():
            raise Skipped("it does not run")
        if kind.endswith("killed"):
            self._cast.end_with(name, signal.SIGKILL)
            self._cast.begin(name)
        elif kind.endswith("stopped"):
            self._cast.end_with(name, signal.SIGTERM)
            self._cast.begin(name)
        elif "killed at" in kind:
            self._kill_at(name, kind.rpartition(" ")[2], injection.amount)
        elif "clock" in kind:
            self._cast.end_with(name, signal.SIGTERM)
            self._cast.begin(name, {CLOCK: str(injection.amount)})
        elif "10 Hz" in kind:
            self._tremble(name, injection.for_s)
        else:
            assert "paused" in kind, kind
            self._pause(name, injection.for_s)

    def _kill_at(self, name: str, failpoint: str, nth: int) -> None:
        self._cast.end_with(name, signal.SIGTERM)
        self._cast.begin(name, {FAILPOINTS: f"{failpoint}:{nth}"})
        code = self._cast.gone(name, FAILPOINT_WAIT_S)
        if code is None:
            self._cast.end_with(name, signal.SIGKILL)
        self._cast.begin(name)
        if code != -signal.SIGKILL:
            raise Skipped(
                f"the failpoint was not passed {nth} times in {FAILPOINT_WAIT_S:g} s, or another end came first"
            )

    def _pause(self, name: str, for_s: float) -> None:
        process = self._cast.processes[name]
        process.signal(signal.SIGSTOP)
        try:
            time.sleep(for_s)
        finally:
            process.signal(signal.SIGCONT)

    def _tremble(self, name: str, for_s: float) -> None:
        end = time.monotonic() + for_s
        while time.monotonic() < end:
            self._pause(name, HZ_10)
            time.sleep(HZ_10)

    def _second_agent(self, injection: Injection) -> None:
        name = injection.target
        if name not in self._cast.processes or not self._cast.processes[name].running():
            raise Skipped("it does not run")
        elder = self._cast.forget(name)
        self._cast.begin(name)
        self._cast.second.append(elder)

    def _burst(self, injection: Injection) -> None:
        process = self._cast.processes.get(injection.target)
        if process is None or not process.running() or time.monotonic() - self._cast.begun(injection.target) < 5:
            raise Skipped("it does not run yet")
        process.signal(signal.SIGUSR1)

    # -- broker -----------------------------------------------------------------------------------------------------------

    def _on_broker(self, injection: Injection) -> None:
        kind = injection.kind
        if "paused" in kind:
            self._broker.pause()
            try:
                time.sleep(injection.for_s)
            finally:
                self._broker.resume()
            return
        if "disk" in kind:
            self._fill_disk(injection.for_s)
        elif kind.endswith("killed"):
            self._broker.kill()
            time.sleep(injection.for_s)
        else:
            self._broker.stop()
            time.sleep(injection.for_s)
        self.start_broker()

    def _fill_disk(self, for_s: float) -> None:
        if self._disk.why_not:
            raise Skipped(self._disk.why_not)
        self._disk.fill()
        try:
            time.sleep(for_s)
        finally:
            self._disk.clear()

    def start_broker(self, tries: int = 3) -> None:
        """Have the broker run again; one that was killed may need more than one try."""
        while not self._broker.alive:
            try:
                self._broker.start()
            except BrokerError:
                tries -= 1
                if not tries:
                    raise

    # -- links ------------------------------------------------------------------------------------------------------------

    def _on_link(self, injection: Injection) -> None:
        link = self._proxy.links[injection.target]
        self._spoil(link, injection)
        try:
            time.sleep(injection.for_s)
        finally:
            link.heal()

    def _spoil(self, link: Link, injection: Injection) -> None:
        ways: tuple[Way, ...] = (link.up, link.down)
        match injection.kind.removeprefix("link "):
            case "delayed":
                for way in ways:
                    way.delay_s = injection.amount / 1000
            case "loses connections":
                for way in ways:
                    way.reset_share = injection.amount / 1000
                self._proxy.reset(link.name)
            case "half-open":
                link.accepting = "half_open"
                for way in ways:
                    way.held = True
            case "cut towards the broker":
                link.up.held = True
            case "cut from the broker":
                link.down.held = True
            case "cut":
                for way in ways:
                    way.held = True
            case "refuses":
                link.accepting = "refuse"
                self._proxy.reset(link.name)
            case other:
                raise AssertionError(f"no fault of links is called {other!r}")

    # -- topics -----------------------------------------------------------------------------------------------------------

    def _rng(self, injection: Injection) -> random.Random:
        return random.Random(f"{self._seed}/{injection.nth}")

    def _write_garbage(self, injection: Injection) -> None:
        topic, agent = injection.target, _answering(injection)
        if topic == "hosts" and self._cast.not_ready_among((agent,)):
            raise Skipped("the agent is not there to answer for its keys")
        rng = self._rng(injection)
        self._write(topic, garbage.records(topic, self._scene, injection.amount, rng, HOSTS_OF[agent]))
        if topic == "hosts":
            time.sleep(ANSWER_S)

    def _write_requests(self, injection: Injection) -> None:
        make = garbage.reused if injection.kind == "ids reused" else garbage.repeated
        self._write("requests", make(self._scene, injection.amount, self._rng(injection)))

    def _write(self, topic: str, records: Sequence[Bad]) -> None:
        if not records:
            raise Skipped("nothing stands in the topic yet that could be spoilt")
        producer = Producer({"bootstrap.servers": self._broker.bootstrap, **BARE}, logger=SILENT)
        for record in records:
            producer.produce(getattr(self._names, topic), record.value, record.key, record.partition)
        if producer.flush(WRITE_S):
            raise Skipped("the broker did not take it in time")

    def _change_settings(self, injection: Injection) -> None:
        setting, wrong = SPOILT.get(injection.target, ("retention.bytes", "1000000000000"))
        topic = getattr(self._names, injection.target)
        right = self._setting(topic, setting)
        self._set(topic, setting, wrong)
        try:
            time.sleep(injection.for_s)
        finally:
            self._set(topic, setting, right)

    def _setting(self, topic: str, setting: str) -> str:
        admin = self._admin()  # kept until it has answered: one that is collected never does
        resource = ConfigResource(ResourceType.TOPIC, topic)
        [future] = admin.describe_configs([resource], request_timeout=WRITE_S).values()
        entries: dict[str, Any] = self._said(future)
        return str(entries[setting].value)

    def _set(self, topic: str, setting: str, value: str) -> None:
        """Set it, however long the broker is away."""
        admin = self._admin()
        for last in (*[False] * 20, True):
            entry = ConfigEntry(setting, value, incremental_operation=AlterConfigOpType.SET)
            resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
            [future] = admin.incremental_alter_configs([resource], request_timeout=WRITE_S).values()
            try:
                future.result(WRITE_S)
                return
            except (KafkaException, TimeoutError):
                if last:
                    raise
                time.sleep(1.0)

    def _said(self, future: Any) -> Any:
        try:
            return future.result(WRITE_S)
        except (KafkaException, TimeoutError) as e:
            raise Skipped(f"the broker is away: {e}") from e

    def _admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self._broker.bootstrap}, logger=SILENT)


def _answering(injection: Injection) -> str:
    """The agent whose hosts garbage on `hosts` is about."""
    return AGENTS[injection.nth % len(AGENTS)]
