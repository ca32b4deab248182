"""`plan`, `capacity`, `explain` and `submit --check` on topics written by hand.

Called in this process, as the program's entry point is, because each is called many times; one is a process of its own.
"""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

import cli
from commonplace.cli.main import main
from commonplace.core.codec import encode
from commonplace.core.partition import partition_of
from commonplace.core.records.claims import Claim
from commonplace.core.records.control import Flavor
from commonplace.core.records.decisions import Decision, Explanation, Miss
from commonplace.core.records.hosts import Settled
from commonplace.core.records.requests import Build
from commonplace.kafka import control
from commonplace.settings import Settings
from frontend_world import fake_replica, make_topics, placed, settings_on
from hosts_written import Reporter, allocation
from kafka_fixtures import KafkaUnderTest

Run = Callable[..., "subprocess.CompletedProcess[str]"]
LARGE = Flavor(name="m1.large", resources={"VCPU": 4, "MEMORY_MB": 8192})


@pytest.fixture
def settings(kafka: KafkaUnderTest, prefix: str) -> Settings:
    made = settings_on(kafka, prefix)
    make_topics(kafka, made)
    control.put_flavors(made, LARGE)
    return made


@pytest.fixture
def env(settings: Settings) -> dict[str, str]:
    """Hosts are written once and nobody reports again, however long the test takes."""
    return {
        "COMMONPLACE__KAFKA__BOOTSTRAP_SERVERS": settings.bootstrap,
        "COMMONPLACE__TOPICS__PREFIX": settings.topics.prefix,
        "COMMONPLACE__SCHEDULER__LIVENESS_TIMEOUT_S": "3600",
    }


@pytest.fixture
def run(env: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    for name in [name for name in os.environ if name.startswith("COMMONPLACE")]:
        monkeypatch.delenv(name)
    for name, value in env.items():
        monkeypatch.setenv(name, value)

    def called(*arguments: str) -> "subprocess.CompletedProcess[str]":
        capsys.readouterr()
        code = main(arguments)
        out, err = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, code, out, err)

    before = signal.getsignal(signal.SIGTERM)
    yield called
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def reporter(settings: Settings) -> Reporter:
    """Two hosts of 16 vCPU and 64 GB: one holds two instances of 4 vCPU, the other is empty."""
    made = Reporter(settings)
    made.host("host-1", allocation("a-1", "r-1", flavor="m1.large"), allocation("a-2", "r-2", flavor="m1.large"))
    made.host("host-2", labels={"zone": "z2"})
    return made


def answered(done: "subprocess.CompletedProcess[str]", code: int = 0) -> Any:
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


# --- plan --------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("reporter")
def test_a_plan_says_where_and_ends_with_0_or_why_not_and_ends_with_3(run: Run) -> None:
    found = answered(run("plan", "--flavor", "m1.large", "--count", "6", "-o", "json"))
    assert [len(one["placed"]) for one in found["answers"]] == [6]
    refused = answered(run("plan", "--flavor", "m1.large", "--count", "7", "-o", "json"), 3)
    assert refused["answers"][0]["fits"] == 0
    assert refused["answers"][0]["table"]["would_fit"] == []
    text = run("plan", "--flavor", "m1.large", "--count", "7")
    assert text.returncode == 3
    assert "6 of them would fit one by one" in text.stdout
    assert "0 of 7 instances fit on 2 hosts of pool default" in text.stdout


