"""Requests that call for filters of their own, through a whole replica: what is claimed, what is refused, and what rides on the claim."""

from typing import Any

import pytest
from msgspec.structs import replace

from commonplace.core import deciding, filter_table, request_filters
from commonplace.core import replica_events as re
from commonplace.core.codec import decode, encode
from commonplace.core.ledger_events import Configure
from commonplace.core.records.claims import Claim
from commonplace.core.records.control import Aggregate, Flavor, Profile
from commonplace.core.records.decisions import Decision
from commonplace.core.records.requests import Build
from commonplace.core.request_checks import likeness
from commonplace.core.resources import Inventory
from commonplace.core.rows import Row
from commonplace.core.rules import Wishes
from commonplace.core.view import View
from test_replica import Hand
from world import flavor

INVENTORY = {"VCPU": Inventory(total=8), "MEMORY_MB": Inventory(total=65_536), "DISK_GB": Inventory(total=999)}


class Place(Hand):
    """A replica whose hosts bear labels."""

    def label(self, host: str, **labels: str) -> None:
        self.ledgers[host].receive(Configure(inventory=INVENTORY, labels=labels), self.now)
        self.report(host)

    def say(self, record: Flavor | Profile | Aggregate) -> None:
        """An operator's word."""
        key = f"{type(record).__name__.lower()}/{record.name}".encode()
        self.receive(re.ControlRead([self._raw("control", key, encode(record))]))

    def claim(self, **fields: Any) -> Claim:
        """The claim for a request, which is granted."""
        (sent,) = self.claims(Build(id=f"r-{self.offsets['requests']}", flavor="small", **fields))
        self.grant(sent)
        found = decode("claims", sent.value)
        assert isinstance(found, Claim)
        return found

    def refused(self, **fields: Any) -> Decision:
        """The refusal of a request."""
        request = f"r-{self.offsets['requests']}"
        assert self.claims(Build(id=request, flavor="small", **fields)) == []
        (decision,) = self.decisions(request)
        assert decision.result != "placed"
        return decision


@pytest.fixture
def place() -> Place:
    made = Place("h1", "h2", "h3")
    for host, zone in (("h1", "z1"), ("h2", "z2"), ("h3", "z2")):
        made.label(host, zone=zone)
    return made


def test_a_zone_is_kept_and_a_zone_without_hosts_is_explained(place: Place) -> None:
    assert place.claim(zone="z1").host == "h1"
    refusal = place.refused(zone="z9")
    assert refusal.result == "no_valid_host"
    assert refusal.explanation is not None
    assert refusal.explanation.filters == {"availability_zone": 3}
    assert refusal.explanation.closest is not None
    assert refusal.explanation.closest.detail.startswith("is in zone z")


def test_a_refusal_has_a_sample_for_each_filter_and_the_positions_it_was_made_at(place: Place) -> None:
    place.ledgers["h1"].receive(Configure(status="draining"), place.now)
    place.report("h1")
    told = place.refused(zone="z1", traits_forbidden=("CUSTOM_A",)).explanation
    assert told is not None
    assert told.filters == {"status": 1, "availability_zone": 2}
    assert [(one.filter, one.host, one.detail) for one in told.samples] == [
        ("status", "h1", "draining"),
        ("availability_zone", "h2", "is in zone z2"),
    ]
    assert told.positions == {str(partition): offset for partition, offset in place.replica.folded.items()} != {}


def test_a_placement_explains_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("worked out for a placement")

    for name in ("explain", "impossible"):
        monkeypatch.setattr(deciding, name, never)
    assert place.claim(zone="z1").host == "h1"
    with pytest.raises(AssertionError, match="worked out"):
        place.refused(zone="z9")


def test_a_zone_follows_the_aggregates_while_running(place: Place) -> None:
    place.say(Aggregate(name="east", hosts=("h3",), zone="z9"))
    assert place.claim(zone="z9").host == "h3"
    place.say(Aggregate(name="east", hosts=("h2",), zone="z9"))
    assert place.claim(zone="z9").host == "h2"


def test_a_demanded_host_is_claimed_and_a_full_one_says_what_it_lacks(place: Place) -> None:
    place.say(Profile(name="default", weighers={"cpu": 1.0}, builds_max=0))
    assert [place.claim(host="h2").host for _ in range(8)] == ["h2"] * 8
    refusal = place.refused(host="h2")
    assert refusal.explanation is not None
    assert refusal.explanation.filters == {"capacity": 1, "requested_host": 2}
    assert refusal.explanation.without == {"capacity": 1, "requested_host": 2}


