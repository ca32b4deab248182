"""Which broker the tests run on: the first of environment, container, local Apache Kafka, embedded mock that is there.

COMMONPLACE_TEST_BOOTSTRAP=HOST:PORT   use that cluster; its topics are left behind
COMMONPLACE_TEST_REQUIRE_KAFKA=1       where only the mock is left, or a test would be skipped for it: fail
"""

import fcntl
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TextIO

import docker
import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from docker.errors import DockerException
from testcontainers.core.container import DockerContainer

from commonplace.kafka.broker import PROPERTIES, LocalBroker, answers
from commonplace.kafka.embedded import EmbeddedBroker
from commonplace.kafka.jars import KAFKA_VERSION, BrokerError
from commonplace.kafka.ports import free_port

IMAGE = f"apache/kafka:{KAFKA_VERSION}"
CONTAINER_START_TIMEOUT_S = 90
TOPIC_TIMEOUT_S = 20
OTHERS_TIMEOUT_S = 600
"""A worker may be at its last test for so long."""

# Tests wait for compaction and retention: look for work often. Indexes of 10 MB a segment are more than tests fill.
TEST_PROPERTIES = {
    "log.cleaner.backoff.ms": "500",
    "log.retention.check.interval.ms": "1000",
    "log.index.size.max.bytes": "1048576",
}
# C1 alone starts sooner and costs a third more later; a test run ends before that pays back.
TEST_JAVA_OPTIONS = ("-XX:TieredStopAtLevel=1",)

needs_kcat = pytest.mark.skipif(shutil.which("kcat") is None, reason="kcat is not installed (Debian: apt install kcat)")

Kind = Literal["environment", "container", "local", "embedded"]


@dataclass(frozen=True)
class KafkaUnderTest:
    """The broker of this test session; `real` is False on the mock, and `why_not_real` says why."""

    bootstrap: str
    kind: Kind
    close: Callable[[], None]
    broker: LocalBroker | None = None
    embedded: EmbeddedBroker | None = None
    why_not_real: str = ""

    @property
    def real(self) -> bool:
        return self.kind != "embedded"

    def create_topic(self, name: str, partitions: int, config: Mapping[str, str] | None = None) -> None:
        """Make a topic with one replica and wait for it; the mock knows no `config`."""
        if self.embedded is not None:
            self.embedded.create_topic(name, partitions)
            return
        admin = AdminClient({"bootstrap.servers": self.bootstrap}, logger=logging.getLogger("test-admin"))
        wanted = NewTopic(name, num_partitions=partitions, replication_factor=1, config=dict(config or {}))
        admin.create_topics([wanted])[name].result(TOPIC_TIMEOUT_S)

    def __str__(self) -> str:
        what = {
            "environment": "the cluster in COMMONPLACE_TEST_BOOTSTRAP",
            "container": f"{IMAGE} in a container",
            "local": f"Apache Kafka {KAFKA_VERSION} on local Java",
            "embedded": f"librdkafka's embedded mock, which is not Kafka ({self.why_not_real})",
        }
        return f"{what[self.kind]} at {self.bootstrap}"


def kafka_required() -> bool:
    """Whether tests that need Apache Kafka must run."""
    return os.environ.get("COMMONPLACE_TEST_REQUIRE_KAFKA", "") not in ("", "0")


def skip_or_fail(reason: str) -> None:
    """Skip the running test for want of Kafka, or fail it where Kafka is required."""
    if kafka_required():
        pytest.fail(f"COMMONPLACE_TEST_REQUIRE_KAFKA is set, and {reason}")
    pytest.skip(reason)


