"""What a host is and holds: inventory, allocations, and their sums kept exactly, with the hash over all of it (rule 2)."""

from collections.abc import Mapping

from commonplace.core import hashing
from commonplace.core.cells import Cells, after, cells_of
from commonplace.core.codec import encode
from commonplace.core.ledger_events import Configure
from commonplace.core.records.hosts import Allocation, HostCell, Status
from commonplace.core.resources import Inventory


class Holdings:
    """One host's allocations and the sums over them. `bytes` is what they take of a snapshot, from above."""

    __slots__ = (
        "_counted", "allocations", "builds", "bytes", "cells", "groups", "hash", "host_hash", "inventory", "labels", "limits",
        "reported_cells", "status", "successors", "traits", "used",
    )  # fmt: skip

    def __init__(self) -> None:
        self.inventory: Mapping[str, Inventory] = {}
        self.limits: dict[str, tuple[int, int, int, int]] = {}  # class → capacity, min_unit, unit_max, step_size
        self.traits: tuple[str, ...] = ()
        self.labels: Mapping[str, str] = {}
        self.status: Status = "enabled"
        self.reported_cells: Mapping[str, HostCell] = {}
        self.cells: Cells = {}  # the same with what the allocations hold of them
        self.allocations: dict[str, Allocation] = {}
        self._counted: dict[str, tuple[int, int]] = {}  # allocation → what it adds to hash and bytes
        self.successors: dict[str, str] = {}  # allocation → the one that takes its place once confirmed
        self.used: dict[str, int] = {}
        self.groups: dict[str, int] = {}
        self.builds = 0  # in progress
        self.bytes = 0
        self.host_hash = self.hash = hashing.host_part({}, (), {}, "enabled")

    def configure(self, to: Configure) -> None:
        """Take over what driver and operators say of the host."""
        self.inventory = self.inventory if to.inventory is None else to.inventory
        self.limits = {n: (i.capacity, i.min_unit, i.unit_max, i.step_size) for n, i in self.inventory.items()}
        self.traits = self.traits if to.traits is None else tuple(sorted(set(to.traits)))
        self.labels = self.labels if to.labels is None else to.labels
        self.status = self.status if to.status is None else to.status
        if to.cells is not None:
            self._report_cells(to.cells)
        part = hashing.host_part(self.inventory, self.traits, self.labels, self.status, self.reported_cells)
        self.hash = (self.hash - self.host_hash + part) & hashing.MASK
        self.host_hash = part

    def _report_cells(self, reported: Mapping[str, HostCell]) -> None:
        self.bytes += _cells_bytes(reported) - _cells_bytes(self.reported_cells)
        self.reported_cells, self.cells = reported, cells_of(reported)
        for allocation in self.allocations.values():
            self.cells = after(self.cells, allocation.cells, allocation.assigned, 1)

    def add(self, allocation: Allocation) -> None:
        """Hold one more allocation."""
        self.allocations[allocation.id] = allocation
        if allocation.replaces:
            self.successors[allocation.replaces] = allocation.id
        tail = hashing.tail_bytes(allocation.resources, allocation.group, allocation.cells)
        counted = self._counted[allocation.id] = (hashing.id_hash(allocation.id, tail), bytes_of(allocation))
        self._count(allocation, counted, 1)

    def remove(self, allocation: Allocation) -> None:
        """Hold one fewer."""
        del self.allocations[allocation.id]
        if allocation.replaces:
            del self.successors[allocation.replaces]
        self._count(allocation, self._counted.pop(allocation.id), -1)

    def _count(self, allocation: Allocation, counted: tuple[int, int], sign: int) -> None:
        self.hash = (self.hash + sign * counted[0]) & hashing.MASK
        self.bytes += sign * counted[1]
        self.builds += sign * allocation.building
        if allocation.cells and self.cells:
            self.cells = after(self.cells, allocation.cells, allocation.assigned, sign)
        used = self.used
        for name, amount in allocation.resources.items():
            used[name] = used.get(name, 0) + sign * amount
        if allocation.group:
            left = self.groups.get(allocation.group, 0) + sign
            if left:
                self.groups[allocation.group] = left
            else:
                del self.groups[allocation.group]


def _cells_bytes(cells: Mapping[str, HostCell]) -> int:
    """Bytes of a host's cells in a snapshot; without them a ledger counts as it always did."""
    return len(encode(dict(cells))) if cells else 0


def names_in(a: Allocation) -> str:
    """Every name that an allocation carries, one after the other."""
    return "".join((a.id, a.request, a.instance, a.flavor, a.project, a.user, a.kind, a.group, a.replaces, *a.image))


def bytes_of(allocation: Allocation) -> int:
    """Bytes of an allocation in a snapshot, from above: 4 a character of a name, 300 for all keys, 90 for a resource class."""
    there = 300 + 4 * len(names_in(allocation)) + 90 * len(allocation.resources)
    if allocation.replaces:  # and what it becomes, which may be all that it will be
        there += 100 + 4 * len(allocation.replaces) + len(encode(allocation.becomes)) + 90 * 32
    return there + len(encode((allocation.cells, allocation.assigned))) if allocation.cells else there
