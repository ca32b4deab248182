"""The simulator's checkers find every invariant broken by a hand-made log, and pass what is legal in each corner."""

import ast
from collections.abc import Callable
from pathlib import Path

import pytest

import test_audit
from audit_breaches import BREACHES, Breach
from audit_logs import LEASE_MS, digest, settled
from commonplace import sim
from commonplace.core.records.requests import Build
from commonplace.core.view import View
from commonplace.sim import acting, at_rest, readers
from commonplace.sim.model import digest_at
from sim_logs import Watched, watched

OTHERWISE = {  # the audit files under another invariant, or takes for a breach what harms nobody
    "overcommit_by_an_allocation_that_no_entry_explains": 6,
    "request_is_never_decided": 4,
    "request_is_passed_over_for_another": 4,
    "reused_id_gets_no_answer": 4,
    "id_used_again_past_the_window_gets_no_answer": 4,
    "watermark_lies_beyond_the_log": 10,
    "watermark_goes_back": 10,
    "garbage_decision_is_skipped": 0,  # who owns no request of that time never reads it
    "generation_goes_back": 0,  # the same bytes again: a duplicate
}


AUDITS_OWN = 12
"""Judged by the audit alone, which simulated logs are given to as well (tests/test_audit_places.py)."""
SHARED = [one for one in BREACHES if one[0] != AUDITS_OWN]


@pytest.mark.parametrize(("invariant", "words", "breach"), SHARED, ids=[breach.__name__ for _, _, breach in SHARED])
def test_what_the_audit_finds_the_checkers_find(invariant: int, words: str, breach: Breach) -> None:
    p = watched()
    topic, offset = breach(p)
    p.settle()
    expected = OTHERWISE.get(breach.__name__, invariant)
    found = [v for v in p.checkers.violations if v.invariant == expected]
    assert bool(found) == bool(expected), p.found()
    if breach.__name__ == "allocation_id_is_used_again":
        topic, offset = "claims", 2  # told as soon as it is claimed
    assert not expected or any((topic, 0, offset) in v.places for v in found), (topic, offset, found)


def test_a_day_of_a_pool_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_audit, "pool", watched)
    p = test_audit.day()
    assert isinstance(p, Watched)
    p.request("r-10")
    p.decide("r-10")
    p.decide("r-7", content=digest("r-7", deadline_ms=60_000))
    p.settle()
    assert p.found() == []


# --- logs that break an invariant, one way each -----------------------------------------------------------------------------------------

Story = Callable[[Watched], None]
BROKEN: list[tuple[int, str, Story]] = []
LEGAL: list[Story] = []


def breaks(invariant: int, words: str) -> Callable[[Story], Story]:
    def register(story: Story) -> Story:
        BROKEN.append((invariant, words, story))
        return story

    return register


def legal(story: Story) -> Story:
    LEGAL.append(story)
    return story


def lapse(p: Watched, allocation: str) -> None:
    p.delta(settled=p.end("lapsed", allocation))


def answers_past_its_lease(p: Watched, request: str, allocation: str) -> None:
    p.checkers.owners.assigned("r1", 0)
    p.request(request)
    at = p.delta(settled=p.take(p.claim(request, allocation)))
    p.tick(2 * LEASE_MS)
    p.checkers.owners.decides("r1", 0, p.logs["decisions"][p.decide(request, (allocation, at))].value or b"", p.now_ms)


def answers_with_what_lapsed(p: Watched, request: str, allocation: str) -> None:
    p.checkers.owners.assigned("r1", 0)
    p.request(request)
    at = p.delta(settled=p.take(p.claim(request, allocation)))
    p.tick(2 * LEASE_MS)
    lapse(p, allocation)
    p.checkers.owners.decides("r1", 0, p.logs["decisions"][p.decide(request, (allocation, at))].value or b"", p.now_ms)


@breaks(2, "is confirmed, which no effective decision names")
def confirm_without_a_decision(p: Watched) -> None:
    p.delta(settled=p.take(p.claim("r-1", "a-1")))
    p.ask("confirm", "r-1", "a-1")


@breaks(2, "before any decision stands")
def loser_is_released_against_a_decision_that_was_only_sent(p: Watched) -> None:
    p.request("r-1")
    p.delta(settled=p.take(p.claim("r-1", "a-1")))
    release_loser(p, "r-1", "a-1")


@breaks(3, "the effective decision names it")
def sweeper_releases_the_winner(p: Watched) -> None:
    p.placed("r-1", "a-1")
    release_loser(p, "r-1", "a-1")


@breaks(3, "which is for leased ones only")
def active_allocation_is_released_as_a_loser(p: Watched) -> None:
    p.placed("r-1", "a-1")
    p.confirmed("r-1", "a-1")
    p.delta(settled=p.end("released", "a-1", release_loser(p, "r-1", "a-1")))


