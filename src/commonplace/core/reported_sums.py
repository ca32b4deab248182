"""What reports say that a host holds: its allocations, and their sums kept exactly, with the hash over all of it (rule 2).

The ledger's side of it is holdings.py, which counts what it grants; here whole reports are counted at once, and deltas undone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from commonplace.core import hashing
from commonplace.core.cells import NO_CELLS, Cells, after, cells_of
from commonplace.core.records.hosts import Allocation, HostCell
from commonplace.core.shared import share, tail_of

NO_GROUPS: Final[dict[str, int]] = {}
NO_HOST_CELLS: Final[dict[str, HostCell]] = {}
"""Shared by all hosts without any: an empty dict for each would take 64 bytes."""


class ReportedSums:
    """One host's allocations as reported. `used` sums them per class, `hash` is over them and the host's part `host_hash`.

    `cells` are the NUMA cells as they stand, with what the allocations hold of them; empty for a host that reports none.
    """

    __slots__ = ("allocations", "builds", "cells", "groups", "hash", "host_hash", "reported_cells", "used")

    def hold_nothing(self) -> None:
        """Forget all that is held, and the cells."""
        self.host_hash = self.hash = 0
        self.allocations: dict[str, Allocation] = {}
        self.reported_cells: dict[str, HostCell] = NO_HOST_CELLS
        self.cells: Cells = NO_CELLS
        self.used: dict[str, int] = {}
        self.groups = NO_GROUPS
        self.builds = 0

    def count_all(self) -> None:
        """Count every allocation anew, as `count` would one by one; amounts of a flavor are added once for all that have them."""
        used: dict[str, int] = {}
        self.used, self.groups, self.builds, self.hash = used, NO_GROUPS, 0, self.host_hash
        total = builds = 0
        alike: dict[
            int, tuple[dict[str, int], bytes, list[str]]
        ] = {}  # by identity of their resources: ids, and what they share
        for allocation in self.allocations.values():
            tail = share(allocation)
            if not tail:  # of a group, or in cells
                self.count(allocation, 1)
                continue
            builds += allocation.building
            those = alike.get(id(allocation.resources))
            if those is None:
                those = alike[id(allocation.resources)] = (allocation.resources, tail, [])
            those[2].append(allocation.id)
        for resources, tail, ids in alike.values():
            total += hashing.id_hashes(ids, tail)
            for name, amount in resources.items():
                used[name] = used.get(name, 0) + amount * len(ids)
        self.builds += builds
        self.hash = (self.hash + total) & hashing.MASK

    def lay_all(self) -> None:
        """Lay every allocation on the cells as they are reported."""
        self.cells = cells_of(self.reported_cells)
        for allocation in self.allocations.values():
            self.cells = after(self.cells, allocation.cells, allocation.assigned, 1)

    def put(self, allocation_id: str, allocation: Allocation | None) -> None:
        """Put an allocation in the place of the one with that id, if there is one; None: nothing."""
        old = self.allocations.pop(allocation_id, None)
        if old is not None:
            self.count(old, -1)
        if allocation is not None:
            self.count(allocation, 1)
            self.allocations[allocation_id] = allocation

    def count(self, allocation: Allocation, sign: int, tail: bytes = b"") -> None:
        """Count an allocation in or out; `tail` are its canonical bytes after the id, where they are at hand."""
        tail = tail or tail_of(allocation)
        self.hash = (self.hash + sign * hashing.id_hash(allocation.id, tail)) & hashing.MASK
        used = self.used
        for name, amount in allocation.resources.items():
            used[name] = used.get(name, 0) + sign * amount
        if allocation.building:
            self.builds += sign
        if allocation.cells and self.cells:
            self.cells = after(self.cells, allocation.cells, allocation.assigned, sign)
        if allocation.group:
            self._member(allocation.group, sign)

    @contextmanager
    def without(self, gone: Allocation) -> Iterator[None]:
        """The host as if it did not hold one of its allocations, for as long as the context lasts."""
        held = self.allocations
        self.allocations = {name: one for name, one in held.items() if name != gone.id}
        self.count(gone, -1)
        try:
            yield
        finally:
            self.count(gone, 1)
            self.allocations = held

    def _member(self, group: str, sign: int) -> None:
        if self.groups is NO_GROUPS:
            self.groups = {}
        left = self.groups.get(group, 0) + sign
        if left:
            self.groups[group] = left
        else:
            del self.groups[group]
