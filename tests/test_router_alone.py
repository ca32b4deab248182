"""What a router makes of errors on what it reads, and of decisions whose flavor went elsewhere; without a broker."""

import pytest

from commonplace.core.records.control import Flavor, Routing
from commonplace.core.records.decisions import Decision, Placed, Position
from commonplace.core.records.requests import Build
from commonplace.errors import CommonplaceError, Denied, TimedOut, TopicsNotReady, UsageError
from commonplace.frontend import Frontend, Router
from commonplace.kafka.tail import Lost
from hosts_written import allocation
from router_alone import router_alone

FAST = Flavor(name="fast", resources={"VCPU": 1}, pool="ssd")
MOVED = Routing(pools={"fast": "licensed"}, before={"fast": ("ssd",)})
DENIED = Denied("not allowed")


@pytest.mark.parametrize("error", [DENIED, TopicsNotReady("gone")])
def test_a_router_reads_control_again_after_it_could_not(
    monkeypatch: pytest.MonkeyPatch, error: CommonplaceError
) -> None:
    with router_alone(monkeypatch, FAST) as world:
        world.errors[world.control] = error
        with pytest.raises(type(error)):
            world.router.pool_of("fast")
        world.write(MOVED)
        assert world.router.pool_of("fast") == "licensed"
        with pytest.raises(UsageError, match="flavor none is unknown"):
            world.router.pool_of("none")


def test_a_router_that_cannot_read_control_to_its_end_routes_by_no_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with router_alone(monkeypatch, FAST, MOVED) as world:
        world.errors[world.control] = DENIED
        with pytest.raises(Denied):
            world.router.pool_of("fast")
        world.stalled.add(world.control)
        with pytest.raises(TimedOut, match="no end reached"):
            world.router.pool_of("fast")
        world.stalled.clear()
        assert world.router.pool_of("fast") == "licensed"


def test_a_control_topic_that_was_cut_is_read_anew_and_nobody_hears_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with router_alone(monkeypatch, FAST, MOVED) as world:
        world.logs.clear()  # made anew, without the route
        world.write(FAST)
        world.errors[world.control] = Lost(world.control, 0, 2)
        assert world.router.pool_of("fast") == "ssd"


@pytest.mark.parametrize("error", [DENIED, Lost("hosts", 0, 9)])
def test_hosts_that_could_not_be_read_are_read_anew_for_the_next_request_of_a_group(
    monkeypatch: pytest.MonkeyPatch, error: CommonplaceError
) -> None:
    with router_alone(monkeypatch, FAST) as world:
        groups = world.router._groups
        asked = Build(id="r-9", flavor="fast", group="web")
        world.host("licensed", "h1", allocation(group="web"))
        world.errors[world.hosts("licensed")] = error
        if isinstance(error, Denied):
            with pytest.raises(Denied):
                groups.enter(asked, "ssd")
        assert "group web has 1 member in pool licensed" in groups.enter(asked, "ssd")


def placed_on(host: str, name: str = "a-1", flavor: str = "fast") -> Decision:
    where = [Placed(instance="r-1.0", host=host, allocation=name, grant=Position(0, 0))]
    return Decision(request="r-1", result="placed", flavor=flavor, placed=where, position=Position(0, 0))


@pytest.mark.parametrize(("host", "pool"), [("h1", "ssd"), ("h2", "licensed"), ("both", "ssd"), ("old", "licensed")])
@pytest.mark.parametrize("gone", [True, False])
def test_a_decision_of_before_is_settled_in_the_pool_that_has_its_host(
    monkeypatch: pytest.MonkeyPatch, host: str, pool: str, gone: bool
) -> None:
    with router_alone(monkeypatch, FAST, MOVED) as world:
        world.host("ssd", "h1", allocation())
        world.host("licensed", "h2", allocation())
        world.host("licensed", "both")  # it was of that pool once
        world.host("ssd", "both", allocation())
        world.host("licensed", "old")  # it holds the allocation no more
        if gone:
            world.delete("fast")
        assert world.router.decided_in(placed_on(host)) == pool


def test_a_decision_of_before_that_no_pool_knows_is_not_sent_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    with router_alone(monkeypatch, FAST, MOVED) as world:
        world.host("ssd", "h1", allocation())
        with pytest.raises(UsageError, match=r"no pool knows h9, where request r-1 was placed: name its pool"):
            world.router.release(placed_on("h9"))


def test_a_decision_of_a_flavor_that_stayed_is_of_its_pool_and_no_host_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with router_alone(monkeypatch, FAST) as world:
        assert world.router.decided_in(placed_on("h9")) == "ssd"


def test_an_id_of_the_router_is_new_until_it_was_submitted_however_long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_for: list[bool] = []

    def admitted(_: Router, build: Build, new: bool) -> str:
        looked_for.append(not new)
        return "ssd"

    with router_alone(monkeypatch, FAST) as world:
        monkeypatch.setattr(Router, "_admit", admitted)
        monkeypatch.setattr(Router, "frontend", unavailable)
        build = world.router.request("fast")
        for _ in range(2):
            world.router.submit(build)
            world.router._placed_in.clear()  # of many, the newest are kept
    assert looked_for == [False, True]


def unavailable(_: Router, pool: str) -> Frontend:
    raise CommonplaceError(f"pool {pool} is away")
