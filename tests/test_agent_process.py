"""Agent and fleet as processes on a real broker: a claim written by hand, kills, fences, found instances, health."""

import json
import logging
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer

import cli
from commonplace.agent.looks import CLAIMED_MS, LOOK_MS
from commonplace.core import hashing
from commonplace.core.codec import decode, encode
from commonplace.core.host_keys import parse_key
from commonplace.core.hosts import HostState, fold
from commonplace.core.partition import partition_of
from commonplace.core.records.claims import Claim, Confirm, Release
from commonplace.core.records.control import HostControl
from commonplace.core.records.hosts import Allocation
from commonplace.kafka import client, control, topic_creation, topics
from commonplace.kafka.broker import LocalBroker
from commonplace.kafka.tail import Tail
from commonplace.settings import VARIABLE_PREFIX, Settings, TopicsSettings
from kafka_fixtures import KafkaUnderTest

pytestmark = pytest.mark.real_kafka

WAIT_S = 40.0
PARTITIONS = 4
INVENTORY = """
[hosts.node-1.inventory.VCPU]
total = 8
[hosts.node-2.inventory.VCPU]
total = 8
"""


ONE_HOST = """
[hosts.node-1.inventory.VCPU]
total = 8
"""


class World:
    """Topics of one test, the agents that it started, and what a replica would know."""

    def __init__(self, bootstrap: str, prefix: str, directory: Path) -> None:
        self.settings = Settings(kafka={"bootstrap.servers": bootstrap}, topics=TopicsSettings(prefix=prefix))
        self.names = topics.Topics(prefix, "default")
        topic_creation.create(client.admin(self.settings), self.settings, client.require_broker(self.settings))
        self.file = directory / "inventory.toml"
        self.file.write_text(INVENTORY)
        self.tail = Tail(self.settings)
        for partition in range(PARTITIONS):
            self.tail.add(self.names.hosts, partition, 0)
        self.hosts: dict[str, HostState] = {}
        self.verdicts: dict[int, list[str]] = {}
        """claims offset → what reports said of it; every report counted once, in log order"""
        self.processes: list[subprocess.Popen[str]] = []
        self.producer = Producer({"bootstrap.servers": bootstrap}, logger=logging.getLogger("test"))

    def start(self, *arguments: str, failpoint: str = "", counted_ms: int = 0) -> subprocess.Popen[str]:
        """Start a process; with `counted_ms` it counts its requests to the broker that often."""
        common = ["-b", self.settings.bootstrap, "--prefix", self.names.prefix]
        env = {"COMMONPLACE_FAILPOINTS": failpoint} if failpoint else {}
        if counted_ms:
            env[f"{VARIABLE_PREFIX}KAFKA__STATISTICS_INTERVAL_MS"] = str(counted_ms)
        process = cli.start(*arguments, *common, env=env)
        self.processes.append(process)
        return process

    def agent(self, name: str = "a1", failpoint: str = "") -> subprocess.Popen[str]:
        return self.start("agent", "--name", name, "--driver", "static", "--file", str(self.file), failpoint=failpoint)

    def write(self, record: Claim | Confirm | Release) -> None:
        partition = partition_of(record.host, PARTITIONS)
        self.producer.produce(self.names.claims, encode(record), record.host.encode(), partition)
        assert self.producer.flush(WAIT_S) == 0

    def claim(self, allocation: str, host: str = "node-1", vcpus: int = 2, lease_ms: int = 60_000) -> None:
        asked = Allocation(id=allocation, instance=f"vm-{allocation}", resources={"VCPU": vcpus})
        expected = hashing.to_hex(self.hosts[host].hash)
        record = Claim(host=host, request=f"r-{allocation}", expected=expected, lease_ms=lease_ms, allocations=[asked])
        self.write(record)

    def until(self, what: str, holds: Callable[[], bool]) -> None:
        """Fold hosts until it holds."""
        deadline = time.monotonic() + WAIT_S
        while not holds():
            assert time.monotonic() < deadline, f"never came: {what}; {[p.poll() for p in self.processes]}"
            for batch in self.tail.turn(0.1):
                for offset, time_ms, key, value in batch.records:
                    self.fold(offset, time_ms, key, value)

    def fold(self, offset: int, time_ms: int, key: bytes | None, value: bytes | None) -> None:
        parsed = parse_key(key)
        assert parsed is not None
        state = self.hosts.setdefault(parsed.host, HostState(parsed.host))
        outcome, _ = fold(state, parsed, offset, time_ms, value)
        if outcome == "applied" and value is not None:
            for settled in getattr(decode("hosts", value), "settled", []):
                self.verdicts.setdefault(settled.offset, []).append(settled.verdict)

    def serving(self, host: str = "node-1", above_epoch: int = -1) -> None:
        def holds() -> bool:
            state = self.hosts.get(host)
            return state is not None and not state.stale and state.epoch > above_epoch

        self.until(f"{host} serves", holds)

    def holds(self, *allocations: str, host: str = "node-1") -> None:
        self.until(f"{host} holds {allocations}", lambda: set(self.hosts[host].allocations) == set(allocations))

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()
        self.tail.close()


