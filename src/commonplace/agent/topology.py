"""A Linux machine's NUMA cells, read from sysfs: cpus with their threads, memory and pages, sockets.

    /sys/devices/system/node/nodeN/       cpulist  meminfo  hugepages/hugepages-SIZEkB/nr_hugepages
    /sys/devices/system/cpu/cpuN/topology/ thread_siblings_list  physical_package_id
    /sys/devices/system/cpu/               online

What is read is text; everything below `read` is pure. A file that is missing or says nothing sensible leaves its fact out.
"""

import re
from collections.abc import Mapping
from math import ceil
from pathlib import Path

from msgspec.structs import replace

from commonplace.core import cpu_lists
from commonplace.core import inventory_of_cells as core_inventory
from commonplace.core.cpu_lists import Cpus
from commonplace.core.records.hosts import HostCell
from commonplace.core.resources import Inventory

SYSFS = Path("/sys/devices/system")
_KB = 1024

CELLS_MAX = 16
SIZES_MAX = 8
ORDINARY_KB = 4

Files = Mapping[str, str]
"""Text of files by their path below SYSFS."""

_PATTERNS = (
    "cpu/online",
    "cpu/cpu[0-9]*/topology/thread_siblings_list",
    "cpu/cpu[0-9]*/topology/physical_package_id",
    "node/node[0-9]*/cpulist",
    "node/node[0-9]*/meminfo",
    "node/node[0-9]*/hugepages/hugepages-*kB/nr_hugepages",
)


def read(root: Path = SYSFS) -> dict[str, str]:
    """The files that cells are told from; those that cannot be read are left out."""
    found = {}
    for pattern in _PATTERNS:
        for path in sorted(root.glob(pattern)):
            try:
                found[path.relative_to(root).as_posix()] = path.read_text()
            except (OSError, UnicodeDecodeError):
                continue
    return found


def cells_of(files: Files, dedicated: Cpus = frozenset(), reserved_memory_share: float = 0.0) -> dict[str, HostCell]:
    """Cells by number; {} for a machine that shows none, or more than a report holds.

    `dedicated` cpus are for one instance each, the others are shared. Each cell keeps its share of the memory that is reserved. Ordinary
    pages are counted too where huge ones are: as many as the rest of the memory makes, so that instances without huge pages take no others.
    """
    nodes = sorted({int(m[1]) for path in files if (m := re.match(r"node/node(\d+)/", path))})
    if not nodes or len(nodes) > CELLS_MAX:
        return {}
    online = _cpus(files.get("cpu/online", ""))
    cells = {str(node): _cell(files, node, online, dedicated, reserved_memory_share) for node in nodes}
    return {name: cell for name, cell in cells.items() if cell.cpus or cell.cpus_dedicated or cell.memory_mb}


def inventory_of(measured: Mapping[str, Inventory], cells: Mapping[str, HostCell]) -> dict[str, Inventory]:
    """A machine's inventory when it reports cells: dedicated cpus are PCPU, never oversubscribed, and no VCPU; devices count in shares."""
    told = core_inventory.inventory_of(cells)
    devices = {device.resource_class for cell in cells.values() for device in cell.devices}
    found = {**measured, **{name: told[name] for name in sorted(devices)}}
    if dedicated := told.get("PCPU"):
        cpus = measured["VCPU"]
        left = max(0, cpus.total - dedicated.total)
        found |= {"VCPU": replace(cpus, total=left, reserved=min(cpus.reserved, left)), "PCPU": dedicated}
    return found


def _cell(files: Files, node: int, online: Cpus, dedicated: Cpus, reserved_memory_share: float) -> HostCell:
    cpus = _cpus(files.get(f"node/node{node}/cpulist", ""))
    cpus = cpus & online if online else cpus
    total_mb = _memory_mb(files.get(f"node/node{node}/meminfo", ""))
    memory_mb = max(0, total_mb - ceil(total_mb * reserved_memory_share))
    return HostCell(
        cpus=cpu_lists.text_of(cpus - dedicated),
        cpus_dedicated=cpu_lists.text_of(cpus & dedicated),
        siblings=_siblings(files, cpus),
        memory_mb=memory_mb,
        pages=_pages(_huge(files, node), memory_mb),
        socket=_socket(files, cpus),
    )


def _pages(huge: Mapping[int, int], memory_mb: int) -> dict[int, int]:
    """Pages by size in kB: the huge ones, and ordinary ones for the rest of the memory; {} without huge ones, which is any memory."""
    rest_kb = memory_mb * _KB - sum(size * count for size, count in huge.items())
    return {ORDINARY_KB: max(0, rest_kb) // ORDINARY_KB, **huge} if huge else {}


def _siblings(files: Files, cpus: Cpus) -> tuple[str, ...]:
    """The threads of each core that has several, as far as they are online and in the cell."""
    cores = {_cpus(files.get(f"cpu/cpu{cpu}/topology/thread_siblings_list", "")) & cpus for cpu in cpus}
    cores = {core for core in cores if len(core) > 1}
    if sum(map(len, cores)) > len(frozenset[int]().union(*cores)):
        return ()  # cores that overlap are none: rather no threads than wrong ones
    return tuple(cpu_lists.text_of(core) for core in sorted(cores, key=min))


def _socket(files: Files, cpus: Cpus) -> int:
    """The socket that all cpus of a cell are on, −1 where they are on several or it is not said."""
    said = {files.get(f"cpu/cpu{cpu}/topology/physical_package_id", "").strip() for cpu in cpus}
    one = said.pop() if len(said) == 1 else ""
    return int(one) if one.isascii() and one.isdigit() and int(one) <= 1024 else -1


def _memory_mb(meminfo: str) -> int:
    match = re.search(r"\bMemTotal:\s*(\d+) kB", meminfo)
    return int(match[1]) // _KB if match else 0


def _huge(files: Files, node: int) -> dict[int, int]:
    """Huge pages by size in kB, as many as the cell has; sizes of which it has none are left out."""
    found = {}
    for path, text in files.items():
        match = re.fullmatch(rf"node/node{node}/hugepages/hugepages-(\d+)kB/nr_hugepages", path)
        count = text.strip()
        if match and count.isascii() and count.isdigit() and int(count):
            found[int(match[1])] = int(count)
    return dict(sorted(found.items())[: SIZES_MAX - 1])


def _cpus(text: str) -> Cpus:
    try:
        return cpu_lists.parse(text.strip())
    except ValueError:
        return frozenset()
