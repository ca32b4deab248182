"""Where the members of groups are: in which pools, as the hosts' own reports say and as this process has submitted.

A group lives in one pool, because no replica sees the hosts of two. Who submits into several pools looks first; what two
processes submit at the same moment into two pools, neither sees, and `commonplace doctor` names such a group.
"""

import time
from collections import defaultdict
from collections.abc import Collection
from typing import Final

from msgspec import Struct

from commonplace.core.host_keys import NO_EPOCH, parse_key
from commonplace.core.hosts import HostState, fold
from commonplace.core.partition import partition_of
from commonplace.core.records.requests import Build
from commonplace.core.work import instance_name
from commonplace.frontend.events import Rows
from commonplace.frontend.routes import spans
from commonplace.kafka.tail import Lost, Tail
from commonplace.kafka.topics import Topics, pools
from commonplace.settings import Settings

REFRESH_S: Final = 1.0
"""How old the view of the other pools may be: a captured end costs a round trip for each partition of theirs."""


class Members:
    """Members of groups on the hosts of one pool, folded from its `hosts`. Pure."""

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self._states: dict[str, HostState] = {}
        self._hosts: dict[str, set[str]] = defaultdict(set)  # by group

    def fold(self, partition: int, rows: Rows) -> None:
        """Take records of one partition in log order; what cannot be used leaves its host as it was known.

        A record of a host that belongs on another partition is none of that host's.
        """
        for offset, at_ms, raw, value in rows:
            key = parse_key(raw)
            if key is None or partition_of(key.host, self._partitions) != partition:
                continue
            state = self._states.get(key.host)
            if state is None:
                state = self._states[key.host] = HostState(key.host)
            before = set(state.groups)
            fold(state, key, offset, at_ms, value)
            for group in before - state.groups.keys():
                self._hosts[group].discard(key.host)
                if not self._hosts[group]:
                    del self._hosts[group]
            for group in state.groups.keys() - before:
                self._hosts[group].add(key.host)

    def count(self, group: str, without: Collection[str]) -> int:
        """Members of a group, but for instances named."""
        return sum(
            allocation.group == group and allocation.instance not in without
            for host in self._hosts.get(group, ())
            for allocation in self._states[host].allocations.values()
        )

    def held_by(self, host: str) -> Collection[str] | None:
        """Ids of the allocations on a host; None for one that never started here, or was removed."""
        state = self._states.get(host)
        return None if state is None or state.removed or state.epoch == NO_EPOCH else state.allocations.keys()


class _Open(Struct, frozen=True):
    """A request of a group that this process has submitted and that is not decided."""

    group: str
    pool: str
    instances: tuple[str, ...]


class Groups:
    """Refuses what would spread a group over pools; one thread at a time, to be closed. Reads nothing where there is one pool."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._tail: Tail | None = None
        self._members: dict[str, Members] = {}  # by pool
        self._pool_of: dict[str, str] = {}  # by full name of `hosts`
        self._open: dict[str, _Open] = {}  # by request
        self._decided: set[tuple[str, str]] = set()  # group and pool, since the view was read
        self._read_s = float("-inf")

    def enter(self, build: Build, pool: str) -> str:
        """Why a request may not join its group in a pool; "" counts it as a member until `leave`. Blocks for some round trips.

        The instances that the request names do not count where they stand: it moves them.
        """
        without = frozenset(build.instances)
        fresh = all(group != build.group or decided == pool for group, decided in self._decided)
        if not fresh or time.monotonic() - self._read_s > REFRESH_S:
            self._refresh()
        elsewhere: dict[str, int] = defaultdict(int)
        for name, members in self._members.items():
            elsewhere[name] += members.count(build.group, without)
        for request, one in self._open.items():
            if one.group == build.group and request != build.id:
                elsewhere[one.pool] += len(set(one.instances) - without)
        if why := spans(build.id, build.flavor, build.group, pool, elsewhere):
            return why
        named = build.instances or tuple(instance_name(build.id, index) for index in range(build.count))
        self._open[build.id] = _Open(build.group, pool, named)
        return ""

    def leave(self, request: str) -> None:
        """The request has its answer: if it was placed, its pool's hosts show it."""
        one = self._open.pop(request, None)
        if one is not None:
            self._decided.add((one.group, one.pool))

    def holding(self, host: str, allocation: str) -> str:
        """The pool on whose host an allocation is, else one that knows the host, "" for none. Blocks for some round trips."""
        known = pools(self._settings)
        if len(known) == 1:
            return next(iter(known))
        self._refresh()
        held = {pool: members.held_by(host) for pool, members in self._members.items() if pool in known}
        knowing = [pool for pool, found in held.items() if found is not None]
        return next((pool for pool in knowing if allocation in (held[pool] or ())), knowing[0] if knowing else "")

    def close(self) -> None:
        """Stop reading."""
        if self._tail is not None:
            self._tail.close()
            self._tail = None

    def _refresh(self) -> None:
        """Read the hosts of all pools to their ends as of now."""
        decided, self._decided = self._decided, set()
        known = pools(self._settings)
        if len(known) > 1:
            try:
                try:
                    self._read(known)
                except Lost:  # the log was cut under us: what it holds now is what counts
                    self._forget()
                    self._read(known)
            except BaseException:
                self._forget()  # what could not be read on is read no more
                self._decided |= decided
                raise
        self._read_s = time.monotonic()

    def _forget(self) -> None:
        """Read anew, all from the start."""
        self.close()
        self._members, self._pool_of = {}, {}
        self._read_s = float("-inf")

    def _read(self, known: dict[str, Settings]) -> None:
        tail = self._tail = self._tail or Tail(self._settings)
        for pool, settings in known.items():
            if pool not in self._members:
                self._members[pool] = Members(settings.topics.hosts_partitions)
                name = Topics(settings.topics.prefix, pool).hosts
                self._pool_of[name] = pool
                for partition in range(settings.topics.hosts_partitions):
                    tail.add(name, partition, tail.range(name, partition)[0])
        places = [
            (name, partition)
            for name, pool in self._pool_of.items()
            if pool in known
            for partition in range(known[pool].topics.hosts_partitions)
        ]
        for batch in tail.up_to(tail.ends(places)):
            self._members[self._pool_of[batch.topic]].fold(batch.partition, batch.records)
