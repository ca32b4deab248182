"""The replica's stories, step by step: nothing is acknowledged, reported or read back unless the test does it."""

import sys
from typing import Any

import pytest

from commonplace.core import replica_events as re
from commonplace.core.codec import decode, encode
from commonplace.core.deciding import READ_BACK_MS
from commonplace.core.deliveries import RESEND_MIN_MS
from commonplace.core.host_keys import delta_key, snapshot_key, start_key
from commonplace.core.keeper_events import Quarantine
from commonplace.core.ledger import Ledger
from commonplace.core.ledger_events import Bounds, Configure, Failed, Taken
from commonplace.core.records.claims import Claim, Confirm, Release
from commonplace.core.records.control import Flavor
from commonplace.core.records.decisions import Decision, Position
from commonplace.core.records.hosts import Allocation, Start
from commonplace.core.records.replicas import ReplicaReport
from commonplace.core.records.requests import Build, Cancel
from commonplace.core.replica import Replica
from commonplace.core.requests import request_key
from commonplace.core.resources import Inventory
from world import CLAIMS_ID, flavor

PART = 0


class Hand:
    """A replica and real ledgers, joined by hand. Log times are the clock's."""

    def __init__(self, *hosts: str, vcpus: int = 8, lease_ms_max: int = 3_600_000, **settings: Any) -> None:
        self.replica = Replica("r1", "n", 1, CLAIMS_ID, re.ReplicaSettings(**settings))
        self.now = 1_000
        self.sent: list[Any] = []
        self.ledgers: dict[str, Ledger] = {}
        self.offsets = {"hosts": 0, "claims": 0, "requests": 0, "decisions": 0, "control": 0}
        self.lease_ms_max = lease_ms_max
        for record in (flavor("small"), flavor("large", vcpus=5)):
            self.control(record)
        for host in hosts:
            self.start(host, vcpus)
        self.receive(re.CaughtUp())
        self.own()

    def receive(self, event: Any) -> list[Any]:
        """Effects of an event; kept in `sent` too."""
        effects = self.replica.receive(event, self.now)
        self.sent += effects
        return effects

    def _raw(self, topic: str, key: bytes, value: bytes | None) -> tuple[int, int, bytes, bytes | None]:
        self.offsets[topic] += 1
        return (self.offsets[topic] - 1, self.now, key, value)

    def control(self, record: Flavor) -> None:
        self.receive(re.ControlRead([self._raw("control", f"flavor/{record.name}".encode(), encode(record))]))

    # -- hosts --------------------------------------------------------------------------------------------------------------------------

    def start(self, host: str, vcpus: int = 8) -> Ledger:
        epoch = self.offsets["hosts"]
        self.receive(re.HostsRead(0, [self._raw("hosts", start_key(host), encode(Start(host=host)))]))
        ledger = Ledger(host, epoch, 0, CLAIMS_ID, self.offsets["claims"] - 1, Bounds(lease_ms_max=self.lease_ms_max))
        if host in self.ledgers:
            for allocation in self.ledgers[host].allocations.values():
                ledger.add(allocation)
                ledger.leases[allocation.id] = 10**9
        inventory = {
            "VCPU": Inventory(total=vcpus),
            "MEMORY_MB": Inventory(total=65_536),
            "DISK_GB": Inventory(total=999),
        }
        ledger.receive(Configure(inventory=inventory), 0)
        self.ledgers[host] = ledger
        value = encode(ledger.snapshot("a"))
        self.receive(re.HostsRead(0, [self._raw("hosts", snapshot_key(host, epoch), value)]))
        return ledger

    def report(self, host: str) -> list[Any]:
        """The host's next delta is folded."""
        ledger = self.ledgers[host]
        value = encode(ledger.delta())
        return self.receive(re.HostsRead(0, [self._raw("hosts", delta_key(host, ledger.epoch), value)]))

    def take(self, *effects: re.SendClaim | re.SendRelease, acknowledge: bool = True) -> None:
        """Claims and releases stand in the log, and their ledgers have taken them."""
        for effect in effects:
            offset = self.offsets["claims"]
            self.offsets["claims"] += 1
            record = decode("claims", effect.value)
            self.ledgers[record.host].receive(Taken(offset, self.now, record), self.now)
            for ledger in self.ledgers.values():
                ledger.claims_through = max(ledger.claims_through, offset)
            if acknowledge and isinstance(effect, re.SendClaim):
                self.receive(re.ClaimDelivered(effect.allocation, offset))
            elif acknowledge and isinstance(effect, re.SendRelease):
                self.receive(re.ReleaseDelivered(effect.token, True))

    def grant(self, *effects: re.SendClaim) -> None:
        """Claims are taken and the reports that answer them folded."""
        self.take(*effects)
        for host in {decode("claims", effect.value).host for effect in effects}:
            self.report(host)

    # -- requests -----------------------------------------------------------------------------------------------------------------------

    def own(self, partition: int = PART, end: int = 0) -> None:
        self.receive(re.Assigned(partition, end))

    def request(self, *records: Build | Cancel | bytes, partition: int = PART, age_ms: int = 0) -> list[Any]:
        """Requests are read; the partition's history is empty."""
        raws = []
        for record in records:
            key = b"small" if isinstance(record, bytes) else request_key(record, flavor(record.flavor)).encode()
            offset, at_ms, _, value = self._raw(
                "requests", key, record if isinstance(record, bytes) else encode(record)
            )
            raws.append((offset, at_ms - age_ms, key, value))
        effects = self.receive(re.RequestsRead(partition, raws))
        if any(isinstance(effect, re.ReadHistory) for effect in effects):
            effects += self.receive(re.HistoryRead(partition))
        return effects

    def turn(self) -> list[Any]:
        return self.receive(re.Turn())

    def claims(self, *builds: Build) -> list[re.SendClaim]:
        """Requests are read and ranked: the claims for them."""
        self.request(*builds)
        return [effect for effect in self.turn() if isinstance(effect, re.SendClaim)]

    def tick(self, ms: int) -> list[Any]:
        self.now += ms
        return self.receive(re.Tick())

    # -- decisions ----------------------------------------------------------------------------------------------------------------------

    def decisions(self, request: str = "") -> list[Decision]:
        found = [decode("decisions", e.value) for e in self.sent if isinstance(e, re.SendDecision)]
        return [decision for decision in found if not request or decision.request == request]

    def acknowledge(self, delivered: bool = True) -> None:
        for effect in [e for e in self.sent if isinstance(e, re.SendDecision)]:
            if effect.token in self.replica.deliveries._under_way:
                self.receive(re.DecisionDelivered(effect.token, delivered))

    def read_back(self, *decisions: Decision | re.SendDecision, partition: int = PART) -> list[Any]:
        effects = []
        for decision in decisions:
            value = decision.value if isinstance(decision, re.SendDecision) else encode(decision)
            key = decode("decisions", value).request.encode()
            effects += self.receive(re.DecisionsRead(partition, [self._raw("decisions", key, value)]))
        return effects

    def committed(self) -> int:
        commits = [e.offset for e in self.sent if isinstance(e, re.Commit)]
        return commits[-1] if commits else -1


