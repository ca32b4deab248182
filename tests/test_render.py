"""Decisions as people read them."""

import pytest

from commonplace.core.records.decisions import Decision, Explanation, Miss, Placed, Position
from commonplace.ops import render

HERE = Position(0, 0)


def decided(**fields: object) -> Decision:
    return Decision(**{"request": "r-7f3a", "flavor": "m1.large", "position": HERE, **fields})  # type: ignore[arg-type]


def test_a_refusal_counts_what_each_filter_turned_away_and_names_the_closest_miss() -> None:
    closest = Miss(host="host-0042", filter="capacity", resource="MEMORY_MB", needed=16384, had=14336)
    filters = {"status": 40, "liveness": 0, "traits": 150, "capacity": 310}
    without = {"traits": 12, "capacity": 300}
    samples = [
        Miss(host="h7", filter="traits", detail="lacks AVX"),
        Miss(host="h9", filter="status", detail="draining"),
    ]
    explained = Explanation(evaluated=500, filters=filters, without=without, closest=closest, samples=samples)
    record = decided(result="no_valid_host", explanation=explained)
    assert render.decision(record) == [
        "no valid host for r-7f3a (m1.large × 1): 0 of 500 hosts",
        "  310 capacity    needs 16384 MB of memory, most free 14336 on host-0042",
        "  150 traits      lacks AVX (h7)",
        "   40 status      draining (h9)",
        "closest: host-0042, short of 2048 MB of memory",
        "would fit: with 14336 MB of memory, or without the traits (12 hosts)",
    ]


def test_what_would_fit_is_told_only_where_one_thing_alone_is_in_the_way() -> None:
    both = Miss(host="h1", filter="capacity", resource="VCPU", needed=4, had=2, detail="also short of 512 MEMORY_MB")
    nothing_left = Miss(host="h1", filter="capacity", resource="VCPU", needed=4, had=0)
    for closest in (both, nothing_left):
        explained = Explanation(evaluated=2, filters={"capacity": 2}, without={"capacity": 2}, closest=closest)
        lines = render.decision(decided(result="no_valid_host", explanation=explained))
        assert lines[-1].startswith("closest: h1, short of ")
    assert lines[-1] == "closest: h1, short of 4 vCPU"
    group = Miss(host="h1", filter="group", detail="its members are as many as allowed")
    explained = Explanation(evaluated=2, filters={"group": 2}, without={"capacity": 1, "group": 1}, closest=group)
    assert render.decision(decided(result="no_valid_host", explanation=explained))[-1] == (
        "would fit: with less (1 host), or without the group's limit (1 host)"
    )


def test_a_miss_that_is_no_shortage_is_told_in_the_filters_words() -> None:
    closest = Miss(host="h1", filter="traits", detail="lacks HW_CPU_X86_AVX512F")
    explained = Explanation(evaluated=3, filters={"traits": 3}, closest=closest)
    assert render.decision(decided(result="no_valid_host", explanation=explained))[1:] == [
        "  3 traits    lacks HW_CPU_X86_AVX512F (h1)",
        "closest: h1, lacks HW_CPU_X86_AVX512F",
    ]


def test_an_empty_pool_is_told_how_to_get_hosts() -> None:
    lines = render.decision(decided(result="no_valid_host", explanation=Explanation(evaluated=0)))
    assert lines[0].endswith("0 of 0 hosts")
    assert "commonplace fleet" in lines[-1]


def test_claims_lost_to_others_are_counted() -> None:
    explained = Explanation(evaluated=2, filters={"capacity": 1})
    record = decided(result="no_valid_host", explanation=explained, attempts=4, conflicts=3)
    assert "  3 of 4 claims were rejected by hosts that had changed" in render.decision(record)


@pytest.mark.parametrize(
    ("record", "line"),
    [
        (decided(result="no_valid_host"), "no valid host for r-7f3a (m1.large × 1): no explanation given"),
        (decided(result="rejected", reason="id_reused"), "rejected r-7f3a (m1.large × 1): id reused"),
        (
            decided(result="rejected", reason="invalid", message="$.count"),
            "rejected r-7f3a (m1.large × 1): invalid: $.count",
        ),
        (decided(result="expired"), "expired r-7f3a (m1.large × 1): its deadline passed before a host granted it"),
    ],
)
def test_other_answers_are_one_line(record: Decision, line: str) -> None:
    assert render.decision(record) == [line]


def test_a_placed_decision_lists_every_instance_in_columns() -> None:
    placed = [
        Placed(instance="r-7f3a.0", host="h1", allocation="a1", grant=HERE),
        Placed(index=1, instance="r-7f3a.1", host="host-2", allocation="a2", grant=HERE),
    ]
    record = decided(result="placed", count=2, placed=placed, attempts=3, confirm_within_ms=290_000)
    assert render.decision(record) == [
        "placed r-7f3a (m1.large × 2) after 3 attempts",
        "  h1       r-7f3a.0   allocation a1",
        "  host-2   r-7f3a.1   allocation a2",
    ]
    straight = render.decision(decided(result="placed", count=2, placed=placed, attempts=2))
    assert straight[0] == "placed r-7f3a (m1.large × 2)"
    assert render.lease(record) == (
        "leased: lapses 4 min 50 s after the submit unless you `commonplace confirm r-7f3a`"
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.9, "0 s"), (59, "59 s"), (60, "1 min"), (290, "4 min 50 s"), (3600, "1 h"), (3900, "1 h 5 min")],
)
def test_durations_use_at_most_two_units(seconds: float, text: str) -> None:
    assert render.duration(seconds) == text
