"""The group's coordinator, as the replicas of a world reach it: who hears of what, when, and whose commits are taken.

    replica ──asks at its next beat, unless it is cut off──▶ group as of now ──new generation──▶ every member hears at its next beat

Heartbeats that only go well are no events: they are made up for whenever somebody looks.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from commonplace.sim import acting
from commonplace.sim.answers import Answers
from commonplace.sim.groups import Group
from commonplace.sim.log import Topic
from commonplace.sim.outages import Outages
from commonplace.sim.virtual_time import VirtualTime


class Membership(Protocol):
    """What a replica is in its group: the name of a member, or "" outside."""

    member: str


class Asker(Protocol):
    """A replica, as its group's coordinator knows it."""

    name: str
    paused_ms: int
    random: Callable[[], float]

    @property
    def intake(self) -> Membership: ...

    def ask_group_at(self, when_ms: int) -> None: ...


class Coordinator:
    """The group of the replicas that live, and who does not reach it. Answers are told what is committed."""

    def __init__(
        self,
        time: VirtualTime,
        outages: Outages,
        requests: Topic,
        session_ms: int,
        replicas: Sequence[Asker],
        answers: Answers,
    ) -> None:
        self._time, self._outages, self._requests, self._session_ms = time, outages, requests, session_ms
        self._replicas, self._answers = replicas, answers
        self.beat_ms = max(100, session_ms // 3)
        self.group = Group(requests.partitions, session_ms)
        self._cut_off: dict[str, int] = {}  # replica → it does not reach the group before then

    # -- who is there -------------------------------------------------------------------------------------------------

    def group_now(self) -> Group:
        """The group as of now. Heartbeats of members that run and reach it are no events: they are made up for here."""
        group, now = self.group, self._time.now
        for replica in self._replicas:
            member = group.members.get(replica.intake.member)
            if member is not None and replica.paused_ms <= now and not self.cut(replica.name):
                member.seen_ms = now
        before = group.generation
        group.expire(now)
        if group.generation != before:
            self.changed()
        return group

    def changed(self) -> None:
        """There is a new generation: every member hears of it at its next heartbeat."""
        for replica in self._replicas:
            self._tell(replica)

    def leave(self, member: str) -> None:
        """A member says goodbye."""
        self.group.leave(member)
        self.changed()

    def tell_member(self, member: str) -> None:
        """A partition may be that member's: it hears of it at its next heartbeat."""
        for replica in self._replicas:
            if replica.intake.member == member:
                self._tell(replica)

    def _tell(self, replica: Asker) -> None:
        replica.ask_group_at(self._time.now + 1 + int(replica.random() * self.beat_ms))

    def missed(self) -> None:
        """A member does not reach the group any more: a session later it is fenced."""
        self._time.at(self._time.now + self._session_ms + 2, self.group_now)

    # -- who reaches it -----------------------------------------------------------------------------------------------

    def cut(self, replica: str) -> bool:
        """Whether a replica can't reach it."""
        now = self._time.now
        return self._outages.down_until("group", 0) > now or self._cut_off.get(replica, 0) > now

    def cut_off(self, replica: Asker, until_ms: int) -> None:
        """A replica does not reach the group before then, which misses it."""
        self.group_now()
        self._cut_off[replica.name] = max(self._cut_off.get(replica.name, 0), until_ms)
        self.missed()
        replica.ask_group_at(until_ms + 1)

    def back(self, when_ms: int) -> None:
        """The broker is back: sessions start anew, as it does not know better."""
        for member in self.group.members.values():
            member.seen_ms = when_ms
        self.missed()
        for replica in self._replicas:
            replica.ask_group_at(when_ms + 1)

    def heal(self) -> None:
        """Everybody reaches it again."""
        self.back(self._time.now)
        self._cut_off.clear()

    # -- what is committed --------------------------------------------------------------------------------------------

    def committed(self, partition: int) -> int:
        """The committed offset, −1 where there is none."""
        return self.group.committed.get(partition, -1)

    def commit(self, member: str, generation: int, topic_id: str, partition: int, offset: int) -> None:
        """Commit an offset, if the group still takes it; one of a topic made before says nothing of this one."""
        trace = self._time.trace
        if self._outages.full_ms > self._time.now:
            return
        if topic_id != self._requests.id:
            offset = -1
        if self.group.commit(member, generation, partition, offset):
            if offset >= 0:
                acting.committed(self._answers, partition, offset)
            if trace is not None:
                trace.tells(member, f"commits requests[{partition}] {offset}")
