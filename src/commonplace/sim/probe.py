"""A calm world must be right at once: a request alone is placed by the first claim wherever there is room, and nowhere else.

What is left behind in a replica's state (an overlay, a flavor that was deleted meanwhile) shows in its answers, and nowhere in the log
before: so every request partition is asked once everything has come to rest.
"""

import sys
from itertools import pairwise
from typing import Final

from commonplace.core.codec import decode, encode
from commonplace.core.partition import partition_of
from commonplace.core.records.decisions import Decision
from commonplace.core.records.requests import Build
from commonplace.sim import plan
from commonplace.sim.findings import Violation
from commonplace.sim.model import Host
from commonplace.sim.workload import set_flavor
from commonplace.sim.world import World

STEP_MS: Final = 20
WAIT_MS: Final = 10_000
VCPUS, MEMORY_MB = 1, 1


def probe(world: World) -> None:
    """Ask every partition for one small instance, and for one of each flavor that was deleted."""
    if world.checkers.answers.windowless:
        return
    # until log times have caught up with a clock that was put back, hosts look silent and requests late
    config = world.config
    world.run_until(world.now + max(0, _newest_ms(world) - world.wall()))
    # a clock that was put forward makes them look silent, too, until they next report
    if any(_dated_ms(world, host) + config.liveness_ms < world.wall() for host in _served(world)):
        world.run_until(world.now + 2 * config.heartbeat_ms)
    partitions = config.request_partitions
    flavors = {partition: _flavor_on(partition, partitions) for partition in range(partitions)}
    for name in flavors.values():
        set_flavor(world, plan.SetFlavor(at_ms=0, name=name, vcpus=VCPUS, memory_mb=MEMORY_MB))
    world.run_until(world.now + 50 * STEP_MS)
    for partition, name in flavors.items():
        before, ends = {host.name for host in _rooms(world)}, _ends(world)
        decision = _ask(world, partition, name)
        # room before and after: between, a request of a partition that changed its owner may have come first
        rooms = before & {host.name for host in _rooms(world)}
        if decision is None:
            _violated(
                world,
                f"the calm world does not answer a request on partition {partition} within {WAIT_MS} ms",
                partition,
            )
        elif _excused(world, decision, ends):
            continue
        elif rooms and decision.result != "placed":
            where = f"{min(rooms)} has room"
            _violated(world, f"the calm world answers {decision.result} ({decision.message}) though {where}", partition)
        elif decision.conflicts:
            _violated(
                world,
                f"{decision.replica} needs {decision.conflicts + 1} claims to place a request in a calm world",
                partition,
            )
    for name in _deleted(world):
        for partition in flavors:  # whatever its own is: every owner must know
            decision = _ask(world, partition, name)
            if decision is not None and decision.result == "placed":
                _violated(world, f"{decision.replica} places flavor {name}, which was deleted", partition)


def _dated_ms(world: World, host: Host) -> int:
    """The log time of the host's last report as the broker's clock had it, which may have jumped since."""
    log = world.topics["hosts"].everything(host.partition)
    return next((raw[1] for raw in reversed(log) if raw[0] == host.offset), 0)


def _newest_ms(world: World) -> int:
    """The latest log time of any record, which a clock that was put back has yet to come up with."""
    logs = (topic.everything(n) for topic in world.topics.values() for n in range(topic.partitions))
    return max((raw[1] for log in logs for raw in log), default=0)


def _flavor_on(partition: int, partitions: int) -> str:
    """A flavor whose requests stand on that partition."""
    return next(name for n in range(1_000) if partition_of(name := f"probe{n}", partitions) == partition)


def _ask(world: World, partition: int, flavor: str) -> Decision | None:
    """The decision on a request for one instance, if it comes."""
    topic, end = world.topics["decisions"], world.topics["decisions"].end(partition)
    build = Build(id=f"probe-{flavor}-{partition}", flavor=flavor)
    world.append("requests", partition, flavor.encode(), encode(build))
    limit = world.now + WAIT_MS
    while world.now < limit:
        world.run_until(world.now + STEP_MS)
        for _, _, key, value in topic.read(partition, end, 1_000)[0]:
            if key == build.id.encode() and value is not None:
                decision = decode("decisions", value)
                assert isinstance(decision, Decision), f"a replica wrote {value!r:.200}"
                return decision
    return None


