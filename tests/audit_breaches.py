"""Logs that break an invariant, one way each: every function writes into a fresh pool and returns topic and offset of the evidence."""

from collections.abc import Callable
from typing import Any

from audit_logs import HEARTBEAT_MS, LEASE_MS, WINDOW_MS, Pool, digest, settled

Breach = Callable[[Pool], tuple[str, int]]
BREACHES: list[tuple[int, str, Breach]] = []
"""Invariant, words of the finding, and the breach."""


def breaks(invariant: int, words: str) -> Callable[[Breach], Breach]:
    """Register a breach."""

    def register(breach: Breach) -> Breach:
        BREACHES.append((invariant, words, breach))
        return breach

    return register


# --- 1: capacity -----------------------------------------------------------------------------------------------------------------------


@breaks(1, "past capacity: 0 + 9 of 8 VCPU")
def one_claim_is_larger_than_the_host(p: Pool) -> tuple[str, int]:
    return "hosts", p.placed("r-1", "a-1", vcpu=9)


@breaks(1, "past capacity: 6 + 4 of 8 VCPU")
def two_claims_are_together_larger_than_the_host(p: Pool) -> tuple[str, int]:
    p.placed("r-1", "a-1", vcpu=6)
    return "hosts", p.placed("r-2", "a-2", vcpu=4)


@breaks(1, "past capacity")
def reserved_share_is_given_away(p: Pool) -> tuple[str, int]:
    p.host().inventory = {"VCPU": {"total": 8, "reserved": 4}}
    p.snapshot()
    return "hosts", p.placed("r-1", "a-1", vcpu=6)


@breaks(1, "past capacity")
def grant_comes_while_found_instances_already_fill_the_host(p: Pool) -> tuple[str, int]:
    p.host().held["found.1"] = {"id": "found.1", "resources": {"VCPU": 10}, "state": "active", "origin": "found"}
    p.delta()
    return "hosts", p.placed("r-1", "a-1")


@breaks(1, "past capacity")
def overcommit_by_an_allocation_that_no_entry_explains(p: Pool) -> tuple[str, int]:
    p.host().held["a-1"] = {"id": "a-1", "request": "r-1", "resources": {"VCPU": 9}, "lease_ms": LEASE_MS}
    return "hosts", p.delta()


@breaks(1, "past capacity: 0 + 5 of 4 PCPU of cell 0")
def one_claim_is_larger_than_a_cell(p: Pool) -> tuple[str, int]:
    p.celled()
    return "hosts", p.placed_in("r-1", "a-1", "0", {"PCPU": 5}, "2-6")


@breaks(1, "past capacity: 3 + 2 of 4 PCPU of cell 1")
def two_claims_are_together_larger_than_a_cell(p: Pool) -> tuple[str, int]:
    p.celled()
    p.placed_in("r-1", "a-1", "1", {"PCPU": 3}, "8-10")
    return "hosts", p.placed_in("r-2", "a-2", "1", {"PCPU": 2}, "10-11")


@breaks(1, "gave a-2 cpu 3 of cell 0: 2 of 1 are used")
def cpu_is_given_twice(p: Pool) -> tuple[str, int]:
    p.celled()
    p.placed_in("r-1", "a-1", "0", {"PCPU": 2}, "2-3")
    return "hosts", p.placed_in("r-2", "a-2", "0", {"PCPU": 2}, "3-4")


@breaks(1, "gave a-1 cpu 0 of cell 0: 1 of 0 are used")
def shared_cpu_is_given_to_one_instance(p: Pool) -> tuple[str, int]:
    p.celled()
    return "hosts", p.placed_in("r-1", "a-1", "0", {"PCPU": 1}, "0")


@breaks(1, "gave a-2 device g0 of cell 0: 5 of 4 are used")
def device_gives_more_shares_than_it_has(p: Pool) -> tuple[str, int]:
    p.celled()
    p.placed_in("r-1", "a-1", "0", {"VGPU": 2}, devices={"g0": 3})
    return "hosts", p.placed_in("r-2", "a-2", "0", {"VGPU": 2}, devices={"g0": 2})


@breaks(1, "gave a-1 1 of the 2 PCPU of cell 0 by number")
def fewer_cpus_are_given_than_were_claimed(p: Pool) -> tuple[str, int]:
    p.celled()
    return "hosts", p.placed_in("r-1", "a-1", "0", {"PCPU": 2}, "2")


