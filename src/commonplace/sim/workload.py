"""What people and machines do: each item of a plan, done."""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from commonplace.core.codec import encode
from commonplace.core.host_keys import delta_key, parse_key, snapshot_key, start_key
from commonplace.core.hosts import HostState, fold
from commonplace.core.ledger_events import Found
from commonplace.core.partition import partition_of
from commonplace.core.records.control import HostControl
from commonplace.core.records.hosts import Start
from commonplace.core.records.requests import Build
from commonplace.core.requests import request_key
from commonplace.ops.operators import FORGETTER
from commonplace.sim import plan
from commonplace.sim.settings import said_of
from commonplace.sim.world import World

RETRY_MS: Final = 200


def submit(world: World, item: plan.Submit) -> None:
    """A submitter asks; what follows is in the item."""
    frontend = world.frontend(item.frontend)
    if frontend is None:
        world.later(RETRY_MS, partial(submit, world, item))  # its frontend is about to come back
        return
    frontend.submit(item)
    if item.again_ms >= 0:
        world.after(item.again_ms, frontend, lambda: resend(world, item))
    if item.cancel_ms >= 0:
        world.after(item.cancel_ms, frontend, lambda: frontend.cancel(item))


def resend(world: World, item: plan.Submit) -> None:
    """The same request stands in the log once more, as from a second submitter with the same id."""
    _to_requests(world, world.build_of(item))


def reuse(world: World, item: plan.Reuse) -> None:
    """Somebody takes an id that may have been used before."""
    _to_requests(world, Build(id=item.id, flavor=item.flavor, count=item.count))


def _to_requests(world: World, build: Build) -> None:
    frontend = world.frontend(0)
    flavor = frontend.session.flavors.get(build.flavor) if frontend else None
    if flavor is not None:
        key = request_key(build, flavor).encode()
        world.append("requests", partition_of(key, world.config.request_partitions), key, encode(build))


def set_flavor(world: World, item: plan.SetFlavor) -> None:
    """An operator's word on a flavor."""
    world.append("control", 0, *said_of(item, world.config.spread))


def set_status(world: World, item: plan.SetStatus) -> None:
    """An operator's word on a host."""
    _say(world, f"h{item.host % world.config.hosts}", item.status)


def _say(world: World, host: str, status: str) -> None:
    world.append("control", 0, f"host/{host}".encode(), encode(HostControl(name=host, status=status)))  # type: ignore[arg-type]


def appear(world: World, item: plan.Appear) -> None:
    """An instance that nobody claimed runs; it stops by itself later."""
    machine = world.machines[f"h{item.host % world.config.hosts}"]
    resources = {"VCPU": item.vcpus, "MEMORY_MB": 1_024 * item.vcpus}
    machine.found[item.name] = Found(instance=item.name, resources=resources)
    changed(world, machine.name)
    if item.gone_ms >= 0:
        world.at(world.now + item.gone_ms, _disappear, world, machine.name, item.name)


def _disappear(world: World, host: str, name: str) -> None:
    world.machines[host].found.pop(name, None)
    changed(world, host)


def resize(world: World, item: plan.Resize) -> None:
    """A machine has more or less from now on."""
    machine = world.machines[f"h{item.host % world.config.hosts}"]
    machine.vcpus, machine.reserved = item.vcpus, item.reserved
    changed(world, machine.name)


def changed(world: World, host: str) -> None:
    """Have a machine's driver look at it."""
    world.machines[host].changes += 1
    world.machines_changed += 1
    for agent in world.agents:
        if host in agent.hosts:
            agent.wake(agent.soon())


# --- a host leaves ---------------------------------------------------------------------------------------------------


