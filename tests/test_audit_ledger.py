"""The shipped ledger under the audit's eyes: whatever is thrown at it, its log is clean; with a check taken out, it is not."""

from types import ModuleType
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from audit_logs import CLAIMS_ID, Pool
from commonplace.core import claim_checks, replacing
from commonplace.core import ledger as ledger_module
from commonplace.core.codec import encode
from commonplace.core.host_keys import parse_key
from commonplace.core.hosts import HostState, fold
from commonplace.core.ledger import Ledger
from commonplace.core.ledger_events import Configure, Failed, Found, Gone, Lapse, Taken, Up
from commonplace.core.records.claims import Claim, Confirm, Release
from commonplace.core.records.hosts import Allocation, Whole
from commonplace.core.resources import Inventory
from sim_logs import Watched

LEASE_MS = 12_000
STEP_MS = 5_000
FOREVER_MS = 1 << 50  # decisions, which would name what is confirmed, there are none


class Agent:
    """One host's ledger writing to a pool of hand-made logs."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.state = HostState("h1")
        self.ids = 0
        self.unseen = (
            0  # what instances found or gone since the last report did to the hash: nobody can expect that yet
        )
        self.start()

    def start(self) -> None:
        """A new incarnation, from the last report in the log."""
        epoch = self.pool.put("hosts", "h1/start", {"type": "start", "v": 1, "host": "h1"})
        now_ms = self.pool.now_ms
        if self.state.generation > 0:
            self.ledger = Ledger.recover(self.state, epoch, now_ms, now_ms)
        else:
            self.ledger = Ledger("h1", epoch, now_ms, CLAIMS_ID, -1)
        self.ledger.receive(Configure(inventory={"VCPU": Inventory(total=8)}), now_ms)
        self.state.start(epoch, False, now_ms)
        self.report(snapshot=True)

    def report(self, *, snapshot: bool = False) -> None:
        record = self.ledger.snapshot("agent") if snapshot else self.ledger.delta()
        self.unseen = 0
        key = f"h1/{self.ledger.epoch}" + ("" if snapshot else "/delta")
        raw = encode(record)
        offset = self.pool.put("hosts", key, raw)
        parsed = parse_key(key.encode())
        assert parsed is not None
        fold(self.state, parsed, offset, self.pool.now_ms, raw)

    def claim(self, vcpu: int, mode: Any, fresh: bool) -> None:
        self.ids += 1
        expected = f"{(self.ledger.hash - self.unseen) % 2**64:016x}" if fresh else "0" * 16
        allocation = Allocation(id=f"a-{self.ids}", request=f"r-{self.ids}", instance="i", resources={"VCPU": vcpu})
        self.take(
            Claim(
                host="h1",
                request=f"r-{self.ids}",
                mode=mode,
                expected=expected,
                lease_ms=LEASE_MS,
                allocations=[allocation],
                builds_max=3,
            )
        )

    def replace(self, which: int, vcpu: int) -> None:
        """A resize in place of an allocation, there or not."""
        self.ids += 1
        old = self.ledger.allocations.get(f"a-{which}")
        more = vcpu - (old.resources.get("VCPU", 0) if old is not None else 0)
        allocation = Allocation(
            id=f"a-{self.ids}",
            request=f"r-{self.ids}",
            instance="i",
            resources={"VCPU": more} if more > 0 else {},
            replaces=f"a-{which}",
            becomes=Whole(resources={"VCPU": vcpu}),
        )
        expected = f"{(self.ledger.hash - self.unseen) % 2**64:016x}"
        self.take(
            Claim(
                host="h1",
                request=f"r-{self.ids}",
                expected=expected,
                lease_ms=LEASE_MS,
                allocations=[allocation],
                instances_max=3,
            )
        )

    def about(self, kind: str, which: int, leased_only: bool) -> None:
        """A renewal, confirm or release of some allocation, there or not."""
        identity = f"a-{which}"
        if kind == "renew":
            allocation = Allocation(id=identity, resources={})
            self.take(Claim(host="h1", request=f"r-{which}", mode="renew", lease_ms=LEASE_MS, allocations=[allocation]))
        elif kind == "confirm":
            self.take(Confirm(host="h1", request=f"r-{which}", allocation=identity))
        else:
            self.take(Release(host="h1", request=f"r-{which}", allocation=identity, leased_only=leased_only))

    def take(self, record: Claim | Confirm | Release) -> None:
        offset = self.pool.put("claims", "h1", encode(record))
        self.ledger.receive(Taken(offset, self.pool.now_ms, record), self.pool.now_ms)

    def driver(self, event: Found | Gone) -> None:
        before = self.ledger.hash
        self.ledger.receive(event, self.pool.now_ms)
        self.unseen += self.ledger.hash - before

    def pass_time(self) -> None:
        self.pool.tick(STEP_MS)
        now_ms = self.pool.now_ms
        for identity, ends_ms in list(self.ledger.leases.items()):
            if ends_ms < now_ms:
                self.ledger.receive(Lapse(identity, now_ms), now_ms)


steps = st.one_of(
    st.tuples(st.just("claim"), st.integers(1, 9), st.sampled_from(["strict", "fits"]), st.booleans()),
    st.tuples(st.sampled_from(["renew", "confirm", "release"]), st.integers(1, 6), st.booleans()),
    st.tuples(st.just("replace"), st.integers(1, 6), st.integers(1, 8)),
    st.tuples(st.sampled_from(["up", "failed"]), st.integers(1, 6)),
    st.tuples(st.sampled_from(["found", "gone"]), st.integers(1, 2), st.integers(1, 6)),
    st.tuples(st.just("inventory"), st.integers(2, 12)),
    st.tuples(st.just("status"), st.sampled_from(["enabled", "draining"])),
    st.tuples(st.sampled_from(["time", "delta", "snapshot", "start"])),
)


def play(step: tuple[Any, ...], agent: Agent) -> None:
    ledger, now_ms = agent.ledger, agent.pool.now_ms
    match step:
        case ("claim", vcpu, mode, fresh):
            agent.claim(vcpu, mode, fresh)
        case ("replace", which, vcpu):
            agent.replace(which, vcpu)
        case (("renew" | "confirm" | "release") as kind, which, leased_only):
            agent.about(kind, which, leased_only)
        case ("up", which):
            ledger.receive(Up(f"a-{which}"), now_ms)
        case ("failed", which):
            ledger.receive(Failed(f"a-{which}", "no image"), now_ms)
        case ("found", which, vcpu):
            agent.driver(Found(instance=f"vm-{which}", resources={"VCPU": vcpu}))
        case ("gone", which, _):
            agent.driver(Gone(f"vm-{which}"))
        case ("inventory", total):
            ledger.receive(Configure(inventory={"VCPU": Inventory(total=total)}), now_ms)
            agent.report()  # nobody can expect a state that was never reported
        case ("status", status):
            ledger.receive(Configure(status=status), now_ms)
            agent.report()
        case ("time",):
            agent.pass_time()
            agent.report()
        case ("delta",):
            agent.report()
        case ("snapshot",):
            agent.report(snapshot=True)
        case ("start",):
            agent.report()  # what it settled is out
            agent.start()


def played(pool: Pool, scenario: list[tuple[Any, ...]]) -> None:
    agent = Agent(pool)
    for step in scenario:
        play(step, agent)
    agent.report()


def run(scenario: list[tuple[Any, ...]]) -> Any:
    pool = Pool()
    played(pool, scenario)
    return pool.audit(slack_ms=STEP_MS + 1_000, heartbeat_ms=STEP_MS, lapse_ms=0, grace_ms=FOREVER_MS)


@settings(deadline=None, max_examples=150)
@given(st.lists(steps, max_size=40))
def test_log_of_the_shipped_ledger_is_clean_and_provable(scenario: list[tuple[Any, ...]]) -> None:
    report = run(scenario)
    assert [v.text for tally in report.tallies.values() for v in tally.violations] == []
    assert sum(tally.unprovable for tally in report.tallies.values()) == 0


@settings(deadline=None, max_examples=150)
@given(st.lists(steps, max_size=40))
def test_log_of_the_shipped_ledger_is_clean_to_the_checkers_of_the_simulator(scenario: list[tuple[Any, ...]]) -> None:
    pool = Watched()
    played(pool, scenario)
    # what is said of the host; decisions, which would name what was confirmed, there are none
    assert [said for _, said in pool.found() if said.startswith("h1 ") and "no effective decision" not in said] == []


GROWS = [("claim", 3, "strict", True), ("confirm", 1, False), ("delta",), ("replace", 1, 8), ("confirm", 2, False)]


@pytest.mark.parametrize("apart", range(3, 6))
def test_resize_in_place_is_clean_in_one_report_or_several(apart: int) -> None:
    scenario = [*GROWS[:apart], ("delta",), *GROWS[apart:]]
    pool = Pool()
    agent = Agent(pool)
    for step in scenario:
        play(step, agent)
    assert {name: (a.state, a.resources) for name, a in agent.ledger.allocations.items()} == {
        "a-2": ("active", {"VCPU": 8})
    }
    assert run(scenario).clean


@pytest.mark.parametrize(
    ("broken", "invariant"),
    [
        ({"wrong": lambda held, asked, terms, here: ("", "")}, 6),
        ({"alone": lambda part, old, cells: replace(part, replaces="", becomes=None)}, 6),
    ],
    ids=["difference not checked", "never whole"],
)
def test_ledger_that_replaces_wrongly_is_found(broken: dict[str, Any], invariant: int) -> None:
    other = [("claim", 3, "strict", True), ("confirm", 1, False), ("claim", 2, "strict", True), ("confirm", 2, False)]
    with mock.patch.multiple(replacing, **broken):
        pool = Watched()
        agent = Agent(pool)
        for step in other:
            play(step, agent)
        part = Allocation(
            id="a-9",
            request="r-9",
            instance="i",
            resources={"VCPU": 1},
            replaces="a-1",
            becomes=Whole(resources={"VCPU": 6}),
        )
        if "alone" in broken:
            part = replace(part, becomes=Whole(resources={"VCPU": 4}))
        agent.take(Claim(host="h1", request="r-9", mode="fits", lease_ms=LEASE_MS, allocations=[part]))
        agent.report()
        agent.take(Confirm(host="h1", request="r-9", allocation="a-9"))
        agent.report()
    assert pool.audit(slack_ms=STEP_MS, heartbeat_ms=STEP_MS).tallies[invariant].violated
    assert invariant in [found for found, said in pool.found() if said.startswith("h1 ")]


@pytest.mark.parametrize(
    ("of", "check", "invariant"),
    [(ledger_module, "refusal_of", 6), (claim_checks, "_overfull", 1)],
    ids=["expected hash ignored", "capacity ignored"],
)
def test_ledger_with_a_check_taken_out_is_found(of: ModuleType, check: str, invariant: int) -> None:
    claims = [("claim", 5, "strict", False), ("claim", 5, "fits", True), ("claim", 5, "fits", True)]
    with mock.patch.object(of, check, return_value=("", "")):
        assert run([*claims, ("delta",)]).tallies[invariant].violated
    assert run([*claims, ("delta",)]).clean