@breaks(6, "gave a-1 other cpus or devices than before")
def restarted_agent_gives_other_cpus(p: Pool) -> tuple[str, int]:
    p.celled()
    p.placed_in("r-1", "a-1", "0", {"PCPU": 1}, "2")
    p.host().held["a-1"] = p.host().held["a-1"] | {"assigned": {"0": {"cpus": "3"}}}
    p.start()
    return "hosts", p.snapshot()


# --- 2: one effective decision ---------------------------------------------------------------------------------------------------------


@breaks(2, "has no decision")
def request_is_never_decided(p: Pool) -> tuple[str, int]:
    at = p.request("r-1")
    p.heartbeats(120_000)
    return "requests", at


@breaks(2, "has no decision")
def request_is_passed_over_for_another(p: Pool) -> tuple[str, int]:
    at = p.request("r-1")
    p.decide("r-other", result="rejected", position={"partition": 0, "offset": at})
    p.heartbeats(120_000)
    return "requests", at


@breaks(2, "its request on 3")
def decision_stands_on_another_partition_than_its_request(p: Pool) -> tuple[str, int]:
    p.request("r-1")
    return "decisions", p.decide("r-1", position={"partition": 3, "offset": 0})


@breaks(2, "was never told so")
def reused_id_gets_no_answer(p: Pool) -> tuple[str, int]:
    p.request("r-1")
    p.decide("r-1")
    at = p.request("r-1", count=2)
    p.heartbeats(120_000)
    return "requests", at


@breaks(2, "which was never made")
def decision_answers_no_request(p: Pool) -> tuple[str, int]:
    return "decisions", p.decide("r-1")


@breaks(2, "which only the void decision")
def allocation_of_a_void_decision_is_confirmed(p: Pool) -> tuple[str, int]:
    p.placed("r-1", "a-1")
    at = p.delta(settled=p.take(p.claim("r-1", "a-2")))
    p.decide("r-1", ("a-2", at))
    return "hosts", p.confirmed("r-1", "a-2")


@breaks(2, "which no effective decision on r-1 names")
def allocation_that_lost_is_confirmed(p: Pool) -> tuple[str, int]:
    p.placed("r-1", "a-1")
    p.delta(settled=p.take(p.claim("r-1", "a-2")))
    return "hosts", p.confirmed("r-1", "a-2")


@breaks(2, "which no effective decision on ghost names")
def allocation_of_a_request_that_was_never_made_is_confirmed(p: Pool) -> tuple[str, int]:
    p.delta(settled=p.take(p.claim("ghost", "a-1")))
    return later(p, "hosts", p.confirmed("ghost", "a-1"))


@breaks(2, "which no effective decision on r-1 names")
def allocation_is_confirmed_before_anything_is_decided(p: Pool) -> tuple[str, int]:
    p.request("r-0")
    p.decide("r-0")
    p.retain("decisions", 1)
    p.request("r-9")
    p.decide("r-9", result="rejected")
    p.request("r-1", deadline_ms=600_000)  # claimed once all older decisions that are left are known
    p.delta(settled=p.take(p.claim("r-1", "a-1")))
    return later(p, "hosts", p.confirmed("r-1", "a-1"))


@breaks(2, "which only the void decision")
def allocation_of_a_void_decision_on_an_id_used_again_is_confirmed(p: Pool) -> tuple[str, int]:
    p.placed("r-1", "a-1")
    p.used_again(WINDOW_MS + 60_000, "r-1", "a-2", "a-3", project="blue")
    p.confirmed("r-1", "a-2")
    return "hosts", p.confirmed("r-1", "a-3")


@breaks(2, "which only the void decision")
def allocation_of_a_decision_that_a_paused_owner_writes_past_the_window_is_confirmed(p: Pool) -> tuple[str, int]:
    p.placed("r-1", "a-1")
    p.heartbeats(WINDOW_MS + 60_000)
    at = p.delta(settled=p.take(p.claim("r-1", "a-2")))
    p.decide("r-1", ("a-2", at))
    return "hosts", p.confirmed("r-1", "a-2")


@breaks(2, "has no decision")
def id_used_again_past_the_window_gets_no_answer(p: Pool) -> tuple[str, int]:
    p.request("r-1")
    p.decide("r-1")
    at = p.used_again(WINDOW_MS + 60_000, "r-1", project="blue")
    p.heartbeats(120_000)
    return "requests", at


