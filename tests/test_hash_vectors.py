"""The canonical bytes, hashes, digests and partitions of docs/protocol.md, and what must hold of every hash.

`COMMONPLACE_REGENERATE=1 pytest tests/test_hash_vectors.py` rewrites tests/vectors/hash.json after a change that is meant.
"""

import json
import os
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from commonplace.core.codec import encode
from commonplace.core.hashing import MASK, allocation_hash, host_bytes, host_part, id_hash, tail_bytes, to_hex
from commonplace.core.partition import murmur2, partition_of
from commonplace.core.records.hosts import Allocation, HostCell
from commonplace.core.records.requests import Build
from commonplace.core.resources import Inventory

VECTORS = Path(__file__).parent / "vectors" / "hash.json"
PROTOCOL = Path(__file__).parents[1] / "docs" / "protocol.md"

HOSTS: dict[str, dict[str, Any]] = {
    "empty host": {},
    "one class": {"inventory": {"VCPU": {"total": 8}}},
    "all fields of an inventory": {
        "inventory": {
            "VCPU": {"total": 24, "reserved": 2, "allocation_ratio_thousandths": 4000},
            "MEMORY_MB": {"total": 49152, "reserved": 1024, "min_unit": 256, "max_unit": 32768, "step_size": 256},
        }
    },
    "traits are sorted and told once": {"traits": ["HW_CPU_X86_AVX2", "CUSTOM_SSD", "HW_CPU_X86_AVX2"]},
    "labels with spaces and without value": {"labels": {"zone": "z1", "rack row": "4 b", "empty": ""}},
    "label beyond ASCII": {"labels": {"città": "Zürich"}},
    "cells": {
        "inventory": {"VCPU": {"total": 8}, "CUSTOM_GPU": {"total": 4}},
        "cells": {
            "1": {"cpus": "4-7", "memory_mb": 8192},
            "0": {
                "cpus": "0-1",
                "cpus_dedicated": "2-3",
                "siblings": ["2,3"],
                "memory_mb": 8192,
                "pages": {"2048": 512, "4": 1024},
                "devices": [{"id": "0000:3b:00.0", "class": "CUSTOM_GPU", "vendor": "10de", "shares": 4}],
                "networks": ["physnet1", "physnet0"],
                "socket": 0,
            },
        },
    },
    "draining": {"inventory": {"VCPU": {"total": 8}}, "status": "draining"},
}
ALLOCATIONS: dict[str, dict[str, Any]] = {
    "one class": {"id": "9f31c2-1", "resources": {"VCPU": 1}},
    "classes are sorted, zero left out": {"id": "9f31c2-2", "resources": {"VCPU": 2, "MEMORY_MB": 4096, "DISK_GB": 0}},
    "group": {"id": "9f31c2-2", "resources": {"VCPU": 2, "MEMORY_MB": 4096}, "group": "web"},
    "cells": {
        "id": "9f31c2-3",
        "resources": {"VCPU": 4},
        "cells": {"1": {"VCPU": 2}, "0": {"VCPU": 2, "CUSTOM_GPU": 1}},
    },
    "nothing but an id": {"id": "9f31c2-ff", "resources": {}},
    "largest amount": {"id": "9f31c2-4", "resources": {"CUSTOM_X": 2**53 - 1}},
}
STATES = {"host with two allocations": ("one class", ["one class", "group"]), "host with none": ("draining", [])}
REQUESTS: dict[str, dict[str, Any]] = {
    "least": {"id": "r-1", "flavor": "m1.tiny"},
    "most": {
        "id": "r-2",
        "flavor": "m1.large",
        "count": 3,
        "project": "Zürich",
        "user": 'a"b\\c',
        "kind": "recovery",
        "group": "web",
        "group_max": 1,
        "instances": ["i-1", "i-2", "i-3"],
        "traits_required": ["HW_CPU_X86_AVX2"],
        "traits_forbidden": ["CUSTOM_OLD"],
        "deadline_ms": 10000,
        "lease_ms": 60000,
    },
}
NAMES = ["", "a", "host-00042", "m1.small", "m1.small/2", "città", "r-7f3a.0"]


