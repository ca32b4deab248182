"""Drivers: what a host has, what runs on it, and what the driver says of both."""

import json
import re
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from commonplace.agent import host_driver
from commonplace.agent.drivers import Driver, Event, Failed, Found, Gone, StaticDriver, Up
from commonplace.agent.fleet import drivers
from commonplace.agent.host_driver import HostDriver
from commonplace.agent.inventory_file import load_hosts
from commonplace.agent.machine import HostDriverSettings, cpu_traits, load_settings, measure
from commonplace.agent.shapes import MIXES, Shape, hosts, load_shapes, parse_shape, parse_shapes
from commonplace.core.records.hosts import Allocation, Device, HostCell
from commonplace.core.resources import Inventory
from commonplace.errors import SettingsError, UsageError

VCPU = {"VCPU": Inventory(total=8)}
DEEP, DOTTED = "[" * 5_000 + "]" * 5_000, ".".join("a" * 5_000)
"""TOML on which a parser recurses, and on which only whoever reads what it made does."""


def allocation(name: str = "a1", project: str = "") -> Allocation:
    return Allocation(id=name, instance=f"vm-{name}", resources={"VCPU": 2, "MEMORY_MB": 512}, project=project)


# --- static ---------------------------------------------------------------------------------------------------------


def test_an_accounted_instance_is_up_at_the_next_poll_and_told_once() -> None:
    driver = StaticDriver(VCPU)
    driver.start(allocation())
    assert driver.poll(0.0) == [Up("a1")]
    assert driver.poll(1.0) == []


def test_a_booting_instance_is_up_only_after_its_boot_time() -> None:
    driver = StaticDriver(VCPU, boot_s=5)
    driver.start(allocation())
    assert driver.due() == 0.0
    assert driver.poll(100.0) == []
    assert driver.due() == 105.0
    assert driver.poll(104.9) == []
    assert driver.poll(105.0) == [Up("a1")]
    assert driver.due() == float("inf")


@pytest.mark.parametrize("polled", [False, True])
def test_an_instance_stopped_before_it_is_up_is_never_reported(polled: bool) -> None:
    driver = StaticDriver(VCPU, boot_s=5)
    driver.start(allocation())
    if polled:
        driver.poll(0.0)
    driver.stop("a1")
    assert driver.poll(10.0) == []


def test_simulated_failures_follow_their_rate_and_seed() -> None:
    def run(seed: int) -> list[Event]:
        driver = StaticDriver(VCPU, failure_rate=0.3, seed=seed)
        for n in range(500):
            driver.start(allocation(f"a{n}"))
        return driver.poll(0.0)

    first = run(1)
    failed = sum(isinstance(event, Failed) for event in first)
    assert 100 < failed < 200
    assert run(1) == first
    assert run(2) != first


def test_found_instances_are_told_once_and_gone_when_they_go() -> None:
    running = [Found(instance="vm-1", resources={"VCPU": 1}), Found(instance="vm-2", resources={"VCPU": 2})]
    driver = StaticDriver(VCPU, found=lambda: tuple(running))
    assert driver.poll(0.0) == running
    assert driver.poll(1.0) == []
    first = running.pop(0)
    assert driver.poll(2.0) == [Gone(first.instance)]


def test_a_found_instance_that_grew_is_gone_and_found_again() -> None:
    running = [Found(instance="vm-1", resources={"VCPU": 1})]
    driver = StaticDriver(VCPU, found=lambda: tuple(running))
    driver.poll(0.0)
    running[0] = Found(instance="vm-1", resources={"VCPU": 4})
    assert driver.poll(1.0) == [Gone("vm-1"), running[0]]


# --- inventory file -------------------------------------------------------------------------------------------------

GOOD = """
[hosts.node-1]
traits = ["HW_CPU_X86_AVX2"]
labels = { zone = "z1" }
[hosts.node-1.inventory.VCPU]
total = 64
reserved = 4
allocation_ratio = 1.1
[hosts.node-1.inventory.MEMORY_MB]
total = 1024
[[hosts.node-1.found]]
instance = "vm-17"
resources = { VCPU = 4 }
[hosts.node-2.inventory.VCPU]
total = 8
"""


