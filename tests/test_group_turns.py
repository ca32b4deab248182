"""Groups that no single host settles: affinity and spread, decided one member after another, across takeovers (rule 8)."""

from collections.abc import Iterable
from typing import Any

import pytest

from commonplace.core import replica_events as re
from commonplace.core.codec import decode, encode
from commonplace.core.keeper_events import HostSpec
from commonplace.core.ledger import Ledger
from commonplace.core.partition import partition_of
from commonplace.core.records.control import Aggregate, HostControl
from commonplace.core.records.decisions import Decision
from commonplace.core.records.requests import Build, Cancel
from commonplace.core.request_checks import group_misuse
from commonplace.core.requests import key_misfit, request_key
from test_replica import Hand
from world import Raw, Scheduler, World, flavor, inventory


class Halting(Scheduler):
    """A scheduler that reads nothing of the topics it is `deaf` to."""

    def __init__(self, *args: Any) -> None:
        self.deaf: set[str] = set()
        super().__init__(*args)

    def _new(self, topic: str, partition: int) -> list[Raw]:
        return [] if topic in self.deaf else super()._new(topic, partition)


class Groups(World):
    """Hosts with racks, one partition of requests where nothing else is said, and schedulers that can be made deaf."""

    def __init__(
        self, racks: Iterable[str] = ("a", "a", "b", "b", "c", "c"), vcpus: int = 16, request_partitions: int = 1
    ) -> None:
        super().__init__(request_partitions=request_partitions)
        self.holding = False
        self.held: list[tuple[int, bytes | None, bytes | None]] = []  # claims that are on their way
        self.flavor(flavor("small"))
        self.flavor(flavor("large", vcpus=8))
        specs = [
            HostSpec(name=f"h{n}", inventory=inventory(vcpus), labels={"rack": rack} if rack else {})
            for n, rack in enumerate(racks)
        ]
        self.racks = {spec.name: spec.labels.get("rack", "") for spec in specs}
        self.keeper = self.agent(specs=specs).keeper
        self.settle()

    def append(self, topic: str, partition: int, key: bytes | None, value: bytes | None) -> int:
        if topic == "claims" and self.holding:
            self.held.append((partition, key, value))
            return 0
        return super().append(topic, partition, key, value)

    def agent_of(self, host: str) -> Ledger:
        """The ledger that a host's agent keeps."""
        ledger = self.keeper.hosts[host].ledger
        assert ledger is not None
        return ledger

    def halting(self, name: str = "r1", owned: Iterable[int] | None = None, **settings: Any) -> Halting:
        made = Halting(self, name, re.ReplicaSettings(request_partitions=self.request_partitions, **settings), owned)
        self.members.append(made)
        return made

    def ask(self, request: str, **fields: Any) -> None:
        self.submit(Build(**{"id": request, "flavor": "small", "group": "g", **fields}))

    def hosts_of(self, request: str) -> list[str]:
        """Where the effective decision of a request placed it; [] where it did not."""
        return [placed.host for placed in self.decisions(request)[0].placed]

    def racks_of(self, *requests: str) -> list[str]:
        return [self.racks[host] for request in requests for host in self.hosts_of(request)]


TOGETHER: dict[str, Any] = {"group_policy": "affinity"}
APART: dict[str, Any] = {"spread_over": "rack", "max_skew": 1}


# --- the key ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"group": "g", **TOGETHER}, "group/g"),
        ({"group": "g", **APART}, "group/g"),
        ({"group": "g", **APART, "group_max": 2}, "group/g"),
        ({"group": "g", "group_max": 1}, "small"),
        ({"group": "g", "group_policy": "anti-affinity", "group_max": 1}, "small"),
        ({"group": "g", "group_policy": "soft-affinity"}, "small"),
        ({"group": "g"}, "small"),
    ],
)
def test_a_request_is_keyed_by_its_group_where_no_host_can_settle_it(fields: dict[str, Any], key: str) -> None:
    assert request_key(Build(id="r", flavor="small", **fields), flavor("small")) == key


def test_every_request_and_cancel_of_a_serialised_group_has_one_key_whatever_the_flavor() -> None:
    flavors = [flavor("small"), flavor("large"), flavor("wide", spread=24)]
    keys = {request_key(Build(id=f"r{n}", flavor=f.name, group="g", **TOGETHER), f) for n in range(20) for f in flavors}
    assert keys | {request_key(Cancel(id="r1", flavor="wide", group="g"), flavors[2])} == {"group/g"}


