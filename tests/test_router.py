"""One client for all pools, against a scripted replica in each: where requests go, and what becomes of them when a route changes."""

import asyncio
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack

import msgspec
import pytest

import cli
from commonplace.core.codec import encode
from commonplace.core.records.control import Flavor, Routing
from commonplace.core.records.decisions import Decision
from commonplace.core.records.requests import Build
from commonplace.core.resources import Inventory
from commonplace.errors import CommonplaceError, StateChanged, TimedOut, UsageError
from commonplace.frontend import AsyncRouter, Router
from commonplace.frontend.lookup import Reader
from commonplace.kafka import control
from commonplace.kafka.topics import pools, specs
from commonplace.settings import Settings
from frontend_world import HOST, FakeReplica, fake_replica, make_topics, placed, settings_on, write_flavors
from hosts_written import Reporter, allocation
from kafka_fixtures import KafkaUnderTest

Run = Callable[..., "subprocess.CompletedProcess[str]"]
FAST = Flavor(name="fast", resources={"VCPU": 1}, pool="ssd")
WINDOWS = Flavor(name="windows", resources={"VCPU": 1}, pool="licensed")


def of(settings: Settings, pool: str, **shape: int) -> Settings:
    return msgspec.structs.replace(settings, topics=msgspec.structs.replace(settings.topics, pool=pool, **shape))


@pytest.fixture
def settings(kafka: KafkaUnderTest, prefix: str) -> Settings:
    """Two pools of different shapes, and none called as the settings say."""
    made = settings_on(kafka, prefix)
    make_topics(kafka, of(made, "ssd"))
    if kafka.embedded is None:
        make_topics(kafka, of(made, "licensed", requests_partitions=2))
    else:
        for spec in specs(of(made, "licensed", requests_partitions=2)):
            if not spec.name.endswith(".control"):
                kafka.create_topic(spec.name, spec.partitions)
    write_flavors(made, FAST, WINDOWS)
    return made


@pytest.fixture
def run(settings: Settings) -> Run:
    return cli.at(settings)


@pytest.fixture
def router(settings: Settings) -> Iterator[Router]:
    with Router(settings) as made:
        yield made


@pytest.fixture
def replicas(settings: Settings) -> Iterator[dict[str, FakeReplica]]:
    with ExitStack() as stack:
        yield {pool: stack.enter_context(fake_replica(theirs)) for pool, theirs in pools(settings).items()}


def asked(replica: FakeReplica) -> list[str]:
    return [build.id for _, _, build in replica.requests if isinstance(build, Build)]


def route(settings: Settings, **changes: str) -> None:
    before: dict[str, tuple[str, ...]] = {name: ({"fast": "ssd", "windows": "licensed"}[name],) for name in changes}
    control.write(settings, {"routing": encode(Routing(pools=changes, before=before))})


def rerouted(router: Router, flavor: str, pool: str) -> bool:
    """Whether the router has read of a route by now."""
    for _ in range(500):
        if router.pool_of(flavor) == pool:
            return True
        router.frontend(pool)  # a round trip, so that the loop takes time only where it must
    return False


def test_pools_are_found_with_their_own_shapes(settings: Settings) -> None:
    found = pools(settings)
    assert {pool: theirs.topics.requests_partitions for pool, theirs in found.items()} == {"licensed": 2, "ssd": 6}


def test_each_request_goes_to_the_pool_of_its_flavor_and_answers_keep_their_order(
    router: Router, replicas: dict[str, FakeReplica]
) -> None:
    names = ["fast", "windows", "fast", "none", "windows"]
    pendings = router.submit_many([router.request(name, id=f"r-{n}") for n, name in enumerate(names)])
    assert [pendings[n].result(20).request for n in (0, 1, 2, 4)] == ["r-0", "r-1", "r-2", "r-4"]
    with pytest.raises(UsageError, match="flavor none is unknown; the nearest known is"):
        pendings[3].result(20)
    assert (sorted(asked(replicas["ssd"])), sorted(asked(replicas["licensed"]))) == (["r-0", "r-2"], ["r-1", "r-4"])


