"""What a cumulative delta upserts, decoded as far as the delta before it did not say the same."""

from collections.abc import Mapping
from typing import Final

from commonplace.core.codec import Bad, decode_allocation
from commonplace.core.records.fields import ALLOCATIONS_MAX
from commonplace.core.records.hosts import Allocation, HostDelta
from commonplace.core.report_checks import check_names


class Upserts:
    """What a delta upserts: `told` all by the digest of their bytes, `new` what the delta before did not say, `named` their ids."""

    __slots__ = ("named", "new", "told")

    def __init__(self, new: list[Allocation], told: dict[int, Allocation], named: set[str]) -> None:
        self.new, self.told, self.named = new, told, named


_NO_UPSERTS: Final = Upserts([], {}, set())


def upserts_of(known: Mapping[int, Allocation], record: HostDelta) -> Upserts | Bad:
    """Decode what a delta upserts, as far as the delta before it did not say the same: most of a cumulative delta is repetition.

    Bytes are compared by their 64-bit SipHash, whose key each process draws for itself.
    """
    if not record.upserts:
        return _NO_UPSERTS
    told: dict[int, Allocation] = {}
    new: list[Allocation] = []
    new_bytes: list[bytes] = []
    for raw in record.upserts:
        content = bytes(raw)
        mark = hash(content)
        allocation = known.get(mark)
        if allocation is None:
            decoded = decode_allocation(content)
            if not isinstance(decoded, Allocation):
                return decoded
            allocation = decoded
            new.append(allocation)
            new_bytes.append(content)
        told[mark] = allocation
    named = {a.id for a in told.values()}
    if new:
        reason = check_names(new, b"".join(new_bytes))
        if reason:
            return Bad(reason)
    if len(named) < len(record.upserts) or (record.removed and not named.isdisjoint(record.removed)):
        # an id named twice: what counts is the order, so nothing of it may be passed over, now or next time
        everything = [told[hash(bytes(raw))] for raw in record.upserts]
        return Upserts(everything, _unmarked(told, record.generation), named)
    return Upserts(new, told, named)


def _unmarked(told: dict[int, Allocation], generation: int) -> dict[int, Allocation]:
    """The same under digests that no bytes have, in this delta or another."""
    return {-(2**64) - generation * ALLOCATIONS_MAX - i: allocation for i, allocation in enumerate(told.values())}
