"""Fixtures for everybody. A run of pure tests starts no broker: it is chosen when the first test asks."""

import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from commonplace.kafka.broker import LocalBroker
from kafka_fixtures import KafkaUnderTest, choose_kafka, shared_kafka, skip_or_fail, started_broker

PREFIX_NAME_CHARS = 40
MEMORY: Final = Path("/dev/shm")
MEMORY_BYTES_MIN: Final = 6 << 30
# Fixtures that bring an Apache Kafka themselves, and skip where they can't: the shared one need not start for them.
OWN = {"own_broker", "broker"}
_used = pytest.StashKey[str]()
_close = pytest.StashKey[Callable[[], None]]()
_used_by_workers = pytest.StashKey[set[str]]()


@pytest.fixture(scope="session")
def kafka(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> KafkaUnderTest:
    """The broker of this session, shared by its tests: keep apart by `prefix`, and neither stop nor pause it."""
    several = "PYTEST_XDIST_WORKER" in os.environ
    chosen = shared_kafka(tmp_path_factory.getbasetemp().parent) if several else choose_kafka()
    pytestconfig.stash[_used], pytestconfig.stash[_close] = str(chosen), chosen.close
    return chosen


@pytest.fixture
def own_broker() -> Iterator[LocalBroker]:
    """A started Apache Kafka for this test alone, to be killed, paused or restarted."""
    with started_broker() as broker:
        yield broker


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    """A topic prefix that no other test has; it begins with the test's name, so that broker logs can be read."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", request.node.name)[:PREFIX_NAME_CHARS].strip("-")
    return f"{name}-{uuid.uuid4().hex[:8]}"


@pytest.fixture(autouse=True)
def _real_kafka(request: pytest.FixtureRequest) -> None:
    if request.node.get_closest_marker("real_kafka") is None or OWN & set(request.fixturenames):
        return
    chosen: KafkaUnderTest = request.getfixturevalue("kafka")
    if not chosen.real:
        skip_or_fail(f"the embedded broker can't do what this test needs: {chosen.why_not_real}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest test begins first: begun last it would be waited for by all other workers."""
    items.sort(key=lambda item: "test_chaos_short" not in item.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker tells the process that prints the summary which broker it used, and lets go of it: past the time limits of tests,
    because whoever began it waits for the others."""
    session.config.stash.get(_close, lambda: None)()
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["broker"] = session.config.stash.get(_used, "")


class FromWorkers:
    """Hooks of pytest-xdist, registered where it runs."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    def pytest_testnodedown(self, node: Any) -> None:
        """Remember the broker of a worker that has ended; one that crashed told none."""
        used = getattr(node, "workeroutput", {}).get("broker", "")
        if used:
            self.config.stash[_used_by_workers].add(used)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of our own."""
    parser.addoption(
        "--regenerate-scenarios",
        action="store_true",
        help="write what comes of each story under tests/scenarios into its file; read the diff",
    )


def pytest_configure(config: pytest.Config) -> None:
    _work_in_memory()
    config.stash[_used_by_workers] = set()
    if config.pluginmanager.hasplugin("xdist"):
        config.pluginmanager.register(FromWorkers(config))


def _work_in_memory() -> None:
    """Brokers make a file for every little thing: their directories go where files cost least, if there is room enough for all.

    Not those of `tmp_path`: what lies in memory may often not be executed.
    """
    if "TMPDIR" not in os.environ and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > MEMORY_BYTES_MIN:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
        os.environ["TMPDIR"] = tempfile.tempdir = str(MEMORY)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say which broker the figures above stand for."""
    here = config.stash.get(_used, "no test asked for the shared one")
    used = config.stash[_used_by_workers]
    for broker in sorted(used or {here}):
        terminalreporter.write_line(f"broker: {broker}")
