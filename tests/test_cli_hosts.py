"""`hosts` and `host …` as processes on a hosts topic written by hand."""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from msgspec import structs

import cli
from commonplace.core.codec import decode
from commonplace.core.host_keys import delta_key, snapshot_key, start_key
from commonplace.core.partition import partition_of
from commonplace.core.records.control import HostControl
from commonplace.core.records.hosts import Assigned, Device, HostCell, Start
from commonplace.errors import StateChanged, UsageError
from commonplace.kafka import control
from commonplace.kafka.tail import Raw, Tail
from commonplace.kafka.topics import Topics
from commonplace.ops import operators
from commonplace.ops.fleet_view import FleetView
from commonplace.settings import Settings, load
from frontend_world import make_topics, settings_on
from hosts_written import Reporter, allocation
from kafka_fixtures import KafkaUnderTest

Run = Callable[..., "subprocess.CompletedProcess[str]"]
SILENT_AFTER_S = 1.0


@pytest.fixture
def settings(kafka: KafkaUnderTest, prefix: str) -> Settings:
    made = settings_on(kafka, prefix)
    make_topics(kafka, made)
    return made


@pytest.fixture
def impatient(settings: Settings) -> Settings:
    """The same topics, read by somebody to whom a host is silent after a second."""
    flags: dict[str, dict[str, Any]] = {
        "kafka": dict(settings.kafka),
        "topics": {"prefix": settings.topics.prefix},
        "scheduler": {"liveness_timeout_s": SILENT_AFTER_S},
        "agent": {"heartbeat_interval_s": 0.3},
    }
    return load(flags=flags, environ={})


@pytest.fixture
def env(settings: Settings) -> dict[str, str]:
    return {
        "COMMONPLACE__KAFKA__BOOTSTRAP_SERVERS": settings.bootstrap,
        "COMMONPLACE__TOPICS__PREFIX": settings.topics.prefix,
    }


@pytest.fixture
def impatient_env(env: dict[str, str]) -> dict[str, str]:
    return {
        **env,
        "COMMONPLACE__SCHEDULER__LIVENESS_TIMEOUT_S": str(SILENT_AFTER_S),
        "COMMONPLACE__AGENT__HEARTBEAT_INTERVAL_S": "0.3",
    }


@pytest.fixture
def run(env: dict[str, str]) -> Run:
    return partial(cli.run, env=env)


@pytest.fixture
def reporter(settings: Settings) -> Reporter:
    return Reporter(settings)


def records_of(settings: Settings, host: str) -> list[Raw]:
    """Every record of a host's partition, in log order."""
    topic = Topics(settings.topics.prefix, settings.topics.pool).hosts
    where = partition_of(host, settings.topics.hosts_partitions)
    tail = Tail(settings)
    try:
        low, end = tail.range(topic, where)
        tail.add(topic, where, low)
        found: list[Raw] = []
        while tail.position(topic, where) < end:
            found += [record for batch in tail.turn(1.0) for record in batch.records]
        return found
    finally:
        tail.close()


def live_keys(settings: Settings, host: str) -> set[bytes]:
    """The host's keys that compaction would keep."""
    values = {key: value for _, _, key, value in records_of(settings, host) if key and key.startswith(host.encode())}
    return {key for key, value in values.items() if value is not None}


# --- hosts -------------------------------------------------------------------------------------------------------------


def test_hosts_shows_what_each_reports_and_what_keeps_it_from_being_ranked(reporter: Reporter, run: Run) -> None:
    reporter.host("host-1", allocation("a-1", building=True), allocation("a-2", "r-2", state="active"))
    reporter.host("host-2", status="draining", gap=True)
    reporter.host("host-3", hash="00000000000000aa")
    newer = reporter.start("host-4")
    reporter.host_record("host-4", snapshot_key("host-4", newer), b'{"type":"snapshot","v":2,"shape":"unheard of"}')
    told = {line["name"]: line for line in json.loads(run("hosts", "-o", "json").stdout)}
    assert sorted(told) == ["host-1", "host-2", "host-3", "host-4"]
    first = told["host-1"]
    assert (first["status"], first["flags"]) == ("enabled", [])
    assert (first["instances"], first["leased"], first["builds"], first["generation"]) == (2, 1, 1, 1)
    assert first["resources"]["VCPU"] == {"capacity": 16, "used": 8, "free": 8}
    assert first["resources"]["DISK_GB"] == {"capacity": 500, "used": 0, "free": 500}
    assert first["agent"] == "agent-1"
    assert 0 <= first["age_s"] < 60
    assert (told["host-2"]["status"], told["host-2"]["flags"]) == ("draining", ["gap"])
    assert told["host-3"]["flags"] == ["stale"]
    assert "00000000000000aa reported" in told["host-3"]["stale"]
    assert told["host-4"]["flags"] == ["newer"]


