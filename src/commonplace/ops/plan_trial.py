"""What if: the shipped replica and the shipped ledgers on a copy of a pool, joined in memory. Nothing is sent anywhere.

    requests ──▶ Replica ──claims──▶ Ledger of each host ──reports──▶ Replica ──▶ decisions

Every instance is taken to be up once it is granted, and builds in progress to be done: a plan asks what there is room for, not what may
start this second. So profiles count no builds here.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from commonplace.core import replica_events as re
from commonplace.core.ask import PROFILES
from commonplace.core.codec import Bad, decode, encode
from commonplace.core.filter_table import canonical
from commonplace.core.host_keys import delta_key, snapshot_key
from commonplace.core.ledger import Ledger
from commonplace.core.ledger_events import Configure, Taken, Up
from commonplace.core.records.claims import Claim
from commonplace.core.records.control import Flavor, Profile
from commonplace.core.records.decisions import Decision
from commonplace.core.records.requests import Build
from commonplace.core.replica import Replica
from commonplace.core.requests import request_key
from commonplace.ops.plan_copy import Copy

CLAIMS: Final = "plan"
NOW_MS: Final = 1_000_000
"""The clock of a trial stands still: no lease lapses and no deadline passes."""

PART: Final = 0
BATCH_MAX: Final = 256
ROUNDS_MAX: Final = 10_000
"""Turns for one batch of requests; each settles a claim at least, and a batch has at most 256 requests of 256 instances of 16 attempts."""


class Filled(Struct, frozen=True):
    """How many instances of a request fit one after another, where, and the answer to the first that did not."""

    hosts: dict[str, int]
    refusal: Decision | None

    @property
    def count(self) -> int:
        """Instances in all."""
        return sum(self.hosts.values())


class Trial:
    """A replica that owns one partition of requests, and a ledger for each host that it claims."""

    def __init__(self, copy: Copy, settings: re.ReplicaSettings) -> None:
        self.copy = copy
        self.replica = Replica("plan", "plan", copy.partitions, CLAIMS, settings)
        self.before: dict[str, str] = {}
        """State hash of each host claimed, as it was before the first claim."""
        self._ledgers: dict[str, Ledger] = {}
        self._based: set[str] = set()
        self._ends, self._offsets = dict(copy.ends), {"claims": 0, "requests": 0, "decisions": 0}
        self._decided: dict[str, Decision] = {}
        self._receive(re.ControlRead([*_no_build_limits(copy)]))
        for partition, record in copy.records():
            self._receive(re.HostsRead(partition, [record]))
        self.replica.view.newest_log_time_ms = copy.now_ms
        self._receive(re.CaughtUp())
        self._receive(re.Assigned(PART, 0))

    def place(self, builds: Sequence[Build]) -> list[Decision]:
        """Decide requests, all of them read before the first is ranked; ids must be new."""
        assert len(builds) <= BATCH_MAX, f"{len(builds)} requests at once"
        records = []
        for build in builds:
            key = request_key(build, self._flavor(build)).encode()
            records.append((self._next("requests"), self.copy.now_ms, key, encode(build)))
        todo = self._receive(re.RequestsRead(PART, records))
        for _ in range(ROUNDS_MAX):
            todo += self._receive(re.Turn())
            if not todo:
                break
            todo = self._perform(todo)
        missing = [build.id for build in builds if build.id not in self._decided]
        assert not missing, f"no decision on {missing[:3]} after {ROUNDS_MAX} rounds"
        return [self._decided[build.id] for build in builds]

    def fill(self, build: Build, most: int) -> Filled:
        """Place instances one by one, at most `most`, until one finds no host."""
        hosts: dict[str, int] = {}
        left = most
        while left > 0:
            size = min(left, BATCH_MAX)
            batch = [
                replace(build, id=f"{build.id}-{left - i}", count=1, count_min=0, instances=()) for i in range(size)
            ]
            for decision in self.place(batch):
                if decision.result != "placed":
                    return Filled(hosts, decision)
                host = decision.placed[0].host
                hosts[host] = hosts.get(host, 0) + 1
            left -= size
        return Filled(hosts, None)

    # -- the loop -------------------------------------------------------------------------------------------------------

    def _flavor(self, build: Build) -> Flavor:
        """The flavor, or one that only has the name: the replica then says that it is not known."""
        return self.replica.catalog.flavors.get(build.flavor) or Flavor(name=build.flavor, resources={"VCPU": 1})

    def _receive(self, event: Any) -> list[Any]:
        return self.replica.receive(event, NOW_MS)

    def _next(self, topic: str) -> int:
        self._offsets[topic] += 1
        return self._offsets[topic] - 1

    def _perform(self, effects: Iterable[Any]) -> list[Any]:
        """Do what the replica wants done, and have the hosts report; returns what it wants next."""
        wanted: list[Any] = []
        touched: dict[str, None] = {}
        for effect in effects:
            match effect:
                case re.SendClaim(_, key, value, allocation):
                    offset = self._take(key.decode(), value, touched)
                    wanted += self._receive(re.ClaimDelivered(allocation, offset))
                case re.SendRelease(_, key, value, token):
                    self._take(key.decode(), value, touched)
                    wanted += self._receive(re.ReleaseDelivered(token, True))
                case re.SendDecision(partition, key, value, token):
                    record = (self._next("decisions"), self.copy.now_ms, key, value)
                    self._decided.setdefault(key.decode(), decode("decisions", value))
                    wanted += self._receive(re.DecisionDelivered(token, True))
                    wanted += self._receive(re.DecisionsRead(partition, [record]))
                case re.ReadHistory(partition, _):
                    wanted += self._receive(re.HistoryRead(partition))
        for host in touched:
            wanted += self._report(host)
        return wanted

    def _take(self, host: str, value: bytes, touched: dict[str, None]) -> int:
        """A claim or release stands in the log, and its ledger takes it; what is granted is up at once."""
        ledger, record, offset = self._ledger(host), decode("claims", value), self._next("claims")
        assert not isinstance(record, Bad), record.reason
        ledger.receive(Taken(offset, self.copy.now_ms, record), NOW_MS)
        if isinstance(record, Claim):
            for allocation in record.allocations:
                ledger.receive(Up(allocation.id), NOW_MS)
        touched[host] = None
        return offset

    def _ledger(self, host: str) -> Ledger:
        ledger = self._ledgers.get(host)
        if ledger is None:
            state = self.replica.view.rows[host].host
            ledger = self._ledgers[host] = Ledger.recover(state, state.epoch, 0, NOW_MS)
            ledger.generation, ledger.load = state.generation, dict(state.load)
            ledger.claims_topic, ledger.claims_through = CLAIMS, -1
            ledger.receive(
                Configure(
                    inventory=state.inventory,
                    traits=tuple(state.traits),
                    labels=state.labels,
                    cells=state.reported_cells or None,
                    status=state.status,  # type: ignore[arg-type]  # a folded report has one of the three
                ),
                NOW_MS,
            )
            self.before[host] = f"{state.hash:016x}"
        return ledger

    def _report(self, host: str) -> list[Any]:
        """The ledger's next report, folded as any other: a snapshot, then deltas on it."""
        ledger = self._ledgers[host]
        if host in self._based:
            key, value = delta_key(host, ledger.epoch), encode(ledger.delta())
        else:
            self._based.add(host)
            key, value = snapshot_key(host, ledger.epoch), encode(ledger.snapshot("plan"))
        partition = self.replica.view.rows[host].partition
        offset = self._ends[partition]
        self._ends[partition] += 1
        return self._receive(re.HostsRead(partition, [(offset, self.copy.now_ms, key, value)]))


def _no_build_limits(copy: Copy) -> Iterable[tuple[int, int, bytes | None, bytes | None]]:
    """The control records, with profiles that count no builds in progress; those that need no record are said too."""
    said = {f"profile/{name}".encode() for name in PROFILES} - copy.control.keys()
    for key in sorted(said):
        yield 0, 0, key, encode(_uncounted(PROFILES[key.decode().partition("/")[2]]))
    for offset, at_ms, key_, value in copy.control.values():
        record = decode("control", value) if value is not None else None
        if isinstance(record, Profile):
            value = encode(_uncounted(record))
        elif record is None and key_ is not None and (name := key_.decode(errors="replace")).startswith("profile/"):
            built_in = PROFILES.get(name.partition("/")[2])
            value = encode(_uncounted(built_in)) if built_in is not None else None
        yield offset, at_ms, key_, value


def _uncounted(profile: Profile) -> Profile:
    """A profile without limits on builds in progress; `io_ops` is asked in any case, and then asks nothing."""
    filters = tuple("io_ops" if canonical(name) == "aggregate_io_ops" else name for name in profile.filters)
    return replace(profile, builds_max=0, filters=filters)
