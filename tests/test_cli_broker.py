"""`commonplace broker` as a process: its first line, its signals, a port in use."""

import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli import assert_one_line, run, start
from commonplace.kafka.jars import BrokerError
from commonplace.kafka.java import find_java
from kafka_fixtures import skip_or_fail

END_TIMEOUT_S = 40


@pytest.fixture
def java() -> None:
    try:
        find_java()
    except BrokerError as error:
        skip_or_fail(str(error))


@pytest.fixture
def embedded() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running `commonplace broker --embedded` and its address."""
    with start("broker", "--embedded", "--prefix", "x", "--pool", "y") as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
        process.kill()


def test_embedded_broker_has_the_topics_of_its_pool(embedded: tuple[subprocess.Popen[str], str]) -> None:
    _, address = embedded
    listed = run("topics", "list", "-b", address, "--prefix", "x", "--pool", "y", "-o", "name")
    assert "x.y.hosts" in listed.stdout.split()
    created = run("topics", "create", "-b", address, "--prefix", "x", "--pool", "y")
    assert created.returncode == 0, created.stderr
    assert "not verified" in created.stderr
    assert "m1.tiny" in run("flavors", "-b", address, "--prefix", "x", "--pool", "y", "-o", "name").stdout.split()
    assert_one_line(run("topics", "list", "-b", address), 6, "commonplace.default.hosts")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_the_embedded_broker_with_exit_code_0(
    embedded: tuple[subprocess.Popen[str], str], number: signal.Signals
) -> None:
    process, _ = embedded
    process.send_signal(number)
    _, talk = process.communicate(timeout=END_TIMEOUT_S)
    assert process.returncode == 0
    assert "not Kafka" in talk


@pytest.mark.usefixtures("java")
def test_local_kafka_prints_its_address_first_keeps_its_data_where_it_is_told_and_stops_on_sigterm(
    tmp_path: Path,
) -> None:
    data_dir = tmp_path / "Zürich, old"
    env = {"LC_ALL": "C.UTF-8"}  # without a UTF-8 locale the JVM itself cannot start in such a directory
    with start("broker", "--port", "0", "--data-dir", str(data_dir), env=env) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            assert run("topics", "create", "-b", address).returncode == 0
            process.terminate()
            process.wait(END_TIMEOUT_S)
        finally:
            process.kill()
    assert process.returncode == 0
    assert run("topics", "list", "-b", address).returncode == 6
    assert (data_dir / "data" / "meta.properties").exists()
    assert list(tmp_path.iterdir()) == [data_dir]


@pytest.mark.usefixtures("java")
def test_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        answer = run("broker", "--port", str(port), "--data-dir", str(tmp_path))
    assert_one_line(answer, 1, str(port))


def test_without_java_one_line_says_what_to_do(tmp_path: Path) -> None:
    answer = run("broker", "--port", "0", "--data-dir", str(tmp_path), env={"PATH": "/nowhere", "JAVA_HOME": ""})
    assert_one_line(answer, 1, "Java")
