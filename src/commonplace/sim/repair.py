"""What an operator does for a host that its agent refuses to start: write its last good state anew."""

from commonplace.core.codec import encode
from commonplace.core.hashing import to_hex
from commonplace.core.host_keys import parse_key, snapshot_key
from commonplace.core.hosts import HostState, fold
from commonplace.core.partition import partition_of
from commonplace.core.records.hosts import Snapshot
from commonplace.sim.surroundings import Surroundings


def repair(world: Surroundings, host: str) -> None:
    """Append a snapshot of everything good that ever stood of a host, in the epoch of its last start record; or delete what is bad."""
    partition = partition_of(host, world.config.partitions)
    state, prefix = HostState(host), f"{host}/".encode()
    keys: dict[bytes, bytes | None] = {}
    for offset, at_ms, key, value in world.topics["hosts"].everything(partition):
        parsed = parse_key(key) if key is not None and key.startswith(prefix) else None
        if parsed is not None and key is not None:
            if parsed.kind != "start":
                keys[key] = value
            before = (state.epoch, state.generation, state.base_generation, state.stale)
            if fold(state, parsed, offset, at_ms, value)[1]:  # bad: as if it had never been
                state.epoch, state.generation, state.base_generation, state.stale = before
                state.version = 0
    world.count("repaired")
    if state.epoch < 0 or not state.claims_topic:  # nothing good stands there: what is bad goes
        for key in [key for key, value in keys.items() if value is not None]:
            world.append("hosts", partition, key, None)
        return
    snapshot = Snapshot(
        host=host,
        epoch=state.epoch,
        generation=state.generation + 1,
        claims_topic=state.claims_topic,
        claims_through=state.claims_through,
        hash=to_hex(state.hash),
        agent="operator",
        status=state.status,  # type: ignore[arg-type]  # as it was reported
        gap=state.gap,
        inventory=state.inventory,
        traits=tuple(sorted(state.traits)),
        labels=state.labels,
        cells=state.reported_cells,
        allocations=list(state.allocations.values()),
    )
    world.inject("hosts", partition, snapshot_key(host, state.epoch), encode(snapshot))  # no ledger says so
