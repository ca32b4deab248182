"""What goes wrong: each kind of fault, done. Those that befall a record on its way are in members.py."""

from collections.abc import Callable
from typing import Any, Final

from commonplace.core.codec import encode
from commonplace.core.hashing import MASK, to_hex
from commonplace.core.records.hosts import Delta, Snapshot
from commonplace.sim import plan
from commonplace.sim.members import Process
from commonplace.sim.replicas import ENDS_ASKED_MS, ReplicaProcess
from commonplace.sim.settings import COMPACTED
from commonplace.sim.workload import ITEMS
from commonplace.sim.world import World

TOPICS: Final = ("hosts", "claims", "requests", "decisions", "control", "replicas")
NOTICE_MS: Final = 2_000
"""How late a process notices that a topic was made anew, at most."""


def apply(world: World, what: Any) -> None:
    """Do what an item or a fault says."""
    if isinstance(what, plan.Fault):
        if KINDS[what.kind](world, what):
            world.count(what.kind)
            if world.trace is not None:
                world.trace.tells("fault", f"{what.kind} {what.what} {what.ms or ''}".rstrip())
    else:
        ITEMS[type(what)](world, what)


def _one(processes: list[Any], fault: plan.Fault) -> Any:
    return processes[fault.pick % len(processes)] if processes else None


def _kill(processes: Callable[[World], list[Any]]) -> Callable[[World, plan.Fault], bool]:
    def kill(world: World, fault: plan.Fault) -> bool:
        process = _one(processes(world), fault)
        if process is not None:
            world.kill(process, fault)
        return process is not None

    return kill


def _pause(processes: Callable[[World], list[Any]], frozen: bool = False) -> Callable[[World, plan.Fault], bool]:
    def pause(world: World, fault: plan.Fault) -> bool:
        process = _one(processes(world), fault)
        if process is None or process.paused_ms > world.now:
            return False
        process.pause(world.now + fault.ms, frozen)
        return True

    return pause


def _zombie(world: World, fault: plan.Fault) -> bool:
    """A replica goes on, but its group does not hear of it."""
    replica = _one(world.replicas, fault)
    if replica is not None:
        world.coordinator.cut_off(replica, world.now + fault.ms)
    return replica is not None


def _cut(world: World, fault: plan.Fault) -> bool:
    """A process's links to the broker are cut, towards it, from it, or both; its group hears of a replica no way."""
    process: Process | None = _one(world.processes(), fault)
    if process is None:
        return False
    process.cut_off(world.now + fault.ms, fault.what)
    if isinstance(process, ReplicaProcess):
        world.coordinator.cut_off(process, world.now + fault.ms)
    return True


def _wall_clock(world: World, fault: plan.Fault) -> bool:
    """A replica's wall clock is off by `ms`."""
    replica: ReplicaProcess | None = _one(world.replicas, fault)
    if replica is not None:
        replica.wall_ahead_ms = fault.ms
    return replica is not None


def _disk_full(world: World, fault: plan.Fault) -> bool:
    world.outages.disk_full(world.now + fault.ms)
    return True


def _replica_joins(world: World, fault: plan.Fault) -> bool:
    names = {replica.name for replica in world.replicas}
    if len(names) >= 8:
        return False
    world.start_replica(next(name for name in (f"r{n}" for n in range(99)) if name not in names))
    return True


def _replica_leaves(world: World, fault: plan.Fault) -> bool:
    staying = [replica for replica in world.replicas if not replica.leaving]
    if len(staying) < 2:
        return False
    _one(staying, fault).leave()
    return True


def _agent_clone(world: World, fault: plan.Fault) -> bool:
    """A second agent is started for the same hosts, under the same name; `race`: two at once.

    Not while one has yet to notice that a topic was made anew: of `hosts`, both would have the same epochs.
    """
    if world.unaware:
        return False
    unit = fault.pick % len(world.units)
    started = world.start_agent(unit)
    if fault.what == "race" and started is not None:
        world.start_agent(unit)
    return started is not None


def _broker_down(world: World, fault: plan.Fault) -> bool:
    world.broker_down(world.now + fault.ms)
    return True


def _partition_down(world: World, fault: plan.Fault) -> bool:
    topic = fault.what or TOPICS[fault.pick % len(TOPICS)]
    world.outages.partition_down(topic, (fault.pick >> 4) % world.topics[topic].partitions, world.now + fault.ms)
    return True


def _delay(world: World, fault: plan.Fault) -> bool:
    """One reader does not get one partition for a while."""
    process: Process | None = _one(world.agents if fault.what == "claims" else world.processes(), fault)
    if process is None or not process.sources:
        return False
    sources = [source for source in process.sources.values() if fault.what in ("", source.topic.name)]
    if not sources:
        return False
    source = sources[(fault.pick >> 8) % len(sources)]
    source.cut_ms = max(source.cut_ms, world.now + fault.ms)
    return True


