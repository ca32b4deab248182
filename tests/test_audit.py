"""The audit finds every invariant broken by a hand-made log, names the place, and counts what it cannot prove as not proved."""

import ast
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audit_breaches import BREACHES, Breach, flood, later
from audit_logs import HEARTBEAT_MS, LEASE_MS, WINDOW_MS, Pool, digest, name_of, pool, settled
from commonplace.core.codec import Bad, decode, encode
from commonplace.core.partition import partition_of
from commonplace.ops import audit
from commonplace.ops.audit import AuditReport, hashes, wire, wire_hosts
from commonplace.ops.audit.evidence import Log, Seen
from commonplace.ops.audit.read import options_for
from commonplace.sections import AgentSettings, LimitsSettings, SchedulerSettings
from commonplace.settings import Settings
from test_golden import RECORDS

VECTORS = json.loads((Path(__file__).parent / "vectors" / "hash.json").read_text())
AUDIT = Path(audit.__file__).parent
SHELL = {"read.py"}


def day() -> Pool:
    """A day in the life of a pool: placed, confirmed, released, lapsed, renewed, rejected, restarted, found, drained."""
    p = pool()
    p.start("h2")
    p.snapshot("h2")
    p.placed("r-1", "a-1")
    p.confirmed("r-1", "a-1")
    p.placed("r-2", "a-2")
    p.delta(settled=p.end("released", "a-2", p.ask("release", "r-2", "a-2")))
    stale = p.claim("r-3", "a-3", expected="0" * 16)
    p.host().through = stale
    p.delta(settled=[settled("rejected", "a-3", stale, reason="stale")])
    p.request("r-3")
    first = p.take(p.claim("r-3", "a-4"))  # two claims in one report: the second on the predicted state
    second = p.take(p.claim("r-4", "a-5", "a-6"))
    at = p.delta(settled=first + second)
    p.request("r-4", count=2)
    p.decide("r-3", ("a-4", at))
    p.decide("r-4", ("a-5", at), ("a-6", at), content=digest("r-4", count=2))
    p.decide("r-3", ("a-4", at))  # said again
    p.confirmed("r-4", "a-5")
    p.confirmed("r-4", "a-6")
    p.heartbeats(200_000)
    renew = p.claim("r-3", "a-4", mode="renew")
    p.host().through = renew
    p.delta(settled=[settled("renewed", "a-4", renew)])
    p.heartbeats(LEASE_MS)
    p.delta(settled=p.end("lapsed", "a-4"))
    p.placed("r-5", "b-1", host="h2")
    p.heartbeats(200_000, "h2")
    p.start("h2")  # the agent is restarted: leases anew, in full
    p.snapshot("h2")
    p.heartbeats(LEASE_MS - HEARTBEAT_MS, "h2")
    p.confirmed("r-5", "b-1", host="h2")
    p.host().held["found.vm7"] = {"id": "found.vm7", "resources": {"VCPU": 4}, "state": "active", "origin": "found"}
    p.delta()  # over capacity, by no grant
    p.host().status = "draining"
    p.delta(status="draining")
    p.snapshot()
    p.request("r-6")
    p.decide("r-6")
    p.request("r-6", count=2)
    p.decide("r-6", result="rejected", reason="id_reused", content=digest("r-6", count=2), placed=[])
    p.request("r-7", deadline_ms=60_000)
    bad = p.put("requests", "m1.small", b"{")
    p.quarantine("requests", bad)
    p.start("h3")
    p.host("h3").through = p.logs["claims"][-1].offset  # a new host: nobody can have claimed it
    p.snapshot("h3")
    p.aggregate("east", "h3")
    p.member("r-8", "c-1", on="h3", group="web", group_policy="affinity", host="h3", traits_forbidden=["CUSTOM_A"])
    p.member("r-9", "c-2", on="h3", group="web", group_policy="affinity", member_of=["in:west,east"])
    return p


def violations(report: AuditReport) -> list[tuple[int, str, int]]:
    return [(n, v.topic, v.offset) for n, tally in report.tallies.items() for v in tally.violations]


def unprovable(report: AuditReport) -> dict[int, int]:
    return {n: tally.unprovable for n, tally in report.tallies.items() if tally.unprovable}


