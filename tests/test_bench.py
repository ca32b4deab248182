"""`commonplace bench` as a user runs it, small and short: what it prints, that its audit is clean, and that it leaves nothing behind."""

import json
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

import cli
from commonplace.bench.report import label, lines
from commonplace.kafka import traffic
from kafka_fixtures import KafkaUnderTest

SOURCE = Path(__file__).parent.parent / "src" / "commonplace"
SYSTEM_TIMEOUT_S = 170.0


def report(*arguments: str) -> dict[str, Any]:
    """What `bench ARGUMENTS -o json` prints."""
    process = cli.start("bench", *arguments, "-o", "json")
    try:
        out, err = process.communicate(timeout=SYSTEM_TIMEOUT_S)
    finally:
        process.terminate()
    assert process.returncode == 0, err
    told: dict[str, Any] = json.loads(out)
    assert told["benchmark"] == arguments[0]
    assert {"cores", "cpu", "memory_gib", "python", "confluent-kafka", "commonplace"} <= set(told["machine"])
    return told


def test_rank_stands_beside_the_scans_it_replaces() -> None:
    told = report("rank", "--hosts", "300", "--flavors", "4", "--rounds", "2")
    assert (told["hosts"], told["flavors"], told["rounds"]) == (300, 4, 2)
    assert 0 < told["rank_us_rounds"]["min"] <= told["rank_us"] <= told["rank_us_rounds"]["max"]
    assert told["scan_by_columns_us"] > 0
    assert told["plain_scan_us"] > 0


def test_fold_counts_folding_apart_from_scores() -> None:
    told = report("fold", "--hosts", "300", "--flavors", "4", "--turn", "16", "--rounds", "2")
    assert told["fold_us"] > 0
    assert told["refresh_us"] > 0
    assert told["fold_and_refresh_us"] > told["fold_us"]
    assert told["fold_and_refresh_us_in_turns"] > 0
    assert told["scan_by_columns_us"] > 0


def test_a_fleet_too_small_for_what_is_asked_is_said_and_not_measured() -> None:
    answer = cli.run("bench", "rank", "--hosts", "1", "--flavors", "4", "--rounds", "2")
    assert (answer.returncode, answer.stdout) == (2, "")
    assert "--hosts 1: full" in answer.stderr.splitlines()[-1]


def test_flavors_that_fit_nowhere_are_said_and_not_measured() -> None:
    answer = cli.run("bench", "fold", "--hosts", "1", "--flavors", "1", "--rounds", "1")
    assert (answer.returncode, answer.stdout) == (2, "")
    assert "no flavor fits on any host" in answer.stderr.splitlines()[-1]


def test_conflicts_of_one_replica_are_none_and_the_same_seed_races_alike() -> None:
    small = ("conflicts", "--hosts", "20", "--rate", "500", "--seconds", "0.2", "--flavors", "2")
    alone = report(*small, "--replicas", "1")
    assert alone["conflict_fraction"] == {"pack": 0.0, "spread": 0.0}
    assert alone["requests"] == 100
    first, again = (report(*small, "--replicas", "3", "--placement", "pack") for _ in range(2))
    assert first["conflict_fraction"] == again["conflict_fraction"]
    assert list(first["by_placement"]) == ["pack"]
    cpu = first["by_placement"]["pack"]["replica_cpu_us_a_decision"]
    assert cpu["all"] == pytest.approx(cpu["folds"] + cpu["apart_from_folds"], abs=0.2)


@pytest.mark.real_kafka
@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    "mode",
    [
        ("--rate", "40"),
        ("--mode", "churn", "--window", "20", "--hold", "1"),
        ("--rate", "40", "--asks", "anti-affinity"),
        ("--rate", "40", "--asks", "numa"),
        ("--rate", "40", "--placement", "pack", "--instances-max", "12"),
    ],
    ids=" ".join,
)
def test_the_loop_on_a_running_broker_is_clean_and_leaves_no_topics(
    mode: tuple[str, ...], kafka: KafkaUnderTest, prefix: str
) -> None:
    told = report(
        *("loop", "-b", kafka.bootstrap, "--prefix", prefix, *mode),
        *("--hosts", "20", "--replicas", "2", "--flavors", "2", "--warmup", "2", "--seconds", "4"),
    )
    assert told["audit"]["audit"] == "clean"
    assert told["requests"] == told["placed"] + told["refused"] + told["unanswered"]
    assert told["placed"] > 20
    assert told["decisions_per_s"] > 0
    assert 0 < told["latency_ms"]["p50"] <= told["latency_ms"]["p90"] <= told["latency_ms"]["p99"]
    assert 0 <= told["conflict_fraction"] < 1
    assert 0 < told["hosts_used"] <= told["hosts"] == 20
    assert 0 < told["packing"]["at_end"]["VCPU"] <= 1
    assert set(told["cpu_us_a_decision"]) == {"fleet", "r1", "r2", "load"}  # the broker's is not ours to measure
    assert min(told["cpu_us_a_decision"].values()) > 0
    assert min(told["broker_requests_a_decision"].values()) > 0
    assert told["broker"] == kafka.bootstrap
    assert told["late_replica"]["hosts_enabled"] == 20
    if told["instances_max"] == 12:  # nothing lapses so soon, and without a bound a third of these hosts hold as many
        assert told["placed"] <= 12 * told["hosts_used"]
    assert not [
        name for name in AdminClient({"bootstrap.servers": kafka.bootstrap}).list_topics().topics if prefix in name
    ]


