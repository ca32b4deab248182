"""`doctor`: each trouble that it knows is found, named, and told what to do about."""

import json
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest

import cli
from commonplace.core.codec import decode, encode
from commonplace.core.records.control import HostControl
from commonplace.core.records.quarantine import Quarantined
from commonplace.core.records.replicas import ReplicaReport
from commonplace.kafka import client, control
from commonplace.kafka.intake import Intake
from commonplace.kafka.ports import free_port
from commonplace.kafka.tail import Batch, Tail
from commonplace.ops import doctor, doctor_broker, doctor_hosts, doctor_replicas
from commonplace.ops.doctor_check import Check
from commonplace.ops.fleet_view import FleetView
from commonplace.settings import Settings, load
from frontend_world import make_topics, settings_on
from hosts_written import Reporter
from kafka_fixtures import KafkaUnderTest

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Checks = dict[str, list[dict[str, Any]]]


@pytest.fixture
def settings(kafka: KafkaUnderTest, prefix: str) -> Settings:
    made = settings_on(kafka, prefix)
    make_topics(kafka, made)
    return made


@pytest.fixture
def run(settings: Settings) -> Run:
    return cli.at(settings)


@pytest.fixture
def reporter(settings: Settings) -> Reporter:
    return Reporter(settings)


def examined(settings: Settings) -> dict[str, list[Check]]:
    """The checks by name."""
    found: dict[str, list[Check]] = {}
    for check in doctor.examine(lambda: settings):
        found.setdefault(check.name, []).append(check)
    return found


def the(checks: list[Check], part: str) -> Check:
    """The one check that says so."""
    (found,) = [check for check in checks if part in check.found]
    return found


def register(reporter: Reporter, name: str, **fields: Any) -> None:
    record = ReplicaReport(replica=name, **{"state": "ready", **fields})
    reporter.write(reporter.names.replicas, 0, name.encode(), encode(record))


# --- as a process ------------------------------------------------------------------------------------------------------


def test_a_system_with_nothing_running_is_told_what_to_start(run: Run, settings: Settings) -> None:
    done = run("doctor")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"ok    settings      prefix {settings.topics.prefix}, pool default"
    assert any(line.startswith("warn  hosts         no host reports to pool default") for line in lines)
    assert any("→ start agents" in line for line in lines)
    assert any("→ start `commonplace scheduler --name r1`" in line for line in lines)
    assert "0 fail" not in done.stderr


def test_json_is_one_list_with_level_and_what_to_do(run: Run) -> None:
    done = run("doctor", "-o", "json")
    checks = json.loads(done.stdout)
    assert [c["name"] for c in checks][:3] == ["settings", "local kafka", "broker"]
    assert all(c["todo"] for c in checks if c["level"] == "fail")
    assert {c["level"] for c in checks} <= {"ok", "warn", "fail", "skip"}


def test_no_broker_ends_with_not_ready_and_no_traceback() -> None:
    done = cli.run("doctor", "-b", f"127.0.0.1:{free_port()}")
    assert done.returncode == 6
    assert "fail  broker" in done.stdout
    assert "commonplace broker" in done.stdout
    assert "Traceback" not in done.stderr


def test_missing_topics_end_with_not_ready(kafka: KafkaUnderTest) -> None:
    done = cli.run("doctor", "-b", kafka.bootstrap, "--prefix", "nobody-made-these")
    assert done.returncode == 6
    assert "commonplace topics create" in done.stdout
    assert "Traceback" not in done.stderr


def test_an_unknown_setting_is_the_first_failure() -> None:
    done = cli.run("doctor", env={"COMMONPLACE__AGENT__HEARTBEAT_INTERVALL_S": "20"})
    assert done.returncode == 1
    assert done.stdout.startswith("fail  settings")
    assert "heartbeat_interval_s" in done.stdout


# --- hosts -------------------------------------------------------------------------------------------------------------


