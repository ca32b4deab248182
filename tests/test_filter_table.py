"""Every filter of the table passes and turns away as it says, with a reason; whom it does not concern it is not asked about."""
# ruff: noqa: E501 (a table of cases reads by its lines)

from typing import Any

import pytest
from msgspec.structs import replace

from commonplace.core import filters, request_filters
from commonplace.core.filter_table import ALWAYS, ON_COLUMNS, TABLE, USUAL, canonical, filters_of, unknown
from commonplace.core.numa import Cell, Ratios, lay
from commonplace.core.records.control import Aggregate, CellAsk, DeviceAsk, Flavor, Profile
from commonplace.core.records.hosts import Allocation, Assigned, Device, HostCell
from commonplace.core.records.requests import Build
from commonplace.core.resources import Inventory
from commonplace.core.rows import Row
from commonplace.core.specs import matches
from commonplace.core.view import View
from peer.fleet import Fleet, wishes

GIB = 1024
INVENTORY = {"VCPU": Inventory(total=8), "MEMORY_MB": Inventory(total=16 * GIB), "DISK_GB": Inventory(total=100)}


def build(**fields: Any) -> Build:
    return Build(id="r-1", flavor="m1", **fields)


def flavor(**fields: Any) -> Flavor:
    return Flavor(**{"name": "m1", "resources": {"VCPU": 1}, **fields})


def held(instance: str, group: str = "", **fields: Any) -> Allocation:
    return Allocation(
        **{"id": f"a-{instance}", "instance": instance, "group": group, "resources": {"VCPU": 1}, **fields}
    )


def metadata(**said: str) -> tuple[Aggregate, ...]:
    return (Aggregate(name="agg", hosts=("h1",), metadata=said),)


KVM = {"supported_instances": "x86_64:kvm:hvm,i686:qemu:hvm", "hypervisor_version": "6002000"}
CELL_0 = HostCell(cpus="0-1", cpus_dedicated="2-5", siblings=("2,3", "4,5"), memory_mb=512)
CELL_1 = HostCell(cpus_dedicated="8-11", siblings=("8,9", "10,11"), memory_mb=512, pages={4: 131072, 2048: 64})
NUMA = {"0": CELL_0, "1": CELL_1}
GPUS = {
    "0": replace(
        CELL_0,
        devices=(Device(id="g0", resource_class="VGPU", shares=4), Device(id="g1", resource_class="VGPU", shares=4)),
    ),
    "1": CELL_1,
}
ISOLATED: dict[str, Any] = {"isolated_hosts": ("h1",), "isolated_images": ("windows",)}
OPEN: dict[str, Any] = {**ISOLATED, "isolated_hosts_for_isolated_images_only": False}

