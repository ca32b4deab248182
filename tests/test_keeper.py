"""The keeper over logs in memory: starting, recovery, fencing, claims, leases, reports that are lost, operators and drivers."""

from collections.abc import Sequence
from typing import Any

import pytest

from commonplace.core import hashing
from commonplace.core.codec import decode, encode
from commonplace.core.host_keys import parse_key, start_key
from commonplace.core.hosts import HostState, fold
from commonplace.core.keeper import GENERATION_MAX, Keeper
from commonplace.core.keeper_events import (
    AdoptInstance,
    Alarm,
    AskClaimsRange,
    CaptureEnd,
    ClaimsRange,
    ClaimsRead,
    ControlRead,
    DriverSaid,
    EndCaptured,
    Fenced,
    HostSpec,
    HostsRead,
    KeeperSettings,
    Quarantine,
    ReadClaims,
    Refused,
    ReportFailed,
    Send,
    StartInstance,
    StopInstance,
    Tick,
)
from commonplace.core.kept import FENCED
from commonplace.core.ledger_events import Failed, Found, Gone, Up
from commonplace.core.partition import partition_of
from commonplace.core.records.claims import Claim, Confirm, Release
from commonplace.core.records.control import HostControl
from commonplace.core.records.hosts import Allocation, Snapshot, Start
from commonplace.core.resources import AMOUNT_MAX, Inventory
from commonplace.core.strangers import Strangers

INVENTORY = {"VCPU": Inventory(total=8)}
LEASE_MS = 60_000


class Log:
    """One partition of hosts and one of claims, as a broker would keep them; `claims_low` is where retention begins."""

    def __init__(self) -> None:
        self.hosts: list[tuple[int, int, bytes | None, bytes | None]] = []
        self.claims: list[tuple[int, int, bytes | None, bytes | None]] = []
        self.claims_low = 0
        self.topic_id = "id-1"
        self.time_ms = 1_000_000

    def write(self, key: bytes | None, value: bytes | None) -> int:
        self.hosts.append((len(self.hosts), self.time_ms, key, value))
        return len(self.hosts) - 1

    def put(self, key: bytes, value: bytes) -> int:
        self.claims.append((len(self.claims), self.time_ms, key, value))
        return len(self.claims) - 1

    def claim(self, host: str, record: Claim | Confirm | Release) -> int:
        return self.put(host.encode(), encode(record))

    def reader(self, host: str = "h") -> HostState:
        """What whoever replays the log holds of a host."""
        state = HostState(host)
        for offset, time_ms, key, value in self.hosts:
            parsed = parse_key(key)
            if parsed and parsed.host == host:
                fold(state, parsed, offset, time_ms, value)
        return state


class Agent:
    """A keeper between logs: `step` reads what is new, `deliver=False` holds its reports back, `lose` drops them."""

    def __init__(
        self, log: Log, *hosts: str, name: str = "agent", now_ms: int = 0, settings: KeeperSettings | None = None
    ) -> None:
        self.log, self.now_ms = log, now_ms
        specs = [HostSpec(name=host, inventory=INVENTORY) for host in hosts or ("h",)]
        self.keeper = Keeper(name, specs, 1, f"nonce-of-{name}-{now_ms}", settings or KeeperSettings())
        self.read = 0
        self.claims_at: int | None = None
        self.held: list[Send] = []
        self.effects: list[Any] = []
        self.deliver = True

    def begin(self) -> "Agent":
        self.perform(self.keeper.begin(self.now_ms))
        return self

    def start(self) -> "Agent":
        self.begin()
        return self.settle()

    def settle(self) -> "Agent":
        for _ in range(6):
            self.step()
        return self

    def step(self) -> None:
        self.read_hosts()
        self.read_claims()

    def read_hosts(self) -> None:
        new, self.read = self.log.hosts[self.read :], len(self.log.hosts)
        if new:
            self.receive(HostsRead(0, new))

    def read_claims(self) -> None:
        if self.claims_at is not None:
            new, self.claims_at = self.log.claims[self.claims_at :], len(self.log.claims)
            self.receive(ClaimsRead(0, new, self.claims_at))

    def receive(self, event: Any) -> None:
        self.perform(self.keeper.receive(event, self.now_ms))

    def tick(self, after_ms: int) -> None:
        self.now_ms += after_ms
        self.receive(Tick())

    def perform(self, effects: Sequence[Any]) -> None:
        for effect in effects:
            self.effects.append(effect)
            match effect:
                case Send(_, key, value, _):
                    if self.deliver:
                        self.log.write(key, value)
                    else:
                        self.held.append(effect)
                case AskClaimsRange(partition):
                    low, high = self.log.claims_low, len(self.log.claims)
                    self.receive(ClaimsRange(partition, self.log.topic_id, low, high))
                case ReadClaims(_, offset):
                    self.claims_at = offset
                case CaptureEnd(partition):
                    self.receive(EndCaptured(partition, len(self.log.claims), self.now_ms))

    def of(self, kind: type) -> list[Any]:
        return [effect for effect in self.effects if isinstance(effect, kind)]

    @property
    def ledger(self) -> Any:
        return self.keeper.hosts["h"].ledger

    @property
    def phase(self) -> str:
        return self.keeper.hosts["h"].phase


def asked(allocation: str, vcpus: int = 2) -> Allocation:
    return Allocation(id=allocation, instance=f"vm-{allocation}", resources={"VCPU": vcpus})


