"""docs/scheduler.md and the program: the same settings, defaults and metrics."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from commonplace.core.replica import Replica
from commonplace.core.replica_events import ReplicaSettings
from commonplace.kafka.outbox import QuarantineWriter
from commonplace.scheduler.metrics import SchedulerFigures
from commonplace.settings import SchedulerSettings

PAGE = (Path(__file__).parent.parent / "docs" / "scheduler.md").read_text()
SETTINGS = {f.name: f.default for f in msgspec.structs.fields(SchedulerSettings)}


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows(title: str) -> dict[str, str]:
    """First cell without backticks → second cell, of a section's table."""
    return dict(re.findall(r"^\| `([^`]+)` \| ([^|]+?) \|", section(title), re.MULTILINE))


def test_every_setting_of_a_scheduler_is_on_the_page_and_no_other() -> None:
    assert set(rows("Settings")) == {f"scheduler.{name}" for name in SETTINGS}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_page_names_the_default(name: str) -> None:
    assert rows("Settings")[f"scheduler.{name}"] == str(SETTINGS[name] or "(off)")


def test_every_metric_of_a_scheduler_is_on_the_page_with_its_labels_and_no_other() -> None:
    figures = SchedulerFigures("r1", "default")
    replica = Replica("r1", "n", 1, "t", ReplicaSettings())
    replica.decider.decisions["placed", "small"] = replica.decider.eliminated["capacity"] = 1
    quarantine = SimpleNamespace(counts={("hosts", "key"): 1}, dropped=0)
    figures.attach(replica, cast(QuarantineWriter, quarantine), "")
    told = {metric(family) for family in figures.collect()}
    # a class of resources is a label's value once a host has it
    assert {re.sub(r"\{.*", "", name) for name in told} == {re.sub(r"\{.*", "", name) for name in rows("Metrics")}
    labelled = {name for name in told if "{" in name}
    assert labelled <= set(rows("Metrics"))


def metric(family: Any) -> str:
    """As Prometheus shows it, with label names."""
    name = {"counter": f"{family.name}_total", "info": f"{family.name}_info"}.get(family.type, family.name)
    labels = family.samples[0].labels if family.samples and family.type in ("counter", "gauge") else ()
    return f"{name}{{{','.join(labels)}}}" if labels else name
