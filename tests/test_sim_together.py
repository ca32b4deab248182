"""The judge of groups: members together or apart, whatever left meanwhile."""

from collections.abc import Iterable
from typing import Any

import pytest

from commonplace.core.records.decisions import Decision, Placed, Position
from commonplace.core.records.requests import Build
from commonplace.sim.findings import Findings
from commonplace.sim.model import Facts, Host
from commonplace.sim.together import Together

AFFINITY: dict[str, Any] = {"group_policy": "affinity"}
SKEW: dict[str, Any] = {"spread_over": "rack", "max_skew": 1}


class Story:
    """Four hosts in racks a, a, b, c, and a judge that is told of every placement."""

    def __init__(self, known: Iterable[str] = ("h0", "h1", "h2", "h3")) -> None:
        self.findings = Findings()
        self.hosts = {f"h{n}": Host(f"h{n}", 0) for n in range(4)}
        for host, rack in zip(self.hosts.values(), "aabc", strict=True):
            host.facts = Facts(({}, (), {"rack": rack}, "enabled", {}))
            host.held = {}
        self.judge, self.number = Together(self.findings, self.hosts), 0
        for name in known:
            self.judge.claimed("r1", name, ())

    def place(self, *hosts: str, gone: bool = False, meanwhile: str = "", **fields: Any) -> None:
        """A request of the group is effectively placed; `gone`: what it got is released at once; `meanwhile`: a host claimed on before."""
        self.number += 1
        build = Build(id=f"q{self.number}", flavor="small", group="g", count=len(hosts), **fields)
        placed = []
        for index, host in enumerate(hosts):
            allocation = f"{build.id}-{index}"
            placed.append(Placed(index=index, instance="i", host=host, allocation=allocation, grant=Position(0, 0)))
            self.judge.claimed("r1", host, [allocation])
            if not gone:
                self.hosts[host].held[allocation] = object()  # type: ignore[assignment]  # that it is there is all that is asked
        if meanwhile:
            self.judge.claimed("r1", meanwhile, ())
        decision = Decision(
            request=build.id, replica="r1", result="placed", position=Position(0, 0), count=len(hosts), placed=placed
        )
        self.judge.decided(build, decision, ("decisions", 0, self.number))

    @property
    def found(self) -> list[str]:
        return [violation.sentence for violation in self.findings.violations]


def test_members_on_one_host_and_a_group_that_begins_anew_are_fine() -> None:
    story = Story()
    story.place("h0", **AFFINITY)
    story.place("h0", "h0", **AFFINITY)
    for host in story.hosts.values():
        host.held = {}
    story.place("h2", **AFFINITY)
    assert story.found == []


@pytest.mark.parametrize("second", [("h1",), ("h0", "h1")])
def test_a_member_beside_a_host_where_the_group_is_held_is_found(second: tuple[str, ...]) -> None:
    story = Story()
    story.place("h0", **AFFINITY)
    story.place(*second, **AFFINITY)
    assert story.found == ["q2 of group g is placed on h1, its members are on h0"]


def test_a_group_that_begins_on_two_hosts_is_found() -> None:
    story = Story()
    story.place("h0", "h2", **AFFINITY)
    assert story.found == ["q1 begins group g on several hosts: h0, h2"]


def test_members_within_the_skew_are_fine_and_those_that_left_count_for_the_fewest() -> None:
    story = Story()
    story.place("h0", "h2", "h3", **SKEW)
    story.place("h1", **SKEW)
    story.place("h2", gone=True, **SKEW)
    story.place("h3", **SKEW)
    story.place("h0", **SKEW)
    assert story.found == []


def test_a_member_too_many_at_one_value_is_found() -> None:
    story = Story()
    story.place("h0", **SKEW)
    story.place("h1", **SKEW)
    assert story.found == ["q2 is number 2 of group g at rack a, another has had 0: more than 1 apart"]


def test_a_value_that_the_replica_may_not_know_yet_is_no_place_to_spread_to() -> None:
    story = Story(known=["h0", "h1"])
    story.place("h0", **SKEW)
    story.place("h1", **SKEW)
    assert story.found == []


def test_a_value_counts_by_what_was_known_when_the_claim_was_made() -> None:
    story = Story(known=["h0", "h1"])
    story.place("h0", **SKEW)
    story.place("h1", meanwhile="h2", **SKEW)
    assert story.found == []
    story.place("h0", **SKEW)
    assert story.found == ["q3 is number 3 of group g at rack a, another has had 0: more than 1 apart"]


def test_a_group_of_which_records_were_lost_is_not_judged_and_any_other_is() -> None:
    story = Story()
    story.judge.doubtful.add("lost")
    story.place("h0", **AFFINITY)
    story.place("h1", **AFFINITY)
    assert len(story.found) == 1
    story.judge.doubtful.add("g")
    story.place("h2", **AFFINITY)
    assert len(story.found) == 1


def test_members_are_hidden_by_what_is_forged_until_the_host_reports_again() -> None:
    story = Story()
    story.judge.granted("g", "q1-0", "h0")
    story.judge.forge("h0")
    story.place("h0", **AFFINITY)
    story.place("h1", **AFFINITY)
    assert story.found == []
    story.judge.granted("other", "a", "h0")
    story.judge.forged.discard("h0")
    assert story.judge.doubtful == {"g", "other"}
    story.judge.granted("later", "b", "h0")
    assert story.judge.doubtful == {"g", "other"}
