"""The replicas of the pool as they say of themselves, and the soft shard of hosts that each prefers."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from commonplace.core.codec import Bad, decode
from commonplace.core.hashing import digest64
from commonplace.core.records.replicas import ReplicaReport
from commonplace.core.replica_events import Raw
from commonplace.core.view import View


class Peers:
    """Who else ranks on this pool; owned by replica `name`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._said: dict[str, tuple[int, int, ReplicaReport]] = {}  # name → when read, log time, what it said
        self._shard_of: tuple[tuple[str, ...], int] = ((), 0)
        self._scores: dict[str, NDArray[np.uint64]] = {}  # member → what rendezvous hashing gives it of each host

    def fold(self, records: Sequence[Raw], now_ms: int) -> Iterator[tuple[Raw, str]]:
        """Take records of `replicas`; yields those to be put aside, with why."""
        for record in records:
            name = (record[2] or b"").decode(errors="replace")
            if record[3] is None:
                self._said.pop(name, None)
                continue
            report = decode("replicas", record[3])
            if isinstance(report, Bad):
                if not report.newer:
                    yield record, report.reason
            elif report.replica != name:
                yield record, "key is another replica's"
            else:
                self._said[name] = (now_ms, record[1], report)

    def live(self, now_ms: int, newest_log_time_ms: int, timeout_ms: int) -> tuple[str, ...]:
        """Names of the replicas that are ready and were heard of within the timeout, this one among them."""
        log_limit_ms = newest_log_time_ms - timeout_ms  # what stood in the log before we started is old news
        self._said = {
            name: said
            for name, said in self._said.items()
            if said[0] >= now_ms - timeout_ms and said[1] >= log_limit_ms
        }
        ready = {name for name, (_, _, report) in self._said.items() if report.state == "ready"}
        return tuple(sorted(ready | {self.name}))

    def reshard(self, view: View, members: tuple[str, ...]) -> None:
        """Prefer the hosts that rendezvous hashing gives us among the live replicas; all of them when we are alone."""
        if (members, view.columns.rows) == self._shard_of:
            return
        self._shard_of = (members, view.columns.rows)
        if len(members) == 1:
            view.shard(None)
            return
        self._scores = {member: self._scored(member, view) for member in members}
        best = np.argmax(np.stack(list(self._scores.values())), axis=0)
        view.shard(best == members.index(self.name))

    def _scored(self, member: str, view: View) -> NDArray[np.uint64]:
        """A member's scores; only hosts that came since are hashed, or a fleet that grows would stop the loop each time."""
        known = self._scores.get(member, np.zeros(0, np.uint64))
        new = [digest64(f"{member} {row.host.name}".encode()) for row in view.by_index[len(known) :]]
        return np.concatenate([known, np.array(new, np.uint64)])
