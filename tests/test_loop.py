"""The loop whole, in memory: from a build request to a decision that a host has granted."""

from commonplace.core.codec import encode
from commonplace.core.keeper_events import ControlRead, DriverSaid, HostSpec, StartInstance, StopInstance
from commonplace.core.ledger_events import Up
from commonplace.core.records.claims import Confirm, Release
from commonplace.core.records.control import HostControl
from commonplace.core.records.requests import Build, Cancel
from world import Agent, Scheduler, World, flavor, inventory


def world(hosts: int = 3, **scheduler: int) -> tuple[World, Agent, Scheduler]:
    w = World()
    w.flavor(flavor("small"))
    w.flavor(flavor("large", vcpus=12))
    agent = w.agent(*(f"h{i}" for i in range(hosts)))
    w.settle()
    return w, agent, w.scheduler("r1", None, **scheduler)


def test_a_request_is_placed_where_a_ledger_granted_it() -> None:
    w, agent, _ = world()
    w.submit(Build(id="a", flavor="small"))
    w.settle()
    (decision,) = w.decisions("a")
    assert decision.result == "placed"
    placed = decision.placed[0]
    held = agent.keeper.hosts[placed.host].ledger
    assert held is not None
    assert held.allocations[placed.allocation].request == "a"
    report = w.log["hosts", placed.grant.partition][placed.grant.offset]
    assert placed.allocation.encode() in (report[3] or b"")


def test_every_offset_is_committed_once_decided() -> None:
    w, _, scheduler = world()
    for i in range(20):
        w.submit(Build(id=f"a{i}", flavor="small" if i % 2 else "large"))
    w.settle()
    assert scheduler.committed == {p: len(w.log["requests", p]) for p in range(2) if w.log["requests", p]}
    assert scheduler.replica.waiting == 0


def test_a_full_fleet_is_said_with_counts_and_the_closest_host() -> None:
    w, _, _ = world(hosts=2)
    for i in range(3):
        w.submit(Build(id=f"a{i}", flavor="large"))
    w.settle()
    results = [w.decisions(f"a{i}")[0] for i in range(3)]
    refused = next(d for d in results if d.result == "no_valid_host")
    assert sum(d.result == "placed" for d in results) == 2
    assert refused.explanation is not None
    assert refused.explanation.filters == {"capacity": 2}
    closest = refused.explanation.closest
    assert closest is not None
    assert (closest.resource, closest.needed, closest.had) == ("VCPU", 12, 4)


def test_several_instances_are_placed_all_or_not_at_all() -> None:
    w, agent, _ = world(hosts=2)
    w.submit(Build(id="two", flavor="large", count=2))
    w.settle()
    assert len({p.host for p in w.decisions("two")[0].placed}) == 2
    w.submit(Build(id="one-too-many", flavor="small", count=9))
    w.settle()
    assert w.decisions("one-too-many")[0].result == "no_valid_host"
    w.settle()
    assert sum(len(kept.ledger.allocations) for kept in agent.keeper.hosts.values() if kept.ledger) == 2


def test_a_redelivered_request_gets_the_same_answer() -> None:
    w, _, _ = world()
    build = Build(id="a", flavor="small")
    w.submit(build)
    w.settle()
    w.submit(build)
    w.settle()
    first, second = w.decisions("a")
    assert first == second


def test_an_id_used_for_other_content_is_refused_and_the_first_stands() -> None:
    w, _, _ = world()
    w.submit(Build(id="a", flavor="small"))
    w.settle()
    w.submit(Build(id="a", flavor="small", project="another"))
    w.settle()
    first, second = w.decisions("a")
    assert (first.result, second.result, second.reason) == ("placed", "rejected", "id_reused")


def test_a_confirmed_instance_is_started_after_its_report_and_stopped_after_release() -> None:
    w, agent, _ = world()
    w.submit(Build(id="a", flavor="small"))
    w.settle()
    placed = w.decisions("a")[0].placed[0]
    partition = placed.grant.partition
    w.append(
        "claims",
        partition,
        placed.host.encode(),
        encode(Confirm(host=placed.host, request="a", allocation=placed.allocation)),
    )
    w.settle()
    started = [e for e in agent.other if isinstance(e, StartInstance)]
    assert [e.allocation.id for e in started] == [placed.allocation]
    agent.receive(DriverSaid(placed.host, Up(placed.allocation)))
    w.append(
        "claims",
        partition,
        placed.host.encode(),
        encode(Release(host=placed.host, request="a", allocation=placed.allocation)),
    )
    w.settle()
    assert [e.allocation.id for e in agent.other if isinstance(e, StopInstance)] == [placed.allocation]