def host_args(
    given_: dict[str, Any],
) -> tuple[dict[str, Inventory], list[str], dict[str, str], str, dict[str, HostCell]]:
    inventory = {name: Inventory(**item) for name, item in given_.get("inventory", {}).items()}
    cells = msgspec.convert(given_.get("cells", {}), dict[str, HostCell], str_keys=True)
    return inventory, given_.get("traits", []), given_.get("labels", {}), given_.get("status", "enabled"), cells


def allocation_bytes(allocation: Allocation) -> bytes:
    return (
        b"allocation\nid "
        + allocation.id.encode()
        + tail_bytes(allocation.resources, allocation.group, allocation.cells)
    )


def digest(build: Build) -> str:
    return blake2b(encode(build), digest_size=8).hexdigest()


def vectors() -> dict[str, Any]:
    """All vectors, computed by the code."""
    hosts = [
        {"name": n, "given": g, "bytes": host_bytes(*host_args(g)).decode(), "hash": to_hex(host_part(*host_args(g)))}
        for n, g in HOSTS.items()
    ]
    held = {name: Allocation(**g) for name, g in ALLOCATIONS.items()}
    allocations = [
        {
            "name": n,
            "given": ALLOCATIONS[n],
            "bytes": allocation_bytes(a).decode(),
            "hash": to_hex(allocation_hash(a)),
        }
        for n, a in held.items()
    ]
    states = [
        {
            "name": n,
            "host": host,
            "allocations": names,
            "hash": to_hex(
                (host_part(*host_args(HOSTS[host])) + sum(allocation_hash(held[name]) for name in names)) & MASK
            ),
        }
        for n, (host, names) in STATES.items()
    ]
    requests = [
        {"name": n, "bytes": encode(Build(**g)).decode(), "digest": digest(Build(**g))} for n, g in REQUESTS.items()
    ]
    partitions = [{"name": n, "murmur2": murmur2(n.encode()), "of_4": partition_of(n, 4)} for n in NAMES]
    return {
        "hosts": hosts,
        "allocations": allocations,
        "states": states,
        "requests": requests,
        "partitions": partitions,
    }


def test_code_gives_the_published_vectors() -> None:
    if os.environ.get("COMMONPLACE_REGENERATE") == "1":
        VECTORS.write_text(json.dumps(vectors(), indent=1, ensure_ascii=False) + "\n")
    assert vectors() == json.loads(VECTORS.read_text())


def test_protocol_page_shows_at_least_ten_of_the_published_hashes() -> None:
    published = json.loads(VECTORS.read_text())
    page = PROTOCOL.read_text()
    shown = [v["hash"] for kind in ("hosts", "allocations", "states") for v in published[kind]]
    assert len(shown) >= 10
    assert all(f"`{value}`" in page for value in shown)
    assert all(f"`{v['digest']}`" in page for v in published["requests"])
    assert all(str(v["murmur2"]) in page for v in published["partitions"])


def test_canonical_bytes_hash_to_the_published_value_with_the_standard_library_alone() -> None:
    published = json.loads(VECTORS.read_text())
    for vector in published["hosts"] + published["allocations"]:
        data = vector["bytes"].encode()
        assert blake2b(data, digest_size=8, key=b"commonplace/state/1").hexdigest() == vector["hash"], vector["name"]


# --- properties ------------------------------------------------------------------------------------------------------------------------

names = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=12)
classes = st.sampled_from(["VCPU", "MEMORY_MB", "DISK_GB", "CUSTOM_A", "CUSTOM_B"])
amounts = st.integers(1, 2**53 - 1)
asked = st.dictionaries(classes, amounts, max_size=4)
allocations = st.builds(
    Allocation,
    id=names,
    resources=asked,
    group=st.one_of(st.just(""), names),
    cells=st.dictionaries(names, st.dictionaries(classes, amounts, min_size=1, max_size=3), max_size=2),
)
inventories = st.dictionaries(
    classes,
    st.builds(
        Inventory,
        total=amounts,
        reserved=amounts,
        allocation_ratio_thousandths=st.integers(1, 10**9),
        max_unit=amounts,
    ),
    max_size=4,
)
host_parts = st.tuples(
    inventories, st.lists(names), st.dictionaries(names, names), st.sampled_from(["enabled", "disabled", "draining"])
)