@pytest.mark.usefixtures("reporter")
def test_a_plan_is_a_command(env: dict[str, str]) -> None:
    done = cli.run("plan", "--flavor", "m1.large", "--count", "6", env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[:3] == ["fits: plan-1 (m1.large × 6)", "  host-2   4", "  host-1   2"]


@pytest.mark.usefixtures("reporter")
def test_a_plan_claims_nothing(run: Run) -> None:
    before = run("hosts", "-o", "json").stdout
    first = run("plan", "--flavor", "m1.large", "--fill", "-o", "json")
    assert run("plan", "--flavor", "m1.large", "--fill", "-o", "json").stdout == first.stdout
    keep = ("name", "resources", "hash", "instances")
    assert [[one[k] for k in keep] for one in json.loads(run("hosts", "-o", "json").stdout)] == [
        [one[k] for k in keep] for one in json.loads(before)
    ]
    assert answered(run("requests", "-o", "json")) == []


@pytest.mark.usefixtures("reporter")
@pytest.mark.parametrize(
    ("options", "fits"),
    [
        ((), 6),
        (("--without", "host-2"), 2),
        (("--add-host", "8vcpu:64gb*2"), 10),
        (("--without", "host-1", "--add-host", "4vcpu:8gb"), 5),
    ],
)
def test_a_fill_counts_what_fits_with_hosts_gone_and_added(run: Run, options: tuple[str, ...], fits: int) -> None:
    found = answered(run("plan", "--flavor", "m1.large", "--fill", *options, "-o", "json"))
    assert found["answers"][0]["fits"] == fits == sum(found["answers"][0]["hosts"].values())


def test_draining_says_where_each_instance_would_go_under_the_constraints_of_its_request(
    settings: Settings, reporter: Reporter, run: Run
) -> None:
    moves = answered(run("plan", "--drain", "host-1", "-o", "json"))
    assert [(one["request"], one["placed"][0]["host"]) for one in moves["answers"]] == [
        ("r-1.0", "host-2"),
        ("r-2.0", "host-2"),
    ]
    assert "2 of 2 instances are known by flavor and group alone" in moves["notes"][0]
    bound = Build(id="r-2", flavor="m1.large", zone="default")
    partition = partition_of("m1.large", settings.topics.requests_partitions)
    reporter.write(reporter.names.requests, partition, b"m1.large", encode(bound))
    done = run("plan", "--drain", "host-1")
    assert done.returncode == 3
    assert "r-1.0      m1.large   host-2" in done.stdout
    assert "nowhere" in done.stdout
    assert "1 of 2 instances are known by flavor and group alone" in done.stderr


@pytest.mark.usefixtures("reporter")
def test_a_file_of_requests_is_decided_one_after_another(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "requests.json"
    path.write_text(
        '{"id": "web", "flavor": "m1.large", "count": 2, "group": "web", "group_max": 1}\n'
        '{"id": "db", "flavor": "m1.large", "count": 5}\n'
    )
    found = answered(run("plan", str(path), "-o", "json"), 3)
    assert [(one["request"], one["result"]) for one in found["answers"]] == [
        ("web", "placed"),
        ("db", "no_valid_host"),
    ]
    assert {one["host"] for one in found["answers"][0]["placed"]} == {"host-1", "host-2"}
    path.write_text(path.read_text() + '{"id": "odd", "flavor": "m1.lrge"}\n')
    cli.assert_one_line(run("plan", str(path)), 2, "unknown flavor 'm1.lrge': did you mean 'm1.large'?")


def test_the_past_is_replayed_to_a_time_or_a_position(reporter: Reporter, run: Run) -> None:
    partition = partition_of("host-9", reporter.settings.topics.hosts_partitions)
    position = reporter.start("host-9")
    reporter.snapshot("host-9", position)
    now = answered(run("plan", "--flavor", "m1.large", "--fill", "-o", "json"))
    then = answered(run("plan", "--flavor", "m1.large", "--fill", "--at", f"{partition}:{position}", "-o", "json"))
    assert (now["answers"][0]["fits"], "host-9" in then["answers"][0]["hosts"]) == (10, False)
    long_ago = answered(run("plan", "--flavor", "m1.large", "--fill", "--at", "2001-01-01T00:00", "-o", "json"), 3)
    assert long_ago["answers"][0]["message"].startswith("unknown flavor")
    never = run("plan", "--flavor", "m1.lrge", "--at", "2001-01-01T00:00")
    cli.assert_one_line(never, 2, "unknown flavor 'm1.lrge': did you mean 'm1.large'?")


@pytest.mark.usefixtures("reporter")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "name a FILE of requests"),
        (("--flavor", "m1.large", "somewhere.json"), "not both"),
        (("--flavor", "nosuch"), "unknown flavor 'nosuch': see `commonplace flavor list`"),
        (("--flavor", "nosuch", "--fill"), "unknown flavor 'nosuch'"),
        (("--flavor", "nosuch", "--drain", "host-1"), "unknown flavor 'nosuch'"),
        (("--flavor", "m1.large", "--without", "host-7"), "no host 'host-7' reports to this pool"),
        (("--flavor", "m1.large", "--at", "yesterday"), "write -15m"),
        (("--flavor", "m1.large", "--at", "12"), "write PARTITION:OFFSET"),
        (("--flavor", "m1.large", "--at", "99:1"), "hosts has partitions 0 to"),
        (("--flavor", "m1.large", "--at", "0:999999999"), "[0] ends at"),
        (("--flavor", "m1.large", "--at", "0001-01-01T00:00"), "write -15m"),
        (("--flavor", "m1.large", "--add-host", "big"), "host shape 'big'"),
        (("nowhere.json",), "nowhere.json"),
    ],
)
def test_what_cannot_be_meant_is_one_line(run: Run, arguments: tuple[str, ...], said: str) -> None:
    done = run("plan", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("reporter")
def test_a_profile_and_a_plugin_that_it_names_count_in_a_plan_an_explanation_and_capacity(
    settings: Settings, env: dict[str, str], run: Run, tmp_path: Path
) -> None:
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[commonplace.filters]\neven_hosts = theirs:even_hosts\n")
    (tmp_path / "theirs.py").write_text(
        'def even_hosts(view, row, wishes): return "" if row.host.name.endswith("2") else "is odd"\n'
    )
    there = env | {"PYTHONPATH": str(tmp_path)}
    done = cli.run("profile", "set", "even", "--filter", "even_hosts", "--weigher", "cpu=1", env=there)
    assert done.returncode == 0, done.stderr
    fill = ("plan", "--flavor", "m1.large", "--fill", "-o", "json")
    found = json.loads(cli.run(*fill, "--profile", "even", env=there).stdout)["answers"][0]
    assert found["hosts"] == {"host-2": 4}
    assert answered(run(*fill, "--profile", "pack"))["answers"][0]["fits"] == 6
    with fake_replica(settings):
        assert run("submit", "--flavor", "m1.large", "--profile", "even", "--id", "o-1").returncode == 0
    now = json.loads(cli.run("explain", "o-1", "-o", "json", env=there).stdout)["now"]
    assert [one["host"] for one in now["candidates"]] == ["host-2"]
    assert "is odd" in [line["sample"]["detail"] for line in now["filters"]]
    control.put_flavors(settings, replace(LARGE, profile="even"))
    assert json.loads(cli.run("capacity", "m1.large", "-o", "json", env=there).stdout)["flavors"][0]["fits"] == 4


# --- submit --check ----------------------------------------------------------------------------------------------------


def test_a_checked_submit_goes_through_while_the_plan_stands_and_ends_with_4_after(
    settings: Settings, reporter: Reporter, run: Run
) -> None:
    digest = run("plan", "--flavor", "m1.large", "-o", "name").stdout.strip()
    submit = ("submit", "--flavor", "m1.large", "--check", digest)
    with fake_replica(settings):
        reporter.host("host-1", allocation("a-1", "r-1", flavor="m1.large"))  # not where the plan goes
        assert run(*submit, "--wait").returncode == 0
    reporter.host("host-2", allocation("a-9", "r-9"), labels={"zone": "z2"})
    before = answered(run("requests", "-o", "json"))
    done = run(*submit)
    assert (done.returncode, done.stdout) == (4, "")
    assert f"plan {digest}" in done.stderr
    assert "nothing was submitted; plan again" in done.stderr
    assert len(answered(run("requests", "-o", "json"))) == len(before)


@pytest.mark.usefixtures("reporter")
def test_submit_plans_just_what_it_would_submit(run: Run) -> None:
    asked = ("submit", "--flavor", "m1.large", "--count", "2", "--zone", "z2", "--id", "web")
    found = answered(run(*asked, "--plan", "-o", "json"))
    assert [one["host"] for one in found["answers"][0]["placed"]] == ["host-2", "host-2"]
    assert answered(run("requests", "-o", "json")) == []
    done = run(*asked, "--check", found["digest"])
    assert done.returncode == 0, done.stderr
    assert run("submit", "--flavor", "m1.large", "--zone", "z3", "--plan").returncode == 3


# --- capacity ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("reporter")
def test_capacity_counts_flavors_by_zone_and_class_and_says_that_they_are_alternatives(run: Run) -> None:
    found = answered(run("capacity", "-o", "json"))
    large = next(one for one in found["flavors"] if one["flavor"] == "m1.large")
    assert (large["fits"], large["hosts"], large["zones"]) == (6, 2, {"z2": 4, "default": 2})
    assert large["classes"] == {"16vcpu:64gb:500gb": 6}
    assert large["mix"] == 1.0
    text = run("capacity", "m1.large")
    assert text.returncode == 0
    assert "figures of flavors are alternatives, not sums" in text.stdout
    assert "m1.hot" not in text.stdout
    cli.assert_one_line(run("capacity", "m1.lrge"), 2, "did you mean 'm1.large'?")


def test_what_stands_beside_a_class_that_is_used_up_is_stranded(reporter: Reporter, run: Run) -> None:
    full = allocation("a-9", "r-9", resources={"VCPU": 16})
    reporter.host("host-1", full)
    reporter.host("host-2", labels={"zone": "z2"})
    found = {one["resource"]: one for one in answered(run("capacity", "-o", "json"))["resources"]}
    assert (found["VCPU"]["free"], found["VCPU"]["stranded"]) == (16, 0)
    assert (found["MEMORY_MB"]["free"], found["MEMORY_MB"]["stranded"]) == (131_072, 65_536)
    assert found["MEMORY_MB"]["stranded_share"] == 0.5
    assert found["MEMORY_MB"]["usable"] == 65_536


# --- explain -----------------------------------------------------------------------------------------------------------


def claim(host: str, name: str) -> Claim:
    return Claim(
        host=host, request="order-1", replica="r1", lease_ms=60_000, allocations=[allocation(name, "order-1")]
    )  # fmt: skip


def test_a_placed_request_is_explained_with_the_verdict_of_each_claim(
    settings: Settings, reporter: Reporter, run: Run
) -> None:
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    asked = ("submit", "--flavor", "m1.large", "--id", "order-1", "--wait", "--traceparent")
    cli.assert_one_line(run(*asked, trace_id), 2, f"traceparent '{trace_id}' is not of the form 00-TRACE-PARENT-FLAGS")
    with fake_replica(settings):  # whose decisions bear no trace context
        assert run(*asked, f"00-{trace_id}-b7ad6b7169203331-01").returncode == 0
    offsets = {}
    for host, name in (("host-1", "n-1"), ("host-2", "n-2"), ("host-2", "n-3")):
        where = partition_of(host, settings.topics.claims_partitions)
        offsets[name] = reporter.write(reporter.names.claims, where, host.encode(), encode(claim(host, name)))
    lost = Settled(offset=offsets["n-1"], verdict="rejected", reason="stale", allocation="n-1", detail="the state is x")
    reporter.host("host-1", settled=[lost])
    reporter.host("host-2", allocation("n-2", "order-1"))
    found = answered(run("explain", "order-", "-o", "json"))
    assert {one["allocation"]: (one["verdict"], one["reason"]) for one in found["attempts"]} == {
        "n-1": ("rejected", "stale"),
        "n-2": ("granted", ""),
        "n-3": ("no answer yet", ""),
    }
    assert (found["decision"]["result"], found["trace_id"]) == ("placed", trace_id)
    assert [one["host"] for one in found["now"]["candidates"]] == ["host-1", "host-2"]
    text = run("explain", "order-1").stdout
    assert "rejected: stale: the state is x" in text
    assert f"\ntrace {trace_id}\n" in text
    assert "2 of 3 hosts pass every filter" in text  # the replica of the test made a start for one more


@pytest.mark.usefixtures("reporter")
def test_a_refused_request_is_explained_then_and_now(settings: Settings, run: Run) -> None:
    then = Explanation(
        evaluated=1, filters={"status": 1}, closest=Miss(host="host-9", filter="status", detail="draining")
    )

    def refuse(build: Build, partition: int, offset: int) -> list[Decision]:
        return [placed(build, partition, offset, result="no_valid_host", placed=[], explanation=then)]

    with fake_replica(settings, refuse):
        done = run("submit", "--flavor", "m1.large", "--id", "order-2", "--zone", "z3", "--wait")
        assert done.returncode == 3, done.stderr
    text = run("explain", "order-2").stdout
    assert "0 of 1 hosts" in text
    assert "closest: host-9, draining" in text
    assert "0 of 3 hosts pass every filter" in text
    assert "no host is in zone 'z3': there are default, z2" in text
    assert "would fit: in any zone (2 hosts); in zone default (1 host); in zone z2 (1 host)" in text


def test_nothing_in_the_log_is_a_usage_error(run: Run) -> None:
    cli.assert_one_line(run("explain", "order-7"), 2, "nothing in the log begins with order-7")