@pytest.mark.parametrize("key", [b"small", b"small/1", b"group/h", b"g", None])
def test_a_member_under_another_key_is_refused_and_told_which(key: bytes | None) -> None:
    assert "'group/g'" in key_misfit(key, Build(id="r", flavor="small", group="g", **TOGETHER))


def test_a_group_named_like_a_spread_key_is_no_flavor() -> None:
    assert key_misfit(b"group/3", Build(id="r", flavor="small", group="3", **TOGETHER)) == ""
    assert key_misfit(b"group/3", Build(id="r", flavor="group")) == ""
    assert key_misfit(b"group/3", Build(id="r", flavor="small"))


def test_a_member_that_stands_under_its_flavor_is_answered_with_what_to_do() -> None:
    hand = Hand("h0")
    raw = hand._raw("requests", b"small", encode(Build(id="a", flavor="small", group="g", **TOGETHER)))
    hand.receive(re.RequestsRead(0, [raw]))
    hand.receive(re.HistoryRead(0))
    (decision,) = hand.decisions("a")
    assert (decision.result, decision.reason) == ("rejected", "invalid")
    assert "'group/g'" in decision.message


def test_a_group_on_a_partition_that_is_not_its_own_is_refused_because_it_would_have_two_owners() -> None:
    home = partition_of("group/g", 2)
    hand = Hand("h0", request_partitions=2)
    hand.own(1 - home)
    hand.receive(re.HistoryRead(1 - home))
    hand.request(Build(id="a", flavor="small", group="g", **TOGETHER), partition=1 - home)
    (decision,) = hand.decisions("a")
    assert (decision.result, decision.reason) == ("rejected", "invalid")
    assert f"partition {home}" in decision.message


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"max_skew": 1, "group": "g"}, "without spread_over"),
        ({"spread_over": "rack", "group": "g"}, "without max_skew"),
        (APART, "no group is named"),
        ({"group": "g", **APART, **TOGETHER}, "drop one of the two"),
        (TOGETHER, "name the group"),
    ],
)
def test_a_group_that_cannot_be_is_refused_before_any_host_is_looked_at(fields: dict[str, Any], says: str) -> None:
    assert says in group_misuse(Build(id="r", flavor="small", **fields))


# --- one after another ------------------------------------------------------------------------------------------------


def claims_of(world: World) -> list[str]:
    """The requests that were claimed for, in order."""
    found = [decode("claims", value) for p in range(world.partitions) for *_, value in world.log["claims", p] if value]
    return [claim.request for claim in found if claim.allocations]


def test_the_next_member_is_ranked_once_the_decision_before_it_was_read_back() -> None:
    world = Groups()
    scheduler = world.halting()
    scheduler.deaf = {"decisions"}
    for n in range(3):
        world.ask(f"m{n}", **TOGETHER)
    world.ask("other", group="h", **TOGETHER)
    world.settle()
    assert sorted(claims_of(world)) == ["m0", "other"]
    assert world.decisions("m0")
    scheduler.deaf = set()
    world.settle()
    assert len({host for n in range(3) for host in world.hosts_of(f"m{n}")}) == 1


def test_members_of_every_flavor_stay_together_and_a_full_host_refuses_the_next_with_the_reason() -> None:
    world = Groups()
    world.scheduler()
    for n in range(4):
        world.ask(f"m{n}", flavor="large" if n % 2 else "small", **TOGETHER)
    world.settle()
    assert [decision.result for n in range(4) for decision in world.decisions(f"m{n}")] == ["placed"] * 3 + [
        "no_valid_host"
    ]
    assert len({host for n in range(3) for host in world.hosts_of(f"m{n}")}) == 1
    (refused,) = world.decisions("m3")
    assert refused.explanation is not None
    assert refused.explanation.filters["server_group_affinity"] == 5


def test_a_member_that_expires_or_is_cancelled_in_line_holds_nobody_up() -> None:
    world = Groups()
    scheduler = world.halting()
    scheduler.deaf = {"decisions"}
    world.ask("m0", **TOGETHER)
    world.ask("m1", deadline_ms=1_000, **TOGETHER)
    world.ask("m2", **TOGETHER)
    world.ask("m3", **TOGETHER)
    world.settle()
    world.now += 2_000
    world.append("requests", 0, b"group/g", encode(Cancel(id="m2", flavor="small", group="g")))
    world.settle()
    assert sorted(claims_of(world)) == ["m0"]
    scheduler.deaf = set()
    world.settle()
    assert [world.decisions(f"m{n}")[0].result for n in range(4)] == ["placed", "expired", "rejected", "placed"]
    assert world.hosts_of("m3") == world.hosts_of("m0")