# --- 3: granted before, and holds ------------------------------------------------------------------------------------------------------


@breaks(3, "does not show it")
def decision_names_a_report_that_lacks_the_allocation(p: Pool) -> tuple[str, int]:
    p.request("r-1")
    p.delta(settled=p.take(p.claim("r-1", "a-1")))
    return "decisions", p.decide("r-1", ("a-1", 1))


@breaks(3, "on h9")
def decision_names_another_host(p: Pool) -> tuple[str, int]:
    p.request("r-1")
    at = p.delta(settled=p.take(p.claim("r-1", "a-1")))
    return "decisions", p.decide("r-1", ("a-1", at), host="h9")


@breaks(3, "before its grant stood")
def decision_is_written_before_the_grant(p: Pool) -> tuple[str, int]:
    p.request("r-1")
    at = p.decide("r-1", ("a-1", 2))
    p.delta(settled=p.take(p.claim("r-1", "a-1")))
    return "decisions", at


@breaks(3, "where the log has no record")
def decision_names_a_position_beyond_the_end(p: Pool) -> tuple[str, int]:
    p.request("r-1")
    return "decisions", p.decide("r-1", ("a-1", 77))


@breaks(3, "which is a start record")
def decision_names_a_start_record(p: Pool) -> tuple[str, int]:
    p.request("r-1")
    return "decisions", p.decide("r-1", ("a-1", 0))


@breaks(3, "shows for r-2.0")
def decision_names_the_allocation_of_another_request(p: Pool) -> tuple[str, int]:
    at = p.placed("r-2", "a-1")
    p.request("r-1")
    return "decisions", p.decide("r-1", ("a-1", at))


@breaks(3, "which asked for 2")
def decision_places_a_part_only(p: Pool) -> tuple[str, int]:
    p.request("r-1", count=2)
    at = p.delta(settled=p.take(p.claim("r-1", "a-1")))
    return "decisions", p.decide("r-1", ("a-1", at), count=2, content=digest("r-1", count=2))


@breaks(3, "says neither")
def placed_allocation_vanishes_without_a_word(p: Pool) -> tuple[str, int]:
    p.placed("r-1", "a-1")
    p.end("lapsed", "a-1")
    return "hosts", p.delta()


@breaks(3, "which was confirmed")
def confirmed_allocation_lapses(p: Pool) -> tuple[str, int]:
    p.placed("r-1", "a-1")
    p.confirmed("r-1", "a-1")
    p.heartbeats(LEASE_MS)
    return "hosts", p.delta(settled=p.end("lapsed", "a-1"))


@breaks(3, "before its lease is over")
def lease_lapses_too_early(p: Pool) -> tuple[str, int]:
    p.placed("r-1", "a-1")
    p.tick(100_000)
    return "hosts", p.delta(settled=p.end("lapsed", "a-1"))


@breaks(3, "before its lease is over")
def renewed_lease_lapses_too_early(p: Pool) -> tuple[str, int]:
    p.placed("r-1", "a-1")
    p.tick(200_000)
    p.host().through = p.claim("r-1", "a-1", mode="renew")
    p.delta(settled=[settled("renewed", "a-1", p.host().through)])
    p.tick(200_000)
    return "hosts", p.delta(settled=p.end("lapsed", "a-1"))


@breaks(3, "before its lease is over")
def restarted_agent_lets_a_lease_lapse_too_early(p: Pool) -> tuple[str, int]:
    p.placed("r-1", "a-1")
    p.tick(200_000)
    p.start()
    p.snapshot()
    p.tick(200_000)
    return "hosts", p.delta(settled=p.end("lapsed", "a-1"))


@breaks(3, "was forgotten while it held a-1")
def host_is_forgotten_with_a_placed_allocation(p: Pool) -> tuple[str, int]:
    p.placed("r-1", "a-1")
    return "hosts", p.start(removed=True)


# --- 5: one allocation per instance, leases --------------------------------------------------------------------------------------------


@breaks(5, "has 2 active allocations")
def instance_stays_on_two_hosts(p: Pool) -> tuple[str, int]:
    p.start("h2")
    p.snapshot("h2")
    p.delta(settled=p.take(p.claim("r-1", "a-1")))
    p.delta("h2", settled=p.take(p.claim("r-1", "b-1", host="h2"), "h2"))
    p.confirmed("r-1", "a-1")
    return "hosts", p.confirmed("r-1", "b-1", host="h2")