def test_inventory_file_holds_several_hosts_with_exact_ratios(tmp_path: Path) -> None:
    (path := tmp_path / "hosts.toml").write_text(GOOD)
    read = load_hosts(path)
    assert list(read) == ["node-1", "node-2"]
    node = read["node-1"].driver()
    assert node.inventory()["VCPU"] == Inventory(total=64, reserved=4, allocation_ratio_thousandths=1100)
    assert node.inventory()["VCPU"].capacity == 66
    assert (node.traits(), node.labels()) == (("HW_CPU_X86_AVX2",), {"zone": "z1"})
    assert node.poll(0.0) == [Found(instance="vm-17", resources={"VCPU": 4})]
    assert read["node-2"].driver().poll(0.0) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("hosts = 3", "[hosts]: must be a table"),
        ("[host.a]", "unknown key 'host'; the nearest known is 'hosts'"),
        ("[hosts]", "0 hosts"),
        ("[hosts.a]", "[hosts.a]: no inventory"),
        ("[hosts.a]\ntrait = []", "[hosts.a]: unknown key 'trait'; the nearest known is 'traits'"),
        (
            "[hosts.a.inventory.VCPU]\ntotl = 1",
            "[hosts.a.inventory.VCPU]: unknown key 'totl'; the nearest known is 'total'",
        ),
        ("[hosts.a.inventory.VCPU]\nreserved = 1", "[hosts.a.inventory.VCPU]: total is missing"),
        ("[hosts.a.inventory.VCPU]\ntotal = -1", "[hosts.a.inventory.VCPU]: total must be at least 0"),
        ("[hosts.a.inventory.VCPU]\ntotal = 1\nallocation_ratio = 1.0001", "at most three decimals"),
        ("[hosts.a.inventory.VCPU]\ntotal = 1\nallocation_ratio = 'x'", "is not a number"),
        ("[hosts.a.inventory.vcpu]\ntotal = 1", "resource class 'vcpu'"),
        ('[hosts."a b".inventory.VCPU]\ntotal = 1', "[hosts.a b]: the name"),
        (
            "[hosts.a]\nfound_file = 'none.json'\n[hosts.a.inventory.VCPU]\ntotal = 1",
            "none.json: cannot be read: No such file",
        ),
        (
            "[hosts.a]\nfound = [{instance='x'}]\n[hosts.a.inventory.VCPU]\ntotal = 1",
            "resources is missing",
        ),
        ("[hosts.a.cells.0]\ndevices = 3", "[hosts.a.cells.0]: devices: it must be a list"),
        ("[hosts.a", "not valid TOML"),
        (f"hosts = {DEEP}", "hosts.toml: nested too deep"),
        (f"hosts.{DOTTED} = 1", "hosts.toml: nested too deep"),
        (f"hosts = [{{ {DOTTED} = 1 }}]", "hosts.toml: nested too deep"),
    ],
)
def test_inventory_file_errors_name_file_table_and_key(tmp_path: Path, text: str, says: str) -> None:
    (path := tmp_path / "hosts.toml").write_text(text)
    with pytest.raises(SettingsError) as raised:
        load_hosts(path)
    assert says in str(raised.value)
    assert str(tmp_path) in str(raised.value)


def test_found_file_is_read_again_when_it_changes_and_its_last_good_version_holds(tmp_path: Path) -> None:
    running = tmp_path / "running.json"
    running.write_text(json.dumps([{"instance": "vm-1", "resources": {"VCPU": 1}}]))
    path = tmp_path / "hosts.toml"
    path.write_text("[hosts.a]\nfound_file = 'running.json'\n[hosts.a.inventory.VCPU]\ntotal = 8\n")
    driver = load_hosts(path)["a"].driver()
    assert [type(event) for event in driver.poll(0.0)] == [Found]
    running.write_text("[{broken, and longer than before it was broken by somebody")
    assert driver.poll(1.0) == []
    running.write_text(json.dumps([{"instance": "vm-2", "resources": {"VCPU": 1}, "project": "p"}]))
    assert driver.poll(2.0) == [Gone("vm-1"), Found(instance="vm-2", resources={"VCPU": 1}, project="p")]
    running.unlink()
    assert driver.poll(3.0) == []


# --- host -----------------------------------------------------------------------------------------------------------


def until(driver: Driver, done: Callable[[list[Event]], bool], timeout_s: float = 20.0) -> list[Event]:
    """Poll until `done` holds for all events so far, and return them."""
    events: list[Event] = []
    end = time.monotonic() + timeout_s
    while not done(events):
        assert time.monotonic() < end, f"still only {events}"
        events += driver.poll(time.monotonic())
        time.sleep(0.01)
    return events