@breaks(2, "which was cancelled")
def cancelled_request_keeps_its_instance(p: Watched) -> None:
    p.placed("r-1", "a-1")
    p.confirmed("r-1", "a-1")
    p.put("requests", "m1.small", {"type": "cancel", "v": 1, "id": "r-1", "flavor": "m1.small"})


@breaks(2, "names offset 0, where request r-1 stands")
def decision_names_another_request(p: Watched) -> None:
    p.request("r-1")
    p.request("r-2")
    p.decide("r-1")
    p.decide("r-2", position={"partition": 0, "offset": 0})


@breaks(2, "the caller of r-1 was told placed ['a-2']")
def frontend_returns_a_void_decision(p: Watched) -> None:
    p.placed("r-1", "a-1")
    at = p.delta(settled=p.take(p.claim("r-1", "a-2")))
    acting.told(p.checkers.answers, 0, p.decision(p.decide("r-1", ("a-2", at))))


@breaks(2, "the caller of r-1 was told placed ['a-2']")
def id_is_decided_again_while_its_first_decision_must_be_remembered(p: Watched) -> None:
    p.checkers.answers.window_ms = 10_000
    p.placed("r-1", "a-1")
    p.tick(9_000)
    p.placed("r-1", "a-2")
    acting.told(p.checkers.answers, 0, p.decision(-1))


@breaks(3, "before the time its decision gave to confirm it")
def lease_ends_before_the_decision_said(p: Watched) -> None:
    p.request("r-1")
    at = p.delta(settled=p.take(p.claim("r-1", "a-1")))
    p.decide("r-1", ("a-1", at), confirm_within_ms=2 * LEASE_MS)
    p.tick(LEASE_MS)
    lapse(p, "a-1")


@breaks(3, "although its confirm stood in the log")
def lease_lapses_past_a_confirm_that_nobody_read(p: Watched) -> None:
    p.placed("r-1", "a-1")
    p.ask("confirm", "r-1", "a-1")
    p.tick(LEASE_MS)
    lapse(p, "a-1")


@breaks(3, "whose lease on h1 ran out")
def replica_answers_with_a_lease_that_ran_out(p: Watched) -> None:
    answers_past_its_lease(p, "r-1", "a-1")


@breaks(3, "which h1 holds no more")
def replica_answers_with_an_allocation_that_lapsed(p: Watched) -> None:
    answers_with_what_lapsed(p, "r-1", "a-1")


@breaks(4, "has no decision")
def offset_is_committed_before_its_decision(p: Watched) -> None:
    p.request("r-1")
    acting.committed(p.checkers.answers, 0, 1)
    p.decide("r-1")


@breaks(4, "after its deadline, without faults")
def request_waits_for_ever_in_a_calm(p: Watched) -> None:
    p.request("r-1")
    p.tick(120_000)
    p.decide("r-1")
    at_rest.settled(p.checkers, p.now_ms, {}, calm_ms=0)


@breaks(4, "stands nowhere")
def acknowledged_request_is_lost(p: Watched) -> None:
    at_rest.settled(p.checkers, p.now_ms, {"r-1": Build(id="r-1", flavor="m1.small")})


@breaks(5, "later than its lease was over, without faults")
def lease_lapses_long_after_it_was_over(p: Watched) -> None:
    p.placed("r-1", "a-1")
    calm_ms = p.now_ms
    p.tick(2 * LEASE_MS)
    lapse(p, "a-1")
    at_rest.settled(p.checkers, p.now_ms, {}, calm_ms=calm_ms)


@breaks(5, "has 2 allocations")
def instance_is_held_twice_at_the_end(p: Watched) -> None:
    p.placed("r-1", "a-1")
    p.delta(settled=p.take(p.claim("r-1", "a-2")))


@breaks(5, "named before")
def allocation_id_is_claimed_again(p: Watched) -> None:
    p.claim("r-1", "a-1")
    p.claim("r-2", "a-1")


@breaks(6, "which is not what its flavor asks for")
def claim_takes_less_than_its_flavor_asks_for(p: Watched) -> None:
    p.put("control", "flavor/m1.small", {"type": "flavor", "v": 1, "name": "m1.small", "resources": {"VCPU": 2}})
    p.placed("r-1", "a-1", vcpu=1)


@breaks(6, "written before its start record")
def new_host_takes_old_claims(p: Watched) -> None:
    p.delta(settled=p.end("released", *forgotten(p)))
    p.start(removed=True)
    p.claim("r-2", "a-2")
    p.start()
    p.host().through = 0
    p.snapshot()


@breaks(3, "reports no gap")
def claims_lost_to_retention_are_taken_for_none(p: Watched) -> None:
    p.claim("r-1", "a-1")
    p.checkers.expired("claims", 0, 1)
    p.start()
    p.snapshot()


@breaks(7, "knows not to be its own")
def replica_decides_after_it_lost_the_partition(p: Watched) -> None:
    p.checkers.owners.assigned("r1", 0)
    p.checkers.owners.lost("r1", 0)
    p.request("r-1")
    p.checkers.owners.decides("r1", 0, p.logs["decisions"][p.decide("r-1")].value or b"", p.now_ms)


