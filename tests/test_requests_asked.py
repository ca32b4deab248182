"""What a request may say besides flavor and place: in part, with others to try, without a disk, first, or for an instance that moves."""

from typing import Any

import pytest
from msgspec.structs import replace

from commonplace.core import replica_events as re
from commonplace.core.codec import decode
from commonplace.core.ledger_events import Configure
from commonplace.core.records.decisions import Decision
from commonplace.core.records.requests import Build
from commonplace.core.request_checks import count_misuse
from test_replica import Hand
from world import Agent, World, flavor


def world(hosts: int = 3, **flavors: Any) -> World:
    """Hosts of 16 VCPUs, flavors of 1 and of 8."""
    made = World(request_partitions=1)
    made.flavor(flavor("small"))
    made.flavor(flavor("large", vcpus=8))
    made.agent(*(f"h{n}" for n in range(hosts)))
    made.settle()
    made.scheduler(**flavors)
    return made


def ask(made: World, request: str, **fields: Any) -> Decision:
    made.submit(Build(**{"id": request, "flavor": "small", **fields}))
    made.settle()
    return made.decisions(request)[0]


def held(made: World) -> int:
    """Allocations on all hosts."""
    agent = made.members[0]
    assert isinstance(agent, Agent)
    return sum(len(kept.ledger.allocations) for kept in agent.keeper.hosts.values() if kept.ledger)


# --- multi-create -----------------------------------------------------------------------------------------------------


def test_all_or_nothing_gives_back_what_it_got() -> None:
    made = world()
    assert ask(made, "a", flavor="large", count=7).result == "no_valid_host"
    assert held(made) == 0


def test_a_part_is_placed_where_that_is_asked_for() -> None:
    made = world()
    decision = ask(made, "a", flavor="large", count=9, count_min=4)
    assert (decision.result, decision.count, len(decision.placed)) == ("placed", 9, 6)
    assert len({placed.index for placed in decision.placed}) == 6
    assert held(made) == 6


def test_less_than_the_part_asked_for_is_nothing() -> None:
    made = world()
    assert ask(made, "a", flavor="large", count=9, count_min=7).result == "no_valid_host"
    assert held(made) == 0


def test_all_are_placed_where_they_fit_though_a_part_would_do() -> None:
    assert len(ask(world(), "a", count=9, count_min=1).placed) == 9


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"count": 2, "count_min": 3}, "raise the count, or lower count_min"),
        ({"count": 3, "count_min": 2, "group": "g", "spread_over": "rack", "max_skew": 1}, "drop one of the two"),
    ],
)
def test_a_part_that_cannot_be_is_refused(fields: dict[str, Any], says: str) -> None:
    assert says in count_misuse(Build(id="r", flavor="small", **fields))


# --- alternates -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{}, {"zone": "default"}])
def test_alternates_are_other_hosts_that_pass_and_nothing_is_claimed_on_them(fields: dict[str, Any]) -> None:
    made = world(hosts=5)
    ask(made, "full", flavor="large", count=2, host="h4")
    decision = ask(made, "a", flavor="large", count=2, group="g", group_max=1, alternates=4, **fields)
    chosen = {placed.host for placed in decision.placed}
    assert sorted({*chosen, *decision.alternates}) == ["h0", "h1", "h2", "h3"]
    assert len(decision.alternates) == 2
    assert held(made) == 4


def test_no_alternates_are_named_unasked_or_for_a_demanded_host() -> None:
    made = world()
    assert ask(made, "a").alternates == ()
    assert ask(made, "b", host="h1", alternates=3).alternates == ()


# --- where to ---------------------------------------------------------------------------------------------------------


def test_a_requested_destination_is_kept_to_and_its_refusal_says_so() -> None:
    made = world()
    assert ask(made, "a", host="h2").placed[0].host == "h2"
    refused = ask(made, "b", zone="nowhere")
    assert refused.result != "placed"
    assert "nowhere" in refused.message or refused.explanation is not None


def test_ignored_hosts_are_left_out() -> None:
    made = world()
    assert {ask(made, f"a{n}", hosts_ignored=("h0", "h1")).placed[0].host for n in range(4)} == {"h2"}


# --- boot from volume -------------------------------------------------------------------------------------------------