def script(path: Path, body: str) -> str:
    path.write_text(
        f"#!{sys.executable}\nimport json, pathlib, sys\nstate = pathlib.Path({str(path.parent)!r}) / 'vms'\n{body}"
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


@pytest.fixture
def machine(tmp_path: Path) -> HostDriverSettings:
    """Commands that keep their instances as files in a directory."""
    (tmp_path / "vms").mkdir()
    start = script(tmp_path / "start", "(state / sys.argv[1]).write_text(sys.argv[2])")
    stop = script(tmp_path / "stop", "(state / sys.argv[1]).unlink()")
    listing = script(
        tmp_path / "list",
        "for f in state.iterdir():\n    print(json.dumps({'instance': f.name, 'resources': {'VCPU': 1}, 'ip': 'x'}))",
    )
    return HostDriverSettings(
        start_command=(start, "{instance}", "{vcpus}-{memory_mb}-{disk_gb}"),
        stop_command=(stop, "{instance}"),
        list_command=(listing,),
        list_interval_s=0.05,
    )


def test_host_inventory_is_real_and_reserved_shares_round_up() -> None:
    inventory = measure(HostDriverSettings(reserved_cpu_share=0.01, reserved_memory_share=0.1))
    assert inventory["VCPU"].total >= 1
    assert inventory["VCPU"].reserved == 1
    memory = inventory["MEMORY_MB"]
    assert memory.total / 10 <= memory.reserved < memory.total / 10 + 1
    assert inventory["DISK_GB"].total >= 1


def test_host_load_is_measured_as_shares() -> None:
    load = HostDriver(HostDriverSettings()).load()
    assert set(load) == {"cpu_share", "memory_share", "disk_share", "load1"}
    assert 0 < load["memory_share"] <= 1


def test_load_of_a_disk_that_cannot_be_asked_is_left_out_and_told_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    disk = tmp_path / "mounted"
    disk.mkdir()
    driver = HostDriver(HostDriverSettings(disk_path=str(disk)))
    disk.rmdir()
    told: list[Any] = []
    monkeypatch.setattr(host_driver, "log", SimpleNamespace(warning=lambda event, **words: told.append(words)))
    for _ in range(3):
        assert set(driver.load()) == {"cpu_share", "memory_share", "load1"}
    assert told == [{"disk_path": str(disk), "why": "No such file or directory"}]
    disk.mkdir()
    assert "disk_share" in driver.load()


def test_settings_are_the_systems_where_no_file_is_named_and_the_defaults_where_it_has_none(tmp_path: Path) -> None:
    (system := tmp_path / "system.toml").write_text("reserved_cpu_share = 0.5")
    (named := tmp_path / "named.toml").write_text("")
    assert load_settings(None, system).reserved_cpu_share == 0.5
    assert load_settings(named, system) == HostDriverSettings()
    assert load_settings(None, tmp_path / "none.toml") == HostDriverSettings()
    with pytest.raises(SettingsError, match=r"none\.toml: cannot be read"):
        load_settings(tmp_path / "none.toml", system)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"labels = {DEEP}", "nested too deep"),
        (f"labels.{DOTTED} = 1", "nested too deep"),
        ("numa = 3", "numa must be true or false"),
        ('traits = ["a b"]', "traits"),
        ("nmua = true", "nmua is not known here"),
    ],
)
def test_machine_file_errors_name_file_and_key(tmp_path: Path, text: str, says: str) -> None:
    (path := tmp_path / "driver.toml").write_text(text)
    with pytest.raises(SettingsError) as raised:
        load_settings(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert says in str(raised.value)


def test_cpu_flags_become_standard_traits() -> None:
    assert cpu_traits({"avx2", "pni", "vaes", "unknown"}) == {"HW_CPU_X86_AVX2", "HW_CPU_X86_SSE3"}
    assert "HW_CPU_X86_AVX512VAES" in cpu_traits({"avx512f", "vaes"})


def test_host_without_commands_only_accounts() -> None:
    driver = HostDriver(HostDriverSettings())
    driver.start(allocation())
    assert driver.poll(0.0) == [Up("a1")]
    driver.stop("a1")
    assert driver.poll(1.0) == []


def test_instances_are_started_and_stopped_by_commands(machine: HostDriverSettings, tmp_path: Path) -> None:
    driver = HostDriver(machine)
    driver.start(allocation())
    assert until(driver, bool) == [Up("a1")]
    assert (tmp_path / "vms" / "vm-a1").read_text() == "2-512-0"
    driver.stop("a1")
    # what another driver finds proves that ours is gone, and this list comes after the stop
    (tmp_path / "vms" / "other").write_text("")
    assert until(driver, bool) == [Found(instance="other", resources={"VCPU": 1})]
    until(driver, lambda _: not (tmp_path / "vms" / "vm-a1").exists())
    driver.close()


def test_an_instance_that_ends_by_itself_has_failed(machine: HostDriverSettings, tmp_path: Path) -> None:
    driver = HostDriver(machine)
    driver.start(allocation())
    until(driver, bool)
    (tmp_path / "vms" / "vm-a1").unlink()
    assert until(driver, bool) == [Failed("a1", "ended by itself")]
    driver.close()


def test_an_adopted_instance_is_not_found_and_can_be_stopped(machine: HostDriverSettings, tmp_path: Path) -> None:
    for name in ("vm-a1", "other"):
        (tmp_path / "vms" / name).write_text("")
    driver = HostDriver(machine)
    driver.adopt(allocation())
    assert until(driver, bool) == [Found(instance="other", resources={"VCPU": 1})]
    driver.stop("a1")
    until(driver, lambda _: not (tmp_path / "vms" / "vm-a1").exists())
    driver.close()


def held_as_found(name: str, vcpus: int) -> Allocation:
    return Allocation(id=f"found:{name}", instance=name, resources={"VCPU": vcpus}, state="active", origin="found")


def test_what_ended_while_no_agent_ran_is_told_after_adoption(machine: HostDriverSettings, tmp_path: Path) -> None:
    (tmp_path / "vms" / "there").write_text("")
    driver = HostDriver(machine)
    driver.adopt(allocation())
    driver.adopt(held_as_found("away", 1))
    driver.adopt(held_as_found("there", 1))
    assert until(driver, bool) == [Failed("a1", "ended by itself"), Gone("away")]
    driver.close()


def test_a_static_driver_tells_the_end_of_adopted_found_instances() -> None:
    running = [Found(instance="there", resources={"VCPU": 1}), Found(instance="grown", resources={"VCPU": 4})]
    driver = StaticDriver(VCPU, found=lambda: tuple(running))
    for name in ("there", "away", "grown"):
        driver.adopt(held_as_found(name, 1))
    assert driver.poll(0.0) == [Gone("away"), Gone("grown"), running[1]]
    unlisted = StaticDriver(VCPU)
    unlisted.adopt(held_as_found("away", 1))
    assert unlisted.poll(0.0) == [Gone("away")]
    assert unlisted.due() == float("inf")


def test_a_failed_start_says_why(machine: HostDriverSettings, tmp_path: Path) -> None:
    failing = script(tmp_path / "failing", "sys.exit('no image for it')")
    driver = HostDriver(HostDriverSettings(start_command=(failing,), stop_command=("true",)))
    driver.start(allocation())
    assert until(driver, bool) == [Failed("a1", "exit 1: no image for it")]


def test_a_command_that_is_missing_or_hangs_fails_its_allocation() -> None:
    missing = HostDriver(HostDriverSettings(start_command=("no-such-command",), stop_command=("true",)))
    missing.start(allocation())
    assert missing.poll(0.0) == [Failed("a1", "no-such-command: No such file or directory")]
    hanging = HostDriver(
        HostDriverSettings(start_command=("sleep", "60"), stop_command=("true",), command_timeout_s=0.1)
    )
    hanging.start(allocation())
    assert until(hanging, bool) == [Failed("a1", "no end within 0.1 s, killed")]


@pytest.fixture
def slow(tmp_path: Path) -> HostDriverSettings:
    """Commands that leave a running instance as it is, and stop one once `go` is there; `log` says what they did, in order."""
    (tmp_path / "vms").mkdir()
    done = "(state.parent / 'log').open('a').write"
    start = script(tmp_path / "start", f"(state / sys.argv[1]).touch()\n{done}('+')")
    stop = script(
        tmp_path / "stop",
        f"import time\ntime.sleep(0.3)\n(state / sys.argv[1]).unlink(missing_ok=True)\n{done}('-')",
    )
    return HostDriverSettings(start_command=(start, "{instance}"), stop_command=(stop, "{instance}"))


def test_a_resize_starts_the_instance_once_its_stop_has_ended(slow: HostDriverSettings, tmp_path: Path) -> None:
    driver = HostDriver(slow)
    driver.start(old := allocation())
    until(driver, bool)
    driver.stop("a1")
    driver.start(replace(old, id="a2", replaces="a1"))
    assert driver.poll(0.0) == []
    (tmp_path / "go").touch()
    assert driver.due() == 0.0
    assert until(driver, bool) == [Up("a2")]
    assert (tmp_path / "log").read_text() == "+-+"
    assert (tmp_path / "vms" / "vm-a1").exists()


def test_what_waits_for_a_stop_of_its_instance_can_be_stopped_and_others_do_not_wait(
    slow: HostDriverSettings, tmp_path: Path
) -> None:
    driver = HostDriver(slow)
    driver.start(old := allocation())
    until(driver, bool)
    driver.stop("a1")
    driver.start(replace(old, id="a2"))
    driver.start(allocation("b1"))
    assert until(driver, bool) == [Up("b1")]
    assert (tmp_path / "log").read_text() == "++"
    driver.stop("a2")
    (tmp_path / "go").touch()
    assert until(driver, lambda _: driver.due() == float("inf")) == []
    assert (tmp_path / "log").read_text() == "++-"


def test_an_instance_that_a_later_allocation_has_too_outlives_the_release_of_the_first(
    slow: HostDriverSettings, tmp_path: Path
) -> None:
    driver = HostDriver(slow)
    driver.start(old := allocation())
    driver.start(replace(old, id="a2"))
    until(driver, lambda events: len(events) == 2)
    driver.stop("a1")
    assert driver.due() == float("inf")
    driver.stop("a2")
    (tmp_path / "go").touch()
    until(driver, lambda _: driver.due() == float("inf"))
    assert (tmp_path / "log").read_text() == "++-"


def test_an_instance_that_is_being_started_is_not_started_again_for_a_keeper_built_anew(tmp_path: Path) -> None:
    start = script(tmp_path / "start", "import time\n(state.parent / 'log').open('a').write('+')\ntime.sleep(0.3)")
    driver = HostDriver(HostDriverSettings(start_command=(start,), stop_command=("true",)))
    driver.start(allocation())
    until(driver, lambda _: (tmp_path / "log").exists())
    driver.start(allocation())
    assert until(driver, lambda _: driver.due() == float("inf")) == [Up("a1")]
    assert (tmp_path / "log").read_text() == "+"


@pytest.mark.parametrize("line", ['{"instance":', '{"instance": "x", "resources": {"VCPU": 1}, "more": ' + "[" * 5_000])
def test_a_list_that_fails_or_is_broken_declares_nothing_gone(
    machine: HostDriverSettings, tmp_path: Path, line: str
) -> None:
    driver = HostDriver(machine)
    (tmp_path / "vms" / "other").write_text("")
    assert len(until(driver, bool)) == 1
    runs = tmp_path / "runs"
    script(tmp_path / "list", f"open({str(runs)!r}, 'a').write('x')\nprint({line!r})")
    events = until(driver, lambda _: runs.exists() and len(runs.read_text()) >= 3)
    assert events == []
    driver.close()


def test_values_of_an_allocation_are_never_templates_or_shell(tmp_path: Path) -> None:
    started = script(tmp_path / "start", "pathlib.Path(state.parent / 'args').write_text(json.dumps(sys.argv[1:]))")
    driver = HostDriver(HostDriverSettings(start_command=(started, "p={project}"), stop_command=("true",)))
    driver.start(allocation(project="{user}; $(reboot)"))
    until(driver, bool)
    assert json.loads((tmp_path / "args").read_text()) == ["p={user}; $(reboot)"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            HostDriverSettings(start_command=("run", "{instanc}"), stop_command=("x",)),
            "the nearest known is {instance}",
        ),
        (HostDriverSettings(start_command=("run",)), "start_command without stop_command"),
        (HostDriverSettings(cpu_allocation_ratio=1.00001), "cpu_allocation_ratio"),
        (HostDriverSettings(disk_path="/no/such/dir"), "disk_path '/no/such/dir'"),
    ],
)
def test_host_settings_that_cannot_be_meant_are_refused(settings: HostDriverSettings, says: str) -> None:
    with pytest.raises(SettingsError, match=says.replace("{", r"\{")):
        HostDriver(settings)


