"""A consumer group as its broker keeps it: who is a member, who may hold which partition, what was committed, who is fenced.

    join ──▶ member ──heartbeat in time──▶ member
               │ leave, or no heartbeat for a session
               ▼
             fenced: it goes on with what it holds until it asks (heartbeat, commit), a zombie

Assignment is sticky and cooperative: a partition moves only to even out, and not before its holder has heard of it and let go.
"""

from collections.abc import Iterable


class Member:
    """A member's last heartbeat, and the generation that it has heard of."""

    __slots__ = ("generation", "seen_ms")

    def __init__(self, generation: int, seen_ms: int) -> None:
        self.generation, self.seen_ms = generation, seen_ms


class Group:
    """One group on one topic. Times are the broker's; a member is a name that is never used again after it was fenced."""

    __slots__ = ("committed", "generation", "holder", "members", "partitions", "session_ms", "target")

    def __init__(self, partitions: int, session_ms: int) -> None:
        self.partitions, self.session_ms = partitions, session_ms
        self.members: dict[str, Member] = {}
        self.generation = 0
        self.committed: dict[int, int] = {}
        self.holder: dict[int, str] = {}  # partition → who may hold it now
        self.target: dict[int, str] = {}  # partition → who is to hold it once its holder let go

    def join(self, member: str, now_ms: int) -> int:
        """Take a member in, or again; returns the new generation. What it is assigned it hears at its first heartbeat."""
        self.members[member] = Member(0, now_ms)
        return self._rebalance()

    def leave(self, member: str) -> None:
        """A member says goodbye, or was too slow to poll: its partitions are free at once. An unknown one is ignored."""
        if self.members.pop(member, None) is not None:
            self._rebalance()

    def expire(self, now_ms: int) -> list[str]:
        """Fence every member without a heartbeat for a session; returns them."""
        silent = [name for name, member in self.members.items() if now_ms - member.seen_ms > self.session_ms]
        for name in silent:
            del self.members[name]
        if silent:
            self._rebalance()
        return silent

    def heartbeat(self, member: str, now_ms: int) -> bool:
        """A member lives, hears of the newest generation, and lets go of what moves elsewhere. False: it is fenced, and must join anew."""
        known = self.members.get(member)
        if known is None:
            return False
        known.seen_ms = now_ms
        if known.generation != self.generation:
            known.generation = self.generation
            for partition, holder in list(self.holder.items()):
                if holder == member and self.target[partition] != member:
                    del self.holder[partition]
        for partition, target in self.target.items():
            if target == member:
                self.holder.setdefault(partition, member)
        return True

    def assignment(self, member: str) -> set[int]:
        """The partitions that a member may hold, as of its last heartbeat; none where it is fenced."""
        return {partition for partition, holder in self.holder.items() if holder == member}

    @property
    def moving(self) -> bool:
        """Whether some partition is not with whom it is to go to: nobody may hold it for as long as heartbeats take."""
        return self.holder != self.target

    def heard(self, member: str) -> int:
        """The generation that a member has heard of and commits under; −1 where it is fenced."""
        known = self.members.get(member)
        return -1 if known is None else known.generation

    def commit(self, member: str, generation: int, partition: int, offset: int) -> bool:
        """Commit an offset; refused from a member that is fenced or has not heard of the newest generation.

        As in Kafka, a member of the newest generation may commit for any partition, and an offset may go back.
        """
        if member not in self.members or generation != self.generation:
            return False
        self.committed[partition] = offset
        return True

    def _rebalance(self) -> int:
        """A new generation: fenced members hold nothing any more, and every partition has a member to go to, evenly, moving few."""
        self.generation += 1
        self.holder = {partition: name for partition, name in self.holder.items() if name in self.members}
        self.target = _spread(range(self.partitions), self.members, self.target)
        return self.generation


def _spread(partitions: Iterable[int], members: Iterable[str], before: dict[int, str]) -> dict[int, str]:
    """Partitions over members so that counts differ by one at most, each where it was before as far as that allows."""
    holds: dict[str, list[int]] = {member: [] for member in sorted(members)}
    if not holds:
        return {}
    free: list[int] = []
    for partition in partitions:
        where = holds.get(before.get(partition, ""))
        (free if where is None else where).append(partition)
    for partition in free:
        min(holds.values(), key=len).append(partition)
    while True:
        least, most = min(holds.values(), key=len), max(holds.values(), key=len)
        if len(most) - len(least) <= 1:
            return {partition: member for member, held in holds.items() for partition in held}
        least.append(most.pop())