CASES: tuple[tuple[str, dict[str, Any], dict[str, Any], bool], ...] = (
    # filter, what host h1 is, what is asked: build, flavor, profile, aggregates; whether it passes
    ("requested_host", {}, {"build": build(host="h1")}, True),
    ("requested_host", {}, {"build": build(host="h2")}, False),
    ("ignored_hosts", {}, {"build": build(hosts_ignored=("h2",))}, True),
    ("ignored_hosts", {}, {"build": build(hosts_ignored=("h2", "h1"))}, False),
    ("availability_zone", {"labels": {"zone": "z1"}}, {"build": build(zone="z1")}, True),
    ("availability_zone", {"labels": {"zone": "z2"}}, {"build": build(zone="z1")}, False),
    ("availability_zone", {}, {"build": build(zone="default")}, True),
    ("availability_zone", {"labels": {"zone": "z2"}}, {"build": build(zone="z1"), "aggregates": (Aggregate(name="a", hosts=("h1",), zone="z1"),)}, True),
    ("member_of", {}, {"build": build(member_of=("agg",)), "aggregates": metadata()}, True),
    ("member_of", {}, {"build": build(member_of=("!agg",)), "aggregates": metadata()}, False),
    ("member_of", {}, {"build": build(member_of=("in:other,agg", "!other")), "aggregates": metadata()}, True),
    ("member_of", {}, {"build": build(member_of=("in:other,third",)), "aggregates": metadata()}, False),
    ("member_of", {"labels": {"rack": "r7"}}, {"build": build(member_of=("a",)), "aggregates": (Aggregate(name="a", labels={"rack": "r7"}),)}, True),
    ("traits_any_of", {"traits": ("CUSTOM_A",)}, {"build": build(traits_any_of=(("CUSTOM_A", "CUSTOM_B"),))}, True),
    ("traits_any_of", {"traits": ("CUSTOM_A",)}, {"build": build(traits_any_of=(("CUSTOM_A",), ("CUSTOM_B",)))}, False),
    ("spread_over", {"labels": {"rack": "a"}}, {"build": build(group="g", spread_over="rack", max_skew=1)}, True),
    ("spread_over", {}, {"build": build(group="g", spread_over="rack", max_skew=1)}, False),
    ("spread_over", {"labels": {"zone": "z1"}, "allocations": (held("i-1", "g"),)}, {"build": build(group="g", spread_over="zone", max_skew=1)}, False),
    ("spread_over", {"labels": {"zone": "z1"}, "allocations": (held("i-1", "g"),)}, {"build": build(group="g", spread_over="zone", max_skew=2)}, True),
    ("compute_capabilities", {"labels": {"hypervisor_type": "kvm"}}, {"flavor": flavor(extra_specs={"capabilities:hypervisor_type": "s== kvm"})}, True),
    ("compute_capabilities", {"labels": {"hypervisor_type": "xen"}}, {"flavor": flavor(extra_specs={"hypervisor_type": "s== kvm"})}, False),
    ("compute_capabilities", {}, {"flavor": flavor(extra_specs={"hypervisor_type": "s== kvm"})}, False),
    ("compute_capabilities", {}, {"flavor": flavor(extra_specs={"of_nobody": "1", "other_scope:x": "1"})}, True),
    ("compute_capabilities", {"labels": {"cpu_info.topology.cores": "4"}}, {"flavor": flavor(extra_specs={"capabilities:cpu_info:topology:cores": ">= 4"})}, True),
    ("compute_capabilities", {"labels": {"cpu_info.vendor": "Intel", "cpu_info.topology.cores": "4"}}, {"flavor": flavor(extra_specs={"cpu_info": ' {"topology": {"cores": 4}, "vendor": "Intel"}'})}, True),
    ("compute_capabilities", {"labels": {"cpu_info.vendor": "Intel"}}, {"flavor": flavor(extra_specs={"cpu_info": '{"vendor": "AMD"}'})}, False),
    ("compute_capabilities", {"labels": {"cpu_info.vendor": "Intel"}}, {"flavor": flavor(extra_specs={"cpu_info": "Intel"})}, False),
    ("image_properties", {"labels": KVM}, {"build": build(image_properties={"img_hv_type": "baremetal"})}, False),
    ("image_properties", {"labels": {"supported_instances": "i686:xapi:xen"}}, {"build": build(image_properties={"img_hv_type": "xen", "hw_vm_mode": "pv", "hw_architecture": "x86_32"})}, True),
    ("aggregate_instance_extra_specs", {}, {"flavor": flavor(extra_specs={"aggregate_instance_extra_specs:a:b": "1"}), "aggregates": metadata(**{"a:b": "1"})}, True),
    ("aggregate_instance_extra_specs", {}, {"flavor": flavor(extra_specs={"aggregate_instance_extra_specs": "1"}), "aggregates": metadata(aggregate_instance_extra_specs="1")}, True),
    ("compute_capabilities", {"inventory": INVENTORY}, {"flavor": flavor(extra_specs={"capabilities:free_ram_mb": f">= {16 * GIB + 1}"})}, False),
    ("compute_capabilities", {"labels": {"cpu_info.maxphysaddr.bits": "42"}}, {"flavor": flavor(extra_specs={"hw:maxphysaddr_bits": "46"})}, False),
    ("image_properties", {"labels": KVM}, {"build": build(image_properties={"hw_architecture": "x86_64", "img_hv_type": "kvm", "hw_vm_mode": "hvm"})}, True),
    ("image_properties", {"labels": KVM}, {"build": build(image_properties={"hw_architecture": "amd64"})}, True),
    ("image_properties", {"labels": KVM}, {"build": build(image_properties={"hw_architecture": "i686", "img_hv_type": "kvm"})}, False),
    ("image_properties", {"labels": KVM}, {"build": build(image_properties={"img_hv_type": "kvm", "img_hv_requested_version": ">=6.0,<6.3"})}, True),
    ("image_properties", {"labels": KVM}, {"build": build(image_properties={"img_hv_type": "kvm", "img_hv_requested_version": "!=6.2"})}, False),
    ("image_properties", {}, {"build": build(image_properties={"os_distro": "debian"})}, True),
    ("image_properties", {}, {"profile": Profile(name="p", architecture_default="x86_64")}, False),
    ("image_properties", {"labels": {"cpu_info.maxphysaddr.bits": "42"}}, {"build": build(image_properties={"hw_maxphysaddr_bits": "43"})}, False),
    ("server_group_affinity", {}, {"build": build(group="g", group_policy="affinity")}, True),
    ("server_group_affinity", {"allocations": (held("i-1", "g"),)}, {"build": build(group="g", group_policy="affinity")}, True),
    ("server_group_affinity", {"elsewhere": (held("i-2", "g"),)}, {"build": build(group="g", group_policy="affinity")}, False),
    ("aggregate_multi_tenancy_isolation", {}, {"build": build(project="blue"), "aggregates": metadata(filter_tenant_id="red, blue")}, True),
    ("aggregate_multi_tenancy_isolation", {}, {"build": build(project="blue"), "aggregates": metadata(filter_tenant_id="red", filter_tenant_id2="blue")}, True),
    ("aggregate_multi_tenancy_isolation", {}, {"build": build(project="blue"), "aggregates": metadata(filter_tenant_id="red")}, False),
    ("aggregate_multi_tenancy_isolation", {}, {"build": build(project="blue"), "aggregates": (Aggregate(name="a", hosts=("h2",), metadata={"filter_tenant_id": "red"}),)}, True),
    ("different_host", {"allocations": (held("i-1"),)}, {"build": build(hints={"different_host": ("i-2",)})}, True),
    ("different_host", {"allocations": (held("i-1"),)}, {"build": build(hints={"different_host": ("i-2", "i-1")})}, False),
    ("same_host", {"allocations": (held("i-1"),)}, {"build": build(hints={"same_host": ("i-2", "i-1")})}, True),
    ("same_host", {"allocations": (held("i-1"),)}, {"build": build(hints={"same_host": ("i-2",)})}, False),
    ("simple_cidr_affinity", {"labels": {"host_ip": "10.8.1.9"}}, {"build": build(hints={"build_near_host_ip": ("10.8.1.1",)})}, True),
    ("simple_cidr_affinity", {"labels": {"host_ip": "10.8.1.9"}}, {"build": build(hints={"build_near_host_ip": ("10.8.1.1",), "cidr": ("/29",)})}, False),
    ("simple_cidr_affinity", {}, {"build": build(hints={"build_near_host_ip": ("10.8.1.1",)})}, False),
    ("json", {"inventory": INVENTORY}, {"build": build(hints={"query": ('["and", [">=", "$free_ram_mb", 1024], ["not", ["=", "$host", "h2"]]]',)})}, True),
    ("json", {"inventory": INVENTORY}, {"build": build(hints={"query": ('["or", ["<", "$free_disk_mb", 10], [">", "$vcpus_used", 0]]',)})}, False),
    ("json", {"labels": {"rack": "7"}}, {"build": build(hints={"query": ('["in", "$rack", 6, 7]',)})}, True),
    ("json", {"labels": {"spare": "False"}}, {"build": build(hints={"query": ('["and", "$spare"]',)})}, False),
    ("json", {}, {"build": build(hints={"query": ('["=", "$nothing", 2, 2]',)})}, True),
    ("json", {}, {"build": build(hints={"query": ('["<", "text", 2]',)})}, False),
    ("numa_topology", {"cells": NUMA}, {"flavor": flavor(cells=(CellAsk(cpus_dedicated=4, memory_mb=512), CellAsk(cpus_dedicated=4, memory_mb=512)))}, True),
    ("numa_topology", {"cells": NUMA}, {"flavor": flavor(cells=(CellAsk(cpus_dedicated=4),) * 3)}, False),
    ("numa_topology", {"cells": NUMA}, {"flavor": flavor(cells=(CellAsk(cpus=2), CellAsk(cpus=1)))}, False),
    ("numa_topology", {"cells": NUMA}, {"flavor": flavor(cells=(CellAsk(cpus_dedicated=1, memory_mb=64, page_kb=2048),))}, True),
    ("numa_topology", {"cells": NUMA}, {"flavor": flavor(cells=(CellAsk(cpus_dedicated=1, memory_mb=129, page_kb=-2),))}, False),
    ("numa_topology", {"cells": NUMA, "allocations": (held("i", cells={"0": {"MEMORY_MB": 1}, "1": {"MEMORY_MB": 1}}),)}, {"flavor": flavor(cells=(CellAsk(cpus_dedicated=1, memory_mb=512),))}, False),
    ("numa_topology", {"cells": {**NUMA, "0": replace(CELL_0, networks=("phys0", "tunnel"))}}, {"build": build(networks=("tunnel",)), "flavor": flavor(cells=(CellAsk(cpus=1),))}, True),
    ("numa_topology", {"cells": {**NUMA, "1": replace(CELL_1, networks=("phys0",))}}, {"build": build(networks=("phys0",)), "flavor": flavor(cells=(CellAsk(cpus=1),))}, False),
    ("numa_topology", {}, {"flavor": flavor(cells=(CellAsk(cpus=1),))}, False),
    ("numa_topology", {}, {"flavor": flavor(resources={"PCPU": 2})}, True),
    ("numa_topology", {"cells": NUMA}, {"flavor": flavor(resources={"PCPU": 4})}, True),
    ("numa_topology", {"cells": NUMA}, {"flavor": flavor(resources={"PCPU": 5})}, False),
    ("numa_topology", {"cells": GPUS}, {"flavor": flavor(devices=(DeviceAsk(resource_class="VGPU", count=2, shares=4),))}, True),
    ("numa_topology", {"cells": GPUS}, {"flavor": flavor(devices=(DeviceAsk(resource_class="VGPU", count=3, shares=1),))}, False),
    ("numa_topology", {"cells": GPUS}, {"flavor": flavor(cells=(CellAsk(cpus_dedicated=4, memory_mb=9),), devices=(DeviceAsk(resource_class="VGPU", policy="required"),))}, True),
    ("numa_topology", {"cells": GPUS, "allocations": (held("i", cells={"0": {"PCPU": 1}}, assigned={"0": Assigned(cpus="2")}),)}, {"flavor": flavor(cells=(CellAsk(cpus_dedicated=4, memory_mb=9),), devices=(DeviceAsk(resource_class="VGPU", policy="required"),))}, False),
    ("numa_topology", {"cells": GPUS, "allocations": (held("i", cells={"0": {"PCPU": 1}}, assigned={"0": Assigned(cpus="2")}),)}, {"flavor": flavor(cells=(CellAsk(cpus_dedicated=4, memory_mb=9),), devices=(DeviceAsk(resource_class="VGPU", policy="preferred"),))}, True),
    ("numa_topology", {"cells": GPUS, "allocations": (held("i", cells={"0": {"VGPU": 3}}, assigned={"0": Assigned(devices={"g0": 3})}),)}, {"flavor": flavor(devices=(DeviceAsk(resource_class="VGPU", count=2, shares=2),))}, False),
    ("numa_topology", {"cells": {"0": replace(GPUS["0"], socket=0), "1": replace(CELL_1, socket=0)}}, {"flavor": flavor(cells=(CellAsk(cpus_dedicated=1, memory_mb=64, page_kb=2048),), devices=(DeviceAsk(resource_class="VGPU", policy="socket"),))}, True),
    ("numa_topology", {"cells": {"0": replace(GPUS["0"], socket=0), "1": replace(CELL_1, socket=1)}}, {"flavor": flavor(cells=(CellAsk(cpus_dedicated=1, memory_mb=64, page_kb=2048),), devices=(DeviceAsk(resource_class="VGPU", policy="socket"),))}, False),
    ("numa_topology", {"cells": {"1": CELL_1, "far": HostCell(devices=GPUS["0"].devices)}}, {"flavor": flavor(cells=(CellAsk(cpus_dedicated=1),), devices=(DeviceAsk(resource_class="VGPU", policy="legacy"),))}, True),
    ("numa_topology", {"cells": {"1": CELL_1, "far": HostCell(devices=GPUS["0"].devices)}}, {"flavor": flavor(cells=(CellAsk(cpus_dedicated=1),), devices=(DeviceAsk(resource_class="VGPU", policy="required"),))}, False),
    ("pci_passthrough", {"inventory": {"CUSTOM_PCI_8086_1520": Inventory(total=2)}}, {"flavor": flavor(resources={"CUSTOM_PCI_8086_1520": 2})}, True),
    ("pci_passthrough", {"inventory": {"CUSTOM_PCI_8086_1520": Inventory(total=2)}, "allocations": (held("i", resources={"CUSTOM_PCI_8086_1520": 1}),)}, {"flavor": flavor(resources={"CUSTOM_PCI_8086_1520": 2})}, False),
    ("aggregate_instance_extra_specs", {}, {"flavor": flavor(extra_specs={"ssd": "true", "aggregate_instance_extra_specs:cores": "<or> 8 <or> 16", "capabilities:x": "1"}), "aggregates": metadata(ssd="true", cores="4, 8")}, True),
    ("aggregate_instance_extra_specs", {}, {"flavor": flavor(extra_specs={"ssd": "true"}), "aggregates": metadata(ssd="false")}, False),
    ("aggregate_instance_extra_specs", {}, {"flavor": flavor(extra_specs={"ssd": "true"})}, False),
    ("aggregate_image_properties_isolation", {}, {"build": build(image_properties={"os": "linux"}), "aggregates": metadata(os="linux,bsd", arch="x86_64")}, True),
    ("aggregate_image_properties_isolation", {}, {"build": build(image_properties={"os": "windows"}), "aggregates": metadata(os="linux,bsd")}, False),
    ("aggregate_image_properties_isolation", {}, {"build": build(image_properties={"os": "windows"}), "aggregates": metadata(os="linux"), "profile": Profile(name="p", image_namespace="hw")}, True),
    ("aggregate_type_affinity", {}, {"aggregates": metadata(instance_type="m0, m1")}, True),
    ("aggregate_type_affinity", {}, {"aggregates": metadata(instance_type="m0")}, False),
    ("aggregate_type_affinity", {}, {"aggregates": metadata(other="m0")}, True),
    ("aggregate_io_ops", {"allocations": (held("i-1", building=True), held("i-2", building=True))}, {"aggregates": metadata(max_io_ops_per_host="3"), "profile": Profile(name="p", builds_max=2)}, True),
    ("aggregate_io_ops", {"allocations": (held("i-1", building=True), held("i-2", building=True))}, {"profile": Profile(name="p", builds_max=2)}, False),
    ("aggregate_num_instances", {"allocations": (held("i-1"), held("i-2"))}, {"aggregates": metadata(max_instances_per_host="2")}, False),
    ("aggregate_num_instances", {"allocations": (held("i-1"), held("i-2"))}, {"aggregates": metadata(max_instances_per_host="many")}, True),
    ("aggregate_num_instances", {}, {"aggregates": metadata(max_instances_per_host="0")}, False),
    ("aggregate_num_instances", {"allocations": (held("i-1"),)}, {"profile": Profile(name="p", instances_max=0)}, True),
    ("aggregate_io_ops", {}, {"aggregates": metadata(max_io_ops_per_host="-1")}, False),
    ("aggregate_io_ops", {}, {"aggregates": metadata(max_io_ops_per_host="nan")}, True),
    ("isolated_hosts", {}, {"build": build(image="windows"), "profile": Profile(name="p", **ISOLATED)}, True),
    ("isolated_hosts", {}, {"build": build(image="debian"), "profile": Profile(name="p", **ISOLATED)}, False),
    ("isolated_hosts", {}, {"build": build(image="debian"), "profile": Profile(name="p", **OPEN)}, True),
    ("isolated_hosts", {}, {"build": build(image="windows"), "profile": Profile(name="p", isolated_images=("windows",))}, False),
    ("isolated_hosts", {}, {"profile": Profile(name="p", isolated_images=("windows",))}, True),
    ("metrics", {"load": {"cpu": 0.5, "io": 1.0}}, {"profile": Profile(name="p", metrics={"cpu": 1.0})}, True),
    ("metrics", {"load": {"cpu": 0.5}}, {"profile": Profile(name="p", metrics={"cpu": 1.0, "io": 1.0})}, False),
)  # fmt: skip


