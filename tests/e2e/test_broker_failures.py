"""A broker that stops, orderly or not, and comes back on the same data: nothing acknowledged is lost, everybody goes on."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from commonplace.kafka.broker import LocalBroker
from e2e_world import ALL_PARTITIONS, World
from kafka_fixtures import started_broker

pytestmark = [pytest.mark.real_kafka, pytest.mark.timeout(240)]

LEASE_MS = 60_000  # longer than any restart: what is placed before it can be confirmed after it


@pytest.fixture(scope="module")
def broker() -> Iterator[LocalBroker]:
    with started_broker() as broker:
        yield broker


@pytest.fixture(scope="module")
def own_world(broker: LocalBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(broker.bootstrap, "restarts", Path(tmp_path_factory.mktemp("stack")))
    yield world
    world.close()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_load_goes_on_after_a_broker_restart_and_nothing_acknowledged_is_lost(
    broker: LocalBroker, own_world: World, how: signal.Signals
) -> None:
    world = own_world
    world.only("r1", "r2")
    world.answered(world.submit(ALL_PARTITIONS, lease_ms=LEASE_MS))
    with world.load(per_s=50, lease_ms=LEASE_MS):
        if how == signal.SIGKILL:
            broker.kill()
        broker.restart()
        world.answered(world.submit(ALL_PARTITIONS, lease_ms=LEASE_MS))
    world.stack.check()  # nobody ended
    world.release_all()
    world.check()