def claim(log: Log, allocation: str, expected: int | None = None, host: str = "h", vcpus: int = 2) -> int:
    state = log.reader(host).hash if expected is None else expected
    record = Claim(
        host=host,
        request=f"r-{allocation}",
        expected=hashing.to_hex(state),
        lease_ms=LEASE_MS,
        allocations=[asked(allocation, vcpus)],
    )
    return log.claim(host, record)


def confirm(log: Log, allocation: str) -> int:
    return log.claim("h", Confirm(host="h", request=f"r-{allocation}", allocation=allocation))


def release(log: Log, allocation: str) -> int:
    return log.claim("h", Release(host="h", request=f"r-{allocation}", allocation=allocation))


# --- start -----------------------------------------------------------------------------------------------------------


def test_a_snapshot_that_the_log_lost_after_its_acknowledgement_is_sent_again() -> None:
    settings = KeeperSettings(snapshot_interval_ms=10_000, snapshot_jitter=0.0, heartbeat_interval_ms=1_000)
    log = Log()
    agent = Agent(log, settings=settings).start()
    agent.tick(10_000)
    del log.hosts[-1]  # an unclean election
    for _ in range(9):
        agent.tick(1_000)
    agent.settle()
    before = len(log.hosts)
    agent.tick(1_000)
    agent.settle()
    agent.tick(1_000)
    kinds = [type(decode("hosts", value or b"")).__name__ for _, _, _, value in log.hosts[before:]]
    assert kinds == ["Snapshot", "Delta"]
    assert not log.reader().stale


def test_a_new_host_serves_once_its_snapshot_is_read_back_and_takes_no_claim_made_before_its_start() -> None:
    log = Log()
    claim(log, "before", expected=0)
    agent = Agent(log).begin()
    assert log.reader().stale == "starting"
    agent.settle()
    state = log.reader()
    assert (agent.phase, state.stale, state.epoch, state.claims_through) == ("serving", "", 0, 0)
    assert agent.of(ReadClaims) == [ReadClaims(0, 1)]
    claim(log, "after")
    agent.settle()
    assert list(log.reader().allocations) == ["after"]


def test_no_claim_is_taken_before_the_own_first_snapshot_is_read_back() -> None:
    log = Log()
    agent = Agent(log).begin()
    agent.read_hosts()  # own start: the snapshot is sent, and not yet read
    assert agent.phase == "opening"
    assert agent.of(ReadClaims) == []
    agent.read_hosts()
    assert len(agent.of(ReadClaims)) == 1


def test_claims_of_a_partition_are_read_from_the_lowest_watermark_of_its_hosts() -> None:
    log = Log()
    first = Agent(log, "h").start()
    for n in range(3):
        claim(log, f"a{n}", vcpus=1)
        first.settle()
    both = Agent(log, "h", "new", name="second", now_ms=5).start()
    assert both.of(ReadClaims) == [ReadClaims(0, 3)]
    claim(log, "b", host="new")
    both.settle()
    assert list(log.reader("new").allocations) == ["b"]
    assert len(log.reader("h").allocations) == 3


def test_a_restart_goes_on_from_the_last_report_with_delta_and_tombstones_the_epoch_before() -> None:
    log = Log()
    agent = Agent(log).start()
    claim(log, "a")
    agent.settle()
    confirm(log, "a")
    agent.settle()
    before = log.reader()

    again = Agent(log, name="again", now_ms=10).start()

    state = log.reader()
    assert (state.stale, state.hash, state.allocations) == ("", before.hash, before.allocations)
    assert state.epoch > before.epoch
    tombstones = [key for _, _, key, value in log.hosts if value is None]
    assert tombstones == [b"h/0", b"h/0/delta"]
    assert again.of(ReadClaims) == [ReadClaims(0, 2)]


def compact(log: Log) -> None:
    """What compaction may leave at the latest: the last record of each key, at its offset."""
    last = {key: offset for offset, _, key, _ in log.hosts}
    log.hosts = [row if last[row[2]] == row[0] else (row[0], row[1], None, None) for row in log.hosts]


def outlived(log: Log, agent: Agent) -> None:
    """A successor writes its start record and dies; the agent, which has not read that yet, still writes a snapshot, which is void."""
    Agent(log, name="successor", now_ms=5).begin()
    agent.receive(ReportFailed("h"))
    agent.tick(10)


@pytest.mark.parametrize("compacted", [False, True])
@pytest.mark.parametrize("restarts", [0, 1])  # 0: its last word is a delta; 1: its last word is a snapshot
def test_a_void_snapshot_that_compaction_left_alone_is_still_the_hosts_past(restarts: int, compacted: bool) -> None:
    log = Log()
    agent = Agent(log).start()
    claim(log, "a")
    agent.settle()
    for number in range(restarts):
        agent = Agent(log, name=f"again-{number}", now_ms=2).start()
    outlived(log, agent)
    if compacted:
        compact(log)
    third = Agent(log, name="third", now_ms=9).start()
    assert third.of(Refused) == []
    assert set(third.ledger.allocations) == {"a"}


def test_what_a_fenced_agent_reports_after_its_successor_has_reported_is_no_past() -> None:
    log = Log()
    agent = Agent(log).start()
    claim(log, "a")
    agent.settle()
    successor = Agent(log, name="successor", now_ms=5).start()
    release(log, "a")
    successor.settle()
    agent.receive(ReportFailed("h"))
    agent.tick(10)  # holds what its successor released
    third = Agent(log, name="third", now_ms=9).start()
    assert third.ledger.allocations == {}


