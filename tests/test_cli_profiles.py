"""`commonplace profile` and `aggregate` as processes."""

import json

import pytest

from cli import assert_one_line, run
from kafka_fixtures import KafkaUnderTest


@pytest.fixture
def where(kafka: KafkaUnderTest, prefix: str) -> list[str]:
    """Options that lead to this test's own topics."""
    return ["-b", kafka.bootstrap, "--prefix", prefix]


@pytest.mark.real_kafka
def test_profiles_are_set_listed_and_deleted(where: list[str]) -> None:
    assert run("topics", "create", *where).returncode == 0
    made = [
        "--weigher",
        "RAMWeigher=2",
        "--weigher",
        "cpu=-0.5",
        "--scale",
        "relative",
        "--filter",
        "JsonFilter",
        "--subset-size",
        "3",
    ]
    special = ["--metric", "idle=1", "--isolated-host", "h1", "--set", 'image_namespace="hw"']
    assert run("profile", "set", "ours", *made, *special, *where).returncode == 0
    listed = {one["name"]: one for one in json.loads(run("profile", "list", *where, "-o", "json").stdout)}
    assert listed["ours"]["weighers"] == {"RAMWeigher": 2.0, "cpu": -0.5}
    assert (listed["ours"]["scale"], listed["ours"]["subset_size"]) == ("relative", 3)
    assert (listed["ours"]["image_namespace"], listed["ours"]["metrics"]) == ("hw", {"idle": 1.0})
    assert listed["default"]["scale"] == "absolute"
    assert run("flavor", "set", "f1", "--vcpus", "1", "--profile", "ours", *where).stderr.count("warning") == 0
    assert_one_line(run("profile", "delete", "ous", *where), 2, "'ous'", "ours")
    assert run("profile", "delete", "ours", *where).returncode == 0
    assert "ours" not in run("profile", "list", *where, "-o", "name").stdout.split()


@pytest.mark.real_kafka
def test_aggregates_are_set_listed_and_deleted(where: list[str]) -> None:
    assert run("topics", "create", *where).returncode == 0
    made = [
        "--host",
        "h1",
        "--host",
        "h2",
        "--label",
        "rack=r7",
        "--zone",
        "z1",
        "--metadata",
        "filter_tenant_id=blue,green",
    ]
    assert run("aggregate", "set", "east", *made, *where).returncode == 0
    (east,) = json.loads(run("aggregate", "list", *where, "-o", "json").stdout)
    assert (east["hosts"], east["labels"], east["zone"]) == (["h1", "h2"], {"rack": "r7"}, "z1")
    assert east["metadata"] == {"filter_tenant_id": "blue,green"}
    assert_one_line(run("aggregate", "delete", "est", *where), 2, "'est'", "east")
    assert run("aggregate", "delete", "east", *where).returncode == 0
    assert json.loads(run("aggregate", "list", *where, "-o", "json").stdout) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["profile", "set", "p", "--weigher", "rm=1"], "names weigher 'rm': did you mean 'ram'?"),
        (["profile", "set", "p", "--filter", "isolated_host"], "did you mean 'isolated_hosts'?"),
        (["profile", "set", "p", "--weigher", "ram"], "--weigher ram: must be NAME=VALUE"),
        (["profile", "set", "p", "--weigher", "ram=much"], "must be NAME=NUMBER"),
        (["profile", "set", "p", "--set", "colour=1"], "--set colour: a profile has name, weighers"),
        (["profile", "set", "p", "--set", "image_namespace=hw"], "a text stands in quotes"),
        (["profile", "set", "p", "--set", f"metrics={'[' * 5_000}"], "is no JSON"),
        (["profile", "set", "p", "--subset-size", "1001"], "subset_size"),
        (["aggregate", "set", "a", "--host", "no host"], "hosts"),
        (["aggregate", "set", "a", "--metadata", "ssd"], "--metadata ssd: must be NAME=VALUE"),
        (["submit", "--flavor", "m1.tiny", "--hint", "same_host"], "--hint same_host: must be NAME=VALUE"),
        (["flavor", "set", "f", "--group", "a:VGPU"], "--group a: VGPU: must be CLASS=N"),
        (
            ["flavor", "set", "f", "--group", "a:VGPU=1", "--group", "a:VGPU=1"],
            "two groups are called a: give each its own",
        ),
        (
            ["flavor", "set", "f", "--group", "a:VGPU=1,beside=b", "--group", "b:VGPU=1,beside=a"],
            "go round in a circle",
        ),
        (["flavor", "set", "f", "--group", "a:VGPU=1", "--group-policy", "apart"], "group_policy"),
    ],
)
def test_what_a_scheduler_could_not_use_is_refused_before_any_broker_is_asked(arguments: list[str], said: str) -> None:
    assert_one_line(run(*arguments, "-b", "127.0.0.1:1"), 2, said)


@pytest.mark.real_kafka
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("profile set ours --weigher cpu=1", "ours"),
        ("aggregate set east --zone z1", "east"),
        ("flavor set f1 --vcpus 1", "f1"),
        ("route set m1.tiny --to default", "m1.tiny"),
    ],
)
def test_what_was_set_and_deleted_is_told_to_machines_on_stdout_and_to_people_on_stderr_alone(
    where: list[str], arguments: str, named: str
) -> None:
    assert run("topics", "create", *where).returncode == 0
    kind = arguments.split()[0]
    told = run(*arguments.split(), *where)
    assert (told.returncode, told.stdout) == (0, "")
    assert named in told.stderr
    answer = json.loads(run(*arguments.split(), *where, "-o", "json").stdout)
    assert (answer[0]["flavor"] if kind == "route" else answer["name"]) == named
    assert run(kind, "delete", named, *where, "-o", "name").stdout == f"{named}\n"