@breaks(7, "serves at 1 of hosts 0, which ended at 2 when it started")
def replica_serves_before_it_has_caught_up(p: Watched) -> None:
    p.checkers.owners.serves("r1", {0: 1}, {0: 2})


@breaks(7, "before it has read back the first snapshot")
def agent_takes_claims_before_its_snapshot_stands(p: Watched) -> None:
    epoch = p.start()
    readers.takes_claims(p.checkers, "a1", {"h1": epoch}, epoch + 1)


@breaks(7, "before it has read back the first snapshot")
def agent_takes_claims_before_it_has_read_its_snapshot(p: Watched) -> None:
    epoch = p.start()
    p.snapshot()
    readers.takes_claims(p.checkers, "a1", {"h1": epoch}, epoch + 1)


@breaks(3, "which it neither claimed nor renewed")
def replica_answers_with_what_another_claimed(p: Watched) -> None:
    p.request("r-1")
    at = p.delta(settled=p.take(p.claim("r-1", "r1.1-1")))
    p.checkers.owners.serves("r2.1", {}, {})
    p.checkers.owners.assigned("r2.1", 0)
    decision = p.logs["decisions"][p.decide("r-1", ("r1.1-1", at), replica="r2")].value
    p.checkers.owners.decides("r2.1", 0, decision or b"", p.now_ms)


@breaks(2, "owns it still, and let it lapse")
def replica_lets_its_loser_lapse(p: Watched) -> None:
    p.checkers.owners.assigned("r1.1", 0)
    p.placed("r-1", "a-1")
    p.confirmed("r-1", "a-1")
    p.delta(settled=p.take(p.claim("r-1", "r1.1-2", replica="r1")))
    p.tick(LEASE_MS)
    calm_ms = p.now_ms - 10
    lapse(p, "r1.1-2")
    at_rest.settled(p.checkers, p.now_ms, {}, calm_ms=calm_ms)


@breaks(8, "sees h1, which was forgotten")
def replica_sees_a_ghost(p: Watched) -> None:
    end = p.start(removed=True) + 1
    readers.fleet(p.checkers, "r1", {0: end}, ["h1"])


@breaks(8, "has digest 0000000000000001")
def replica_sees_another_state(p: Watched) -> None:
    readers.digest(p.checkers, "r1", {0: 2}, lambda _: 1)


@breaks(9, "on which its ledger rests")
def snapshot_is_deleted_before_a_later_one_stands(p: Watched) -> None:
    p.placed("r-1", "a-1")
    old = p.host().epoch
    p.start()
    p.put("hosts", f"h1/{old}", None)


@breaks(9, "on which its ledger rests")
def delta_is_deleted_before_a_later_snapshot_stands(p: Watched) -> None:
    p.placed("r-1", "a-1")
    p.start()
    p.put("hosts", "h1/0/delta", None)


@breaks(9, "its last snapshot is none of this epoch")
def delta_is_the_first_report_of_its_epoch(p: Watched) -> None:
    p.start()
    p.delta(base_generation=1)


@breaks(3, "says neither that it lapsed")
def restarted_agent_forgets_the_delta(p: Watched) -> None:
    p.placed("r-1", "a-1")
    p.start()
    p.host().held.clear()
    p.snapshot()


@breaks(10, "passed over the claims record at 0")
def watermark_runs_ahead_of_the_ledger(p: Watched) -> None:
    p.host().through = p.claim("r-1", "a-1")
    p.delta()


@breaks(10, "passed over the claims record at 0")
def restarted_agent_resumes_at_the_end(p: Watched) -> None:
    p.host().through = p.claim("r-1", "a-1")
    p.start()
    p.snapshot()


@breaks(10, "accounts for 3 applied")
def replica_loses_count(p: Watched) -> None:
    readers.accounts(p.checkers, "r1", 4, {"applied": 3})


# --- what an excuse must not swallow ------------------------------------------------------------------------------------------------------


@breaks(3, "no report stands there")
def grant_is_made_up_after_reports_were_lost(p: Watched) -> None:
    hosts_topic_loses_its_tail(p)
    p.request("r-3")
    p.claim("r-3", "a-3")
    p.decide("r-3", ("a-3", 99))


@breaks(3, "which h1 holds no more")
def replica_answers_with_what_lapsed_after_reports_were_lost(p: Watched) -> None:
    hosts_topic_loses_its_tail(p)
    answers_with_what_lapsed(p, "r-3", "a-3")


@breaks(10, "passed over the claims record at 1")
def claim_is_passed_over_by_a_ledger_that_was_started_after_reports_were_lost(p: Watched) -> None:
    p.placed("r-1", "a-1")
    p.forget("hosts", 2)
    p.start()
    p.snapshot()
    p.host().through = p.claim("r-2", "a-2")
    p.delta()


