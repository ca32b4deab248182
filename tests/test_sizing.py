"""The sizing model: what the page says is what it works out, and it moves the way that deployments do."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from bench.sizing import Deployment, Needs, needs

PAGE = Path(__file__).parent.parent / "docs" / "sizing.md"
COLUMNS = (
    Deployment(),
    Deployment(rate=1000.0),
    Deployment(hosts=100_000, rate=1000.0, agents=200, partitions=16),
    Deployment(agents=10_000),
    Deployment(agents=10_000, partitions=256),
)
ROWS = {
    "heartbeats a second": "heartbeats_per_s",
    "snapshots a second": "snapshots_per_s",
    "reports with news a second": "reports_per_s",
    "written to `hosts`, MB/s": "hosts_mb_per_s",
    "written to `claims`, MB/s": "claims_mb_per_s",
    "requests and decisions, MB/s": "requests_and_decisions_mb_per_s",
    "read by replicas, MB/s": "out_to_replicas_mb_per_s",
    "read by agents, MB/s": "out_to_agents_mb_per_s",
    "fetches by agents, a second": "fetches_by_agents_per_s",
    "the brokers' CPU for these, cores": "brokers_cores_for_fetches",
    "a replica's CPU at rest, cores": "replica_idle_cores",
    "at this rate, cores": "replica_cores",
    "rate that fills a replica's core, a second": "rate_max",
    "a replica's memory beyond 60 MB, MB": "replica_memory_mb",
    "reading and folding at its start, s": "catchup_s",
}


@pytest.mark.parametrize("row", ROWS)
def test_the_page_says_what_the_model_works_out(row: str) -> None:
    lines = [line.replace("*", "").split("|")[1:-1] for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    (cells,) = [cells[1:] for cells in lines if cells[0].strip() == row]
    said = [float(re.sub(r"[, ]", "", cell)) for cell in cells]
    assert said == pytest.approx([getattr(needs(column), ROWS[row]) for column in COLUMNS], rel=0.06, abs=0.006)


def test_every_figure_of_the_model_is_on_the_page() -> None:
    assert set(ROWS.values()) == set(Needs.__dataclass_fields__)


def test_agents_that_serve_one_host_each_read_one_partition_and_agents_with_many_hosts_all() -> None:
    alone = needs(Deployment(agents=10_000, partitions=256))
    written = alone.hosts_mb_per_s + alone.claims_mb_per_s
    assert alone.out_to_agents_mb_per_s == pytest.approx(10_000 * written / 256)
    crowded = needs(Deployment(agents=100, partitions=4))
    assert crowded.out_to_agents_mb_per_s == pytest.approx(100 * written)


def test_agents_ask_for_each_claim_on_their_partitions_and_for_reports_only_while_they_have_claims() -> None:
    rare = needs(Deployment(rate=1.0, agents=1_000, partitions=100))
    touched = 1 - 0.99**10  # of ten hosts an agent
    claims, reports, reading = 3.0, 500 + 10_000 / 300 + 3, 0.5 / 1_000
    assert rare.fetches_by_agents_per_s == pytest.approx(1_000 * (3 + touched * (claims + reading * reports)))
    assert needs(Deployment(rate=5_000.0)).fetches_by_agents_per_s == 100 * 1_003  # no client asks more often


def test_a_second_replica_halves_the_ranking_and_not_the_folding() -> None:
    one, two = (needs(Deployment(rate=1000.0, replicas=n)).rate_max for n in (1, 2))
    assert 1.3 < two / one < 1.5


def test_shorter_snapshot_intervals_make_shorter_deltas() -> None:
    busy = Deployment(rate=1000.0)
    assert needs(replace(busy, snapshot_s=60.0)).hosts_mb_per_s < needs(busy).hosts_mb_per_s / 2