@pytest.mark.parametrize("reads", [0, 1, 2])
def test_a_crash_half_way_through_a_start_loses_nothing(reads: int) -> None:
    log = Log()
    agent = Agent(log).start()
    claim(log, "a")
    agent.settle()
    half = Agent(log, name="half", now_ms=1).begin()
    for _ in range(reads):
        half.read_hosts()
    claim(log, "b", expected=log.reader().hash if reads else None)
    again = Agent(log, name="again", now_ms=2).start()
    state = log.reader()
    assert "a" in state.allocations
    assert state.stale == ""
    assert again.phase == "serving"


def test_a_claim_taken_but_not_reported_takes_effect_once_after_a_restart() -> None:
    log = Log()
    agent = Agent(log).start()
    agent.deliver = False
    claim(log, "a")
    agent.step()
    assert [s.value is not None for s in agent.held] == [True]
    assert log.reader().allocations == {}
    Agent(log, name="again", now_ms=10).start()
    verdicts = [s for _, _, _, value in log.hosts if value for s in getattr(decode("hosts", value), "settled", [])]
    assert list(log.reader().allocations) == ["a"]
    assert [(s.offset, s.verdict) for s in verdicts] == [(0, "granted")]


def test_a_report_sent_before_the_crash_and_read_only_afterwards_is_not_repeated() -> None:
    log = Log()
    agent = Agent(log).start()
    claim(log, "a")
    agent.read_claims()  # the report stands, nobody of this agent has read it
    Agent(log, name="again", now_ms=10).start()
    verdicts = [s for _, _, _, value in log.hosts if value for s in getattr(decode("hosts", value), "settled", [])]
    assert [(s.offset, s.verdict) for s in verdicts] == [(0, "granted")]
    assert list(log.reader().allocations) == ["a"]


def test_a_claim_older_than_its_lease_at_the_start_is_rejected() -> None:
    log = Log()
    Agent(log).start()
    claim(log, "a")
    log.time_ms += LEASE_MS + 1
    again = Agent(log, name="again", now_ms=10).start()
    assert log.reader().allocations == {}
    assert again.keeper.ledgers.verdicts["rejected"] == 1


def test_a_claim_made_after_the_start_is_granted_though_the_brokers_clock_was_put_back() -> None:
    log = Log()
    agent = Agent(log).start()
    log.time_ms -= 10 * LEASE_MS
    claim(log, "a")
    agent.settle()
    assert list(log.reader().allocations) == ["a"]


def test_claims_lost_to_retention_make_a_gap_until_an_operator_clears_it() -> None:
    log = Log()
    agent = Agent(log).start()
    claim(log, "a")
    agent.settle()
    for n in range(3):
        claim(log, f"lost{n}")
    log.claims_low = 3
    again = Agent(log, name="again", now_ms=10).start()
    state = log.reader()
    assert (state.gap, state.allocations["a"].state, state.claims_through) == (True, "active", 3)
    assert "claims 1 to 2 have expired" in again.of(Alarm)[0].reason
    again.receive(ControlRead("h", HostControl(name="h", gap_cleared=state.epoch)))
    again.settle()
    assert log.reader().gap is False


@pytest.mark.parametrize("how", ["another id", "shorter"])
def test_another_claims_log_is_read_from_its_start_with_an_alarm(how: str) -> None:
    log = Log()
    agent = Agent(log).start()
    for n in range(2):
        claim(log, f"a{n}")
        agent.settle()
    log.claims.clear()
    if how == "another id":
        log.topic_id = "id-2"
    again = Agent(log, name="again", now_ms=10).start()
    assert len(again.of(Alarm)) == 1
    claim(log, "b")
    again.settle()
    state = log.reader()
    assert list(state.allocations) == ["a0", "a1", "b"]
    assert (state.claims_topic, state.claims_through) == (log.topic_id, 0)


# --- bad logs --------------------------------------------------------------------------------------------------------


def corrupt_last_report(log: Log, value: bytes = b"garbage") -> None:
    offset, time_ms, key, _ = next(r for r in reversed(log.hosts) if r[3] is not None and not r[2].endswith(b"start"))  # type: ignore[union-attr]
    log.hosts[offset] = (offset, time_ms, key, value)


@pytest.mark.parametrize("restarts", [1, 2])
def test_a_last_report_that_cannot_be_decoded_refuses_the_host_at_every_start(restarts: int) -> None:
    log = Log()
    Agent(log).start()
    corrupt_last_report(log)
    for n in range(restarts):
        agent = Agent(log, name=f"again{n}", now_ms=n + 10).start()
        assert agent.phase == "refused"
        assert "incomplete" in agent.of(Refused)[0].reason
        assert agent.keeper.left == 0


@pytest.mark.parametrize("restarts", [1, 2])
def test_a_last_report_whose_hash_is_wrong_refuses_the_host_at_every_start(restarts: int) -> None:
    log = Log()
    agent = Agent(log).start()
    report = decode("hosts", log.hosts[-1][3] or b"")
    assert isinstance(report, Snapshot)
    report.hash = "0" * 16
    corrupt_last_report(log, encode(report))
    for n in range(restarts):
        agent = Agent(log, name=f"again{n}", now_ms=n + 10).start()
        assert agent.phase == "refused"


def test_a_bad_record_that_a_good_snapshot_followed_refuses_nothing() -> None:
    log = Log()
    agent = Agent(log).start()
    log.write(b"h/0", b"garbage")
    agent.settle()
    assert Agent(log, name="again", now_ms=10).start().phase == "serving"


