"""Whatever hosts, aggregates and requests say, no filter and no weigher raises: a replica would end of it."""
# ruff: noqa: E501 (tables read by their lines)

from math import isfinite, isnan
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from commonplace.core.choosing import choose
from commonplace.core.explaining import table_of
from commonplace.core.filter_table import ALWAYS, BY_CHOICE, USUAL
from commonplace.core.ranking import ScoreRow
from commonplace.core.raw_weighers import RAW
from commonplace.core.records.control import Aggregate, CellAsk, DeviceAsk, Flavor, Profile
from commonplace.core.records.fields import ALLOCATIONS_MAX
from commonplace.core.records.hosts import Allocation, Assigned, Device, HostCell
from commonplace.core.records.requests import Build
from commonplace.core.request_checks import misuse
from commonplace.core.resources import Inventory
from commonplace.core.terms_of_claims import limits
from commonplace.core.turned_away import explain
from peer.fleet import Fleet, wishes

WORDS = (
    "", "0", "-1", "1", "²", "٣", "nan", "inf", "1e999", "9" * 60, "kvm", "x86_64:kvm:hvm", "a:b:c:d,,:", "0-3,8", "8-3", "0-99999999",
    "4:x", "4:1,2048:1", "4:1:2", ";;", "10.0.0.1", "::1", "10.0.0.1/8", "<or>", "<in>", ">= ²", "= 1", "s== kvm", '{"a": {"b": 1}}', "[", "!", "in:",
    "!a", "a", "a,b", ">=6.0,<²", "(>= 6)", "true", '["=", "$host", 1]', '["in", "$labels", [], {}, null]', '["not", ["<", "$zone", {}]]', "🟦",
)  # fmt: skip
LABELS = (
    "zone", "cell", "hypervisor_type", "hypervisor_version", "host_ip", "supported_instances", "supported_instances.1", "cpu_info",
    "cpu_info.maxphysaddr.bits", "cpu_info.a.b",
)  # fmt: skip
METADATA = (
    "filter_tenant_id", "instance_type", "max_io_ops_per_host", "max_instances_per_host", "ram_weight_multiplier",
    "build_failure_weight_multiplier", "os", "a",
)  # fmt: skip
SPECS = ("hw:maxphysaddr_bits", "capabilities:cpu_info:a", "capabilities:", "hypervisor_version", "free_ram_mb", "a", "cpu_info", "aggregate_instance_extra_specs:a", "::")  # fmt: skip
PROPERTIES = ("hw_architecture", "img_hv_type", "hw_vm_mode", "img_hv_requested_version", "hw_maxphysaddr_bits", "os")
word = st.sampled_from(WORDS) | st.text(
    st.characters(min_codepoint=32, exclude_categories=("Cs", "Cc", "Zl", "Zp")), max_size=12
)


def said(names: tuple[str, ...]) -> st.SearchStrategy[dict[str, str]]:
    return st.dictionaries(st.sampled_from(names), word, max_size=6)


