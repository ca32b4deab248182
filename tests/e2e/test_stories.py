"""Stories from the field, told with real processes: what an operator would complain about if it were otherwise."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from commonplace.core.records.control import Flavor, Profile
from commonplace.ops.explain import explain
from e2e_world import World, until
from kafka_fixtures import KafkaUnderTest

pytestmark = [pytest.mark.real_kafka, pytest.mark.timeout(180)]

BUILDS_MAX = 4
SMALL = "12vcpu:64gb*1,10vcpu:64gb*1"
PACKED = Flavor(name="packed", resources={"VCPU": 1, "MEMORY_MB": 512}, profile="pack", spread=24)
# no limit of builds in progress, so that only room decides
ROOMY = Flavor(name="wide", resources={"VCPU": 1, "MEMORY_MB": 512}, profile="roomy", spread=24)
NO_LIMITS = Profile(name="roomy", builds_max=0, instances_max=0)
PACK = Profile(name="pack", weighers={"cpu": -1.0, "ram": -1.0}, builds_max=BUILDS_MAX, instances_max=0)


@pytest.fixture
def small(kafka: KafkaUnderTest, prefix: str, tmp_path: Path) -> Iterator[World]:
    """Two hosts, with room for 12 and for 10, and two replicas."""
    world = World(kafka.bootstrap, prefix, tmp_path, hosts=2, shape=SMALL, flavors=[ROOMY], profiles=[NO_LIMITS])
    yield world
    world.close()


@pytest.fixture
def packing(kafka: KafkaUnderTest, prefix: str, tmp_path: Path) -> Iterator[World]:
    """Thirty large hosts whose instances take a while to come up, and two replicas that pack."""
    world = World(kafka.bootstrap, prefix, tmp_path, hosts=30, boot_s=0.2, flavors=[PACKED], profiles=[PACK])
    yield world
    world.close()


def not_folded(world: World) -> str:
    """Nothing, once both replicas see one free VCPU."""
    free = {r: world.metrics(r)['commonplace_capacity{class="VCPU",pool="default",state="free"}'] for r in ("r1", "r2")}
    return "" if set(free.values()) == {1.0} else f"free: {free}"


def test_two_small_hosts_take_what_fits_refuse_the_rest_and_use_what_is_given_back(small: World) -> None:
    small.await_share("r1", "r2")
    small.release_all()
    small.check()

    # fifteen at once through two replicas: all fit, so all are placed
    first = small.answered(small.submit(15))
    assert {decision.result for decision in first} == {"placed"}
    assert {decision.replica for decision in first} == {"r1", "r2"}

    # 22 fit; of ten more seven do
    second = small.answered(small.submit(10))
    assert sorted(decision.result for decision in second) == ["no_valid_host"] * 3 + ["placed"] * 7
    refused = next(decision for decision in second if decision.result == "no_valid_host")
    assert refused.explanation is not None
    assert refused.explanation.closest is not None
    assert refused.explanation.closest.resource == "VCPU"

    # one given back is there for the next, as soon as the replicas have folded the host's report
    given_back = first[0].placed[0]
    small.history.released.add(given_back.allocation)
    small.frontend.release(first[0], wait=True)
    until(lambda: not_folded(small))
    [again] = small.answered(small.submit(1))
    assert (again.result, again.placed[0].host) == ("placed", given_back.host)
    small.check()

    # and SIGTERM leaves nothing running
    processes = [psutil.Process(process.popen.pid) for process in small.stack.processes.values()]
    family = [one for process in processes for one in (process, *process.children(recursive=True))]
    codes = [process.popen for process in small.stack.processes.values()]
    small.stack.stop()
    assert [popen.returncode for popen in codes] == [0, 0, 0]
    assert not [process for process in family if process.is_running()]


def test_a_hot_flavor_that_is_spread_is_decided_by_every_replica(world: World) -> None:
    world.only("r1", "r2", "r3")
    world.await_share("r1", "r2", "r3")
    decisions = world.answered(world.submit(300))
    assert {decision.replica for decision in decisions} == {"r1", "r2", "r3"}
    assert {decision.result for decision in decisions} == {"placed"}
    world.release_all()
    world.check()


def test_a_trace_context_goes_from_the_request_to_claim_decision_and_explain(world: World) -> None:
    world.only("r1", "r2")
    trace_id = uuid4().hex
    trace = f"00-{trace_id}-b7ad6b7169203331-01"
    build = world.frontend.request("wide")
    [decision] = world.answered([world.submit_builds([build], traceparent=trace)[0]])
    assert decision.result == "placed"
    [other] = world.answered(world.submit(1))
    borne = [
        (topic, entry.json())
        for topic in ("requests", "claims", "decisions")
        for entry in world.read(topic)
        if entry.trace == trace
    ]
    assert [topic for topic, _ in borne] == ["requests", "claims", "decisions"]
    assert [record.get("request", record.get("id")) for _, record in borne] == [build.id] * 3
    assert explain(world.settings, build.id, 0).trace_id == trace_id
    assert explain(world.settings, other.request, 0).trace_id == ""


def test_a_thousand_packing_requests_at_once_never_build_more_on_a_host_than_it_may(packing: World) -> None:
    left = 1_000
    while left:  # who is refused for builds in progress comes again
        decisions = packing.answered(packing.submit(left, "packed"))
        refused = [decision for decision in decisions if decision.result != "placed"]
        assert all(decision.explanation and "io_ops" in decision.explanation.filters for decision in refused)
        left = len(refused)
    packing.check()
    builds = packing.ledgers().builds_max
    assert max(builds.values()) == BUILDS_MAX  # reached, and never exceeded, in any report