# --- shapes ---------------------------------------------------------------------------------------------------------


def test_a_shape_reads_as_people_write_it() -> None:
    assert parse_shape("24vcpu:48gb:1000gb*700") == Shape(vcpus=24, memory_mb=49152, disk_gb=1000, count=700)
    assert parse_shape("64vcpux1.5:1tb") == Shape(vcpus=64, memory_mb=2**20, vcpu_ratio_thousandths=1500)
    assert parse_shape("1c:0.75gb").memory_mb == 768
    assert [shape.vcpus for shape in parse_shapes("64vcpu:256gb,128vcpu:1tb*2")] == [64, 128]
    assert parse_shapes("mixed") == MIXES["mixed"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("24", "write VCPUS:MEMORY"),
        ("24vcpu:48", "memory '48' must be a whole number of megabytes"),
        ("24vcpu:0.0001gb", "memory"),
        ("24vcpu:48gb:1gb:9", "write VCPUS:MEMORY"),
        ("0vcpu:48gb", "write VCPUS:MEMORY"),
        ("mixd", "did you mean the mix 'mixed'"),
        ("2vcpux1.23456:4gb", "at most three decimals"),
    ],
)
def test_a_bad_shape_is_refused_with_an_example(text: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        parse_shape(text)


@pytest.mark.parametrize("mix", sorted(MIXES))
def test_a_mix_makes_the_same_fleet_for_the_same_seed(mix: str) -> None:
    fleet = list(hosts(137, MIXES[mix], seed=3))
    assert len(fleet) == 137
    assert fleet == list(hosts(137, MIXES[mix], seed=3))
    assert fleet[0][0] == "host-00001"
    assert fleet[20][3] == {"zone": "zone-1", "rack": "rack-002"}
    assert {inventory["VCPU"].total for _, inventory, *_ in fleet} == {shape.vcpus for shape in MIXES[mix]}


def test_a_shape_with_cells_numbers_cpus_through_and_sums_them_up() -> None:
    shape = parse_shape("2x(2vcpux1.5+4pcpu:64gb:2gpux8):100gb*3")
    assert shape.cells["1"] == HostCell(
        cpus="6-7",
        cpus_dedicated="8-11",
        memory_mb=65536,
        devices=tuple(Device(id=f"gpu-1-{n}", resource_class="CUSTOM_GPU", shares=8) for n in range(2)),
        socket=1,
    )
    assert shape.inventory() == {
        "VCPU": Inventory(total=4, allocation_ratio_thousandths=1500),
        "PCPU": Inventory(total=8),
        "MEMORY_MB": Inventory(total=131072),
        "DISK_GB": Inventory(total=100),
        "CUSTOM_GPU": Inventory(total=32),
    }
    (driver,) = list(drivers(1, parse_shapes("2x(16vcpu:64gb)")).values())
    assert (driver.cells()["0"].cpus, driver.inventory()["VCPU"].total) == ("0-15", 32)


@pytest.mark.parametrize(
    "text",
    [
        "2x()", "2x(16vcpu)", "x(16vcpu:64gb)", "2x(16vcpu:64gb", "2x(16vcpu:64gb:gpu)", "99x(1vcpu:1gb)", "16x(300vcpu:1gb)",
        "2x(16:64gb)",
    ],
)  # fmt: skip
def test_a_shape_with_cells_that_cannot_be_meant_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="host shape"):
        parse_shape(text)