def test_a_line_too_long_is_refused_as_overloaded() -> None:
    world = Groups()
    scheduler = world.halting(queue_max=3)
    scheduler.deaf = {"decisions"}
    for n in range(5):
        world.ask(f"m{n}", **TOGETHER)
    world.settle()
    assert [d.reason for n in (3, 4) for d in world.decisions(f"m{n}")] == ["overloaded", "overloaded"]


# --- takeovers --------------------------------------------------------------------------------------------------------


def owner_gone(world: World, scheduler: Scheduler) -> None:
    """The owner stops; what it wrote stands."""
    world.members.remove(scheduler)


def test_a_takeover_between_decision_and_read_back_joins_what_the_old_owner_decided() -> None:
    world = Groups()
    old = world.halting("old")
    old.deaf = {"decisions"}
    world.ask("m0", **TOGETHER)
    world.ask("m1", **TOGETHER)
    world.settle()
    owner_gone(world, old)
    assert [world.decisions("m0")[0].result, world.decisions("m1")] == ["placed", []]
    world.committed.clear()  # it died before it committed
    world.halting("new")
    world.settle()
    assert world.hosts_of("m1") == world.hosts_of("m0")


def test_what_a_zombie_claimed_for_a_decision_that_came_too_late_is_no_member_of_the_group() -> None:
    world = Groups(racks=("a", "b"))
    old = world.halting("old")
    world.ask("m0", **TOGETHER)
    world.holding = True
    old.step()  # its claim is on its way when it stands still
    world.holding = False
    owner_gone(world, old)
    ((_, key, claim),) = world.held
    zombie = (key or b"").decode()
    world.append("control", 0, f"host/{zombie}".encode(), encode(HostControl(name=zombie, status="disabled")))
    new = world.halting("new", mode="fits")  # in which no hash tells that the zombie's is about to go
    new.deaf = {"decisions"}
    world.settle()
    (first,) = world.hosts_of("m0")
    assert first != zombie
    world.append("control", 0, f"host/{zombie}".encode(), None)
    world.append("claims", partition_of(zombie, world.partitions), key, claim)  # and now it arrives, and is granted
    world.settle()
    assert [len(world.agent_of(host).allocations) for host in ("h0", "h1")] == [1, 1]
    world.ask("m1", **TOGETHER)
    world.append("control", 0, f"host/{first}".encode(), encode(HostControl(name=first, status="disabled")))
    new.deaf = set()
    world.settle()
    assert [d.result for d in world.decisions("m1")] == ["no_valid_host"]


def test_a_new_owner_ranks_no_member_before_it_has_folded_the_grants_that_decisions_name() -> None:
    world = Groups()
    old = world.halting("old")
    new = world.halting("new", owned=())
    new.deaf = {"hosts"}  # alive, caught up, and behind
    world.ask("m0", **TOGETHER)
    world.settle()
    owner_gone(world, old)
    world.ask("m1", **TOGETHER)
    new.owned = [0]
    new.own(0)
    world.settle()
    assert claims_of(world) == ["m0"]
    new.deaf = set()
    world.settle()
    assert world.hosts_of("m1") == world.hosts_of("m0")


def test_a_lost_partition_takes_its_lines_along_and_leaves_the_others() -> None:
    world = Groups()
    scheduler = world.halting()
    scheduler.deaf = {"decisions"}
    world.ask("m0", **TOGETHER)
    world.ask("m1", **TOGETHER)
    world.settle()
    assert scheduler.replica.book.turns.waiting == 2
    scheduler.receive(re.Lost(0))
    assert scheduler.replica.book.turns.waiting == 0
    scheduler.deaf = set()
    scheduler.own(0)
    world.settle()
    assert world.hosts_of("m1") == world.hosts_of("m0")


# --- spread -----------------------------------------------------------------------------------------------------------


def test_members_are_spread_over_the_values_of_a_label_within_the_skew() -> None:
    world = Groups()
    world.scheduler()
    for n in range(9):
        world.ask(f"m{n}", **APART)
    world.settle()
    seen: list[str] = []
    for n in range(9):
        seen += world.racks_of(f"m{n}")
        counts = [seen.count(rack) for rack in "abc"]
        assert max(counts) - min(counts) <= 1, seen


def test_a_spread_of_one_request_is_kept_whatever_its_claims_meet() -> None:
    world = Groups()
    world.scheduler()
    world.ask("m0", count=8, **APART)
    world.settle()
    racks = world.racks_of("m0")
    assert sorted(racks.count(rack) for rack in "abc") == [2, 3, 3]


