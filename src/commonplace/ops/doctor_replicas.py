"""Checks of replicas: who is alive, that equal positions show equal states, who owns what, and what is not decided."""

from collections import Counter, defaultdict
from collections.abc import Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Final, TypeVar

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from commonplace.errors import TimedOut
from commonplace.kafka import client, topics
from commonplace.kafka.client import Broker
from commonplace.kafka.tail import Tail
from commonplace.kafka.topics import Topics
from commonplace.ops.doctor_check import Check, named
from commonplace.ops.fleet_view import FleetView
from commonplace.settings import Settings
from commonplace.words import counted

T = TypeVar("T")

REPLICA_TIMEOUT_MS: Final = 15_000
"""Three cycle reports of 5 s each."""

LAG_WARN: Final = 1_000
"""Undecided requests; replicas decide thousands a second, so this many wait for something."""

ADMIN_TIMEOUT_S: Final = 15.0


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
        found = "no replica is alive" + (f"; {named('left or died', gone)}" if gone else "")
        return [Check("replicas", "warn", found, todo)]
    found = ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in states.items())
    checks = [Check("replicas", "ok", found + (f"; {named('left or died', gone)}" if gone else ""))]
    for same in digests.values():
        if len(set(same.values())) > 1:
            todo = "a bug: keep their logs, restart one, and report it with `commonplace audit -o json`"
            checks.append(Check("replicas", "fail", named("differ at the same positions", sorted(same)), todo))
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
    owners = counted(len(described.members), "member owns", "members own")
    return Check("group", "ok", f"{state}: {owners} all of {counted(partitions, 'partition')}")


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