CELLED = """
[hosts.a.cells.0]
cpus = "0-1"
cpus_dedicated = "2-5"
siblings = ["2,3", "4,5"]
memory_mb = 1024
pages = { 2048 = 256 }
devices = [{ id = "0000:3b:00.0", vendor = "8086", product = "15b3" }, { id = "g", class = "VGPU", shares = 4 }]
[hosts.a.inventory.VCPU]
allocation_ratio = 4.0
"""


def test_cells_of_an_inventory_file_are_reported_and_what_it_leaves_out_is_their_sum(tmp_path: Path) -> None:
    (path := tmp_path / "hosts.toml").write_text(CELLED)
    driver = load_hosts(path)["a"].driver()
    (cell,) = driver.cells().values()
    assert (cell.pages, cell.siblings, cell.devices[0].resource_class) == (
        {2048: 256},
        ("2,3", "4,5"),
        "CUSTOM_PCI_8086_15B3",
    )
    assert driver.inventory() == {
        "VCPU": Inventory(total=2, allocation_ratio_thousandths=4000),
        "PCPU": Inventory(total=4),
        "MEMORY_MB": Inventory(total=1024),
        "CUSTOM_PCI_8086_15B3": Inventory(total=1),
        "VGPU": Inventory(total=4),
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[hosts.a.cells.0]\ncpu = '1'", "[hosts.a.cells.0]: unknown key 'cpu'; the nearest known is 'cpus'"),
        ("[hosts.a.cells.0]\ncpus = '3-1'", "[hosts.a.cells.0]: cpu list '3-1'"),
        ("[hosts.a.cells.0]\ndevices = [{ id = 'x' }]", "[hosts.a.cells.0]"),
        ("[hosts.a.cells.0]\ncpus = '0-3'\n[hosts.a.inventory.VCPU]\ntotal = 8", "VCPU]: total 8, its cells have 4: leave the total out"),
        ("[hosts.a.cells.'a b']\ncpus = '0-3'", "[hosts.a.cells]"),
    ],
)  # fmt: skip
def test_cells_that_cannot_be_are_told_with_their_place(tmp_path: Path, text: str, says: str) -> None:
    (path := tmp_path / "hosts.toml").write_text(text)
    with pytest.raises(SettingsError, match=re.escape(says)):
        load_hosts(path)