def _clean(world: World, fault: plan.Fault) -> bool:
    """The log cleaner passes over the compacted topics."""
    gone = 0
    for name in COMPACTED:
        topic = world.topics[name]
        for partition in range(topic.partitions):
            gone += topic.clean(partition, world.wall())
    world.counts["compacted records"] += gone
    return True


def _expire(world: World, fault: plan.Fault) -> bool:
    """Retention passes over the claims."""
    topic = world.topics["claims"]
    gone = 0
    for partition in range(topic.partitions):
        gone += topic.expire(partition, world.wall())
        world.checkers.expired("claims", partition, topic.begin(partition))
    world.counts["expired records"] += gone
    return gone > 0


def _marker(world: World, fault: plan.Fault) -> bool:
    """A transaction's marker takes an offset that no reader meets."""
    topic = world.topics[fault.what or TOPICS[fault.pick % len(TOPICS)]]
    world.mark(topic.name, (fault.pick >> 4) % topic.partitions)
    return True


def _offsets_gone(world: World, fault: plan.Fault) -> bool:
    """The group's committed offset of a partition is lost."""
    return world.coordinator.group.committed.pop(fault.pick % world.config.request_partitions, None) is not None


def _clock_jump(world: World, fault: plan.Fault) -> bool:
    """The broker's clock jumps by `ms`."""
    world.broker_ahead_ms += fault.ms
    world.checkers.clock_jumped(fault.ms)
    return True


def _truncate(world: World, fault: plan.Fault) -> bool:
    """An unclean election loses the tail of a partition."""
    topic = world.topics[fault.what or TOPICS[fault.pick % len(TOPICS)]]
    partition = (fault.pick >> 4) % topic.partitions
    end = topic.end(partition) - 1 - (fault.pick >> 8) % 3
    if end < 0:
        return False
    topic.truncate(partition, end)
    left = {raw[0] for raw in topic.read(partition, topic.begin(partition), end)[0]}
    world.checkers.truncated(topic.name, partition, end, left)
    for source in world.readers[topic.name][partition]:
        if source.position > end:
            # the client validates its offset against the leader's epoch, and finds it out of range
            source.position = -1
            source.owner.mark(source)
    for process in world.processes():
        process.wake(world.now + ENDS_ASKED_MS + 1)  # who waits for an end that it captured before asks for it again
    return True


def _recreate(world: World, fault: plan.Fault) -> bool:
    """A topic is deleted and made anew; every process notices some time later. Not `hosts` while two agents have the same ones."""
    name = fault.what or ("claims", "requests")[fault.pick % 2]
    if name == "hosts" and len({agent.unit for agent in world.agents}) < len(world.agents):
        return False
    topic = world.topics[name]
    topic.recreate(world.wall())
    world.checkers.recreated(name, topic.id)
    if name == "requests":
        world.coordinator.group.committed.clear()
    elif name == "control":  # operators say again what they had said
        world.say_all()
    for process in world.processes():
        if name in ("requests", "decisions", "replicas") and process in world.agents:
            continue  # which look at none of them
        world.unaware += 1
        world.at(world.now + 1 + int(process.random() * NOTICE_MS), _notice, world, process, name)
    return True


def _notice(world: World, process: Process, topic: str) -> None:
    world.unaware -= 1
    rebuild = getattr(process, "rebuild", None)
    if process.alive and process.sources and rebuild is not None:
        rebuild(f"{topic} was made anew")


GARBAGE: Final[tuple[bytes | None, ...]] = (
    b"",
    b"{",
    b"\xff\xfe\x00",
    b"[" * 2_000,
    b'{"type":"nothing","v":1}',
    b'{"type":"delta","v":2,"host":"h0","flux":1}',
    b'{"type":"claim","v":3,"host":"h0"}',
    b'{"type":"build","v":1,"id":"g1","flavor":"small","count":-1}',
    b'{"type":"build","v":9,"id":"g2","flavor":"small"}',
    b'{"type":"decision","v":1,"request":"g3","result":"placed","position":{"partition":0,"offset":0}}',
    b'{"type":"release","v":1,"host":"h0","request":"g4","allocation":"nobody-1"}',
    b'{"type":"confirm","v":1,"host":"h1","request":"g5","allocation":"nobody-2"}',
    None,
)
KEYS: Final[tuple[bytes | None, ...]] = (
    b"h0",
    b"h1",
    b"small",
    b"g1",
    b"h0/start",
    b"nobody/7/delta",
    b"\xff/",
    b"flavor/zzz",
    None,
)