def test_hosts_as_a_table_for_a_person(reporter: Reporter, run: Run) -> None:
    reporter.host("host-1", allocation())
    reporter.host("host-2")
    done = run("hosts")
    head, first, second = done.stdout.splitlines()
    assert head.split()[:5] == ["NAME", "STATUS", "FLAGS", "INSTANCES", "BUILDS"]
    assert "VCPU USED/ALL" in head
    assert "EPOCH" not in head
    assert first.split()[:8] == ["host-1", "enabled", "-", "1", "0", "4/16", "8192/65536", "0/500"]
    assert second.startswith("host-2")
    assert "2 hosts of pool default, 2 ready; used: VCPU 12%" in done.stderr
    assert "EPOCH" in run("hosts", "-o", "wide").stdout.splitlines()[0]


def test_hosts_are_chosen_by_status_and_name_and_sorted(reporter: Reporter, run: Run) -> None:
    reporter.host("host-1", allocation())
    reporter.host("host-2", gap=True)
    reporter.host("spare-1", allocation(), allocation("a-2", "r-2"))
    assert run("hosts", "--status", "gap", "-o", "name").stdout.split() == ["host-2"]
    assert run("hosts", "host-", "-o", "name").stdout.split() == ["host-1", "host-2"]
    assert run("hosts", "--sort", "used", "-o", "name").stdout.split() == ["spare-1", "host-1", "host-2"]
    assert run("hosts", "--sort", "free", "-o", "name").stdout.split() == ["host-2", "host-1", "spare-1"]
    cli.assert_one_line(run("hosts", "--status", "gone"), 2, "--status gone", "silent")


def test_a_host_that_others_outlived_is_silent(reporter: Reporter, impatient_env: dict[str, str]) -> None:
    reporter.host("host-1")
    time.sleep(SILENT_AFTER_S * 1.3)
    reporter.host("host-2")
    told = json.loads(cli.run("hosts", "-o", "json", env=impatient_env).stdout)
    flags = {line["name"]: line["flags"] for line in told}
    assert flags["host-1"] == ["silent"]
    assert cli.run("hosts", "--status", "silent", "-o", "name", env=impatient_env).stdout.split()[0] == "host-1"


def test_where_nobody_reports_all_are_silent_and_it_says_why(reporter: Reporter, impatient_env: dict[str, str]) -> None:
    reporter.host("host-1")
    time.sleep(SILENT_AFTER_S * 1.3)
    done = cli.run("hosts", "-o", "json", env=impatient_env)
    assert json.loads(done.stdout)[0]["flags"] == ["silent"]
    assert "no agent runs, or the clocks differ" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_watch_prints_a_line_for_every_change_and_ends_well_when_stopped(
    reporter: Reporter, env: dict[str, str], number: signal.Signals
) -> None:
    epoch = reporter.host("host-1")
    watching = cli.start("hosts", "--watch", "-o", "json", env=env)
    try:
        assert watching.stdout is not None
        assert json.loads(watching.stdout.readline())["instances"] == 0
        reporter.delta("host-1", epoch, allocation())
        assert json.loads(watching.stdout.readline())["instances"] == 1
        watching.send_signal(number)
        out, err = watching.communicate(timeout=20)
        assert (watching.returncode, out, err) == (0, "", "")
    finally:
        watching.kill()
        watching.communicate()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_interrupted_in_its_work_says_so(
    reporter: Reporter, env: dict[str, str], number: signal.Signals
) -> None:
    reporter.delta("host-1", reporter.host("host-1"), allocation())
    draining = cli.start("host", "drain", "host-1", "--wait", env=env)
    try:
        assert draining.stderr is not None
        assert "draining" in draining.stderr.readline()
        assert "holds 1" in draining.stderr.readline()
        draining.send_signal(number)
        _, err = draining.communicate(timeout=20)
        assert (draining.returncode, err) == (130, "commonplace: interrupted\n")
    finally:
        draining.kill()
        draining.communicate()


