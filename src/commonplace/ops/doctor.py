"""What is wrong with a system, and what to do: checks one after another, each ok, warn or fail; a check that can't be made says why.

Reads only, but for one tombstone on `control` under a key that no host can have: its log time is the broker's clock.
"""

import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Final, Literal, TypeVar

import confluent_kafka
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from msgspec import Struct

from commonplace.core.codec import decode
from commonplace.core.host_keys import parse_key
from commonplace.core.records import Quarantined, Start
from commonplace.errors import BrokerUnavailable, CommonplaceError, NotReady, SettingsError, TimedOut
from commonplace.kafka import client, jars, topics
from commonplace.kafka.client import Broker
from commonplace.kafka.java import find_java
from commonplace.kafka.outbox import reason_kind
from commonplace.kafka.tail import Raw, Tail
from commonplace.kafka.topics import Topics
from commonplace.ops.fleet_view import FleetView
from commonplace.ops.operators import FORGETTER, broker_time
from commonplace.settings import DAY_MS, HOUR_MS, MINUTE_MS, Settings

T = TypeVar("T")

Level = Literal["ok", "warn", "fail", "skip"]

CLOCK_WARN_MS: Final = 5_000
"""Placement rests on no clock but the brokers'; logs and `hosts` are easier to read when they agree."""

REPLICA_TIMEOUT_MS: Final = 15_000
"""Three cycle reports of 5 s each."""

RESTARTS_WARN: Final = 5
"""Starts of one host in an hour: deployments take one or two."""

LAG_WARN: Final = 1_000
"""Undecided requests; replicas decide thousands a second, so this many wait for something."""

ADMIN_TIMEOUT_S: Final = 15.0
NAMES_SHOWN: Final = 3


class Check(Struct, frozen=True):
    """One thing looked at; `todo` says what to do where it is not well, `not_ready` that it is a matter of starting something."""

    name: str
    level: Level
    found: str
    todo: str = ""
    not_ready: bool = False


def examine(load: Callable[[], Settings]) -> Iterator[Check]:
    """All checks in order, each as soon as it is made; blocks for seconds in between. Stops where the rest would say the same."""
    try:
        settings = load()
        client.check_passed_through(settings)
    except SettingsError as e:
        yield Check("settings", "fail", str(e), "correct it; `commonplace config show --origin` has the rest")
        return
    yield Check("settings", "ok", f"prefix {settings.topics.prefix}, pool {settings.topics.pool}")
    yield local_broker()
    try:
        broker = client.require_broker(settings)
    except CommonplaceError as e:
        lacking = isinstance(e, BrokerUnavailable)
        yield Check("broker", "fail", str(e), "start it, or name another with -b", not_ready=lacking)
        return
    settings = client.settings_for(settings, broker)
    yield answered(settings, broker)
    yield from _told("topics", lambda: topic_settings(settings, broker))
    yield from _told("clock", lambda: [clock(settings, broker)])
    try:
        takeovers = Takeovers()
        with FleetView(settings, takeovers.observe) as view:
            view.read()
            yield from hosts(view)
            yield takeovers.check(view)
            yield from replicas(view)
            yield from _told("pools", lambda: pools(settings, view))
    except CommonplaceError as e:
        yield Check("hosts", "fail", str(e), "see the line above", not_ready=isinstance(e, NotReady))
        return
    yield from _told("group", lambda: group(settings, broker))
    yield from _told("quarantine", lambda: [quarantine(settings, broker)])


def _told(name: str, make: Callable[[], Sequence[Check]]) -> Sequence[Check]:
    """The checks, or that they could not be made."""
    try:
        return make()
    except CommonplaceError as e:
        return [Check(name, "warn", f"could not be checked: {e}")]


# --- this machine, the broker, the topics --------------------------------------------------------------------------------


def local_broker() -> Check:
    """Whether `commonplace broker` can run Apache Kafka here; nothing else needs it."""
    try:
        java = find_java()
    except CommonplaceError as e:
        return Check("local kafka", "warn", f"{e}", "only `commonplace broker` and `demo --kafka` need it")
    if (jars.cache_dir() / jars.MANIFEST).exists():
        return Check("local kafka", "ok", f"{java}; Kafka {jars.KAFKA_VERSION} in {jars.cache_dir()}")
    if shutil.which("mvn") is None:
        todo = "install Maven, once; only `commonplace broker` and `demo --kafka` need it"
        return Check("local kafka", "warn", f"{java}, but neither Kafka's jars nor mvn", todo)
    return Check("local kafka", "ok", f"{java}; Maven will fetch Kafka {jars.KAFKA_VERSION} at the first start")