def test_confirm_release_and_cancel_go_where_the_request_was_decided(
    settings: Settings, router: Router, replicas: dict[str, FakeReplica]
) -> None:
    decision = router.place("windows")
    (confirmed,) = router.confirm(decision, wait=True)
    assert type(confirmed).__name__ == "Confirmed"
    with Router(settings) as another:  # which knows of it from the log alone, and after the route changed
        route(settings, windows="ssd")
        assert rerouted(another, "windows", "ssd")
        assert another.decided_in(decision) == "licensed"
        (released,) = another.release(decision, wait=True)
    assert type(released).__name__ == "Released"
    router.cancel(decision.request)
    router.flush()
    assert not replicas["ssd"].claims


def test_a_route_to_a_pool_without_topics_is_refused_with_what_to_do(settings: Settings, router: Router) -> None:
    control.write(settings, {"routing": encode(Routing(pools={"fast": "tape"}))})
    assert router.pool_of("windows") == "licensed"
    router._read_control()
    with pytest.raises(UsageError, match=r"pool tape has no topics .*licensed, ssd.*topics create --pool tape"):
        router.submit(router.request("fast")).result(20)


def test_an_id_submitted_before_the_route_changed_is_answered_from_where_it_stands(
    settings: Settings, router: Router, replicas: dict[str, FakeReplica]
) -> None:
    first = router.place("fast", id="order-1")
    own = router.place("fast")
    route(settings, fast="licensed")
    assert rerouted(router, "fast", "licensed")
    assert router.submit(router.request("fast", id="order-1")).result(20) == first
    assert router.submit(router.request("fast", id=own.request)).result(20) == own
    with Router(settings) as another:
        assert another.submit(another.request("fast", id="order-1")).result(20) == first
        new = another.place("fast", id="order-2")
        assert another.decided_in(new) == "licensed"
    assert asked(replicas["licensed"]) == ["order-2"]


def test_an_undecided_request_submitted_again_after_the_change_waits_in_the_old_pool(settings: Settings) -> None:
    with Router(settings) as router:
        router.submit(router.request("fast", id="order-1"), timeout=0.5)
        router.flush()
    route(settings, fast="licensed")
    with Router(settings) as router:
        pending = router.submit(router.request("fast", id="order-1"))
        with fake_replica(pools(settings)["ssd"]) as replica:
            assert pending.result(20).result == "placed"
            assert set(asked(replica)) == {"order-1"}
    assert Reader(pools(settings)["licensed"]).read().entries == {}


# --- groups ------------------------------------------------------------------------------------------------------------


def test_a_group_with_members_on_the_hosts_of_another_pool_is_refused(settings: Settings, router: Router) -> None:
    Reporter(of(settings, "ssd")).host("host-9", allocation(group="web"), allocation("a-2", "r-2", group="web"))
    with pytest.raises(
        UsageError, match=r"group web has 2 members in pool ssd, and flavor windows is placed by pool licensed"
    ):
        router.submit(router.request("windows", group="web")).result(20)
    pending = router.submit(router.request("windows", group="web", count=2, instances=("r-1.0", "r-2.0")), timeout=0.5)
    with pytest.raises(TimedOut):  # it moves both, so none is left behind: it was submitted, and nobody decides here
        pending.result(20)


def test_a_group_that_one_call_would_spread_is_refused_from_the_second_pool_on(
    router: Router, replicas: dict[str, FakeReplica]
) -> None:
    names = ["fast", "windows", "fast"]
    first, second, third = router.submit_many([router.request(name, group="db") for name in names])
    assert (first.result(20).result, third.result(20).result) == ("placed", "placed")
    with pytest.raises(UsageError, match=r"group db has [12] member"):
        second.result(20)
    assert asked(replicas["licensed"]) == []


# --- moves -------------------------------------------------------------------------------------------------------------


def test_a_move_confirms_there_before_it_releases_here(router: Router, replicas: dict[str, FakeReplica]) -> None:
    source = router.place("fast", count=2)
    router.confirm(source, wait=True)
    moved = router.move(source, "windows")
    assert (moved.source_pool, moved.target_pool) == ("ssd", "licensed")
    assert [type(one).__name__ for one in moved.confirmed + moved.released] == ["Confirmed"] * 2 + ["Released"] * 2
    (target,) = [build for _, _, build in replicas["licensed"].requests if isinstance(build, Build)]
    assert target.instances == tuple(p.instance for p in source.placed)
    again = router.move(source, "windows", id=moved.decision.request)  # as after a crash: nothing changes
    assert again.decision == moved.decision


