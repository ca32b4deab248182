"""Groups under races, with real processes: what one host may have of a group is settled by the host, whoever decides."""

import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from commonplace.core.records.control import Flavor, Profile
from e2e_world import SETTINGS, World
from kafka_fixtures import KafkaUnderTest, skip_or_fail

pytestmark = [pytest.mark.real_kafka, pytest.mark.timeout(300)]

HOSTS = 64
REPLICAS = ("r1", "r2", "r3", "r4")
FREE = Profile(name="free", builds_max=0, instances_max=0)
# a claim that is given up for another host while its grant is under way holds two hosts of sixty-four
PATIENT = replace(SETTINGS, scheduler=replace(SETTINGS.scheduler, claim_timeout_ms=30_000, lease_ms=120_000))
SPREAD = Flavor(name="wide", resources={"VCPU": 1, "MEMORY_MB": 512}, profile="free", spread=24)


@pytest.fixture(scope="module")
def fleet(kafka: KafkaUnderTest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Sixty-four hosts and four replicas, for all tests."""
    if not kafka.real:
        skip_or_fail(f"end-to-end tests need Apache Kafka: {kafka.why_not_real}")
    prefix, work_dir = f"groups-{uuid.uuid4().hex[:8]}", Path(tmp_path_factory.mktemp("stack"))
    world = World(
        kafka.bootstrap,
        prefix,
        work_dir,
        hosts=HOSTS,
        replicas=len(REPLICAS),
        flavors=[SPREAD],
        profiles=[FREE],
        settings=PATIENT,
    )
    yield world
    world.close()


def test_one_group_at_once_through_four_replicas_has_one_member_on_each_host_and_the_next_is_refused(
    fleet: World,
) -> None:
    fleet.await_share(*REPLICAS)
    fleet.await_rest(*REPLICAS)
    decisions = fleet.answered(fleet.submit(HOSTS, group="g", group_max=1))
    assert [(d.result, d.reason, d.message, d.explanation) for d in decisions if d.result != "placed"] == []
    assert len({decision.placed[0].host for decision in decisions}) == HOSTS
    assert len({decision.replica for decision in decisions}) >= 2
    assert len(keys_of(fleet, "g")) > 1  # by the flavor's spread, not by the group

    (refused,) = fleet.answered(fleet.submit(1, group="g", group_max=1))
    assert refused.result == "no_valid_host"
    assert refused.explanation is not None
    assert refused.explanation.filters == {"group": HOSTS}
    assert refused.explanation.closest is not None
    assert "as many as allowed" in refused.explanation.closest.detail
    fleet.release_all()
    fleet.check()


def test_one_more_at_once_than_there_are_hosts_is_one_refused_with_the_reason(fleet: World) -> None:
    fleet.await_share(*REPLICAS)
    fleet.await_rest(*REPLICAS)
    decisions = fleet.answered(fleet.submit(HOSTS + 1, group="h", group_max=1))
    (refused,) = [decision for decision in decisions if decision.result != "placed"]
    assert (refused.result, refused.explanation and refused.explanation.filters) == ("no_valid_host", {"group": HOSTS})
    assert len({decision.placed[0].host for decision in decisions if decision.placed}) == HOSTS
    fleet.release_all()
    fleet.check()


def keys_of(world: World, group: str) -> set[bytes | None]:
    """The keys under which members of a group stand on `requests`."""
    return {entry.key for entry in world.read("requests") if f'"group":"{group}"'.encode() in (entry.value or b"")}


def racks(world: World) -> dict[str, str]:
    """Host → its rack, as its agent reports."""
    snapshots = [entry.json() for entry in world.read("hosts") if b'"type":"snapshot"' in (entry.value or b"")]
    return {snapshot["host"]: snapshot["labels"]["rack"] for snapshot in snapshots}


def test_members_that_belong_together_or_apart_go_through_one_owner_and_hold(fleet: World) -> None:
    together = fleet.submit(12, group="t", group_policy="affinity")
    apart = fleet.submit(12, group="a", spread_over="rack", max_skew=1)
    placed = [decision.placed[0].host for decision in fleet.answered(together)]
    assert len(set(placed)) == 1
    rack_of = racks(fleet)
    members = Counter(rack_of[decision.placed[0].host] for decision in fleet.answered(apart))
    assert len(set(rack_of.values())) > 1
    assert max(members.values()) - min(members.get(rack, 0) for rack in rack_of.values()) <= 1
    assert keys_of(fleet, "t") == {b"group/t"}
    assert len({decision.replica for decision in fleet.answered(apart)}) == 1
    fleet.release_all()
    fleet.check()