def answered(settings: Settings, broker: Broker) -> Check:
    """Who answers."""
    clients = f"librdkafka {confluent_kafka.libversion()[0]}"
    if broker.embedded:
        found = f"the embedded broker at {settings.bootstrap}, which is not Kafka; {clients}"
        return Check("broker", "warn", found, "for the demo and tests only: records end with its process")
    found = f"{broker.brokers} brokers at {settings.bootstrap}, cluster {broker.cluster_id}; {clients}"
    return Check("broker", "ok", found)


def topic_settings(settings: Settings, broker: Broker) -> list[Check]:
    """Every rule that a topic breaks."""
    findings = topics.verify(client.admin(settings), settings, broker)
    names = {"error": "fail", "warning": "warn"}
    checks = [
        Check("topics", names[f.level], str(f), "docs/topics.md has the rules", not_ready=f.level == "error")  # type: ignore[arg-type]
        for f in findings
    ]
    return checks or [Check("topics", "ok", f"all {len(topics.specs(settings))} as they must be")]


def clock(settings: Settings, broker: Broker) -> Check:
    """This machine's clock against the broker's."""
    if broker.embedded:
        return Check("clock", "skip", "the embedded broker keeps no time")
    told = broker_time(settings)
    ahead_ms, round_trip = told.ahead_ms, f"asked in {told.answered_ms - told.asked_ms} ms"
    if abs(ahead_ms) < CLOCK_WARN_MS:
        return Check("clock", "ok", f"within {max(1, abs(ahead_ms))} ms of the broker's ({round_trip})")
    found = f"{abs(ahead_ms) / 1000:.1f} s {'ahead of' if ahead_ms > 0 else 'behind'} the broker's ({round_trip})"
    return Check("clock", "warn", found, "run NTP: placement is not touched, but ages and logs mislead")


# --- hosts -----------------------------------------------------------------------------------------------------------


def hosts(view: FleetView) -> list[Check]:
    """How many are ready, and each kind of trouble with the first few names."""
    rows = view.hosts()
    if not rows:
        todo = "start agents, or `commonplace fleet --hosts 100`"
        return [Check("hosts", "warn", f"no host reports to pool {view.settings.topics.pool}", todo)]
    troubled: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        flags = view.flags(row)
        starting = row.host.stale == "starting" and view.now_ms - row.host.log_time_ms > MINUTE_MS
        for flag in (["never reported"] if starting else flags) + ([row.status] if row.status != "enabled" else []):
            troubled[flag].append(row.host.name)
    ready = len(rows) - len(
        {name for flag in ("newer", "stale", "silent", "never reported") for name in troubled[flag]}
    )
    checks = [Check("hosts", "ok" if ready else "warn", f"{ready} of {len(rows)} report and can be read")]
    checks += [
        Check("hosts", level, _named(flag, troubled[flag]), todo) for flag, level, todo in TROUBLES if troubled[flag]
    ]
    if view.quiet:
        todo = "start agents and schedulers, or set this clock"
        checks.append(Check("hosts", "warn", "nothing was written for the liveness timeout, by this clock", todo))
    return checks


TROUBLES: Final[tuple[tuple[str, Level, str], ...]] = (
    # flag, level, what to do
    ("never reported", "fail", "its agent started and sent no report: its log says why (it may have refused to start)"),
    (
        "stale",
        "warn",
        "a report is missing or cannot be used: `commonplace host show NAME` says which; agents send another",
    ),
    ("silent", "warn", "see that their agents run and reach the broker; `commonplace host forget` those that are gone"),
    ("newer", "warn", "they speak a newer version: upgrade the schedulers first, then agents"),
    ("gap", "warn", "claims were lost to retention: compare what runs, then `commonplace host clear-gap NAME`"),
    ("disabled", "ok", "`commonplace host enable NAME`"),
    ("draining", "ok", "`commonplace host enable NAME`"),
)


def _named(flag: str, names: Sequence[str]) -> str:
    more = ", …" if len(names) > NAMES_SHOWN else ""
    return f"{len(names)} {flag}: {', '.join(names[:NAMES_SHOWN])}{more}"