def test_no_hosts_is_an_empty_list(settings: Settings, run: Run) -> None:
    done = run("hosts", "-o", "json")
    assert (done.returncode, json.loads(done.stdout)) == (0, [])


# --- host show, and what operators say ---------------------------------------------------------------------------------


def test_show_has_everything_and_takes_a_unique_prefix(reporter: Reporter, run: Run) -> None:
    reporter.host("host-1", allocation("a-77", "r-9", project="blue"), labels={"zone": "z1"}, traits=("CUSTOM_SSD",))
    reporter.host("spare-1")
    told = json.loads(run("host", "show", "host", "-o", "json").stdout)
    assert told["name"] == "host-1"
    assert told["allocations"][0]["request"] == "r-9"
    assert (told["labels"], told["traits"]) == ({"zone": "z1"}, ["CUSTOM_SSD"])
    assert told["inventory"]["VCPU"]["total"] == 16
    assert told["operator"] is None
    text = run("host", "show", "host-1").stdout
    assert "a-77" in text
    assert "blue" in text
    assert "8192" in text


def test_show_tells_cells_and_who_has_which_cpus_and_devices(reporter: Reporter, run: Run) -> None:
    device = Device(id="gpu-0", resource_class="VGPU", shares=4)
    cell = HostCell(cpus="0-3", cpus_dedicated="4-7", memory_mb=4096, pages={2048: 64}, devices=(device,))
    held = structs.replace(
        allocation("a-77", "r-9"),
        cells={"0": {"PCPU": 2, "VGPU": 1}},
        assigned={"0": Assigned(cpus="4-5", devices={"gpu-0": 1})},
    )
    reporter.host("host-1", held, cells={"0": cell})
    told = json.loads(run("host", "show", "host-1", "-o", "json").stdout)
    assert told["cells"]["0"]["cpus_dedicated_free"] == "6-7"
    assert told["cells"]["0"]["devices"] == {"gpu-0": {"class": "VGPU", "free": 3, "shares": 4}}
    assert told["allocations"][0]["assigned"] == {"0": {"cpus": "4-5", "devices": {"gpu-0": 1}}}
    text = run("host", "show", "host-1").stdout
    assert "6-7 of 4-7" in text
    assert "3 of 4" in text


def test_an_ambiguous_or_unknown_name_is_refused_with_what_there_is(reporter: Reporter, run: Run) -> None:
    reporter.host("host-1")
    reporter.host("host-2")
    cli.assert_one_line(run("host", "show", "host"), 2, "not unique", "host-1, host-2")
    cli.assert_one_line(run("host", "drain", "hots-1"), 2, "did you mean host-1?")


def test_disable_drain_and_enable_are_written_for_all_to_read(reporter: Reporter, run: Run, settings: Settings) -> None:
    reporter.host("host-1", allocation())
    done = run("host", "disable", "host-1", "--reason", "disk errors")
    assert (done.returncode, done.stdout) == (0, "")
    assert "it holds 1 allocation\n" in done.stderr
    told = json.loads(run("host", "show", "host-1", "-o", "json").stdout)
    assert (told["status"], told["reported_status"], told["reason"]) == ("disabled", "enabled", "disk errors")
    assert run("host", "drain", "host-1").returncode == 0
    assert run("hosts", "--status", "draining", "-o", "name").stdout.split() == ["host-1"]
    assert "commonplace host enable host-1" in run("host", "show", "host-1").stderr
    assert run("host", "enable", "host-1").returncode == 0
    record = decode("control", control.read(settings)["host/host-1"])
    assert record == HostControl(name="host-1", status="enabled")


def test_what_was_said_of_a_host_is_one_object_to_a_machine(reporter: Reporter, run: Run) -> None:
    epoch = reporter.host("host-1", gap=True)

    def answer(*arguments: str) -> Any:
        return json.loads(run("host", *arguments, "-o", "json").stdout)

    said = {"name": "host-1", "reason": "", "allocations": 0}
    assert answer("disable", "host-1", "--reason", "disk") == {**said, "status": "disabled", "reason": "disk"}
    assert answer("drain", "host-1", "--wait") == {**said, "status": "draining"}
    assert answer("enable", "host-1") == {**said, "status": "enabled"}
    assert answer("clear-gap", "host-1") == {"name": "host-1", "gap_cleared": epoch}
    assert run("host", "enable", "host-1", "-o", "name").stdout == "host-1\n"