def sends(effects: list[Any], kind: type) -> list[Any]:
    return [effect for effect in effects if isinstance(effect, kind)]


def releases(effects: list[Any]) -> list[Release]:
    return [decode("claims", effect.value) for effect in sends(effects, re.SendRelease)]


def other_decision(request: str, *allocations: str) -> Decision:
    """A decision that another replica wrote."""
    placed = [{"index": i, "instance": f"{request}.{i}", "host": "h0", "allocation": a, "grant": {"partition": 0, "offset": 1}}
              for i, a in enumerate(allocations)]  # fmt: skip
    raw = {"type": "decision", "v": 1, "request": request, "result": "placed", "position": {"partition": 0, "offset": 0},
           "flavor": "small", "placed": placed}  # fmt: skip
    decision = decode("decisions", encode(raw))
    assert isinstance(decision, Decision)
    return decision


# -- settle ---------------------------------------------------------------------------------------------------------------------------


def test_nothing_is_answered_before_a_report_shows_the_grant() -> None:
    hand = Hand("h0")
    (claim,) = hand.claims(Build(id="a", flavor="small"))
    hand.take(claim)
    assert not hand.decisions()
    hand.report("h0")
    assert [d.result for d in hand.decisions()] == ["placed"]


def test_a_grant_counts_before_its_offset_is_known_and_a_rejection_once_it_is() -> None:
    hand = Hand("h0")
    one, two = hand.claims(Build(id="a", flavor="small"), Build(id="b", flavor="small"))
    hand.take(one, acknowledge=False)
    hand.ledgers["h0"].receive(Configure(labels={"x": "y"}), 0)  # the second claim meets another state
    hand.take(two, acknowledge=False)
    hand.report("h0")
    assert [d.request for d in hand.decisions()] == ["a"]
    assert set(hand.replica.claims.pending) == {two.allocation}
    hand.receive(re.ClaimDelivered(one.allocation, 0))
    hand.receive(re.ClaimDelivered(two.allocation, 1))
    assert not hand.replica.claims.pending
    assert hand.replica.claims.counts.rejected == {"stale": 1}


def test_a_rejection_takes_every_later_claim_of_its_chain_off_and_no_earlier_one() -> None:
    hand = Hand("h0")
    one, two, three = hand.claims(*(Build(id=i, flavor="small") for i in "abc"))
    for i, claim in enumerate((one, two, three)):
        hand.receive(re.ClaimDelivered(claim.allocation, i))
    hand.take(one)
    hand.ledgers["h0"].receive(Configure(labels={"x": "y"}), 0)
    hand.take(two)  # rejected; the third is not even read
    hand.report("h0")
    assert hand.replica.claims.counts.rejected == {"stale": 1, "chain": 1}
    assert hand.replica.view.rows["h0"].predicted_hash == hand.ledgers["h0"].hash
    assert [d.request for d in hand.decisions()] == ["a"]
    again = sends(hand.turn(), re.SendClaim)
    assert [decode("claims", c.value).request for c in again] == ["b", "c"]


def test_an_unanswered_claim_is_left_behind_and_a_late_grant_given_back_only_against_the_decision_read_back() -> None:
    hand = Hand("h0", claim_timeout_ms=1_000)
    (late,) = hand.claims(Build(id="a", flavor="small"))
    hand.tick(1_001)
    assert hand.replica.claims.counts.timed_out == 1
    (second,) = sends(hand.turn(), re.SendClaim)
    hand.take(late)
    hand.report("h0")  # the late one is granted: a stray; and the second is stale now
    assert not hand.decisions()
    hand.take(second)
    hand.report("h0")
    (third,) = sends(hand.turn(), re.SendClaim)
    before = len(hand.sent)
    hand.grant(third)
    (decision,) = sends(hand.sent, re.SendDecision)
    assert not releases(hand.sent[before:])
    given_back = releases(hand.read_back(decision))
    assert [(r.allocation, r.leased_only) for r in given_back] == [(late.allocation, True)]


