"""Anti-affinity under races: four replicas that do not see each other's claims, and ledgers that settle what they ask."""

import pytest

from commonplace.core.records.requests import Build
from test_group_turns import Groups, Halting
from world import flavor

HOSTS = 64


def racing(mode: str, requests: int) -> tuple[Groups, list[Halting]]:
    """Four replicas that each own one partition of a spread flavor, and have claimed before any saw what the others did."""
    world = Groups(racks=["a"] * HOSTS, request_partitions=4)
    world.flavor(flavor("wide", spread=24))
    world.settle()
    replicas = [world.halting(f"r{n}", owned=[n], mode=mode) for n in range(4)]
    for replica in replicas:
        replica.deaf = {"hosts"}
    for n in range(requests):
        world.submit(Build(id=f"q{n}", flavor="wide", group="g", group_max=1))
    for replica in replicas:
        replica.step()
    for replica in replicas:
        replica.deaf = set()
    world.settle(1_000)
    return world, replicas


@pytest.mark.parametrize("mode", ["strict", "fits"])
def test_a_group_of_as_many_as_there_are_hosts_has_one_member_on_each_whoever_decides(mode: str) -> None:
    world, replicas = racing(mode, HOSTS)
    decisions = [world.decisions(f"q{n}")[0] for n in range(HOSTS)]
    assert {decision.result for decision in decisions} == {"placed"}
    assert len({decision.placed[0].host for decision in decisions}) == HOSTS
    assert len({decision.replica for decision in decisions}) >= 2
    rejected = [replica.replica.claims.counts.rejected for replica in replicas]
    assert sum(counts.get("constraint", 0) for counts in rejected) >= 1, rejected


def test_one_more_than_there_are_hosts_is_refused_with_the_reason() -> None:
    world, _ = racing("strict", HOSTS + 1)
    results = [world.decisions(f"q{n}")[0] for n in range(HOSTS + 1)]
    (refused,) = [decision for decision in results if decision.result != "placed"]
    assert refused.result == "no_valid_host"
    assert refused.explanation is not None
    assert refused.explanation.filters == {"group": HOSTS}