def fleet(host: dict[str, Any]) -> tuple[View, Row]:
    """Host h1 as it is said to be, and h2 with the instances elsewhere."""
    made = Fleet()
    said = dict(host)
    elsewhere = said.pop("elsewhere", ())
    row = made.host("h1", said.pop("inventory", INVENTORY), said.pop("allocations", ()), **said)
    made.host("h2", INVENTORY, elsewhere)
    return made.view, row


@pytest.mark.parametrize(
    ("name", "host", "asked", "passes"), CASES, ids=[f"{n}-{i}" for i, (n, *_) in enumerate(CASES)]
)
def test_filter_passes_or_says_why_not(name: str, host: dict[str, Any], asked: dict[str, Any], passes: bool) -> None:
    view, row = fleet(host)
    request, one = wishes(**asked), TABLE[name]
    reason = one.plain(view, row, request) if one.applies(request) else ""
    assert (reason == "") is passes, reason
    assert len(reason) < 300


def test_every_filter_of_the_table_has_a_case_that_passes_and_one_that_does_not() -> None:
    asked_host_by_host = set(TABLE) - {"server_group_anti_affinity"}
    for passes in (True, False):
        assert {name for name, _, _, passed in CASES if passed is passes} == asked_host_by_host


def test_no_filter_is_asked_of_a_request_that_says_nothing() -> None:
    plain = wishes()
    assert [one.name for one in (*ALWAYS, *USUAL) if one.applies(plain)] == []


