"""The audit's invariant 12: what is no breach of where a request lets its instances be, and whole simulated logs with and without a bug.

The breaches are in audit_breaches.py.
"""

from typing import Any

import pytest

from audit_logs import Pool, digest, pool
from commonplace.ops.audit import AuditReport, Entry, Log, Options, check
from commonplace.sim.draw import draw
from commonplace.sim.planted import bug, planted
from commonplace.sim.run import lived

TOGETHER = {"group": "web", "group_policy": "affinity"}


def released(p: Pool, request: str, allocation: str, on: str = "h1") -> None:
    p.delta(on, p.end("released", allocation, p.ask("release", request, allocation, host=on), host=on))


def moved_on(p: Pool) -> None:
    """The group left its host before the next member came."""
    p.member("r-1", "a-1", **TOGETHER)
    released(p, "r-1", "a-1")
    p.member("r-2", "a-2", on="h2", **TOGETHER)


def instance_that_moves(p: Pool) -> None:
    p.member("r-1", "a-1", **TOGETHER)
    p.request("r-2", instances=["r-1.0"], **TOGETHER)
    part = {"id": "a-2", "request": "r-2", "instance": "r-1.0", "resources": {"VCPU": 1}, "group": "web"}
    at = p.delta("h2", p.take(p.claim("r-2", host="h2", allocations=[part]), "h2"))
    placed = [{"instance": "r-1.0", "host": "h2", "allocation": "a-2", "grant": {"partition": 0, "offset": at}}]
    p.decide("r-2", host="h2", result="placed", placed=placed, content=digest("r-2", instances=["r-1.0"], **TOGETHER))


def member_without_a_policy_was_there(p: Pool) -> None:
    p.member("r-1", "a-1", **TOGETHER)
    p.member("r-2", "a-2", on="h2", group="web")
    p.member("r-3", "a-3", on="h2", **TOGETHER)


def aggregate_changes_meanwhile(p: Pool) -> None:
    p.aggregate("east", "h2")
    p.tick(1_000)
    p.aggregate("east", "h1")
    p.member("r-1", "a-1", member_of=["east"])
    p.aggregate("east", "h2")


def aggregate_goes_by_labels(p: Pool) -> None:
    p.aggregate("east", labels={"rack": "r7"})
    p.member("r-1", "a-1", member_of=["east"])


def id_that_was_used_for_something_else(p: Pool) -> None:
    p.member("r-1", "a-1", hosts_ignored=["h2"])
    p.request("r-1", hosts_ignored=["h1"])
    p.decide("r-1", result="rejected", reason="id_reused", content=digest("r-1", hosts_ignored=["h1"]), placed=[])


@pytest.mark.parametrize(
    "story",
    [
        moved_on,
        instance_that_moves,
        member_without_a_policy_was_there,
        aggregate_changes_meanwhile,
        aggregate_goes_by_labels,
        id_that_was_used_for_something_else,
    ],
)
def test_what_a_request_allows_is_no_breach(story: Any) -> None:
    p = pool()
    p.start("h2")
    p.snapshot("h2")
    story(p)
    assert violated(p.audit()) == []


def test_an_aggregate_whose_record_is_gone_proves_nothing() -> None:
    p = pool()
    p.aggregate("east", "h2")
    p.aggregate("east", "h1")
    p.retain("control", 1)
    p.member("r-1", "a-1", member_of=["east"])
    report = p.audit()
    assert (report.tallies[12].violated, report.tallies[12].unprovable) == (0, 1)


def violated(report: AuditReport) -> list[str]:
    return [v.text for tally in report.tallies.values() for v in tally.violations]


# --- simulated logs ----------------------------------------------------------------------------------------------------


def audited(seed: int) -> tuple[int, list[str]]:
    """Facts checked and violated of the groups of one simulated world, from all that was ever written to its topics."""
    world = lived(draw(seed, "groups"))
    logs = {
        name: Log(
            name,
            topic.id,
            dict.fromkeys(range(topic.partitions), 0),
            {p: topic.end(p) for p in range(topic.partitions)},
            [Entry(p, *row) for p in range(topic.partitions) for row in topic.everything(p)],
        )
        for name, topic in world.topics.items()
    }
    world.dissolve()
    tally = check(logs, Options(skew_ms=1_000)).tallies[12]
    return tally.checked, [one.text for one in tally.violations]


def test_worlds_with_every_fault_keep_their_groups_together_and_the_audit_says_so() -> None:
    found = [audited(seed) for seed in range(1, 13)]
    assert [text for _, texts in found for text in texts] == []
    assert sum(checked for checked, _ in found) > 50


def test_an_owner_that_ranks_the_next_member_too_early_is_found_from_the_log_alone() -> None:
    with planted(bug(38)):
        _, texts = audited(89)
    assert "q4 of group t is placed on h1, its members are on h4" in texts
