"""State hash, request digest and partition of a name, computed from docs/protocol.md alone and held to its test vectors."""

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b

import msgspec

from commonplace.ops.audit.wire_hosts import HostCell, Item
from commonplace.ops.audit.wire_requests import Build

MODULUS = 1 << 64
UNORDERED_MAX = 6
"""Most changes without a place in the order for which all 2^n orders are tried (`sums`)."""
_KEY = b"commonplace/state/1"
_Amounts = Mapping[str, int]


def _number(canonical: str) -> int:
    return int(blake2b(canonical.encode(), digest_size=8, key=_KEY).hexdigest(), 16)


def host_hash(
    inventory: Mapping[str, Item],
    traits: Iterable[str],
    labels: Mapping[str, str],
    status: str,
    cells: Mapping[str, HostCell] = {},
) -> int:
    """H(host part)."""
    text = "host"
    for name in sorted(inventory):
        item = inventory[name]
        text += f"\ni {name} {item.total} {item.reserved} {item.allocation_ratio_thousandths}"
        text += f" {item.min_unit} {item.max_unit} {item.step_size}"
    for trait in sorted(frozenset(traits)):
        text += "\nt " + trait
    for name in sorted(labels):
        text += f"\nl {len(name.encode())} {name} {labels[name]}"
    for name in sorted(cells):
        text += _cell(name, cells[name])
    return _number(text + "\ns " + status)


def _cell(name: str, cell: HostCell) -> str:
    """Lines of a cell, each after a newline."""
    text = f"\nc {name} {cell.memory_mb} {cell.socket}\ncs {name} {cell.cpus}\ncd {name} {cell.cpus_dedicated}"
    for threads in sorted(cell.siblings):
        text += f"\nct {name} {threads}"
    for size in sorted(cell.pages):
        text += f"\ncp {name} {size} {cell.pages[size]}"
    for one in sorted(cell.devices, key=lambda d: d.id):
        text += f"\ncv {name} {one.id} {one.kind} {one.shares} {one.vendor} {one.product}"
    for network in sorted(cell.networks):
        text += f"\ncn {name} {network}"
    return text


def allocation_hash(identity: str, resources: _Amounts, group: str, cells: Mapping[str, _Amounts]) -> int:
    """H(allocation)."""
    text = "allocation\nid " + identity
    for name in sorted(resources):
        if resources[name]:
            text += f"\nr {name} {resources[name]}"
    if group:
        text += "\ng " + group
    for cell in sorted(cells):
        for name in sorted(cells[cell]):
            if cells[cell][name]:
                text += f"\nc {cell} {name} {cells[cell][name]}"
    return _number(text)


def request_digest(request: Build) -> str:
    """Digest of what a request asks for, whatever its spelling."""
    return blake2b(msgspec.json.encode(request), digest_size=8).hexdigest()


def sums(steps: Sequence[int]) -> set[int]:
    """All sums of some of the steps, modulo the hash."""
    found = {0}
    for step in steps:
        found |= {(value + step) % MODULUS for value in found}
    return found


def partition_of(name: str, partitions: int) -> int:
    """Kafka's default partition of a name: (murmur2 & 0x7fffffff) mod partitions."""
    return (murmur2(name.encode()) & 0x7FFFFFFF) % partitions


def murmur2(data: bytes) -> int:
    """MurmurHash2, 32 bits, with the seed of Kafka's Java client."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = 0x9747B28C ^ len(data)
    body, tail = divmod(len(data), 4)
    for i in range(body):
        k = int.from_bytes(data[4 * i : 4 * i + 4], "little") * m & mask
        k = (k ^ (k >> 24)) * m & mask
        h = ((h * m) & mask) ^ k
    if tail:
        h = (h ^ int.from_bytes(data[4 * body :], "little")) * m & mask
    h = ((h ^ (h >> 13)) * m) & mask
    return h ^ (h >> 15)