def test_one_refused_host_leaves_the_others_of_its_partition_serving() -> None:
    log = Log()
    Agent(log, "h").start()
    corrupt_last_report(log)
    agent = Agent(log, "h", "other", name="again", now_ms=10).start()
    assert (agent.phase, agent.keeper.hosts["other"].phase) == ("refused", "serving")
    claim(log, "b", host="other")
    agent.settle()
    assert list(log.reader("other").allocations) == ["b"]


@pytest.mark.parametrize("key", [b"h/0", b"h/0/delta", b"h/7", b"h/start", b"h/what/is/this"])
def test_garbage_under_the_own_keys_is_put_aside_and_answered_with_a_snapshot_at_once(key: bytes) -> None:
    log = Log()
    agent = Agent(log).start()
    before = agent.keeper.log.snapshots
    log.write(key, b"garbage")
    agent.settle()
    assert len(agent.of(Quarantine)) == 1
    assert agent.keeper.log.snapshots == before + 1
    assert log.reader().stale == ""


def test_a_report_that_somebody_wrote_in_our_name_is_outbid() -> None:
    log = Log()
    agent = Agent(log).start()
    forged = decode("hosts", log.hosts[-1][3] or b"")
    assert isinstance(forged, Snapshot)
    forged.generation, forged.status = 50, "disabled"
    log.write(b"h/0", encode(forged))
    agent.settle()
    state = log.reader()
    assert (state.generation, state.status) == (51, "enabled")


def forge(log: Log, **said: Any) -> None:
    """A good snapshot that hides what the host holds, in its agent's name."""
    forged = decode("hosts", log.hosts[-1][3] or b"")
    assert isinstance(forged, Snapshot)
    for name, value in said.items():
        setattr(forged, name, value)
    log.write(f"h/{forged.epoch}".encode(), encode(forged))


@pytest.mark.parametrize("said", [{"generation": AMOUNT_MAX}, {"generation": GENERATION_MAX}, {"epoch": 2}])
def test_a_report_in_our_name_that_this_epoch_cannot_outbid_is_outbid_by_the_next(said: dict[str, int]) -> None:
    log = Log()
    agent = Agent(log).start()
    log.write(b"other/start", encode(Start(host="other")))  # so that an epoch of 2 lies below the record's offset
    log.hosts.append((len(log.hosts), log.time_ms, *log.hosts[1][2:]))
    forge(log, **said)
    claim(log, "a", expected=agent.ledger.hash)  # taken while the start record is on its way
    agent.settle()
    state = log.reader()
    assert (state.stale, list(state.allocations), state.claims_through) == ("", ["a"], 0)
    assert state.epoch == agent.ledger.epoch > 2
    assert state.generation < 10
    assert (b"h/0", None) in [record[2:] for record in log.hosts]
    again = Agent(log, name="again", now_ms=10).start()
    assert list(again.ledger.allocations) == ["a"]


def test_what_a_report_promised_comes_though_its_epoch_was_given_up_before_it_was_read_back() -> None:
    log = Log()
    agent = Agent(log).start()
    claim(log, "a")
    agent.settle()
    forge_at = log.hosts[1]
    log.hosts.append((len(log.hosts), log.time_ms, b"h/0", encode(_with_generation(forge_at[3], AMOUNT_MAX))))
    confirm(log, "a")
    agent.deliver = False
    agent.read_claims()  # the report of the confirm is on its way, and lost
    agent.read_hosts()
    assert agent.of(StartInstance) == []
    start = next(send for send in agent.held if send.key == b"h/start")
    agent.deliver = True
    log.write(start.key, start.value)
    agent.settle()
    assert [effect.allocation.id for effect in agent.of(StartInstance)] == ["a"]
    assert log.reader().allocations["a"].state == "active"


def _with_generation(value: bytes | None, generation: int) -> Snapshot:
    record = decode("hosts", value or b"")
    assert isinstance(record, Snapshot)
    record.generation = generation
    return record


def test_a_start_record_that_the_log_lost_is_written_anew() -> None:
    settings = KeeperSettings(snapshot_interval_ms=10_000)
    log = Log()
    agent = Agent(log, settings=settings).begin()
    log.hosts.clear()  # an unclean election
    agent.tick(9_999)
    assert log.hosts == []
    agent.tick(1)
    agent.settle()
    assert agent.phase == "serving"
    before = len(log.hosts)
    agent.tick(20_000)
    agent.settle()
    assert not any(key == b"h/start" for _, _, key, _ in log.hosts[before:])


def test_a_start_record_of_ours_that_comes_late_is_gone_on_from_and_fences_nobody() -> None:
    log = Log()
    agent = Agent(log)
    agent.deliver = False
    agent.begin()
    agent.deliver = True
    late = agent.held.pop()
    agent.receive(ReportFailed("h"))
    agent.settle()
    claim(log, "a")
    agent.settle()
    log.write(late.key, late.value)
    agent.settle()
    assert agent.phase == "serving"
    assert (log.reader().stale, list(log.reader().allocations)) == ("", ["a"])


def test_reports_of_a_topic_before_this_one_do_not_keep_a_host_from_starting() -> None:
    old, log = Log(), Log()
    for n in range(7):
        old.write(f"other/{n}".encode(), None)
    agent = Agent(old).start()
    claim(old, "a")
    agent.settle()
    for _, _, key, value in old.hosts[8:]:  # what a living agent still writes when its topic is made anew
        log.write(key, value)
    log.write(b"h/12/delta", b"garbage")
    again = Agent(log, name="again", now_ms=10).start()
    assert (again.phase, log.reader().stale) == ("serving", "")
    assert {key for _, _, key, value in log.hosts if value is None} >= {b"h/7", b"h/7/delta", b"h/12"}


