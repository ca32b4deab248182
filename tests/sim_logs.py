"""Hand-made logs for the checkers of the simulator: the pool of audit_logs.py, each record told to the checkers as it is written."""

import json
from typing import Any

from audit_logs import CLAIMS_ID, Pool, digest
from commonplace.core.codec import decode
from commonplace.core.records.decisions import Decision
from commonplace.core.records.requests import Build
from commonplace.sim.at_rest import settled
from commonplace.sim.checkers import Checkers


class Watched(Pool):
    """A pool that checkers watch."""

    def __init__(self, **settings: Any) -> None:
        self.checkers = Checkers(1, 1, **settings)
        self.topic_ids = {"claims": CLAIMS_ID}
        super().__init__()

    def put(self, topic: str, key: str | None, value: Any) -> int:
        offset = super().put(topic, key, value)
        entry = self.logs[topic][-1]
        self.checkers.appended(
            topic, self.topic_ids.get(topic, topic), 0, (offset, entry.timestamp_ms, entry.key, entry.value)
        )
        return offset

    def decide(self, request: str, *placed: tuple[str, int], host: str = "h1", **change: Any) -> int:
        here = [e.offset for e in self.logs["requests"] if e.value and f'"{request}"'.encode() in e.value]
        change.setdefault("position", {"partition": 0, "offset": here[0] if here else 0})
        return super().decide(request, *placed, host=host, **change)

    def settle(self, **settings: Any) -> None:
        """The world came to rest, long after."""
        builds = {}
        for entry in self.logs["requests"]:
            record = decode("requests", entry.value or b"")
            if isinstance(record, Build):
                builds[record.id] = record
        settled(self.checkers, self.now_ms, builds, **settings)

    def forget(self, topic: str, end: int) -> None:
        """An unclean election loses the tail of a topic."""
        self.drop(topic, lambda entry: entry.offset >= end)
        self.checkers.truncated(topic, 0, end)

    def again(self, topic: str, topic_id: str) -> None:
        """A topic is made anew, with another id."""
        self.logs[topic], self.low[topic] = [], 0
        self.topic_ids[topic] = topic_id
        self.checkers.recreated(topic, topic_id)

    def decision(self, offset: int) -> Decision:
        record = decode("decisions", self.logs["decisions"][offset].value or b"")
        assert isinstance(record, Decision)
        return record

    def found(self) -> list[tuple[int, str]]:
        return [(v.invariant, v.sentence) for v in self.checkers.violations]


def watched(**settings: Any) -> Watched:
    """A watched pool with an empty host h1 of 8 VCPU."""
    p = Watched(**settings)
    p.start()
    p.snapshot()
    return p


__all__ = ["Watched", "digest", "json", "watched"]
