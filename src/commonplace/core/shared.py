"""What hosts and allocations have in common, as one object for all of them: flavors and shapes are few, allocations many."""

import sys
from typing import Final

from msgspec.structs import force_setattr

from commonplace.core import hashing
from commonplace.core.records.hosts import Allocation, Snapshot
from commonplace.core.resources import Inventory

Shape = tuple[dict[str, Inventory], frozenset[str], dict[str, str]]
"""A host's inventory, traits and labels."""

_SHARED_MAX: Final = 65_536
_NO_CELLS: Final[dict[str, dict[str, int]]] = {}
_shared_resources: dict[tuple[tuple[str, int], ...], tuple[dict[str, int], bytes]] = {}
_last_of: Final[dict[str, tuple[dict[str, int], bytes, str]]] = {}
"""What allocations of a flavor shared last: most have what their flavor asks, and are found without a look at all amounts."""
_leases: Final[dict[int, int]] = {}
_statuses: Final[dict[tuple[str, bool], tuple[str, bool]]] = {}
_inventories: Final[dict[tuple[tuple[str, Inventory], ...], dict[str, Inventory]]] = {}
_parts: Final[dict[tuple[int, str], int]] = {}
"""Hash of what a host is, by the identity of its shape and its status."""
_shapes: Final[dict[tuple[int, tuple[str, ...], tuple[tuple[str, str], ...]], Shape]] = {}


def shared_shape(record: Snapshot) -> Shape:
    """One object for all hosts of a shape: fleets have few, and an inventory of three classes takes 700 bytes."""
    items = tuple(record.inventory.items())
    inventory = _inventories.get(items)
    if inventory is None:
        if len(_inventories) >= _SHARED_MAX:
            _inventories.clear()
            _forget_shapes()  # they name inventories by identity
        inventory = _inventories[items] = record.inventory
    of = (id(inventory), record.traits, tuple(record.labels.items()))
    shape = _shapes.get(of)
    if shape is None:
        if len(_shapes) >= _SHARED_MAX:
            _forget_shapes()
        shape = _shapes[of] = (inventory, frozenset(record.traits), record.labels)
    return shape


def _forget_shapes() -> None:
    _shapes.clear()
    _parts.clear()


def part_of(shape: Shape, record: Snapshot) -> int:
    """Hash of what a host is; one for all hosts of a shape that have no cells."""
    at = (id(shape), record.status)
    part = None if record.cells else _parts.get(at)
    if part is None:
        part = hashing.host_part(*shape, record.status, record.cells)
        if not record.cells:
            _parts[at] = part
    return part


def share(allocation: Allocation) -> bytes:
    """Let equal resources and names be one object: flavors are few, allocations many (a dict of three classes takes 230 bytes).

    Returns the canonical bytes after the id, known with the resources unless a group or cells belong to them.
    """
    last = _last_of.get(allocation.flavor)
    if last is None or last[0] != allocation.resources:
        last = _shared_anew(allocation)
    resources, tail, flavor = last
    force_setattr(allocation, "resources", resources)
    force_setattr(allocation, "flavor", flavor)
    if allocation.project:
        force_setattr(allocation, "project", sys.intern(allocation.project))
    if allocation.kind:
        force_setattr(allocation, "kind", sys.intern(allocation.kind))
    if not allocation.cells:
        force_setattr(allocation, "cells", _NO_CELLS)
    if allocation.lease_ms in _leases or len(_leases) < _SHARED_MAX:
        force_setattr(allocation, "lease_ms", _leases.setdefault(allocation.lease_ms, allocation.lease_ms))
    return b"" if allocation.group or allocation.cells else tail


def tail_of(allocation: Allocation) -> bytes:
    """Canonical bytes of an allocation after its id; at hand where the last of its flavor shares its resources."""
    last = _last_of.get(allocation.flavor)
    if last is not None and last[0] is allocation.resources and not allocation.group and not allocation.cells:
        return last[1]
    return hashing.tail_bytes(allocation.resources, allocation.group, allocation.cells)


def _shared_anew(allocation: Allocation) -> tuple[dict[str, int], bytes, str]:
    """Resources, their canonical bytes and the flavor, as all others have them that are equal."""
    amounts = tuple(allocation.resources.items())
    shared = _shared_resources.get(amounts)
    if shared is None:
        if len(_shared_resources) >= _SHARED_MAX:
            _shared_resources.clear()
        shared = _shared_resources[amounts] = (allocation.resources, hashing.tail_bytes(allocation.resources, "", {}))
    if len(_last_of) >= _SHARED_MAX:
        _last_of.clear()
    flavor = sys.intern(allocation.flavor)
    last = _last_of[flavor] = (*shared, flavor)
    return last


def shared_status(status: str, gap: bool) -> tuple[str, bool]:
    """A status with whether there is a gap."""
    return _statuses.setdefault((status, gap), (status, gap))