# --- fencing ---------------------------------------------------------------------------------------------------------


def test_an_agent_of_a_newer_version_fences_like_any_and_is_never_put_aside() -> None:
    log = Log()
    first = Agent(log).start()
    log.write(b"h/0/delta", b'{"type":"delta","v":2,"host":"h"}')
    first.settle()
    assert (first.phase, first.of(Quarantine), log.reader().stale) == ("serving", [], "")
    log.write(b"h/start", b'{"type":"start","v":2,"hosts":["h"]}')
    first.settle()
    assert first.of(Fenced) == [Fenced("h", "an agent of version 2", 0)]
    assert first.of(Quarantine) == []
    again = Agent(log, name="again", now_ms=10).start()
    assert again.phase == "refused"
    assert "version 2 is newer" in again.of(Refused)[0].reason


def test_a_second_agent_fences_the_first_which_writes_nothing_more() -> None:
    log = Log()
    first = Agent(log).start()
    second = Agent(log, name="second", now_ms=5).start()
    first.settle()
    assert first.of(Fenced) == [Fenced("h", "second", 0)]
    written = len(log.hosts)
    claim(log, "a")
    first.settle()
    first.tick(1_000_000)
    assert len(log.hosts) == written
    second.settle()
    assert list(log.reader().allocations) == ["a"]


def test_an_agent_fenced_while_its_next_start_record_is_on_its_way_writes_no_other() -> None:
    log = Log()
    first = Agent(log).start()
    forge_at = log.write(b"other/start", encode(Start(host="other")))
    value = encode(_with_generation(log.hosts[1][3], AMOUNT_MAX))
    log.hosts.append((forge_at + 1, log.time_ms, b"h/0", value))
    first.deliver = False
    first.read_hosts()
    assert [send.key for send in first.held] == [b"h/start"]
    log.write(start_key("h"), encode(Start(host="h", agent="second")))
    first.read_hosts()
    assert first.of(Fenced) == [Fenced("h", "second", 0)]
    first.receive(ReportFailed("h"))
    first.tick(KeeperSettings().snapshot_interval_ms)
    assert len(first.held) == 1


def test_what_a_fenced_agent_still_reports_changes_nothing() -> None:
    log = Log()
    first = Agent(log).start()
    claim(log, "a")
    first.deliver = False
    first.read_claims()
    Agent(log, name="second", now_ms=5).start()
    before = log.reader()
    for send in first.held:
        log.write(send.key, send.value)
    after = log.reader()
    assert (after.epoch, after.hash, after.generation) == (before.epoch, before.hash, before.generation)


def test_a_forgotten_host_is_given_up_and_starts_empty_when_added_again() -> None:
    log = Log()
    agent = Agent(log).start()
    for n in range(2):
        claim(log, f"a{n}")
    agent.settle()
    log.write(b"h/0", None)
    log.write(b"h/0/delta", None)
    log.write(start_key("h"), encode(Start(host="h", removed=True)))
    agent.settle()
    assert agent.of(Fenced)[0].by.startswith("an operator")
    assert log.reader().stale == "removed"
    Agent(log, name="again", now_ms=10).start()
    state = log.reader()
    assert (state.stale, state.allocations, state.claims_through) == ("", {}, 1)


# --- reports ---------------------------------------------------------------------------------------------------------


def test_nothing_is_started_before_the_report_is_read_back() -> None:
    log = Log()
    agent = Agent(log).start()
    claim(log, "a")
    agent.settle()
    confirm(log, "a")
    agent.read_claims()
    assert log.reader().allocations["a"].state == "active"
    assert agent.of(StartInstance) == []
    agent.read_hosts()
    assert [e.allocation.id for e in agent.of(StartInstance)] == ["a"]
    release(log, "a")
    agent.read_claims()
    assert agent.of(StopInstance) == []
    agent.read_hosts()
    assert [e.allocation.id for e in agent.of(StopInstance)] == ["a"]


def confirmed_and_undelivered(log: Log) -> Agent:
    """An agent whose report of a confirm is held back."""
    agent = Agent(log).start()
    claim(log, "a")
    agent.settle()
    agent.deliver = False
    confirm(log, "a")
    agent.read_claims()
    return agent


def test_after_a_failed_delivery_a_snapshot_follows_and_brings_what_the_lost_report_promised() -> None:
    log = Log()
    agent = confirmed_and_undelivered(log)
    agent.held.clear()  # lost
    agent.deliver = True
    agent.receive(ReportFailed("h"))
    agent.settle()
    assert log.reader().allocations["a"].state == "active"
    assert [e.allocation.id for e in agent.of(StartInstance)] == ["a"]
    assert isinstance(decode("hosts", log.hosts[-1][3] or b""), Snapshot)


def test_a_failed_start_record_is_written_anew() -> None:
    log = Log()
    agent = Agent(log)
    agent.deliver = False
    agent.begin()
    agent.deliver = True
    agent.receive(ReportFailed("h"))
    agent.settle()
    assert agent.phase == "serving"