def test_hosts_are_counted_and_each_trouble_is_named(reporter: Reporter, settings: Settings) -> None:
    reporter.host("host-1")
    reporter.host("host-2", gap=True)
    reporter.host("host-3", hash="00000000000000aa")
    control.write(settings, {"host/host-1": encode(HostControl(name="host-1", status="draining"))})
    checks = examined(settings)["hosts"]
    assert the(checks, "2 of 3 report").level == "ok"
    assert the(checks, "1 gap: host-2").level == "warn"
    assert the(checks, "1 stale: host-3").level == "warn"
    assert the(checks, "1 draining: host-1").level == "ok"


def test_a_host_that_started_and_never_reported_is_a_failure(reporter: Reporter, settings: Settings) -> None:
    reporter.start("host-1")
    with FleetView(settings) as view:
        view.read()
        assert the(doctor_hosts.hosts(view), "0 of 1").level == "warn"
        view.newest_ms += 2 * 60_000  # the same, two minutes later
        found = the(doctor_hosts.hosts(view), "1 never reported: host-1")
    assert found.level == "fail"
    assert "its log says why" in found.todo


def test_two_agents_of_one_host_name_are_found(reporter: Reporter, settings: Settings) -> None:
    for agent in ("agent-1", "agent-2", "agent-1"):
        reporter.host("host-1", agent=agent)
    for agent in ("agent-1", "agent-2"):  # a host that moved
        reporter.host("host-2", agent=agent)
    found = examined(settings)["host names"][0]
    assert (found.level, found.found) == ("fail", "1 taken back and forth by two agents: host-1")


def test_a_host_that_starts_again_and_again_is_found(reporter: Reporter, settings: Settings) -> None:
    for _ in range(doctor_hosts.RESTARTS_WARN):
        reporter.host("host-1")
    found = examined(settings)["host names"][0]
    assert (found.level, "host-1" in found.found) == ("warn", True)


def test_a_host_on_two_pools_is_found(kafka: KafkaUnderTest, reporter: Reporter, settings: Settings) -> None:
    flags = {"kafka": dict(settings.kafka), "topics": {"prefix": settings.topics.prefix, "pool": "ssd"}}
    ssd = load(flags=flags, environ={})
    if kafka.embedded is None:
        make_topics(kafka, ssd)
    else:  # control is there already
        for topic in ("hosts", "replicas"):
            kafka.create_topic(f"{settings.topics.prefix}.ssd.{topic}", 4 if topic == "hosts" else 1)
    reporter.host("host-1")
    reporter.host("host-2")
    Reporter(ssd).host("host-2")
    found = examined(settings)["pools"][0]
    assert (found.level, found.found) == ("fail", "1 live on two pools: host-2 (also ssd)")


# --- replicas, group, quarantine ---------------------------------------------------------------------------------------


def test_replicas_are_counted_by_state_and_those_that_left_are_named(reporter: Reporter, settings: Settings) -> None:
    register(reporter, "r1")
    register(reporter, "r2", state="catching_up")
    register(reporter, "r3", state="leaving")
    found = examined(settings)["replicas"][0]
    assert (found.level, found.found) == ("ok", "1 ready, 1 catching up; 1 left or died: r3")


def test_replicas_that_differ_at_the_same_positions_are_a_failure(reporter: Reporter, settings: Settings) -> None:
    register(reporter, "r1", positions={"hosts [0]": 7}, digest="aa")
    register(reporter, "r2", positions={"hosts [0]": 7}, digest="bb")
    register(reporter, "r3", positions={"hosts [0]": 8}, digest="cc")
    found = the(examined(settings)["replicas"], "differ")
    assert (found.level, found.found) == ("fail", "2 differ at the same positions: r1, r2")


@pytest.mark.real_kafka
def test_requests_that_nobody_decides_are_counted(reporter: Reporter, settings: Settings) -> None:
    for i in range(3):
        reporter.write(reporter.names.requests, i, b"m1.small", b"{}")
    checks = examined(settings)
    assert checks["requests"][0].found == "3 are not decided"
    assert checks["group"][0].level == "warn"