def test_clean_log_is_clean_and_every_invariant_had_something_to_check() -> None:
    report = day().audit({"ssd": Pool()})
    assert violations(report) == []
    assert unprovable(report) == {}
    assert report.clean
    assert report.verdict == "clean"
    assert all(tally.checked for tally in report.tallies.values()), report.to_dict()
    assert report.tallies[2].pending == 1  # r-7 is within its deadline
    figures = report.figures
    assert (figures["placed"], figures["decisions_repeated"], figures["id_reused"], figures["requests_pending"]) == (
        7,
        1,
        1,
        1,
    )
    assert figures["conflict_fraction"] == round(1 / 7, 4)
    assert figures["requests_quarantined"] == 1
    for topic in ("hosts", "claims", "requests", "decisions"):
        parts = sum(figures.get(f"{topic}_{part}", 0) for part in ("applied", "superseded", "quarantined", "newer"))
        assert parts == figures[f"{topic}_read"], topic


def test_empty_topics_are_nothing_to_check() -> None:
    report = Pool().audit()
    assert report.verdict == "nothing"
    assert not report.clean


# --- logs that break an invariant ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("invariant", "words", "breach"), BREACHES, ids=[breach.__name__ for _, _, breach in BREACHES])
def test_broken_invariant_is_found_at_its_place(invariant: int, words: str, breach: Breach) -> None:
    p = pool()
    topic, offset = breach(p)
    report = p.audit()
    found = [v for v in report.tallies[invariant].violations if words in v.text]
    assert found, report.to_dict()
    assert [(v.topic, v.partition, v.offset) for v in found] == [(name_of(topic), 0, offset)]
    assert report.verdict == "violated"
    assert not report.clean


@pytest.mark.parametrize("invariant", [1, 2, 3, 5, 6, 9, 10, 12])
def test_every_invariant_is_broken_in_at_least_two_ways(invariant: int) -> None:
    assert sum(number == invariant for number, _, _ in BREACHES) >= 2


# --- what compaction and retention took ------------------------------------------------------------------------------------------------


def compact(p: Pool, boundary: int) -> None:
    """Kafka's rule: below `boundary` only the last record of each key stays."""
    last = {entry.key: entry.offset for entry in p.logs["hosts"] if entry.offset < boundary}
    p.drop("hosts", lambda entry: entry.offset < boundary and last[entry.key] != entry.offset)


def test_compaction_makes_facts_unprovable_and_never_passed() -> None:
    whole, p = day().audit(), day()
    compact(p, len(p.logs["hosts"]) - 3)
    report = p.audit()
    assert violations(report) == []
    for number in (3, 6, 9):
        assert report.tallies[number].unprovable, number
        assert report.tallies[number].checked < whole.tallies[number].checked, number


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_no_compaction_and_no_retention_makes_a_clean_log_look_broken(data: st.DataObject) -> None:
    p = day()
    hosts = len(p.logs["hosts"])
    for boundary in sorted(data.draw(st.lists(st.integers(0, hosts), max_size=3))):
        compact(p, boundary)
    for topic in ("claims", "quarantine"):
        p.retain(topic, data.draw(st.integers(0, len(p.logs[topic]))))
    requests = data.draw(st.integers(0, len(p.logs["requests"])))
    oldest = next((e.timestamp_ms for e in p.logs["requests"] if e.offset >= requests), p.now_ms)
    decisions = [e.offset for e in p.logs["decisions"] if e.timestamp_ms >= oldest]
    p.retain("requests", requests)
    p.retain(
        "decisions", data.draw(st.integers(0, min(decisions, default=len(p.logs["decisions"]))))
    )  # kept longer than requests
    assert violations(p.audit()) == []


def test_breach_whose_evidence_is_compacted_is_unprovable() -> None:
    p = pool()
    p.placed("r-1", "a-1", expected="0" * 16)
    p.heartbeats(60_000)
    compact(p, len(p.logs["hosts"]))
    report = p.audit()
    assert violations(report) == []
    assert report.tallies[3].unprovable
    assert report.tallies[6].unprovable


def test_claims_gone_by_retention_make_their_grants_unprovable() -> None:
    p = pool()
    p.placed("r-1", "a-1")
    p.retain("claims", 1)
    report = p.audit()
    assert unprovable(report) == {6: 1}
    assert report.clean


def test_grants_of_a_claims_topic_that_was_made_again_are_unprovable() -> None:
    p = pool()
    p.delta(settled=p.take(p.claim("r-1", "a-1")), claims_topic="the topic before")
    assert unprovable(p.audit()) == {6: 1}