def test_affinity_joins_the_host_of_the_group(place: Place) -> None:
    first = place.claim(group="g", group_policy="affinity").host
    for _ in range(4):
        place.read_back(place.decisions()[-1])
        assert place.claim(group="g", group_policy="affinity").host == first


def test_affinity_of_one_request_counts_its_own_pending_claims(place: Place) -> None:
    claims = place.claims(Build(id="r-1", flavor="small", count=4, group="g", group_policy="affinity"))
    assert len({decode("claims", claim.value).host for claim in claims}) == 1


def test_soft_anti_affinity_spreads_while_it_can_and_then_does_not_refuse(place: Place) -> None:
    place.say(Profile(name="default", weighers={"server_group_soft_anti_affinity": 10.0, "cpu": 1.0}))
    hosts = [place.claim(group="g", group_policy="soft-anti-affinity").host for _ in range(5)]
    assert set(hosts[:3]) == {"h1", "h2", "h3"}


ONE_HOST: dict[str, Any] = {"group_policy": "affinity"}
APART: dict[str, Any] = {"group_max": 1}


@pytest.mark.parametrize(
    ("first", "then", "says"),
    [
        (ONE_HOST, APART, "group g is placed by affinity (r-0.0 on h"),
        (APART, ONE_HOST, "group g is placed by anti-affinity (r-0.0 on h"),
        (APART, {"group_policy": "soft-affinity"}, "this request says soft-affinity: keep to the policy, or name another group"),
    ],
)  # fmt: skip
def test_a_group_that_changes_its_policy_is_refused_with_a_member_and_what_to_do(
    place: Place, first: dict[str, Any], then: dict[str, Any], says: str
) -> None:
    place.claim(group="g", **first)
    place.read_back(place.decisions()[-1])
    place.request(Build(id="changed", flavor="small", group="g", **then))
    (refusal,) = place.decisions("changed")
    assert (refusal.result, refusal.reason) == ("rejected", "invalid")
    assert says in refusal.message


def test_a_group_keeps_its_policy_and_members_without_one_are_welcome(place: Place) -> None:
    place.claim(group="g", group_max=1)
    place.claim(group="g", group_max=2, group_policy="anti-affinity")
    place.claim(group="g")
    place.claim(group="g2", group_policy="affinity")


def test_limits_of_aggregates_ride_on_the_claim(place: Place) -> None:
    place.say(
        Profile(name="default", filters=("aggregate_io_ops", "aggregate_num_instances"), builds_max=9, instances_max=9)
    )
    place.say(
        Aggregate(name="busy", hosts=("h1",), metadata={"max_io_ops_per_host": "2", "max_instances_per_host": "3"})
    )
    one, other = place.claim(host="h1"), place.claim(host="h2")
    assert (one.builds_max, one.instances_max) == (2, 3)
    assert (other.builds_max, other.instances_max) == (9, 9)
    place.claim(host="h1")
    refusal = place.refused(host="h1")
    assert refusal.explanation is not None
    assert refusal.explanation.filters == {"requested_host": 2, "aggregate_io_ops": 1}


def test_the_image_rides_on_the_claim_only_where_the_profile_weighs_by_it(place: Place) -> None:
    properties = {"os": "debian", "arch": "x86"}
    assert place.claim(image_properties=properties).allocations[0].image == ()
    place.say(Profile(name="default", weighers={"image_properties": 1.0}))
    first = place.claim(image_properties=properties)
    assert first.allocations[0].image == ("arch=x86", "os=debian")
    assert place.claim(image_properties={"os": "debian"}).host == first.host


def test_the_nova_profile_places_through_the_whole_loop(place: Place) -> None:
    hosts = [place.claim(profile="nova").host for _ in range(6)]
    assert {hosts.count(host) for host in ("h1", "h2", "h3")} == {2}


def test_a_request_that_cannot_be_is_rejected_as_invalid(place: Place) -> None:
    refusal = place.refused(host="h1", hosts_ignored=("h1",))
    assert (refusal.result, refusal.reason) == ("rejected", "invalid")
    assert "both demanded and ignored" in refusal.message


def test_a_refusal_for_one_request_says_nothing_of_the_next_in_the_same_turn(place: Place) -> None:
    place.request(Build(id="r-1", flavor="small", zone="z9"), Build(id="r-2", flavor="small", zone="z1"))
    sent = [effect for effect in place.turn() if isinstance(effect, re.SendClaim)]
    assert [decode("claims", claim.value).request for claim in sent] == ["r-2"]
    assert [decision.request for decision in place.decisions()] == ["r-1"]


