"""What a host's cells come to in sum, as an inventory: drivers derive from it what nobody wrote down."""

from collections import Counter
from collections.abc import Mapping

from commonplace.core.cpu_lists import parse
from commonplace.core.records.hosts import HostCell
from commonplace.core.resources import Inventory


def inventory_of(cells: Mapping[str, HostCell]) -> dict[str, Inventory]:
    """VCPU, PCPU, MEMORY_MB and classes of devices of all cells, without reserve or oversubscription; what is 0 is left out."""
    total: Counter[str] = Counter()
    for cell in cells.values():
        total.update(VCPU=len(parse(cell.cpus)), PCPU=len(parse(cell.cpus_dedicated)), MEMORY_MB=cell.memory_mb)
        for device in cell.devices:
            total[device.resource_class] += device.shares
    return {name: Inventory(total=amount) for name, amount in total.items() if amount}