def test_decisions_gone_by_retention_are_unprovable_and_later_ones_still_required() -> None:
    p = pool()
    p.request("r-1")
    p.decide("r-1")
    p.retain("decisions", 1)
    p.request("r-2")
    p.decide("r-2")
    p.heartbeats(120_000)
    assert unprovable(p.audit()) == {2: 1}
    late = p.request("r-3")
    p.heartbeats(120_000)
    assert violations(p.audit()) == [(2, name_of("requests"), late)]


def test_omitted_settled_entries_make_what_they_would_explain_unprovable() -> None:
    p = pool()
    p.placed("r-1", "a-1")
    p.end("released", "a-1")
    p.delta(settled_omitted=1)
    assert unprovable(p.audit()) == {3: 1}


def test_a_renewal_that_the_report_omits_makes_the_lease_unprovable() -> None:
    p = pool()
    p.placed("r-1", "a-1")
    p.tick(200_000)
    p.host().through = p.claim("r-1", "a-1", mode="renew")
    p.delta(settled_omitted=1)
    p.heartbeats(200_000)
    report = p.audit()
    assert violations(report) == []
    assert unprovable(report) == {5: 1}
    assert report.figures["settled_omitted"] == 1
    p.heartbeats(LEASE_MS)
    assert [number for number, _, _ in violations(p.audit())] == [5]


def test_a_resize_whose_confirm_the_report_omits_is_unprovable() -> None:
    p = pool()
    p.placed("r-1", "a-1", vcpu=2)
    p.confirmed("r-1", "a-1")
    part = {"id": "a-2", "request": "r-2", "index": 0, "resources": {"VCPU": 1}}
    whole = part | {"resources": {"VCPU": 3}}
    p.request("r-2")
    claim = p.claim("r-2", allocations=[part | {"replaces": "a-1", "becomes": {"resources": {"VCPU": 3}}}])
    p.decide("r-2", ("a-2", p.delta(settled=p.take(claim))))
    p.host().through = p.ask("confirm", "r-2", "a-2")
    p.end("released", "a-1")
    p.host().held["a-2"] = whole | {"state": "active", "lease_ms": LEASE_MS}
    p.delta(settled_omitted=2)
    report = p.audit()
    assert violations(report) == []
    assert unprovable(report) == {3: 1, 6: 1}
    p.host().held["a-2"] = p.host().held["a-2"] | {"resources": {"VCPU": 4}}
    at = p.delta(settled_omitted=1)
    assert violations(p.audit()) == [(6, name_of("hosts"), at)]


# --- what is allowed -------------------------------------------------------------------------------------------------------------------


def clean(p: Pool, **options: int) -> AuditReport:
    report = p.audit(None, **options)
    assert violations(report) == []
    return report


def test_reports_of_a_fenced_agent_are_counted_and_not_applied() -> None:
    p = pool()
    old = p.host().epoch
    new = p.start()
    p.snapshot()
    state = dict(p.host().held)
    p.host().epoch, p.host().generation, p.host().base_generation = old, 1, 1
    p.delta(settled=p.take(p.claim("r-1", "a-1", vcpu=99)))
    p.host().epoch, p.host().generation, p.host().base_generation, p.host().held = new, 1, 1, state
    p.delta()
    assert clean(p).figures["reports_void"] == 1


def test_tombstones_of_lower_epochs_and_of_an_empty_forgotten_host_are_no_breach() -> None:
    p = pool()
    old = p.host().epoch
    p.placed("r-1", "a-1")
    p.start()
    p.snapshot()
    p.put("hosts", f"h1/{old}", None)
    p.put("hosts", f"h1/{old}/delta", None)
    p.delta(settled=p.end("released", "a-1", p.ask("release", "r-1", "a-1")))
    last = p.host().epoch
    p.start(removed=True)
    p.put("hosts", f"h1/{last}", None)
    p.put("hosts", f"h1/{last}/delta", None)
    assert clean(p).figures["hosts"] == 0
    p.start()  # and it comes back
    p.snapshot()
    assert clean(p).figures["hosts"] == 1


def test_gap_turns_what_is_held_active_without_a_decision() -> None:
    p = pool()
    p.placed("r-1", "a-1")
    p.delta(settled=p.take(p.claim("r-1", "a-2")))
    p.start()
    for allocation in p.host().held:
        p.host().held[allocation] |= {"state": "active"}
    p.snapshot(gap=True)
    assert unprovable(clean(p)) == {5: 1}  # whether both instances run is for an operator to see