@pytest.mark.parametrize(("group_max", "passes"), [(1, False), (2, False), (3, True)])
def test_anti_affinity_counts_members_and_claims_under_way_but_not_the_instance_itself(
    group_max: int, passes: bool
) -> None:
    view, row = fleet({"allocations": (held("i-1", "g"), held("i-2", "g"), held("i-3", "other"))})
    request = wishes(build(group="g", group_max=group_max))
    assert (request_filters.server_group_anti_affinity(view, row, request) == "") is passes
    moved = wishes(build(group="g", group_max=2, instances=("i-1",)))
    assert request_filters.server_group_anti_affinity(view, row, moved) == ""


@pytest.mark.parametrize(
    ("asked", "said", "passes"),
    [
        (("io_ops", 2), {"allocations": [held("i-1", building=True)]}, True),
        (("io_ops", 1), {"allocations": [held("i-1", building=True)]}, False),
        (("num_instances", 2), {"allocations": [held("i-1")]}, True),
        (("num_instances", 1), {"allocations": [held("i-1")]}, False),
        (("compute", 0), {}, True),
        (("compute", 0), {"status": "disabled"}, False),
    ],
)
def test_filters_on_columns_hold_for_every_request(asked: tuple[str, int], said: dict[str, Any], passes: bool) -> None:
    name, most = asked
    view, row = fleet(said)
    ask = wishes(profile=Profile(name="p", builds_max=most, instances_max=most)).ask
    plains = {"io_ops": filters.io_ops, "num_instances": filters.instances, "compute": filters.status}
    assert (plains[name](view, row, ask) == "") is passes


