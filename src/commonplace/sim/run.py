"""Runs a schedule: the part with faults, then the quiet in which everything due must come, then the judgement."""

import traceback
from collections import Counter
from functools import partial
from typing import Final

from msgspec import Struct

from commonplace.core.kept import FENCED, REFUSED, SERVING
from commonplace.core.view import View
from commonplace.sim import at_rest, faults, plan, readers
from commonplace.sim.decoding import remembered
from commonplace.sim.draw import draw
from commonplace.sim.findings import Violation
from commonplace.sim.probe import obeyed, probe
from commonplace.sim.repair import repair
from commonplace.sim.trace import Trace
from commonplace.sim.world import START_MS, World

CHECKPOINTS: Final = 10
"""States are compared so often before faults stop."""
SLICE_MS: Final = 500
RECOVERY_MS: Final = 5_000
"""Time for whoever starts anew at the end of the faults."""
QUIET_MIN_MS: Final = 120_000


class Outcome(Struct, frozen=True, kw_only=True):
    """What became of one schedule. `digest` is over everything appended, with its time; `digests` counts states compared."""

    seed: int
    profile: str
    events: int
    digest: str
    virtual_ms: int
    digests: int
    violations: list[Violation]
    counts: dict[str, int]
    requests: int
    results: dict[str, int]


def run_seed(seed: int, profile: str = "swarm", trace: Trace | None = None) -> Outcome:
    """Draw and run one schedule."""
    return run(draw(seed, profile), trace)


def run(schedule: plan.Schedule, trace: Trace | None = None) -> Outcome:
    """Run one schedule to its end."""
    world = lived(schedule, trace)
    outcome = _outcome(world)
    world.dissolve()
    return outcome


def lived(schedule: plan.Schedule, trace: Trace | None = None, *, probing: bool = True) -> World:
    """The world after a schedule, with what it violated; a core that raises has violated an invariant too.

    With `probing` the world at rest is asked for an instance, which stands in its logs as any other.
    """
    with remembered():
        return _lived(schedule, trace, probing)


def _lived(schedule: plan.Schedule, trace: Trace | None, probing: bool) -> World:
    world: World | None = None
    try:
        world = World(schedule, faults.apply, trace)
        _storm(world)
        _quiet(world)
        if probing and not world.checkers.violations:
            probe(world)
        _judge(world)
    except Exception as error:  # whatever the core raises is what we look for
        if world is None:
            raise
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__} at {where.filename.rpartition('/')[2]}:{where.lineno}: {error}"
        world.checkers.violations.append(Violation(9, text[:500]))
        if trace is not None:
            trace.lines += traceback.format_exc().splitlines()
    return world