def test_an_undelivered_claim_is_tried_again_at_once() -> None:
    hand = Hand("h0")
    (claim,) = hand.claims(Build(id="a", flavor="small"))
    hand.receive(re.ClaimDelivered(claim.allocation, -1))
    (again,) = sends(hand.turn(), re.SendClaim)
    assert again.allocation != claim.allocation
    assert hand.replica.view.rows["h0"].predicted_hash != hand.ledgers["h0"].hash


def test_claims_of_a_stale_host_wait_for_its_next_good_report() -> None:
    hand = Hand("h0")
    (claim,) = hand.claims(Build(id="a", flavor="small"))
    hand.take(claim)
    hand.receive(re.HostsRead(0, [hand._raw("hosts", delta_key("h0", 0), b"{")]))
    assert not hand.decisions()
    hand.report("h0")
    assert [d.result for d in hand.decisions()] == ["placed"]


def test_watermarks_of_another_claims_topic_reject_nothing() -> None:
    hand = Hand("h0")
    (claim,) = hand.claims(Build(id="a", flavor="small"))
    hand.receive(re.ClaimDelivered(claim.allocation, 0))
    ledger = hand.ledgers["h0"]
    ledger.claims_topic, ledger.claims_through = "another", 99
    hand.report("h0")
    assert set(hand.replica.claims.pending) == {claim.allocation}


# -- leases ---------------------------------------------------------------------------------------------------------------------------


def test_a_decision_promises_no_longer_lease_than_the_ledger_gave() -> None:
    hand = Hand("h0", lease_ms_max=8_000)
    (claim,) = hand.claims(Build(id="a", flavor="small", lease_ms=600_000))
    hand.grant(claim)
    assert hand.decisions()[0].confirm_within_ms == 6_000  # 8 s less a quarter, which is below the margin


def test_a_lease_that_is_half_over_is_renewed_before_the_answer() -> None:
    hand = Hand(
        "h0", "h1", vcpus=5, lease_ms=10_000, lease_margin_ms=1_000, claim_timeout_ms=60_000, deadline_ms=60_000
    )
    one, two = hand.claims(Build(id="a", flavor="large", count=2))
    hand.grant(one)
    hand.now += 6_000
    effects = len(hand.sent)
    hand.grant(two)
    assert not hand.decisions()
    renewals = sends(hand.sent[effects:], re.SendClaim)
    assert [(decode("claims", r.value).mode, r.allocation) for r in renewals] == [("renew", one.allocation)]
    hand.take(*renewals)
    host = decode("claims", one.value).host
    rest = len(hand.sent)
    hand.report(host)
    for renewal in sends(hand.sent[rest:], re.SendClaim):
        hand.take(renewal)
        hand.report(decode("claims", renewal.value).host)
    (decision,) = hand.decisions()
    assert {p.allocation for p in decision.placed} == {one.allocation, two.allocation}


def test_an_instance_that_went_while_the_others_were_claimed_is_claimed_anew() -> None:
    hand = Hand("h0", "h1", vcpus=5)
    one, two = hand.claims(Build(id="a", flavor="large", count=2))
    hand.grant(one)
    host = decode("claims", one.value).host
    hand.ledgers[host].receive(Failed(one.allocation), 0)
    hand.report(host)
    hand.grant(two)
    assert not hand.decisions()
    (third,) = sends(hand.turn(), re.SendClaim)
    hand.grant(third)
    assert {p.allocation for p in hand.decisions()[0].placed} == {two.allocation, third.allocation}


# -- decide ---------------------------------------------------------------------------------------------------------------------------


def test_an_offset_is_committed_only_once_its_decision_is_acknowledged() -> None:
    hand = Hand("h0")
    (claim,) = hand.claims(Build(id="a", flavor="small"))
    hand.grant(claim)
    hand.turn()
    assert hand.committed() == 0
    hand.acknowledge(delivered=False)
    hand.tick(RESEND_MIN_MS)
    one, two = sends(hand.sent, re.SendDecision)
    assert one.value == two.value
    hand.turn()
    assert hand.committed() == 0
    hand.acknowledge()
    hand.turn()
    assert hand.committed() == 1


def test_what_is_not_delivered_is_sent_again_after_ever_longer_pauses() -> None:
    hand = Hand("h0")
    (claim,) = hand.claims(Build(id="a", flavor="small"))
    hand.grant(claim)
    (first,) = sends(hand.sent, re.SendDecision)
    pauses, failed = [], first
    for _ in range(9):
        hand.receive(re.DecisionDelivered(failed.token, False))
        assert hand.replica.unacknowledged == 1
        waited = 0
        while not (found := sends(hand.tick(50), re.SendDecision)):
            waited += 50
        (failed,) = found
        assert failed.value == first.value
        pauses.append(waited + 50)
    assert pauses == [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000, 5_000]
    hand.receive(re.DecisionDelivered(failed.token, True))
    assert hand.replica.unacknowledged == 0
    hand.turn()
    assert hand.committed() == 1


def lost_answer(hand: Hand, build: Build) -> re.SendDecision:
    """A request is placed and its decision acknowledged; that the log lost it nobody says."""
    (claim,) = hand.claims(build)
    hand.grant(claim)
    decisions: list[re.SendDecision] = sends(hand.sent, re.SendDecision)
    hand.acknowledge()
    return decisions[0]