@pytest.fixture
def world(kafka: KafkaUnderTest, prefix: str, tmp_path: Path) -> Iterator[World]:
    world = World(kafka.bootstrap, prefix, tmp_path)
    yield world
    world.close()


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and stderr."""
    _, stderr = process.communicate(timeout=WAIT_S)
    return process.returncode, stderr


def test_a_claim_is_granted_confirmed_up_and_released(world: World) -> None:
    agent = world.agent()
    world.serving()
    world.claim("a")
    world.holds("a")
    held = world.hosts["node-1"].allocations["a"]
    assert (held.state, held.building, held.lease_ms) == ("leased", True, 60_000)
    world.write(Confirm(host="node-1", request="r-a", allocation="a"))
    world.until("up", lambda: not world.hosts["node-1"].allocations["a"].building)
    assert world.hosts["node-1"].allocations["a"].state == "active"
    world.write(Release(host="node-1", request="r-a", allocation="a"))
    world.holds()

    agent.send_signal(signal.SIGTERM)
    code, stderr = ended(agent)
    assert code == 0, stderr
    assert "Traceback" not in stderr


@pytest.mark.parametrize(
    "failpoint",
    # the first report is the host's first snapshot, the second tells of the claim
    ["after_claims_read:1", "before_report:2", "before_report_ack:2"],
)
def test_a_claim_takes_effect_once_however_its_agent_was_killed(world: World, failpoint: str) -> None:
    world.file.write_text(ONE_HOST)
    agent = world.agent(failpoint=failpoint)
    world.serving()
    world.claim("a")
    code, stderr = ended(agent)
    assert code == -signal.SIGKILL, stderr

    world.agent()
    world.serving(above_epoch=world.hosts["node-1"].epoch)
    world.holds("a")
    assert list(world.verdicts.values()) == [["granted"]]


@pytest.mark.parametrize("failpoint", ["before_report:1", "before_report_ack:1"])
def test_an_agent_killed_as_it_starts_leaves_a_host_that_the_next_one_serves(world: World, failpoint: str) -> None:
    world.file.write_text(ONE_HOST)
    code, stderr = ended(world.agent(failpoint=failpoint))
    assert code == -signal.SIGKILL, stderr
    world.until("its start record", lambda: "node-1" in world.hosts)
    world.agent("again")
    world.until("the next agent serves", lambda: world.hosts["node-1"].agent == "again")
    world.claim("a")
    world.holds("a")


def test_a_claim_met_while_no_agent_ran_is_settled_at_the_next_start(world: World) -> None:
    agent = world.agent()
    world.serving()
    agent.kill()
    agent.wait(WAIT_S)
    world.claim("a")
    world.agent()
    world.holds("a")
    assert list(world.verdicts.values()) == [["granted"]]


def test_a_second_agent_fences_the_first_which_ends_with_its_own_code(world: World) -> None:
    first = world.agent("first")
    world.serving()
    second = world.agent("second")
    world.serving(above_epoch=world.hosts["node-1"].epoch)
    code, stderr = ended(first)
    assert code == 7, stderr
    assert "was taken over by second" in stderr
    assert "Traceback" not in stderr
    world.claim("a")
    world.holds("a")
    assert second.poll() is None


def test_an_agent_with_nothing_to_do_looks_at_reports_now_and_then_and_still_sees_who_takes_its_host(
    world: World,
) -> None:
    world.file.write_text(ONE_HOST)
    arguments = ("agent", "--name", "first", "--driver", "static", "--file", str(world.file), "--http", "127.0.0.1:0")
    first = world.start(*arguments, counted_ms=200)
    address = http_address(first)
    world.serving()
    time.sleep(
        (CLAIMED_MS + 2 * LOOK_MS) / 1000
    )  # the fetch under way when it stops reading comes back within a second

    def fetches() -> float:
        told = re.search(
            r'commonplace_broker_requests_total{request="Fetch"} ([0-9.e+]+)', ask(f"{address}/metrics")[1]
        )
        return float(told[1]) if told else 0.0

    before, partition = fetches(), partition_of("node-1", PARTITIONS)
    for number in range(300):  # what hosts of other agents report on the same partition
        world.producer.produce(world.names.hosts, b"{}", f"other-{number}/1/delta".encode(), partition)
        assert world.producer.flush(WAIT_S) == 0
        time.sleep(0.01)
    time.sleep(0.5)
    assert 0 < fetches() - before < 60  # read as they come they are 300

    world.agent("second")
    code, stderr = ended(first)
    assert code == 7, stderr


def test_instances_that_run_already_are_never_booked_over_and_free_their_room_when_gone(
    world: World, tmp_path: Path
) -> None:
    running = tmp_path / "running.json"
    running.write_text(json.dumps([{"instance": "old-vm", "resources": {"VCPU": 7}}]))
    world.file.write_text('[hosts.node-1]\nfound_file = "running.json"\n[hosts.node-1.inventory.VCPU]\ntotal = 8\n')
    agent = world.agent()
    world.serving()
    # already the first report counts it, so that no claim can slip in before
    assert world.hosts["node-1"].used == {"VCPU": 7}
    assert world.hosts["node-1"].allocations["found:old-vm"].origin == "found"
    world.claim("a")
    world.until("a verdict", lambda: bool(world.verdicts))
    assert list(world.verdicts.values()) == [["rejected"]]

    agent.kill()
    agent.wait(WAIT_S)
    running.write_text("[]")  # ended while no agent ran
    world.agent()
    world.serving(above_epoch=world.hosts["node-1"].epoch)
    world.holds()
    world.claim("b")
    world.holds("b")


def test_an_operators_word_reaches_the_host(world: World) -> None:
    control.write(world.settings, {"host/node-1": encode(HostControl(name="node-1", status="draining"))})
    world.agent()
    world.serving()
    assert world.hosts["node-1"].status == "draining"
    control.write(world.settings, {"host/node-1": None})
    world.until("enabled", lambda: world.hosts["node-1"].status == "enabled")


def test_garbage_on_every_topic_an_agent_reads_is_put_aside_and_stops_nothing(world: World) -> None:
    world.agent()
    world.serving()
    partition = partition_of("node-1", PARTITIONS)
    epoch = world.hosts["node-1"].epoch
    for topic, number, key in (
        (world.names.claims, partition, b"node-1"),
        (world.names.hosts, partition, f"node-1/{epoch}".encode()),
        (world.names.control, 0, b"host/node-1"),
    ):
        for value in (b"garbage", b"[" * 5_000, b'{"type":"claim","v":7}', b"\xff\xfe"):
            world.producer.produce(topic, value, key, number)
    assert world.producer.flush(WAIT_S) == 0
    world.until("a good record after the bad", lambda: world.hosts["node-1"].generation >= 3)
    world.serving()
    world.claim("a")
    world.holds("a")
    quarantine: list[bytes] = []
    world.tail.add(world.names.quarantine, 0, 0)
    deadline = time.monotonic() + WAIT_S
    expected = 3 * 4 - 1  # a report of a newer version is no garbage: it is never put aside
    while len(quarantine) < expected and time.monotonic() < deadline:
        for batch in world.tail.turn(0.1):
            if batch.topic == world.names.quarantine:
                quarantine += [value or b"" for *_, value in batch.records]
    met = [decode("quarantine", value) for value in quarantine]
    assert sorted({q.topic for q in met}) == sorted({world.names.claims, world.names.hosts, world.names.control})
    assert len(met) == expected


def test_what_is_put_aside_stands_in_quarantine_before_any_report_passes_it(world: World) -> None:
    world.file.write_text(ONE_HOST)
    agent = world.agent(failpoint="before_report:2")  # the report that tells of the bad claim
    world.serving()
    world.producer.produce(world.names.claims, b"garbage", b"node-1", partition_of("node-1", PARTITIONS))
    assert world.producer.flush(WAIT_S) == 0
    code, stderr = ended(agent)
    assert code == -signal.SIGKILL, stderr
    assert world.tail.range(world.names.quarantine, 0) == (0, 1)


def test_a_host_whose_log_may_hide_a_part_of_its_ledger_is_not_started(world: World) -> None:
    world.file.write_text(ONE_HOST)
    partition = partition_of("node-1", PARTITIONS)
    world.producer.produce(world.names.hosts, None, b"node-1/7", partition)  # so that epoch 0 has an offset of its own
    world.producer.produce(world.names.hosts, b"garbage", b"node-1/0", partition)
    assert world.producer.flush(WAIT_S) == 0
    code, stderr = ended(world.agent())
    assert code == 1, stderr
    assert "host node-1 is not started: its ledger may be incomplete: record under key node-1/0" in stderr
    assert "Traceback" not in stderr


def test_a_claims_topic_made_anew_starts_the_hosts_anew(world: World) -> None:
    """Deleting a live topic is an operator's mistake; the agent must notice it and go on from the new one."""
    world.agent()
    world.serving()
    for _ in range(3):
        world.write(Release(host="node-1", request="x", allocation="x"))
    world.until("settled", lambda: len(world.verdicts) == 3)
    epoch = world.hosts["node-1"].epoch
    admin = client.admin(world.settings)
    admin.delete_topics([world.names.claims])[world.names.claims].result(WAIT_S)
    time.sleep(1)
    topic_creation.create(admin, world.settings, client.require_broker(world.settings))
    world.serving(above_epoch=epoch)
    world.claim("a")
    world.holds("a")