def retire(world: World, item: plan.Retire) -> None:
    """Drain; later the agent stops serving the host; once silent it is forgotten, in the steps of ops/operators.py."""
    host = f"h{item.host % world.config.hosts}"
    unit = next((n for n, hosts in enumerate(world.units) if host in hosts), None)
    if unit is None:
        return  # it is leaving already
    _say(world, host, "draining")
    world.later(world.config.lease_ms // 2, partial(_unplug, world, item, host, unit))


def _unplug(world: World, item: plan.Retire, host: str, unit: int) -> None:
    if host not in world.units[unit]:
        return
    world.units[unit] = [name for name in world.units[unit] if name != host]
    _restart(world, unit)
    world.later(world.config.liveness_ms + 1_000, partial(_forget, world, item, host, unit, 0, -1))


def _restart(world: World, unit: int) -> None:
    """An agent is stopped with its reports out, and started for the hosts of now."""
    for agent in [agent for agent in world.agents if agent.unit == unit]:
        world.kill(agent, plan.Fault(kind="restart", what="sent", ms=-1))
    if world.units[unit]:
        world.later(300, partial(_start_if_none, world, unit))


def _start_if_none(world: World, unit: int) -> None:
    if not any(agent.unit == unit for agent in world.agents):
        world.start_agent(unit)


def _forget(world: World, item: plan.Retire, host: str, unit: int, step: int, seen: int) -> None:
    """One step of forgetting, after a look at everything that stands of the host."""
    partition = partition_of(host, world.config.partitions)
    state, newest, keys = _look(world, host, partition)
    held = bool(state.allocations) and not state.removed
    living = any(host in agent.serving() for agent in world.agents)
    if step < 2 and (held or living or (seen >= 0 and newest != seen)):
        world.count("forget refused")
        return _plug(world, host, unit)
    following = partial(_forget, world, item, host, unit, step + 1, newest)
    if step == 0:
        world.append("hosts", partition, start_key(host), encode(Start(host=host, agent=FORGETTER)))
    elif step == 1:
        world.append("hosts", partition, start_key(host), encode(Start(host=host, agent=FORGETTER, removed=True)))
    else:
        for key in keys:
            world.append("hosts", partition, key, None)
        world.append("control", 0, f"host/{host}".encode(), None)
        world.count("forgotten")
        if item.back_ms >= 0:
            world.later(item.back_ms, partial(_plug, world, host, unit))
        else:
            world.forgotten.add(host)
        return None
    world.later(20 + world.latency_ms, following)
    return None


def _plug(world: World, host: str, unit: int) -> None:
    """The host is served (again)."""
    world.units[unit] = [*world.units[unit], host]
    _say(world, host, "enabled")
    _restart(world, unit)


def _look(world: World, host: str, partition: int) -> tuple[HostState, int, list[bytes]]:
    """The host as everything that stands makes it, the offset of the newest record that an agent wrote, and keys of ended epochs."""
    state, newest, prefix = HostState(host), -1, f"{host}/".encode()
    keys: dict[bytes, None] = {}
    topic = world.topics["hosts"]
    records, _ = topic.read(partition, topic.begin(partition), 1 << 30)
    for offset, at_ms, key, value in records:
        parsed = parse_key(key) if key is not None and key.startswith(prefix) else None
        if parsed is None or key is None:
            continue
        fold(state, parsed, offset, at_ms, value)
        if parsed.kind != "start":
            if value is None:
                keys.pop(key, None)
            else:
                keys[key] = None
        if value is not None and FORGETTER.encode() not in value:
            newest = offset
    epochs = sorted({parsed.epoch for key in keys if (parsed := parse_key(key)) and parsed.epoch < state.epoch})
    wanted = [*(snapshot_key(host, e) for e in epochs), *(delta_key(host, e) for e in epochs)]
    return state, newest, [key for key in wanted if key in keys]


ITEMS: Final[dict[type, Callable[[World, Any], None]]] = {
    plan.Submit: submit,
    plan.Reuse: reuse,
    plan.SetFlavor: set_flavor,
    plan.SetStatus: set_status,
    plan.Retire: retire,
    plan.Appear: appear,
    plan.Resize: resize,
}
