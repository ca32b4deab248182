"""What is fuzzed: the one decode function for every topic, the fold of hosts, and the loop of agent, replica and frontend.

Each takes one record after another and raises `Found` when a rule breaks; anything else that escapes from it is a finding too.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from functools import cache
from random import Random
from typing import Any, Final, NamedTuple, Protocol

from columns import wrong_columns
from commonplace.core import hashing
from commonplace.core.codec import Bad, decode, encode
from commonplace.core.hosts import HostState
from commonplace.core.keeper_events import Quarantine, quarantined
from commonplace.core.kept import FENCED, REFUSED, SERVING
from commonplace.core.ledger import Ledger
from commonplace.core.partition import partition_of
from commonplace.core.records.claims import Claim, Confirm, Release
from commonplace.core.records.control import Flavor, HostControl, Profile, Routing
from commonplace.core.records.decisions import Decision
from commonplace.core.records.fields import ALLOCATIONS_MAX, RECORD_BYTES_MAX
from commonplace.core.records.hosts import Snapshot
from commonplace.core.records.replicas import ReplicaReport
from commonplace.core.records.requests import Build, Cancel
from commonplace.core.records.topics import TOPIC_RECORDS
from commonplace.core.view import View
from commonplace.frontend import events
from commonplace.frontend.session import Session
from fold_logs import MOVES, Writer
from fuzz.mutate import mutated, one, tokens
from test_golden import RECORDS
from world import Agent, Raw, Scheduler, World, flavor

TOPICS: Final = tuple(TOPIC_RECORDS)
REASON_CHARS_MAX: Final = 4_096
"""Longest reason a bad record may give: it goes into logs and answers, and the record may hold a megabyte."""
PARTITIONS: Final = 2
HOSTS: Final = ("h0", "h1")
PARTED: Final = frozenset(("hosts", "claims", "requests", "decisions"))
TOPICS_DRAWN: Final = ("hosts", "hosts", "claims", "claims", "requests", "requests", "decisions", "control", "replicas")
STRANGE_KEYS: Final = (
    None, b"", b"/", b"h0", b"h1/7/delta", b"h0/start", b"h0/99999999999999999", b"\xff/1", b"h\n/1", b"\xff", b"small/3",
    b"small/99999", b"flavor/small", b"flavor/", b"profile/\x1b[2J", b"host/h0", b"routing", b"k" * 900_000,
    b"h" * 900_000 + b"/start", b"h/" * 400_000,
)  # fmt: skip
NAMED: Final = PARTED - {"hosts"} | {"control"}
"""Topics whose records say what their key is."""


class Trial(NamedTuple):
    """One record to be tried; `offset` is its own where it stands in a recorded log."""

    topic: str
    key: bytes | None
    value: bytes | None
    offset: int = 0


class Found(Exception):
    """A rule that a record broke."""


class Target(Protocol):
    """Something that reads records, with a life of its own that a seed begins and `take` goes on with; past its end it is dead."""

    @property
    def dead(self) -> bool: ...
    def draw(self) -> Trial: ...
    def take(self, trial: Trial) -> None: ...


class Decoding:
    """The one decode function, for every topic."""

    LIFE: Final = 10_000

    def __init__(self, random: Random) -> None:
        self._r, self._left = random.random, self.LIFE

    @property
    def dead(self) -> bool:
        """Nothing is kept between records, so a life ends only to give its seed."""
        return self._left <= 0

    def draw(self) -> Trial:
        """A mutation of a record of any topic, mostly for that topic."""
        r, records = self._r, examples()
        topic, found = one(r, records)
        value = mutated(r, found, one(r, records)[1])
        return Trial(topic if r() < 0.98 else one(r, TOPICS), None, value)

    def take(self, trial: Trial) -> None:
        """Decode; what was read can be written, and reads as the same again."""
        self._left -= 1
        if trial.value is not None:
            check_decoded(trial.topic, trial.value)


def check_reason(reason: str) -> None:
    """A reason is for people: bounded, and no terminal obeys it."""
    require(len(reason) <= REASON_CHARS_MAX, "the reason is long", len(reason))
    require(reason.isprintable(), "the reason holds control characters", reason)


def check_decoded(topic: str, value: bytes) -> None:
    record = decode(topic, value)
    if isinstance(record, Bad):
        check_reason(record.reason)
        return
    require(isinstance(record, TOPIC_RECORDS[topic]), "another topic's record", record)
    again = encode(record)
    require(len(value) <= RECORD_BYTES_MAX, "a record past the bound was read", len(value))
    if len(again) <= RECORD_BYTES_MAX:
        require(decode(topic, again) == record, "it reads as another when written", record)


class Folding:
    """The fold of hosts into a view, held against the plain sums of what it says it holds: logs of agents, with mutations between."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._log: list[Raw] = []
        writers = [Writer(host, self._log, random) for host in HOSTS]
        for _ in range(random.randrange(80)):
            random.choice(writers).move(random.choice(MOVES))
        self._tokens = [tokens(value or b"") for _, _, _, value in self._log]
        self._at = 0
        self._view, self._read = View(1), 0

    @property
    def dead(self) -> bool:
        """Whether the log came to its end."""
        return self._at >= len(self._log)

    def draw(self) -> Trial:
        """The next record of the log, or a mutation of one near it under its key."""
        random, at = self._random, self._at
        offset, _, key, value = self._log[at]
        if random.random() < 0.4:
            self._at += 1
            return Trial("hosts", key, value, offset)
        near = max(0, at - random.randrange(4))
        value = mutated(random.random, self._tokens[near], random.choice(self._tokens))
        what = random.random()
        if what < 0.5:
            value = with_right_hash(value)
        if what < 0.98:
            key = self._log[near][2] if what < 0.9 else key
        else:
            key = random.choice(STRANGE_KEYS)
        return Trial("hosts", key, value if random.random() < 0.99 else None, offset)

    def take(self, trial: Trial) -> None:
        """Fold, and check the host it touched."""
        self._read += 1
        row, reason = self._view.fold(0, trial.offset, 1_000 + trial.offset, trial.key, trial.value, 0)
        check_reason(reason)
        require(sum(self._view.outcomes.values()) == self._read, "a record is in no outcome", self._view.outcomes)
        if row is not None:
            check_state(row.host)
        if self._read % 16 == 0:
            self._view.digest()
            wrong = wrong_columns(self._view)
            require(not wrong, "columns are not what the hosts say", wrong)


