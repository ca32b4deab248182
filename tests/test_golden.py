"""One example of every record, held byte for byte: a change on the wire cannot go unnoticed.

`COMMONPLACE_REGENERATE=1 pytest tests/test_golden.py` rewrites the files after a change that is meant.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from commonplace.core.catalog import Catalog
from commonplace.core.codec import Bad, decode, encode
from commonplace.core.filters import FILTERS
from commonplace.core.hashing import MASK, allocation_hash, host_part, to_hex
from commonplace.core.records.claims import Claim, Confirm, Release
from commonplace.core.records.control import Aggregate, CellAsk, DeviceAsk, Flavor, HostControl, Profile, Routing
from commonplace.core.records.decisions import Decision, Explanation, Miss, Placed, Position
from commonplace.core.records.fields import VERSION, Record
from commonplace.core.records.hosts import (
    Allocation,
    Assigned,
    Delta,
    Device,
    HostCell,
    Settled,
    Snapshot,
    Start,
    Whole,
)
from commonplace.core.records.quarantine import Quarantined
from commonplace.core.records.replicas import ReplicaReport
from commonplace.core.records.requests import Build, Cancel
from commonplace.core.records.topics import TOPIC_RECORDS
from commonplace.core.resources import Inventory
from commonplace.ops import render

GOLDEN = Path(__file__).parent / "golden"
PROTOCOL = Path(__file__).parents[1] / "docs" / "protocol.md"
REGENERATE = os.environ.get("COMMONPLACE_REGENERATE") == "1"

INVENTORY = {
    "VCPU": Inventory(total=24, reserved=2, allocation_ratio_thousandths=4000),
    "MEMORY_MB": Inventory(total=49152, reserved=1024, min_unit=256, max_unit=32768, step_size=256),
}
TRAITS = ("CUSTOM_SSD", "HW_CPU_X86_AVX2")
LABELS = {"zone": "z1"}
ASKED = {"VCPU": 2, "MEMORY_MB": 4096}
CLAIMED = Allocation(
    id="9f31c2-1a",
    request="r-7f3a",
    index=0,
    instance="r-7f3a.0",
    flavor="m1.medium",
    project="blue",
    kind="build",
    group="web",
    resources=ASKED,
)
LEASED = msgspec.structs.replace(CLAIMED, building=True, lease_ms=300000)
ACTIVE = Allocation(
    id="9f31c2-19",
    request="r-7f39",
    instance="r-7f39.0",
    flavor="m1.medium",
    resources=ASKED,
    cells={"0": {"VCPU": 2}},
    state="active",
)
CELLS = {
    "0": HostCell(
        cpus="0-3,24-27",
        cpus_dedicated="4-11,28-35",
        siblings=("4,28", "5,29", "6,30", "7,31", "8,32", "9,33", "10,34", "11,35"),
        memory_mb=24576,
        pages={4: 4194304, 2048: 4096},
        devices=(Device(id="0000:3b:00.0", resource_class="CUSTOM_GPU_L4", vendor="10de", product="27b8", shares=4),),
        networks=("physnet0",),
        socket=0,
    ),
    "1": HostCell(cpus="12-23,36-47", memory_mb=24576, socket=1),
}
PARTS = {"0": {"PCPU": 4, "MEMORY_MB": 4096, "PAGES_2048": 2048, "CUSTOM_GPU_L4": 2}}
CELLED = Allocation(
    id="9f31c2-1b",
    request="r-7f3b",
    instance="r-7f3b.0",
    flavor="n1.large",
    resources={"PCPU": 4, "MEMORY_MB": 4096, "CUSTOM_GPU_L4": 2},
    cells=PARTS,
)
GIVEN = msgspec.structs.replace(
    CELLED,
    state="active",
    lease_ms=300000,
    assigned={"0": Assigned(cpus="4-5,28-29", devices={"0000:3b:00.0": 2})},
)
CELLS_INVENTORY = {
    "VCPU": Inventory(total=32, allocation_ratio_thousandths=4000),
    "PCPU": Inventory(total=16),
    "MEMORY_MB": Inventory(total=49152),
    "CUSTOM_GPU_L4": Inventory(total=4),
}
CELLS_PART = host_part(CELLS_INVENTORY, (), LABELS, "enabled", CELLS)
HOST_PART = host_part(INVENTORY, TRAITS, LABELS, "enabled")


def state_hash(*allocations: Allocation) -> str:
    return to_hex((HOST_PART + sum(map(allocation_hash, allocations))) & MASK)


RECORDS: dict[str, tuple[str, Record]] = {
    "start": ("hosts", Start(host="host-0042", agent="agent-3", nonce="5be1")),
    "snapshot": (
        "hosts",
        Snapshot(
            host="host-0042",
            epoch=17,
            generation=1,
            claims_topic="oQ2hT9bXQ0mK6m3m1JtS5g",
            claims_through=120,
            hash=state_hash(ACTIVE),
            agent="agent-3",
            inventory=INVENTORY,
            traits=TRAITS,
            labels=LABELS,
            allocations=[ACTIVE],
            load={"cpu": 0.25},
        ),
    ),
    "delta": (
        "hosts",
        Delta(
            host="host-0042",
            epoch=17,
            generation=2,
            base_generation=1,
            claims_topic="oQ2hT9bXQ0mK6m3m1JtS5g",
            claims_through=124,
            hash=state_hash(LEASED),
            upserts=[LEASED],
            removed=["9f31c2-19"],
            settled=[
                Settled(offset=122, verdict="released", allocation="9f31c2-19"),
                Settled(offset=123, verdict="granted", allocation="9f31c2-1a"),
                Settled(
                    offset=124,
                    verdict="rejected",
                    reason="stale",
                    allocation="77aa01-4",
                    detail="the state is 00c0ffee00c0ffee",
                ),
            ],
        ),
    ),
    "claim": (
        "claims",
        Claim(
            host="host-0042",
            request="r-7f3a",
            replica="r1",
            expected=state_hash(),
            lease_ms=300000,
            allocations=[CLAIMED],
            traits_required=("HW_CPU_X86_AVX2",),
            group_max=1,
            builds_max=8,
            instances_max=50,
        ),
    ),
    "snapshot_cells": (
        "hosts",
        Snapshot(
            host="host-0043",
            epoch=18,
            generation=1,
            claims_topic="oQ2hT9bXQ0mK6m3m1JtS5g",
            claims_through=120,
            hash=to_hex((CELLS_PART + allocation_hash(GIVEN)) & MASK),
            agent="agent-3",
            inventory=CELLS_INVENTORY,
            labels=LABELS,
            allocations=[GIVEN],
            cells=CELLS,
        ),
    ),
    "claim_cells": (
        "claims",
        Claim(
            host="host-0043",
            request="r-7f3b",
            replica="r1",
            expected=to_hex(CELLS_PART),
            lease_ms=300000,
            allocations=[CELLED],
            threads="require",
            shares={"CUSTOM_GPU_L4": 2},
        ),
    ),
    "claim_in_place": (
        "claims",
        Claim(
            host="host-0042",
            request="r-7f3c",
            replica="r1",
            expected=state_hash(LEASED),
            lease_ms=300000,
            allocations=[
                Allocation(
                    id="9f31c2-1c",
                    request="r-7f3c",
                    instance="r-7f3a.0",
                    flavor="m1.large",
                    project="blue",
                    kind="resize",
                    resources={"VCPU": 2, "MEMORY_MB": 4096},
                    replaces="9f31c2-1a",
                    becomes=Whole(resources={"VCPU": 4, "MEMORY_MB": 8192}),
                )
            ],
        ),
    ),
    "confirm": ("claims", Confirm(host="host-0042", request="r-7f3a", allocation="9f31c2-1a")),
    "release": ("claims", Release(host="host-0042", request="r-7f3a", allocation="9f31c2-1a", leased_only=True)),
    "build": (
        "requests",
        Build(
            id="r-7f3a",
            flavor="m1.medium",
            project="blue",
            user="ada",
            group="web",
            group_max=1,
            traits_required=("HW_CPU_X86_AVX2",),
            deadline_ms=10000,
        ),
    ),
    "build_constrained": (
        "requests",
        Build(
            id="r-7f3d",
            flavor="m1.medium",
            project="blue",
            group="db",
            traits_any_of=(("CUSTOM_SSD", "CUSTOM_NVME"),),
            group_policy="affinity",
            profile="nova",
            host="host-0042",
            hosts_ignored=("host-0007",),
            zone="z1",
            member_of=("!slow", "in:east,west"),
            image="debian-13",
            image_properties={"hw_architecture": "x86_64"},
            hints={"query": ('[">=", "$free_ram_mb", 1024]',), "different_host": ("web.0", "web.1")},
            cell="c1",
            networks=("physnet0", "tunnel"),
        ),
    ),
    "build_in_place": (
        "requests",
        Build(
            id="r-7f3c",
            flavor="m1.large",
            project="blue",
            kind="resize",
            instances=("r-7f3a.0",),
            source="host-0042",
        ),
    ),
    "cancel": ("requests", Cancel(id="r-7f3a", flavor="m1.medium")),
    "decision": (
        "decisions",
        Decision(
            request="r-7f3a",
            result="placed",
            content="8a1f0c33d2e4b597",
            position=Position(2, 911),
            replica="r1",
            flavor="m1.medium",
            project="blue",
            user="ada",
            group="web",
            resources=ASKED,
            confirm_within_ms=285000,
            attempts=1,
            placed=[Placed(instance="r-7f3a.0", host="host-0042", allocation="9f31c2-1a", grant=Position(3, 4711))],
            stages_ms={"rank": 0.4, "claim": 1.9},
        ),
    ),
    "decision_refused": (
        "decisions",
        Decision(
            request="r-7f3b",
            result="no_valid_host",
            message="0 of 500 hosts",
            position=Position(2, 912),
            replica="r1",
            flavor="db.full",
            explanation=Explanation(
                evaluated=500,
                filters={"status": 40, "traits": 150, "capacity": 310},
                without={"traits": 12, "capacity": 290},
                closest=Miss(host="host-0042", filter="capacity", resource="MEMORY_MB", needed=16384, had=14336),
                samples=[
                    Miss(host="host-0012", filter="status", detail="draining"),
                    Miss(host="host-0007", filter="traits", detail="lacks HW_CPU_X86_AVX512F"),
                    Miss(host="host-0042", filter="capacity", resource="MEMORY_MB", needed=16384, had=14336),
                ],
                positions={"0": 4711, "1": 4650},
            ),
        ),
    ),
    "flavor": ("control", Flavor(name="m1.medium", resources=ASKED, traits_required=("HW_CPU_X86_AVX2",), spread=3)),
    "profile": ("control", Profile(name="packing", weighers={"cpu": -1.0, "ram": -1.0}, builds_max=4)),
    "flavor_numa": (
        "control",
        Flavor(
            name="n1.large",
            resources={"VCPU": 2, "PCPU": 4, "MEMORY_MB": 4096, "CUSTOM_GPU_L4": 2},
            extra_specs={"capabilities:hypervisor_type": "s== kvm"},
            cells=(CellAsk(cpus_dedicated=4, memory_mb=4096, page_kb=2048, threads="require"), CellAsk(cpus=2)),
            devices=(DeviceAsk(resource_class="CUSTOM_GPU_L4", shares=2, policy="required"),),
        ),
    ),
    "profile_relative": (
        "control",
        Profile(
            name="cautious",
            weighers={"ram": 1.0, "metrics": -1.0},
            filters=("compute_capabilities", "isolated_hosts", "metrics"),
            scale="relative",
            subset_size=3,
            isolated_hosts=("host-0007",),
            isolated_images=("windows-11",),
            isolated_hosts_for_isolated_images_only=False,
            metrics={"cpu.idle.time": 1.0},
            metrics_required=False,
            metrics_missing_weight=-5.0,
            image_weights={"os_distro": 2.0},
            image_namespace="hw",
            image_separator="_",
            architecture_default="x86_64",
            mix={"g1.half": 3.0, "g1.whole": 1.5},
        ),
    ),
    "aggregate": (
        "control",
        Aggregate(
            name="east",
            hosts=("host-0042",),
            labels={"rack": "r7"},
            zone="z1",
            metadata={"filter_tenant_id": "blue,green", "ram_weight_multiplier": "2.0"},
        ),
    ),
    "host": ("control", HostControl(name="host-0042", status="draining", reason="new fans", gap_cleared=17)),
    "routing": ("control", Routing(pools={"w1.large": "windows"}, before={"w1.large": ("default",)})),
    "replica": (
        "replicas",
        ReplicaReport(
            replica="r1",
            state="ready",
            partitions=[0, 2],
            hosts=500,
            decisions=1200,
            conflict_fraction=0.02,
            digest="00c0ffee00c0ffee",
            positions={"commonplace.default.hosts [0]": 4711},
        ),
    ),
    "quarantined": (
        "quarantine",
        Quarantined(
            topic="commonplace.default.claims",
            partition=1,
            offset=77,
            reason="not a claims record: host is missing",
            by="agent-3",
            key="host-0042",
            sample="e30=",
        ),
    ),
}


def read(name: str, now: bytes) -> bytes:
    """The golden bytes of `name`, after rewriting them with `now` where that was asked for."""
    path = GOLDEN / f"{name}.json"
    if REGENERATE:
        path.write_bytes(now + b"\n")
    return path.read_bytes().removesuffix(b"\n")


def kinds(node: Any) -> Iterator[type]:
    """Every Struct of a union of records."""
    yield from getattr(node, "__args__", (node,))


def test_every_record_type_has_a_golden_file() -> None:
    known = {kind for union in TOPIC_RECORDS.values() for kind in kinds(union)}
    assert known == {type(record) for _, record in RECORDS.values()}
    assert {path.stem for path in GOLDEN.glob("*.json")} == {*RECORDS, "schema"}


@pytest.mark.parametrize("name", RECORDS)
def test_record_encodes_to_its_golden_bytes(name: str) -> None:
    assert encode(RECORDS[name][1]) == read(name, encode(RECORDS[name][1]))


@pytest.mark.parametrize("name", RECORDS)
def test_golden_bytes_decode_to_the_record(name: str) -> None:
    topic, record = RECORDS[name]
    assert decode(topic, (GOLDEN / f"{name}.json").read_bytes()) == record


@pytest.mark.parametrize("name", RECORDS)
def test_protocol_page_shows_the_golden_record(name: str) -> None:
    assert (GOLDEN / f"{name}.json").read_text().strip() in PROTOCOL.read_text(), f"docs/protocol.md lacks {name}"


@pytest.mark.parametrize("name", [name for name, (topic, _) in RECORDS.items() if topic == "control"])
def test_golden_control_record_is_one_that_schedulers_use(name: str) -> None:
    kind, record = name.partition("_")[0], RECORDS[name][1]
    key = kind if isinstance(record, Routing) else f"{kind}/{msgspec.structs.asdict(record)['name']}"
    assert Catalog("default").fold(key.encode(), encode(record))[2] == ""


def test_golden_refusal_names_filters_in_the_order_they_are_asked() -> None:
    decision = RECORDS["decision_refused"][1]
    assert isinstance(decision, Decision)
    told = decision.explanation
    assert told is not None
    asked = [name for name, _, _ in FILTERS if name in told.filters]
    assert list(told.filters) == [sample.filter for sample in told.samples] == asked


def test_golden_refusal_is_the_one_that_the_readme_shows_to_a_person() -> None:
    decision = RECORDS["decision_refused"][1]
    assert isinstance(decision, Decision)
    assert "\n".join(render.decision(decision)) in (PROTOCOL.parent.parent / "README.md").read_text()


def without_words(node: Any) -> Any:
    """A schema without its descriptions: rewording a docstring changes nothing on the wire."""
    if isinstance(node, dict):
        return {
            key: without_words(value)
            for key, value in node.items()
            if key != "description" or not isinstance(value, str)
        }
    return [without_words(item) for item in node] if isinstance(node, list) else node


def schema_bytes() -> bytes:
    _, components = msgspec.json.schema_components(TOPIC_RECORDS.values(), ref_template="#/$defs/{name}")
    return msgspec.json.format(msgspec.json.encode(without_words(components), order="deterministic"), indent=1)


def test_json_schema_is_the_golden_one() -> None:
    assert schema_bytes() == read("schema", schema_bytes())


@pytest.mark.parametrize("name", RECORDS)
def test_golden_record_satisfies_the_json_schema(name: str) -> None:
    value = json.loads((GOLDEN / f"{name}.json").read_bytes())
    schema = {"$ref": f"#/$defs/{type(RECORDS[name][1]).__name__}", "$defs": json.loads(schema_bytes())}
    jsonschema.validate(value, schema)


def newer(name: str) -> Iterator[dict[str, Any]]:
    """Records of the next version: with a field we do not know, with a field's type changed, with a required field gone."""
    value = json.loads(encode(RECORDS[name][1])) | {"v": VERSION + 1}
    yield value
    yield value | {"from_the_future": {"deep": [1, None]}}
    for field in value.keys() - {"type", "v"}:
        yield value | {field: {"was": value[field]}}
        yield {key: item for key, item in value.items() if key != field}
    yield value | {"type": "not_yet_thought_of"}


@pytest.mark.parametrize("name", RECORDS)
def test_record_of_the_next_version_is_told_apart_and_never_raises(name: str) -> None:
    for value in newer(name):
        bad = decode(RECORDS[name][0], msgspec.json.encode(value))
        assert isinstance(bad, Bad)
        assert bad.newer == VERSION + 1, value
        assert "newer" in bad.reason


@pytest.mark.parametrize("name", RECORDS)
def test_state_records_ignore_unknown_fields_and_sent_ones_refuse_them(name: str) -> None:
    topic, record = RECORDS[name]
    out = decode(topic, msgspec.json.encode(json.loads(encode(record)) | {"from_the_future": 1}))
    if topic in ("requests", "claims"):
        assert isinstance(out, Bad)
        assert not out.newer
    else:
        assert out == record