@breaks(5, "has 2 active allocations")
def instance_stays_twice_on_one_host(p: Pool) -> tuple[str, int]:
    p.delta(settled=p.take(p.claim("r-1", "a-1")))
    p.delta(settled=p.take(p.claim("r-1", "a-2")))
    p.confirmed("r-1", "a-1")
    return "hosts", p.confirmed("r-1", "a-2")


@breaks(5, "after its lease ran out")
def lease_never_lapses(p: Pool) -> tuple[str, int]:
    p.placed("r-1", "a-1")
    p.tick(LEASE_MS)
    p.heartbeats(3 * HEARTBEAT_MS)
    return (
        "hosts",
        p.host().epoch + 5,
    )  # start, snapshot, grant, then the first heartbeat past lease, slack and heartbeat


@breaks(5, "after its lease ran out")
def lease_outlives_even_the_restart(p: Pool) -> tuple[str, int]:
    p.placed("r-1", "a-1")
    p.heartbeats(200_000)
    p.start()
    p.snapshot()
    p.tick(LEASE_MS + 60_000)
    return "hosts", p.delta()


@breaks(5, "which it does not hold")
def lapsed_lease_is_renewed(p: Pool) -> tuple[str, int]:
    p.placed("r-1", "a-1")
    p.tick(LEASE_MS)
    p.delta(settled=p.end("lapsed", "a-1"))
    renew = p.claim("r-1", "a-1", mode="renew")
    p.host().through = renew
    return "hosts", p.delta(settled=[settled("renewed", "a-1", renew)])


@breaks(5, "an id that was used before")
def allocation_id_is_used_again(p: Pool) -> tuple[str, int]:
    p.placed("r-1", "a-1")
    p.delta(settled=p.end("released", "a-1", p.ask("release", "r-1", "a-1")))
    return "hosts", p.placed("r-2", "a-1")


@breaks(5, "from active to leased")
def active_allocation_becomes_leased_again(p: Pool) -> tuple[str, int]:
    p.placed("r-1", "a-1")
    p.confirmed("r-1", "a-1")
    p.host().held["a-1"] |= {"state": "leased"}
    return "hosts", p.delta()


# --- 6: strict claims and fits ---------------------------------------------------------------------------------------------------------


@breaks(6, "which expects 0000000000000000")
def strict_claim_is_granted_on_another_state(p: Pool) -> tuple[str, int]:
    return "hosts", p.placed("r-1", "a-1", expected="0" * 16)


@breaks(6, "on which it granted another just before")
def two_racers_on_one_state_both_win(p: Pool) -> tuple[str, int]:
    one, two = p.claim("r-1", "a-1"), p.claim("r-2", "a-2")
    return "hosts", p.delta(settled=p.take(one) + p.take(two))


@breaks(6, "on state")
def two_racers_on_one_state_win_in_two_reports(p: Pool) -> tuple[str, int]:
    one, two = p.claim("r-1", "a-1"), p.claim("r-2", "a-2")
    p.delta(settled=p.take(one))
    return "hosts", p.delta(settled=p.take(two))


@breaks(6, "which no claim that it settled explains")
def allocation_appears_without_a_claim(p: Pool) -> tuple[str, int]:
    p.host().held["a-1"] = {"id": "a-1", "request": "r-1", "resources": {"VCPU": 1}, "lease_ms": LEASE_MS}
    return "hosts", p.delta()


@breaks(6, "which claims nothing for this host")
def grant_names_a_record_that_is_no_claim(p: Pool) -> tuple[str, int]:
    release = p.ask("release", "r-1", "a-0")
    p.host().through = release
    p.host().held["a-1"] = {"id": "a-1", "request": "r-1", "resources": {"VCPU": 1}, "lease_ms": LEASE_MS}
    return "hosts", p.delta(settled=[settled("granted", "a-1", release)])


@breaks(6, "otherwise than the claim at 0 asked for it")
def ledger_holds_less_than_was_claimed(p: Pool) -> tuple[str, int]:
    entries = p.take(p.claim("r-1", "a-1", vcpu=4))
    p.host().held["a-1"]["resources"] = {"VCPU": 1}
    return "hosts", p.delta(settled=entries)


@breaks(6, "changed the content of a-1")
def allocation_changes_its_size(p: Pool) -> tuple[str, int]:
    p.placed("r-1", "a-1")
    p.host().held["a-1"] = p.host().held["a-1"] | {"resources": {"VCPU": 1}}
    return "hosts", p.delta()