def test_an_acknowledged_decision_that_is_not_read_back_by_the_deadline_is_written_again() -> None:
    hand = Hand("h0", deadline_ms=20_000)
    lost = lost_answer(hand, Build(id="a", flavor="small"))
    assert sends(hand.tick(19_999), re.SendDecision) == []
    (again,) = sends(hand.tick(201), re.SendDecision)
    assert (again.value, again.result) == (lost.value, "again")
    for _ in range(10):  # while the broker has not acknowledged it
        assert sends(hand.tick(READ_BACK_MS), re.SendDecision) == []
    hand.acknowledge()
    (again,) = sends(hand.tick(READ_BACK_MS), re.SendDecision)
    hand.acknowledge()
    hand.read_back(again)
    assert sends(hand.tick(10 * READ_BACK_MS), re.SendDecision) == []
    assert not hand.replica.book.works


def test_a_lost_decision_on_a_member_of_a_group_holds_the_next_one_up_for_seconds_only() -> None:
    hand = Hand("h0", deadline_ms=60_000)
    together: dict[str, Any] = {"flavor": "small", "group": "g", "group_policy": "affinity"}
    lost = lost_answer(hand, Build(id="a", **together))
    hand.request(Build(id="b", **together))
    assert sends(hand.tick(READ_BACK_MS - 1) + hand.turn(), re.SendClaim) == []
    (again,) = sends(hand.tick(201), re.SendDecision)
    assert again.value == lost.value
    hand.read_back(again)
    assert [decode("claims", claim.value).request for claim in sends(hand.turn(), re.SendClaim)] == ["b"]


def test_an_expired_request_whose_answer_is_lost_is_told_again() -> None:
    hand = Hand(deadline_ms=20_000)
    hand.request(Build(id="a", flavor="small"))
    (expired,) = sends(hand.tick(20_000), re.SendDecision)
    hand.acknowledge()
    (again,) = sends(hand.tick(READ_BACK_MS), re.SendDecision)
    assert again.value == expired.value


def test_what_another_decided_first_is_effective_and_ours_is_given_back() -> None:
    hand = Hand("h0")
    (claim,) = hand.claims(Build(id="a", flavor="small"))
    hand.grant(claim)
    assert [r.allocation for r in releases(hand.read_back(other_decision("a", "theirs")))] == [claim.allocation]
    assert hand.replica.claims.counts.void == 1
    (ours,) = sends(hand.sent, re.SendDecision)
    assert not hand.read_back(ours)
    assert not hand.replica.book.works


def test_a_claim_granted_after_the_effective_decision_is_given_back() -> None:
    hand = Hand("h0")
    (claim,) = hand.claims(Build(id="a", flavor="small"))
    hand.read_back(other_decision("a", "theirs"))
    hand.take(claim)
    given_back = releases(hand.report("h0"))
    assert [(r.allocation, r.leased_only) for r in given_back] == [(claim.allocation, True)]


def test_two_requests_at_the_same_offset_of_two_partitions_may_have_the_same_deadline() -> None:
    hand = Hand("h0")
    hand.own(1)
    for partition in (0, 1):
        hand.offsets["requests"] = 0
        hand.request(Build(id=f"a{partition}", flavor="small"), partition=partition)
    assert len(sends(hand.turn(), re.SendClaim)) == 2


def test_an_instance_named_twice_is_refused() -> None:
    hand = Hand("h0")
    hand.request(Build(id="a", flavor="small", count=2, instances=("i", "i")))
    assert "named twice" in hand.decisions()[0].message


def test_records_under_keys_of_no_host_are_all_put_aside_by_who_reads_them_late() -> None:
    replica = Replica("r1", "n", 1, CLAIMS_ID, re.ReplicaSettings())
    keys = (b"no/key/at/all", None, b"no/key/at/all", b"h0/start", b"h0/start", b"no/key/at/all")
    rows = [(offset, 1_000, key, b"{") for offset, key in enumerate(keys)]
    effects = replica.receive(re.HostsRead(0, rows), 1_000) + replica.receive(re.CaughtUp(), 1_000)
    aside = sorted(effect.offset for effect in effects if isinstance(effect, Quarantine))
    assert aside == [0, 1, 2, 4, 5]  # compaction might have taken 3 as well
    assert replica.view.outcomes == {"applied": 0, "superseded": 1, "quarantined": 5}


def test_a_name_that_every_ledger_would_turn_away_is_refused_at_once() -> None:
    hand = Hand("h0")
    hand.request(Build(id="a", flavor="small", user="ada\u00a0l"))
    assert hand.decisions()[0].reason == "invalid"
    assert "user 'ada\\xa0l' holds a character" in hand.decisions()[0].message


def test_a_bad_request_is_answered_where_its_id_can_be_read() -> None:
    hand = Hand("h0")
    hand.request(b'{"type":"build","v":1,"id":"a","flavor":"small","colour":"red"}', b"{", b'{"id":"x\\n"}')
    assert [(d.request, d.result, d.reason) for d in hand.decisions()] == [("a", "rejected", "invalid")]
    hand.acknowledge()
    hand.turn()
    assert hand.committed() == 3


def test_an_id_is_reused_also_while_its_rejection_is_not_read_back() -> None:
    hand = Hand("h0", queue_max=0)
    hand.request(Build(id="a", flavor="small"), Build(id="a", flavor="small", count=2))
    assert [(d.reason, d.count) for d in hand.decisions()] == [("overloaded", 1), ("id_reused", 2)]