def test_a_resize_within_a_pool_names_the_host_it_is_on_and_a_migration_leaves_it(
    settings: Settings, router: Router, replicas: dict[str, FakeReplica]
) -> None:
    control.put_flavors(settings, msgspec.structs.replace(FAST, name="faster"))
    for flavor, id in (("faster", "resize-1"), ("fast", "migrate-1")):
        moved = router.move(router.place("fast"), flavor, id=id, hosts_ignored=("host-7",))
        assert moved.source_pool == moved.target_pool == "ssd"
    asked = {one.id: one for _, _, one in replicas["ssd"].requests if isinstance(one, Build)}
    assert (asked["resize-1"].source, asked["resize-1"].hosts_ignored) == (HOST, ("host-7",))
    assert (asked["migrate-1"].source, asked["migrate-1"].hosts_ignored) == ("", ("host-7", HOST))


def test_a_move_whose_target_lapsed_leaves_the_source(router: Router, replicas: dict[str, FakeReplica]) -> None:
    source = router.place("fast")
    replicas["licensed"].lapsed.add("a-move-1-0")
    with pytest.raises(StateChanged, match=r"source .* in pool ssd is untouched: move again under a new id"):
        router.move(source, "windows", id="move-1")
    assert replicas["ssd"].claims == []


def test_a_move_whose_source_pool_is_down_is_finished_by_the_same_call(settings: Settings, router: Router) -> None:
    known = pools(settings)
    with fake_replica(known["licensed"]):
        with fake_replica(known["ssd"]):
            source = router.place("fast")
        with pytest.raises(
            TimedOut, match=r"move-1 stands in pool licensed, confirmed, .* move again with the id move-1"
        ):
            router.move(source, "windows", id="move-1", timeout=2)
        with fake_replica(known["ssd"]):
            moved = router.move(source, "windows", id="move-1")
    assert len(moved.released) == 1


# --- asyncio -----------------------------------------------------------------------------------------------------------


def in_loop(settings: Settings, work: Callable[[AsyncRouter], Awaitable[None]]) -> None:
    async def opened() -> None:
        async with AsyncRouter(settings) as made:
            await work(made)

    asyncio.run(opened())


def test_coroutines_get_their_decisions_from_the_pools_of_their_flavors(
    settings: Settings, replicas: dict[str, FakeReplica]
) -> None:
    async def work(router: AsyncRouter) -> None:
        builds = [router.router.request(("fast", "windows")[n % 2]) for n in range(40)]
        decisions = await asyncio.gather(*map(router.submit, builds))
        assert [decision.request for decision in decisions] == [build.id for build in builds]
        many = await router.submit_many([router.router.request(name) for name in ("windows", "none", "fast")])
        assert [type(answer).__name__ for answer in many] == ["Decision", "UsageError", "Decision"]
        with pytest.raises(UsageError, match="flavor none is unknown"):
            await router.place("none")

    in_loop(settings, work)
    assert (len(asked(replicas["ssd"])), len(asked(replicas["licensed"]))) == (21, 21)


def test_a_coroutine_confirms_moves_and_releases_across_pools(
    settings: Settings, replicas: dict[str, FakeReplica]
) -> None:
    async def work(router: AsyncRouter) -> None:
        source = await router.place("fast")
        assert [type(one).__name__ for one in await router.confirm(source, wait=True)] == ["Confirmed"]
        moved = await router.move(source, "windows")
        assert (moved.source_pool, moved.target_pool) == ("ssd", "licensed")
        (released,) = await router.release(moved.decision, wait=True)
        assert (type(released).__name__, await router.pool_of("fast")) == ("Released", "ssd")
        await router.cancel(source.request)

    in_loop(settings, work)


def test_a_pool_that_decides_nothing_holds_no_coroutine_of_another_up(settings: Settings) -> None:
    few = msgspec.structs.replace(settings, frontend=msgspec.structs.replace(settings.frontend, in_flight_max=2))

    async def work(router: AsyncRouter) -> None:
        stuck = [asyncio.create_task(router.place("windows")) for _ in range(30)]
        with fake_replica(pools(few)["ssd"]):
            decisions = await asyncio.wait_for(asyncio.gather(*(router.place("fast") for _ in range(10))), 20)
        assert {decision.result for decision in decisions} == {"placed"}
        assert not any(task.done() for task in stuck)
        for task in stuck:
            task.cancel()

    in_loop(few, work)