OVERSIZED: Final = b'{"type":"build","v":1,"id":"g5","flavor":"small"%b}' % (b" " * 1_010_000)
"""Too large to be read by a little, and good otherwise; a broker takes up to 1,048,588 bytes."""


def _garbage(world: World, fault: plan.Fault) -> bool:
    """Somebody writes what nobody can use."""
    return _misplaced(world, fault, GARBAGE[(fault.pick >> 12) % len(GARBAGE)])


def _oversized(world: World, fault: plan.Fault) -> bool:
    """Somebody writes more than anybody reads."""
    return _misplaced(world, fault, OVERSIZED)


def _misplaced(world: World, fault: plan.Fault, value: bytes | None) -> bool:
    name = fault.what or TOPICS[fault.pick % len(TOPICS)]
    topic = world.topics[name]
    key = KEYS[(fault.pick >> 4) % len(KEYS)]
    if name in COMPACTED and (key is None or key == b"h0/start"):
        key = b"nobody/7"
    return _written(world, name, (fault.pick >> 8) % topic.partitions, key, value)


def _written(world: World, topic: str, partition: int, key: bytes | None, value: bytes | None) -> bool:
    """Whether what a fault writes stands: where nobody reaches the broker, it does not either."""
    if world.outages.unwritable_until(topic, partition) > world.now:
        return False
    world.inject(topic, partition, key, value)
    return True


def _spoil(world: World, fault: plan.Fault) -> bool:
    """Under the very keys of a host that its agent serves: garbage, a newer version, a report on another base or with a wrong hash."""
    agents = [agent for agent in world.agents if agent.paused_ms <= world.now]
    agent = _one(agents, fault)
    hosts = [kept for kept in agent.keeper.hosts.values() if kept.phase == "serving"] if agent else []
    if not hosts:
        return False
    kept = hosts[(fault.pick >> 4) % len(hosts)]
    host, epoch = kept.spec.name, kept.ledger.epoch
    key = (f"{host}/{epoch}", f"{host}/{epoch}/delta", f"{host}/0/delta")[(fault.pick >> 8) % 3]
    match (fault.pick >> 12) % 4:
        case 0:
            value = b"{"
        case 1:
            value = encode({"type": "delta", "v": 2, "host": host, "epoch": epoch, "new": True})
        case forged:
            key, value = _forged(kept.ledger, other_base=forged == 2)
    return _written(world, "hosts", kept.partition, key.encode(), value)


def _forged(ledger: Any, *, other_base: bool) -> tuple[str, bytes]:
    """A report in a ledger's name that nobody may believe: it rests on a snapshot that is not there, or hides what is held."""
    said = {
        "host": ledger.host,
        "epoch": ledger.epoch,
        "generation": ledger.generation + 1,
        "claims_topic": ledger.claims_topic,
        "claims_through": ledger.claims_through,
    }
    if other_base:
        allocations = list(ledger.allocations.values())
        record = Delta(**said, base_generation=ledger.base + 1_000, hash=to_hex(ledger.hash), upserts=allocations)
        return f"{ledger.host}/{ledger.epoch}/delta", encode(record)
    bare = Snapshot(**said, hash=to_hex(ledger.hash + 1 & MASK), inventory=dict(ledger.inventory))
    return f"{ledger.host}/{ledger.epoch}", encode(bare)


KINDS: Final[dict[str, Callable[[World, plan.Fault], bool]]] = {
    "replica_crash": _kill(lambda world: world.replicas),
    "replica_pause": _pause(lambda world: world.replicas),
    "replica_freeze": _pause(lambda world: world.replicas, frozen=True),
    "replica_zombie": _zombie,
    "replica_joins": _replica_joins,
    "replica_leaves": _replica_leaves,
    "agent_crash": _kill(lambda world: world.agents),
    "agent_pause": _pause(lambda world: world.agents),
    "agent_clone": _agent_clone,
    "frontend_crash": _kill(lambda world: world.frontends),
    "frontend_pause": _pause(lambda world: world.frontends),
    "broker_down": _broker_down,
    "partition_down": _partition_down,
    "delay": _delay,
    "clean": _clean,
    "expire": _expire,
    "marker": _marker,
    "offsets_gone": _offsets_gone,
    "clock_jump": _clock_jump,
    "truncate": _truncate,
    "recreate": _recreate,
    "cut": _cut,
    "wall_clock": _wall_clock,
    "disk_full": _disk_full,
    "garbage": _garbage,
    "oversized": _oversized,
    "spoil": _spoil,
}
"""Faults that happen at a time, or when a record is sent; each returns whether it happened."""