def test_a_cleared_gap_survives_a_change_of_status(reporter: Reporter, run: Run, settings: Settings) -> None:
    epoch = reporter.host("host-1", gap=True)
    assert "commonplace host clear-gap host-1" in run("host", "show", "host-1").stderr
    assert run("host", "clear-gap", "host-1").returncode == 0
    assert run("host", "drain", "host-1", "--reason", "move").returncode == 0
    record = decode("control", control.read(settings)["host/host-1"])
    assert record == HostControl(name="host-1", status="draining", reason="move", gap_cleared=epoch)


def test_clearing_a_gap_that_is_not_there_is_refused(reporter: Reporter, run: Run) -> None:
    reporter.host("host-1")
    cli.assert_one_line(run("host", "clear-gap", "host-1"), 4, "reports no gap")


def test_a_word_of_a_newer_version_is_not_overwritten(reporter: Reporter, run: Run, settings: Settings) -> None:
    reporter.host("host-1")
    reporter.write(
        reporter.names.control, 0, b"host/host-1", b'{"type":"host","v":9,"name":"host-1","quarantined":true}'
    )
    cli.assert_one_line(run("host", "enable", "host-1"), 2, "version 9 is newer", "upgrade")
    assert b'"v":9' in control.read(settings)["host/host-1"]


def test_drain_with_wait_ends_when_the_last_allocation_is_gone(reporter: Reporter, env: dict[str, str]) -> None:
    epoch = reporter.host("host-1")
    reporter.delta("host-1", epoch, allocation())
    draining = cli.start("host", "drain", "host-1", "--wait", env=env)
    assert draining.stderr is not None
    lines = [draining.stderr.readline() for _ in range(2)]
    assert lines[1].endswith("holds 1 allocation\n")
    assert draining.poll() is None
    reporter.delta("host-1", epoch, generation=3)
    _, rest = draining.communicate(timeout=30)
    assert draining.returncode == 0
    assert "host host-1 is empty" in rest


def test_drain_with_wait_and_timeout_says_how_many_are_left(reporter: Reporter, run: Run) -> None:
    reporter.host("host-1", allocation())
    done = run("host", "drain", "host-1", "--wait", "--timeout", "0.1")
    assert done.returncode == 5
    assert "still holds 1 allocation after" in done.stderr


# --- forget ------------------------------------------------------------------------------------------------------------


def test_forget_fences_removes_and_deletes_every_key(
    reporter: Reporter, impatient_env: dict[str, str], settings: Settings
) -> None:
    first = reporter.host("host-1", allocation())
    second = reporter.host("host-1")
    reporter.delta("host-1", second)
    cli.run("host", "disable", "host-1", env=impatient_env)
    time.sleep(SILENT_AFTER_S * 1.3)
    done = cli.run("host", "forget", "host-1", "-o", "json", env=impatient_env)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["keys_deleted"] == 3
    written = [(key, value) for _, _, key, value in records_of(settings, "host-1")][-5:]
    fence, removal = (decode("hosts", value or b"") for _, value in written[:2])
    assert (fence, removal.removed) == (Start(host="host-1", agent=operators.FORGETTER), True)
    assert written[2:] == [
        (snapshot_key("host-1", first), None),
        (snapshot_key("host-1", second), None),
        (delta_key("host-1", second), None),
    ]
    assert live_keys(settings, "host-1") == {start_key("host-1")}
    assert "host/host-1" not in control.read(settings)
    assert cli.run("hosts", "-o", "name", env=impatient_env).stdout == ""


def test_forget_is_refused_while_the_host_reports(reporter: Reporter, run: Run, settings: Settings) -> None:
    reporter.host("host-1")
    before = len(records_of(settings, "host-1"))
    cli.assert_one_line(run("host", "forget", "host-1"), 4, "reports (agent agent-1", "stop its agent")
    assert len(records_of(settings, "host-1")) == before


def test_forget_is_refused_while_the_host_holds_allocations(
    reporter: Reporter, impatient_env: dict[str, str], settings: Settings
) -> None:
    reporter.host("host-1", allocation("a-1", "r-1"))
    time.sleep(SILENT_AFTER_S * 1.3)
    done = cli.run("host", "forget", "host-1", env=impatient_env)
    cli.assert_one_line(done, 4, "holds 1 allocation (a-1 of r-1)", "release them")
    assert len(live_keys(settings, "host-1")) == 2


