"""Pools as rules: which pool serves a flavor, what is settled where after a change, what may not span two, how a move fails."""

from collections.abc import Callable
from typing import Any

import pytest

from audit_logs import Pool
from commonplace.core import hashing
from commonplace.core.catalog import ROUTE_GRACE_MS, Catalog
from commonplace.core.codec import encode
from commonplace.core.host_keys import delta_key, snapshot_key, start_key
from commonplace.core.partition import partition_of
from commonplace.core.records.control import Flavor, Routing
from commonplace.core.records.decisions import Decision, Placed, Position
from commonplace.core.records.hosts import Allocation, Delta, Snapshot, Start
from commonplace.core.records.requests import Build
from commonplace.errors import CommonplaceError, StateChanged, TimedOut
from commonplace.frontend.events import Answer, ControlRead, SendRequest, Submit
from commonplace.frontend.members import Members
from commonplace.frontend.moving import Source, move
from commonplace.frontend.pending import Pending
from commonplace.frontend.routes import PAST_MAX, Routes, rerouted, spans
from commonplace.frontend.session import Session
from commonplace.frontend.settling import Confirmed, Outcome, Released, TooLate
from commonplace.ops.audit.stays import INVARIANT
from world import World, flavor

FAST = Flavor(name="fast", resources={"VCPU": 1}, pool="ssd")
WINDOWS = Flavor(name="windows", resources={"VCPU": 1}, pool="licensed")
FLAVORS = {"fast": FAST, "windows": WINDOWS}


def folded(*records: tuple[str, Any], at_ms: int = 0) -> Routes:
    routes = Routes()
    routes.fold([(i, at_ms, key.encode(), encode(record)) for i, (key, record) in enumerate(records)])
    return routes


# --- routes ------------------------------------------------------------------------------------------------------------


def test_a_flavor_goes_to_the_pool_of_its_record_unless_routing_says_otherwise() -> None:
    routes = folded(("flavor/fast", FAST), ("flavor/windows", WINDOWS))
    assert (routes.pool_of("fast"), routes.pool_of("windows"), routes.pool_of("none")) == ("ssd", "licensed", "")
    routes.fold([(9, 0, b"routing", encode(Routing(pools={"fast": "licensed"})))])
    assert routes.pool_of("fast") == "licensed"
    routes.fold([(10, 0, b"routing", b"{")])
    assert (routes.pool_of("fast"), routes.bad) == ("licensed", 1)
    routes.fold([(11, 0, b"routing", None)])
    assert routes.pool_of("fast") == "ssd"


def test_a_changed_route_remembers_the_pools_before_newest_first() -> None:
    routing = Routing()
    for pool in ("licensed", "third", "licensed", ""):
        routing = rerouted(routing, FLAVORS, ["fast"], pool)
    assert routing.pools == {}  # the pool of its own record again
    assert routing.before == {"fast": ("licensed", "third")}
    for n in range(10):
        routing = rerouted(routing, FLAVORS, ["fast"], f"p{n}")
    assert routing.pools == {"fast": "p9"}
    assert routing.before["fast"] == ("p8", "p7", "p6", "p5")
    assert len(routing.before["fast"]) == PAST_MAX


def test_a_route_that_does_not_change_remembers_nothing() -> None:
    assert rerouted(Routing(), FLAVORS, ["fast"], "ssd") == Routing()


def test_earlier_pools_are_asked_only_while_an_earlier_submit_can_still_count() -> None:
    routing = Routing(pools={"fast": "licensed"}, before={"fast": ("third",)})
    routes = folded(("flavor/fast", FAST), ("routing", routing), at_ms=5_000)
    assert routes.before("fast") == ("third", "ssd")
    assert routes.before("fast", since_ms=5_000) == ("third", "ssd")
    assert routes.before("fast", since_ms=5_001) == ()
    assert folded(("flavor/windows", WINDOWS)).before("windows") == ()


def test_a_session_takes_a_flavor_of_another_pool_only_from_who_chose_it() -> None:
    session = Session("licensed", 6, 4, 10)
    session.receive(ControlRead([(0, 0, b"flavor/fast", encode(FAST))]), 0)
    (answer,) = session.receive(Submit(Build(id="r-1", flavor="fast"), 1, 1_000), 0)
    assert isinstance(answer, Answer)
    (sent,) = session.receive(Submit(Build(id="r-1", flavor="fast"), 2, 1_000, routed=True), 0)
    assert isinstance(sent, SendRequest)


