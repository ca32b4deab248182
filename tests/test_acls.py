"""The ACLs of deploy/kafka-acls.sh on an Apache Kafka that enforces them: each role can do its work, and no more."""

import logging
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

import cli
from commonplace import settings as settings_module
from commonplace.core.codec import encode
from commonplace.core.records.control import Flavor
from commonplace.core.records.requests import Build
from commonplace.errors import Denied
from commonplace.kafka import client, control, topic_creation, topics
from commonplace.kafka.broker import LocalBroker
from commonplace.kafka.jars import BrokerError
from commonplace.kafka.ports import free_port
from commonplace.settings import Settings
from kafka_fixtures import TEST_JAVA_OPTIONS, skip_or_fail
from test_agent_process import ask

SCRIPT = Path(__file__).parent.parent / "deploy" / "kafka-acls.sh"
QUIET = logging.getLogger("test-client")
WAIT_S = 20.0
PASSWORD = "not-a-secret"

TOPICS = ("hosts", "claims", "requests", "decisions", "control", "commands", "replicas", "quarantine")
# Who may do what, from the table of topics in docs/topics.md.
WRITES = {
    "frontend": {"requests", "claims", "quarantine"},
    "agent": {"hosts", "quarantine"},
    "replica": {"claims", "decisions", "replicas", "quarantine"},
    "operator": {"control", "commands", "quarantine"},
    "forgetter": {"hosts"},
}
READS = {
    "frontend": {"requests", "decisions", "replicas", "control", "hosts"},
    "agent": {"hosts", "claims", "control"},
    "replica": set(TOPICS),
    "operator": set(TOPICS),
    "forgetter": set(),
}
ROLES = sorted(WRITES)


class Guarded:
    """A broker with two doors: anonymous, where everything is allowed, and with a password, where ACLs hold."""

    def __init__(self) -> None:
        self.sasl = free_port()
        plain, controller = free_port(taken=self.sasl), free_port(taken=self.sasl)
        users = " ".join(f'user_{role}="{PASSWORD}"' for role in [*ROLES, "nobody"])
        login = f"org.apache.kafka.common.security.plain.PlainLoginModule required {users};"
        self.broker = LocalBroker(
            port=plain,
            java_options=TEST_JAVA_OPTIONS,
            properties={
                "listeners": f"PLAINTEXT://127.0.0.1:{plain},SASL://127.0.0.1:{self.sasl},"
                f"CONTROLLER://127.0.0.1:{controller}",
                "advertised.listeners": f"PLAINTEXT://127.0.0.1:{plain},SASL://127.0.0.1:{self.sasl}",
                "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller}",
                "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,SASL:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
                "sasl.enabled.mechanisms": "PLAIN",
                "listener.name.sasl.plain.sasl.jaas.config": login,
                "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
                "super.users": "User:ANONYMOUS",
            },
        )

    def settings(self, user: str | None) -> Settings:
        kafka: dict[str, Any] = {"bootstrap.servers": self.broker.bootstrap}
        if user is not None:
            kafka = {
                "bootstrap.servers": f"127.0.0.1:{self.sasl}",
                "security.protocol": "SASL_PLAINTEXT",
                "sasl.mechanism": "PLAIN",
                "sasl.username": user,
                "sasl.password": PASSWORD,
            }
        return settings_module.load(flags={"kafka": kafka}, environ={}, system_config=Path("/nonexistent"))


def bindings(role: str) -> list[AclBinding]:
    """What the script's lines would create."""
    printed = subprocess.run(["/bin/sh", str(SCRIPT), role, f"User:{role}"], capture_output=True, text=True, check=True)
    lines = subprocess.run(
        ["/bin/sh"], input=printed.stdout, capture_output=True, text=True, check=True, env={"KAFKA_ACLS": "echo"}
    )
    return [binding for line in lines.stdout.splitlines() for binding in _line(line.split())]