def test_an_instance_on_a_volume_takes_no_disk_of_the_host() -> None:
    made = world(hosts=1)
    made.flavor(flavor("wide", disk_gb=5_000))
    assert ask(made, "a", flavor="wide").result != "placed"
    decision = ask(made, "b", flavor="wide", boot_from_volume=True)
    assert decision.result == "placed"
    assert decision.resources == {"VCPU": 1, "MEMORY_MB": 1024}


# --- priority, deadline -----------------------------------------------------------------------------------------------


def test_of_what_waits_together_the_highest_priority_is_ranked_first() -> None:
    hand = Hand("h0")
    claims = hand.claims(*(Build(id=f"p{p}-{n}", flavor="small", priority=p) for n in range(2) for p in (0, 50, 9)))
    assert [decode("claims", claim.value).request for claim in claims] == [
        "p50-0",
        "p50-1",
        "p9-0",
        "p9-1",
        "p0-0",
        "p0-1",
    ]


def test_a_request_past_its_deadline_expires() -> None:
    hand = Hand("h0")
    hand.request(Build(id="a", flavor="small", deadline_ms=500), age_ms=0)
    hand.tick(1_000)
    assert [decision.result for decision in hand.decisions("a")] == ["expired"]


# --- resize and move --------------------------------------------------------------------------------------------------


def test_a_move_holds_the_target_before_the_source_is_given_back() -> None:
    made = world(hosts=2)
    first = ask(made, "a", instances=("i-1",), group="g", group_max=1)
    moved = ask(made, "b", instances=("i-1",), group="g", group_max=1, hosts_ignored=(first.placed[0].host,))
    assert moved.result == "placed"
    assert held(made) == 2


@pytest.mark.parametrize("fields", [{"group_max": 1}, {"group_max": 1, "zone": "default"}])
def test_an_instance_that_grows_where_it_stands_does_not_count_for_its_group(fields: dict[str, Any]) -> None:
    made = world(hosts=1)
    ask(made, "a", instances=("i-1",), group="g", **fields)
    assert ask(made, "b", flavor="large", instances=("i-1",), group="g", **fields).result == "placed"
    assert ask(made, "c", instances=("i-2",), group="g", **fields).result == "no_valid_host"
    assert ask(made, "d", instances=("i-1",), group="g", project="other", **fields).result == "no_valid_host"


def test_a_request_claimed_for_twice_makes_no_room_for_itself_in_its_group() -> None:
    hand = Hand("h0")
    (sent,) = hand.claims(Build(id="a", flavor="small", group="g", group_max=1))
    hand.take(sent)
    claim = decode("claims", sent.value)
    twin = replace(claim, mode="fits", allocations=[replace(claim.allocations[0], id="other-1")])
    assert hand.ledgers["h0"]._refusal(twin) == ("constraint", "group g is full")


# --- rebuild ----------------------------------------------------------------------------------------------------------


class Image(Hand):
    """A host that runs one kind of image, and is full."""

    def __init__(self) -> None:
        super().__init__("h0", vcpus=1)
        self.ledgers["h0"].receive(Configure(labels={"supported_instances": "x86_64:kvm:hvm"}), self.now)
        self.report("h0")
        self.grant(*self.claims(Build(id="there", flavor="small", instances=("i-1",))))

    def check(self, architecture: str, host: str = "h0") -> Decision:
        properties = {"hw_architecture": architecture}
        build = Build(
            id=f"check-{architecture}-{host}",
            flavor="small",
            host=host,
            rebuild_check=True,
            image_properties=properties,
        )
        before = len(self.sent)
        self.request(build)
        assert not [effect for effect in self.turn() if isinstance(effect, re.SendClaim)]
        assert not [effect for effect in self.sent[before:] if isinstance(effect, re.SendClaim)]
        return self.decisions(build.id)[0]


def test_a_rebuild_is_checked_without_an_allocation_on_a_host_that_has_no_room() -> None:
    fleet = Image()
    assert fleet.check("x86_64").result == "passed"
    refused = fleet.check("aarch64")
    assert (refused.result, refused.reason) == ("no_valid_host", "rebuild_check")
    assert refused.message == "host h0 does not run aarch64"
    assert len(fleet.ledgers["h0"].allocations) == 1


def test_a_check_of_no_host_is_refused() -> None:
    assert "name the host" in count_misuse(Build(id="r", flavor="small", rebuild_check=True))
    assert Image().check("x86_64", "h9").result in ("no_valid_host", "rejected")
