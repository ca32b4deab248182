"""Figures of a replica, scraped by one thread while another changes what they tell of."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from commonplace.core.codec import encode
from commonplace.core.host_keys import start_key
from commonplace.core.records.hosts import Start
from commonplace.core.replica import Replica
from commonplace.core.replica_events import ReplicaSettings
from commonplace.core.rows import Row
from commonplace.core.view import View
from commonplace.kafka.outbox import QuarantineWriter
from commonplace.scheduler.metrics import SchedulerFigures


def come(view: View, first: int, count: int) -> None:
    for number in range(first, first + count):
        view.fold(0, number, 1, start_key(name := f"h{number}"), encode(Start(host=name)), 1)
        view.rows[name].host.stale = ""  # as after its first snapshot


class Growing(list[Row]):
    """Rows that become more, and their columns longer, just when somebody begins to go through them."""

    def __init__(self, view: View) -> None:
        super().__init__(view.by_index)
        self.view = view

    def __iter__(self) -> Iterator[Row]:
        come(self.view, len(self), self.view.columns.room)
        return super().__iter__()


@pytest.fixture
def replica() -> Replica:
    return Replica("r1", "n", 1, "t", ReplicaSettings())


@pytest.fixture
def figures(replica: Replica) -> SchedulerFigures:
    figures = SchedulerFigures("r1", "default")
    figures.attach(replica, cast(QuarantineWriter, SimpleNamespace(counts={}, dropped=0)), "")
    return figures


def test_a_scrape_while_the_fleet_outgrows_its_columns_tells_every_host(
    replica: Replica, figures: SchedulerFigures
) -> None:
    come(replica.view, 0, 3)
    replica.view.by_index = Growing(replica.view)
    found = next(family for family in figures.collect() if family.name == "commonplace_hosts")
    assert sum(sample.value for sample in found.samples) == 3 + replica.view.columns.room / 2


def test_a_scrape_while_a_class_is_added_leaves_it_out(replica: Replica, figures: SchedulerFigures) -> None:
    replica.view.columns.free["CUSTOM_LICENSE"] = np.zeros(replica.view.columns.room, np.int64)
    assert next(family for family in figures.collect() if family.name == "commonplace_capacity").samples == []
