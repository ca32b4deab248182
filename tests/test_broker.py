"""The local Apache Kafka: its life and death, and what is said where it can't be had."""

import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from commonplace.kafka import jars, ports
from commonplace.kafka.broker import DataInUse, LocalBroker, StartFailed, answers
from commonplace.kafka.jars import MANIFEST, POM, BrokerError, MavenMissing, ensure_jars, find_damage
from commonplace.kafka.java import JavaMissing, JavaTooOld, find_java
from commonplace.kafka.ports import PortInUse, free_port
from kafka_fixtures import TEST_JAVA_OPTIONS, KafkaUnderTest, make_broker, started_broker

QUIET = logging.getLogger("test-client")
WAIT_S = 20.0


# --- without Java ---------------------------------------------------------------------------------------------------


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def bare_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only directory on PATH, without Java and Maven."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    return directory


def test_no_java_is_one_line_that_says_what_to_install(bare_path: Path) -> None:
    with pytest.raises(JavaMissing, match=r"^no java on PATH or in JAVA_HOME: install Java >= 17.*--embedded$"):
        find_java()


@pytest.mark.parametrize(("said", "major"), [('java version "1.8.0_392"', 8), ('openjdk version "11.0.2"', 11)])
def test_old_java_is_named_with_its_version(bare_path: Path, said: str, major: int) -> None:
    script(bare_path / "java", f"echo '{said}' >&2")
    with pytest.raises(JavaTooOld, match=f"version {major}, Kafka needs 17"):
        find_java()


