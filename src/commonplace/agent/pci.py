"""A Linux machine's PCI devices, read from sysfs, as devices of its NUMA cells.

    /sys/bus/pci/devices/0000:3b:00.0/     class  vendor  device  numa_node

What is read is text; everything below `read` is pure. A device whose files are missing or say nothing sensible is left out.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from msgspec import Meta
from msgspec.structs import replace

from commonplace.core.records.hosts import Device, HostCell

SYSFS = Path("/sys/bus/pci/devices")

GPU_CLASSES = ("0x0300", "0x0302")
"""VGA and 3D controllers (PCI Code and ID Assignment, base class 03h)."""

FAR_CELL = "pci"
"""The cell of devices that are near none, or whose node is not reported."""

DEVICES_MAX = 64
"""Most devices in one cell: the bound of a report."""

Picked = Annotated[str, Meta(pattern=r"^[0-9a-f]{4}(:[0-9a-f]{4})?$(?!\n)")]
"""`VENDOR:PRODUCT`, or `VENDOR` for all its GPUs; hex, as lspci -n prints them."""

ClassOf = Annotated[str, Meta(max_length=64, pattern=r"^([A-Z][A-Z0-9_]*)?$(?!\n)")]
"""A resource class, or "" for the one that vendor and product make."""

Files = Mapping[str, Mapping[str, str]]
"""Text of files by name, by the device's address."""

_NAMES = ("class", "vendor", "device", "numa_node")


def read(root: Path = SYSFS) -> dict[str, dict[str, str]]:
    """The files that devices are told from; what cannot be read is left out."""
    found: dict[str, dict[str, str]] = {}
    for path in sorted(root.glob("*")):
        files = found.setdefault(path.name, {})
        for name in _NAMES:
            try:
                files[name] = (path / name).read_text().strip()
            except (OSError, UnicodeDecodeError):
                continue
    return found


def devices_of(files: Files, picked: Mapping[str, str]) -> dict[str, list[Device]]:
    """The devices that `picked` names, by NUMA node; `FAR_CELL` for those near none. Of one named twice the product's class counts."""
    found: dict[str, list[Device]] = {}
    for address, said in sorted(files.items()):
        vendor, product = _number(said.get("vendor", "")), _number(said.get("device", ""))
        if not vendor or not product or not re.fullmatch(r"[0-9a-f:.]{1,64}", address):
            continue
        named = picked.get(f"{vendor}:{product}")
        if named is None and said.get("class", "")[:6] in GPU_CLASSES:
            named = picked.get(vendor)
        if named is not None:
            class_name = named or f"CUSTOM_PCI_{vendor}_{product}".upper()
            node = said.get("numa_node", "")
            cell = node if node.isascii() and node.isdigit() else FAR_CELL
            found.setdefault(cell, []).append(
                Device(id=address, resource_class=class_name, vendor=vendor, product=product)
            )
    return found


def with_devices(cells: Mapping[str, HostCell], devices: Mapping[str, list[Device]]) -> dict[str, HostCell]:
    """Cells with the devices near them; ValueError for more than a report holds, or of a class that no device can be of."""
    near: dict[str, list[Device]] = {}
    for node, found in devices.items():
        near.setdefault(node if node in cells else FAR_CELL, []).extend(found)
    for name, found in near.items():
        if len(found) > DEVICES_MAX:
            raise ValueError(f"{len(found)} devices in cell {name}, at most {DEVICES_MAX}: name fewer")
    joined = dict(cells)
    for name, found in near.items():
        joined[name] = replace(cells.get(name, HostCell()), devices=tuple(sorted(found, key=lambda one: one.id)))
    return joined


def _number(text: str) -> str:
    """`0x10de` as `10de`, "" for anything else."""
    match = re.fullmatch(r"0x([0-9a-f]{4})", text)
    return match[1] if match else ""
