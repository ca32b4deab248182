"""What became of a confirm or release, by the host's reports."""

from typing import Literal

import pytest

from commonplace.core.codec import encode
from commonplace.core.partition import partition_of
from commonplace.core.records.hosts import Allocation, Delta, Settled, Snapshot, Start
from commonplace.frontend.settling import Confirmed, Outcome, Released, Settling, TooLate, Watched

HELD = Allocation(id="a1", resources={"VCPU": 1}, state="active")
LEASED = Allocation(id="a1", resources={"VCPU": 1}, state="leased")
COMMON = {"host": "h1", "epoch": 5, "claims_topic": "T", "hash": "0" * 16}


def delta(through: int, generation: int = 2, **fields: object) -> Delta:
    values = {**COMMON, "claims_through": through, "generation": generation, "base_generation": 1, **fields}
    return Delta(**values)  # type: ignore[arg-type]


def snapshot(through: int, *allocations: Allocation, **fields: object) -> Snapshot:
    values = {**COMMON, "claims_through": through, "generation": 2, "inventory": {}, "allocations": list(allocations)}
    return Snapshot(**{**values, **fields})  # type: ignore[arg-type]


def outcome(what: Literal["confirm", "release"], *reports: Start | Snapshot | Delta) -> Outcome | None:
    """The outcome of a record at offset 7, after these reports from offset 100 on."""
    settling = Settling([Watched(what, "h1", "a1", 7)], "T", 1)
    for offset, report in enumerate(reports, 100):
        settling.receive(0, [(offset, 0, key_of(report), encode(report))])
    return settling.outcomes.get("a1")


def key_of(report: Start | Snapshot | Delta) -> bytes:
    if isinstance(report, Start):
        return f"{report.host}/start".encode()
    return f"{report.host}/{report.epoch}{'/delta' if isinstance(report, Delta) else ''}".encode()


CONFIRMED, TOO_LATE, RELEASED = Confirmed("h1", "a1"), TooLate("h1", "a1"), Released("h1", "a1")


def settled(verdict: str, offset: int = 7) -> list[Settled]:
    return [Settled(offset=offset, verdict=verdict, allocation="a1")]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("what", "report", "wanted"),
    [
        ("confirm", delta(7, settled=settled("confirmed")), CONFIRMED),
        ("confirm", delta(7, settled=settled("ignored")), CONFIRMED),
        ("confirm", delta(7, settled=settled("late")), TOO_LATE),
        ("release", delta(7, settled=settled("released")), RELEASED),
        ("release", delta(7, settled=settled("ignored")), RELEASED),
        ("confirm", delta(9, upserts=[HELD]), CONFIRMED),
        ("confirm", delta(9, removed=["a1"]), TOO_LATE),
        ("confirm", snapshot(9, HELD), CONFIRMED),
        ("confirm", snapshot(9), TOO_LATE),
        ("release", snapshot(9), RELEASED),
        ("release", delta(9, removed=["a1"]), RELEASED),
        # not reached yet, whatever it shows
        ("confirm", delta(6, settled=settled("confirmed", 6), upserts=[HELD]), None),
        ("confirm", snapshot(6), None),
        # reached, but silent on this allocation: only its snapshot would say
        ("confirm", delta(9), None),
        # the watermark is of another claims topic
        ("confirm", delta(9, upserts=[HELD], claims_topic="old"), None),
        ("confirm", snapshot(9, HELD, host="h2"), None),
    ],
)
def test_the_watermark_answers(
    what: Literal["confirm", "release"], report: Snapshot | Delta, wanted: Outcome | None
) -> None:
    assert outcome(what, report) == wanted


def test_a_report_of_a_fenced_epoch_says_nothing() -> None:
    zombie = snapshot(9, HELD)
    assert outcome("confirm", Start(host="h1"), zombie) is None
    assert outcome("confirm", Start(host="h1"), zombie, snapshot(9, epoch=100)) == TOO_LATE


def test_garbage_and_other_hosts_are_passed_over() -> None:
    settling = Settling([Watched("confirm", "h1", "a1", 7)], "T", 1)
    settling.receive(0, [(1, 0, None, b"x"), (2, 0, b"h1/5", b"{"), (3, 0, b"h1/5", None), (4, 0, b"\xff", b"{}")])
    assert settling.open_hosts == ["h1"]
    assert not settling.done


def test_a_record_on_another_partition_says_nothing_of_its_host() -> None:
    settling = Settling([Watched("confirm", "h1", "a1", 7)], "T", 8)
    own = partition_of("h1", 8)
    settling.receive((own + 1) % 8, [(200, 0, b"h1/start", encode(Start(host="h1")))])  # would fence what follows
    settling.receive((own + 1) % 8, [(201, 0, b"h1/5", encode(snapshot(9)))])
    assert not settling.done
    settling.receive(own, [(100, 0, b"h1/5", encode(snapshot(9, HELD)))])
    assert settling.outcomes == {"a1": CONFIRMED}


def test_it_is_done_when_every_host_has_answered() -> None:
    settling = Settling([Watched("confirm", "h1", "a1", 7), Watched("confirm", "h2", "a2", 3)], "T", 1)
    settling.receive(0, [(100, 0, b"h1/5", encode(snapshot(9, HELD)))])
    assert settling.open_hosts == ["h2"]
    settling.receive(0, [(101, 0, b"h2/5", encode(snapshot(3, host="h2")))])
    assert settling.done