def test_inventory_that_shrinks_in_the_report_of_a_grant_is_no_breach() -> None:
    p = pool()
    entries = p.take(p.claim("r-1", "a-1", vcpu=8))
    p.host().inventory = {"VCPU": {"total": 4}}
    p.delta(settled=entries, inventory=p.host().inventory)
    clean(p)


def test_instances_found_and_lost_between_two_strict_grants_may_stand_in_any_order() -> None:
    p = pool()
    vm = {"id": "found.1", "resources": {"VCPU": 1}, "state": "active", "origin": "found"}
    first = p.claim("r-1", "a-1")
    p.host().held["found.1"] = vm
    p.host().held["a-1"] = {"id": "a-1", "resources": {"VCPU": 2}}
    second = p.claim("r-2", "a-2")  # expects a state with the instance and the first allocation
    entries = p.take(first)
    p.delta(settled=entries + p.take(second))
    third = p.claim("r-3", "a-3")
    del p.host().held["found.1"]
    p.delta(settled=p.take(third))
    clean(p)


def test_cells_used_up_to_the_last_cpu_and_share_are_no_breach() -> None:
    p = pool()
    p.celled()
    p.placed_in("r-1", "a-1", "0", {"PCPU": 3, "VGPU": 1}, "2-4", {"g0": 1})
    p.placed_in("r-2", "a-2", "0", {"PCPU": 1, "VGPU": 3, "MEMORY_MB": 64}, "5", {"g0": 3})
    p.placed_in("r-3", "a-3", "1", {"PCPU": 2}, "8-11")  # isolated: the other threads of its cores are its too
    p.delta(settled=p.end("released", "a-1", p.ask("release", "r-1", "a-1")))
    p.placed_in("r-4", "a-4", "0", {"PCPU": 1}, "2")
    report = p.audit()
    assert violations(report) == []
    assert report.clean


def test_failed_build_ends_its_allocation() -> None:
    p = pool()
    p.placed("r-1", "a-1")
    p.delta(settled=p.end("failed", "a-1"))
    assert clean(p).tallies[3].checked == 2


def test_loser_that_is_leased_still_is_pending_and_a_released_one_is_no_breach() -> None:
    p = pool()
    p.placed("r-1", "a-1")
    at = p.delta(settled=p.take(p.claim("r-1", "a-2")))
    p.decide("r-1", ("a-2", at))
    p.confirmed("r-1", "a-1")
    report = clean(p)
    assert report.figures["decisions_void"] == 1
    assert report.tallies[5].pending == 1
    p.delta(settled=p.end("released", "a-2", p.ask("release", "r-1", "a-2")))
    assert clean(p).tallies[5].pending == 0


@pytest.mark.parametrize("released", [True, False])
@pytest.mark.parametrize(
    ("after_ms", "violated", "unsure"),
    [(60_000, 2, 0), (WINDOW_MS + 10_000, 0, 2), (WINDOW_MS + 60_000, 0, 0)],
    ids=["within", "at the end", "past"],
)
def test_an_id_used_again_past_the_idempotency_window_is_a_new_request(
    after_ms: int, violated: int, unsure: int, released: bool
) -> None:
    p = pool()
    p.placed("r-1", "a-1")
    p.confirmed("r-1", "a-1")
    if released:
        p.delta(settled=p.end("released", "a-1", p.ask("release", "r-1", "a-1")))
    p.used_again(after_ms, "r-1", "a-2", project="blue")
    p.confirmed("r-1", "a-2")
    p.heartbeats(120_000)
    report = p.audit()
    assert (report.tallies[2].violated, report.tallies[2].unprovable) == (violated, unsure)
    assert (report.tallies[5].violated, report.tallies[5].unprovable) == (
        (0, 0) if released else (int(violated > 0), int(unsure > 0))
    )
    assert p.audit(idempotency_window_ms=1).tallies[2].violated == 0


def test_an_id_used_again_for_the_same_may_be_answered_as_before_or_anew() -> None:
    for ids in ((), ("a-2",)):
        p = pool()
        p.request("r-1")
        p.decide("r-1")
        at = p.used_again(WINDOW_MS + 60_000, "r-1", *ids)
        if not ids:
            p.decide("r-1", position={"partition": 0, "offset": at})
        p.heartbeats(120_000)
        report = clean(p)
        assert unprovable(report) == {}
        assert report.tallies[2].checked == 2


