"""`commonplace topics` and `flavor` as processes."""

import json

import pytest

from cli import assert_one_line, run
from kafka_fixtures import KafkaUnderTest
from topics_changed import set_topic


@pytest.fixture
def where(kafka: KafkaUnderTest, prefix: str) -> list[str]:
    """Options that lead to this test's own topics."""
    return ["-b", kafka.bootstrap, "--prefix", prefix]


@pytest.mark.real_kafka
def test_operator_creates_verifies_and_lists(where: list[str], prefix: str) -> None:
    made = run("topics", "create", *where, "-o", "json")
    assert made.returncode == 0, made.stderr
    assert {row["created"] for row in json.loads(made.stdout)} == {True}
    assert "m1.tiny" in made.stderr
    again = run("topics", "create", *where, "-o", "json")
    assert {row["created"] for row in json.loads(again.stdout)} == {False}
    verified = run("topics", "verify", *where, "-o", "json")
    assert verified.returncode == 0
    assert {finding["level"] for finding in json.loads(verified.stdout)} <= {"warning"}
    listed = run("topics", "list", *where, "-o", "name").stdout.split()
    assert f"{prefix}.default.hosts" in listed
    assert f"{prefix}.control" in listed


@pytest.mark.real_kafka
def test_verify_of_missing_topics_is_exit_code_6(where: list[str], prefix: str) -> None:
    answer = run("topics", "verify", *where)
    assert answer.returncode == 6
    assert f"{prefix}.default.hosts" in answer.stdout
    assert "missing" in answer.stdout


@pytest.mark.real_kafka
def test_create_on_topics_that_break_a_rule_names_topic_and_setting(
    where: list[str], prefix: str, kafka: KafkaUnderTest
) -> None:
    assert run("topics", "create", *where).returncode == 0
    topic = f"{prefix}.default.hosts"
    set_topic(kafka.bootstrap, topic, {"min.compaction.lag.ms": "1"})
    assert_one_line(run("topics", "create", *where), 6, topic, "min.compaction.lag.ms is 1", "at least 660000")


@pytest.mark.real_kafka
def test_flavors_are_set_listed_and_deleted(where: list[str]) -> None:
    assert run("topics", "create", *where).returncode == 0
    shape = ["--vcpus", "8", "--memory-mb", "1024", "--resource", "VGPU=1", "--trait", "HW_CPU_X86_AVX512F"]
    assert run("flavor", "set", "gpu", *shape, "--spread", "3", *where).returncode == 0
    flavors = {f["name"]: f for f in json.loads(run("flavor", "list", *where, "-o", "json").stdout)}
    assert flavors["gpu"]["resources"] == {"VCPU": 8, "MEMORY_MB": 1024, "VGPU": 1}
    assert flavors["gpu"]["spread"] == 3
    assert flavors["gpu"]["traits_required"] == ["HW_CPU_X86_AVX512F"]
    assert "spread was" not in run("flavor", "set", "gpu", *shape, "--spread", "3", *where).stderr
    assert "its spread was 3" in run("flavor", "set", "gpu", *shape, *where).stderr
    assert run("flavor", "delete", "gpu", *where).returncode == 0
    assert "gpu" not in run("flavors", *where, "-o", "name").stdout.split()
    assert_one_line(run("flavor", "delete", "m1.tny", *where), 2, "'m1.tny'", "m1.tiny")
    cells = ["--cell", "cpus=1,cpus_dedicated=4,memory_mb=512,threads=require", "--cell", "cpus=2,memory_mb=256"]
    device = ["--device", "CUSTOM_GPU=2,shares=4,policy=required"]
    assert run("flavor", "set", "numa", *cells, *device, "--disk-gb", "9", *where).returncode == 0
    (numa,) = [f for f in json.loads(run("flavor", "list", *where, "-o", "json").stdout) if f["name"] == "numa"]
    assert numa["resources"] == {"VCPU": 3, "PCPU": 4, "MEMORY_MB": 768, "CUSTOM_GPU": 8, "DISK_GB": 9}
    assert numa["cells"][0] == {"cpus": 1, "cpus_dedicated": 4, "memory_mb": 512, "threads": "require"}
    assert numa["devices"] == [{"class": "CUSTOM_GPU", "count": 2, "shares": 4, "policy": "required"}]
    assert "CUSTOM_GPU" in run("flavor", "list", *where, "-o", "wide").stdout


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--cell", "cpu=2"], ("'cpu=2'", "did you mean cpus?")),
        (["--cell", "cpus"], ("did you mean cpus?",)),
        (["--cell", "cpus=x", "--vcpus", "1"], ("cells", "whole number")),
        (
            ["--cell", "cpus=4", "--vcpus", "2"],
            ("its cells take 4 VCPU, its resources name 2", "set resources VCPU to 4"),
        ),
        (["--device", "CUSTOM_GPU"], ("--device CUSTOM_GPU: must be CLASS=N",)),
        (["--device", "CUSTOM_GPU=1,police=required"], ("did you mean policy?",)),
        (["--device", "CUSTOM_GPU=1", "--device", "CUSTOM_GPU=2"], ("asks for devices CUSTOM_GPU twice",)),
    ],
)
def test_cells_and_devices_that_cannot_be_meant_are_refused_before_anything_is_reached(
    options: list[str], parts: tuple[str, ...]
) -> None:
    assert_one_line(run("flavor", "set", "f", *options, "-b", "127.0.0.1:9"), 2, *parts)


@pytest.mark.real_kafka
def test_flavors_without_topics_say_what_to_do(where: list[str], prefix: str) -> None:
    assert_one_line(run("flavor", "list", *where), 6, f"{prefix}.control", "commonplace topics create")