@pytest.mark.parametrize(("delivered", "reason"), [(True, "overloaded"), (False, "id_reused")])
def test_a_rejection_that_the_log_lost_is_forgotten_after_the_idempotency_window(delivered: bool, reason: str) -> None:
    hand = Hand("h0", queue_max=0, idempotency_window_ms=10_000)
    hand.request(Build(id="a", flavor="small"))
    hand.acknowledge(delivered)
    hand.tick(10_000)
    assert hand.replica.book.rejected
    hand.tick(1_000)
    assert bool(hand.replica.book.rejected) is not delivered  # else it is still being said
    hand.request(Build(id="a", flavor="small", count=2))
    assert hand.decisions()[-1].reason == reason


# -- several instances ----------------------------------------------------------------------------------------------------------------


def test_a_request_that_gets_only_a_part_gives_it_back() -> None:
    hand = Hand("h0", "h1", vcpus=5, attempts_max=1)
    one, two = hand.claims(Build(id="a", flavor="large", count=2))
    hand.grant(one)
    host = decode("claims", two.value).host
    for _ in range(3):
        hand.ledgers[host].receive(Configure(labels={"n": str(hand.now)}), 0)
        hand.now += 1
        pending = list(hand.replica.claims.pending)
        hand.take(*(c for c in sends(hand.sent, re.SendClaim) if c.allocation in pending))
        hand.report(host)
        hand.turn()
    (decision,) = hand.decisions()
    assert decision.result == "no_valid_host"
    assert "turned down" in decision.message
    (sent,) = sends(hand.sent, re.SendDecision)
    assert [r.allocation for r in releases(hand.read_back(sent))] == [one.allocation]


# -- parking --------------------------------------------------------------------------------------------------------------------------


def test_what_a_pending_claim_stands_in_the_way_of_waits_for_its_verdict() -> None:
    hand = Hand("h0", vcpus=5)
    (one,) = hand.claims(Build(id="a", flavor="large"), Build(id="b", flavor="large"))
    assert len(hand.replica.placer.parked) == 1
    hand.ledgers["h0"].receive(Configure(labels={"x": "y"}), 0)
    hand.take(one)
    hand.report("h0")
    claims = sends(hand.turn(), re.SendClaim)
    assert [decode("claims", c.value).request for c in claims] == ["a"]  # in line before it
    hand.grant(*claims)
    hand.turn()
    assert {d.request: d.result for d in hand.decisions()} == {"a": "placed", "b": "no_valid_host"}
    assert not hand.replica.placer.parked


def test_requests_of_one_group_with_other_maxima_are_judged_apart() -> None:
    hand = Hand("h0")
    claims = hand.claims(
        Build(id="a", flavor="small", group="g", group_max=1),
        Build(id="b", flavor="small", group="g", group_max=1),
        Build(id="c", flavor="small", group="g", group_max=2),
    )
    assert [decode("claims", c.value).request for c in claims] == ["a", "c"]
    assert len(hand.replica.placer.parked) == 1


def test_nobody_waits_for_a_host_that_would_not_do_anyway() -> None:
    hand = Hand("h0", vcpus=5)
    hand.claims(
        Build(id="a", flavor="large"),
        Build(id="b", flavor="large", traits_required=("CUSTOM_A",)),
        Build(
            id="c", flavor="small", hosts_ignored=("h0",)
        ),  # room is not what it lacks, so no claim stands in its way
    )
    assert [(d.request, d.result) for d in hand.decisions()] == [("b", "no_valid_host"), ("c", "no_valid_host")]


# -- cancel ---------------------------------------------------------------------------------------------------------------------------


def test_cancel_of_what_waits_for_its_claim_is_rejected_and_the_grant_given_back() -> None:
    hand = Hand("h0")
    (claim,) = hand.claims(Build(id="a", flavor="small"))
    hand.request(Cancel(id="a", flavor="small"))
    (decision,) = sends(hand.sent, re.SendDecision)
    assert decode("decisions", decision.value).reason == "cancelled"
    hand.take(claim)
    assert not releases(hand.report("h0"))
    assert [r.allocation for r in releases(hand.read_back(decision))] == [claim.allocation]
    hand.acknowledge()
    hand.turn()
    assert hand.committed() == 2


def test_cancel_of_what_is_answered_waits_for_the_effective_decision() -> None:
    hand = Hand("h0")
    (claim,) = hand.claims(Build(id="a", flavor="small"))
    hand.grant(claim)
    assert not releases(hand.request(Cancel(id="a", flavor="small")))
    (decision,) = sends(hand.sent, re.SendDecision)
    given_back = releases(hand.read_back(decision))
    assert [(r.allocation, r.leased_only) for r in given_back] == [(claim.allocation, False)]


def test_a_cancel_is_done_only_when_every_release_is_acknowledged() -> None:
    hand = Hand("h0")
    claims = hand.claims(Build(id="a", flavor="small", count=2))
    hand.grant(*claims)
    (decision,) = sends(hand.sent, re.SendDecision)
    hand.acknowledge()
    hand.read_back(decision)
    one, two = sends(hand.request(Cancel(id="a", flavor="small")), re.SendRelease)
    assert not sends(hand.receive(re.ReleaseDelivered(one.token, False)), re.SendRelease)
    (again,) = sends(hand.tick(RESEND_MIN_MS), re.SendRelease)
    assert again.value == one.value
    hand.receive(re.ReleaseDelivered(two.token, True))
    hand.turn()
    assert hand.committed() == 1
    hand.receive(re.ReleaseDelivered(again.token, True))
    hand.turn()
    assert hand.committed() == 2


