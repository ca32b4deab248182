"""What a person sees when a component can't start: one line that says what to do, the documented exit code, no traceback."""

import socket
import subprocess
from pathlib import Path

import pytest

import cli
from commonplace.kafka import client, topic_creation, topics
from commonplace.kafka.ports import free_port
from commonplace.settings import Settings, TopicsSettings
from kafka_fixtures import KafkaUnderTest
from topics_changed import set_topic

NOT_READY = 6
USAGE = 2
ERROR = 1

COMPONENTS = {
    "scheduler": ("scheduler", "--name", "r1"),
    "fleet": ("fleet", "--hosts", "2"),
    "agent": ("agent", "--name", "a1", "--driver", "host"),
    "submit": ("submit", "--flavor", "m1.tiny"),
    "audit": ("audit",),
    "hosts": ("hosts",),
}
every_component = pytest.mark.parametrize("component", COMPONENTS)
QUIET = ("--log-level", "error")  # a development cluster warns of its replication


@pytest.fixture
def made(kafka: KafkaUnderTest, prefix: str) -> Settings:
    """Topics as they must be, to be spoilt."""
    settings = Settings(kafka={"bootstrap.servers": kafka.bootstrap}, topics=TopicsSettings(prefix=prefix))
    topic_creation.create(client.admin(settings), settings, client.require_broker(settings))
    return settings


def where(settings: Settings) -> list[str]:
    return ["-b", settings.bootstrap, "--prefix", settings.topics.prefix, *QUIET]


def test_no_broker() -> None:
    # side by side: each of them tries for some seconds
    address = f"127.0.0.1:{free_port()}"
    started = {name: cli.start(*command, "-b", address, *QUIET) for name, command in COMPONENTS.items()}
    for process in started.values():
        stdout, stderr = process.communicate(timeout=cli.RUN_TIMEOUT_S)
        answer = subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)
        cli.assert_one_line(answer, NOT_READY, address, "commonplace broker")


@pytest.mark.real_kafka
@every_component
def test_topics_that_are_missing(kafka: KafkaUnderTest, prefix: str, component: str) -> None:
    answer = cli.run(*COMPONENTS[component], "-b", kafka.bootstrap, "--prefix", prefix, *QUIET)
    cli.assert_one_line(answer, NOT_READY, prefix, "commonplace topics create")


@pytest.mark.real_kafka
@pytest.mark.parametrize("component", ["scheduler", "fleet", "agent"])
def test_a_topic_that_is_not_compacted(made: Settings, component: str) -> None:
    name = topics.Topics(made.topics.prefix, "default").hosts
    set_topic(made.bootstrap, name, {"cleanup.policy": "delete"})
    answer = cli.run(*COMPONENTS[component], *where(made))
    cli.assert_one_line(answer, NOT_READY, name, "cleanup.policy is delete, must be compact")


@pytest.mark.real_kafka
@pytest.mark.parametrize("component", ["scheduler", "fleet"])  # who submits goes by what each pool's topics have
def test_another_partition_count(made: Settings, component: str) -> None:
    answer = cli.run(*COMPONENTS[component], *where(made), env={"COMMONPLACE__TOPICS__CLAIMS_PARTITIONS": "8"})
    name = topics.Topics(made.topics.prefix, "default").claims
    cli.assert_one_line(answer, NOT_READY, name, "partitions is 4, must be 8", "topics.claims_partitions")


@every_component
def test_an_unknown_settings_key(tmp_path: Path, component: str) -> None:
    (file := tmp_path / "commonplace.toml").write_text("[scheduler]\nlease = 3\n")
    answer = cli.run(*COMPONENTS[component], env={"COMMONPLACE_CONFIG": str(file)})
    cli.assert_one_line(answer, USAGE, str(file), "unknown setting scheduler.lease", "scheduler.lease_ms")


@pytest.mark.parametrize("component", ["scheduler", "fleet", "agent"])
def test_a_port_in_use(component: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        answer = cli.run(*COMPONENTS[component], "--http", address, "-b", f"127.0.0.1:{free_port()}")
    cli.assert_one_line(answer, ERROR, f"--http {address}", "another port")


def test_no_java(tmp_path: Path) -> None:
    answer = cli.run("broker", "--data-dir", str(tmp_path / "data"), env={"PATH": str(tmp_path), "JAVA_HOME": ""})
    cli.assert_one_line(answer, ERROR, "Java", "17")
