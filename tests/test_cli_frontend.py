"""submit, confirm, release, cancel, requests and decision show as processes, against a scripted replica."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import cli
from commonplace.core.records.decisions import Decision, Explanation, Miss
from commonplace.core.records.requests import Build, Cancel
from commonplace.settings import Settings
from frontend_world import HOST, FakeReplica, fake_replica, make_topics, placed, settings_on
from hosts_written import Reporter, allocation
from kafka_fixtures import KafkaUnderTest

Run = Callable[..., "subprocess.CompletedProcess[str]"]
EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def settings(kafka: KafkaUnderTest, prefix: str) -> Settings:
    made = settings_on(kafka, prefix)
    make_topics(kafka, made)
    return made


@pytest.fixture
def env(settings: Settings) -> dict[str, str]:
    return {
        "COMMONPLACE__KAFKA__BOOTSTRAP_SERVERS": settings.bootstrap,
        "COMMONPLACE__TOPICS__PREFIX": settings.topics.prefix,
    }


@pytest.fixture
def run(env: dict[str, str]) -> Run:
    return partial(cli.run, env=env)


def decide(build: Build, partition: int, offset: int) -> list[Decision]:
    """By the project: what the test wants to be answered."""
    match build.project:
        case "full":
            closest = Miss(host="h9", filter="capacity", resource="VCPU", needed=4, had=1)
            explained = Explanation(evaluated=2, filters={"capacity": 2}, closest=closest)
            return [placed(build, partition, offset, result="no_valid_host", placed=[], explanation=explained)]
        case "denied":
            return [placed(build, partition, offset, result="rejected", reason="overloaded", placed=[])]
        case "silent":
            return []
    return [placed(build, partition, offset)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("submit", "--flavor", "m1.small", "--project", "p\udcff"), r"'p\udcff' is not UTF-8: write it so"),
        (("decision", "show", "r\udcff"), r"nothing in the log begins with 'r\udcff'"),
    ],
)
def test_a_name_that_is_not_utf_8_is_a_usage_error(run: Run, arguments: tuple[str, ...], said: str) -> None:
    cli.assert_one_line(run(*arguments), 2, said)


def test_submit_waits_confirms_and_release_gives_back(settings: Settings, run: Run) -> None:
    with fake_replica(settings, decide):
        done = run("submit", "--flavor", "m1.small", "--id", "order-1", "--confirm")
        assert (done.returncode, done.stdout.splitlines()[0]) == (0, "placed order-1 (m1.small × 1)")
        assert "confirmed: 1 active" in done.stderr
        done = run("release", "order-", "-o", "json")
        assert done.returncode == 0
        assert [row["outcome"] for row in json.loads(done.stdout)] == ["released"]


def test_without_confirm_it_says_when_the_lease_lapses_and_confirm_takes_an_allocation(
    settings: Settings, run: Run
) -> None:
    with fake_replica(settings, decide):
        done = run("submit", "--flavor", "m1.small", "--id", "order-2", "--wait", "--count", "2")
        assert done.returncode == 0
        assert "lapses 1 min after the submit unless you `commonplace confirm order-2`" in done.stderr
        done = run("confirm", "a-order-2-1", "-o", "name")
        assert (done.returncode, done.stdout) == (0, "a-order-2-1\n")


def test_a_confirm_that_comes_too_late_ends_with_4(settings: Settings, run: Run) -> None:
    with fake_replica(settings, decide) as replica:
        run("submit", "--flavor", "m1.small", "--id", "order-3", "--wait")
        replica.lapsed.add("a-order-3-0")
        done = run("confirm", "order-3")
        assert done.returncode == 4
        assert "too late" in done.stdout


@pytest.mark.parametrize(
    ("project", "code", "said"),
    [
        ("full", 3, "closest: h9, short of 3 vCPU"),
        ("denied", 7, "overloaded"),
        ("silent", 5, "see that a scheduler runs"),
    ],
)
def test_the_exit_code_tells_why_nothing_was_placed(
    settings: Settings, run: Run, project: str, code: int, said: str
) -> None:
    with fake_replica(settings, decide):
        done = run("submit", "--flavor", "m1.small", "--project", project, "--wait", "--timeout", "3")
    assert done.returncode == code
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_deadline_is_asked_for_in_seconds(settings: Settings, run: Run) -> None:
    with fake_replica(settings, decide) as replica:
        done = run(
            "submit", "--flavor", "m1.small", "--id", "order-9", "--deadline", "1.5", "--priority", "9", "--wait"
        )
        assert done.returncode == 0, done.stderr
        (asked,) = [build for _, _, build in replica.requests if isinstance(build, Build)]
    assert (asked.deadline_ms, asked.priority) == (1500, 9)


def test_an_unknown_flavor_is_one_line_and_a_usage_error(run: Run) -> None:
    done = run("submit", "--flavor", "m1.smal")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "commonplace: flavor m1.smal is unknown; the nearest known is m1.small, `commonplace flavor list` shows all\n"
    )


def test_requests_and_decision_show_tell_what_stands_in_the_log(settings: Settings, run: Run) -> None:
    with fake_replica(settings, decide):
        for number, project in enumerate(("silent", "web", "full")):
            assert (
                run("submit", "--flavor", "m1.small", "--id", f"order-{number}", "--project", project).returncode == 0
            )
        wait_for_decisions(run, 2)
        done = run("requests", "-o", "json")
        assert [(r["request"], r["result"]) for r in json.loads(done.stdout)] == [
            ("order-0", "undecided"),
            ("order-1", "placed"),
            ("order-2", "no_valid_host"),
        ]
        shown = run("decision", "show", "order-1", "-o", "json")
        assert json.loads(shown.stdout)["placed"][0]["host"] == "host-0001"
        assert run("decision", "show", "a-order-1").stdout.startswith("placed order-1")
        undecided = run("decision", "show", "order-0")
        assert (undecided.returncode, undecided.stdout) == (6, "")
        assert "no decision yet" in undecided.stderr
        ambiguous = run("decision", "show", "order")
        assert ambiguous.returncode == 2
        assert "3 requests match (order-0, order-1, order-2)" in ambiguous.stderr
        assert "nothing in the log begins with nobody" in run("confirm", "nobody").stderr


def wait_for_decisions(run: Run, count: int) -> None:
    for _ in range(20):
        decided = [r for r in json.loads(run("requests", "-o", "json").stdout) if r["result"] != "undecided"]
        if len(decided) >= count:
            return
    pytest.fail(f"{count} decisions did not come")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_watch_prints_a_line_for_every_change_and_ends_well_when_stopped(
    settings: Settings, env: dict[str, str], run: Run, number: signal.Signals
) -> None:
    with fake_replica(settings, decide):
        assert run("submit", "--flavor", "m1.small", "--id", "order-0", "--wait").returncode == 0
        watching = cli.start("requests", "--watch", "-o", "json", env=env)
        try:
            assert watching.stdout is not None
            assert json.loads(watching.stdout.readline())["request"] == "order-0"
            assert run("submit", "--flavor", "m1.small", "--id", "order-1", "--wait").returncode == 0
            changes = [json.loads(watching.stdout.readline()) for _ in range(2)]
            watching.send_signal(number)
            _, err = watching.communicate(timeout=20)
            assert (watching.returncode, err) == (0, "")
        finally:
            watching.kill()
            watching.communicate()
    assert {c["request"] for c in changes} == {"order-1"}
    assert changes[-1]["result"] == "placed"


def test_an_empty_id_is_refused_and_nothing_is_submitted(settings: Settings, run: Run) -> None:
    cli.assert_one_line(run("submit", "--flavor", "m1.small", "--id", ""), 2, "request id is empty", "leave it out")
    assert json.loads(run("requests", "-o", "json").stdout) == []


def test_cancel_finds_the_flavor_in_the_log(settings: Settings, run: Run) -> None:
    with fake_replica(settings, decide) as replica:
        assert run("submit", "--flavor", "m1.hot", "--id", "order-9", "--project", "silent").returncode == 0
        assert run("cancel", "order-9").returncode == 0
        assert settled(replica) == 2
        assert {key for _, key, _ in replica.requests} == {replica.requests[0][1]}


def test_what_is_older_than_the_log_is_released_and_cancelled_by_what_hosts_hold(settings: Settings, run: Run) -> None:
    old = [allocation(f"a-{n}", "old-1", instance=f"vm-{n}", index=n, flavor="m1.hot", state="active") for n in (0, 1)]
    with fake_replica(settings, decide) as replica:
        assert run("submit", "--flavor", "m1.small", "--id", "old-10", "--wait").returncode == 0
        Reporter(settings).snapshot(HOST, 0, *old)
        done = run("release", "old-1", "-o", "json")  # and not old-10, which the log has
        assert [row["allocation"] for row in json.loads(done.stdout)] == ["a-0", "a-1"], done.stderr
        assert run("release", "vm-1").returncode == 0
        cli.assert_one_line(run("cancel", "vm-1"), 2, "vm-1 is held by request old-1", "commonplace release vm-1")
        for _ in range(2):
            done = run("cancel", "old-1")
            assert (done.returncode, "what hosts hold of it is released" in done.stderr) == (0, True), done.stderr
        assert settled(replica, 3) == 3
        cli.assert_one_line(run("release", "older"), 2, "nothing is held under older")
    assert [(one.request, one.allocation) for one in replica.claims] == [
        ("old-1", "a-0"),
        ("old-1", "a-1"),
        ("old-1", "a-1"),
    ]
    assert [record for _, _, record in replica.requests[1:]] == [Cancel(id="old-1", flavor="m1.hot")] * 2


def settled(replica: FakeReplica, wanted: int = 2) -> int:
    for _ in range(200):
        if len(replica.requests) >= wanted:
            break
        replica.pause(0.05)
    return len(replica.requests)


@pytest.mark.parametrize(
    ("example", "said"), [("place_one.py", "active on host-0001\nreleased"), ("place_async.py", "10 of 10 placed")]
)
def test_the_examples_run(settings: Settings, env: dict[str, str], example: str, said: str) -> None:
    with fake_replica(settings):
        command = [sys.executable, str(EXAMPLES / example)]
        done = subprocess.run(
            command, env=cli.environment(env), capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
