"""Replay through the real frontend library on real topics, with a scripted replica and host."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from commonplace.cli import common
from commonplace.cli import replay as cli_replay
from commonplace.core import hashing
from commonplace.core.codec import encode
from commonplace.core.host_keys import snapshot_key, start_key
from commonplace.core.partition import partition_of
from commonplace.core.records.decisions import Decision, Position
from commonplace.core.records.hosts import Snapshot, Start
from commonplace.core.records.requests import Build
from commonplace.core.requests import content_digest
from commonplace.core.resources import Inventory
from commonplace.errors import NotReady
from commonplace.kafka import client, control
from commonplace.kafka.topics import Topics
from commonplace.ops import audit
from commonplace.ops.replay.fleet import read_hosts
from commonplace.ops.replay.run import Plan, replay
from commonplace.ops.replay.samples import sample
from commonplace.settings import Settings
from frontend_world import fake_replica, make_topics, placed, settings_on
from kafka_fixtures import KafkaUnderTest

VMS = 60


@pytest.fixture
def settings(kafka: KafkaUnderTest, prefix: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Topics of our own; the audit is left out, because the scripted replica claims nothing."""
    made = settings_on(kafka, prefix)
    make_topics(kafka, made)
    report = SimpleNamespace(clean=True, to_dict=lambda: {"audit": "clean"})
    monkeypatch.setattr(audit, "run", lambda _: report, raising=False)
    return made


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "trace.csv"
    path.write_text("\n".join(sample("azure-v1", VMS)))
    return path


def write_host(settings: Settings, name: str, vcpus: int) -> None:
    """Report one empty host, a start record and a snapshot, as its agent would."""
    topic = Topics(settings.topics.prefix, settings.topics.pool).hosts
    partition = partition_of(name, settings.topics.hosts_partitions)
    offsets: list[int] = []
    producer = client.producer(settings)
    producer.produce(
        topic,
        encode(Start(host=name)),
        start_key(name),
        partition,
        on_delivery=lambda _, message: offsets.append(message.offset() or 0),
    )
    assert producer.flush(20) == 0
    inventory = {"VCPU": Inventory(total=vcpus)}
    snapshot = Snapshot(
        host=name,
        epoch=offsets[0],
        generation=0,
        claims_topic="t",
        claims_through=-1,
        hash=hashing.to_hex(hashing.host_part(inventory, (), {}, "enabled")),
        inventory=inventory,
    )
    producer.produce(topic, encode(snapshot), snapshot_key(name, offsets[0]), partition)
    assert producer.flush(20) == 0


def forget(settings: Settings, name: str, partition: int | None = None) -> None:
    """Say that a host is gone for good, as `hosts forget` does; on another partition it says nothing."""
    producer = client.producer(settings)
    if partition is None:
        partition = partition_of(name, settings.topics.hosts_partitions)
    topic = Topics(settings.topics.prefix, settings.topics.pool).hosts
    producer.produce(topic, encode(Start(host=name, removed=True)), start_key(name), partition)
    assert producer.flush(20) == 0


def test_a_trace_goes_through_the_frontend_and_every_vm_is_accounted_for(settings: Settings, trace: Path) -> None:
    write_host(settings, "host-b", 1000)
    write_host(settings, "host-c", 24)

    def decide(build: Build, partition: int, offset: int) -> list[Decision]:
        if build.flavor == "az-s1":
            return [placed(build, partition, offset, conflicts=1)]
        no = Decision(
            request=build.id,
            result="no_valid_host",
            content=content_digest(build),
            position=Position(partition, offset),
            flavor=build.flavor,
        )
        return [no]

    stages: list[str] = []
    with fake_replica(settings, decide) as replica:
        plan = Plan(path=trace, form="azure-v1", settings=settings, in_flight_max=8)
        report = replay(plan, lambda stage, book, total: stages.append(stage))
    small = trace.read_text().count(",s1,")
    assert 0 < small < VMS
    assert (report["requests"], report["placed"], report["refused"], report["unanswered"]) == (
        VMS,
        small,
        VMS - small,
        0,
    )
    assert report["confirmed"] == report["released"] == small
    assert report["reasons"] == {"no_valid_host": VMS - small}
    assert report["conflict_fraction"] == 1.0
    assert (report["hosts"], report["hosts_used"], report["audit"]) == (2, 0, {"audit": "clean"})
    assert report["packing"]["at_first_refusal"]["request_number"] >= 1
    assert all(report["latency_ms"][name] > 0 for name in ("p50", "p90", "p99"))
    assert len(replica.requests) == VMS
    assert {"reading the trace", "starting", "auditing"} <= set(stages)


def test_hosts_of_which_nothing_is_left_at_the_end_are_counted(
    settings: Settings, trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("host-b", "host-c"):
        write_host(settings, name, 1000)

    def decide(build: Build, partition: int, offset: int) -> list[Decision]:
        forget(settings, "host-c")
        return [placed(build, partition, offset)]

    with fake_replica(settings, decide):
        report = replay(Plan(path=trace, form="azure-v1", settings=settings, limit=3))
    assert (report["hosts"], report["hosts_used"], report["hosts_gone"]) == (1, 0, 1)
    common.forget()
    cli_replay._print(report)
    told = capsys.readouterr().out
    assert "0 of 1; no reports are left of 1 more" in " ".join(told.split())


def test_a_record_on_another_partition_than_its_hosts_is_none_of_its_hosts(settings: Settings) -> None:
    write_host(settings, "host-b", 1000)
    forget(settings, "host-b", partition=1 - partition_of("host-b", 2))
    assert [host.name for host in read_hosts(settings)] == ["host-b"]


def test_the_flavors_of_the_trace_are_spread_over_all_partitions_of_requests(settings: Settings, trace: Path) -> None:
    write_host(settings, "host-b", 1000)
    with fake_replica(settings) as replica:
        replay(Plan(path=trace, form="azure-v1", settings=settings))
    written = {name: flavor for name, flavor in control.flavors(settings).items() if name.startswith("az-")}
    assert written["az-s2"].resources == {"VCPU": 2, "MEMORY_MB": 4096}
    assert {flavor.spread for flavor in written.values()} == {settings.topics.requests_partitions}
    assert len({partition for partition, _, _ in replica.requests}) > 1


def test_a_replay_on_a_system_without_hosts_says_so(settings: Settings, trace: Path) -> None:
    with pytest.raises(NotReady, match="no host reports to pool default"):
        replay(Plan(path=trace, form="azure-v1", settings=settings))