def test_names_of_nova_are_ours() -> None:
    known = {*TABLE, *ON_COLUMNS}
    for name in (
        "ComputeFilter", "ComputeCapabilitiesFilter", "ImagePropertiesFilter", "ServerGroupAntiAffinityFilter",
        "ServerGroupAffinityFilter", "AggregateInstanceExtraSpecsFilter", "AggregateImagePropertiesIsolation",
        "AggregateMultiTenancyIsolation", "AggregateTypeAffinityFilter", "IoOpsFilter", "AggregateIoOpsFilter", "NumInstancesFilter",
        "AggregateNumInstancesFilter", "IsolatedHostsFilter", "DifferentHostFilter", "SameHostFilter", "SimpleCIDRAffinityFilter",
        "JsonFilter", "MetricsFilter", "NUMATopologyFilter", "PciPassthroughFilter",
    ):  # fmt: skip
        assert canonical(name) in known, name


def test_a_profile_that_names_filters_has_those_and_what_requests_themselves_demand() -> None:
    named = filters_of(("JsonFilter", "isolated_hosts", "status"))
    assert [one.name for one in named] == [*(one.name for one in ALWAYS), "json", "isolated_hosts"]
    assert filters_of(()) == (*ALWAYS, *USUAL)


def test_unknown_names_are_told_with_the_nearest_known_one() -> None:
    assert unknown(("JsonFilter", "isolated_host"), TABLE, "Filter", "filter") == (
        "names filter 'isolated_host': did you mean 'isolated_hosts'?"
    )
    assert "known are" in unknown(("zzz",), TABLE, "Filter", "filter")
    assert unknown(("json",), TABLE, "Filter", "filter") == ""