def total(part: int, held: list[Allocation]) -> int:
    value = part
    for allocation in held:
        value = (value + allocation_hash(allocation)) & MASK
    return value


@given(host_parts, st.lists(allocations, max_size=6), st.randoms())
def test_order_of_allocations_classes_traits_and_labels_never_matters(
    host: Any, held: list[Allocation], random: Any
) -> None:
    def shuffled(mapping: dict[str, Any]) -> dict[str, Any]:
        items = list(mapping.items())
        random.shuffle(items)
        return dict(items)

    again = [
        msgspec.structs.replace(a, resources=shuffled(dict(a.resources)), cells=shuffled(dict(a.cells))) for a in held
    ]
    random.shuffle(again)
    inventory, traits, labels, status = host
    traits_again = traits + traits[:1]
    random.shuffle(traits_again)
    part_again = host_part(shuffled(inventory), traits_again, shuffled(labels), status)
    assert total(part_again, again) == total(host_part(*host), held)


@given(st.integers(0, MASK), allocations)
def test_adding_and_removing_an_allocation_returns_to_the_hash(state: int, allocation: Allocation) -> None:
    after = (state + allocation_hash(allocation)) & MASK
    assert after != state
    assert (after - allocation_hash(allocation)) & MASK == state


@given(allocations)
def test_confirming_never_changes_the_hash(allocation: Allocation) -> None:
    changed = msgspec.structs.replace(
        allocation, state="active", building=True, lease_ms=5, project="p", user="u", instance="i", request="r", index=3
    )
    assert allocation_hash(changed) == allocation_hash(allocation)


@given(allocations, allocations)
def test_allocations_that_differ_in_what_is_hashed_have_different_hashes(one: Allocation, other: Allocation) -> None:
    def hashed(a: Allocation) -> Any:
        return (
            a.id,
            dict(a.resources),
            a.group,
            {cell: dict(amounts_) for cell, amounts_ in a.cells.items()},
        )

    assert (hashed(one) == hashed(other)) == (allocation_hash(one) == allocation_hash(other))


@pytest.mark.parametrize(
    "change",
    [
        {"id": "other"},
        {"resources": {"VCPU": 3}},
        {"resources": {"VCPU": 2, "DISK_GB": 1}},
        {"resources": {}},
        {"group": "g2"},
        {"group": ""},
        {"cells": {}},
        {"cells": {"0": {"VCPU": 1}}},
        {"cells": {"1": {"VCPU": 2}}},
    ],
)
def test_any_change_of_an_allocation_that_placement_depends_on_changes_the_hash(change: dict[str, Any]) -> None:
    base = Allocation(id="a", resources={"VCPU": 2}, group="g", cells={"0": {"VCPU": 2}})
    assert allocation_hash(msgspec.structs.replace(base, **change)) != allocation_hash(base)


@pytest.mark.parametrize("field", Inventory.__struct_fields__)
def test_any_change_of_an_inventory_changes_the_hash(field: str) -> None:
    item = Inventory(total=10, reserved=1, allocation_ratio_thousandths=1500, min_unit=1, max_unit=5, step_size=1)
    changed = msgspec.structs.replace(item, **{field: getattr(item, field) + 1})
    assert host_part({"VCPU": item}, (), {}, "enabled") != host_part({"VCPU": changed}, (), {}, "enabled")


@given(host_parts, host_parts)
def test_host_parts_that_differ_have_different_hashes(one: Any, other: Any) -> None:
    assume(one[0] is not other[0])
    same = one[0] == other[0] and set(one[1]) == set(other[1]) and one[2:] == other[2:]
    assert same == (host_part(*one) == host_part(*other))


def test_a_label_cannot_pass_for_another() -> None:
    assert host_bytes({}, (), {"a b": "c"}, "enabled") != host_bytes({}, (), {"a": "b c"}, "enabled")


@given(allocations)
def test_hash_from_a_prepared_tail_is_the_allocations_hash(allocation: Allocation) -> None:
    tail = tail_bytes(allocation.resources, allocation.group, allocation.cells)
    assert id_hash(allocation.id, tail) == allocation_hash(allocation)
