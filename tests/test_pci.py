"""PCI devices of a Linux machine, told from made-up trees of sysfs."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commonplace.agent import pci
from commonplace.agent.commands import expand
from commonplace.agent.host_driver import HostDriver
from commonplace.agent.machine import load_settings
from commonplace.agent.pci import FAR_CELL, devices_of, read, with_devices
from commonplace.agent.topology import inventory_of
from commonplace.core.cells import cells_of
from commonplace.core.records.hosts import Allocation, Assigned, Device, HostCell
from commonplace.core.resources import Inventory
from commonplace.errors import SettingsError

GPU, AUDIO, NIC, CONSOLE = "0000:3b:00.0", "0000:3b:00.1", "0000:5e:00.0", "0000:03:00.0"
MACHINE = {
    GPU: {"class": "0x030200", "vendor": "0x10de", "device": "0x2236", "numa_node": "1"},
    AUDIO: {"class": "0x040300", "vendor": "0x10de", "device": "0x1aef", "numa_node": "1"},
    NIC: {"class": "0x020000", "vendor": "0x8086", "device": "0x1520", "numa_node": "-1"},
    CONSOLE: {"class": "0x030000", "vendor": "0x1a03", "device": "0x2000", "numa_node": "0"},
}
A10 = Device(id=GPU, resource_class="CUSTOM_PCI_10DE_2236", vendor="10de", product="2236")
CELLS = {"0": HostCell(cpus="0-3", memory_mb=1024), "1": HostCell(cpus="4-7", memory_mb=1024)}


def tree(root: Path, machine: dict[str, dict[str, str]] = MACHINE) -> Path:
    for address, files in machine.items():
        for name, text in files.items():
            (root / address).mkdir(parents=True, exist_ok=True)
            (root / address / name).write_text(text + "\n")
    return root


def test_a_tree_is_read_as_it_stands_and_other_files_are_left_alone(tmp_path: Path) -> None:
    tree(tmp_path)
    (tmp_path / GPU / "config").write_bytes(b"\xff\xff")
    (tmp_path / NIC / "numa_node").write_bytes(b"\xff")
    assert read(tmp_path) == MACHINE | {NIC: {k: v for k, v in MACHINE[NIC].items() if k != "numa_node"}}
    assert read(tmp_path / "none") == {}


def test_a_vendor_means_its_gpus_and_a_product_whatever_it_is() -> None:
    assert devices_of(MACHINE, {"10de": ""}) == {"1": [A10]}
    found = devices_of(MACHINE, {"8086:1520": "CUSTOM_NIC", "1a03": "", "8086": "CUSTOM_OTHER"})
    assert {cell: [(d.id, d.resource_class) for d in devices] for cell, devices in found.items()} == {
        "0": [(CONSOLE, "CUSTOM_PCI_1A03_2000")],
        FAR_CELL: [(NIC, "CUSTOM_NIC")],
    }
    assert devices_of(MACHINE, {"10de": "PGPU", "10de:2236": "CUSTOM_A10"})["1"][0].resource_class == "CUSTOM_A10"
    assert devices_of(MACHINE, {}) == devices_of(MACHINE, {"ffff": ""}) == {}


def test_devices_join_the_cell_they_are_near_and_the_inventory() -> None:
    devices = devices_of(MACHINE, {"10de": "PGPU", "8086:1520": "CUSTOM_NIC"})
    cells = with_devices(CELLS, devices)
    assert {name: [d.id for d in cell.devices] for name, cell in cells.items()} == {"0": [], "1": [GPU], "pci": [NIC]}
    assert cells["1"].cpus == "4-7"
    measured = {"VCPU": Inventory(total=8)}
    assert inventory_of(measured, cells) == measured | {"PGPU": Inventory(total=1), "CUSTOM_NIC": Inventory(total=1)}
    assert set(with_devices({}, devices)) == {"pci"}  # a machine that reports no NUMA
    assert [room.id for room in cells_of(cells)["1"].devices] == [GPU]


def test_more_devices_than_a_report_holds_are_refused() -> None:
    many = {f"0000:{n:02x}:00.0": MACHINE[GPU] for n in range(65)}
    with pytest.raises(ValueError, match="65 devices in cell 1, at most 64: name fewer"):
        with_devices(CELLS, devices_of(many, {"10de": ""}))


SAID = st.text(max_size=8) | st.sampled_from(["0x10de", "0x0302", "1", "²"])


@given(
    st.dictionaries(st.text(max_size=8) | st.just(GPU), st.dictionaries(st.sampled_from(sorted(MACHINE[GPU])), SAID))
)
def test_whatever_files_say_devices_can_be_reported(files: dict[str, dict[str, str]]) -> None:
    for cell in with_devices(CELLS, devices_of(files, {"10de": "", "10de:10de": "PGPU"})).values():
        assert isinstance(cell, HostCell)


def test_the_driver_offers_what_its_settings_name_and_refuses_what_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = read(tree(tmp_path / "pci"))
    monkeypatch.setattr(pci, "read", lambda: machine)
    file = tmp_path / "driver.toml"
    file.write_text('[devices]\n"10de" = "PGPU"\n')
    driver = HostDriver(load_settings(file))
    assert driver.inventory()["PGPU"] == Inventory(total=1)
    assert [device.id for cell in driver.cells().values() for device in cell.devices] == [GPU]
    assert HostDriver(load_settings(None)).cells() == {}
    for text, says in (
        ('"abcd" = ""', "no PCI device here is of abcd: see `lspci -n`"),
        ('"10DE" = ""', "devices"),
        ('"10de" = "gpu"', "devices"),
        ('"10de" = "PCPU"', "a device cannot be of class PCPU"),
    ):
        file.write_text(f"[devices]\n{text}\n")
        with pytest.raises(SettingsError, match=says):
            HostDriver(load_settings(file))


def test_a_start_command_is_told_its_devices_and_only_real_nodes() -> None:
    given = {"1": Assigned(devices={GPU: 1}), "pci": Assigned(devices={NIC: 1})}
    held = Allocation(id="a", resources={}, cells={"1": {"PGPU": 1}, "pci": {"CUSTOM_NIC": 1}}, assigned=given)
    assert expand(["{devices}", "{numa_nodes}"], held) == [f"{GPU},{NIC}", "1"]


def test_sysfs_names_its_own_devices_here() -> None:
    assert all(set(files) <= {"class", "vendor", "device", "numa_node"} for files in pci.read().values())