def check_state(state: HostState) -> None:
    """The sums of a host are those of its allocations, and these are bounded."""
    require(len(state.allocations) <= 2 * ALLOCATIONS_MAX, "too many allocations", len(state.allocations))
    anew = Ledger.recover(state, 0, 0, 0)
    part = hashing.host_part(state.inventory, state.traits, state.labels, state.status, state.reported_cells)
    total = (part + anew.hash - anew.host_hash) & hashing.MASK
    require(
        state.hash == total or state.removed or state.generation < 0, "the hash is not that of the content", state.name
    )
    require(_nonzero(state.used) == _nonzero(anew.used), "used is no sum", (state.used, anew.used))
    require((state.groups, state.builds) == (anew.groups, anew.builds), "groups or builds are no sum", state.groups)


class Loop:
    """A world of one agent, one replica and one frontend that read every topic, with some life in it that goes on."""

    LIFE: Final = 2_000
    CHECK_EVERY: Final = 40

    def __init__(self, random: Random) -> None:
        self._random, self._taken, self._given_up = random, 0, False
        self._world, self._agent, self._scheduler = lively()
        self._at: dict[tuple[str, int], int] = {("control", 0): 0, ("decisions", 0): 0, ("decisions", 1): 0}
        self._good: dict[str, list[Raw]] = {
            topic: [raw for (name, _), log in self._world.log.items() if name == topic for raw in log]
            for topic in TOPICS
        }
        self._append = self._world.append
        self._world.append = self._written  # type: ignore[method-assign]  # what members write is looked at
        self._session = Session("default", PARTITIONS, PARTITIONS, 1_000)
        self.settle()

    @property
    def dead(self) -> bool:
        """Whether the world is old, or its hosts were given up."""
        return self._taken >= self.LIFE or self._given_up

    @property
    def seen(self) -> dict[str, Mapping[str, int]]:
        """By topic what members made of it: outcomes of hosts, verdicts on claims, results of decisions."""
        replica = self._scheduler.replica
        results: Counter[str] = Counter()
        for (result, _), many in replica.decider.decisions.items():
            results[result] += many
        return {"hosts": replica.view.outcomes, "claims": self._agent.keeper.ledgers.verdicts, "decisions": results}

    def draw(self) -> Trial:
        """A mutation of a record that somebody of this world wrote, lately as a rule."""
        random = self._random
        topic = random.choice(TOPICS_DRAWN)
        good = self._good[topic]
        _, _, key, value = good[-1 - min(len(good) - 1, int(random.expovariate(0.1)))]
        if random.random() < 0.95:
            value = mutated(random.random, tokens(value or b"{}"), random.choice(examples())[1])
            if topic == "hosts" and random.random() < 0.5:
                value = with_right_hash(value)
        if random.random() < 0.02:
            key = random.choice(STRANGE_KEYS)
        elif topic in NAMED and value is not None and random.random() < 0.8:
            key = self._key_of(topic, value) or key
        return Trial(topic, key, value if random.random() < 0.98 else None)

    def _key_of(self, topic: str, value: bytes) -> bytes | None:
        """The key that a record ought to have, where it can be read."""
        record: Any = decode(topic, value)
        match record:
            case Build() | Cancel():
                return str(record.flavor).encode()
            case Claim() | Confirm() | Release():
                return record.host.encode()
            case Decision():
                return record.request.encode()
            case Flavor() | Profile() | HostControl():
                kind = {Flavor: "flavor", Profile: "profile", HostControl: "host"}[type(record)]
                return f"{kind}/{record.name}".encode()
        return None

    def take(self, trial: Trial) -> None:
        """Append the record where it belongs, or elsewhere, and let somebody read."""
        topic, key, value, _ = trial
        world = self._world
        world.now += 7
        self._append(topic, self._partition(topic, key), key, value)
        self._taken += 1
        (self._agent if self._taken % 2 else self._scheduler).step()
        if self._taken % self.CHECK_EVERY == 0:
            self.settle()

    def _partition(self, topic: str, key: bytes | None) -> int:
        if topic not in PARTED:
            return 0
        if self._random.random() < 0.02:
            return self._random.randrange(PARTITIONS)
        return partition_of((key or b"").partition(b"/")[0] if topic == "hosts" else key or b"", PARTITIONS)

    def settle(self) -> None:
        """Everybody reads to the end; then what stands must still be sound."""
        world = self._world
        for _ in range(3):
            world.now += 500
            self._agent.step()
            self._scheduler.step()
        for (topic, partition), at in self._at.items():
            rows = world.log[topic, partition][at:]
            self._at[topic, partition] += len(rows)
            event = events.ControlRead(rows) if topic == "control" else events.DecisionsRead(partition, rows)
            self._perform(self._session.receive(event, world.now))
        self._ask()
        self._check_put_aside()
        hosts = self._agent.keeper.hosts.values()
        for kept in hosts:
            if kept.ledger is not None and kept.phase == SERVING:
                check_ledger(kept.ledger)
        view = self._scheduler.replica.view
        for row in view.by_index:
            check_state(row.host)
        wrong = wrong_columns(view)
        require(not wrong, "columns are not what the hosts say", wrong)
        self._given_up = all(kept.phase in (FENCED, REFUSED) for kept in hosts)

    def _ask(self) -> None:
        """The frontend goes on submitting, and confirms or gives back what it was given."""
        name, now = f"s{self._taken}", self._world.now
        build = Build(id=name, flavor=self._random.choice(("small", "large")), count=self._random.choice((1, 2)))
        self._perform(self._session.receive(events.Submit(build, self._taken, 30_000, self._taken % 80 == 0), now))

    def _perform(self, effects: list[events.Effect]) -> None:
        for effect in effects:
            match effect:
                case events.SendRequest(partition, key, value, token):
                    self._world.append("requests", partition, key, value)
                    self._perform(self._session.receive(events.Sent([token]), self._world.now))
                case events.SendClaimRecord(partition, key, value, token):
                    self._world.append("claims", partition, key, value)
                    self._perform(self._session.receive(events.Sent([token]), self._world.now))
                case events.LookBack(partition, request, token):
                    rows = self._world.log["decisions", partition][: self._at["decisions", partition]]
                    self._perform(self._session.receive(events.Looked(request, rows, token), self._world.now))
                case events.Answer(_, Decision() as decision) if decision.placed:
                    ask = self._random.choice((events.AskConfirm, events.AskRelease))
                    self._perform(self._session.receive(ask(decision, -self._taken), self._world.now))
                case events.Quarantine():
                    check_reason(effect.reason)

    def _check_put_aside(self) -> None:
        """What members put aside fits into a record."""
        for effect in (*self._agent.other, *self._scheduler.quarantined):
            if isinstance(effect, Quarantine):
                check_reason(effect.reason)
                check_own("quarantine", encode(quarantined(effect, "t", "fuzz")))
        self._agent.other.clear()
        self._scheduler.quarantined.clear()

    def _written(self, topic: str, partition: int, key: bytes | None, value: bytes | None) -> int:
        """A member writes: whatever came in, that must be good."""
        if value is not None and not _echo(topic, value):
            check_own(topic, value)
        offset = self._append(topic, partition, key, value)
        self._good[topic].append(self._world.log[topic, partition][offset])
        return offset