class Takeovers:
    """Who started each host lately: two agents of one host name take it from each other again and again."""

    def __init__(self) -> None:
        self._starts: dict[str, list[tuple[int, str]]] = defaultdict(list)

    def observe(self, topic: str, partition: int, record: Raw) -> None:
        """Note a start record."""
        _, at_ms, raw, value = record
        key = parse_key(raw) if topic == "hosts" else None
        if key is None or key.kind != "start" or value is None:
            return
        start = decode("hosts", value)
        if isinstance(start, Start) and start.agent != FORGETTER:
            self._starts[key.host].append((at_ms, start.agent))

    def check(self, view: FleetView) -> Check:
        """Hosts that went from an agent to another and back within a day, and those that start again and again."""
        torn, restless = [], []
        for host, starts in self._starts.items():
            agents = [agent for at_ms, agent in starts if at_ms >= view.now_ms - DAY_MS]
            owners = [agent for i, agent in enumerate(agents) if i == 0 or agents[i - 1] != agent]
            if len(set(owners)) < len(owners):
                torn.append(host)
            elif sum(at_ms >= view.now_ms - HOUR_MS for at_ms, _ in starts) >= RESTARTS_WARN:
                restless.append(host)
        if torn:
            todo = "two agents run for one host name: stop one of them, or give its host another name"
            return Check("host names", "fail", _named("taken back and forth by two agents", torn), todo)
        if restless:
            todo = "its agent is restarted again and again, or two agents of one name run: see their logs"
            return Check(
                "host names", "warn", _named(f"started {RESTARTS_WARN} times or more in an hour", restless), todo
            )
        return Check("host names", "ok", "no host is taken back and forth by two agents")


def pools(settings: Settings, view: FleetView) -> list[Check]:
    """Hosts that are live on two pools of the prefix, which would both sell the same machine, and groups that lie in two."""
    pool = settings.topics.pool
    others = {name: theirs for name, theirs in topics.pools(settings).items() if name != pool}
    mine, groups, twice, spanning = _live(view), _groups(view), [], []
    for other, its_settings in others.items():
        with FleetView(its_settings) as theirs:
            theirs.read()
            twice += [f"{name} (also {other})" for name in sorted(mine & _live(theirs))]
            spanning += [f"{name} (also {other})" for name in sorted(groups & _groups(theirs))]
    shown = f"({', '.join([pool, *others])})"
    checks = [Check("pools", "ok", f"no host is live on two pools {shown}")]
    if twice:
        todo = "a host reports to exactly one pool: stop the agent of the wrong one and forget the host there"
        checks = [Check("pools", "fail", _named("live on two pools", twice), todo)]
    if spanning:
        todo = "nobody keeps the policy of a group across pools: move its members into one with `commonplace move`"
        checks.append(Check("pools", "warn", _named("groups with members in two pools", spanning), todo))
    return checks


def _live(view: FleetView) -> set[str]:
    """Hosts that an agent reports for: a start record alone, as `forget` writes it, is no sign of life."""
    return {row.host.name for row in view.hosts() if row.host.stale != "starting" and "silent" not in view.flags(row)}


def _groups(view: FleetView) -> set[str]:
    return {group for row in view.hosts() for group in row.host.groups}


# --- replicas ----------------------------------------------------------------------------------------------------------


def alive(view: FleetView) -> list[str]:
    """Replicas whose newest cycle report is young, and that are not leaving."""
    return [
        name
        for name, (report, at_ms) in view.replicas.items()
        if report.state != "leaving" and view.now_ms - at_ms <= REPLICA_TIMEOUT_MS
    ]


def replicas(view: FleetView) -> list[Check]:
    """Who is registered and alive, and whether equal positions show equal states (invariant 8)."""
    states, gone, living = Counter[str](), [], set(alive(view))
    digests: dict[str, dict[str, str]] = defaultdict(dict)
    for name, (report, _) in view.replicas.items():
        if name not in living:
            gone.append(name)
            continue
        states[report.state] += 1
        if report.state == "ready":
            digests[repr(sorted(report.positions.items()))][name] = report.digest
    if not living:
        todo = "start `commonplace scheduler --name r1`"
        found = "no replica is alive" + (f"; {_named('left or died', gone)}" if gone else "")
        return [Check("replicas", "warn", found, todo)]
    found = ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in states.items())
    checks = [Check("replicas", "ok", found + (f"; {_named('left or died', gone)}" if gone else ""))]
    for same in digests.values():
        if len(set(same.values())) > 1:
            todo = "a bug: keep their logs, restart one, and report it with `commonplace audit -o json`"
            checks.append(Check("replicas", "fail", _named("differ at the same positions", sorted(same)), todo))
    return checks