@pytest.mark.parametrize("phase", ["starting", "serving"])
def test_deliveries_that_fail_at_once_are_written_anew_after_pauses_that_double(phase: str) -> None:
    log = Log()
    agent = Agent(log)
    if phase == "serving":
        agent.start()
    agent.deliver = False
    failures = KeeperSettings().heartbeat_interval_ms
    agent.begin() if phase == "starting" else agent.tick(failures)
    assert len(agent.held) == 1
    written: list[int] = []
    for _ in range(1_000):  # as a broker does that refuses: each turn what was written is told as failed
        if len(agent.held) > len(written):
            written.append(agent.now_ms)
            agent.receive(ReportFailed("h"))
        agent.tick(20)
    first = written[0]
    assert [when - first for when in written[1:]] == [20, 100, 300, 700, 1_500, 3_100, 6_300, 11_300, 16_300]
    assert len(agent.keeper.hosts["h"].sent) <= 5
    assert len(agent.keeper.log.starts) <= 1

    agent.deliver = True
    agent.tick(5_000)
    agent.settle()
    assert (agent.phase, log.reader().stale) == ("serving", "")
    assert not agent.keeper.log.undelivered
    agent.receive(ReportFailed("h"))
    assert isinstance(decode("hosts", log.hosts[-1][3] or b""), Snapshot)  # at once again


def test_reports_that_fail_together_are_answered_with_one_snapshot() -> None:
    log = Log()
    agent = Agent(log).start()
    agent.deliver = False
    for n in range(5):
        claim(log, f"a{n}", vcpus=1, expected=agent.ledger.hash)
        agent.read_claims()
    assert len(agent.held) == 5
    agent.held.clear()  # lost
    agent.deliver = True
    before = len(log.hosts)
    for _ in range(5):
        agent.receive(ReportFailed("h"))
    agent.settle()
    agent.tick(1_000)
    assert len(log.hosts) == before + 1
    assert len(log.reader().allocations) == 5


@pytest.mark.parametrize("stands", [0, 1, 4, 7])
def test_one_of_many_reports_that_failed_but_stands_all_the_same_brings_what_it_promised(stands: int) -> None:
    log = Log()
    agent = confirmed_and_undelivered(log)
    for _ in range(8):
        agent.receive(ReportFailed("h"))
        agent.tick(5_000)
    sent, agent.deliver = list(agent.held), True
    log.write(sent[stands].key, sent[stands].value)
    agent.settle()
    assert [e.allocation.id for e in agent.of(StartInstance)] == ["a"]
    assert (log.reader().stale, log.reader().hash) == ("", agent.ledger.hash)
    agent.receive(ReportFailed("h"))  # of those after it
    agent.settle()
    assert not agent.keeper.hosts["h"].sent


def test_no_delta_rests_on_a_snapshot_that_was_not_read_back() -> None:
    log = Log()
    agent = Agent(log, settings=KeeperSettings(delta_allocations_max=1)).start()
    agent.deliver = False
    state = agent.ledger.hash
    for n in range(3):
        claim(log, f"a{n}", expected=state, vcpus=1)
        state = (state + hashing.allocation_hash(asked(f"a{n}", 1))) & hashing.MASK
    agent.step()  # two changes pass the bound: a snapshot
    confirm(log, "a0")
    agent.step()
    assert [decode("hosts", s.value or b"").__class__.__name__ for s in agent.held] == ["Snapshot"]
    agent.deliver = True
    log.write(agent.held[0].key, agent.held[0].value)
    agent.settle()
    assert log.reader().stale == ""
    assert log.reader().allocations["a0"].state == "active"


def test_heartbeats_come_in_their_interval_and_snapshots_in_theirs() -> None:
    log = Log()
    agent = Agent(log).start()
    start = len(log.hosts)
    kinds = []
    for _ in range(400):
        agent.tick(1_000)
        agent.settle()
    kinds = [type(decode("hosts", value or b"")).__name__ for _, _, _, value in log.hosts[start:]]
    assert 19 <= len(kinds) <= 21
    assert kinds.count("Snapshot") == 1
    assert log.reader().stale == ""


def test_a_quiet_hosts_watermark_passes_claims_of_others() -> None:
    log = Log()
    agent = Agent(log, "h", "other").start()
    claim(log, "b", host="other")
    agent.settle()
    agent.tick(20_000)
    agent.tick(20_000)
    assert log.reader("h").claims_through == 0


# --- claims ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        b"garbage",
        b"",
        b"[" * 10_000,
        encode(Confirm(host="another", request="r", allocation="a")),
        b'{"type":"claim","v":99,"host":"h"}',
    ],
)
def test_a_claim_that_cannot_be_read_is_put_aside_and_passed(value: bytes) -> None:
    log = Log()
    agent = Agent(log).start()
    log.put(b"h", value)
    claim(log, "a")
    agent.settle()
    assert [(q.topic, q.offset) for q in agent.of(Quarantine)] == [("claims", 0)]
    assert list(log.reader().allocations) == ["a"]
    assert log.reader().claims_through == 1


def test_a_bad_claim_that_a_new_host_begins_behind_is_put_aside_by_whoever_reads_it_for_another_host() -> None:
    log = Log()
    Agent(log, "other").start()
    log.put(b"h", b"garbage")
    agent = Agent(log, "h", "other", name="later", now_ms=1_000).start()
    assert (log.reader("h").claims_through, log.reader("other").claims_through) == (0, -1)
    assert [(q.topic, q.offset) for q in agent.of(Quarantine)] == [("claims", 0)]
    assert agent.ledger.settled == []


