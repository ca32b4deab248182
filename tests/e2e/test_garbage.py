"""Garbage on every topic while load runs: put aside with its place and reason, counted, and nothing stops."""

import json
from typing import Any, NamedTuple

import pytest

from commonplace.core.partition import partition_of
from e2e_world import ALL_PARTITIONS, Ledgers, World, parsed, until

pytestmark = [pytest.mark.real_kafka, pytest.mark.timeout(180)]

HOST = "host-00001"
HOST_PARTITION = partition_of(HOST, 4)
DEEP = b"[" * 50_000
TOO_LARGE = 1_010_000  # bytes; more than any reader takes, less than the broker refuses
BELL = "\x07"


class Bad(NamedTuple):
    """A record that must be put aside."""

    topic: str
    key: bytes | None
    value: bytes
    partition: int


def text(record: dict[str, Any]) -> bytes:
    return json.dumps(record).encode()


def of_any_topic(good: dict[str, Any]) -> list[bytes]:
    """What breaks any record: cut short, nested, too large, no UTF-8, of another type, of no type."""
    whole = text(good)
    return [
        whole[: len(whole) // 2],
        DEEP,
        text({**good, "more": None})[:-1] + b', "deep": ' + DEEP,
        text({**good, "padding": "x" * TOO_LARGE}),
        b"\xff\xfe" + whole,
        text({**good, "type": "teapot"}),
        b"17",
        b"",
    ]


def snapshot(epoch: int, **other: Any) -> dict[str, Any]:
    good = {"type": "snapshot", "v": 1, "host": HOST, "epoch": epoch, "generation": 1, "claims_topic": "x",
            "claims_through": 1, "hash": "0" * 16, "inventory": {"VCPU": {"total": 8}}}  # fmt: skip
    return {**good, **other}


def hosts(epoch: int) -> list[Bad]:
    key = f"{HOST}/{epoch}".encode()
    values = [
        *of_any_topic(snapshot(epoch)),
        text(snapshot(epoch, generation="seven")),
        text(snapshot(epoch, host="host-00002")),
        text(snapshot(epoch, inventory={"VCPU": {"total": -8}})),
        text(snapshot(epoch, inventory={"VCPU": {"total": 10**30}})),
        text(snapshot(epoch, allocations=[{"id": f"a{BELL}", "resources": {"VCPU": 1}}])),
        text(snapshot(epoch, allocations=[{"id": "a", "resources": {"VCPU": -1}}])),
    ]
    bad = [Bad("hosts", key, value, HOST_PARTITION) for value in values]
    elsewhere = (HOST_PARTITION + 1) % 4
    return [*bad, Bad("hosts", key, text(snapshot(epoch)), elsewhere), Bad("hosts", b"no/key/at/all", b"{}", 0)]


def claims() -> list[Bad]:
    allocation = {"id": "forged-1", "resources": {"VCPU": 1}}
    good = {"type": "claim", "v": 1, "host": HOST, "request": "r", "lease_ms": 1000, "allocations": [allocation]}
    values = [
        *of_any_topic(good),
        text({**good, "lease_ms": -1}),
        text({**good, "host": "host-00002"}),
        text({**good, "request": f"r{BELL}"}),
        text({**good, "allocations": []}),
        text({**good, "allocations": [{**allocation, "resources": {"VCPU": 10**30}}]}),
        text({**good, "unknown": 1}),
    ]
    return [Bad("claims", HOST.encode(), value, HOST_PARTITION) for value in values]


def requests() -> list[Bad]:
    good = {"type": "build", "v": 1, "id": "bad-0", "flavor": "wide"}
    values = [
        *of_any_topic(good),
        text({**good, "id": "bad-1", "count": -1}),
        text({**good, "id": "bad-2", "count": 10**9}),
        text({**good, "id": "bad-3", "project": f"p{BELL}"}),
        text({**good, "id": "bad-4", "lease_ms": "long"}),
        text({**good, "id": "bad-5", "unknown": 1}),
        text({**good, "id": "bad-6", "flavor": "other"}),
        text({**good, "id": "bad\n7"}),
    ]
    return [Bad("requests", b"wide/0", value, partition_of("wide/0", 6)) for value in values]


def decisions() -> list[Bad]:
    good = {"type": "decision", "v": 1, "request": "nobodys", "result": "placed",
            "position": {"partition": 0, "offset": 0}}  # fmt: skip
    values = [*of_any_topic(good), text({**good, "result": "perhaps"}), text({**good, "request": "other"})]
    return [Bad("decisions", b"nobodys", value, 1) for value in values]


def control() -> list[Bad]:
    good = {"type": "flavor", "v": 1, "name": "junk", "resources": {"VCPU": 1}}
    values = [
        *of_any_topic(good),
        text({**good, "name": "wide"}),
        text({**good, "resources": {"VCPU": -1}}),
        text({**good, "spread": 10**9}),
    ]
    return [Bad("control", b"flavor/junk", value, 0) for value in values]


def replicas() -> list[Bad]:
    good = {"type": "replica", "v": 1, "replica": "ghost"}
    values = [*of_any_topic(good), text({**good, "replica": "r1"}), text({**good, "partitions": "all"})]
    return [Bad("replicas", b"ghost", value, 0) for value in values]


def test_garbage_is_put_aside_with_place_and_reason_counted_and_stops_nothing(world: World) -> None:
    world.only("r1", "r2")
    world.answered(world.submit(ALL_PARTITIONS))
    before = {name: quarantined(world, name) for name in ("r1", "r2", "fleet")}
    epoch = Ledgers()
    for entry in world.read("hosts"):
        epoch.fold(entry)
    bad = [*hosts(epoch.epochs[HOST]), *claims(), *requests(), *decisions(), *control(), *replicas()]
    with world.load():
        places = {
            (getattr(world.names, record.topic), record.partition, world.write(*record)): record for record in bad
        }
        for topic in ("quarantine", "commands"):  # read by people and audits only
            world.write(topic, b"key", DEEP)
        until(lambda: missing(world, places))
        answered = world.answered(world.submit(ALL_PARTITIONS))
    assert {decision.result for decision in answered} == {"placed"}
    world.stack.check()
    for name, topics in {
        "r1": ("hosts", "control", "replicas"),
        "r2": ("hosts", "control", "replicas"),
        "fleet": ("hosts", "claims"),
    }.items():
        now = quarantined(world, name)
        for topic in topics:
            assert now.get(topic, 0) > before[name].get(topic, 0), (name, topic, now)
    refused_as_told(world)
    world.release_all()
    world.check(unprovable=True)  # what is written over a host's own records takes evidence with it


def missing(world: World, places: dict[tuple[str, int, int], Bad]) -> str:
    """Which of the places no quarantine record with a reason names."""
    found = [parsed(entry) or {} for entry in world.read("quarantine")]
    told = {(q.get("topic"), q.get("partition", 0), q.get("offset", 0)) for q in found if q.get("reason")}
    left = [(place, record.value[:80]) for place, record in places.items() if place not in told]
    return f"{len(left)} of {len(places)} not in quarantine: {left[:5]}" if left else ""


def quarantined(world: World, name: str) -> dict[str, float]:
    """How many bad records a process counts, by topic."""
    counts: dict[str, float] = {}
    for sample, value in world.metrics(name).items():
        if sample.startswith("commonplace_quarantined_total"):
            topic = sample.partition('topic="')[2].partition('"')[0].rpartition(".")[2]
            counts[topic] = counts.get(topic, 0) + value
    return counts


def refused_as_told(world: World) -> None:
    """Whoever could be told that a request is bad has been: a decision says what is wrong."""
    said = world.decisions()
    for number in (1, 2, 3, 4, 5, 6):
        _, decision = said[f"bad-{number}"][0]
        assert (decision["result"], decision["reason"]) == ("rejected", "invalid")
        assert decision["message"]


def test_an_unknown_flavor_is_refused_with_the_nearest_one(world: World) -> None:
    world.only("r1", "r2")
    # past the library, which would refuse it
    partition = partition_of("wode", 6)
    world.write("requests", b"wode", text({"type": "build", "v": 1, "id": "typo-1", "flavor": "wode"}), partition)
    until(lambda: "" if "typo-1" in world.decisions() else "no decision")
    _, decision = world.decisions()["typo-1"][0]
    assert (decision["result"], decision["reason"]) == ("rejected", "invalid")
    assert "wide" in decision["message"]
    world.check()