@breaks(6, "lacks HW_X")
def required_trait_is_missing(p: Pool) -> tuple[str, int]:
    return "hosts", p.placed("r-1", "a-1", traits_required=["HW_X"])


@breaks(6, "has HW_X")
def forbidden_trait_is_there(p: Pool) -> tuple[str, int]:
    p.host().traits = ["HW_X"]
    p.snapshot()
    return "hosts", p.placed("r-1", "a-1", traits_forbidden=["HW_X"], mode="fits")


@breaks(6, "is disabled")
def grant_on_a_disabled_host(p: Pool) -> tuple[str, int]:
    p.host().status = "disabled"
    p.snapshot()
    return "hosts", p.placed("r-1", "a-1")


@breaks(6, "1 of group web are here and 1 may be")
def anti_affinity_is_checked_by_nobody(p: Pool) -> tuple[str, int]:
    def member(request: str, allocation: str) -> int:
        asked = [{"id": allocation, "request": request, "resources": {"VCPU": 1}, "group": "web"}]
        claim = p.claim(request, allocation, allocations=asked, group_max=1)
        return p.delta(settled=p.take(claim))

    member("r-1", "a-1")
    return "hosts", member("r-2", "a-2")


@breaks(6, "2 builds are then in progress and 1 may be")
def too_many_builds_in_progress(p: Pool) -> tuple[str, int]:
    p.placed("r-1", "a-1", builds_max=1)
    return "hosts", p.placed("r-2", "a-2", builds_max=1)


@breaks(6, "1 instances are here and 1 may be")
def too_many_instances(p: Pool) -> tuple[str, int]:
    p.placed("r-1", "a-1", instances_max=1)
    return "hosts", p.placed("r-2", "a-2", instances_max=1)


@breaks(6, "is no amount the host gives")
def step_size_is_ignored(p: Pool) -> tuple[str, int]:
    p.host().inventory = {"VCPU": {"total": 8, "step_size": 4}}
    p.snapshot()
    return "hosts", p.placed("r-1", "a-1", vcpu=2)


@breaks(6, "beyond its own watermark")
def report_settles_beyond_its_watermark(p: Pool) -> tuple[str, int]:
    entries = p.take(p.claim("r-1", "a-1"))
    p.host().through = -1
    return "hosts", p.delta(settled=entries)


@breaks(6, "although it holds it")
def claim_is_granted_twice(p: Pool) -> tuple[str, int]:
    claim = p.claim("r-1", "a-1")
    p.delta(settled=p.take(claim))
    again = p.claim("r-1", "a-1")
    p.host().through = again
    return "hosts", p.delta(settled=[settled("granted", "a-1", again)])


# --- 9: void reports -------------------------------------------------------------------------------------------------------------------


@breaks(9, "is the void report at hosts 0/3")
def decision_rests_on_a_fenced_agents_report(p: Pool) -> tuple[str, int]:
    p.request("r-1")
    old = p.host().epoch
    p.start()
    p.host().epoch = old
    p.host().generation = 1
    p.host().base_generation = 1
    at = p.delta(settled=p.take(p.claim("r-1", "a-1")))
    return "decisions", p.decide("r-1", ("a-1", at))


@breaks(9, "is the void report")
def decision_rests_on_a_report_of_a_removed_host(p: Pool) -> tuple[str, int]:
    p.request("r-1")
    p.start(removed=True)
    at = p.snapshot(settled=p.take(p.claim("r-1", "a-1")))
    return "decisions", p.decide("r-1", ("a-1", at))


@breaks(9, "goes back from generation 3 to 2")
def generation_goes_back(p: Pool) -> tuple[str, int]:
    p.delta()
    p.delta()
    p.host().generation = 1
    return "hosts", p.delta()


@breaks(9, "twice, with other content")
def generation_is_used_for_two_states(p: Pool) -> tuple[str, int]:
    p.delta()
    p.host().generation -= 1
    p.host().traits = ["HW_X"]
    return "hosts", p.delta(traits=["HW_X"])


@breaks(9, "which is not its last snapshot")
def delta_rests_on_another_snapshot(p: Pool) -> tuple[str, int]:
    p.delta()
    p.snapshot()
    return "hosts", p.delta(base_generation=1)


@breaks(9, "which is not its last snapshot")
def delta_rests_on_the_snapshot_of_another_epoch(p: Pool) -> tuple[str, int]:
    p.start()
    return "hosts", p.delta(base_generation=1)