word_of_device = st.sampled_from(("0000:3b:00.0", "a", "-"))
numbers = st.integers(0, 4) | st.sampled_from((2**53 - 1,))
asks = st.builds(
    CellAsk,
    cpus=st.integers(0, 3),
    cpus_dedicated=st.integers(0, 3),
    memory_mb=numbers,
    page_kb=st.sampled_from((-3, -2, -1, 0, 4)),
)
device_asks = st.builds(
    DeviceAsk,
    resource_class=st.sampled_from(("VGPU", "CUSTOM_FPGA")),
    count=st.integers(1, 3),
    shares=st.integers(1, 3),
    policy=st.sampled_from(("required", "preferred", "legacy", "socket")),
)
cpu_lists = st.sampled_from(("", "0", "0-3", "2,5", "0-4095"))
reported = st.builds(
    HostCell,
    cpus=cpu_lists,
    cpus_dedicated=cpu_lists,
    siblings=st.sampled_from(((), ("0,1", "2,3"), ("0-3",), ("5",))),
    memory_mb=numbers,
    pages=st.dictionaries(st.sampled_from((4, 2048)), numbers),
    devices=st.lists(
        st.builds(Device, id=word_of_device, resource_class=st.just("VGPU"), shares=st.integers(1, 3)),
        max_size=2,
        unique_by=lambda d: d.id,
    ).map(tuple),
    networks=st.lists(word, max_size=2).map(tuple),
    socket=st.integers(-1, 1),
)
assigned = st.dictionaries(
    st.sampled_from(("0", "1", "x")),
    st.builds(Assigned, cpus=cpu_lists, devices=st.dictionaries(word_of_device, st.integers(1, 9))),
)
host = st.fixed_dictionaries({
    "labels": said(LABELS),
    "load": st.dictionaries(st.sampled_from(("failed_builds", "free_disk_mb", "idle")), st.floats(allow_nan=False, allow_infinity=False)),
    "cells": st.dictionaries(st.sampled_from(("0", "1", "x")), st.dictionaries(st.sampled_from(("VCPU", "MEMORY_MB", "PAGES_4")), numbers)),
    "image": st.lists(word.filter(str.isprintable), max_size=2), "reported": st.dictionaries(st.sampled_from(("0", "1")), reported), "assigned": assigned,
})  # fmt: skip
request = st.fixed_dictionaries({
    "zone": word, "member_of": st.lists(word, max_size=2).map(tuple), "image": word, "image_properties": said(PROPERTIES), "cell": word,
    "hints": st.dictionaries(
        st.sampled_from(("query", "different_host", "same_host", "build_near_host_ip", "cidr", "x")), st.lists(word, max_size=2).map(tuple)
    ),
    "group": word, "group_policy": st.sampled_from(("", "affinity", "anti-affinity", "soft-affinity", "soft-anti-affinity")),
    "group_max": st.integers(0, 2), "networks": st.lists(word, max_size=2).map(tuple), "project": word,
})  # fmt: skip


@settings(derandomize=True, deadline=None, max_examples=150)
@given(
    st.lists(host, min_size=1, max_size=3),
    request,
    st.lists(said(METADATA), max_size=2),
    said(SPECS),
    st.lists(asks, max_size=2),
    st.lists(device_asks, max_size=2),
    st.sampled_from(("absolute", "relative")),
)
def test_no_filter_or_weigher_raises_whatever_is_said(
    hosts: list[dict[str, Any]],
    asked: dict[str, Any],
    metadata: list[dict[str, str]],
    specs: dict[str, str],
    cells: list[CellAsk],
    devices: list[DeviceAsk],
    scale: Any,
) -> None:
    fleet = Fleet()
    for index, drawn in enumerate(hosts):
        held = Allocation(
            id=f"a-{index}",
            instance="a",
            group="g",
            resources={"VCPU": 1},
            cells=drawn["cells"],
            assigned=drawn["assigned"],
            image=tuple(drawn["image"]),
        )
        told = {name: drawn[name] for name in ("labels", "load")}
        fleet.host(f"h{index}", {"VCPU": Inventory(total=4)}, [held], cells=drawn["reported"], **told)
    aggregates = [
        Aggregate(name=name, hosts=("h0", "h1"), metadata=pairs) for name, pairs in zip("ab", metadata, strict=False)
    ]
    profile = Profile(
        name="p",
        scale=scale,
        weighers=dict.fromkeys(RAW, 1.5),
        filters=tuple(one.name for one in (*USUAL, *BY_CHOICE)),
        isolated_images=("kvm",),
        metrics={"idle": 1e308},
        image_namespace="o",
        image_separator="",
        subset_size=2,
    )
    build = Build(id="r-1", flavor="m1", **asked)
    flavor = Flavor(name="m1", resources={"VCPU": 1}, extra_specs=specs, cells=tuple(cells), devices=tuple(devices))
    wanted = wishes(build, flavor, profile, aggregates)
    if misuse(build, wanted.aggregates):
        return
    scores = ScoreRow(fleet.view, wanted.ask)
    scores.refresh()
    row = choose(scores, wanted, b"seed")
    explained = explain(fleet.view, wanted.ask, (), wanted)
    assert (row is None) is (sum(explained.filters.values()) == explained.evaluated)
    table = table_of(fleet.view, wanted, best=10)
    assert table.passing == table.evaluated - sum(line.hosts for line in table.filters)
    assert all(1 <= change.hosts <= table.evaluated - table.passing for change in table.would_fit)
    assert all(isfinite(one.score) for one in table.candidates)
    for one in (*ALWAYS, *USUAL, *BY_CHOICE):
        if one.applies(wanted):
            assert all(isinstance(one.plain(fleet.view, other, wanted), str) for other in fleet.view.by_index)
    for other in fleet.view.by_index:
        assert all(0 <= most <= ALLOCATIONS_MAX and not isnan(most) for most in limits(other, build, wanted.ask))