@breaks(10, "passed over the claims record at 3")
def claim_is_passed_over_once_those_are_behind_whose_offsets_were_given_again(p: Watched) -> None:
    claims_are_cut_and_read_from_their_start(p)
    p.host().through = p.claim("r-3", "a-3")
    p.delta()


@breaks(7, "before it has read back the first snapshot")
def agent_takes_claims_before_its_snapshot_stands_after_reports_were_lost(p: Watched) -> None:
    p.placed("r-1", "a-1")
    p.forget("hosts", 2)
    agent_takes_claims_before_its_snapshot_stands(p)


@breaks(10, "a key that is no host's")
def nobody_puts_a_bad_report_aside_after_reports_were_lost(p: Watched) -> None:
    p.placed("r-1", "a-1")
    p.forget("hosts", 2)
    p.put("hosts", "no host's", b"{")


@breaks(4, "is committed, the request r-2 at 1 has no decision")
def offset_is_committed_before_its_decision_after_decisions_were_lost(p: Watched) -> None:
    p.placed("r-1", "a-1")
    p.forget("decisions", 0)
    p.request("r-2")
    acting.committed(p.checkers.answers, 0, 2)


@breaks(4, "request r-2 has no decision")
def request_is_never_decided_after_decisions_were_lost(p: Watched) -> None:
    p.placed("r-1", "a-1")
    p.forget("decisions", 0)
    p.request("r-2")


@breaks(2, "the caller of r-2 was told placed ['b-2']")
def frontend_returns_a_void_decision_after_another_was_lost(p: Watched) -> None:
    lost_decision_is_made_anew(p)
    p.placed("r-2", "b-1")
    at = p.delta(settled=p.take(p.claim("r-2", "b-2")))
    acting.told(p.checkers.answers, 0, p.decision(p.decide("r-2", ("b-2", at))))


@breaks(2, "is confirmed, which no effective decision names")
def confirm_without_a_decision_after_one_that_nobody_believes(p: Watched) -> None:
    p.checkers.seen.injecting = True
    p.put(
        "decisions",
        "h1",
        {"type": "decision", "v": 1, "request": "g3", "result": "expired", "position": {"partition": 0, "offset": 0}},
    )
    p.checkers.seen.injecting = False
    confirm_without_a_decision(p)


@breaks(2, "the caller of r-1 was told placed ['a-2']")
def frontend_returns_a_void_decision_after_the_clock_jumped_a_little(p: Watched) -> None:
    p.checkers.clock_jumped(-30_000)
    p.checkers.clock_jumped(2_000)
    frontend_returns_a_void_decision(p)


@breaks(2, "owns it still, and let it lapse")
def replica_lets_its_loser_lapse_after_the_clock_jumped_a_little(p: Watched) -> None:
    p.checkers.clock_jumped(30_000)
    replica_lets_its_loser_lapse(p)


@breaks(3, "whose lease on h1 ran out")
def replica_answers_too_late_with_what_it_claimed_after_its_clock_stood_still(p: Watched) -> None:
    p.checkers.owners.froze("r1")
    p.checkers.owners.claims("r1", "a-1")
    replica_answers_with_a_lease_that_ran_out(p)


@breaks(4, "request r-1 has no decision")
def lost_request_is_asked_again_and_never_decided(p: Watched) -> None:
    p.request("r-1")
    p.forget("requests", 0)
    p.request("r-2")
    p.decide("r-2")
    p.request("r-1")


@breaks(2, "names offset 1, where request r-2 stands")
def decision_names_another_request_after_one_was_lost(p: Watched) -> None:
    p.request("r-0")
    p.forget("requests", 0)
    p.request("r-1")
    p.request("r-2")
    p.decide("r-1", position={"partition": 0, "offset": 1})


@breaks(2, "which was cancelled")
def cancelled_request_keeps_its_instance_after_another_was_lost(p: Watched) -> None:
    p.request("r-0")
    p.forget("requests", 0)
    p.request("r-2")
    p.decide("r-2")
    cancelled_request_keeps_its_instance(p)


@breaks(4, "stands nowhere")
def acknowledged_request_stands_nowhere_though_another_was_lost(p: Watched) -> None:
    p.request("r-0")
    p.forget("requests", 0)
    acknowledged_request_is_lost(p)


@breaks(4, "request r-1 has no decision")
def request_of_a_topic_that_was_made_anew_is_never_decided(p: Watched) -> None:
    p.request("r-0")
    p.request("r-0")
    p.forget("requests", 0)
    p.again("requests", "another")
    p.request("r-1")


@breaks(3, "before its lease is over")
def lease_of_a_claim_lapses_too_early_after_others_were_lost(p: Watched) -> None:
    claims_are_cut_and_read_from_their_start(p)
    p.placed("r-5", "a-5")
    lapse(p, "a-5")


@breaks(2, "made a-3 of r-3 active, which no effective decision names")
def allocation_is_confirmed_without_a_decision_after_a_gap(p: Watched) -> None:
    gap_after_retention(p)
    p.delta(settled=p.take(p.claim("r-3", "a-3")))
    p.confirmed("r-3", "a-3")


