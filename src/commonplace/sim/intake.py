"""A replica's membership in the group that shares the request partitions, as kafka/intake.py has it: what it owns, what it commits.

poll ──reaches the group──▶ joins, lives ──▶ what it ceded and gained since, one by one
                                  └─fenced─▶ it cedes all, and joins anew
"""

from collections.abc import Iterator, Mapping

from commonplace.sim.plan import Fault
from commonplace.sim.surroundings import Surroundings


class Intake:
    """One life of a replica in its group. A commit names the topic that the life began with."""

    def __init__(self, world: Surroundings, name: str) -> None:
        self._world, self._name = world, name
        self._requests_id = world.topics["requests"].id
        self._heard = -1  # the generation that it commits under
        self.member = ""
        self.owned: set[int] = set()

    def poll(self) -> Iterator[tuple[int, bool]]:
        """Ask the group: join, live, hear what is ours. Yields each partition that is no more ours, or is now: then True."""
        world, coordinator = self._world, self._world.coordinator
        group = coordinator.group_now()
        if not self.member:
            self.member = world.life_of(self._name)
            group.join(self.member, world.now)
            coordinator.changed()
        if not group.heartbeat(self.member, world.now):
            if world.trace is not None:
                world.trace.tells(self._name, "was fenced from its group")
            yield from self._ceded(self.owned)
            self.member = ""
            return
        self._heard = group.heard(self.member)
        mine = group.assignment(self.member)
        if mine != self.owned:
            yield from self._ceded(self.owned - mine)
            for partition in sorted(mine - self.owned):
                self.owned.add(partition)
                yield partition, True
        for partition, target in group.target.items():
            if group.holder.get(partition) != target:  # it is theirs once its holder has let go
                coordinator.tell_member(target)

    def _ceded(self, partitions: set[int]) -> Iterator[tuple[int, bool]]:
        for partition in sorted(partitions):
            self.owned.discard(partition)
            yield partition, False

    def commit(self, offsets: Mapping[int, int]) -> Fault | None:
        """Commit offsets as far as faults let it; returns one that kills who commits."""
        world, commit = self._world, self._world.coordinator.commit
        for partition, offset in offsets.items():
            said = (self.member, self._heard, self._requests_id, partition, offset)
            fault = world.fault_of("commit")
            if fault is None:
                commit(*said)
            elif fault.kind == "hold":
                world.at(world.now + fault.ms, commit, *said)
            elif fault.kind in ("die_before", "die_after"):
                if fault.kind == "die_after":
                    commit(*said)
                return fault
        return None

    def leave(self, offsets: Mapping[int, int]) -> None:
        """Commit for the last time, and say goodbye, if the group is to be reached."""
        coordinator = self._world.coordinator
        if not coordinator.cut(self._name):
            for partition, offset in offsets.items():
                coordinator.commit(self.member, self._heard, self._requests_id, partition, offset)
            coordinator.leave(self.member)
        self.member = ""