def test_a_router_that_is_not_open_says_how_to_open_it(settings: Settings) -> None:
    with pytest.raises(CommonplaceError, match="async with"):
        asyncio.run(AsyncRouter(settings).place("fast"))


# --- the command line ----------------------------------------------------------------------------------------------------


def test_submit_goes_to_the_flavors_pool_and_confirm_finds_it(run: Run, replicas: dict[str, FakeReplica]) -> None:
    done = run("submit", "--flavor", "windows", "--id", "order-1", "--wait")
    assert done.returncode == 0, done.stderr
    done = run("confirm", "order-1")
    assert done.returncode == 0, done.stderr
    assert asked(replicas["licensed"]) == ["order-1"]
    done = run("submit", "--flavor", "windows", "--pool", "ssd")
    assert (done.returncode, done.stdout) == (2, "")
    assert "flavor windows is placed by pool licensed, not ssd" in done.stderr
    assert run("decision", "show", "order-1", "--pool", "ssd").returncode == 2


def test_routes_are_set_listed_and_deleted(run: Run) -> None:
    done = run("route", "set", "fast", "--to", "licensed")
    assert done.returncode == 0, done.stderr
    assert "flavor fast is placed by pool licensed, ssd before" in done.stderr
    assert "warning: no replica of pool licensed is alive" in done.stderr
    (row,) = [one for one in msgspec.json.decode(run("route", "list", "-o", "json").stdout) if one["flavor"] == "fast"]
    assert row == {"flavor": "fast", "pool": "licensed", "own_pool": "ssd", "before": ["ssd"]}
    assert "flavor fast is placed by pool ssd, licensed before" in run("route", "delete", "fast").stderr
    done = run("route", "set", "fast", "--to", "licenced")
    assert (done.returncode, done.stdout) == (2, "")
    assert "pool licenced has no topics: did you mean licensed?" in done.stderr
    assert "flavor fst is unknown; the nearest known is fast" in run("route", "set", "fst", "--to", "ssd").stderr


def test_capacity_is_told_pool_by_pool(settings: Settings, run: Run) -> None:
    for pool, cpus in (("ssd", 4), ("licensed", 9)):
        Reporter(of(settings, pool)).host(f"{pool}-1", inventory={"VCPU": Inventory(total=cpus)})
    found = msgspec.json.decode(run("capacity", "--all-pools", "-o", "json").stdout)
    assert {one["pool"]: {room["flavor"]: room["fits"] for room in one["flavors"]} for one in found} == {
        "ssd": {"fast": 4},
        "licensed": {"windows": 9},
    }
    text = run("capacity", "--all-pools").stdout
    assert ("pool ssd: 1 of 1" in text, "pool licensed: 1 of 1" in text) == (True, True)
    cli.assert_one_line(run("capacity", "--all-pools", "--pool", "ssd"), 2, "exclude each other")


def decide(build: Build, partition: int, offset: int) -> list[Decision]:
    return [placed(build, partition, offset, result="no_valid_host", placed=[])]


def test_move_finds_its_source_by_what_hosts_hold_and_tells_where_it_stayed(settings: Settings, run: Run) -> None:
    Reporter(of(settings, "ssd")).host("host-9", allocation(state="active"))
    with fake_replica(pools(settings)["licensed"], decide):
        done = run("move", "r-1.0", "--flavor", "windows")
    assert done.returncode == 3, done.stderr
    assert "nothing moved: what it was asked for holds its place in pool ssd" in done.stderr
    done = run("move", "r-9", "--flavor", "windows")
    assert (done.returncode, done.stdout) == (2, "")
    assert "nothing is held under r-9" in done.stderr


@pytest.mark.parametrize("id", [(), ("--id", "move-1")])
def test_an_instance_that_no_claim_brought_is_not_moved(
    settings: Settings, run: Run, replicas: dict[str, FakeReplica], id: tuple[str, ...]
) -> None:
    Reporter(of(settings, "ssd")).host(
        "host-9", allocation("found:vm-9", "", instance="vm-9", state="active", origin="found")
    )
    done = run("move", "vm-9", "--flavor", "windows", *id)
    cli.assert_one_line(done, 2, "vm-9 was found running on host-9", "only its driver ends it", "stop it on host-9")
    assert asked(replicas["licensed"]) == []