def test_an_unconfirmed_lease_lapses_and_makes_room() -> None:
    w, _, _ = world(hosts=1, lease_ms=5_000, lease_margin_ms=1_000)
    w.submit(Build(id="a", flavor="large"))
    w.settle()
    assert w.decisions("a")[0].confirm_within_ms == 4_000
    w.now += 5_001
    w.settle()
    w.settle()
    w.submit(Build(id="b", flavor="large"))
    w.settle()
    assert w.decisions("b")[0].result == "placed"


def test_two_replicas_racing_for_two_hosts_place_everything() -> None:
    """Room for 12 and 10, 15 at once through two replicas: all placed, none failed on the way."""
    w = World(request_partitions=2)
    w.flavor(flavor("one"))
    w.flavor(flavor("uno"))
    w.agent(
        specs=[HostSpec(name="h1", inventory=inventory(vcpus=12)), HostSpec(name="h2", inventory=inventory(vcpus=10))]
    )
    w.settle()
    parts = {name: w.submit(Build(id=f"probe-{name}", flavor=name)) for name in ("one", "uno")}
    assert parts["one"] != parts["uno"]
    first, second = w.scheduler("r1", owned=[parts["one"]]), w.scheduler("r2", owned=[parts["uno"]])
    for i in range(13):
        w.submit(Build(id=f"a{i}", flavor="one" if i % 2 else "uno"))
    w.settle()
    results = [w.decisions(f"a{i}")[0] for i in range(13)] + [w.decisions(f"probe-{name}")[0] for name in parts]
    assert {d.result for d in results} == {"placed"}
    assert {d.replica for d in results} == {"r1", "r2"}
    assert first.replica.claims.counts.granted + second.replica.claims.counts.granted == 15


def test_hard_anti_affinity_holds_under_races() -> None:
    w, _, _ = world(hosts=3)
    w.submit(Build(id="a", flavor="small", count=3, group="g", group_max=1))
    w.submit(Build(id="b", flavor="small", group="g", group_max=1))
    w.settle()
    assert len({p.host for p in w.decisions("a")[0].placed}) == 3
    refused = w.decisions("b")[0]
    assert refused.result == "no_valid_host"
    assert refused.explanation is not None
    assert refused.explanation.filters == {"group": 3}


def test_builds_in_progress_never_exceed_the_limit() -> None:
    w, agent, _ = world(hosts=2)
    for i in range(20):
        w.submit(Build(id=f"a{i}", flavor="small"))
    w.settle()
    assert [kept.ledger.builds for kept in agent.keeper.hosts.values() if kept.ledger] == [8, 8]
    assert sum(w.decisions(f"a{i}")[0].result == "no_valid_host" for i in range(20)) == 4


def test_a_cancelled_request_gives_back_what_it_got() -> None:
    w, agent, _ = world()
    w.submit(Build(id="a", flavor="small"))
    w.settle()
    partition = w.decisions("a")[0].position.partition
    w.append("requests", partition, b"small", encode(Cancel(id="a", flavor="small")))
    w.settle()
    assert sum(len(kept.ledger.allocations) for kept in agent.keeper.hosts.values() if kept.ledger) == 0


def test_a_new_owner_takes_up_what_the_old_one_claimed() -> None:
    w, agent, old = world()
    w.submit(Build(id="a", flavor="small"))
    old.step()  # claims, and dies
    w.members.remove(old)
    w.settle()
    assert sum(len(kept.ledger.allocations) for kept in agent.keeper.hosts.values() if kept.ledger) == 1
    w.scheduler("r2")
    w.settle()
    (decision,) = w.decisions("a")
    assert (decision.result, decision.replica) == ("placed", "r2")
    assert sum(len(kept.ledger.allocations) for kept in agent.keeper.hosts.values() if kept.ledger) == 1