def _storm(world: World) -> None:
    run_ms = world.config.run_ms
    for number in range(1, CHECKPOINTS + 1):
        world.run_until(START_MS + run_ms * number // CHECKPOINTS)
        _checkpoint(world)


def _checkpoint(world: World) -> None:
    """Hold every replica's state against what the log makes of its positions (invariant 8)."""
    checkers, hosts = world.checkers, world.topics["hosts"].id
    for replica in world.replicas:
        if replica.ready and replica.hosts_id == hosts:
            world.digests += 1
            view, positions = replica.replica.view, dict(enumerate(replica.positions()))
            readers.digest(checkers, replica.nonce, positions, view.digest)
            names = [row.host.name for row in view.by_index if not row.host.removed]
            readers.fleet(checkers, replica.nonce, positions, names)
            readers.accounts(checkers, replica.nonce, replica.folded, view.outcomes)


def _quiet(world: World) -> None:
    """Faults stop; who is dead is started; everything that is due comes, or a violation says that it does not."""
    if world.trace is not None:
        world.trace.tells("world", "faults stop")
    world.faulty = False
    config = world.config
    # whoever died last is missed for a session, whoever lost records waits before it starts anew
    world.calm_ms = world.true_ms() + 2 * config.session_ms + config.delivery_timeout_ms + RECOVERY_MS
    world.heal()
    world.latency_ms = min(world.latency_ms, 20)
    lease_ms = max(
        [world.config.lease_ms, *(item.lease_ms for item in world.schedule.items if isinstance(item, plan.Submit))]
    )
    limit = (
        world.now
        + QUIET_MIN_MS
        + 6 * lease_ms
        + world.config.run_ms
        + 4 * world.config.liveness_ms
        + 4 * world.config.deadline_ms
    )
    step = max(SLICE_MS, lease_ms // 20)
    while True:
        _revive(world)
        world.run_until(world.now + step)
        unrest = restless(world)
        if not unrest and (world.now > limit or not _unserved(world)):
            break
        if world.now > limit:
            world.checkers.violations.append(Violation(4, f"the world does not come to rest: {unrest}"))
            break
    _checkpoint(world)


def _revive(world: World) -> None:
    """Somebody for every host and every partition."""
    if not any(not replica.leaving for replica in world.replicas):
        names = {replica.name for replica in world.replicas}
        world.start_replica(next(name for name in (f"r{n}" for n in range(99)) if name not in names))
    for host in sorted(world.refused):
        world.refused.discard(host)
        for agent in [agent for agent in world.agents if host in agent.hosts]:
            world.kill(agent, plan.Fault(kind="restart", what="sent", ms=-1))
        repair(world, host)
    for unit in _unserved(world):
        world.start_agent(unit)


def _unserved(world: World) -> list[int]:
    """Units that have a host without an agent: one that faults left paused may have ended since it went on, fenced."""
    served = {(agent.unit, host) for agent in world.agents for host in agent.serving()}
    return [unit for unit, hosts in enumerate(world.units) if any((unit, host) not in served for host in hosts)]


def restless(world: World) -> str:
    """What is still under way, or "" at rest."""
    if world.timers:
        return f"{world.timers} people have something to do"
    if world.unaware:
        return f"{world.unaware} processes have yet to notice that a topic was made anew"
    for process in world.processes():
        if process.outbox or process.inbox or process.dirty:
            return f"{process.name} sends or reads"
    gone = world.coordinator.group.members.keys() - {replica.intake.member for replica in world.replicas}
    if gone or world.coordinator.group.moving:
        return f"the group has yet to miss {min(gone)}" if gone else "request partitions are about to move"
    owned: set[int] = set()
    for replica in world.replicas:
        if not replica.ready or replica.leaving or replica.busy() or replica.replica.waiting:
            return f"{replica.name} is at work: {replica.replica.waiting} requests wait, {len(replica.replica.book.works)} works"
        if replica.replica.unacknowledged:
            return f"{replica.name} awaits acknowledgements"
        owned |= replica.intake.owned
    if len(owned) < world.config.request_partitions:
        return f"only {sorted(owned)} of {world.config.request_partitions} request partitions are owned"
    for agent in world.agents:
        for host, kept in agent.keeper.hosts.items():
            if kept.phase not in (SERVING, FENCED, REFUSED):
                return f"{agent.name} is {kept.phase} {host}"
            if kept.phase == SERVING and (
                kept.sent
                or host in agent.keeper.log.dirty
                or host in agent.keeper.log.undelivered
                or (kept.ledger and kept.ledger.leases)
            ):
                return f"{host} has leases or reports under way"
        if agent.boots:
            return f"{agent.name} boots instances"
    if len(world.frontends) < world.config.frontends:
        return "a frontend is about to come back"
    for frontend in world.frontends:
        if frontend.session.in_flight:
            return f"{frontend.name} awaits {frontend.session.in_flight} answers"
    return ""


def _judge(world: World) -> None:
    config, checkers = world.config, world.checkers
    served = {host for agent in world.agents for host in agent.serving()}
    dead = [host for host in world.machines if host not in served]
    at_rest.settled(
        checkers,
        world.true_ms(),
        world.acknowledged,
        calm_ms=world.calm_ms,
        deadline_ms=config.deadline_ms,
        lapse_ms=config.lapse_ms,
        start_again_ms=config.snapshot_ms,
        dead=dead,
        kept=partial(_kept, world),
    )
    obeyed(world)
    _read_anew(world)


def _kept(world: World, topic: str, partition: int, offset: int) -> bool:
    """Whether a record stood when somebody who lives could read it: of `hosts`, what was superseded before need not have been seen."""
    if topic != "hosts":
        return True
    living = {replica.nonce for replica in world.replicas}
    if living & world.met.get((partition, offset), set()):
        return True
    ever = world.topics[topic].everything(partition)
    key = next((key for at, _, key, _ in ever if at == offset), None)
    return key is None or all(other != key for at, _, other, _ in ever if at > offset)


def _read_anew(world: World) -> None:
    """A reader of what compaction leaves in the end, tombstones gone, must see what everybody sees (invariant 8)."""
    config, hosts = world.config, world.topics["hosts"]
    view = View(config.partitions)
    met_ms = world.wall() + hosts.rules.min_compaction_lag_ms + 1
    for partition in range(config.partitions):
        hosts.roll(partition)
        for now_ms in (met_ms, met_ms + config.delete_retention_ms):  # tombstones go a retention after they were met
            hosts.clean(partition, now_ms)
        for raw in hosts.read(partition, hosts.begin(partition), 1 << 30)[0]:
            view.fold(partition, *raw, 0)
    ends = {partition: hosts.end(partition) for partition in range(config.partitions)}
    readers.digest(world.checkers, "a reader of the compacted log", ends, view.digest)


def _outcome(world: World) -> Outcome:
    world.digest.update(f"{world.events} {world.now} {sorted(world.counts.items())}".encode())
    results = Counter(getattr(answer, "result", "no answer") for _, _, answer in world.answers)
    return Outcome(
        seed=world.schedule.seed,
        profile=world.schedule.profile,
        events=world.events,
        digest=world.digest.hexdigest(),
        virtual_ms=world.now,
        digests=world.digests,
        violations=list(world.checkers.violations),
        counts=dict(sorted(world.counts.items())),
        requests=len(world.acknowledged),
        results=dict(sorted(results.items())),
    )


def traced(schedule: plan.Schedule) -> tuple[Outcome, list[str]]:
    """Run a schedule and tell it line by line."""
    trace = Trace()
    outcome = run(schedule, trace)
    return outcome, trace.lines
