"""The scheduler as a process on a real broker: readiness, metrics, hand-over, records lost, topics broken or made anew."""

import logging
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

import cli
from commonplace.core.codec import decode, encode
from commonplace.core.host_keys import snapshot_key, start_key
from commonplace.core.partition import partition_of
from commonplace.core.records.control import Flavor
from commonplace.core.records.decisions import Decision
from commonplace.core.records.hosts import Snapshot, Start
from commonplace.core.records.replicas import ReplicaReport
from commonplace.core.records.requests import Build
from commonplace.core.replica import Replica as Core
from commonplace.core.resources import Inventory
from commonplace.kafka import client, control, topic_creation, topics
from commonplace.kafka.embedded import EmbeddedBroker
from commonplace.kafka.intake import Ceded, Gained
from commonplace.kafka.tail import Tail
from commonplace.scheduler import shell
from commonplace.scheduler.metrics import SchedulerFigures
from commonplace.settings import Settings, TopicsSettings
from hosts_written import Reporter
from kafka_fixtures import KafkaUnderTest
from topics_changed import delete_before, set_topic

WAIT_S = 60.0
REQUESTS_PARTITIONS = 6
LONG_SESSION = {"COMMONPLACE__SCHEDULER__SESSION_TIMEOUT_MS": "45000"}
OFTEN = {"COMMONPLACE__SCHEDULER__TOPICS_CHECK_S": "0.3"}
FLAVORS = (Flavor(name="small", resources={"VCPU": 1}), Flavor(name="huge", resources={"VCPU": 1_000}))


class Replica:
    """A scheduler process, what it logs, and where it serves health and metrics."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.log: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()
        wait_for("its address", lambda: self.said(r"http://[0-9.:]+"))
        self.address = re.findall(r"http://[0-9.:]+", "".join(self.log))[0]

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)

    def said(self, pattern: str) -> bool:
        return re.search(pattern, "".join(self.log)) is not None

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(self.address + path, timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def ready(self) -> "Replica":
        wait_for("ready", lambda: self.get("/readyz")[0] == 200, lambda: "".join(self.log))
        return self

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's values with at least these labels; −1 without any."""
        found = [
            float(line.rpartition(" ")[2])
            for line in self.get("/metrics")[1].splitlines()
            if re.match(rf"{name}[{{ ]", line) and all(f'{key}="{value}"' in line for key, value in labels.items())
        ]
        return sum(found) if found else -1

    def ended(self) -> int:
        code = self.process.wait(WAIT_S)
        assert not self.said("Traceback"), "".join(self.log)
        return code