# --- a route that changes under requests --------------------------------------------------------------------------------


def rerouted_away(world: World, name: str = "small") -> None:
    world.append("control", 0, b"routing", encode(Routing(pools={name: "ssd"})))


def test_what_stood_in_the_old_pool_before_the_route_changed_is_placed_there() -> None:
    world = World()
    world.flavor(flavor())
    world.agent("h1")
    world.settle()
    for n in range(4):
        world.submit(Build(id=f"r-{n}", flavor="small"))
    rerouted_away(world)  # before any replica has read one of them
    world.scheduler()
    world.settle()
    found = [world.decisions(f"r-{n}") for n in range(4)]
    assert [[decision.result for decision in one] for one in found] == [["placed"]] * 4


def test_what_comes_to_the_old_pool_after_the_grace_is_refused_with_the_pool_to_go_to() -> None:
    world = World()
    world.flavor(flavor())
    world.agent("h1")
    world.scheduler()
    rerouted_away(world)
    world.settle()
    world.now += ROUTE_GRACE_MS
    world.submit(Build(id="r-1", flavor="small"))  # from a frontend that has not read of it yet
    world.now += 1
    world.submit(Build(id="r-2", flavor="small"))
    world.settle()
    assert [decision.result for decision in world.decisions("r-1")] == ["placed"]
    (refused,) = world.decisions("r-2")
    assert (refused.result, refused.reason) == ("rejected", "invalid")
    assert "served by pool 'ssd', not 'default': submit it there" in refused.message


def test_a_replica_that_takes_over_after_the_change_settles_what_stood_there_before() -> None:
    world = World()
    world.flavor(flavor())
    world.agent("h1")
    world.settle()
    world.submit(Build(id="r-1", flavor="small", deadline_ms=100 * ROUTE_GRACE_MS))
    rerouted_away(world)
    world.now += 10 * ROUTE_GRACE_MS
    world.settle()  # the agent goes on reporting
    world.scheduler("r2")
    world.settle()
    assert [decision.result for decision in world.decisions("r-1")] == ["placed"]


def test_the_grace_counts_from_the_newer_of_flavor_and_routing() -> None:
    catalog = Catalog("default")
    catalog.fold(b"flavor/m", encode(Flavor(name="m", resources={"VCPU": 1})), 1_000)
    assert catalog.elsewhere(Build(id="r", flavor="m"), 10**9) == ""
    catalog.fold(b"routing", encode(Routing(pools={"m": "ssd"})), 5_000)
    build = Build(id="r", flavor="m")
    assert catalog.elsewhere(build, 5_000 + ROUTE_GRACE_MS) == ""
    assert "'ssd'" in catalog.elsewhere(build, 5_001 + ROUTE_GRACE_MS)
    assert "'ssd'" in catalog.refusal("m")
    catalog.fold(b"routing", None, 6_000)
    assert catalog.elsewhere(build, 10**9) == ""
    catalog.fold(b"flavor/m", encode(Flavor(name="m", resources={"VCPU": 1}, pool="third")), 7_000)
    assert catalog.elsewhere(build, 7_000 + ROUTE_GRACE_MS) == ""
    assert "'third'" in catalog.elsewhere(build, 7_001 + ROUTE_GRACE_MS)


# --- groups --------------------------------------------------------------------------------------------------------------


def test_a_group_across_pools_is_refused_with_group_both_pools_and_what_to_do() -> None:
    said = spans("r-1", "windows", "web", "licensed", {"ssd": 3, "licensed": 2})
    for part in (
        "r-1",
        "group web",
        "3 members in pool ssd",
        "pool licensed",
        "ask for a flavor of pool ssd",
        "another group",
    ):
        assert part in said
    assert spans("r-1", "windows", "web", "licensed", {"licensed": 5, "ssd": 0}) == ""


def member(name: str, group: str = "web", instance: str = "") -> Allocation:
    return Allocation(id=name, request="r", instance=instance or f"vm-{name}", resources={"VCPU": 1}, group=group)


def report(epoch: int, generation: int, *held: Allocation) -> bytes:
    total = hashing.host_part({}, (), {}, "enabled", {}) + sum(map(hashing.allocation_hash, held))
    fields: dict[str, Any] = {
        "claims_topic": "c",
        "claims_through": -1,
        "hash": hashing.to_hex(total & hashing.MASK),
        "inventory": {},
    }
    return encode(Snapshot(host="h1", epoch=epoch, generation=generation, allocations=list(held), **fields))


