"""The worlds of the end-to-end tests: one shared by all that leave it as they found it, made anew after a failure."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from e2e_world import World
from kafka_fixtures import KafkaUnderTest, skip_or_fail


class Shared:
    """The world that tests share, until one fails in it."""

    def __init__(self) -> None:
        self.world: World | None = None

    def get(self, make: Callable[[], World]) -> World:
        if self.world is None or not self.world.good:
            self.close()
            self.world = make()
        self.world.good = False
        return self.world

    def close(self) -> None:
        if self.world is not None:
            self.world.close()
            self.world = None


@pytest.fixture(scope="session")
def shared() -> Iterator[Shared]:
    shared = Shared()
    yield shared
    shared.close()


@pytest.fixture
def world(shared: Shared, kafka: KafkaUnderTest, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Forty hosts, the replicas r1 and r2, and the flavor `wide`; a test that ends with `check` hands it on."""
    if not kafka.real:
        skip_or_fail(f"end-to-end tests need Apache Kafka: {kafka.why_not_real}")
    return shared.get(
        lambda: World(kafka.bootstrap, f"e2e-{uuid.uuid4().hex[:8]}", Path(tmp_path_factory.mktemp("stack")))
    )