def test_a_full_rack_holds_the_others_back_and_the_refusal_says_so() -> None:
    world = Groups(racks=("a", "b"), vcpus=2)
    world.scheduler()
    world.submit(Build(id="full", flavor="small", count=2, hints={"query": ('["=", "$host", "h1"]',)}))
    world.settle()
    world.ask("m0", **APART)
    world.ask("m1", **APART)
    world.settle()
    assert world.racks_of("m0") == ["a"]
    (refused,) = world.decisions("m1")
    assert refused.result == "no_valid_host"
    assert refused.explanation is not None
    assert refused.explanation.filters == {"capacity": 1, "spread_over": 1}
    assert refused.explanation.closest is not None
    assert "rack a has 1 of the group and another 0" in refused.explanation.closest.detail


def test_a_value_whose_hosts_the_request_cannot_have_is_no_place_to_spread_to() -> None:
    world = Groups(racks=("a", "b", "c", ""))
    world.append("control", 0, b"host/h2", encode(HostControl(name="h2", status="disabled")))
    world.append("control", 0, b"aggregate/west", encode(Aggregate(name="west", hosts=("h0", "h1", "h2", "h3"))))
    world.scheduler()
    for n in range(4):
        world.ask(f"m{n}", member_of=("west",), **APART)
    world.settle()
    assert sorted(world.racks_of(*(f"m{n}" for n in range(4)))) == ["a", "a", "b", "b"]


def test_a_zone_is_that_of_the_aggregates() -> None:
    world = Groups(racks=("a", "b"))
    world.append("control", 0, b"aggregate/east", encode(Aggregate(name="east", hosts=("h0",), zone="z1")))
    world.scheduler()
    world.ask("m0", spread_over="zone", max_skew=1)
    world.ask("m1", spread_over="zone", max_skew=1)
    world.settle()
    assert sorted(world.hosts_of("m0") + world.hosts_of("m1")) == ["h0", "h1"]


def test_a_spread_takes_a_limit_a_host_besides() -> None:
    world = Groups()
    world.scheduler()
    for n in range(6):
        world.ask(f"m{n}", group_max=1, **APART)
    world.settle()
    assert len({host for n in range(6) for host in world.hosts_of(f"m{n}")}) == 6


def test_an_instance_that_moves_does_not_hold_itself_to_its_host() -> None:
    world = Groups(racks=("a", "b"))
    world.scheduler()
    world.ask("m0", instances=("i-1",), **TOGETHER)
    world.settle()
    (first,) = world.hosts_of("m0")
    world.ask("m1", instances=("i-1",), hosts_ignored=(first,), **TOGETHER)
    world.settle()
    assert world.hosts_of("m1") != [first]
    assert isinstance(world.decisions("m1")[0], Decision)


def test_an_id_that_another_request_used_under_its_flavor_takes_nothing_of_that_one_up() -> None:
    world = Groups(request_partitions=2)
    group = next(f"g{n}" for n in range(9) if partition_of(f"group/g{n}", 2) != partition_of("small", 2))
    world.submit(Build(id="m0", flavor="small"))
    one = world.halting("one", owned=[partition_of("small", 2)])
    world.settle()
    (first,) = world.decisions("m0")
    world.ask("m0", group=group, count=2, **TOGETHER)
    owner_gone(world, one)
    world.halting("two", owned=[partition_of(f"group/{group}", 2)])  # which reads nothing of the other partition
    world.settle()
    other = next(decision for decision in world.decisions("m0") if decision.group == group)
    assert not {p.allocation for p in other.placed} & {p.allocation for p in first.placed}
    held = world.agent_of(first.placed[0].host).allocations
    assert first.placed[0].allocation in held, "the other request's allocation was released as a loser"


def test_a_spread_taken_over_half_way_is_placed_anew_and_what_was_held_is_given_back() -> None:
    world = Groups()
    old = world.halting("old")
    world.ask("m0", count=2, **APART)
    old.step()
    owner_gone(world, old)
    world.settle()
    assert claims_of(world) == ["m0"]  # the second instance was to come after the first
    world.halting("new")
    world.settle()
    assert len(set(world.racks_of("m0"))) == 2
    assert sum(len(world.agent_of(host).allocations) for host in world.racks) == 2


def test_a_refusal_names_the_group_so_that_another_request_of_its_id_is_told_apart() -> None:
    world = Groups()
    world.scheduler(queue_max=0)
    world.ask("m0", **TOGETHER)
    world.settle()
    (refused,) = world.decisions("m0")
    assert (refused.reason, refused.group) == ("overloaded", "g")