def _line(words: list[str]) -> Iterator[AclBinding]:
    assert words.pop(0) == "--add"
    options: dict[str, list[str]] = {}
    for name, value in zip(words[::2], words[1::2], strict=True):
        options.setdefault(name, []).append(value)
    (principal,) = options.pop("--allow-principal")
    operations = options.pop("--operation")
    (pattern,) = options.pop("--resource-pattern-type", ["literal"])
    for kind, names in options.items():
        for name in names:
            for operation in operations:
                yield AclBinding(
                    {"--topic": ResourceType.TOPIC, "--group": ResourceType.GROUP}[kind],
                    name,
                    ResourcePatternType[pattern.upper()],
                    principal,
                    "*",
                    {
                        "Read": AclOperation.READ,
                        "Write": AclOperation.WRITE,
                        "Create": AclOperation.CREATE,
                        "Describe": AclOperation.DESCRIBE,
                        "DescribeConfigs": AclOperation.DESCRIBE_CONFIGS,
                    }[operation],
                    AclPermissionType.ALLOW,
                )


@pytest.fixture(scope="module")
def guarded() -> Iterator[Guarded]:
    guarded = Guarded()
    try:
        guarded.broker.start()
    except BrokerError as error:
        guarded.broker.close()
        skip_or_fail(f"this test needs an Apache Kafka that enforces ACLs: {error}")
    anonymous = guarded.settings(None)
    admin = client.admin(anonymous)
    for role in ROLES:
        for future in admin.create_acls(bindings(role)).values():
            future.result(WAIT_S)
    operator = guarded.settings("operator")
    topic_creation.create(client.admin(operator), operator, client.require_broker(operator))
    producer = client.producer(anonymous)
    for topic in TOPICS:
        producer.produce(name_of(topic), b"{}", b"first", partition=0)
    assert producer.flush(WAIT_S) == 0
    yield guarded
    guarded.broker.close()


def name_of(topic: str) -> str:
    names = topics.Topics("commonplace", "default")
    return str(getattr(names, topic))


def may_write(settings: Settings, topic: str) -> bool:
    outcomes: list[KafkaError | None] = []
    producer = Producer(client.producer_config(settings), logger=QUIET)
    producer.produce(name_of(topic), b"{}", b"try", 0, on_delivery=lambda error, _: outcomes.append(error))
    assert producer.flush(WAIT_S) == 0
    (outcome,) = outcomes
    assert outcome is None or outcome.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED, outcome
    return outcome is None


def may_read(settings: Settings, topic: str) -> bool:
    consumer = Consumer(client.consumer_config(settings), logger=QUIET)
    consumer.assign([TopicPartition(name_of(topic), 0, 0)])
    message = consumer.poll(WAIT_S)
    consumer.close()
    assert message is not None
    error = message.error()
    assert error is None or error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED, error
    return error is None


@pytest.mark.parametrize("role", ROLES)
def test_role_writes_its_topics_and_no_others(guarded: Guarded, role: str) -> None:
    assert {topic for topic in TOPICS if may_write(guarded.settings(role), topic)} == WRITES[role]


@pytest.mark.parametrize("role", ROLES)
def test_role_reads_its_topics_and_no_others(guarded: Guarded, role: str) -> None:
    assert {topic for topic in TOPICS if may_read(guarded.settings(role), topic)} == READS[role]


@pytest.mark.parametrize("role", ROLES)
def test_role_can_verify_all_topics_at_start(guarded: Guarded, role: str) -> None:
    broker, facts, _ = topics.require_topics(guarded.settings(role))
    assert broker.brokers == 1
    assert {name_of(topic) for topic in TOPICS} == set(facts)


def test_replica_joins_the_group_of_its_pool_and_commits(guarded: Guarded) -> None:
    settings = guarded.settings("replica")
    consumer = Consumer(client.consumer_config(settings, "commonplace.default.replicas"), logger=QUIET)
    consumer.subscribe([name_of("requests")])
    deadline = time.monotonic() + WAIT_S
    while not consumer.assignment() and time.monotonic() < deadline:
        consumer.poll(0.1)
    consumer.commit(offsets=[TopicPartition(name_of("requests"), 0, 1)], asynchronous=False)
    (committed,) = consumer.committed([TopicPartition(name_of("requests"), 0)], timeout=WAIT_S)
    consumer.close()
    assert committed.offset == 1