def group(settings: Settings, broker: Broker) -> list[Check]:
    """Partitions of `requests` that nobody owns, and requests that are not decided."""
    if broker.embedded:
        return [Check("group", "skip", "the embedded broker cannot be asked for groups")]
    name = client.replica_group(settings)
    topic = Topics(settings.topics.prefix, settings.topics.pool).requests
    admin = client.admin(settings)  # held until the last answer: its calls end with it
    partitions = topics.facts(admin, settings, broker, ("requests",))[topic].partitions
    if not _exists(admin, settings, name):
        found = f"{name} does not exist: no replica has joined it yet"
        owners = Check("group", "warn", found, "start a scheduler")
        return [owners, _lag(settings, {}, topic, partitions)]
    wanted = [ConsumerGroupTopicPartitions(name, [TopicPartition(topic, p) for p in range(partitions)])]
    asked = admin.list_consumer_group_offsets(wanted, request_timeout=ADMIN_TIMEOUT_S)
    committed = {p.partition: p.offset for p in _result(asked[name], settings).topic_partitions}
    return [_owners(admin, settings, name, topic, partitions), _lag(settings, committed, topic, partitions)]


def _exists(admin: AdminClient, settings: Settings, name: str) -> bool:
    """Whether the group does: a cluster that never had a group has no coordinator, and would be waited for."""
    listed = admin.list_consumer_groups(request_timeout=ADMIN_TIMEOUT_S)
    return any(group.group_id == name for group in _result(listed, settings).valid)


def _result(future: "Future[T]", settings: Settings) -> T:
    """What an admin call answers; typed errors where it does not."""
    try:
        return future.result(ADMIN_TIMEOUT_S)
    except FutureTimeout as e:
        raise TimedOut(f"the broker at {settings.bootstrap} did not answer within {ADMIN_TIMEOUT_S:g} s") from e
    except KafkaException as e:
        raise client.explained(e, settings) from e


def _owners(admin: AdminClient, settings: Settings, name: str, topic: str, partitions: int) -> Check:
    asked = admin.describe_consumer_groups([name], request_timeout=ADMIN_TIMEOUT_S)
    described = _result(asked[name], settings)
    owned = {
        place.partition
        for member in described.members
        if member.assignment
        for place in member.assignment.topic_partitions
        if place.topic == topic
    }
    state = described.state.name.lower().replace("_", " ")
    missing = sorted(set(range(partitions)) - owned)
    if missing and described.members:
        todo = "a rebalance lasts seconds; if it stays, a replica hangs: see /readyz of each"
        return Check("group", "warn", f"{state}: nobody owns partitions {missing} of {topic}", todo)
    if missing:
        return Check("group", "warn", f"{name} has no members: nothing is decided", "start a scheduler")
    return Check("group", "ok", f"{state}: {len(described.members)} members own all {partitions} partitions")


def _lag(settings: Settings, committed: Mapping[int, int], topic: str, partitions: int) -> Check:
    tail = Tail(settings)
    try:
        ranges = [tail.range(topic, p) for p in range(partitions)]
    finally:
        tail.close()
    # a commit beyond a log that was made anew, or lost its tail, is none: the next owner begins with the first record
    lag = sum(end - (at if low <= (at := committed.get(p, -1)) <= end else low) for p, (low, end) in enumerate(ranges))
    if lag > LAG_WARN:
        return Check("requests", "warn", f"{lag} are not decided", "start another replica, or see why these are slow")
    return Check("requests", "ok", f"{lag} are not decided")


def quarantine(settings: Settings, broker: Broker) -> Check:
    """What was put aside in the last day, by topic and kind of reason."""
    name = Topics(settings.topics.prefix, settings.topics.pool).quarantine
    counts: Counter[tuple[str, str]] = Counter()
    newest = ""
    tail = Tail(settings)
    try:
        ends = tail.ends([(name, 0)])
        tail.add(name, 0, tail.offset_for_time(name, 0, int(time.time() * 1000) - DAY_MS))
        for batch in tail.up_to(ends):
            for *_, value in batch.records:
                record = decode("quarantine", value) if value is not None else None
                if isinstance(record, Quarantined):
                    counts[record.topic, reason_kind(record.reason)] += 1
                    newest = f"{record.topic} [{record.partition}] offset {record.offset}: {record.reason}"
    finally:
        tail.close()
    if not counts:
        return Check("quarantine", "ok", "nothing in the last day")
    told = ", ".join(f"{count} {kind} on {topic}" for (topic, kind), count in counts.most_common())
    todo = f"`kcat -C -t {name}` has all; find who writes them"
    return Check("quarantine", "warn", f"{told}; newest: {newest}", todo)


def counted(checks: Sequence[Check]) -> Mapping[str, int]:
    """How many checks came out how."""
    return Counter(check.level for check in checks)