def held_by(hand: Hand, request: str, name: str, state: str = "leased") -> str:
    """An allocation that somebody else won for a request; returns its id."""
    ledger = hand.ledgers["h0"]
    allocation = Allocation(id=f"old-{request}", request=request, flavor=name, resources={"VCPU": 1})
    hand.offsets["claims"] += 2
    offset = hand.offsets["claims"]
    claim = Claim(host="h0", request=request, mode="fits", lease_ms=300_000, allocations=[allocation])
    ledger.receive(Taken(offset - 2, hand.now, claim), hand.now)
    if state == "active":
        ledger.receive(
            Taken(offset - 1, hand.now, Confirm(host="h0", request=request, allocation=allocation.id)), hand.now
        )
    hand.report("h0")
    return allocation.id


@pytest.mark.parametrize(("name", "given_back"), [("small", 1), ("large", 0)])
def test_cancel_of_what_nobody_remembers_takes_what_its_flavor_holds(name: str, given_back: int) -> None:
    hand = Hand("h0")
    held_by(hand, "a", "small", "active")
    assert len(releases(hand.request(Cancel(id="a", flavor=name)))) == given_back


def test_cancel_spares_and_finds_past_an_id_that_was_decided_on_another_partition_too() -> None:
    hand = Hand("h0")
    old = held_by(hand, "a", "small", "active")
    other = Decision(request="a", result="rejected", reason="invalid", replica="r9", position=Position(1, 0))
    hand.replica.book.history.first("a", 1, hand.now, encode(other))
    (release,) = releases(hand.request(Cancel(id="a", flavor="small")))
    assert release.allocation == old


# -- takeover -------------------------------------------------------------------------------------------------------------------------


def test_a_redelivered_request_renews_the_lease_it_finds_and_answers_that() -> None:
    hand = Hand("h0")
    old = held_by(hand, "a", "small")
    hand.own(end=1)
    (renewal,) = sends(hand.request(Build(id="a", flavor="small")), re.SendClaim)
    assert decode("claims", renewal.value).mode == "renew"
    assert not hand.decisions()
    hand.grant(renewal)
    assert [p.allocation for p in hand.decisions()[0].placed] == [old]


def test_a_redelivered_request_is_answered_with_its_active_allocation_at_once() -> None:
    hand = Hand("h0")
    old = held_by(hand, "a", "small", "active")
    hand.own(end=1)
    hand.request(Build(id="a", flavor="small"))
    assert [p.allocation for p in hand.decisions()[0].placed] == [old]


def test_an_active_allocation_on_a_stale_host_is_answered_once_the_host_is_good() -> None:
    hand = Hand("h0")
    old = held_by(hand, "a", "small", "active")
    hand.receive(re.HostsRead(0, [hand._raw("hosts", delta_key("h0", hand.ledgers["h0"].epoch), b"{")]))
    hand.own(end=1)
    (renewal,) = sends(hand.request(Build(id="a", flavor="small")), re.SendClaim)
    assert not sends(hand.turn(), re.SendClaim)
    hand.take(renewal)
    hand.report("h0")
    assert [p.allocation for p in hand.decisions()[0].placed] == [old]


def test_allocations_of_another_request_with_the_same_id_are_left_alone() -> None:
    hand = Hand("h0")
    held_by(hand, "a", "large")
    hand.own(end=1)
    (claim,) = hand.claims(Build(id="a", flavor="small"))
    assert decode("claims", claim.value).mode == "strict"
    hand.grant(claim)
    (decision,) = sends(hand.sent, re.SendDecision)
    assert not releases(hand.read_back(decision))


def test_a_second_allocation_of_one_instance_is_given_back() -> None:
    hand = Hand("h0", "h1")
    old = held_by(hand, "a", "small")
    other = Allocation(id="older", request="a", flavor="small", resources={"VCPU": 1})
    hand.ledgers["h1"].receive(
        Taken(50, hand.now, Claim(host="h1", request="a", mode="fits", lease_ms=9_000, allocations=[other])), 0
    )
    hand.report("h1")
    hand.offsets["claims"] = 60
    hand.own(end=1)
    (renewal,) = sends(hand.request(Build(id="a", flavor="small")), re.SendClaim)
    hand.grant(renewal)
    (decision,) = sends(hand.sent, re.SendDecision)
    named = hand.decisions()[0].placed[0].allocation
    assert [r.allocation for r in releases(hand.read_back(decision))] == [{old, "older"}.difference({named}).pop()]


def test_a_renewal_that_nobody_answers_is_followed_by_a_new_claim_and_a_release() -> None:
    hand = Hand("h0", "h1", claim_timeout_ms=1_000)
    old = held_by(hand, "a", "small")
    hand.own(end=1)
    hand.request(Build(id="a", flavor="small"))
    hand.tick(1_001)
    (claim,) = sends(hand.turn(), re.SendClaim)
    hand.grant(claim)
    (decision,) = sends(hand.sent, re.SendDecision)
    assert [r.allocation for r in releases(hand.read_back(decision))] == [old]


