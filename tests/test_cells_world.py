"""NUMA cells through whole agents and racing replicas: no cpu and no share of a device is given twice, whatever restarts."""

from collections import Counter
from typing import Any

import pytest

from commonplace.core import cpu_lists
from commonplace.core.codec import decode, encode
from commonplace.core.keeper_events import HostSpec
from commonplace.core.records.claims import Claim, Release
from commonplace.core.records.control import CellAsk, DeviceAsk, Flavor
from commonplace.core.records.hosts import Allocation, Delta, Snapshot
from commonplace.core.records.requests import Build
from commonplace.core.resources import Inventory
from test_cells import CELLS, INVENTORY
from world import Agent, World

HOSTS = ("h1", "h2", "h3")


def specs() -> list[HostSpec]:
    inventory = INVENTORY | {"DISK_GB": Inventory(total=999)}
    return [HostSpec(name=host, inventory=inventory, cells=CELLS) for host in HOSTS]


def pinned(world: World) -> None:
    world.flavor(
        Flavor(
            name="pinned",
            resources={"PCPU": 1, "MEMORY_MB": 64, "VGPU": 1},
            cells=(CellAsk(cpus_dedicated=1, memory_mb=64),),
            devices=(DeviceAsk(resource_class="VGPU", policy="preferred"),),
            spread=16,
        )
    )


def reports(world: World) -> list[Snapshot | Delta]:
    """Every report in log order, partition by partition."""
    found = []
    for (topic, _), records in sorted(world.log.items()):
        decoded = [decode("hosts", value) for _, _, _, value in records if value] if topic == "hosts" else []
        found += [record for record in decoded if isinstance(record, (Snapshot, Delta))]
    return found


def given(allocations: Any) -> Counter[tuple[str, str, Any]]:
    """How often each cpu and each device is given by some allocations."""
    numbers: Counter[tuple[str, str, Any]] = Counter()
    for one in allocations:
        for cell, assigned in (one.assigned or {}).items():
            numbers.update((cell, "cpu", cpu) for cpu in cpu_lists.parse(assigned.cpus))
            for device, shares in assigned.devices.items():
                numbers[cell, "device", device] += shares
    return numbers


def ledgers(agent: Agent) -> dict[str, list[Allocation]]:
    return {host: list(kept.ledger.allocations.values()) for host, kept in agent.keeper.hosts.items() if kept.ledger}


@pytest.mark.parametrize("mode", ["strict", "fits"])
def test_three_replicas_that_race_for_cells_fill_them_to_the_last_cpu_and_give_none_twice(mode: str) -> None:
    world = World(partitions=1, request_partitions=6)
    pinned(world)
    agent = world.agent(specs=specs())
    world.settle()
    for number in range(3):
        world.scheduler(f"r{number}", owned=[2 * number, 2 * number + 1], mode=mode)
    for number in range(30):
        world.submit(Build(id=f"q{number}", flavor="pinned"))
    world.settle()
    results = Counter(world.decisions(f"q{number}")[0].result for number in range(30))
    assert results == {"placed": 24, "no_valid_host": 6}  # 8 dedicated cpus and 8 shares a host
    for held in ledgers(agent).values():
        numbers = given(held)
        assert len(held) == 8
        assert {kind: sum(n for (_, k, _), n in numbers.items() if k == kind) for kind in ("cpu", "device")} == {
            "cpu": 8,
            "device": 8,
        }
        assert all(count == 1 for (_, kind, _), count in numbers.items() if kind == "cpu")
        assert all(count <= 4 for (_, kind, _), count in numbers.items() if kind == "device")
    claims = [
        decode("claims", value) for (t, _), log in world.log.items() if t == "claims" for _, _, _, value in log if value
    ]
    assert sum(isinstance(one, Claim) for one in claims) > 24  # they did race


def test_a_restarted_agent_goes_on_with_what_it_gave_and_gives_only_what_is_free() -> None:
    world = World(partitions=1, request_partitions=2)
    pinned(world)
    first = world.agent(specs=specs())
    world.settle()
    world.scheduler("r1")
    for number in range(12):
        world.submit(Build(id=f"q{number}", flavor="pinned"))
    world.settle()
    before = {one.id: one.assigned for held in ledgers(first).values() for one in held}
    gone = world.decisions("q3")[0].placed[0]
    record = Release(host=gone.host, request="q3", allocation=gone.allocation)
    world.append("claims", 0, gone.host.encode(), encode(record))
    world.members.remove(first)
    world.now += 1_000
    second = world.agent(specs=specs(), name="agent-2")
    world.settle()
    after = {one.id: one.assigned for held in ledgers(second).values() for one in held}
    assert after == {identity: assigned for identity, assigned in before.items() if identity != gone.allocation}
    for number in range(12, 30):
        world.submit(Build(id=f"q{number}", flavor="pinned"))
    world.settle()
    for held in ledgers(second).values():
        assert all(count == 1 for (_, kind, _), count in given(held).items() if kind == "cpu")
    told: dict[str, Any] = {}
    for report in reports(world):
        for one in report.allocations if isinstance(report, Snapshot) else report.upserts:
            assert told.setdefault(one.id, one.assigned) == one.assigned  # never other numbers than those told first
