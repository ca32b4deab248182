"""A whole run: ground, cast, load, injections, settling, verdict; everything it saw is left in one directory.

DIR/run.json      seed, settings, plan          DIR/clients/*.jsonl   what each client saw
DIR/done.jsonl    injections as performed       DIR/topics/           every record
DIR/logs/*.log    what the processes said       DIR/result.json       counts, figures, violations
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import msgspec
import psutil
from msgspec import Struct

from chaos_real import judge as judging
from chaos_real.cast import Cast
from chaos_real.faults import Faults, Skipped
from chaos_real.ground import Disk, compact_at_once, make
from chaos_real.judge import Verdict, Violation, judge
from chaos_real.plan import AGENTS, EVERYBODY, FRONTENDS, REPLICAS, Injection, plan
from chaos_real.proxy import Proxy
from chaos_real.scene import Scene
from chaos_real.stage import HOSTS, PER_S, SETTINGS, SHAPE, inventory, trace
from chaos_real.topics import Tap
from commonplace.core.records.control import Flavor
from commonplace.kafka import client, control, topic_creation, topics
from commonplace.kafka.topic_rules import hosts_min_compaction_lag_ms
from commonplace.kafka.topics import TOPICS, Topics
from commonplace.ops.replay import formats
from commonplace.ops.stack_environ import settings_environ

AT_ONCE_MAX: Final = 10
SETTLE_S: Final = 180.0
STEP_S: Final = 0.1
READY_S: Final = 120.0
RSS_MB_MAX: Final = 400
"""Most resident memory of a replica or agent: 55 to begin with, 64 each of records on their way out (`limits.outbox_kbytes_max`) and of
records fetched (librdkafka's queued.max.messages.kbytes), 54 of an hour's decisions (15/s at 1 KB), and two thirds of that again."""


class Options(Struct, frozen=True):
    """What the caller wants."""

    seed: int
    seconds: float
    gap_s: float = 0.8
    trace: Path | None = None
    form: str = "csv"
    keep: Path | None = None  # where runs leave their directories
    swarm: bool = True
    say: Callable[[str], None] = print


class Outcome(Struct):
    """What a run did and found."""

    directory: str
    seed: int
    seconds: float
    injections: dict[str, int]
    skipped: dict[str, int]
    exits: dict[str, int]
    violations: list[Violation]
    figures: dict[str, int]
    audit: dict[str, Any]
    live_audit: dict[str, Any]
    rss_mb_max: dict[str, int]
    settled_s: float


def run(options: Options) -> Outcome:
    """One run; blocks for its length and some minutes. The directory stays."""
    parent = options.keep or Path(tempfile.gettempdir())
    parent.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix=f"chaos-{options.seed}-", dir=parent))
    options.say(f"seed {options.seed}, {options.seconds:g} s, everything in {directory}")
    with_trace = msgspec.structs.replace(options, trace=options.trace or trace(directory, options.seed))
    return Run(with_trace, directory).go()


class Run:
    """One run's parts; `go` is the order in which they come and go."""

    def __init__(self, options: Options, directory: Path) -> None:
        self.options, self.directory, self.say = options, directory, options.say
        self.done: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self.problems: list[Violation] = []
        self.rss: Counter[str] = Counter()
        self._lock = threading.Lock()
        (directory / "logs").mkdir()
        (directory / "clients").mkdir()
        self.names = Topics(SETTINGS.topics.prefix, "default")
        with ExitStack() as ending:
            self.disk = Disk(directory / "disk")
            ending.callback(shutil.rmtree, self.disk.directory, ignore_errors=True)
            ending.callback(self.disk.close)
            self._prepare()
            self._ending = ending.pop_all()

    def _prepare(self) -> None:
        """Whatever is wrong here, the disk is put away."""
        options = self.options
        assert options.trace is not None
        self.broker, self.links = make(self.disk.directory, EVERYBODY)
        self.settings = msgspec.structs.replace(SETTINGS, kafka={"bootstrap.servers": self.broker.bootstrap})
        without = ("broker's disk full",) if self.disk.why_not else ()
        if self.disk.why_not:
            self.say(f"no full disk: {self.disk.why_not}")
        self.plan = plan(options.seed, options.seconds, options.gap_s, swarm=options.swarm, without=without)
        about = {"seed": options.seed, "settings": self.settings, "plan": self.plan, "trace": options.trace.name}
        (self.directory / "run.json").write_bytes(
            msgspec.json.format(msgspec.json.encode(about, enc_hook=str), indent=1)
        )

    def go(self) -> Outcome:
        """The run. Whatever happens, nothing is left running or mounted."""
        scene = Scene(TOPICS)
        with self._ending as ending:
            ending.callback(self._keep_log)
            ending.callback(self.broker.stop)
            proxy = Proxy(self.links)
            ending.callback(proxy.close)
            self.broker.start()
            tap = self._topics(scene)
            cast = self._cast()
            faults = Faults(cast, self.broker, self.disk, proxy, self.names, scene, self.options.seed)
            try:
                self._begin(cast)
                self._load(cast, faults)
                settled_s = self._settle(cast, faults, proxy, scene, tap)
                live = self._live_audit()
            finally:
                cast.stop()
            self._await(tap.behind, 60, "the tap did not reach the ends")
            tap.close()
        return self._outcome(cast, live, settled_s)

    def _keep_log(self) -> None:
        if self.broker.log_path.exists():  # a broker that never started has said nothing
            shutil.copyfile(self.broker.log_path, self.directory / "logs" / "broker.txt")

    # -- parts ------------------------------------------------------------------------------------------------------------

    def _topics(self, scene: Scene) -> Tap:
        broker = client.require_broker(self.settings)
        topic_creation.create(client.admin(self.settings), self.settings, broker)
        compact_at_once(self.broker, self.names, hosts_min_compaction_lag_ms(self.settings))
        facts = topics.require_topics(self.settings)[1]
        by_kind = {kind: facts[getattr(self.names, kind)] for kind in TOPICS}
        return Tap(self.broker.bootstrap, by_kind, self.directory, scene.see)

    def _cast(self) -> Cast:
        trace, form = self.options.trace, self.options.form
        assert trace is not None
        flavors = [
            Flavor(name=name, resources=resources, spread=SETTINGS.topics.requests_partitions)
            for name, resources in sorted(formats.survey(trace, form, 20_000).flavors.items())
        ]
        control.put_flavors(self.settings, *flavors)
        clients = {}
        for nth, name in enumerate(FRONTENDS):
            arguments = {
                "history": self.directory / "clients" / f"{name}.jsonl",
                "trace": trace.absolute(),
                "form": form,
                "nth": nth,
                "of": len(FRONTENDS),
                "per-s": PER_S,
                "seed": f"{self.options.seed}{nth}",
            }
            clients[name] = [word for key, value in arguments.items() for word in (f"--{key}", str(value))]
        agents = {name: inventory(self.directory / f"{name}.toml", name) for name in AGENTS if name != "fleet"}
        ports = {name: link.port for name, link in self.links.items()}
        logs = self.directory / "logs"
        return Cast(self.broker.bootstrap, self.settings, logs, ports, flavors, clients, agents, HOSTS, SHAPE)

    def _begin(self, cast: Cast) -> None:
        for name in (*AGENTS, *REPLICAS):
            cast.begin(name)
        for name in (*AGENTS, *REPLICAS):
            cast.await_ready(name)
        for name in FRONTENDS:
            cast.begin(name)

    def _load(self, cast: Cast, faults: Faults) -> None:
        """Perform the plan while the clients work."""
        began = time.monotonic()
        left = list(reversed(self.plan))
        told = began
        with ThreadPoolExecutor(AT_ONCE_MAX) as pool:
            free = threading.Semaphore(AT_ONCE_MAX)
            while time.monotonic() - began < self.options.seconds:
                cast.supervise()
                while left and left[-1].at_s <= time.monotonic() - began:
                    injection = left.pop()
                    if not free.acquire(blocking=False):
                        self._note(injection, began, began, "as many as may be are on")
                        continue
                    pool.submit(self._inject, faults, injection, began).add_done_callback(lambda _: free.release())
                if time.monotonic() - told > 60:
                    told = time.monotonic()
                    self._measure(cast)
                    self.say(f"{told - began:5.0f} s: {sum(self.done.values())} injections of {len(self.done)} kinds")
                time.sleep(STEP_S)
            self._measure(cast)

    def _inject(self, faults: Faults, injection: Injection, began: float) -> None:
        at = time.monotonic()
        why_not = ""
        try:
            faults.perform(injection)
        except Skipped as e:
            why_not = str(e)
        except Exception as e:  # noqa: BLE001 - a thread of the driver's: told as what it is, a run that proves nothing
            self._problem("driver", f"{injection}: {type(e).__name__}: {e}")
            why_not = "the driver failed"
        self._note(injection, began, at, why_not)

    def _note(self, injection: Injection, began: float, at: float, why_not: str) -> None:
        row = {**msgspec.to_builtins(injection), "began_s": round(at - began, 2), "why_not": why_not}
        row["ended_s"] = round(time.monotonic() - began, 2)
        with self._lock, (self.directory / "done.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
            if why_not:
                self.skipped[injection.kind] += 1
            else:
                self.done[injection.kind] += 1

    def _measure(self, cast: Cast) -> None:
        for name, process in list(cast.processes.items()):
            try:
                mb = psutil.Process(process.popen.pid).memory_info().rss >> 20
            except psutil.Error:
                continue
            self.rss[name] = max(self.rss[name], mb)

    # -- after the faults -------------------------------------------------------------------------------------------------

    def _settle(self, cast: Cast, faults: Faults, proxy: Proxy, scene: Scene, tap: Tap) -> float:
        """Heal everything, let the clients end, wait until all is decided and no lease is left; returns how long it took."""
        began = time.monotonic()
        proxy.heal()
        self.disk.clear()
        faults.start_broker()
        cast.stopping = True
        self._await(cast.not_ready, READY_S, "not everybody served again", cast.supervise)
        for name in FRONTENDS:
            if name in cast.processes:
                code = cast.end_with(name, 15, 120.0)
                if code:
                    self._problem("client", f"{name} ended with {code} when it was told to stop")

        def why_not() -> str:
            return tap.behind() or scene.unsettled() or cast.not_ready()

        self._await(why_not, SETTLE_S, "not settled", cast.supervise)
        elders = [str(process.popen.pid) for process in cast.second if process.running()]
        if elders:
            self._problem("fenced", f"{len(elders)} agents run on though others took over their hosts")
        time.sleep(2 * REPORT_S)  # so that each replica has reported on the settled state
        self._await(tap.behind, 60, "the tap did not reach the ends")
        return round(time.monotonic() - began, 1)

    def _await(
        self, why_not: Callable[[], str], timeout_s: float, what: str, step: Callable[[], None] = lambda: None
    ) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            step()
            try:
                why = why_not()
            except Exception as e:  # noqa: BLE001 - no answer yet; told if it stays so
                why = f"{type(e).__name__}: {e}"
            if not why:
                return
            if time.monotonic() > deadline:
                self._problem("liveness", f"{what} within {timeout_s:g} s: {why}")
                return
            time.sleep(0.5)

    def _live_audit(self) -> dict[str, Any]:
        """`commonplace audit` on the running system, as an operator would; compaction makes much of it unprovable."""
        environ = {k: v for k, v in os.environ.items() if not k.startswith("COMMONPLACE")}
        environ |= settings_environ(self.settings, self.broker.bootstrap)
        call = [sys.executable, "-c", "import sys; from commonplace.cli.main import main; sys.exit(main())"]
        done = subprocess.run(
            [*call, "audit", "-o", "json", "--slack-s", str(judging.SLACK_MS / 1000)],
            env=environ, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        try:
            said: dict[str, Any] = json.loads(done.stdout)
        except ValueError:
            self._problem("live audit", f"exit {done.returncode}: {done.stderr[-500:]}")
            return {}
        if done.returncode != 0:
            self._problem("live audit", f"exit {done.returncode}, {said.get('audit')}")
        return said

    def _problem(self, rule: str, text: str) -> None:
        self.say(f"violated: {rule}: {text}")
        with self._lock:
            self.problems.append(Violation(rule, text))

    def _bound_memory(self) -> None:
        for name in (*REPLICAS, *AGENTS):
            if self.rss[name] > RSS_MB_MAX:
                self._problem("memory", f"{name} had {self.rss[name]} MB resident, at most {RSS_MB_MAX} are expected")

    def _outcome(self, cast: Cast, live: dict[str, Any], settled_s: float) -> Outcome:
        self._bound_memory()
        for text in cast.problems:
            self._problem("process", text)
        for text in cast.tracebacks():
            self._problem("traceback", text)
        verdict: Verdict = judge(self.directory, self.settings)
        if verdict.violations:
            self.say(judging.told(verdict))
        outcome = Outcome(
            directory=str(self.directory),
            seed=self.options.seed,
            seconds=self.options.seconds,
            injections=dict(sorted(self.done.items())),
            skipped=dict(sorted(self.skipped.items())),
            exits=dict(sorted(cast.exits.items())),
            violations=[*self.problems, *verdict.violations],
            figures=verdict.figures,
            audit=verdict.audit,
            live_audit=live,
            rss_mb_max=dict(self.rss),
            settled_s=settled_s,
        )
        (self.directory / "result.json").write_bytes(msgspec.json.format(msgspec.json.encode(outcome), indent=1))
        return outcome


REPORT_S: Final = 5.0
"""How often a replica reports its digest."""
