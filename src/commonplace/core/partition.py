"""Which partition a name belongs to: Kafka's own default partitioner, as a pure function.

The partition of a host is computed from its name alone and passed explicitly on `hosts` and `claims`, so that all
keys of a host share one ordered partition. The function is the one of Kafka's Java client (murmur2, seed 0x9747b28c,
sign bit cleared), so that any client with that partitioner, kcat among them (`-X partitioner=murmur2`), agrees.
"""

import struct
from typing import Final

_SEED: Final = 0x9747B28C
_MULTIPLIER: Final = 0x5BD1E995
_ROTATION: Final = 24
_MASK_32: Final = 0xFFFFFFFF
_POSITIVE: Final = 0x7FFFFFFF
_words: Final = struct.Struct("<I").iter_unpack


def partition_of(name: bytes | str, partitions: int) -> int:
    """The partition, 0 ≤ p < `partitions`, of a key; text is hashed as UTF-8."""
    assert partitions > 0, f"a topic has at least one partition, not {partitions}"
    data = name.encode() if isinstance(name, str) else name
    return (murmur2(data) & _POSITIVE) % partitions


def murmur2(data: bytes) -> int:
    """32-bit murmur2 of `data` as an unsigned integer, as in Kafka's `Utils.murmur2`."""
    length = len(data)
    whole = length & ~3
    h = _SEED ^ length
    for (word,) in _words(data[:whole]):
        k = word * _MULTIPLIER & _MASK_32
        h = (h * _MULTIPLIER ^ (k ^ k >> _ROTATION) * _MULTIPLIER) & _MASK_32
    if whole < length:
        h = (h ^ int.from_bytes(data[whole:], "little")) * _MULTIPLIER & _MASK_32
    h ^= h >> 13
    h = h * _MULTIPLIER & _MASK_32
    return h ^ h >> 15