@breaks(10, "passed over the claims record at 2")
def claim_is_passed_over_after_a_gap(p: Watched) -> None:
    gap_after_retention(p)
    p.host().through = p.claim("r-3", "a-3")
    p.snapshot(gap=True)


@breaks(5, "has 2 allocations")
def instance_is_held_twice_at_the_end_after_a_gap(p: Watched) -> None:
    gap_after_retention(p)
    p.placed("r-3", "a-3")
    p.delta(settled=p.take(p.claim("r-3", "a-4")))


@breaks(3, "whose lease on h1 ran out")
def replica_answers_with_a_lease_that_ran_out_after_a_gap(p: Watched) -> None:
    gap_after_retention(p)
    answers_past_its_lease(p, "r-3", "a-3")


@breaks(1, "grants the claim at 1 past capacity: 6 + 4 of 8 VCPU")
def claim_past_capacity_is_granted_and_not_told(p: Watched) -> None:
    p.placed("r-1", "a-1", vcpu=6)
    p.take(p.claim("r-2", "a-2", vcpu=4))
    p.delta(settled_omitted=1)


@breaks(6, "grants the claim at 1 although 1 instances are there and 1 may be")
def claim_past_the_limit_of_instances_is_granted_and_not_told(p: Watched) -> None:
    p.placed("r-1", "a-1")
    p.take(p.claim("r-2", "a-2", instances_max=1))
    p.delta(settled_omitted=1)


@pytest.mark.parametrize(("invariant", "words", "story"), BROKEN, ids=[story.__name__ for _, _, story in BROKEN])
def test_broken_invariant_is_found(invariant: int, words: str, story: Story) -> None:
    p = watched()
    story(p)
    p.settle()
    assert [words in sentence for number, sentence in p.found() if number == invariant].count(True), p.found()


@pytest.mark.parametrize("invariant", range(1, 11))
def test_every_invariant_can_be_broken(invariant: int) -> None:
    assert any(invariant == number for number, *_ in [*BROKEN, *BREACHES])


# --- what is legal, however odd ---------------------------------------------------------------------------------------------------------


def release_loser(p: Watched, request: str, allocation: str) -> int:
    record = {
        "type": "release",
        "v": 1,
        "host": "h1",
        "request": request,
        "allocation": allocation,
        "leased_only": True,
    }
    return p.put("claims", "h1", record)


def forgotten(p: Watched) -> tuple[str, int]:
    """An allocation of an undecided request, and its release."""
    p.request("r-1")
    p.delta(settled=p.take(p.claim("r-1", "a-1")))
    p.decide("r-1")
    return "a-1", release_loser(p, "r-1", "a-1")


@legal
def report_is_delivered_twice_and_out_of_turn(p: Watched) -> None:
    p.placed("r-1", "a-1")
    p.confirmed("r-1", "a-1")
    key, value = p.logs["hosts"][-2].key, p.logs["hosts"][-2].value
    assert key is not None
    p.put("hosts", key.decode(), value)
    p.delta()


@legal
def fenced_twin_goes_on_and_nobody_listens(p: Watched) -> None:
    p.placed("r-1", "a-1")
    h = p.host()
    old = (h.epoch, h.generation, h.base_generation)
    p.start()
    new = h.epoch
    h.epoch, h.generation, h.base_generation = old
    twin = p.take(p.claim("r-2", "a-2"))
    p.delta(settled=twin)
    del h.held["a-2"]
    h.through, h.epoch, h.generation = 0, new, 0
    p.snapshot()
    p.delta(settled=p.take(1))
    p.request("r-2")
    p.decide("r-2", ("a-2", p.logs["hosts"][-1].offset))
    p.confirmed("r-1", "a-1")
    p.confirmed("r-2", "a-2")


@legal
def report_that_never_reached_the_log_took_its_words_with_it(p: Watched) -> None:
    p.request("r-1")
    p.take(p.claim("r-1", "a-1"))
    p.host().generation += 1  # the delta that told of the grant was lost
    p.decide("r-1", ("a-1", p.snapshot()))
    p.confirmed("r-1", "a-1")


@legal
def garbage_under_the_keys_of_a_host(p: Watched) -> None:
    p.placed("r-1", "a-1")
    p.checkers.seen.injecting = True
    bad = [
        p.put("hosts", "h1/0", b"{"),
        p.put("hosts", "h1/0/delta", b"[" * 2_000),
        p.put("hosts", "h1/start", b"\xff"),
    ]
    p.checkers.seen.injecting = False
    for offset in bad:
        p.quarantine("hosts", offset)
    p.snapshot()
    p.confirmed("r-1", "a-1")