def _served(world: World) -> list[Host]:
    """Hosts that a living agent serves."""
    served = {host for agent in world.agents for host in agent.serving()}
    return [host for host in world.checkers.hosts.values() if host.name in served]


def _rooms(world: World) -> list[Host]:
    """Hosts that must take the request, by their last reports."""
    config = world.config
    said = _controls(world)
    found = []
    for host in _served(world):
        facts, held = host.facts, host.held
        builds = sum(1 for allocation in held.values() if allocation.building)
        if (
            not host.stale
            and not host.removed
            and facts.status == "enabled"
            and said.get(host.name, "enabled") == "enabled"
            and facts.capacity("VCPU") - host.used("VCPU") >= VCPUS
            and facts.capacity("MEMORY_MB") - host.used("MEMORY_MB") >= MEMORY_MB
            and not (config.builds_max and builds >= config.builds_max)
            and not (config.instances_max and len(held) >= config.instances_max)
        ):
            found.append(host)
    return found


def _excused(world: World, decision: Decision, ends: dict[int, int]) -> bool:
    """Whether a claim rightly got no grant: its host changed of itself, or nobody serves that and gives a verdict."""
    if _deserted(world):
        return decision.conflicts > 0 or decision.result == "expired"
    return decision.conflicts > 0 and _moved(world, ends)


def _deserted(world: World) -> bool:
    """Whether a host may be chosen that nobody serves any more: until it is silent for long enough, replicas cannot know."""
    served = {host for agent in world.agents for host in agent.serving()}
    return any(host.name not in served and not host.removed for host in world.checkers.hosts.values())


def _ends(world: World) -> dict[int, int]:
    hosts = world.topics["hosts"]
    return {partition: hosts.end(partition) for partition in range(world.config.partitions)}


def _moved(world: World, ends: dict[int, int]) -> bool:
    """Whether a host changed of itself since then, so that a claim on the state before was rightly rejected."""
    for host in world.checkers.hosts.values():
        asked = [raw[0] for raw in world.topics["claims"].everything(host.partition) if raw[2] == host.name.encode()]
        states = [(offset, through, state) for offset, *_, through, state in host.history]
        for (_, since, before), (offset, through, state) in pairwise(states):
            late = offset >= ends[host.partition]
            if late and state != before and not any(since < at <= through for at in asked):
                return True
    return False


def _controls(world: World) -> dict[str, str]:
    """What operators said last of each host, of what stands: a loss may take a record whose forerunner was compacted away."""
    said, log = {}, world.topics["control"]
    for _, _, key, value in log.read(0, log.begin(0), sys.maxsize)[0]:
        if key is not None and key.startswith(b"host/"):
            record = decode("control", value) if value is not None else None
            said[key[5:].decode(errors="replace")] = getattr(record, "status", "enabled")
    return said


def obeyed(world: World) -> None:
    """At rest every host that is served reports the status that operators said last."""
    said = _controls(world)
    for host in _served(world):
        status = said.get(host.name, "enabled")
        known = not (host.stale or host.blind or host.removed)
        if known and host.facts.status != status:
            text = f"{host.name} reports to be {host.facts.status} in a calm world, operators said {status}"
            world.checkers.violations.append(Violation(8, text, (("hosts", host.partition, host.offset),)))


def _deleted(world: World) -> list[str]:
    """Flavors that were there and are not any more."""
    last = {key: value for _, _, key, value in world.topics["control"].everything(0) if key is not None}
    return [key[7:].decode() for key, value in last.items() if key.startswith(b"flavor/") and value is None]


def _violated(world: World, sentence: str, partition: int) -> None:
    end = world.topics["decisions"].end(partition)
    world.checkers.violations.append(Violation(8, sentence, (("decisions", partition, end - 1),)))