@pytest.mark.parametrize(
    ("value", "requirement", "met"),
    [
        ("4", "= 4", True), ("5", "= 4", True), ("3", "= 4", False), ("4", "== 4.0", True), ("4", "!= 4", False),
        ("10", ">= 9", True), ("10", "<= 9", False), ("abc", ">= 9", False), ("b", "s> a", True), ("b", "s<= a", False),
        ("b", "s>= b", True), ("a", "s< b", True), ("kvm", "s== kvm", True), ("kvm", "s!= kvm", False),
        ("a-b-c", "<in> b", True), ("a-b-c", "<in> d", False), ("a b", "<all-in> a b", True), ("a b", "<all-in> a c", False),
        ("b", "<or> a <or> b", True), ("c", "<or> a <or> b", False), ("<or>", "<or> a <or> b", False), ("x", "x", True),
        ("x", "y", False), ("", "", True), ("4", "=", False), ("4", "<or>", False), ("4", "<all-in>", False),
    ],
)  # fmt: skip
def test_operators_of_extra_specs(value: str, requirement: str, met: bool) -> None:
    assert matches(value, requirement) is met


THREADS = Cell(dedicated=frozenset(range(4)), siblings=(frozenset({0, 1}), frozenset({2, 3})), memory_mb=100)


@pytest.mark.parametrize(
    ("cell", "ask", "fits"),
    [
        (THREADS, CellAsk(cpus_dedicated=4, threads="require"), True),
        (Cell(dedicated=frozenset(range(4)), memory_mb=1), CellAsk(cpus_dedicated=1, threads="require"), False),
        (Cell(dedicated=THREADS.dedicated, siblings=THREADS.siblings, pinned=frozenset({0, 2})), CellAsk(cpus_dedicated=2), True),
        (Cell(dedicated=THREADS.dedicated, siblings=THREADS.siblings, pinned=frozenset({0, 2})), CellAsk(cpus_dedicated=2, threads="require"), False),
        (Cell(dedicated=frozenset(range(4))), CellAsk(cpus_dedicated=3, threads="isolate"), True),
        (THREADS, CellAsk(cpus_dedicated=1, threads="isolate"), False),
        (THREADS, CellAsk(cpus_dedicated=1, memory_mb=101), False),
        (Cell(shared=frozenset({0}), memory_mb=100, shared_used=1), CellAsk(cpus=1, memory_mb=1), True),
        (Cell(shared=frozenset({0}), memory_mb=100, shared_used=2), CellAsk(cpus=1, memory_mb=1), False),
        (Cell(shared=frozenset({0}), memory_mb=100), CellAsk(cpus=2), False),
        (Cell(shared=frozenset({0}), memory_mb=100, memory_used_mb=100), CellAsk(cpus=1, memory_mb=51), False),
    ],
)  # fmt: skip
def test_a_cell_fits_by_thread_policy_and_ratio(cell: Cell, ask: CellAsk, fits: bool) -> None:
    assert bool(lay({"0": cell}, (ask,), Ratios(cpu=2000, memory=1500))) is fits


def test_cells_are_laid_so_that_all_fit_where_the_first_choice_of_one_takes_another_ones_only_place() -> None:
    small, large = Cell(shared=frozenset({0, 1}), memory_mb=10), Cell(shared=frozenset(range(8)), memory_mb=10)
    asks = (CellAsk(cpus=2), CellAsk(cpus=4))
    assert lay({"0": large, "1": small}, asks, Ratios()) == ("1", "0")
    assert lay({"0": small, "1": small}, asks, Ratios()) == ()


@pytest.mark.parametrize(
    ("networks", "asks", "names"),
    [
        (("a",), 1, ("0",)), (("b",), 1, ("1",)), (("a", "b"), 1, ()), (("a", "b"), 2, ("0", "1")), (("unknown",), 1, ("0",)),
    ],
)  # fmt: skip
def test_a_network_that_some_cells_are_near_pulls_one_of_the_instances_cells_there(
    networks: tuple[str, ...], asks: int, names: tuple[str, ...]
) -> None:
    cells = {str(i): Cell(shared=frozenset({i}), memory_mb=9, networks=frozenset({one})) for i, one in enumerate("ab")}
    assert tuple(sorted(lay(cells, (CellAsk(cpus=1),) * asks, Ratios(), networks))) == names