def test_a_request_expired_before_it_was_read_claims_nothing_and_gives_back_what_it_held() -> None:
    hand = Hand("h0", deadline_ms=1_000)
    old = held_by(hand, "a", "small")
    hand.own(end=1)
    effects = hand.request(Build(id="a", flavor="small"), age_ms=1_001)
    assert not sends(effects + hand.turn(), re.SendClaim)
    (decision,) = sends(hand.sent, re.SendDecision)
    assert decode("decisions", decision.value).result == "expired"
    assert [r.allocation for r in releases(hand.read_back(decision))] == [old]


def test_a_cancel_while_a_lease_is_renewed_gives_it_back() -> None:
    hand = Hand("h0")
    old = held_by(hand, "a", "small")
    hand.own(end=1)
    hand.request(Build(id="a", flavor="small"))
    hand.request(Cancel(id="a", flavor="small"))
    (decision,) = sends(hand.sent, re.SendDecision)
    assert [r.allocation for r in releases(hand.read_back(decision))] == [old]


def test_a_lease_whose_renewal_comes_between_another_answer_and_its_readback_is_given_back_at_once() -> None:
    hand = Hand("h0", deadline_ms=1_000)
    old = held_by(hand, "a", "small")
    hand.own(end=1)
    (renewal,) = sends(hand.request(Build(id="a", flavor="small")), re.SendClaim)
    hand.tick(1_001)
    (decision,) = sends(hand.sent, re.SendDecision)
    assert decode("decisions", decision.value).result == "expired"
    hand.grant(renewal)
    assert [r.allocation for r in releases(hand.read_back(decision))] == [old]


@pytest.mark.parametrize("stage", ["waiting", "claimed", "granted", "answered", "acknowledged"])
def test_a_lost_partition_is_left_at_once_in_every_stage(stage: str) -> None:
    hand = Hand("h0", claims_in_flight_max=0 if stage == "waiting" else 10)
    claims = hand.claims(Build(id="a", flavor="small"))
    if stage not in ("waiting", "claimed"):
        hand.take(*claims)
    if stage in ("answered", "acknowledged"):
        hand.report("h0")
    if stage == "acknowledged":
        hand.acknowledge()
    before = len(hand.sent)
    hand.receive(re.Lost(PART))
    hand.acknowledge(delivered=False)
    hand.take(*(claims if stage == "claimed" else ()))
    hand.report("h0")
    hand.turn()
    hand.tick(60_000)
    hand.turn()
    assert not hand.sent[before:]
    assert not hand.replica.book.works
    assert not hand.replica.claims.pending
    assert hand.replica.waiting == 0


# -- bounds ---------------------------------------------------------------------------------------------------------------------------


def test_queue_max_past_it_requests_are_told_to_come_later() -> None:
    hand = Hand("h0", queue_max=3)
    hand.request(*(Build(id=f"a{i}", flavor="small") for i in range(5)))
    assert [d.reason for d in hand.decisions()] == ["overloaded", "overloaded"]


def test_claims_in_flight_max_the_others_wait_their_turn() -> None:
    hand = Hand("h0", claims_in_flight_max=2)
    claims = hand.claims(*(Build(id=f"a{i}", flavor="small") for i in range(5)))
    assert len(claims) == 2
    assert not sends(hand.turn(), re.SendClaim)
    hand.grant(*claims)
    assert len(sends(hand.turn(), re.SendClaim)) == 2


def test_attempts_max_then_no_valid_host_with_the_reason() -> None:
    hand = Hand("h0", attempts_max=3)
    claims = hand.claims(Build(id="a", flavor="small"))
    for attempt in range(3):
        assert len(claims) == 1
        hand.ledgers["h0"].receive(Configure(labels={"n": str(attempt)}), 0)
        hand.take(*claims)
        hand.report("h0")
        claims = sends(hand.turn(), re.SendClaim)
    (decision,) = hand.decisions()
    assert (decision.result, decision.reason, decision.conflicts) == ("no_valid_host", "attempts", 3)
    assert "stale" in decision.message


def test_a_request_that_lost_claims_does_not_insist_on_the_best_host() -> None:
    """The fullest host of nine turns every claim down: whoever insisted would be refused with eight hosts untouched."""
    hand = Hand(*(f"h{n}" for n in range(9)), attempts_max=9)
    hand.take(*hand.claims(Build(id="first", flavor="small", profile="pack")))
    (best,) = [host for host, ledger in hand.ledgers.items() if ledger.allocations]
    hand.report(best)
    tried: list[str] = []
    claims = hand.claims(Build(id="a", flavor="small", profile="pack"))
    while claims and (not tried or tried[-1] == best):
        tried.append(claims[0].key.decode())
        hand.ledgers[best].receive(Configure(labels={"n": str(len(tried))}), 0)
        hand.take(*claims)
        hand.report(tried[-1])
        claims = sends(hand.turn(), re.SendClaim)
    assert tried[0] == best
    assert tried[-1] != best


def test_decisions_kept_max_the_oldest_answer_is_forgotten() -> None:
    hand = Hand(decisions_kept_max=2)
    for name in "abc":
        hand.request(Build(id=name, flavor="small"))
        hand.turn()
        hand.read_back(sends(hand.sent, re.SendDecision)[-1])
    assert list(hand.replica.book.history) == ["b", "c"]


@pytest.mark.parametrize(("passed_ms", "again"), [(899_000, "again"), (1_900_000, "no_valid_host")])
def test_idempotency_window_a_repeated_id_gets_the_same_answer_within_it(passed_ms: int, again: str) -> None:
    hand = Hand()
    hand.request(Build(id="a", flavor="small"))
    hand.turn()
    hand.read_back(sends(hand.sent, re.SendDecision)[-1])
    hand.now += passed_ms
    hand.request(Build(id="b", flavor="small"))
    hand.turn()
    hand.read_back(sends(hand.sent, re.SendDecision)[-1])
    hand.tick(1_000)
    hand.request(Build(id="a", flavor="small"))
    hand.turn()
    assert sends(hand.sent, re.SendDecision)[-1].result == again


