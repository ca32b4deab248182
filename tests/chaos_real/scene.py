"""What stands in the topics now, as far as the tap has read: enough to make garbage that fits, and to see when all has settled."""

import threading
from collections import Counter, deque
from typing import Any, Final

from commonplace.ops.audit import Entry
from e2e_world import Entry as Row
from e2e_world import Ledgers, is_word, parsed

RECENT_MAX: Final = 200
RECENT_BYTES_MAX: Final = 30_000
"""Of one record: what is padded with garbage once must not be padded again."""


class Scene:
    """Folded on the tap's thread, asked on others."""

    def __init__(self, topics: tuple[str, ...]) -> None:
        self._lock = threading.Lock()
        self.recent: dict[str, deque[Entry]] = {topic: deque(maxlen=RECENT_MAX) for topic in topics}
        self.counts: Counter[str] = Counter()
        self._asked: set[str] = set()
        self._decided: set[str] = set()
        self._ledgers = Ledgers()

    def see(self, kind: str, entry: Entry) -> None:
        """Take one record in."""
        with self._lock:
            self.counts[kind] += 1
            row = Row(*entry)
            if kind == "hosts":
                self._ledgers.fold(row)
            record = parsed(row)
            if record is None:
                return
            if len(entry.value or b"") <= RECENT_BYTES_MAX:
                self.recent[kind].append(entry)
            if kind == "requests" and record.get("type") == "build" and is_word(record.get("id")):
                self._asked.add(record["id"])
            if kind == "decisions" and record.get("type") == "decision":
                self._decided.add(str(record.get("request")))

    def some(self, kind: str) -> list[Entry]:
        """The newest records of a topic that are JSON objects."""
        with self._lock:
            return list(self.recent[kind])

    def epoch(self, host: str) -> int | None:
        """The host's epoch now."""
        with self._lock:
            return self._ledgers.epochs.get(host)

    def hosts(self) -> list[str]:
        """All hosts that ever started."""
        with self._lock:
            return sorted(self._ledgers.epochs)

    def unsettled(self) -> str:
        """Requests without a decision, and leases that nobody confirms any more; "" when there is neither."""
        with self._lock:
            open_requests = self._asked - self._decided
            if open_requests:
                return f"{len(open_requests)} requests have no decision: {sorted(open_requests)[:3]}"
            leased = [a for a, (_, held) in self._held().items() if held.get("state") != "active"]
            return f"{len(leased)} allocations are still leased: {leased[:3]}" if leased else ""

    def _held(self) -> dict[str, tuple[str, dict[str, Any]]]:
        return {a: (host, held) for host, found in self._ledgers.now.items() for a, held in found.items()}