def test_members_are_counted_as_the_hosts_reports_stand() -> None:
    members = Members(1)
    members.fold(
        0,
        [
            (0, 0, start_key("h1"), encode(Start(host="h1"))),
            (1, 0, snapshot_key("h1", 0), report(0, 1, member("a"), member("b"), member("c", "db"))),
            (2, 0, b"nonsense", b"{"),
            (3, 0, snapshot_key("h1", 0), b"{"),
        ],
    )
    assert (members.count("web", ()), members.count("db", ()), members.count("none", ())) == (2, 1, 0)
    assert members.count("web", {"vm-a"}) == 1
    delta = Delta(
        host="h1", epoch=0, generation=3, base_generation=2, claims_topic="c", claims_through=-1, hash="0" * 16,
        removed=["a"], upserts=[],
    )  # fmt: skip
    members.fold(0, [(4, 0, snapshot_key("h1", 0), report(0, 2, member("a"), member("b")))])
    members.fold(0, [(5, 0, delta_key("h1", 0), encode(delta))])
    assert (members.count("web", ()), members.count("db", ())) == (1, 0)
    members.fold(0, [(6, 0, start_key("h1"), encode(Start(host="h1", removed=True)))])
    assert members.count("web", ()) == 0


def test_a_member_on_another_partition_than_its_host_is_none() -> None:
    members = Members(4)
    own = partition_of("h1", 4)
    rows = [
        (0, 0, start_key("h1"), encode(Start(host="h1"))),
        (1, 0, snapshot_key("h1", 0), report(0, 1, member("a"))),
    ]
    members.fold((own + 1) % 4, rows)
    assert members.count("web", ()) == 0
    members.fold(own, rows)
    assert members.count("web", ()) == 1


# --- the audit: one host, one pool ----------------------------------------------------------------------------------------


def stay(pool: Pool, from_ms: int, to_ms: int, host: str = "h1") -> Pool:
    """The host reports to the pool from one moment to another, every 10 s."""
    pool.now_ms = from_ms
    pool.start(host)
    pool.snapshot(host)
    while pool.now_ms + 10_000 <= to_ms:
        pool.tick(10_000)
        pool.delta(host)
    return pool


def test_a_host_that_moved_from_pool_to_pool_is_clean_on_both_sides() -> None:
    here, there = stay(Pool(), 0, 60_000), stay(Pool(), 61_000, 90_000)
    stay(here, 95_000, 120_000)
    report = here.audit({"ssd": there})
    assert (report.verdict, report.tallies[INVARIANT].checked) == ("clean", 1)
    assert there.audit({"default": here}).verdict == "clean"


def test_a_host_that_is_live_in_two_pools_is_violated_and_named() -> None:
    here, there = stay(Pool(), 0, 60_000), stay(Pool(), 40_000, 90_000)
    stay(here, 0, 60_000, "h2")
    report = here.audit({"ssd": there, "licensed": Pool()})
    tally = report.tallies[INVARIANT]
    assert (report.verdict, tally.checked, tally.violated) == ("violated", 2, 1)
    assert "h1 reported here and to pool ssd for" in tally.violations[0].text
    assert tally.violations[0].topic == "commonplace.default.hosts"


def test_reports_that_a_later_epoch_voids_are_no_stay() -> None:
    here = stay(Pool(), 0, 60_000)
    zombie = here.host().epoch
    here.tick(1_000)
    here.start("h1")
    here.tick(30_000)
    here.put("hosts", f"h1/{zombie}/delta", {"type": "delta"})
    there = stay(Pool(), 62_000, 100_000)
    assert here.audit({"ssd": there}).tallies[INVARIANT].violated == 0


def test_with_one_pool_there_is_nothing_to_prove() -> None:
    assert stay(Pool(), 0, 60_000).audit().tallies[INVARIANT].checked == 0


# --- moves ----------------------------------------------------------------------------------------------------------------


def decided(request: str, *instances: str, host: str = "h1", result: Any = "placed") -> Decision:
    placed = [
        Placed(index=n, instance=name, host=host, allocation=f"a-{request}-{n}", grant=Position(0, 0))
        for n, name in enumerate(instances)
    ]
    return Decision(request=request, result=result, position=Position(0, 0), flavor="windows", placed=placed)