@pytest.mark.real_kafka
@pytest.mark.timeout(200)
def test_a_burst_is_decided_and_the_fleet_is_empty_before_the_next(kafka: KafkaUnderTest, prefix: str) -> None:
    told = report(
        *("burst", "-b", kafka.bootstrap, "--prefix", prefix, "--hosts", "20", "--builds", "60", "--bursts", "2"),
        *("--replicas", "2", "--warmup", "1", "--rate", "20"),
    )
    assert told["audit"]["audit"] == "clean"
    assert (told["placed"], told["refused"], told["unanswered"]) == (120, 0, 0)
    assert len(told["all_decided_ms"]["bursts"]) == 2
    assert told["latency_ms"]["max"] == pytest.approx(max(told["all_decided_ms"]["bursts"]), abs=0.1)
    # 60 builds, at most 8 a host: packed as they are, they fit on 8 hosts and on no fewer
    assert 8 <= told["hosts_used"] < 20


@pytest.mark.real_kafka
@pytest.mark.timeout(200)
def test_catching_up_reads_a_fleet_at_rest(kafka: KafkaUnderTest, prefix: str) -> None:
    told = report(
        *("catchup", "-b", kafka.bootstrap, "--prefix", prefix, "--hosts", "200", "--instances", "5", "--starts", "2"),
        *("--partitions", "3"),
    )
    assert told["audit"]["audit"] == "clean"
    assert told["audit"]["figures"]["became_active"] == 1000
    assert len(told["ready_s"]["starts"]) == 2
    assert 0 < told["catchup_s"]["median"] < told["ready_s"]["median"]
    resident = told["rss_bytes"]  # which of the two is larger, pages decide: hosts so few take less than they differ by
    assert min(resident.values()) > 10_000_000
    assert told["rss_bytes_a_host"] == pytest.approx((resident["median"] - resident["empty"]) / 200, abs=1)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["loop", "--mode", "saturate", "--rate", "5"], ["--rate", "saturate", "--window"]),
        (["loop", "--shape", "nonsense"], ["nonsense"]),
        (["conflicts", "--rate", "1", "--seconds", "0.5"], ["no request"]),
        (["loops"], ["'loop'"]),
    ],
)
def test_what_cannot_be_measured_is_told_before_anything_starts(arguments: list[str], parts: list[str]) -> None:
    cli.assert_one_line(cli.run("bench", *arguments), 2, *parts)


def test_a_figures_unit_stands_behind_its_name() -> None:
    assert label("cpu_us_a_decision") == "cpu a decision, µs"
    assert label("decisions_per_s") == "decisions/s"
    assert label("rss_bytes_a_host") == "rss a host, bytes"
    assert label("placed") == "placed"


def test_a_person_reads_the_machine_first_and_the_audit_last() -> None:
    machine = dict.fromkeys(("cores", "cpu", "memory_gib", "kernel", "python", "commonplace"), 1)
    machine |= dict.fromkeys(("confluent-kafka", "msgspec", "numpy"), 2)
    told = lines(
        {
            "benchmark": "loop",
            "machine": machine,
            "hosts": 7,
            "latency_ms": {"p50": 1.5, "p99": None, "most": 1234567.0},
            "audit": {"audit": "clean"},
        }
    )
    assert list(told)[:3] == ["benchmark", "machine", "versions"]
    assert told["latency, ms"] == "p50 1.5  p99 –  most 1234567"
    assert list(told.items())[-1] == ("audit", "clean")


def test_requests_of_clients_add_up_and_a_client_tells_totals() -> None:
    before = traffic.sent()
    assert traffic.counting({}) == traffic.counting({traffic.INTERVAL: "0"}) == {}
    one, other = (traffic.counting({traffic.INTERVAL: "1000"})["stats_cb"] for _ in range(2))
    one('{"name": "x", "brokers": {"a": {"tx": 9, "req": {"Fetch": 2, "Produce": 0}}}}')
    one('{"brokers": {"a": {"req": {"Fetch": 5}}, "b": {"req": {"Fetch": 1, "Produce": 3}}}}')
    other('{"brokers": {"a": {"req": {"Metadata": 1, "Fetch": 10}}}}')
    assert traffic.sent() - before == {"Fetch": 16, "Produce": 3, "Metadata": 1}


def test_nothing_but_its_command_imports_the_benchmarks() -> None:
    importers = {
        str(path.relative_to(SOURCE))
        for path in SOURCE.rglob("*.py")
        if "commonplace.bench" in path.read_text() and path.parent.name != "bench"
    }
    assert importers == {"cli/bench.py"}