def test_flavors_of_two_specs_share_no_ranking(place: Place) -> None:
    small = flavor("small")
    place.say(Flavor(name="small", resources=small.resources, extra_specs={"zone": "z1"}))
    assert place.claim().host == "h1"
    place.say(Flavor(name="small", resources=small.resources, extra_specs={"zone": "<or> z2 <or> z3"}))
    assert place.claim().host in ("h2", "h3")


def test_a_crowd_of_requests_alike_that_fit_nowhere_is_looked_at_once(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    plain = request_filters.availability_zone

    def counted(view: View, row: Row, wishes: Wishes) -> str:
        asked.append(wishes.build.id)
        return plain(view, row, wishes)

    one = next(one for one in filter_table.ALWAYS if one.name == "availability_zone")
    monkeypatch.setattr(one, "plain", counted)
    place.request(*(Build(id=f"r-{i}", flavor="small", zone="z9", count=1 + i % 2) for i in range(50)))
    place.turn()
    assert len(place.decisions()) == 50
    assert all(one.explanation == place.decisions()[0].explanation for one in place.decisions())
    assert set(asked) == {"r-0"}
    place.request(Build(id="r-50", flavor="small", zone="z8"))
    place.turn()
    assert asked[-1] == "r-50"


@pytest.mark.parametrize(
    ("change", "alike"),
    [
        ({"id": "r-2"}, True), ({"user": "ada"}, False), ({"count": 3}, True), ({"deadline_ms": 5}, True), ({"instances": ("i",)}, True),
        ({"zone": "z2"}, False), ({"project": "blue"}, False), ({"hints": {"query": ("[]",)}}, False), ({"group": "h"}, False),
        ({"host": "h1"}, False), ({"image": "i"}, False), ({"traits_any_of": (("CUSTOM_A",),)}, False), ({"cell": "c"}, False),
    ],
)  # fmt: skip
def test_requests_are_alike_where_no_filter_tells_them_apart(change: dict[str, Any], alike: bool) -> None:
    build = Build(id="r-1", flavor="small", zone="z1")
    assert (likeness(replace(build, **change)) == likeness(build)) is alike


def test_instances_of_a_group_are_not_alike_because_they_do_not_count_for_themselves() -> None:
    builds = [Build(id="r", flavor="small", group="g", instances=(name,)) for name in ("i-1", "i-2")]
    assert likeness(builds[0]) != likeness(builds[1])


def test_traits_any_of_ride_on_the_claim_and_a_host_that_lost_them_refuses(place: Place) -> None:
    place.ledgers["h1"].receive(Configure(traits=("CUSTOM_SSD",)), place.now)
    place.report("h1")
    (sent,) = place.claims(Build(id="r-1", flavor="small", traits_any_of=(("CUSTOM_SSD", "CUSTOM_NVME"),)))
    claim = decode("claims", sent.value)
    assert (claim.host, claim.traits_any_of) == ("h1", (("CUSTOM_SSD", "CUSTOM_NVME"),))
    place.ledgers["h1"].receive(Configure(traits=("CUSTOM_HDD",)), place.now)  # and no report was folded yet
    place.take(sent)
    (settled,) = place.ledgers["h1"].settled
    assert (settled.verdict, settled.reason) == ("rejected", "constraint")
    assert settled.detail == "has none of CUSTOM_SSD, CUSTOM_NVME"


def test_an_image_is_not_claimed_for_on_a_host_that_changed_since_it_was_ranked_also_where_no_state_hash_is_compared() -> (
    None
):
    place = Place("h1", mode="fits")
    place.label("h1", supported_instances="x86_64:kvm:hvm")
    asked: dict[str, Any] = {"image_properties": {"hw_architecture": "x86_64"}}
    one, other = place.claims(Build(id="r-1", flavor="small", **asked), Build(id="r-2", flavor="small"))
    assert decode("claims", one.value).host_hash
    assert decode("claims", other.value).host_hash == ""
    place.ledgers["h1"].receive(Configure(labels={"supported_instances": "aarch64:kvm:hvm"}), place.now)
    place.take(one, other)
    assert [(entry.verdict, entry.reason) for entry in place.ledgers["h1"].settled] == [
        ("rejected", "stale"),
        ("granted", ""),
    ]
    place.report("h1")
    place.turn()
    assert {d.request: d.result for d in place.decisions()} == {"r-1": "no_valid_host", "r-2": "placed"}