def _echo(topic: str, value: bytes) -> bool:
    """A release of what a forged report held under names that nobody else may bear: its agent puts it aside."""
    return topic == "claims" and value.startswith(b'{"type":"release"') and isinstance(decode(topic, value), Bad)


def lively() -> tuple[World, Agent, Scheduler]:
    """A world with three hosts on which requests were placed, confirmed, cancelled and refused."""
    world = World(PARTITIONS, PARTITIONS)
    world.flavor(flavor("small"))
    world.flavor(flavor("large", vcpus=5, spread=2))
    world.append("control", 0, b"profile/spread", encode(Profile(name="spread", weighers={"free_vcpus": 1.0})))
    world.append("control", 0, b"host/h2", encode(HostControl(name="h2", status="draining")))
    world.append("control", 0, b"routing", encode(Routing(pools={"far": "elsewhere"})))
    agent, scheduler = world.agent(*HOSTS, "h2"), world.scheduler()
    world.append(
        "replicas",
        0,
        b"r9",
        encode(ReplicaReport(replica="r9", state="ready", digest="0" * 16, positions={"hosts": 3})),
    )
    for i, name in enumerate(("small", "large", "small", "small")):
        world.submit(Build(id=f"b{i}", flavor=name, count=1 + i % 2, group="g" if i else "", group_max=i % 2))
    world.settle()
    world.append("requests", partition_of("small", PARTITIONS), b"small", encode(Cancel(id="b2", flavor="small")))
    for request in ("b0", "b1"):
        for placed in world.decisions(request)[0].placed:
            confirm = Confirm(host=placed.host, request=request, allocation=placed.allocation)
            world.append("claims", placed.grant.partition, placed.host.encode(), encode(confirm))
    world.settle()
    return world, agent, scheduler


