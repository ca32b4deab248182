"""The state hash: a composable content hash of what placement depends on (rule 2, docs/protocol.md).

    H(inventory, traits, labels, cells, status) + Σ H(allocation)   mod 2^64

Sums commute, so the order of allocations never matters and whoever knows a state can predict the hash after a claim. H is BLAKE2b to 8
bytes, big endian, with a fixed public key; the canonical bytes are lines of text, which the names (no control characters) cannot forge.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from hashlib import blake2b

from commonplace.core.records.hosts import Allocation, HostCell
from commonplace.core.resources import Inventory, Resources

KEY = b"commonplace/state/1"
MASK = 2**64 - 1


def host_part(
    inventory: Mapping[str, Inventory],
    traits: Iterable[str],
    labels: Mapping[str, str],
    status: str,
    cells: Mapping[str, HostCell] = {},
) -> int:
    """Hash of what a host is, apart from its allocations."""
    if cells:
        return _h(host_bytes(inventory, traits, labels, status, cells))
    return _plain_part(tuple(inventory.items()), tuple(traits), tuple(labels.items()), status)


@lru_cache(maxsize=4096)
def _plain_part(
    inventory: tuple[tuple[str, Inventory], ...],
    traits: tuple[str, ...],
    labels: tuple[tuple[str, str], ...],
    status: str,
) -> int:
    """The same for a host without cells, remembered: hosts say it again with every snapshot, and many are alike."""
    return _h(host_bytes(dict(inventory), traits, dict(labels), status))


def host_bytes(
    inventory: Mapping[str, Inventory],
    traits: Iterable[str],
    labels: Mapping[str, str],
    status: str,
    cells: Mapping[str, HostCell] = {},
) -> bytes:
    """Canonical bytes of the host part: one line a fact, sorted within each kind."""
    lines = ["host"]
    for name, item in sorted(inventory.items()):
        lines.append(
            f"i {name} {item.total} {item.reserved} {item.allocation_ratio_thousandths} {item.min_unit} {item.max_unit} {item.step_size}"
        )
    lines.extend(f"t {trait}" for trait in sorted(set(traits)))
    # a label's name may hold spaces, so its length keeps name and value apart
    lines.extend(f"l {len(name.encode())} {name} {value}" for name, value in sorted(labels.items()))
    for name, cell in sorted(cells.items()):
        lines.extend(_cell_lines(name, cell))
    lines.append(f"s {status}")
    return "\n".join(lines).encode()


def cells_bytes(cells: Mapping[str, HostCell]) -> bytes:
    """Canonical bytes of cells: equal for cells that are alike."""
    return "\n".join(line for name, cell in sorted(cells.items()) for line in _cell_lines(name, cell)).encode()


def _cell_lines(name: str, cell: HostCell) -> Iterator[str]:
    """A cell's lines; cpu lists as they are written, devices by id."""
    yield f"c {name} {cell.memory_mb} {cell.socket}"
    yield f"cs {name} {cell.cpus}"
    yield f"cd {name} {cell.cpus_dedicated}"
    yield from (f"ct {name} {threads}" for threads in sorted(cell.siblings))
    yield from (f"cp {name} {size_kb} {count}" for size_kb, count in sorted(cell.pages.items()))
    for one in sorted(cell.devices, key=lambda device: device.id):
        yield f"cv {name} {one.id} {one.resource_class} {one.shares} {one.vendor} {one.product}"
    yield from (f"cn {name} {network}" for network in sorted(cell.networks))


def allocation_hash(allocation: Allocation) -> int:
    """Hash of one allocation: id, resources, group, cells; never its lease state, so confirming leaves the host's hash alone."""
    return id_hash(allocation.id, tail_bytes(allocation.resources, allocation.group, allocation.cells))


def id_hash(allocation_id: str, tail: bytes) -> int:
    """Hash of an allocation whose `tail_bytes` are known: what a replica calls once per claim, the tail once per flavor."""
    return _h(b"allocation\nid " + allocation_id.encode() + tail)


def id_hashes(allocation_ids: Iterable[str], tail: bytes) -> int:
    """Sum of the hashes of allocations that are alike but for their ids: `id_hash` of each, without three calls an id."""
    total, copy, number = 0, _keyed.copy, int.from_bytes
    for allocation_id in allocation_ids:
        keyed = copy()
        keyed.update(b"allocation\nid " + allocation_id.encode() + tail)
        total += number(keyed.digest(), "big")
    return total


def tail_bytes(resources: Resources, group: str, cells: Mapping[str, Resources]) -> bytes:
    """Canonical bytes of an allocation after its id."""
    in_cells = tuple((cell, tuple(amounts.items())) for cell, amounts in cells.items()) if cells else ()
    return tail_of(tuple(resources.items()), group, in_cells)


@lru_cache(maxsize=4096)
def tail_of(
    resources: tuple[tuple[str, int], ...], group: str, cells: tuple[tuple[str, tuple[tuple[str, int], ...]], ...]
) -> bytes:
    """`tail_bytes` of amounts that stand as pairs already, in any order."""
    lines = [""]
    lines.extend(f"r {name} {amount}" for name, amount in sorted(resources) if amount)
    if group:
        lines.append(f"g {group}")
    for cell, amounts in sorted(cells):
        lines.extend(f"c {cell} {name} {amount}" for name, amount in sorted(amounts) if amount)
    return "\n".join(lines).encode()


def to_hex(value: int) -> str:
    """The hash as it travels: 16 hex digits."""
    return f"{value:016x}"


def digest64(data: bytes) -> int:
    """Unkeyed 8-byte BLAKE2b as an integer, for digests that never travel in claims."""
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")


_keyed = blake2b(digest_size=8, key=KEY)


def _h(data: bytes) -> int:
    keyed = _keyed.copy()  # a quarter less than handing over the key each time
    keyed.update(data)
    return int.from_bytes(keyed.digest(), "big")