class Pools:
    """What `move` needs of a router, and what it was told, in order."""

    def __init__(
        self,
        answer: Decision | CommonplaceError,
        confirm: Callable[[Decision], list[Outcome]] | None = None,
        release: Callable[[Decision], list[Outcome]] | None = None,
    ) -> None:
        self.said: list[tuple[str, str, tuple[str, ...]]] = []
        self._answer = answer
        self._confirm = confirm or (lambda decision: [Confirmed(p.host, p.allocation) for p in decision.placed])
        self._release = release or (lambda decision: [Released(p.host, p.allocation) for p in decision.placed])

    def submit(self, build: Build, *, timeout: float | None = None) -> Pending:
        pending = Pending(build, 1)
        pending.resolve(self._answer)
        return pending

    def decided_in(self, decision: Decision) -> str:
        return "licensed"

    def confirm(self, decision: Decision, *names: str, pool: str = "", **_: object) -> list[Outcome]:
        self.said.append(("confirm", pool, names))
        return self._confirm(decision)

    def release(self, decision: Decision, *names: str, pool: str = "", **_: object) -> list[Outcome]:
        self.said.append(("release", pool, names or tuple(p.allocation for p in decision.placed)))
        return self._release(decision)


SOURCE = Source("ssd", decided("r-old", "vm-1", "vm-2"))
WANTED = Build(id="r-new", flavor="windows", count=2, instances=("vm-1", "vm-2"))


def moving(pools: Pools, source: Source = SOURCE) -> Any:
    return move(pools, source, WANTED, 1.0)


def failing(error: CommonplaceError) -> Callable[[Decision], list[Outcome]]:
    def fail(decision: Decision) -> list[Outcome]:
        raise error

    return fail


def test_the_source_is_released_after_the_target_is_confirmed() -> None:
    pools = Pools(decided("r-new", "vm-1", "vm-2"))
    moved = moving(pools)
    assert [(what, pool) for what, pool, _ in pools.said] == [("confirm", "licensed"), ("release", "ssd")]
    assert (moved.source_pool, moved.target_pool, len(moved.released)) == ("ssd", "licensed", 2)


@pytest.mark.parametrize("result", ["no_valid_host", "rejected", "expired"])
def test_a_target_that_is_not_placed_leaves_the_source(result: str) -> None:
    pools = Pools(decided("r-new", result=result))
    moved = moving(pools)
    assert (moved.decision.result, moved.released, pools.said) == (result, [], [])


def test_a_target_that_is_not_decided_in_time_leaves_the_source_and_says_so() -> None:
    pools = Pools(TimedOut("no decision for r-new"))
    with pytest.raises(TimedOut, match="source in pool ssd is untouched"):
        moving(pools)
    assert pools.said == []


def test_a_target_that_lapsed_in_part_is_given_back_and_the_source_stays() -> None:
    def late(decision: Decision) -> list[Outcome]:
        first, second = decision.placed
        return [Confirmed(first.host, first.allocation), TooLate(second.host, second.allocation)]

    pools = Pools(decided("r-new", "vm-1", "vm-2"), confirm=late)
    with pytest.raises(StateChanged, match=r"source r-old in pool ssd is untouched: move again under a new id"):
        moving(pools)
    assert pools.said[1:] == [("release", "licensed", ("a-r-new-0", "a-r-new-1"))]


def test_a_confirm_without_an_answer_leaves_the_source_and_names_the_id_to_go_on_with() -> None:
    pools = Pools(decided("r-new", "vm-1", "vm-2"), confirm=failing(TimedOut("h9 did not answer")))
    with pytest.raises(TimedOut, match="untouched: move again with the id r-new"):
        moving(pools)
    assert [what for what, _, _ in pools.said] == ["confirm"]


def test_a_release_without_an_answer_says_that_both_hold_and_how_to_end_it() -> None:
    pools = Pools(decided("r-new", "vm-1", "vm-2"), release=failing(TimedOut("h1 did not answer")))
    with pytest.raises(
        TimedOut, match=r"r-new stands in pool licensed, confirmed, .* pool ssd still .*again with the id r-new"
    ):
        moving(pools)


def test_only_what_found_a_target_is_released_where_fewer_may_be_placed() -> None:
    pools = Pools(decided("r-new", "vm-2"))
    moving(pools)
    assert pools.said[-1] == ("release", "ssd", ("a-r-old-1",))


def test_only_the_allocations_named_are_moved() -> None:
    source = Source("ssd", SOURCE.decision, ("a-r-old-0",))
    assert source.instances == ("vm-1",)
    pools = Pools(decided("r-new", "vm-1"))
    moving(pools, source)
    assert pools.said[-1] == ("release", "ssd", ("a-r-old-0",))