def test_a_cancel_that_the_broker_refuses_is_not_called_written(guarded: Guarded) -> None:
    anonymous = guarded.settings(None)
    producer = client.producer(anonymous)
    flavor, build = Flavor(name="m1.small", resources={"VCPU": 1}), Build(id="order-1", flavor="m1.small")
    producer.produce(name_of("control"), encode(flavor), b"flavor/m1.small", 0)
    producer.produce(name_of("requests"), encode(build), b"m1.small", 0)
    assert producer.flush(WAIT_S) == 0
    done = run_as(guarded, "operator", "cancel", "order-1")
    assert (done.returncode, "refuses the cancel" in done.stderr, "written" in done.stderr) == (7, True, False)
    done = run_as(guarded, "frontend", "cancel", "order-1")
    assert (done.returncode, "cancel of order-1 written" in done.stderr) == (0, True), done.stderr


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("requests", 0, ""),
        ("plan --flavor m1.tiny", 3, ""),
        ("submit --flavor m1.tiny --plan", 3, ""),
        ("capacity", 0, ""),
        ("hosts", 0, ""),
        ("release order-9", 2, "nothing is held under order-9"),
        ("decision show order-9", 2, "nothing in the log"),
    ],
)
def test_the_everyday_commands_need_no_more_than_the_frontends_acls(
    guarded: Guarded, command: str, code: int, said: str
) -> None:
    anonymous = guarded.settings(None)
    control.write(anonymous, {"flavor/m1.tiny": encode(Flavor(name="m1.tiny", resources={"VCPU": 1}))})
    done = run_as(guarded, "frontend", *command.split())
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr


def run_as(guarded: Guarded, role: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """A command as a process with the password of a role."""
    kafka = guarded.settings(role).kafka
    env = {f"COMMONPLACE__KAFKA__{name.upper().replace('.', '_')}": str(value) for name, value in kafka.items()}
    return cli.run(*arguments, env=env)


def test_user_without_acls_is_denied(guarded: Guarded) -> None:
    with pytest.raises((Denied, KafkaException)):
        topics.require_topics(guarded.settings("nobody"))


def test_only_the_operator_creates_topics(guarded: Guarded) -> None:
    for role in ROLES:
        settings = guarded.settings(role)
        other_pool = settings_module.load(
            flags={"kafka": settings.kafka, "topics": {"pool": f"pool-{role}"}},
            environ={},
            system_config=Path("/nonexistent"),
        )
        admin: AdminClient = client.admin(other_pool)
        if role == "operator":
            assert topic_creation.create(admin, other_pool, client.require_broker(other_pool))
        else:
            with pytest.raises(Denied):
                topic_creation.create(admin, other_pool, client.require_broker(other_pool))


def test_an_agent_that_is_refused_for_a_while_serves_its_hosts_again(guarded: Guarded, tmp_path: Path) -> None:
    (file := tmp_path / "inventory.toml").write_text("[hosts.node-1.inventory.VCPU]\ntotal = 8\n")
    kafka = guarded.settings("agent").kafka
    env = {f"COMMONPLACE__KAFKA__{key.upper().replace('.', '_')}": str(value) for key, value in kafka.items()}
    words = ["agent", "--name", "a", "--driver", "static", "--file", str(file), "--http", "127.0.0.1:0"]
    agent = cli.start(*words, env=env)
    assert agent.stderr is not None

    def logged(pattern: str) -> str:
        for line in agent.stderr or ():
            if found := re.search(pattern, line):
                return found[0]
        raise AssertionError(f"the agent ended with {agent.wait()}, and never said {pattern}")

    def until(holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 2 * WAIT_S
        while not holds():
            assert time.monotonic() < deadline
            time.sleep(0.1)

    admin = client.admin(guarded.settings(None))
    try:
        address = logged(r"http://[0-9.:]+")
        until(lambda: ask(f"{address}/readyz")[0] == 200)
        (reads,) = [b for b in bindings("agent") if (b.name, b.operation) == (name_of("claims"), AclOperation.READ)]
        what = (reads.restype, reads.name, reads.resource_pattern_type, reads.principal, reads.host)
        for future in admin.delete_acls([AclBindingFilter(*what, reads.operation, reads.permission_type)]).values():
            assert future.result(WAIT_S)
        logged("starting all hosts anew")
        assert ask(f"{address}/readyz")[0] == 503
        for future in admin.create_acls([reads]).values():
            future.result(WAIT_S)
        until(lambda: ask(f"{address}/readyz")[0] == 200)
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(WAIT_S) == 0
    finally:
        agent.kill()
        agent.communicate()
