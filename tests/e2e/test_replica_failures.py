"""Replicas that are killed, paused and told to stop in the middle of their work: every request is decided, once."""

import signal
import time

import pytest

from commonplace.failpoints import SCHEDULER, VARIABLE
from e2e_world import SESSION_TIMEOUT_S, World, until

pytestmark = [pytest.mark.real_kafka, pytest.mark.timeout(180)]

TAKEOVER_S = SESSION_TIMEOUT_S + 10
"""By the session's end and not by a deadline, which is 60 s; the rest is for a machine that other tests keep busy."""


@pytest.mark.parametrize("failpoint", SCHEDULER)
def test_a_replica_killed_at_any_step_is_taken_over_and_nothing_is_decided_twice(world: World, failpoint: str) -> None:
    world.only("r1")
    # not at the first pass: then the replica has other requests in every stage
    victim = world.stack.start_scheduler("victim", environ={VARIABLE: f"{failpoint}:4"})
    with world.load():
        until(lambda: "the victim lives" if victim.running() else "", pause_s=0.02)
        died = time.monotonic()
        before = list(world.history.pendings)
        assert world.gone("victim") == -signal.SIGKILL
        world.answered(before)
    last = max(world.history.answered_s[pending.request.id] for pending in before)
    assert last - died <= TAKEOVER_S
    world.release_all()
    world.check()


def test_what_a_paused_replica_says_after_its_takeover_does_not_last(world: World) -> None:
    world.only("r1", "r2")
    world.await_share("r1", "r2")
    zombie = world.process("r2")
    with world.load(per_s=100):
        pendings = world.submit(200)
        zombie.signal(signal.SIGSTOP)  # in the middle of them
        world.answered(pendings)  # r1 took over
        taken_over = {pending.request.id for pending in pendings}
        zombie.signal(signal.SIGCONT)
        world.await_share("r2")  # it noticed, came back, and works again
    world.check()
    for request, found in world.decisions().items():
        if request in taken_over:
            placements = {tuple(p["allocation"] for p in record.get("placed", [])) for _, record in found}
            # each request has one answer, whoever said it and however often; another is void and holds nothing
            assert found[0][1]["replica"] == world.history.answers()[request].replica
            assert len(placements) <= 2
    world.release_all()
    world.check()


def test_a_replica_that_is_paused_again_and_again_keeps_its_partitions(world: World) -> None:
    world.only("r1", "r2")
    world.await_share("r1", "r2")
    before = world.log("r2").count("REBALANCE") + world.log("r2").count("rebuilding")
    with world.load():
        for _ in range(30):
            world.process("r2").signal(signal.SIGSTOP)
            time.sleep(0.05)  # the fault itself: 10 Hz
            world.process("r2").signal(signal.SIGCONT)
            time.sleep(0.05)
    assert world.log("r2").count("REBALANCE") + world.log("r2").count("rebuilding") == before
    world.await_share("r1", "r2")
    world.release_all()
    world.check()


def test_replicas_come_and_go_in_the_middle_of_a_burst(world: World) -> None:
    world.only("r1", "r2")
    world.await_share("r1", "r2")
    leaving = world.process("r1")
    pendings = world.submit(300)
    world.stack.start_scheduler("r3")
    pendings += world.submit(300)
    leaving.signal(signal.SIGTERM)
    assert world.gone("r1") == 0
    pendings += world.submit(100)
    assert {decision.result for decision in world.answered(pendings)} == {"placed"}
    world.await_share("r2", "r3")
    world.release_all()
    world.check()