def test_a_claim_on_the_wrong_partition_is_put_aside() -> None:
    keeper = Keeper("agent", [HostSpec(name="h", inventory=INVENTORY)], 4, "n", KeeperSettings())
    wrong = (partition_of("h", 4) + 1) % 4
    effects = keeper.receive(ClaimsRead(wrong, [(0, 0, b"h", b"{}")], 1), 0)
    assert [(e.topic, e.partition) for e in effects if isinstance(e, Quarantine)] == [("claims", wrong)]


def test_claims_of_other_agents_hosts_are_passed_over() -> None:
    log = Log()
    agent = Agent(log).start()
    Agent(log, "theirs", name="another").start()
    agent.settle()
    log.put(b"theirs", b"garbage")
    later(log, agent)
    assert agent.of(Quarantine) == []


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (None, b"garbage", "key is missing"),
        (None, None, "key is missing"),
        (b"", b"{}", "key is missing"),
        (b"\xff\xfe", b"{}", "is no host's name"),
        (b"h/0", b"{}", "is no host's name"),
        (b"h\n", b"{}", "is no host's name"),
        (b"x" * 129, b"{}", "is no host's name"),
        (b"nobody", b"garbage", "not a claims record"),
        (b"nobody", None, "no value"),
        (b"nobody", encode(Confirm(host="h", request="r", allocation="a")), "key is of host nobody, record of h"),
    ],
)
def test_a_claims_record_that_no_agent_could_take_is_put_aside(
    key: bytes | None, value: bytes | None, reason: str
) -> None:
    log = Log()
    agent = Agent(log).start()
    log.claims.append((0, log.time_ms, key, value))
    claim(log, "a")
    agent.settle()
    (put_aside,) = agent.of(Quarantine)
    assert (put_aside.topic, put_aside.offset, put_aside.key) == ("claims", 0, key)
    assert reason in put_aside.reason
    assert list(log.reader().allocations) == ["a"]


def test_a_claim_for_a_host_that_never_started_is_put_aside_once_hosts_was_read_past_it() -> None:
    log = Log()
    agent = Agent(log).start()
    log.claim("nobody", Confirm(host="nobody", request="r", allocation="a"))
    agent.settle()
    assert agent.of(Quarantine) == []
    later(log, agent)
    assert [(q.topic, q.offset, q.reason) for q in agent.of(Quarantine)] == [
        ("claims", 0, "key nobody is of no host that ever started")
    ]
    later(log, agent)
    assert len(agent.of(Quarantine)) == 1


def test_a_claim_read_before_its_hosts_start_record_is_left_to_that_hosts_agent() -> None:
    log = Log()
    agent = Agent(log).start()
    Agent(log, "new", name="another").start()
    log.claim("new", Confirm(host="new", request="r", allocation="a"))
    agent.read_claims()
    later(log, agent)
    assert agent.of(Quarantine) == []


def test_a_claim_for_a_host_that_was_forgotten_is_put_aside() -> None:
    log = Log()
    agent = Agent(log).start()
    Agent(log, "old", name="another").start()
    agent.settle()
    log.write(start_key("old"), encode(Start(host="old", removed=True)))
    agent.settle()
    log.put(b"old", b"garbage")
    agent.settle()
    assert [q.offset for q in agent.of(Quarantine)] == [0]


def test_records_under_keys_that_are_no_reports_make_no_host_known() -> None:
    log = Log()
    agent = Agent(log).start()
    log.write(b"nobody", b"garbage")
    log.write(b"nobody/x", b"garbage")
    log.write(b"nobody/1", None)
    agent.settle()
    log.put(b"nobody", b"garbage")
    agent.settle()
    assert [q.offset for q in agent.of(Quarantine)] == [0]


def test_past_the_bound_of_known_names_no_name_counts_as_unknown() -> None:
    strangers = Strangers(1, names_max=1)
    for name in (b"one", b"two"):
        strangers.saw(0, name, name + b"/1", b"{}")
    assert strangers.names == {0: {b"one"}}
    good = encode(Confirm(host="two", request="r", allocation="a"))
    assert strangers.judge(0, 0, 0, b"two", good) == ""
    assert list(strangers.due(0, 1_000_000)) == []


def test_past_the_bound_of_waiting_records_the_oldest_is_passed_over_and_counted() -> None:
    strangers = Strangers(1, waiting_max=2)
    good = encode(Confirm(host="nobody", request="r", allocation="a"))
    for offset in range(3):
        assert strangers.judge(0, offset, 0, b"nobody", good) == ""
    assert strangers.passed_over == 1
    assert [record.offset for record, _ in strangers.due(0, 1_000_000)] == [1, 2]


def later(log: Log, agent: Agent) -> None:
    """The next heartbeat is written and read, long after all that stands in the log."""
    log.time_ms += 30_000
    agent.tick(30_000)
    agent.settle()


# --- leases ----------------------------------------------------------------------------------------------------------


def test_a_lease_lapses_only_after_claims_were_read_to_an_end_captured_after_it_ran_out() -> None:
    log = Log()
    agent = Agent(log).start()
    claim(log, "a")
    agent.settle()
    confirm(log, "a")  # stands in the log, unread
    agent.tick(LEASE_MS + 1)
    assert len(agent.of(CaptureEnd)) == 1
    assert "a" in agent.ledger.allocations
    agent.settle()
    assert log.reader().allocations["a"].state == "active"


