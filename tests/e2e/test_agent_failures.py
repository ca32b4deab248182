"""Agents that are killed, paused and replaced under load: a claim takes effect exactly once."""

import signal

import pytest

from commonplace.failpoints import AGENT, VARIABLE
from e2e_world import World, until

pytestmark = [pytest.mark.real_kafka, pytest.mark.timeout(180)]

FENCED = 7


@pytest.mark.parametrize("failpoint", AGENT)
def test_a_fleet_killed_at_any_step_goes_on_where_its_log_ends(world: World, failpoint: str) -> None:
    world.only("r1", "r2")
    world.stack.end("fleet")
    # past the forty first snapshots, so that claims are under way
    victim = world.stack.start_fleet(environ={VARIABLE: f"{failpoint}:80"})
    with world.load():
        until(lambda: "the fleet lives" if victim.running() else "", pause_s=0.02)
        assert world.gone("fleet") == -signal.SIGKILL
        world.stack.start_fleet()
        world.answered(world.submit(20))
    world.check()
    world.release_all()
    world.check()


def test_a_fleet_that_was_paused_settles_what_came_meanwhile(world: World) -> None:
    world.only("r1", "r2")
    fleet = world.process("fleet")
    with world.load():
        fleet.signal(signal.SIGSTOP)
        pendings = world.submit(40)
        # longer than a claim's timeout: the replicas give claims up that the fleet then finds in the log
        until(lambda: "" if world.metrics("r1")[TIMED_OUT] and world.metrics("r2")[TIMED_OUT] else "no claim timed out")
        fleet.signal(signal.SIGCONT)
        world.answered(pendings)
    world.release_all()
    world.check()


TIMED_OUT = 'commonplace_claims_total{verdict="timed_out"}'


def test_leases_that_lapse_while_heartbeats_are_due_leave_the_reports_in_order(world: World) -> None:
    world.only("r1", "r2")
    # what nobody confirms lapses some heartbeats after its grant, on all hosts at once
    placed = world.answered(world.submit(100, confirm=False, lease_ms=3_000))
    assert {decision.result for decision in placed} == {"placed"}
    world.check()  # waits until nothing is held; the audit finds a generation that goes back


def test_a_second_agent_for_the_same_hosts_fences_the_first_under_load(world: World) -> None:
    world.only("r1", "r2")
    with world.load():
        first = world.stack.processes.pop("fleet")
        world.stack.start_fleet()
        assert first.popen.wait(60) == FENCED
        first.wait(0)
        world.answered(world.submit(50))
    assert "was taken over by" in world.log("fleet")
    world.release_all()
    world.check(unprovable=True)  # what the first still reported, void, may be what the second went on from