def test_claim_timeout_comes_neither_early_nor_late() -> None:
    hand = Hand("h0", claim_timeout_ms=1_000)
    hand.claims(Build(id="a", flavor="small"))
    hand.tick(999)
    assert hand.replica.claims.counts.timed_out == 0
    hand.tick(250)
    assert hand.replica.claims.counts.timed_out == 1


def test_deadline_then_expired_whatever_is_under_way() -> None:
    hand = Hand("h0", deadline_ms=1_000)
    hand.claims(Build(id="a", flavor="small"), Build(id="b", flavor="small", deadline_ms=5_000))
    hand.tick(1_200)
    assert [(d.request, d.result) for d in hand.decisions()] == [("a", "expired")]


def test_requests_are_as_young_as_they_are_though_the_brokers_clock_was_put_back() -> None:
    hand = Hand("h0", deadline_ms=1_000)
    hand.now = 10_000_000
    hand.start("h1")
    hand.claims(Build(id="a", flavor="small"))
    hand.request(Build(id="b", flavor="small"), age_ms=3_600_000)
    hand.turn()
    assert hand.decisions() == []
    assert hand.replica.book.works.keys() == {"a", "b"}
    hand.tick(1_200)
    assert {(d.request, d.result) for d in hand.decisions()} == {("a", "expired"), ("b", "expired")}


def test_a_new_owner_reads_decisions_from_the_earlier_of_then_and_now_by_the_brokers_clock() -> None:
    """Put back between a request and its decision, it dates the decision before the request."""
    hand = Hand("h0", idempotency_window_ms=1_000)
    hand.now = 10_000_000
    hand.start("h1")
    hand.now -= 3_600_000
    hand.start("h2")
    build = encode(Build(id="a", flavor="small"))
    hand.receive(re.Assigned(1, 5))
    [read] = sends(hand.receive(re.RequestsRead(1, [(4, 10_000_000, b"small", build)])), re.ReadHistory)
    assert read.from_ms == 6_400_000 - 1_000
    hand.receive(re.Assigned(2, 5))
    [read] = sends(hand.receive(re.RequestsRead(2, [(4, 6_399_000, b"small", build)])), re.ReadHistory)
    assert read.from_ms == 6_399_000 - 1_000


def test_score_rows_max_the_one_unused_for_longest_goes() -> None:
    hand = Hand("h0", score_rows_max=2)
    for name in ("small", "large", "small"):
        hand.claims(Build(id=f"{name}{hand.offsets['requests']}", flavor=name))
    hand.control(flavor("third", vcpus=2))
    hand.claims(Build(id="x", flavor="third"))
    assert [dict(ask.resources)["VCPU"] for ask in hand.replica.placer.score_rows] == [1, 2]


def test_requests_decided_long_before_their_deadline_are_not_kept() -> None:
    hand = Hand(deadline_ms=600_000)
    works = []
    for i in range(100):
        hand.request(Build(id=f"a{i}", flavor="small"))
        works.append(hand.replica.book.works[f"a{i}"])
        hand.turn()
        hand.read_back(sends(hand.sent, re.SendDecision)[-1])
        hand.acknowledge()
        hand.sent.clear()
    assert not hand.replica.deliveries
    hand.tick(1)
    assert {sys.getrefcount(work) for work in works} == {3}  # the list, the loop and the call


def test_requests_expire_in_the_order_of_their_deadlines_whatever_order_they_came_in() -> None:
    hand = Hand("h0")  # which no turn is given to rank
    deadlines = {"a": 3_000, "b": 1_000, "c": 2_000, "d": 1_000}
    hand.request(*(Build(id=name, flavor="small", deadline_ms=ms) for name, ms in deadlines.items()))
    assert [s.key for s in sends(hand.tick(500), re.SendDecision)] == []
    assert [s.key for s in sends(hand.tick(1_500), re.SendDecision)] == [b"b", b"d", b"c"]
    assert [s.key for s in sends(hand.tick(1_000), re.SendDecision)] == [b"a"]


def test_flavors_that_people_make_up_are_one_figure() -> None:
    hand = Hand()
    hand.request(*(Build(id=f"a{i}", flavor=f"made-up-{i}") for i in range(50)))
    assert hand.replica.decider.decisions == {("rejected", ""): 50}


def test_peers_count_while_their_reports_are_young_and_are_forgotten_after() -> None:
    hand = Hand("h0", peer_timeout_ms=15_000)
    said = encode(ReplicaReport(replica="r2", state="ready"))
    hand.now += 100_000
    hand.report("h0")
    hand.receive(re.PeersRead([(0, hand.now - 60_000, b"r2", said)]))  # stood in the log long before
    hand.tick(1_000)
    assert list(hand.replica.peers._shard_of[0]) == ["r1"]
    hand.receive(re.PeersRead([(1, hand.now, b"r2", said)]))
    hand.tick(1_000)
    assert list(hand.replica.peers._shard_of[0]) == ["r1", "r2"]
    hand.tick(20_000)
    assert list(hand.replica.peers._shard_of[0]) == ["r1"]
    assert not hand.replica.peers._said