class World:
    """The topics of one test, its processes, and a frontend of few words."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.names = topics.Topics(settings.topics.prefix, settings.topics.pool)
        self.processes: list[subprocess.Popen[str]] = []
        self.replicas: list[Replica] = []
        self.producer = Producer({"bootstrap.servers": settings.bootstrap}, logger=logging.getLogger("test"))
        self.admin = client.admin(settings)
        self.tail = Tail(settings)
        self.decisions: dict[str, Decision] = {}
        self.reports: dict[str, ReplicaReport] = {}
        control.write(settings, {f"flavor/{flavor.name}": encode(flavor) for flavor in FLAVORS})
        for partition in range(REQUESTS_PARTITIONS):
            self.tail.add(self.names.decisions, partition, 0)
        self.tail.add(self.names.replicas, 0, 0)

    def start(self, *arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
        process = cli.start(*arguments, "-b", self.settings.bootstrap, "--prefix", self.names.prefix, env=env)
        self.processes.append(process)
        return process

    def replica(self, name: str = "r1", env: dict[str, str] | None = None) -> Replica:
        replica = Replica(self.start("scheduler", "--name", name, "--http", "127.0.0.1:0", env=env))
        self.replicas.append(replica)
        return replica

    def write(self, topic: str, partition: int, key: bytes | None, value: bytes | None) -> None:
        errors: list[Any] = []
        self.producer.produce(topic, value, key, partition, on_delivery=lambda error, _: errors.append(error))
        assert self.producer.flush(WAIT_S) == 0
        assert errors == [None], f"{topic} [{partition}]: {errors}"

    def submit(self, request: str, partition: int = 0, flavor: str = "small") -> None:
        self.write(self.names.requests, partition, flavor.encode(), encode(Build(id=request, flavor=flavor)))

    def decided(self, *requests: str) -> Decision:
        """Wait for decisions; the one of the last request."""

        def all_there() -> bool:
            self._read()
            return all(request in self.decisions for request in requests)

        wait_for(
            f"decisions of {requests}", all_there, lambda: "".join(line for one in self.replicas for line in one.log)
        )
        return self.decisions[requests[-1]]

    def owned(self, *replicas: str) -> None:
        """Wait until these replicas share all request partitions, each having some."""

        def shared() -> bool:
            self._read()
            shares = [self.reports[r].partitions for r in replicas if r in self.reports]
            held = sorted(partition for share in shares for partition in share)
            return len(shares) == len(replicas) and all(shares) and held == list(range(REQUESTS_PARTITIONS))

        wait_for(f"all partitions at {replicas}", shared, lambda: str(self.reports))

    def _read(self) -> None:
        for batch in self.tail.turn(0.1):
            for _, _, key, value in batch.records:
                if batch.topic == self.names.decisions:
                    self.decisions.setdefault((key or b"").decode(), decode("decisions", value or b""))
                else:
                    self.reports[(key or b"").decode()] = decode("replicas", value or b"")

    def committed(self) -> list[int]:
        """What the replicas' group has committed, by partition."""
        group = f"{self.names.prefix}.{self.names.pool}.replicas"
        asker = Consumer(
            {"bootstrap.servers": self.settings.bootstrap, "group.id": group}, logger=logging.getLogger("test")
        )
        try:
            places = [TopicPartition(self.names.requests, p) for p in range(REQUESTS_PARTITIONS)]
            return [max(0, place.offset) for place in asker.committed(places, timeout=WAIT_S)]
        finally:
            asker.close()

    def make_anew(self, topic: str) -> None:
        self.admin.delete_topics([topic])[topic].result(WAIT_S)
        wait_for("deleted", lambda: topic not in self.admin.list_topics(timeout=10).topics)
        topic_creation.create(self.admin, self.settings, client.require_broker(self.settings))

    def set_policy(self, topic: str, policy: str) -> None:
        set_topic(self.settings.bootstrap, topic, {"cleanup.policy": policy})

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait(WAIT_S)
        self.tail.close()


def wait_for(what: str, holds: Callable[[], Any], said: Callable[[], str] = lambda: "") -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline, f"never came: {what}\n{said()}"
        time.sleep(0.01)


@pytest.fixture
def world(kafka: KafkaUnderTest, prefix: str) -> Iterator[World]:
    settings = Settings(kafka={"bootstrap.servers": kafka.bootstrap}, topics=TopicsSettings(prefix=prefix))
    topic_creation.create(client.admin(settings), settings, client.require_broker(settings))
    world = World(settings)
    yield world
    world.close()


# --- readiness and metrics -------------------------------------------------------------------------------------------


@pytest.mark.real_kafka
def test_a_replica_is_not_ready_before_it_has_read_all_hosts_and_says_why(world: World) -> None:
    hosts = 5_000
    for number in range(hosts):
        name = f"host-{number}"
        partition = partition_of(name, world.settings.topics.hosts_partitions)
        world.producer.produce(world.names.hosts, encode(Start(host=name)), start_key(name), partition)
        report = Snapshot(
            host=name, epoch=0, generation=1, claims_topic="t", claims_through=-1, hash="0" * 16,
            inventory={"VCPU": Inventory(total=8)}, status="enabled",
        )  # fmt: skip
        world.producer.produce(world.names.hosts, encode(report), snapshot_key(name, 0), partition)
        world.producer.poll(0)
    assert world.producer.flush(WAIT_S) == 0
    world.submit("early")

    replica = world.replica()
    answers: list[str] = []
    while (answer := replica.get("/readyz"))[0] != 200:
        assert answer[0] == 503
        assert replica.metric("commonplace_decisions_total") == -1
        answers.append(answer[1])
    assert replica.metric("commonplace_hosts") == hosts
    assert set(answers) <= {"not ready: starting\n", "not ready: catching up\n"}
    assert answers
    assert replica.metric("commonplace_catchup_seconds") > 0
    assert replica.metric("commonplace_replay_lag_records") == 0
    assert world.decided("early").result == "no_valid_host"