def test_an_unconfirmed_lease_lapses_and_the_report_says_so() -> None:
    log = Log()
    agent = Agent(log).start()
    claim(log, "a")
    agent.settle()
    agent.tick(LEASE_MS - 1)
    assert agent.of(CaptureEnd) == []
    agent.tick(1)
    agent.settle()
    state = log.reader()
    assert state.allocations == {}
    assert [s.verdict for s in state.settled] == ["lapsed"]


def test_leases_of_one_host_that_ran_out_lapse_in_one_report_and_hosts_at_times_of_their_own() -> None:
    log = Log()
    hosts = [f"h{i}" for i in range(8)]
    interval = 1_000
    agent = Agent(log, *hosts, settings=KeeperSettings(lapse_interval_ms=interval, heartbeat_interval_ms=10**9)).start()
    for i, allocation in enumerate("abcd"):
        agent.tick(200 if i else 0)
        for host in hosts:
            claim(log, f"{allocation}-{host}", host=host)
        agent.settle()
    first_ms, written = agent.now_ms - 600 + LEASE_MS, len(log.hosts)
    gone: dict[str, int] = {}
    agent.tick(LEASE_MS - 600)
    for _ in range(30):
        agent.settle()
        for host in hosts:
            if host not in gone and not log.reader(host).allocations:
                gone[host] = agent.now_ms
        agent.tick(100)
    assert sorted(gone) == hosts
    assert all(first_ms <= when <= first_ms + 600 + interval + 200 for when in gone.values())
    assert len(set(gone.values())) > 1
    lapses = [
        s.verdict for *_, value in log.hosts[written:] for s in getattr(decode("hosts", value or b""), "settled", [])
    ]
    assert lapses.count("lapsed") == 4 * len(hosts)
    assert len(log.hosts) - written <= 2 * len(hosts)


def test_a_restart_gives_a_lease_its_full_length_again() -> None:
    log = Log()
    agent = Agent(log).start()
    claim(log, "a")
    agent.settle()
    again = Agent(log, name="again", now_ms=7_000_000).start()
    again.tick(LEASE_MS - 1)
    again.settle()
    assert "a" in log.reader().allocations
    again.tick(1)
    again.settle()
    assert log.reader().allocations == {}


# --- drivers and operators -------------------------------------------------------------------------------------------


def test_found_instances_count_until_gone_and_those_a_claim_explains_are_not_found() -> None:
    log = Log()
    agent = Agent(log).start()
    claim(log, "a")
    agent.settle()
    agent.receive(DriverSaid("h", Found(instance="vm-a", resources={"VCPU": 2})))
    agent.receive(DriverSaid("h", Found(instance="stranger", resources={"VCPU": 3})))
    agent.settle()
    assert log.reader().used == {"VCPU": 5}
    agent.receive(DriverSaid("h", Gone("stranger")))
    agent.receive(DriverSaid("h", Gone("nobody")))
    agent.settle()
    assert log.reader().used == {"VCPU": 2}


def test_instances_of_earlier_agents_are_adopted_and_can_be_stopped_those_being_built_are_started_again() -> None:
    log = Log()
    agent = Agent(log).start()
    for allocation in ("up", "building"):
        claim(log, allocation)
        agent.settle()
        confirm(log, allocation)
        agent.settle()
    agent.receive(DriverSaid("h", Up("up")))
    agent.receive(DriverSaid("h", Found(instance="stranger", resources={"VCPU": 1})))
    agent.settle()

    again = Agent(log, name="again", now_ms=10).start()
    assert {e.allocation.id for e in again.of(AdoptInstance)} == {"up", "found:stranger"}
    assert [e.allocation.id for e in again.of(StartInstance)] == ["building"]
    release(log, "up")
    again.settle()
    assert [e.allocation.id for e in again.of(StopInstance)] == ["up"]


def test_a_failed_instance_gives_its_room_back_and_is_not_stopped() -> None:
    log = Log()
    agent = Agent(log).start()
    claim(log, "a")
    agent.settle()
    confirm(log, "a")
    agent.settle()
    agent.receive(DriverSaid("h", Failed("a", "no disk")))
    agent.settle()
    state = log.reader()
    assert (state.allocations, [s.verdict for s in state.settled]) == ({}, ["failed"])
    assert agent.of(StopInstance) == []


def test_an_operators_status_is_reported_and_kept_over_a_restart() -> None:
    log = Log()
    agent = Agent(log).start()
    drained = ControlRead("h", HostControl(name="h", status="draining"))
    agent.receive(drained)
    agent.settle()
    assert log.reader().status == "draining"
    claim(log, "a")
    agent.settle()
    assert log.reader().allocations == {}
    again = Agent(log, name="again", now_ms=10)
    again.receive(drained)
    again.start()
    assert log.reader().status == "draining"
    again.receive(ControlRead("h", None))
    again.settle()
    assert log.reader().status == "enabled"


def test_reports_are_awaited_until_they_are_read_back() -> None:
    log = Log()
    agent = Agent(log).begin()
    assert agent.keeper.log.awaits()
    agent.settle()
    assert not agent.keeper.log.awaits()
    claim(log, "a")
    agent.read_claims()
    assert agent.keeper.log.awaits()
    agent.read_hosts()
    assert not agent.keeper.log.awaits()


def test_nothing_is_awaited_for_a_host_that_another_agent_took() -> None:
    log = Log()
    first = Agent(log).start()
    claim(log, "a")
    first.read_claims()
    Agent(log, name="second").begin()
    first.read_hosts()
    assert first.phase == FENCED
    assert not first.keeper.log.awaits()
