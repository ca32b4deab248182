"""The fold of hosts as a stateful test: replicas that start, read and rebuild at any time, over a log that a cleaner works on.

Whoever has read to the end, and was not slower than tombstones live, holds what the reader of everything holds: the same digest, and the
same columns, which are those of the plain scan (invariant 8).
"""

from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    rule,
)

from columns import unequal, wrong_columns
from commonplace.core.replica import Replica
from commonplace.core.replica_events import CaughtUp, HostsRead, ReplicaSettings
from commonplace.core.view import View
from commonplace.sim.log import Raw, Rules, Topic
from fold_logs import MOVES, Writer

HOSTS = ("h0", "h1")
LIVE_MS = 40
"""How long tombstones live after the first pass: a record is written each ms, so a reader may lag behind by some dozens."""
RULES = Rules(compact=True, segment_records=3, delete_retention_ms=LIVE_MS)


class Reader:
    """A replica and its position; it is ready once it has read to the end captured at its start."""

    def __init__(self, topic: Topic, now_ms: int) -> None:
        self.rebuild(topic, now_ms)

    def rebuild(self, topic: Topic, now_ms: int) -> None:
        """Drop everything and start anew."""
        self.replica = Replica("r", "n", 1, "claims", ReplicaSettings())
        self.at, self.end, self.heard_ms = 0, topic.end(0), now_ms
        self._catch_up()

    def read(self, topic: Topic, most: int, now_ms: int) -> None:
        """Read a batch."""
        records, self.at = topic.read(0, self.at, most)
        if records:
            self.replica.receive(HostsRead(0, records), 0)
        if self.at == topic.end(0):
            self.heard_ms = now_ms
        elif records:
            self.heard_ms = records[-1][1]
        self._catch_up()

    def _catch_up(self) -> None:
        if not self.replica.ready and self.at >= self.end:
            self.replica.receive(CaughtUp(), 0)

    def slow(self, now_ms: int) -> bool:
        """Whether a tombstone may have gone before it was read; such a replica drops its state and rebuilds."""
        return now_ms - self.heard_ms > LIVE_MS // 2


class TopicLog(list[Raw]):
    """A writer's log that appends to a topic as well."""

    def __init__(self, topic: Topic) -> None:
        super().__init__()
        self.topic = topic

    def append(self, raw: Raw) -> None:
        """Append to both; their offsets are the same."""
        super().append(raw)
        assert self.topic.append(0, raw[2], raw[3], raw[1]) == raw[0]


class HostsMachine(RuleBasedStateMachine):
    """Rules are what agents write, what the broker forgets, and who reads how much when."""

    readers: Bundle[Reader] = Bundle("readers")

    @initialize(seed=st.integers(0, 2**32))
    def begin(self, seed: int) -> None:
        self.topic = Topic("hosts", 1, RULES)
        self.everything = View(1)
        self.topic.subscribe(lambda _name, _id, partition, raw: self.everything.fold(partition, *raw, 0) and None)
        self.log, random = TopicLog(self.topic), Random(seed)
        self.writers = [Writer(host, self.log, random) for host in HOSTS]
        self.alive: list[Reader] = []

    @property
    def now_ms(self) -> int:
        return self.log[-1][1]

    @rule(which=st.integers(0, len(HOSTS) - 1), moves=st.lists(st.sampled_from(MOVES), min_size=1, max_size=6))
    def write(self, which: int, moves: list[str]) -> None:
        for move in moves:
            self.writers[which].move(move)

    @rule()
    def clean(self) -> None:
        self.topic.clean(0, self.now_ms)

    @rule(target=readers)
    def start(self) -> Reader:
        reader = Reader(self.topic, self.now_ms)
        self.alive.append(reader)
        return reader

    @rule(reader=readers, most=st.integers(1, 20))
    def read(self, reader: Reader, most: int) -> None:
        if reader.slow(self.now_ms):
            reader.rebuild(self.topic, self.now_ms)
        reader.read(self.topic, most, self.now_ms)

    @rule(most=st.integers(1, 7))
    def all_read_to_the_end(self, most: int) -> None:
        """And one more, which starts now, reads what is left."""
        for reader in (*self.alive[-4:], Reader(self.topic, self.now_ms)):
            if reader.slow(self.now_ms):
                continue
            while reader.at < self.topic.end(0):
                reader.read(self.topic, most, self.now_ms)
            view = reader.replica.view
            assert reader.replica.ready
            assert view.digest() == self.everything.digest()
            assert unequal(view, self.everything) == []
            assert wrong_columns(view) == []

    def teardown(self) -> None:
        if hasattr(self, "alive"):
            self.all_read_to_the_end(1)
            assert wrong_columns(self.everything) == []


HostsMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestHostsMachine = HostsMachine.TestCase