@pytest.mark.real_kafka
def test_metrics_tell_what_was_decided_claimed_refused_and_put_aside(world: World) -> None:
    world.start("fleet", "--hosts", "3", "--shape", "8vcpu:16gb:100gb", "--name", "f1")
    replica = world.replica().ready()
    wait_for("three hosts", lambda: replica.metric("commonplace_hosts", status="enabled") == 3)
    world.submit("placed")
    world.submit("refused", flavor="huge")
    assert world.decided("refused", "placed").result == "placed"
    for number in range(300):
        world.producer.produce(world.names.requests, b"garbage %d" % number, b"small", 0)
    world.submit("after")
    assert world.decided("after").result == "placed"

    assert replica.metric("commonplace_decisions_total", result="placed", flavor="small") == 2
    assert replica.metric("commonplace_decisions_total", result="no_valid_host", flavor="huge") == 1
    assert replica.metric("commonplace_request_seconds_count") == 3
    assert replica.metric("commonplace_filter_rejections_total", filter="capacity") == 3
    assert replica.metric("commonplace_claims_total", verdict="granted") == 2
    assert replica.metric("commonplace_conflict_fraction") == 0
    assert replica.metric("commonplace_pending_claims") == 0
    assert replica.metric("commonplace_replay_lag_records") >= 0
    assert 0 <= replica.metric("commonplace_view_age_seconds") < 60
    wait_for("used", lambda: replica.metric("commonplace_capacity", **{"class": "VCPU", "state": "used"}) == 2)
    assert replica.metric("commonplace_quarantined_total", topic=world.names.requests, reason="undecodable") == 300
    wait_for("digest", lambda: replica.metric("commonplace_state_digest") > 0)  # of the last cycle report
    assert replica.metric("commonplace_build_info", replica="r1", pool="default") == 1
    assert "host-0" not in replica.get("/metrics")[1]
    # garbage must not fill the log: what is not written to quarantine is counted only
    lines = sum("put aside" in line for line in replica.log)
    assert lines == 300 - replica.metric("commonplace_quarantine_dropped_total")
    assert lines <= 200  # 100 a second, over a second's end


# --- hand-over -------------------------------------------------------------------------------------------------------


@pytest.mark.real_kafka
def test_sigterm_commits_leaves_at_once_and_ends_with_0(world: World) -> None:
    first, second = (world.replica(name, LONG_SESSION) for name in ("r1", "r2"))
    first.ready(), second.ready()
    world.owned("r1", "r2")
    for number in range(60):
        world.submit(f"a{number}", number % REQUESTS_PARTITIONS)
    world.decided(*(f"a{number}" for number in range(60)))

    began = time.monotonic()
    first.process.send_signal(signal.SIGTERM)
    assert first.ended() == 0
    for number in range(REQUESTS_PARTITIONS):
        world.submit(f"b{number}", number)
    world.decided(*(f"b{number}" for number in range(REQUESTS_PARTITIONS)))
    assert time.monotonic() - began < 40, "its partitions waited for the session to end"
    world.owned("r2")
    second.process.send_signal(signal.SIGTERM)
    assert second.ended() == 0
    assert world.committed() == [11] * REQUESTS_PARTITIONS


@pytest.mark.real_kafka
def test_partitions_of_a_killed_replica_are_taken_over(world: World) -> None:
    replicas = [world.replica(name) for name in ("r1", "r2")]
    world.owned("r1", "r2")
    replicas[0].process.kill()
    for number in range(REQUESTS_PARTITIONS):
        world.submit(f"a{number}", number)
    world.decided(*(f"a{number}" for number in range(REQUESTS_PARTITIONS)))
    world.owned("r2")
    assert {decision.replica for decision in world.decisions.values()} <= {"r1", "r2"}


def test_a_replica_serves_on_the_embedded_broker(prefix: str) -> None:
    broker = EmbeddedBroker()
    broker.start()
    settings = Settings(kafka={"bootstrap.servers": broker.bootstrap}, topics=TopicsSettings(prefix=prefix))
    topic_creation.create_embedded(broker, settings)
    world = World(settings)
    try:
        replica = world.replica().ready()
        world.submit("a")
        assert world.decided("a").result == "no_valid_host"
        replica.process.send_signal(signal.SIGTERM)
        assert replica.ended() == 0
    finally:
        world.close()
        broker.stop()