def forget_while(settings: Settings, at: str, meanwhile: Callable[[], object]) -> operators.Forgotten:
    """Forget host-1 once it is silent, with something happening right after the step that says `at`."""
    time.sleep(SILENT_AFTER_S * 1.3)

    def step(text: str) -> None:
        if at in text:
            meanwhile()

    return operators.forget(settings, "host-1", step)


def test_a_grant_that_comes_before_the_fence_is_kept_for_the_agent_to_find(
    reporter: Reporter, impatient: Settings
) -> None:
    epoch = reporter.host("host-1")
    with pytest.raises(StateChanged, match=r"came back while .* \(agent agent-1, offset \d+\): nothing was deleted"):
        forget_while(impatient, "silent and empty", lambda: reporter.delta("host-1", epoch, allocation()))
    kept = {snapshot_key("host-1", epoch), delta_key("host-1", epoch), start_key("host-1")}
    assert live_keys(impatient, "host-1") == kept
    with FleetView(impatient) as view:
        row = view.read().view.rows["host-1"]
    assert list(row.host.allocations) == ["a-1"]
    assert row.host.stale == "starting"
    assert not row.host.removed


def test_a_report_after_the_fence_is_void_and_the_host_is_forgotten(reporter: Reporter, impatient: Settings) -> None:
    epoch = reporter.host("host-1")
    seen: list[int] = []
    # void reports of the fenced agent are the agent's own, so the host is left alone until that agent is gone
    with pytest.raises(StateChanged):
        forget_while(impatient, "fenced", lambda: seen.append(reporter.delta("host-1", epoch, allocation())))
    assert seen
    with FleetView(impatient) as view:
        assert view.read().view.rows["host-1"].host.removed
    gone = operators.forget(impatient, "host-1")
    assert gone.keys == 2
    assert live_keys(impatient, "host-1") == {start_key("host-1")}


def test_an_agent_that_starts_between_fence_and_removal_is_told_with_what_it_granted(
    reporter: Reporter, impatient: Settings
) -> None:
    reporter.host("host-1")

    def start_and_grant() -> None:
        reporter.host("host-1", allocation("a-9"), agent="agent-2")

    with pytest.raises(StateChanged, match=r"agent agent-2 started .* it had granted a-9: place those again"):
        forget_while(impatient, "fenced", start_and_grant)


def test_an_agent_that_starts_after_the_removal_has_a_new_host(reporter: Reporter, impatient: Settings) -> None:
    old = reporter.host("host-1")
    epochs: list[int] = []
    gone = forget_while(impatient, "removed", lambda: epochs.append(reporter.host("host-1", agent="agent-2")))
    assert gone.epoch < epochs[0]
    assert live_keys(impatient, "host-1") == {start_key("host-1"), snapshot_key("host-1", epochs[0])}
    assert snapshot_key("host-1", old) not in live_keys(impatient, "host-1")
    with FleetView(impatient) as view:
        row = view.read().host("host-1")
    assert (row.host.agent, row.host.stale) == ("agent-2", "")


def test_an_interrupted_forget_is_finished_by_the_next(reporter: Reporter, impatient: Settings) -> None:
    reporter.host("host-1")

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        forget_while(impatient, "removed", interrupt)
    assert len(live_keys(impatient, "host-1")) == 2
    operators.forget(impatient, "host-1")
    assert live_keys(impatient, "host-1") == {start_key("host-1")}


def test_a_fence_of_an_interrupted_forget_is_not_taken_for_life(reporter: Reporter, impatient: Settings) -> None:
    reporter.host("host-1")

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        forget_while(impatient, "fenced", interrupt)
    assert operators.forget(impatient, "host-1").keys == 1


def test_a_host_that_never_was_cannot_be_forgotten(settings: Settings, impatient: Settings) -> None:
    with pytest.raises(UsageError, match="no host ghost-1"):
        operators.forget(impatient, "ghost-1")


def test_the_brokers_clock_is_read_by_a_record_that_nobody_minds(settings: Settings) -> None:
    told = operators.broker_time(settings)
    assert told.asked_ms - 5_000 < told.log_time_ms < told.answered_ms + 5_000
    assert operators.CLOCK_KEY not in control.read(settings)
    assert operators.BrokerTime(1_000, 1_500, 1_600).ahead_ms == 500
    assert operators.BrokerTime(2_000, 1_500, 1_600).ahead_ms == -400
    assert operators.BrokerTime(1_550, 1_500, 1_600).ahead_ms == 0