def choose_kafka() -> KafkaUnderTest:
    """Start, or find, the first broker of the order above. Raises BrokerError where a real one is required."""
    bootstrap = os.environ.get("COMMONPLACE_TEST_BOOTSTRAP")
    if bootstrap:
        if not answers(bootstrap, timeout=10):
            raise BrokerError(f"no broker answers at COMMONPLACE_TEST_BOOTSTRAP={bootstrap}: start it or unset it")
        return KafkaUnderTest(bootstrap, "environment", close=lambda: None)
    if engine_answers():
        return _in_container()
    broker = make_broker()
    try:
        broker.start()
    except BrokerError as error:
        broker.close()
        if kafka_required():
            raise
        return _embedded(str(error))
    return KafkaUnderTest(broker.bootstrap, "local", close=broker.close, broker=broker)


def shared_kafka(directory: Path) -> KafkaUnderTest:
    """The broker of all workers that name this directory: the first one begins it, and ends it when nobody holds it any more.

    The embedded one lives in its process: every worker has its own. Who began it waits for the others when it closes.
    """
    address, held = directory / "address", (directory / "held").open("w")
    fcntl.flock(held, fcntl.LOCK_SH)
    with (directory / "beginning").open("w") as beginning:
        fcntl.flock(beginning, fcntl.LOCK_EX)
        if address.exists():
            kind, bootstrap = address.read_text().split()
            return KafkaUnderTest(bootstrap, "container" if kind == "container" else "local", close=held.close)
        chosen = choose_kafka()
        if chosen.kind not in ("container", "local"):
            held.close()
            return chosen
        address.write_text(f"{chosen.kind} {chosen.bootstrap}")

    def close() -> None:
        deadline = time.monotonic() + OTHERS_TIMEOUT_S
        while not _alone(held) and time.monotonic() < deadline:
            time.sleep(0.2)
        address.unlink()
        held.close()
        chosen.close()

    return replace(chosen, close=close)


def _alone(held: TextIO) -> bool:
    """Whether nobody else holds the broker; who does not is not let in any more."""
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def make_broker() -> LocalBroker:
    """A local Apache Kafka, not yet started, set up for tests."""
    return LocalBroker(java_options=TEST_JAVA_OPTIONS, properties=TEST_PROPERTIES)


@contextmanager
def started_broker() -> Iterator[LocalBroker]:
    """A local Apache Kafka, stopped and forgotten at the end; skips or fails the test where there can be none."""
    broker = make_broker()
    try:
        broker.start()
    except BrokerError as error:
        broker.close()
        skip_or_fail(f"this test needs an Apache Kafka of its own: {error}")
    try:
        yield broker
    finally:
        broker.close()


def engine_answers() -> bool:
    """Whether a container engine answers."""
    try:
        client = docker.from_env(timeout=5)
        try:
            return bool(client.ping())
        finally:
            client.close()
    except DockerException:
        return False


def container_environment(port: int) -> dict[str, str]:
    """All of the image's settings: naming one of them replaces its whole default configuration."""
    properties = {
        **PROPERTIES,
        **TEST_PROPERTIES,
        "listeners": f"PLAINTEXT://0.0.0.0:{port},CONTROLLER://localhost:9093",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
        "controller.quorum.voters": "1@localhost:9093",
    }
    return {f"KAFKA_{name.upper().replace('.', '_')}": value for name, value in properties.items()}


def _in_container() -> KafkaUnderTest:
    port = free_port()
    container = DockerContainer(IMAGE).with_bind_ports(port, port).with_envs(**container_environment(port))
    container.start()
    bootstrap = f"127.0.0.1:{port}"
    deadline = time.monotonic() + CONTAINER_START_TIMEOUT_S
    while not answers(bootstrap):
        if time.monotonic() > deadline:
            stdout, stderr = container.get_logs()
            container.stop()
            said = (stdout + stderr)[-2000:].decode(errors="replace")
            raise BrokerError(f"{IMAGE} did not answer on {bootstrap} in {CONTAINER_START_TIMEOUT_S} s:\n{said}")
    return KafkaUnderTest(bootstrap, "container", close=container.stop)


def _embedded(why: str) -> KafkaUnderTest:
    broker = EmbeddedBroker()
    broker.start()
    return KafkaUnderTest(broker.bootstrap, "embedded", close=broker.stop, embedded=broker, why_not_real=why)