def test_a_replica_that_was_told_to_stop_takes_no_partition_up_and_reads_no_requests_it_waited_to_read(
    prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = EmbeddedBroker()
    broker.start()
    settings = Settings(kafka={"bootstrap.servers": broker.bootstrap}, topics=TopicsSettings(prefix=prefix))
    topic_creation.create_embedded(broker, settings)
    known = client.require_broker(settings)
    facts = topics.facts(client.admin(settings), settings, known)
    fitted = client.settings_for(settings, known)
    replica = shell.Scheduler("r1", fitted, facts, SchedulerFigures("r1", "default"), lambda: False, lambda: "")
    world = World(settings)
    try:
        replica._catch_up()
        for partition in (0, 1):
            world.submit("a", partition)
            world.write(world.names.decisions, partition, b"b", b"{}")  # so that there is something to be read first
        coming: list[Gained | Ceded] = [Gained(0, -1)]
        monkeypatch.setattr(replica.intake, "poll", lambda: [coming.pop() for _ in coming[:]])

        def asked() -> bool:
            replica._turn(0.01)
            return 0 in replica.partitions.histories

        wait_for("the history of partition 0", asked)
        coming.append(Gained(1, -1))
        monkeypatch.setattr(shell, "SETTLE_ON_LEAVE_MS", 1_000)
        monkeypatch.setattr(Core, "waiting", 1)  # something that it claimed is open
        replica._leave()
        assert (coming, replica.partitions.histories) == ([], {})
        assert [replica.tail.position(world.names.requests, partition) for partition in (0, 1)] == [-1, -1]
        assert (replica.replica.book.parts, replica.replica.book.works) == ({}, {})
    finally:
        replica.intake.leave()
        replica.outbox.close(1.0)
        replica.tail.close()
        world.close()
        broker.stop()


# --- bad luck --------------------------------------------------------------------------------------------------------


@pytest.mark.real_kafka
def test_a_replica_that_lost_records_while_it_was_paused_rebuilds_and_serves(world: World) -> None:
    reporter = Reporter(world.settings)
    partition = partition_of("old", world.settings.topics.hosts_partitions)
    reporter.host("old")
    replica = world.replica().ready()
    assert replica.metric("commonplace_hosts") == 1

    replica.process.send_signal(signal.SIGSTOP)
    for _ in range(5):
        low = reporter.host("old")
    world.set_policy(world.names.hosts, "compact,delete")  # the broker deletes no compacted records
    delete_before(world.settings.bootstrap, world.names.hosts, partition, low)
    world.set_policy(world.names.hosts, "compact")
    replica.process.send_signal(signal.SIGCONT)

    wait_for("a rebuild", lambda: replica.metric("commonplace_rebuilds_total") == 1, lambda: "".join(replica.log))
    replica.ready()
    assert replica.said(r"rebuilding: .*hosts \[\d\]: offset \d+ is no longer in the log")
    assert replica.metric("commonplace_alarms_total") == 1
    assert replica.metric("commonplace_hosts") == 1
    world.submit("a", flavor="huge")
    assert world.decided("a").result == "no_valid_host"


@pytest.mark.real_kafka
def test_a_requests_topic_made_anew_is_read_from_its_start(world: World) -> None:
    replica = world.replica(env=OFTEN).ready()
    for number in range(3):
        world.submit(f"old-{number}")
    world.decided(*(f"old-{number}" for number in range(3)))
    wait_for("a commit", lambda: world.committed()[0] == 3)

    world.make_anew(world.names.requests)
    # as many as were committed before: an offset taken for one of the new topic would skip them all
    for number in range(3):
        world.submit(f"new-{number}")
    world.decided(*(f"new-{number}" for number in range(3)))
    replica.ready()
    assert replica.metric("commonplace_alarms_total") >= 1
    assert replica.metric("commonplace_rebuilds_total") >= 1
    wait_for("a commit", lambda: world.committed()[0] == 3)


@pytest.mark.real_kafka
def test_a_hosts_topic_made_anew_makes_a_replica_forget_the_old_hosts(world: World) -> None:
    reporter = Reporter(world.settings)
    for number in range(4):
        reporter.host(f"old-{number}")
    replica = world.replica(env=OFTEN).ready()
    assert replica.metric("commonplace_hosts") == 4
    world.make_anew(world.names.hosts)
    wait_for("a rebuild", lambda: replica.metric("commonplace_rebuilds_total") >= 1, lambda: "".join(replica.log))
    replica.ready()
    reporter.host("new")
    wait_for("the new host alone", lambda: replica.metric("commonplace_hosts") == 1)
    assert replica.metric("commonplace_alarms_total") >= 1
    world.submit("a", flavor="huge")
    assert world.decided("a").result == "no_valid_host"


@pytest.mark.real_kafka
def test_a_topic_set_wrong_under_way_makes_it_not_ready_until_it_is_mended(world: World) -> None:
    replica = world.replica(env=OFTEN).ready()
    world.set_policy(world.names.hosts, "delete")
    wait_for("not ready", lambda: replica.get("/readyz")[0] == 503)
    reason = replica.get("/readyz")[1]
    assert f"{world.names.hosts}: cleanup.policy is delete, must be compact" in reason
    world.submit("meanwhile")
    world.decided("meanwhile")
    world.set_policy(world.names.hosts, "compact")
    replica.ready()
    assert sum("not ready" in line for line in replica.log) == 1
    assert replica.metric("commonplace_rebuilds_total") == 0


def test_a_port_in_use_is_one_line(kafka: KafkaUnderTest) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        answer = cli.run("scheduler", "--name", "r1", "--http", address, "-b", kafka.bootstrap)
    cli.assert_one_line(answer, 1, f"--http {address}", "another port")


def test_topics_that_are_missing_at_the_start_are_one_line(kafka: KafkaUnderTest, prefix: str) -> None:
    answer = cli.run("scheduler", "--name", "r1", "-b", kafka.bootstrap, "--prefix", prefix)
    cli.assert_one_line(answer, 6, prefix)


# --- pauses ----------------------------------------------------------------------------------------------------------


@pytest.mark.real_kafka
def test_requests_wait_in_the_log_while_too_many_answers_are_not_acknowledged(world: World) -> None:
    # one answer to a request to the broker: hundreds are more than a turn's flush sees acknowledged, whatever the machine does
    slow = {"COMMONPLACE__SCHEDULER__UNACKNOWLEDGED_MAX": "1", "COMMONPLACE__KAFKA__BATCH_NUM_MESSAGES": "1"}
    replica = world.replica(env={**slow, **LONG_SESSION}).ready()
    world.owned("r1")
    requests = [f"r-{number}" for number in range(600)]
    replica.process.send_signal(signal.SIGSTOP)
    for number, request in enumerate(requests):
        build = encode(Build(id=request, flavor="huge"))
        world.producer.produce(world.names.requests, build, b"huge", number % REQUESTS_PARTITIONS)
    world.producer.flush(WAIT_S)
    replica.process.send_signal(signal.SIGCONT)
    world.decided(*requests)
    assert replica.metric("commonplace_intake_pauses_total") >= 1
    wait_for("commits", lambda: sum(world.committed()) == len(requests))


@pytest.mark.real_kafka
def test_a_replica_that_stood_still_reads_what_hosts_said_before_it_judges_them(world: World) -> None:
    impatient = {"COMMONPLACE__SCHEDULER__LIVENESS_TIMEOUT_S": "3", "COMMONPLACE__AGENT__HEARTBEAT_INTERVAL_S": "0.5"}
    world.start("fleet", "--hosts", "2", "--log-level", "error", env=impatient)
    small = {"COMMONPLACE__KAFKA__MAX_PARTITION_FETCH_BYTES": "10000"}
    replica = world.replica(env={**impatient, **small, **LONG_SESSION}).ready()
    world.owned("r1")
    wait_for("both hosts", lambda: replica.metric("commonplace_hosts", status="enabled") == 2)
    replica.process.send_signal(signal.SIGSTOP)
    # more than many fetches take, so that the heartbeats of the pause come later than the requests
    for number in range(12_000):
        name = f"late-{number}"
        partition = partition_of(name, world.settings.topics.hosts_partitions)
        world.producer.produce(world.names.hosts, encode(Start(host=name)), start_key(name), partition)
    world.producer.flush(WAIT_S)
    requests = [f"r-{number}" for number in range(REQUESTS_PARTITIONS)]
    for partition, request in enumerate(requests):
        world.submit(request, partition)
    time.sleep(5)
    replica.process.send_signal(signal.SIGCONT)
    world.decided(*requests)
    assert {world.decisions[request].result for request in requests} == {"placed"}
    assert replica.said("stood still for")