@breaks(9, "where no start record of it stands")
def report_of_an_epoch_that_never_started(p: Pool) -> tuple[str, int]:
    p.host().epoch = 1
    p.host().generation = 0
    return "hosts", p.snapshot()


@breaks(9, "its content hashes to")
def snapshot_says_another_hash(p: Pool) -> tuple[str, int]:
    return "hosts", p.snapshot(hash="0123456789abcdef")


@breaks(9, "its content hashes to")
def delta_is_incremental_instead_of_cumulative(p: Pool) -> tuple[str, int]:
    p.placed("r-1", "a-1")
    entries = p.take(p.claim("r-2", "a-2"))
    return "hosts", p.delta(settled=entries, upserts=[p.host().held["a-2"]])


@breaks(9, "the log ends at 0")
def watermark_lies_beyond_the_log(p: Pool) -> tuple[str, int]:
    p.host().through = 12
    return "hosts", p.delta()


@breaks(9, "takes claims_through back from 1 to 0")
def watermark_goes_back(p: Pool) -> tuple[str, int]:
    p.ask("release", "r-1", "a-1")
    p.ask("release", "r-1", "a-1")
    p.host().through = 1
    p.delta()
    p.host().through = 0
    return "hosts", p.delta()


# --- 10: nothing is skipped in silence -------------------------------------------------------------------------------------------------


def later(p: Pool, topic: str, offset: int) -> tuple[str, int]:
    """The pool lives on for longer than the grace."""
    p.heartbeats(60_000)
    return topic, offset


def flood(p: Pool, bad: int, told: int) -> None:
    """So much garbage within a second, and the notices of as much of it."""
    first = p.put("claims", "h1", b"{garbage")
    for _ in range(bad - 1):
        p.put("claims", "h1", b"{garbage")
    for offset in range(first, first + told):
        p.quarantine("claims", offset)


@breaks(10, "nobody quarantined it")
def garbage_claim_is_skipped(p: Pool) -> tuple[str, int]:
    return later(p, "claims", p.put("claims", "h1", b"{garbage"))


@breaks(10, "nobody quarantined it")
def garbage_request_is_skipped(p: Pool) -> tuple[str, int]:
    return later(p, "requests", p.request("r-1", group_maximum=1))


@breaks(10, "nobody quarantined it")
def garbage_decision_is_skipped(p: Pool) -> tuple[str, int]:
    return later(p, "decisions", p.put("decisions", "r-1", {"type": "decision", "result": "maybe"}))


@breaks(10, "nobody quarantined it")
def garbage_host_record_is_skipped(p: Pool) -> tuple[str, int]:
    return later(p, "hosts", p.put("hosts", "h2/start", b"[" * 10_000))


@breaks(10, "nobody quarantined it")
def garbage_control_record_is_skipped(p: Pool) -> tuple[str, int]:
    return later(p, "control", p.put("control", "flavor/x", {"type": "flavor", "name": "x", "resources": {"VCPU": -1}}))


@breaks(10, "the record of h2")
def host_record_under_the_key_of_another_host_is_skipped(p: Pool) -> tuple[str, int]:
    return later(p, "hosts", p.put("hosts", "h1/start", {"type": "start", "v": 1, "host": "h2"}))


@breaks(10, "its key is not its host h2")
def claim_under_the_key_of_another_host_is_skipped(p: Pool) -> tuple[str, int]:
    return later(
        p, "claims", p.put("claims", "h1", {"type": "confirm", "host": "h2", "request": "r-1", "allocation": "a-1"})
    )


@breaks(10, "is not of flavor")
def request_under_the_key_of_another_flavor_is_skipped(p: Pool) -> tuple[str, int]:
    return later(p, "requests", p.put("requests", "m1.large", {"type": "build", "id": "r-1", "flavor": "m1.small"}))


@breaks(10, "nobody quarantined it")
def quarantine_names_another_place(p: Pool) -> tuple[str, int]:
    at = p.put("claims", "h1", b"{garbage")
    p.quarantine("claims", at + 1)
    p.quarantine("requests", at)
    return later(p, "claims", at)


@breaks(10, "nobody quarantined it")
def garbage_is_skipped_long_before_so_much_comes_that_not_all_is_quarantined(p: Pool) -> tuple[str, int]:
    at = p.put("claims", "h1", b"{garbage")
    p.tick(60_000)
    flood(p, 150, 100)
    return later(p, "claims", at)