def test_java_that_does_not_answer_is_named(bare_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(bare_path / "java", "exec /bin/sleep 60")
    monkeypatch.setattr("commonplace.kafka.java.VERSION_TIMEOUT_S", 0.2)
    with pytest.raises(JavaMissing, match=r"bin/java -version did not end within 0\.2 s: install Java"):
        find_java()


def test_a_format_that_does_not_end_is_told_with_its_directory(
    bare_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    java = script(bare_path / "java", "exec /bin/sleep 60")
    monkeypatch.setattr("commonplace.kafka.broker.START_TIMEOUT_S", 0.2)
    with pytest.raises(StartFailed, match=f"did not format {tmp_path} within 0.2 s"):
        LocalBroker(tmp_path)._format(str(java), "")


@pytest.mark.parametrize("said", ['openjdk version "17.0.15" 2025-04-15', 'openjdk version "21" 2023-09-19'])
def test_new_enough_java_is_taken(bare_path: Path, said: str) -> None:
    java = script(bare_path / "java", f"echo '{said}' >&2")
    assert find_java() == str(java)


def test_java_home_comes_before_path(bare_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(bare_path / "java", "echo 'version \"17\"' >&2")
    java = script(tmp_path / "jdk" / "bin" / "java", "echo 'version \"21\"' >&2")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))
    assert find_java() == str(java)


def test_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        broker = LocalBroker(port=port)
        try:
            with pytest.raises((PortInUse, JavaMissing, JavaTooOld, MavenMissing), match=f"port {port} |ava"):
                broker.start()
        finally:
            broker.close()


def test_temporary_data_is_removed_on_close_and_named_data_is_kept(tmp_path: Path) -> None:
    temporary, named = LocalBroker(), LocalBroker(data_dir=tmp_path)
    temporary.close()
    named.close()
    assert not temporary.data_dir.exists()
    assert tmp_path.exists()


def test_what_kafka_died_of_is_told_with_its_complaint(tmp_path: Path) -> None:
    broker = LocalBroker(data_dir=tmp_path)
    broker.log_path.write_text(
        "9 [main] INFO starting\n10 [main] ERROR kafka.Kafka$ - Exiting due to fatal problem\n"
        "org.apache.kafka.common.KafkaException: Socket server failed to bind\n\tat kafka.Kafka.main\n"
    )
    told = "10 [main] ERROR kafka.Kafka$ - Exiting due to fatal problem: org.apache.kafka.common.KafkaException: Socket"
    assert broker._last_words().startswith(told)


def test_broker_that_does_not_run_has_no_pid() -> None:
    broker = LocalBroker()
    with pytest.raises(BrokerError, match="does not run"):
        _ = broker.pid
    broker.close()


# --- jars -----------------------------------------------------------------------------------------------------------

# A Maven that puts one jar where it is asked to.
MAVEN = """
for word; do case "$word" in -DoutputDirectory=*) echo jar > "${word#*=}/kafka_2.13-0.jar";; esac; done
echo ran >> "$COUNT"
"""


@pytest.fixture
def maven_runs(bare_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with a line for each time Maven ran."""
    monkeypatch.setenv("COUNT", str(tmp_path / "count"))
    script(bare_path / "mvn", MAVEN)
    return tmp_path / "count"


def test_jars_are_fetched_once(maven_runs: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache" / "kafka"
    assert ensure_jars(cache) == ensure_jars(cache) == cache
    assert maven_runs.read_text().splitlines() == ["ran"]


@pytest.mark.parametrize(
    ("harm", "found"),
    [
        (lambda cache: (cache / "kafka_2.13-0.jar").unlink(), "is missing"),
        (lambda cache: (cache / "kafka_2.13-0.jar").write_text("other"), "has changed"),
        (lambda cache: (cache / MANIFEST).unlink(), f"no {MANIFEST}"),
        (lambda cache: (cache / MANIFEST).write_text(""), "for other versions"),
    ],
)
def test_damaged_jars_are_found_and_fetched_again(
    maven_runs: Path, tmp_path: Path, harm: Callable[[Path], None], found: str
) -> None:
    cache = ensure_jars(tmp_path / "kafka")
    harm(cache)
    assert found in (find_damage(cache) or "")
    ensure_jars(cache)
    assert find_damage(cache) is None
    assert len(maven_runs.read_text().splitlines()) == 2


def test_fetch_that_fails_leaves_nothing_that_counts(bare_path: Path, tmp_path: Path) -> None:
    script(bare_path / "mvn", 'echo "[ERROR] no route to the repository"; exit 1')
    with pytest.raises(jars.FetchFailed, match="no route to the repository"):
        ensure_jars(tmp_path / "cache" / "kafka")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["kafka.lock"]


def test_no_maven_says_what_to_install(bare_path: Path, tmp_path: Path) -> None:
    with pytest.raises(MavenMissing, match=r"install Maven .* --embedded|embedded broker"):
        ensure_jars(tmp_path / "kafka")


def test_cache_follows_xdg_cache_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert jars.cache_dir() == tmp_path / "commonplace" / "kafka-4.3.1"
    assert "<version>4.3.1</version>" in POM


# --- with Java ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def broker() -> Iterator[LocalBroker]:
    """A started Apache Kafka that the tests of this file share, and leave running."""
    with started_broker() as broker:
        yield broker


def produce(broker: LocalBroker, topic: str, value: bytes) -> None:
    producer = Producer({"bootstrap.servers": broker.bootstrap, "acks": "all"}, logger=QUIET)
    producer.produce(topic, value)
    assert producer.flush(WAIT_S) == 0


def read_first(broker: LocalBroker, topic: str) -> bytes | None:
    consumer = Consumer(
        {"bootstrap.servers": broker.bootstrap, "group.id": "none", "auto.offset.reset": "error"}, logger=QUIET
    )
    consumer.assign([TopicPartition(topic, 0, 0)])
    message = consumer.poll(WAIT_S)
    consumer.close()
    return message.value() if message is not None else None


def create(broker: LocalBroker, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": broker.bootstrap}, logger=QUIET)
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(WAIT_S)


def gone(pid: int) -> bool:
    """Whether a process ends within the wait."""
    deadline = time.monotonic() + WAIT_S
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.real_kafka
def test_records_outlive_a_stop_and_a_kill(own_broker: LocalBroker) -> None:
    address = own_broker.bootstrap
    create(own_broker, "kept")
    produce(own_broker, "kept", b"first")
    own_broker.restart()
    assert read_first(own_broker, "kept") == b"first"
    first_pid = own_broker.pid
    own_broker.kill()
    assert not own_broker.alive
    assert not psutil.pid_exists(first_pid)
    own_broker.restart()
    assert read_first(own_broker, "kept") == b"first"
    assert own_broker.bootstrap == address


@pytest.mark.real_kafka
def test_paused_broker_answers_nobody_until_resumed(broker: LocalBroker) -> None:
    broker.pause()
    assert not answers(broker.bootstrap, timeout=1)
    broker.resume()
    assert answers(broker.bootstrap, timeout=WAIT_S)


@pytest.mark.real_kafka
def test_paused_broker_can_be_stopped(own_broker: LocalBroker) -> None:
    pid = own_broker.pid
    own_broker.pause()
    own_broker.stop()
    assert not psutil.pid_exists(pid)


@pytest.mark.real_kafka
def test_topics_are_not_made_by_naming_them(kafka: KafkaUnderTest, prefix: str) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap}, logger=QUIET)
    assert producer.list_topics(f"{prefix}.never", timeout=WAIT_S).topics[f"{prefix}.never"].error is not None


@pytest.mark.real_kafka
def test_running_broker_is_not_started_twice(broker: LocalBroker) -> None:
    with pytest.raises(BrokerError, match="runs already"):
        broker.start()


@pytest.mark.real_kafka
def test_second_broker_on_the_same_data_is_refused_and_harms_nothing(broker: LocalBroker) -> None:
    second = LocalBroker(data_dir=broker.data_dir, java_options=TEST_JAVA_OPTIONS)
    with pytest.raises(DataInUse, match=f"another broker uses {broker.data_dir}"):
        second.start()
    assert answers(broker.bootstrap)


@pytest.mark.real_kafka
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_broker_dies_with_the_process_that_started_it(kafka: KafkaUnderTest, end: signal.Signals) -> None:
    program = (
        "import sys, time; from kafka_fixtures import make_broker; b = make_broker(); b.start();"
        "print(b.pid, b.data_dir, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    assert parent.stdout is not None
    pid, data_dir = parent.stdout.readline().split()
    parent.send_signal(end)
    parent.wait(WAIT_S)
    parent.stdout.close()
    assert gone(int(pid))
    deadline = time.monotonic() + WAIT_S
    while Path(data_dir).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(data_dir).exists()


@pytest.mark.real_kafka
def test_setting_that_kafka_refuses_is_reported_with_its_name(kafka: KafkaUnderTest) -> None:
    broker = LocalBroker(properties={"num.io.threads": "none"}, java_options=TEST_JAVA_OPTIONS)
    try:
        with pytest.raises(StartFailed, match=r"num\.io\.threads"):
            broker.start()
    finally:
        broker.close()


def test_ports_are_outside_the_ephemeral_range() -> None:
    assert all(20_000 <= free_port() < 32_768 for _ in range(20))


def test_a_port_that_was_picked_is_nobody_elses_while_the_process_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    first = ports.free_port()
    monkeypatch.setattr(ports, "PORTS", range(first, first + 1))
    with pytest.raises(PortInUse):
        ports.free_port()
    pick = f"from commonplace.kafka import ports; ports.PORTS = range({first}, {first + 1}); print(ports.free_port())"
    picked = subprocess.run(
        [sys.executable, "-c", pick], env={**os.environ, "TMPDIR": str(tmp_path)}, capture_output=True, text=True
    )
    assert "PortInUse" in picked.stderr
    ports._kept.pop().close()
    assert ports.free_port() == first


def test_where_no_file_can_be_made_a_free_port_is_picked_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    assert ports.free_port() in ports.PORTS


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of kept ports, made by somebody before us."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    directory = tmp_path / f"commonplace-ports-{os.getuid()}"
    directory.mkdir(mode=0o700)
    return directory


@pytest.mark.parametrize("mode", [0o700, 0o777])
def test_keeping_a_port_writes_through_no_link(mode: int, kept: Path, tmp_path: Path) -> None:
    kept.chmod(mode)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (kept / "20000").symlink_to(victim)
    assert ports._keep(20_000)
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("how", ["others may write", "a link"])
def test_nothing_is_kept_in_a_directory_that_is_not_ours_alone(how: str, kept: Path, tmp_path: Path) -> None:
    if how == "a link":
        kept.rename(tmp_path / "elsewhere")
        kept.symlink_to(tmp_path / "elsewhere")
    else:
        kept.chmod(0o770)
    assert ports._keep(20_000)
    assert list(kept.iterdir()) == []


def test_nothing_answers_on_a_free_port() -> None:
    assert not answers(f"127.0.0.1:{free_port()}", timeout=0.5)


def test_make_broker_is_not_started() -> None:
    broker = make_broker()
    assert not broker.alive
    broker.close()