def test_a_request_said_again_past_the_window_needs_an_answer_of_its_own() -> None:
    p = pool()
    p.request("r-1")
    p.decide("r-1")
    at = p.used_again(WINDOW_MS + 60_000, "r-1")
    p.heartbeats(120_000)
    assert violations(p.audit()) == [(2, name_of("requests"), at)]


def test_what_was_refused_as_a_used_id_is_placed_when_it_is_asked_again_past_the_window() -> None:
    p = pool()
    p.request("r-1")
    p.decide("r-1")
    p.heartbeats(WINDOW_MS * 2 // 3)
    p.request("r-1", project="blue")
    p.decide("r-1", result="rejected", reason="id_reused", content=digest("r-1", project="blue"))
    p.used_again(WINDOW_MS * 2 // 3, "r-1", "a-1", project="blue")
    p.confirmed("r-1", "a-1")
    report = clean(p)
    assert unprovable(report) == {}
    assert (report.figures["requests_repeated"], report.tallies[2].checked) == (1, 3)


def test_an_instance_placed_twice_is_unprovable_where_its_first_decision_is_gone() -> None:
    p = pool()
    p.placed("r-1", "a-1")
    p.confirmed("r-1", "a-1")
    at = p.heartbeats(60_000)
    p.used_again(WINDOW_MS, "r-1", "a-2", project="blue")
    p.confirmed("r-1", "a-2")
    p.retain("decisions", 1)
    compact(p, at)
    report = clean(p)
    assert (report.tallies[2].unprovable, report.tallies[5].unprovable) == (1, 1)


@pytest.mark.parametrize("gone", [0, 1], ids=["to come", "gone"])
def test_what_becomes_active_before_its_decision_is_read_is_pending_and_where_decisions_are_gone_unprovable(
    gone: int,
) -> None:
    p = pool()
    p.placed("r-1", "a-1")
    p.retain("decisions", 1)
    p.low["decisions"] = gone
    p.confirmed("r-1", "a-1")
    tally = clean(p).tallies[2]
    assert (tally.pending, tally.unprovable) == (2 - gone, gone)


def test_a_decision_of_a_later_version_may_name_what_becomes_active() -> None:
    p = pool()
    p.request("r-1")
    p.delta(settled=p.take(p.claim("r-1", "a-1")))
    p.put("decisions", "r-1", {"type": "decision", "v": 2})
    p.confirmed("r-1", "a-1")
    p.heartbeats(120_000)
    assert unprovable(clean(p)) == {2: 2}


def test_slack_covers_a_lapse_that_is_told_late() -> None:
    p = pool()
    p.placed("r-1", "a-1")
    p.tick(LEASE_MS + 5_000)
    p.delta()
    clean(p)
    assert violations(p.audit(slack_ms=0, heartbeat_ms=0, lapse_ms=0)) == [(5, name_of("hosts"), 3)]


def test_the_tolerances_are_those_that_agents_and_schedulers_of_the_pool_run_with() -> None:
    agent = AgentSettings(heartbeat_interval_s=7, lapse_interval_s=120)
    scheduler = SchedulerSettings(deadline_ms_default=5_000, idempotency_window_s=60)
    limits = LimitsSettings(quarantined_per_s_max=3)
    options = options_for(Settings(agent=agent, scheduler=scheduler, limits=limits), brokers=3)
    assert (options.heartbeat_ms, options.lapse_ms) == (7_000, 120_000)
    assert (options.deadline_default_ms, options.idempotency_window_ms) == (5_000, 60_000)
    assert (options.quarantined_per_s_max, options.skew_ms) == (3, 1_000)


def test_a_lease_may_lapse_so_much_later_as_the_agent_looks_for_those_that_ran_out() -> None:
    p = pool()
    p.placed("r-1", "a-1")
    p.heartbeats(LEASE_MS + 100_000)
    assert [number for number, _, _ in violations(p.audit())] == [5]
    clean(p, lapse_ms=120_000)


def test_a_lease_counts_from_its_claim_however_late_the_report_of_it() -> None:
    p = pool()
    p.request("r-1")
    claim = p.claim("r-1", "a-1")
    p.tick(60_000)  # the broker is away: the ledger has taken the claim, and reports when it is back
    p.decide("r-1", ("a-1", p.delta(settled=p.take(claim))))
    p.tick(LEASE_MS - 59_000)
    p.delta(settled=p.end("lapsed", "a-1"))
    clean(p)


def test_a_renewed_lease_counts_from_its_renewal_however_late_the_report_of_it() -> None:
    p = pool()
    p.placed("r-1", "a-1")
    p.tick(200_000)
    p.host().through = p.claim("r-1", "a-1", mode="renew")
    p.tick(60_000)
    p.delta(settled=[settled("renewed", "a-1", p.host().through)])
    p.tick(LEASE_MS - 59_000)
    p.delta(settled=p.end("lapsed", "a-1"))
    clean(p)


def test_a_lease_counts_from_the_start_of_the_agent_however_late_its_first_report() -> None:
    p = pool()
    p.placed("r-1", "a-1")
    p.start()
    p.tick(60_000)
    p.snapshot()
    p.tick(LEASE_MS - 59_000)
    p.delta(settled=p.end("lapsed", "a-1"))
    clean(p)


def test_an_amount_of_0_that_was_claimed_is_neither_held_nor_missed() -> None:
    p = pool()
    p.request("r-1")
    claim = p.claim("r-1", allocations=[{"id": "a-1", "request": "r-1", "resources": {"VCPU": 1, "DISK_GB": 0}}])
    entries = p.take(claim)
    p.host().held["a-1"]["resources"] = {"VCPU": 1}
    p.decide("r-1", ("a-1", p.delta(settled=entries)))
    p.delta(settled=p.take(p.claim("r-2", "a-2")))  # expects what the ledger holds
    clean(p)


def test_skew_covers_brokers_whose_clocks_differ() -> None:
    p = pool()
    p.request("r-1")
    p.decide("r-1", ("a-1", 2))
    p.delta(settled=p.take(p.claim("r-1", "a-1")))
    assert violations(p.audit())
    clean(p, skew_ms=1_000)


def test_host_record_of_a_newer_version_is_neither_quarantined_nor_a_breach() -> None:
    p = pool()
    p.placed("r-1", "a-1")
    h = p.host()
    h.generation += 1
    p.put("hosts", f"h1/{h.epoch}/delta", {"type": "delta", "v": 2, "shape": "unknown"})
    p.heartbeats(60_000)
    report = clean(p)
    assert report.figures["hosts_newer"] == 1


def test_an_agent_of_a_newer_version_takes_a_host_over_without_a_breach() -> None:
    p = pool()
    p.placed("r-1", "a-1")
    before = p.host().epoch
    p.put("hosts", "h1/start", {"type": "start", "v": 2})
    p.put("hosts", f"h1/{before}", None)
    p.heartbeats(60_000)
    assert not violations(p.audit())


def test_bad_record_is_pending_within_the_grace_and_fine_once_quarantined() -> None:
    p = pool()
    at = p.put("claims", "h1", b"{")
    assert clean(p).tallies[10].pending == 1
    p.heartbeats(60_000)
    assert violations(p.audit()) == [(10, name_of("claims"), at)]
    p.quarantine("claims", at)
    checked = clean(p).tallies[10].checked
    p.quarantine("claims", at)  # by each agent that reads the partition
    assert clean(p).tallies[10].checked == checked


def test_of_bad_records_under_one_key_of_a_host_that_belongs_elsewhere_the_last_must_be_quarantined() -> None:
    count = next(n for n in range(2, 20) if partition_of("h1", n) == 0)
    stranger = next(name for n in range(99) if partition_of(name := f"x{n}", count) != 0)

    class Wide(Pool):
        def log(self, topic: str) -> Log:
            one = super().log(topic)
            if topic == "hosts":
                none = dict.fromkeys(range(count), 0)
                one.low, one.high = none | dict(one.low), none | dict(one.high)
            return one

    p = Wide()
    p.start()
    p.snapshot()
    before, last = (p.put("hosts", f"{stranger}/3/delta", {"type": "delta"}) for _ in range(2))
    p.heartbeats(60_000)
    assert violations(p.audit()) == [(10, name_of("hosts"), last)]
    p.quarantine("hosts", last)
    assert unprovable(clean(p)) == {10: 1}
    p.quarantine("hosts", before)
    assert not unprovable(clean(p))


def test_bad_record_older_than_what_retention_left_of_quarantine_is_unprovable() -> None:
    p = pool()
    p.put("claims", "h1", b"{")
    p.quarantine("claims", 0)
    p.tick(1_000_000)
    p.quarantine("claims", 77)
    p.retain("quarantine", 1)
    assert unprovable(p.audit()) == {10: 1}


def test_a_notice_of_a_topic_that_was_made_anew_says_nothing_of_what_stands_there_now() -> None:
    p = pool()
    p.quarantine("requests", 0)
    p.quarantine("claims", 1)
    p.tick(60_000)
    p.placed("r-1", "a-1")
    at = p.put("claims", "h1", b"{garbage")
    p.heartbeats(60_000)
    report = p.audit()
    assert report.tallies[2].checked == 1
    assert violations(report) == [(10, name_of("claims"), at)]
    assert p.audit(skew_ms=120_000).tallies[10].violated == 0


@pytest.mark.parametrize(("told", "dropped"), [(100, 50), (99, 0)])
def test_garbage_faster_than_a_reader_may_quarantine_it_is_unprovable(told: int, dropped: int) -> None:
    p = pool()
    flood(p, 150, told)
    p.heartbeats(60_000)
    tally = p.audit().tallies[10]
    assert (tally.unprovable, tally.violated) == (dropped, 0 if dropped else 51)


def test_bad_request_that_was_refused_needs_no_quarantine_record() -> None:
    p = pool()
    at = p.request("r-1", count=0)
    p.decide("r-1", result="rejected", reason="invalid", position={"partition": 0, "offset": at})
    p.heartbeats(60_000)
    clean(p)


def test_request_within_its_deadline_is_pending() -> None:
    p = pool()
    p.request("r-1", deadline_ms=60_000)
    p.heartbeats(80_000)
    assert clean(p).tallies[2].pending == 1
    p.heartbeats(40_000)
    assert len(violations(p.audit())) == 1


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(["hosts", "claims", "requests", "decisions", "control", "quarantine"]), st.data())
def test_no_bytes_stop_the_audit(topic: str, data: st.DataObject) -> None:
    p = pool()
    p.placed("r-1", "a-1")
    key = data.draw(st.sampled_from(["h1/start", "h1/0", "h1/0/delta", "h1", "r-1", "m1.small", "", "h1/x", "/", None]))
    donors = [e.value for entries in p.logs.values() for e in entries if e.value]
    raw = data.draw(st.none() | st.binary(max_size=40) | st.sampled_from(donors))
    at = p.put(topic, key, raw)
    p.quarantine(topic, at)
    p.audit()


# --- independence ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(AUDIT.glob("*.py")), ids=lambda path: path.name)
def test_audit_shares_no_code_with_the_scheduler(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            assert not name.startswith("commonplace.core"), name
            if path.name not in SHELL:
                assert not name.startswith("commonplace") or name.startswith("commonplace.ops.audit"), name


def test_own_hash_digest_and_partition_are_the_published_ones() -> None:
    host = {}
    for vector in VECTORS["hosts"]:
        given_ = vector["given"]
        inventory = msgspec.convert(given_.get("inventory", {}), dict[str, wire_hosts.Item])
        cells = msgspec.convert(given_.get("cells", {}), dict[str, wire_hosts.HostCell], str_keys=True)
        value = hashes.host_hash(
            inventory, given_.get("traits", []), given_.get("labels", {}), given_.get("status", "enabled"), cells
        )
        assert f"{value:016x}" == vector["hash"], vector["name"]
        host[vector["name"]] = value
    held = {}
    for vector in VECTORS["allocations"]:
        given_ = vector["given"]
        value = hashes.allocation_hash(
            given_["id"], given_["resources"], given_.get("group", ""), given_.get("cells", {})
        )
        assert f"{value:016x}" == vector["hash"], vector["name"]
        held[vector["name"]] = value
    for vector in VECTORS["states"]:
        value = (host[vector["host"]] + sum(held[name] for name in vector["allocations"])) % hashes.MODULUS
        assert f"{value:016x}" == vector["hash"], vector["name"]
    for vector in VECTORS["requests"]:
        request = wire.read("requests", vector["bytes"].encode())
        assert hashes.request_digest(request) == vector["digest"], vector["name"]
    for vector in VECTORS["partitions"]:
        assert hashes.murmur2(vector["name"].encode()) == vector["murmur2"]
        assert hashes.partition_of(vector["name"], 4) == vector["of_4"]


def test_seen_knows_what_was_lost() -> None:
    seen = Seen({0: 5})
    for offset in (7, 8, 12):
        seen.take(0, offset)
    assert [offset for offset in range(14) if seen.lost(0, offset)] == [0, 1, 2, 3, 4, 5, 6, 9, 10, 11]
    assert seen.gone(0) == 5
    assert not seen.whole(0)
    assert Seen({0: 0}).whole(0)
    seen.close({0: 15})
    assert [offset for offset in range(12, 17) if seen.lost(0, offset)] == [13, 14]
    assert seen.gone(0) == 7
    nothing = Seen({0: 3})
    nothing.close({0: 3})
    assert nothing.gone(0) == 0


def test_report_is_one_object_for_json() -> None:
    p = pool()
    p.placed("r-1", "a-1", expected="0" * 16)
    told = json.loads(json.dumps(p.audit().to_dict()))
    assert told["audit"] == "violated"
    assert set(told["invariants"]) == {"1", "2", "3", "5", "6", "9", "10", "11", "12"}
    assert told["invariants"]["6"]["violations"] == [
        {
            "text": told["invariants"]["6"]["violations"][0]["text"],
            "topic": "commonplace.default.hosts",
            "partition": 0,
            "offset": 2,
        }
    ]
    assert told["figures"]["placed"] == 1


values: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers(-2, 2**54)
    | st.floats(allow_nan=False)
    | st.text(max_size=4)
    | st.just([])
    | st.just({})
)


@settings(deadline=None, max_examples=400)
@given(st.sampled_from(sorted(RECORDS)), st.data())
def test_audit_never_calls_a_record_bad_that_the_scheduler_reads(name: str, data: st.DataObject) -> None:
    topic, record = RECORDS[name]
    if topic == "replicas":
        return  # not audited
    mutated = json.loads(encode(record))
    at = mutated
    field = data.draw(st.sampled_from([*sorted(at), "unknown"]))
    while isinstance(at.get(field), dict) and at[field] and data.draw(st.booleans()):
        at = at[field]
        field = data.draw(st.sampled_from(sorted(at)))
    if data.draw(st.booleans()):
        at.pop(field, None)
    else:
        at[field] = data.draw(values)
    raw = json.dumps(mutated).encode()
    if isinstance(wire.read(topic, raw), wire.Broken):
        assert isinstance(decode(topic, raw), Bad), raw


@pytest.mark.parametrize(("least", "violated"), [(0, True), (1, False), (2, True)])
def test_a_part_of_a_request_is_placed_only_where_that_was_asked_for(least: int, violated: bool) -> None:
    p = pool()
    asked = {"count": 3, "count_min": least} if least else {"count": 3}
    p.request("r-1", **asked)
    at = p.delta(settled=p.take(p.claim("r-1", "a-1")))
    p.decide("r-1", ("a-1", at), count=3, content=digest("r-1", **asked))
    assert bool(p.audit().tallies[3].violations) is violated


def test_an_instance_that_grows_where_it_stands_does_not_count_for_its_group() -> None:
    p = pool()
    for request, allocation, instance in (("r-1", "a-1", "i-1"), ("r-2", "a-2", "i-1")):
        p.request(request, group="g", group_max=1, instances=[instance])
        held = {"id": allocation, "request": request, "instance": instance, "group": "g", "resources": {"VCPU": 2}}
        at = p.delta(settled=p.take(p.claim(request, allocation, group_max=1, allocations=[held])))
        p.decide(request, (allocation, at), content=digest(request, group="g", group_max=1, instances=(instance,)))
    assert [v.text for v in p.audit().tallies[6].violations] == []


@pytest.mark.parametrize(("key", "refused"), [("group/g", 0), ("m1.small", 1), ("group/h", 1)])
def test_a_request_of_a_serialised_group_belongs_under_the_key_of_its_group(key: str, refused: int) -> None:
    p = pool()
    record = {"type": "build", "v": 1, "id": "r-1", "flavor": "m1.small", "group": "g", "group_policy": "affinity"}
    later(p, "requests", p.put("requests", key, record))
    broken = p.audit().tallies[10].violations
    assert len([v for v in broken if "nobody quarantined it" in v.text]) == refused