def test_a_broker_that_is_killed_and_comes_back_loses_no_grant_and_no_agent(
    own_broker: LocalBroker, prefix: str, tmp_path: Path
) -> None:
    world = World(own_broker.bootstrap, prefix, tmp_path)
    try:
        agent = world.agent()
        world.serving()
        world.claim("a")
        world.holds("a")
        world.write(Confirm(host="node-1", request="r-a", allocation="a"))
        world.claim("brief", lease_ms=1_500)  # lapses while nobody can say where the claims end
        world.holds("a", "brief")
        own_broker.kill()
        time.sleep(3)
        own_broker.start()
        world.holds("a")
        world.claim("b")
        world.holds("a", "b")
        assert agent.poll() is None
    finally:
        world.close()


def test_health_and_metrics_of_a_fleet(world: World) -> None:
    fleet = world.start("fleet", "--hosts", "30", "--http", "127.0.0.1:0", "--name", "f1")
    address = http_address(fleet)
    deadline = time.monotonic() + WAIT_S
    while ask(f"{address}/readyz")[0] != 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    world.serving("host-00001")
    world.claim("a", host="host-00001")
    world.holds("a", host="host-00001")
    text = ask(f"{address}/metrics")[1]
    assert 'commonplace_claims_total{verdict="granted"} 1.0' in text
    assert 'commonplace_hosts{status="serving"} 30.0' in text
    assert 'commonplace_build_info{agent="f1"' in text
    assert "host-00001" not in text
    fleet.send_signal(signal.SIGTERM)
    assert ended(fleet)[0] == 0