def test_cells_too_large_for_a_report_are_refused(tmp_path: Path) -> None:
    words = f"vendor = '{'v' * 64}', product = '{'p' * 64}'"
    devices = ",".join(f"{{ id = '{'x' * 60}{n:02}', class = 'VGPU', {words} }}" for n in range(64))
    text = "".join(f"[hosts.a.cells.{n}]\ndevices = [{devices}]\n" for n in range(16))
    (path := tmp_path / "hosts.toml").write_text(text)
    with pytest.raises(SettingsError, match="more than 200000 bytes of every report"):
        load_hosts(path)


def test_weights_share_what_counts_leave() -> None:
    shapes = (Shape(vcpus=1, memory_mb=1, count=3), Shape(vcpus=2, memory_mb=1, weight=2), Shape(vcpus=4, memory_mb=1))
    sizes = sorted(inventory["VCPU"].total for _, inventory, *_ in hosts(11, shapes))
    assert sizes == [1] * 3 + [2] * 5 + [4] * 3


@pytest.mark.parametrize(("n", "spec"), [(5, "2c:4gb*9"), (5, "2c:4gb*2"), (0, "mixed")])
def test_counts_that_disagree_with_the_number_of_hosts_are_refused(n: int, spec: str) -> None:
    with pytest.raises(UsageError, match="hosts"):
        list(hosts(n, parse_shapes(spec)))