# --- 12: what is placed is where its request lets it be --------------------------------------------------------------------------------

TOGETHER = {"group": "web", "group_policy": "affinity"}


def second_host(p: Pool) -> None:
    p.start("h2")
    p.snapshot("h2")


@breaks(12, "is placed on h1, it asked for h2")
def demanded_host_is_another(p: Pool) -> tuple[str, int]:
    return "decisions", p.member("r-1", "a-1", host="h2")


@breaks(12, "is placed on h1, which it ignores")
def ignored_host_is_taken(p: Pool) -> tuple[str, int]:
    return "decisions", p.member("r-1", "a-1", hosts_ignored=["h2", "h1"])


@breaks(12, "is placed on h1, and asked for east")
def host_is_in_no_aggregate_asked_for(p: Pool) -> tuple[str, int]:
    p.aggregate("east", "h2")
    return "decisions", p.member("r-1", "a-1", member_of=["east"])


@breaks(12, "is placed on h1, and asked for !east")
def host_is_in_a_forbidden_aggregate(p: Pool) -> tuple[str, int]:
    p.aggregate("east", "h1")
    p.aggregate("west", "h1")
    return "decisions", p.member("r-1", "a-1", member_of=["in:west,north", "!east"])


@breaks(12, "is placed on h1, and asked for in:east,west")
def host_is_in_none_of_several_aggregates(p: Pool) -> tuple[str, int]:
    p.aggregate("east", "h2")
    p.aggregate("west")
    return "decisions", p.member("r-1", "a-1", member_of=["in:east,west"])


def granted(p: Pool, carried: dict[str, object], **asked: Any) -> tuple[str, int]:
    """The report that grants a member; the decision comes after it."""
    p.member("r-1", "a-1", carried=carried, **asked)
    return "hosts", p.logs["hosts"][-1].offset


@breaks(12, "that allows any number of group web here, it asked for 1")
def claim_forgets_the_groups_limit(p: Pool) -> tuple[str, int]:
    return granted(p, {"group_max": 0}, group="web", group_max=1)


@breaks(12, "for group '', it asked for 'web'")
def claim_forgets_the_group(p: Pool) -> tuple[str, int]:
    part = {"id": "a-1", "request": "r-1", "resources": {"VCPU": 1}}
    return granted(p, {"allocations": [part]}, group="web", group_max=1)


@breaks(12, "without trait CUSTOM_A, which it forbids")
def claim_forgets_a_trait(p: Pool) -> tuple[str, int]:
    return granted(p, {"traits_forbidden": []}, traits_forbidden=["CUSTOM_A"])


@breaks(12, "without the traits of which it asks for one")
def claim_forgets_traits_of_which_one_is_asked(p: Pool) -> tuple[str, int]:
    p.host().traits = ["CUSTOM_A"]
    p.snapshot()
    return granted(p, {"traits_any_of": []}, traits_any_of=[["CUSTOM_A", "CUSTOM_B"]])


@breaks(12, "r-2 of group web is placed on h2, its members are on h1")
def member_of_a_group_that_stays_together_is_elsewhere(p: Pool) -> tuple[str, int]:
    second_host(p)
    p.member("r-1", "a-1", **TOGETHER)
    return "decisions", p.member("r-2", "a-2", on="h2", **TOGETHER)


@breaks(12, "is placed on h1, h2, and group web stays on one host")
def group_is_founded_on_two_hosts(p: Pool) -> tuple[str, int]:
    second_host(p)
    p.request("r-1", count=2, **TOGETHER)
    grants = {}
    for index, (host, allocation) in enumerate((("h1", "a-1"), ("h2", "a-2"))):
        part = {"id": allocation, "request": "r-1", "index": index, "resources": {"VCPU": 1}, "group": "web"}
        grants[host] = p.delta(host, p.take(p.claim("r-1", host=host, allocations=[part]), host))
    placed = [
        {"index": n, "instance": f"r-1.{n}", "host": host, "allocation": f"a-{n + 1}", "grant": {"partition": 0, "offset": at}}
        for n, (host, at) in enumerate(grants.items())
    ]  # fmt: skip
    said: dict[str, Any] = {
        "result": "placed",
        "count": 2,
        "placed": placed,
        "content": digest("r-1", count=2, **TOGETHER),
    }
    return "decisions", p.decide("r-1", **said)
