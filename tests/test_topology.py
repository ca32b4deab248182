"""NUMA cells of a Linux machine, told from made-up trees of sysfs."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonplace.agent import host_driver
from commonplace.agent.commands import expand
from commonplace.agent.host_driver import HostDriver
from commonplace.agent.machine import HostDriverSettings
from commonplace.agent.topology import cells_of, inventory_of, read
from commonplace.core.records.hosts import Allocation, Assigned, HostCell
from commonplace.core.resources import Inventory
from commonplace.errors import SettingsError

TWO_NODES = {
    "cpu/online": "0-7\n",
    **{f"cpu/cpu{cpu}/topology/thread_siblings_list": f"{cpu % 4},{cpu % 4 + 4}\n" for cpu in range(8)},
    **{f"cpu/cpu{cpu}/topology/physical_package_id": f"{cpu % 4 // 2}\n" for cpu in range(8)},
    "node/node0/cpulist": "0-1,4-5\n",
    "node/node1/cpulist": "2-3,6-7\n",
    "node/node0/meminfo": "Node 0 MemTotal:       16777216 kB\nNode 0 MemFree: 1 kB\n",
    "node/node1/meminfo": "Node 1 MemTotal:        8388608 kB\n",
    "node/node0/hugepages/hugepages-2048kB/nr_hugepages": "1024\n",
    "node/node0/hugepages/hugepages-1048576kB/nr_hugepages": "0\n",
    "node/node1/hugepages/hugepages-2048kB/nr_hugepages": "0\n",
}


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_tree_is_read_as_it_stands_and_other_files_are_left_alone(tmp_path: Path) -> None:
    tree(tmp_path, TWO_NODES | {"node/online": "0-1\n", "cpu/cpufreq/boost": "1\n"})
    (tmp_path / "node/node1/hugepages/hugepages-2048kB/nr_hugepages").write_bytes(b"\xff")
    assert read(tmp_path) == {k: v for k, v in TWO_NODES.items() if "node1/hugepages" not in k}


def test_a_machine_without_sysfs_has_no_cells(tmp_path: Path) -> None:
    assert cells_of(read(tmp_path / "none")) == {}


def test_cells_have_cpus_threads_memory_pages_and_sockets() -> None:
    assert cells_of(TWO_NODES) == {
        "0": HostCell(
            cpus="0-1,4-5",
            siblings=("0,4", "1,5"),
            memory_mb=16_384,
            pages={4: (16_384 - 2_048) * 256, 2048: 1024},
            socket=0,
        ),
        "1": HostCell(cpus="2-3,6-7", siblings=("2,6", "3,7"), memory_mb=8_192, socket=1),
    }


def test_dedicated_cpus_are_apart_and_memory_is_kept_cell_by_cell() -> None:
    cells = cells_of(TWO_NODES, frozenset({1, 5, 6}), 0.1)
    assert {name: (c.cpus, c.cpus_dedicated, c.memory_mb) for name, c in cells.items()} == {
        "0": ("0,4", "1,5", 16_384 - 1_639),
        "1": ("2-3,7", "6", 8_192 - 820),
    }
    measured = {"VCPU": Inventory(total=8, reserved=1), "MEMORY_MB": Inventory(total=24_576)}
    offered = inventory_of(measured, cells)
    assert (offered["VCPU"], offered["PCPU"]) == (Inventory(total=5, reserved=1), Inventory(total=3))
    assert inventory_of(measured, cells_of(TWO_NODES)) == measured


@pytest.mark.parametrize(
    ("changed", "cell", "field", "value"),
    [
        ({"cpu/online": "0-3\n"}, "0", "cpus", "0-1"),
        ({"cpu/online": "0-3\n"}, "0", "siblings", ()),
        ({"cpu/online": "nonsense"}, "0", "cpus", "0-1,4-5"),
        ({"cpu/cpu0/topology/physical_package_id": "1\n"}, "0", "socket", -1),
        ({"cpu/cpu0/topology/physical_package_id": "-1\n"}, "0", "socket", -1),
        ({"cpu/cpu0/topology/thread_siblings_list": "0-1\n"}, "0", "siblings", ()),
        ({"node/node1/meminfo": "no such line"}, "1", "memory_mb", 0),
        ({"node/node0/hugepages/hugepages-2048kB/nr_hugepages": "many"}, "0", "pages", {}),
        ({"node/node1/cpulist": "\n"}, "1", "cpus", ""),  # memory without cpus
    ],
)
def test_what_a_file_does_not_say_is_left_out(changed: dict[str, str], cell: str, field: str, value: Any) -> None:
    assert getattr(cells_of(TWO_NODES | changed)[cell], field) == value


def test_a_node_with_nothing_is_no_cell_and_too_many_are_none() -> None:
    assert set(cells_of(TWO_NODES | {"node/node2/cpulist": "\n", "node/node2/meminfo": "MemTotal: 0 kB"})) == {"0", "1"}
    assert cells_of({f"node/node{i}/cpulist": f"{i}\n" for i in range(17)}) == {}


@given(
    st.dictionaries(
        st.sampled_from(sorted(TWO_NODES)), st.text("0123456789-, kBMemTotal:\n", max_size=20) | st.text(max_size=8)
    )
)
def test_whatever_files_say_cells_can_be_reported(changed: dict[str, str]) -> None:
    for cell in cells_of(TWO_NODES | changed, frozenset({1})).values():
        assert isinstance(cell, HostCell)  # made at all: its own checks passed


def test_the_driver_reports_them_and_refuses_settings_that_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_driver, "read", lambda: read(tree(tmp_path, TWO_NODES)))
    driver = HostDriver(HostDriverSettings(numa=True, cpus_dedicated="4-5"))
    assert driver.cells()["0"].cpus_dedicated == "4-5"
    assert driver.inventory()["PCPU"].total == 2
    assert HostDriver(HostDriverSettings()).cells() == {}
    for settings, says in (
        ({"cpus_dedicated": "1"}, "set numa = true"),
        ({"numa": True, "cpus_dedicated": "1-"}, "cpus_dedicated: cpu list"),
        ({"numa": True, "cpus_dedicated": "6,9-10"}, "names 9-10, which are not online here"),
    ):
        with pytest.raises(SettingsError, match=says):
            HostDriver(HostDriverSettings(**settings))
    monkeypatch.setattr(host_driver, "read", dict)
    with pytest.raises(SettingsError, match="shows no cells: set numa = false"):
        HostDriver(HostDriverSettings(numa=True))


def test_a_start_command_is_told_cpus_and_nodes() -> None:
    cells = {"1": {"PCPU": 2}, "0": {"PCPU": 1}}
    given = {"0": Assigned(cpus="4"), "1": Assigned(cpus="6-7")}
    allocation = Allocation(id="a", resources={"PCPU": 3}, cells=cells, assigned=given)
    assert expand(["--cpuset={cpus}", "{numa_nodes}"], allocation) == ["--cpuset=4,6-7", "0,1"]