@cache
def examples() -> list[tuple[str, list[bytes]]]:
    """Records to begin with, as tokens: the example of every record of the protocol, and what a lively world wrote."""
    found = [(topic, encode(record)) for topic, record in RECORDS.values()]
    for (topic, _), log in lively()[0].log.items():
        found += [(topic, value) for _, _, _, value in log if value is not None]
    return [(topic, tokens(value)) for topic, value in dict.fromkeys(found)]


def with_right_hash(value: bytes) -> bytes:
    """A snapshot with the hash of what it holds, where it can be read; else as it is."""
    record = decode("hosts", value)
    if not isinstance(record, Snapshot):
        return value
    state = HostState(record.host)
    state.snapshot(record, 0)
    record.hash = hashing.to_hex(state.hash)
    return encode(record)


def check_own(topic: str, value: bytes) -> None:
    """What a component writes is within the bounds, and good to its readers."""
    require(len(value) <= RECORD_BYTES_MAX, f"wrote a record for {topic} past the bound", len(value))
    record = decode(topic, value)
    require(not isinstance(record, Bad), f"wrote a bad record for {topic}", record)


def check_ledger(ledger: Ledger) -> None:
    """A ledger's sums are those of its allocations, no class is past its capacity, and its report can be read."""
    used: dict[str, int] = {}
    total = ledger.host_hash
    for a in ledger.allocations.values():
        total += hashing.allocation_hash(a)
        for name, amount in a.resources.items():
            used[name] = used.get(name, 0) + amount
    require(total & hashing.MASK == ledger.hash, "the ledger's hash is not that of its allocations", ledger.host)
    require(_nonzero(used) == _nonzero(ledger.used), "the ledger's used is no sum", (used, ledger.used))
    for name, amount in used.items():
        item = ledger.inventory.get(name)
        require(amount <= (item.capacity if item else 0), "granted past capacity", (name, amount))


def require(holds: bool, what: str, seen: object) -> None:
    """Raise `Found` unless a rule holds."""
    if not holds:
        raise Found(f"{what}: {seen!r:.500}")


def _nonzero(amounts: dict[str, int]) -> dict[str, int]:
    return {name: amount for name, amount in amounts.items() if amount}


TARGETS: Final[dict[str, Callable[[Random], Target]]] = {"decode": Decoding, "fold": Folding, "loop": Loop}
"""Every target by its name; called with a seeded source of chance it begins a life."""