@pytest.mark.real_kafka
def test_a_healthy_cluster_has_a_clock_within_seconds(settings: Settings) -> None:
    assert examined(settings)["clock"][0].level == "ok"


def test_quarantine_is_counted_by_topic_and_reason(reporter: Reporter, settings: Settings) -> None:
    for offset in (4, 5):
        record = Quarantined(topic="x.claims", partition=1, offset=offset, reason="not a claims record: cut off")
        reporter.write(reporter.names.quarantine, 0, None, encode(record))
    found = examined(settings)["quarantine"][0]
    assert found.level == "warn"
    assert found.found.startswith("2 undecodable on x.claims; newest: x.claims [1] offset 5")


def test_quarantine_is_counted_as_it_is_read(
    reporter: Reporter, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for offset in range(6):
        record = Quarantined(topic="x.claims", partition=1, offset=offset, reason="not a claims record: cut off")
        reporter.write(reporter.names.quarantine, 0, None, encode(record))
    read: list[int] = []
    counted: list[object] = []
    turn = Tail.turn

    def turned(tail: Tail, timeout_s: float) -> list[Batch]:
        assert len(counted) == sum(read)  # nothing is kept from turn to turn
        batches = turn(tail, timeout_s)
        read.append(sum(len(batch.records) for batch in batches))
        return batches

    def decoded(topic: Any, value: bytes) -> Any:
        counted.append(value)
        return decode(topic, value)

    monkeypatch.setattr(Tail, "turn", turned)
    monkeypatch.setattr("commonplace.ops.doctor_broker.decode", decoded)
    monkeypatch.setattr("commonplace.kafka.tail.TURN_RECORDS_MAX", 1)
    broker = client.require_broker(settings)
    check = doctor_broker.quarantine(client.settings_for(settings, broker), broker)
    assert check.found.startswith("6 undecodable on x.claims; newest: x.claims [1] offset 5")
    assert len([n for n in read if n]) > 1


def test_ends_that_were_lost_since_they_were_captured_hold_nothing_up(
    reporter: Reporter, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    reporter.host("host-1")
    asked: set[tuple[Tail, str, int]] = set()
    told = Tail.range

    def first_too_far(tail: Tail, topic: str, partition: int) -> tuple[int, int]:
        low, end = told(tail, topic, partition)
        first = (tail, topic, partition) not in asked
        asked.add((tail, topic, partition))
        return low, end + 2 * first

    monkeypatch.setattr(Tail, "range", first_too_far)
    monkeypatch.setattr("commonplace.kafka.tail.ENDS_ASKED_S", 0.0)
    began = time.monotonic()
    found = examined(settings)
    assert (found["hosts"][0].level, found["quarantine"][0].level) == ("ok", "ok")
    assert time.monotonic() - began < 20


def test_a_commit_beyond_the_log_is_none_and_hides_no_other_partitions_lag(
    reporter: Reporter, settings: Settings
) -> None:
    topic = reporter.names.requests
    for partition in (0, 0, 0, 1, 1):
        reporter.write(topic, partition, b"k", b"{}")
    fitted = client.settings_for(settings, client.require_broker(settings))
    check = doctor_replicas._lag(fitted, {0: 9_800, 1: 1, 2: 0}, topic, 3)
    assert check.found == "4 are not decided"


@pytest.mark.real_kafka
def test_the_owners_of_all_partitions_are_counted(reporter: Reporter, settings: Settings) -> None:
    member = Intake(settings, reporter.names.requests)
    try:
        member.join()
        until = time.monotonic() + 30
        while len(member.owned) < settings.topics.requests_partitions and time.monotonic() < until:
            member.poll()
            time.sleep(0.05)
        found = examined(settings)["group"][0]
    finally:
        member.leave()
    assert (found.level, found.found) == ("ok", "stable: 1 member owns all of 6 partitions")
