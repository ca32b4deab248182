"""The short form of `make fuzz`: some seconds on new seeds, printed with what they find; and the fuzzer notices broken rules."""

import os
import time
from random import Random

import pytest

from commonplace.core import codec, hosts
from commonplace.core.codec import encode
from commonplace.core.records.claims import Claim
from commonplace.core.records.hosts import Allocation
from fuzz import targets
from fuzz.run import again, run
from fuzz.targets import TARGETS, Found, Trial

SECONDS = float(os.environ.get("COMMONPLACE_FUZZ_S", "12"))
RECORDS_MIN = 200


@pytest.mark.timeout(180)
def test_nothing_escapes_from_what_reads_the_topics() -> None:
    report = run(list(TARGETS), time.time_ns() // 1_000_000_000, SECONDS, turn_s=SECONDS / 6)
    assert not report.findings, "\n".join(report.findings)
    assert all(report.tried[name] >= RECORDS_MIN for name in TARGETS), report.tried


def test_a_life_is_the_same_again() -> None:
    for name, begin in TARGETS.items():
        one, other = begin(Random(7)), begin(Random(7))
        for _ in range(60):
            trial = one.draw()
            assert trial == other.draw(), name
            one.take(trial)
            other.take(trial)


def test_mutations_reach_past_the_decoder_into_every_part() -> None:
    world = targets.Loop(Random(1))
    while not world.dead:
        world.take(world.draw())
    assert world.seen["hosts"]["applied"] > 20
    assert world.seen["claims"]["granted"]
    assert world.seen["claims"]["rejected"]
    assert world.seen["decisions"]["placed"]
    assert world.seen["decisions"]["rejected"]


@pytest.mark.parametrize("error", [UnicodeDecodeError, RecursionError])
def test_what_escapes_from_the_decoder_is_a_finding(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    monkeypatch.setattr(codec, "_decode_errors", tuple(e for e in codec._decode_errors if e is not error))
    assert any(error.__name__ in finding for seed in range(20) for finding in again("decode", seed))


def test_a_sum_that_is_wrong_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    count = hosts.HostState.count

    def careless(state: hosts.HostState, allocation: Allocation, sign: int, *more: bytes) -> None:
        if allocation.group != "k":
            count(state, allocation, sign, *more)

    monkeypatch.setattr(hosts.HostState, "count", careless)
    assert any("sum" in finding or "hash" in finding for seed in range(40) for finding in again("fold", seed))


def test_a_record_that_is_written_and_cannot_be_read_is_a_finding() -> None:
    world = targets.Loop(Random(1))
    claim = Claim(host="h0", request="r", lease_ms=1, allocations=[Allocation(id="a" * 129, resources={})])
    with pytest.raises(Found, match="wrote a bad record for claims"):
        world._world.append("claims", 0, b"h0", encode(claim))
    world.take(Trial("claims", b"h0", encode(claim)))