@legal
def forged_report_of_a_higher_generation(p: Watched) -> None:
    p.placed("r-1", "a-1")
    p.checkers.seen.injecting = True
    held = p.host().held
    p.host().held = {}
    p.snapshot()
    p.checkers.seen.injecting = False
    p.host().held = held
    p.snapshot()
    p.confirmed("r-1", "a-1")


@legal
def records_of_the_next_version(p: Watched) -> None:
    p.put("hosts", "h1/0/delta", {"type": "delta", "v": 2, "host": "h1"})
    p.put("hosts", "h1/0", {"type": "snapshot", "v": 2, "news": True})
    at = p.put("claims", "h1", {"type": "claim", "v": 2, "host": "h1", "wish": 1})
    p.host().through = at
    p.snapshot(settled=[settled("rejected", "", at, reason="version")])


@legal
def claim_and_its_repetition(p: Watched) -> None:
    p.request("r-1")
    first = p.claim("r-1", "a-1")
    again = p.put("claims", "h1", p.logs["claims"][first].value)
    entries = p.take(first)
    p.host().through = again
    p.decide("r-1", ("a-1", p.delta(settled=[*entries, settled("ignored", "a-1", again)])))
    p.confirmed("r-1", "a-1")


@legal
def gap_after_retention(p: Watched) -> None:
    p.placed("r-1", "a-1")
    p.claim("r-2", "a-2")
    p.checkers.expired("claims", 0, 2)
    p.start()
    p.host().held["a-1"] |= {"state": "active"}
    p.host().through = 1
    p.snapshot(gap=True)


@legal
def claims_topic_is_made_anew(p: Watched) -> None:
    p.placed("r-1", "a-1")
    p.confirmed("r-1", "a-1")
    p.again("claims", "another")
    p.start()
    p.host().through = -1
    p.snapshot(claims_topic="another")
    p.request("r-2")
    at = p.delta(settled=p.take(p.claim("r-2", "a-2")), claims_topic="another")
    p.decide("r-2", ("a-2", at))
    p.delta(settled=p.activate("a-2", p.ask("confirm", "r-2", "a-2")), claims_topic="another")


@legal
def claims_are_cut_and_read_from_their_start(p: Watched) -> None:
    p.placed("r-1", "a-1")
    p.confirmed("r-1", "a-1")
    p.forget("claims", 1)
    p.delta()
    p.start()
    p.host().through = -1
    p.snapshot()
    p.request("r-2")
    entries = p.take(p.claim("r-2", "a-2"))
    at = p.delta(settled=[settled("ignored", "a-1", 0), *entries])
    p.decide("r-2", ("a-2", at))
    p.placed("r-4", "a-4")


@legal
def hosts_topic_loses_its_tail(p: Watched) -> None:
    p.placed("r-1", "a-1")
    p.forget("hosts", 2)
    p.snapshot()
    p.placed("r-2", "a-2")
    p.confirmed("r-1", "a-1")
    p.confirmed("r-2", "a-2")
    readers.digest(p.checkers, "r1", {0: 1}, lambda _: 0)  # after the start record the host is stale


@legal
def hosts_topic_is_made_anew(p: Watched) -> None:
    p.placed("r-1", "a-1")
    p.again("hosts", "another")
    p.start()
    p.snapshot()
    p.confirmed("r-1", "a-1")


@legal
def requests_and_decisions_are_lost(p: Watched) -> None:
    p.request("r-1")
    p.forget("requests", 0)
    p.request("r-2")
    p.decide("r-2")
    p.forget("decisions", 0)
    p.decide("r-2", result="expired")


@legal
def lost_decision_is_made_anew(p: Watched) -> None:
    p.placed("r-1", "a-1")
    p.forget("decisions", 0)
    p.request("r-1", deadline_ms=60_000)
    at = p.delta(settled=p.take(p.claim("r-1", "a-2")))
    again = p.decide("r-1", ("a-2", at), content=digest("r-1", deadline_ms=60_000))
    acting.told(p.checkers.answers, 0, p.decision(again))
    p.delta(settled=p.end("released", "a-1", release_loser(p, "r-1", "a-1")))
    p.confirmed("r-1", "a-2")


@legal
def id_is_used_again_after_the_clock_jumped_past_its_window(p: Watched) -> None:
    p.placed("r-1", "a-1")
    p.delta(settled=p.end("released", "a-1", p.ask("release", "r-1", "a-1")))
    p.checkers.clock_jumped(3_600_000)
    p.request("r-1", deadline_ms=60_000)
    at = p.delta(settled=p.take(p.claim("r-1", "a-2")))
    acting.told(
        p.checkers.answers, 0, p.decision(p.decide("r-1", ("a-2", at), content=digest("r-1", deadline_ms=60_000)))
    )
    p.confirmed("r-1", "a-2")