def test_a_zombies_decision_is_void_and_its_allocation_released() -> None:
    w, agent, old = world()
    w.submit(Build(id="a", flavor="small"))
    old.step()
    w.members.remove(old)  # paused: it has claimed and not answered
    new = w.scheduler("r2")
    w.settle()
    assert len(w.decisions("a")) == 1
    w.members.append(old)  # goes on as if nothing had happened
    w.settle()
    w.settle()
    decisions = w.decisions("a")
    assert decisions[0].replica == "r2"
    held = [a for kept in agent.keeper.hosts.values() if kept.ledger for a in kept.ledger.allocations]
    assert held == [decisions[0].placed[0].allocation]
    assert new.replica.claims.counts.void == len(decisions) - 1


def test_hosts_that_operators_disable_get_nothing_new() -> None:
    w, agent, _ = world(hosts=2)
    record = HostControl(name="h0", status="draining")
    w.append("control", 0, b"host/h0", encode(record))
    agent.receive(ControlRead("h0", record))
    w.settle()
    for i in range(4):
        w.submit(Build(id=f"a{i}", flavor="small"))
    w.settle()
    assert {w.decisions(f"a{i}")[0].placed[0].host for i in range(4)} == {"h1"}


def test_garbage_on_every_topic_is_put_aside_and_stops_nothing() -> None:
    w, _, scheduler = world()
    for garbage in (
        b"",
        b"{",
        b"[" * 50_000,
        b'{"type":"build","v":1,"id":"x\\n"}',
        b"\xff\xfe",
        b'{"type":"snapshot","v":1,"host":"h0"}',
    ):
        for topic in ("hosts", "requests", "control", "replicas", "decisions"):
            w.append(topic, 0, b"h0/5", garbage)
            w.append(topic, 0, None, garbage)
    w.submit(Build(id="a", flavor="small"))
    w.submit(Build(id="b", flavor="large"))
    w.settle()
    assert w.decisions("a")[0].result == w.decisions("b")[0].result == "placed"
    assert {q.topic for q in scheduler.quarantined} == {"hosts", "requests", "control", "replicas", "decisions"}


def test_an_unknown_flavor_is_refused_with_the_nearest() -> None:
    w, _, _ = world()
    w.submit(Build(id="a", flavor="smal"))
    w.settle()
    decision = w.decisions("a")[0]
    assert (decision.result, decision.reason) == ("rejected", "invalid")
    assert "did you mean 'small'" in decision.message


def test_a_full_queue_says_overloaded() -> None:
    w, _, _ = world(queue_max=5, claims_in_flight_max=1)
    for i in range(20):
        w.submit(Build(id=f"a{i}", flavor="small"))
    w.settle()
    reasons = [w.decisions(f"a{i}")[0].reason for i in range(20)]
    assert reasons.count("overloaded") >= 5
    assert len(reasons) == 20


def test_catching_up_folds_the_last_record_of_each_key_and_ends_in_the_same_state() -> None:
    w, _, reader = world(hosts=4)
    for i in range(30):
        w.submit(Build(id=f"a{i}", flavor="small"))
        w.settle()
    late = w.scheduler("late", owned=[])
    outcomes = late.replica.view.outcomes
    assert outcomes["superseded"] >= 20
    assert sum(outcomes.values()) == sum(len(w.log["hosts", p]) for p in range(w.partitions))
    assert late.replica.view.digest() == reader.replica.view.digest()


def test_a_request_with_the_longest_id_there_is_gets_claims_that_agents_can_read() -> None:
    world = World()
    world.flavor(flavor())
    world.agent("h0")
    world.scheduler()
    world.settle()
    for request in ("a" * 128, "a" * 127 + "b"):
        world.submit(Build(id=request, flavor="small", count=2))
    world.settle()
    decisions = [world.decisions(request)[0] for request in ("a" * 128, "a" * 127 + "b")]
    assert [decision.result for decision in decisions] == ["placed", "placed"]
    names = [placed.instance for decision in decisions for placed in decision.placed]
    assert len(set(names)) == 4
    assert max(map(len, names)) <= 128
