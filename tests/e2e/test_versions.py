"""Two versions of the wire side by side (docs/protocol.md, "Versions"): processes of today's and of the next, on one system."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import cli
from commonplace.core.codec import decode
from commonplace.core.records.fields import VERSION
from commonplace.core.records.quarantine import Quarantined
from commonplace.ops.stack_environ import settings_environ
from commonplace.ops.stack_process import Process
from e2e_world import World, until

pytestmark = [pytest.mark.real_kafka, pytest.mark.timeout(240)]

FENCED = 7
HOST = "next-1"
NEXT = VERSION + 1
TODAY: Mapping[str, str] = {}


def next_version(writes: int) -> dict[str, str]:
    """The environment of a process of the next version."""
    return {"PYTHONPATH": str(Path(__file__).parent.parent / "next_version"), "NEXT_VERSION_WRITES": str(writes)}


class Agents:
    """Agents of one host, one after another."""

    def __init__(self, world: World, file: Path) -> None:
        self.world, self.file, self.count = world, file, 0
        lines = ["VCPU = { total = 64 }", "MEMORY_MB = { total = 65536 }", "DISK_GB = { total = 1000 }"]
        file.write_text("\n".join([f"[hosts.{HOST}.inventory]", *lines]) + "\n")

    def start(self, environ: Mapping[str, str], *, wait: bool = True) -> str:
        """Start one more agent of the host; returns its name."""
        self.count += 1
        name = f"agent-{self.count}"
        arguments = ("agent", "--name", name, "--driver", "static", "--file", str(self.file))
        self.world.stack._serve(name, *arguments, wait=wait, environ=environ)
        return name

    def fenced_by(self, environ: Mapping[str, str], elder: str) -> str:
        """Start one more while its elder lives, which must give the host up."""
        process: Process = self.world.stack.processes.pop(elder)
        name = self.start(environ)
        assert process.popen.wait(60) == FENCED
        process.wait(0)
        return name


@pytest.fixture
def agents(world: World, tmp_path: Path) -> Iterator[Agents]:
    world.only("r1", "r2")
    agents = Agents(world, tmp_path / "host.toml")
    yield agents
    for name in [name for name in world.stack.processes if name.startswith("agent-")]:
        world.stack.end(name)


def is_newer(world: World, replicas: tuple[str, ...], count: int) -> str:
    """Which replica counts another number of hosts of a newer version than `count`, or ""."""
    found = {name: world.metrics(name)['commonplace_hosts{status="newer"}'] for name in replicas}
    return "" if set(found.values()) == {count} else f"newer hosts: {found}, not {count}"


def flags(world: World) -> list[str]:
    """What `commonplace hosts` says of the host."""
    done = cli.run("hosts", "-o", "json", env=settings_environ(world.settings, world.settings.bootstrap))
    return next(line["flags"] for line in json.loads(done.stdout) if line["name"] == HOST)


def set_aside(world: World) -> list[str]:
    """Keys of the records of `hosts` that somebody put aside."""
    met = [decode("quarantine", entry.value or b"") for entry in world.read("quarantine")]  # garbage stands there too
    return [record.key for record in met if isinstance(record, Quarantined) and record.topic.endswith(".hosts")]


def placed(world: World, host: str = "") -> str:
    """Where one more request goes, for that host alone if one is named; "" if nowhere."""
    [decision] = world.answered(world.submit(1, host=host))
    return decision.placed[0].host if decision.placed else ""


def test_a_host_whose_agent_is_newer_is_unranked_counted_and_named_and_comes_back_with_our_version(
    world: World, agents: Agents
) -> None:
    both, aside = ("r1", "r2"), len(set_aside(world))
    newer = agents.start(next_version(NEXT))
    until(lambda: is_newer(world, both, 1))
    assert flags(world) == ["newer"]
    with world.load():
        assert placed(world, host=HOST) == ""
    assert {decision.result for decision in world.answered(world.submit(20))} == {"placed"}
    # the next version, told to write ours: what it says beyond it is passed over
    world.stack.end(newer)
    newer = agents.start(next_version(VERSION))
    until(lambda: is_newer(world, both, 0))
    assert flags(world) == []
    assert placed(world, host=HOST) == HOST
    # back to today's, which goes on with what the next one granted
    ours = agents.fenced_by(TODAY, elder=newer)
    until(lambda: "" if placed(world, host=HOST) == HOST else "nothing is placed there")
    # a newer one fences like any
    newer = agents.fenced_by(next_version(NEXT), elder=ours)
    assert f"an agent of version {NEXT}" in world.log(ours)
    until(lambda: is_newer(world, both, 1))
    assert len(set_aside(world)) == aside
    # and what it wrote nobody may pass over who cannot read it
    refused = agents.start(TODAY, wait=False)
    assert world.gone(refused) not in (0, FENCED)
    assert f"version {NEXT} is newer than {VERSION}" in world.log(refused)
    assert world.gone(newer) == FENCED
    agents.start(next_version(VERSION))
    until(lambda: is_newer(world, both, 0))
    until(lambda: "" if placed(world, host=HOST) == HOST else "nothing is placed there")
    world.check(unprovable=True)  # no auditor reads what the newer one wrote
    world.good = False  # a host that holds something stays behind, and no agent of it


def test_replicas_and_fleets_of_the_next_version_that_write_ours_serve_with_todays(world: World) -> None:
    """The order of a roll: replicas first, then agents."""
    world.only("r1")
    world.stack.start_scheduler("r3", environ=next_version(VERSION))
    world.await_share("r1", "r3")
    with world.load():
        world.stack.kill("r3")  # what it leaves undecided, half claimed and unread is today's replica's to end
        world.answered(world.submit(40))
        world.stack.start_scheduler("r3", environ=next_version(VERSION))
        world.stack.end("fleet")
        world.stack.start_fleet(environ=next_version(VERSION))
        world.stack.kill("r1")
        world.answered(world.submit(40))
        world.stack.start_scheduler("r1")
        world.stack.kill("fleet")
        world.stack.start_fleet()
        world.answered(world.submit(40))
    world.stack.end("r3")
    world.release_all()
    world.check()