def http_address(process: subprocess.Popen[str]) -> str:
    """Where it says that it answers."""
    assert process.stderr is not None
    found = None
    while found is None:
        found = re.search(r"http://[0-9.:]+", process.stderr.readline())
    return found[0]


def ask(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_a_port_in_use_is_one_line(world: World) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        answer = cli.run("fleet", "--hosts", "1", "--http", address, "-b", world.settings.bootstrap)
    cli.assert_one_line(answer, 1, f"--http {address}", "another port")


@pytest.mark.parametrize("component", [("fleet", "--hosts", "1"), ("scheduler", "--name", "r1")])
def test_unequal_partition_counts_are_one_line(kafka: KafkaUnderTest, prefix: str, component: tuple[str, ...]) -> None:
    settings = Settings(
        kafka={"bootstrap.servers": kafka.bootstrap}, topics=TopicsSettings(prefix=prefix, claims_partitions=2)
    )
    topic_creation.create(client.admin(settings), settings, client.require_broker(settings))
    answer = cli.run(
        *component, "-b", kafka.bootstrap, "--prefix", prefix, "--log-level", "error",
        env={"COMMONPLACE__TOPICS__CLAIMS_PARTITIONS": "2"},
    )  # fmt: skip
    cli.assert_one_line(answer, 6, f"{prefix}.default.claims", "partitions is 2, must be 4", "set both counts alike")
