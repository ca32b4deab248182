"""Groups of a trace that stay on one host: which of them any host could hold, were it empty.

Held against sums and, where hosts report NUMA cells, against these, largest VM first. A group that no host could hold is no host's
affinity (a trace may mean the rack), and asking for it would only have its later VMs refused.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from msgspec import Struct

from commonplace.core.cpu_lists import parse
from commonplace.core.hosts import HostState
from commonplace.core.records.control import CellAsk


class Shape(Struct, frozen=True):
    """What a host has for instances in all, and per cell: cpus and MB of memory."""

    capacity: tuple[tuple[str, int], ...]
    cells: tuple[tuple[int, int], ...]


class Vm(Struct, frozen=True):
    """What one VM asks for."""

    resources: Mapping[str, int]
    cells: tuple[CellAsk, ...] = ()


def shapes_of(hosts: Iterable[HostState]) -> set[Shape]:
    """The distinct shapes of hosts."""
    return {
        Shape(
            tuple(sorted((name, item.capacity) for name, item in host.inventory.items())),
            tuple((len(parse(cell.cpus)), cell.memory_mb) for _, cell in sorted(host.reported_cells.items())),
        )
        for host in hosts
    }


def keepable(groups: Mapping[str, Counter[str]], vms: Mapping[str, Vm], shapes: Iterable[Shape]) -> frozenset[str]:
    """The groups, given as how many VMs of each flavor, that an empty host of one of these shapes holds."""
    known = list(shapes)
    return frozenset(
        name
        for name, members in groups.items()
        if any(_fits(shape, [vms[flavor] for flavor in members.elements()]) for shape in known)
    )


def _fits(shape: Shape, vms: list[Vm]) -> bool:
    asked: Counter[str] = Counter()
    for vm in vms:
        asked.update(vm.resources)
    room = dict(shape.capacity)
    return all(amount <= room.get(name, 0) for name, amount in asked.items()) and _lie(shape, vms)


def _lie(shape: Shape, vms: list[Vm]) -> bool:
    """Whether the VMs' cells lie on the host's, each cell of a VM on one of its own."""
    free = [list(cell) for cell in shape.cells]
    if not free:
        return True
    for vm in sorted(vms, key=lambda one: -sum(cell.cpus for cell in one.cells)):
        free.sort(key=lambda cell: -cell[0])
        if len(vm.cells) > len(free):
            return False
        for cell, ask in zip(free, vm.cells, strict=False):
            cell[0] -= ask.cpus
            cell[1] -= ask.memory_mb
            if min(cell) < 0:
                return False
    return True