def test_shapes_come_from_files_too(tmp_path: Path) -> None:
    (csv := tmp_path / "s.csv").write_text("vcpus,memory_mb,count,traits\n64,1024,2,A B\n8,512,,\n")
    (toml := tmp_path / "s.toml").write_text(
        "[[shapes]]\nvcpus=64\nmemory_mb=1024\ncount=2\ntraits=['A','B']\n[[shapes]]\nvcpus=8\nmemory_mb=512\n"
    )
    assert load_shapes(csv) == load_shapes(toml) == parse_shapes(str(csv))
    assert load_shapes(csv)[0] == Shape(vcpus=64, memory_mb=1024, count=2, traits=("A", "B"))


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("s.csv", "vcpus,memory_mb\n64,x\n", "line 2"),
        ("s.csv", "vcpus,memory_mb\n64\n", "line 2: 1 column, the header has 2"),
        ("s.toml", "[[shapes]]\nvcpus=0\nmemory_mb=1\n", "number 1: vcpus must be at least 1"),
        ("s.toml", "[[shapes]]\nvcpu=1\nmemory_mb=1\n", "vcpu is not known here"),
        ("s.toml", "", "no shapes"),
        ("s.toml", "shapes = 3", "s.toml: shapes must be"),
        ("s.toml", f"shapes = {DEEP}", "s.toml: nested too deep"),
        ("s.toml", f"[[shapes]]\n{DOTTED} = 1", "s.toml: nested too deep"),
        ("s.toml", f"[[shapes]]\nvcpus={'9' * 20}\nmemory_mb=1\n", "number 1: vcpus must be at most"),
    ],
)
def test_shape_file_errors_name_the_place(tmp_path: Path, name: str, text: str, says: str) -> None:
    (path := tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=says):
        load_shapes(path)