@legal
def lost_request_is_asked_again(p: Watched) -> None:
    p.request("r-1")
    at = p.delta(settled=p.take(p.claim("r-1", "a-1")))
    p.put("requests", "m1.small", {"type": "cancel", "v": 1, "id": "r-1", "flavor": "m1.small"})
    p.forget("requests", 0)
    p.request("r-2", deadline_ms=60_000)  # where the first stood, and below what may be committed
    p.tick(LEASE_MS // 2)
    p.request("r-3")
    p.decide("r-3")
    p.request("r-1")
    p.decide("r-1", ("a-1", at), position={"partition": 0, "offset": 0}, confirm_within_ms=LEASE_MS)
    p.tick(LEASE_MS // 2)
    lapse(p, "a-1")


@legal
def claim_fits_beside_what_ended_before_it_and_nothing_is_told(p: Watched) -> None:
    p.placed("r-1", "a-1", vcpu=6)
    p.end("released", "a-1", p.ask("release", "r-1", "a-1"))
    p.take(p.claim("r-2", "a-2", vcpu=4, instances_max=1))
    p.request("r-2")
    p.decide("r-2", ("a-2", p.delta(settled_omitted=2)))
    p.confirmed("r-2", "a-2")


@legal
def claim_came_twice_and_its_second_grant_after_a_release_is_left_out_of_the_report(p: Watched) -> None:
    p.placed("r-1", "a-1")
    p.confirmed("r-1", "a-1")
    released = p.end("released", "a-1", p.ask("release", "r-1", "a-1"))
    p.take(p.claim("r-1", "a-1"))
    p.delta(settled=released, settled_omitted=1)
    p.tick(LEASE_MS // 2)
    p.delta()
    p.tick(LEASE_MS // 2 + 1)
    lapse(p, "a-1")


@legal
def host_is_forgotten_and_comes_back(p: Watched) -> None:
    p.delta(settled=p.end("released", *forgotten(p)))
    p.start(removed=True)
    p.put("hosts", "h1/0", None)
    p.put("hosts", "h1/0/delta", None)
    p.claim("r-1", "a-9")
    p.start()
    p.host().through = 2
    p.snapshot()
    p.placed("r-2", "a-2")
    p.confirmed("r-2", "a-2")


@legal
def lease_is_renewed_and_lapses_then(p: Watched) -> None:
    p.placed("r-1", "a-1")
    p.tick(LEASE_MS - 10)
    renew = p.claim("r-1", "a-1", mode="renew")
    p.host().through = renew
    p.delta(settled=[settled("renewed", "a-1", renew)])
    p.tick(LEASE_MS)
    lapse(p, "a-1")


@legal
def lease_lapses_late_while_faults_go_on_or_after_its_agent_started_anew(p: Watched) -> None:
    p.placed("r-1", "a-1")
    p.placed("r-2", "a-2")
    p.tick(2 * LEASE_MS)
    lapse(p, "a-1")
    calm_ms = p.now_ms
    p.start()
    p.snapshot()
    p.tick(LEASE_MS)
    lapse(p, "a-2")
    at_rest.settled(p.checkers, p.now_ms, {}, calm_ms=calm_ms)


@legal
def confirm_comes_too_late(p: Watched) -> None:
    p.placed("r-1", "a-1")
    p.tick(LEASE_MS + 1)
    lapse(p, "a-1")
    late = p.ask("confirm", "r-1", "a-1")
    p.host().through = late
    p.delta(settled=[settled("late", "a-1", late)])


@legal
def claim_takes_what_its_flavor_asked_for_before_it_was_set_anew(p: Watched) -> None:
    for vcpu in (2, 4):
        p.put("control", "flavor/m1.small", {"type": "flavor", "v": 1, "name": "m1.small", "resources": {"VCPU": vcpu}})
    p.placed("r-1", "a-1")
    p.confirmed("r-1", "a-1")


@legal
def id_is_decided_again_once_its_first_decision_may_be_forgotten(p: Watched) -> None:
    p.checkers.answers.window_ms = 10_000
    p.placed("r-1", "a-1")
    p.confirmed("r-1", "a-1")
    p.tick(10_000)
    p.placed("r-1", "a-2")
    acting.told(p.checkers.answers, 0, p.decision(-1))
    p.confirmed("r-1", "a-2")


@legal
def cancel_is_followed_by_a_release(p: Watched) -> None:
    p.placed("r-1", "a-1")
    p.confirmed("r-1", "a-1")
    p.put("requests", "m1.small", {"type": "cancel", "v": 1, "id": "r-1", "flavor": "m1.small"})
    p.delta(settled=p.end("released", "a-1", p.ask("release", "r-1", "a-1")))


@legal
def loser_is_released_after_the_decision_stands(p: Watched) -> None:
    p.placed("r-1", "a-1")
    p.delta(settled=p.take(p.claim("r-1", "b-1")))
    p.confirmed("r-1", "a-1")
    p.delta(settled=p.end("released", "b-1", release_loser(p, "r-1", "b-1")))


@legal
def agent_takes_claims_once_its_snapshot_is_read(p: Watched) -> None:
    epoch = p.start()
    readers.takes_claims(p.checkers, "a1", {"h1": epoch}, p.snapshot() + 1)
    readers.takes_claims(p.checkers, "a0", {"h1": 0}, 1)  # fenced, and about to read of it


@legal
def replica_answers_with_what_it_renewed(p: Watched) -> None:
    p.request("r-1")
    at = p.delta(settled=p.take(p.claim("r-1", "r1.1-1")))
    p.checkers.owners.serves("r2.1", {}, {})
    p.checkers.owners.assigned("r2.1", 0)
    renew = p.claim("r-1", "r1.1-1", mode="renew", replica="r2")
    p.host().through = renew
    at = p.delta(settled=[settled("renewed", "r1.1-1", renew)])
    decision = p.logs["decisions"][p.decide("r-1", ("r1.1-1", at), replica="r2")].value
    p.checkers.owners.decides("r2.1", 0, decision or b"", p.now_ms)
    p.confirmed("r-1", "r1.1-1")


@legal
def replica_whose_clock_stood_still_does_not_know_that_the_lease_is_over(p: Watched) -> None:
    p.checkers.owners.claims("r1", "a-1")
    p.checkers.owners.froze("r1")
    replica_answers_with_a_lease_that_ran_out(p)
    lapse(p, "a-1")


@legal
def loser_lapses_whose_release_was_lost_or_whose_owner_changed(p: Watched) -> None:
    p.checkers.owners.assigned("r1.1", 0)
    p.placed("r-1", "a-1")
    p.confirmed("r-1", "a-1")
    p.delta(settled=p.take(p.claim("r-1", "r1.1-2", replica="r1")))
    p.checkers.owners.releases(p.logs["claims"][release_loser(p, "r-1", "r1.1-2")].value or b"")
    p.delta(settled=[settled("ignored", "r1.1-2", 3), *p.take(p.claim("r-1", "r2.1-2", replica="r2"))])
    p.tick(LEASE_MS)
    p.delta(settled=p.end("lapsed", "r1.1-2") + p.end("lapsed", "r2.1-2"))
    at_rest.settled(p.checkers, p.now_ms, {}, calm_ms=0)


@legal
def loser_lapses_whose_renewal_waited_in_an_outbox_while_its_owner_changed(p: Watched) -> None:
    p.placed("r-1", "a-1")
    p.confirmed("r-1", "a-1")
    p.checkers.owners.claims("r1.1", "r1.1-2")
    p.tick(1)
    p.placed("r-2", "a-2")
    p.checkers.owners.assigned("r1.1", 0)
    p.delta(settled=p.take(p.claim("r-1", "r1.1-2", replica="r1")))
    p.tick(LEASE_MS)
    p.delta(settled=p.end("lapsed", "r1.1-2"))
    at_rest.settled(p.checkers, p.now_ms, {}, calm_ms=0)


@legal
def inventory_shrinks_under_what_is_held(p: Watched) -> None:
    p.placed("r-1", "a-1", vcpu=8)
    p.host().inventory = {"VCPU": {"total": 4}}
    p.snapshot()
    p.confirmed("r-1", "a-1")


@pytest.mark.parametrize("story", LEGAL, ids=[story.__name__ for story in LEGAL])
def test_legal_corner_passes(story: Story) -> None:
    p = watched()
    story(p)
    p.settle(kept=lambda *_: True)
    assert p.found() == []


def test_digest_of_a_position_is_that_of_a_replica() -> None:
    p = watched()
    p.placed("r-1", "a-1")
    p.confirmed("r-1", "a-1")
    p.start()
    p.snapshot()
    view = View(1)
    for entry in p.logs["hosts"]:
        view.fold(0, entry.offset, entry.timestamp_ms, entry.key, entry.value, 0)
        readers.digest(p.checkers, "r1", {0: entry.offset + 1}, view.digest)
    assert p.found() == []
    assert len({digest_at(p.checkers.hosts.values(), {0: position})[0] for position in range(7)}) >= 4


def test_checkers_share_only_decoding_with_the_core() -> None:
    allowed = {"codec", "records", "resources", "hashing"}
    for name in (
        "checkers",
        "reports",
        "host_records",
        "grants",
        "answers",
        "owners",
        "judge",
        "model",
        "seen",
        "findings",
    ):
        tree = ast.parse((Path(sim.__file__).parent / f"{name}.py").read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("commonplace.core"):
                assert node.module.split(".")[2] in allowed, f"{name} imports {node.module}"
                assert node.module != "commonplace.core.hashing" or [a.name for a in node.names] == ["digest64"]


def test_host_under_whose_keys_somebody_wrote_is_known_again_by_its_next_good_report() -> None:
    p = watched()
    groups = p.checkers.answers.groups
    assert groups is not None
    p.checkers.seen.injecting = True
    p.put("hosts", "h1/0", b"{")
    p.checkers.seen.injecting = False
    assert groups.forged == {"h1"}
    p.delta()
    assert groups.forged == {"h1"}  # its snapshot is still bad
    p.snapshot()
    assert groups.forged == set()
