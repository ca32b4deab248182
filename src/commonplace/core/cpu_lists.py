"""Lists of cpus as people and kernels write them: `0-3,8`."""

from collections.abc import Iterable
from functools import lru_cache

CPUS_MAX = 4096
"""Cpus are numbered below it: four times what the largest hosts of today have."""

Cpus = frozenset[int]


@lru_cache(maxsize=8192)
def parse(text: str) -> Cpus:
    """The cpus of a list as in `0-3,8`, "" for none; ValueError for anything else."""
    found: set[int] = set()
    for part in text.split(",") if text else ():
        first, dash, last = part.partition("-")
        if not (first.isascii() and first.isdigit() and (not dash or (last.isascii() and last.isdigit()))):
            raise ValueError(f"cpu list {text!r:.80}: {part!r:.20} is neither a cpu nor a range as in 0-3")
        low, high = int(first[:6]), int((last or first)[:6])
        if not low <= high < CPUS_MAX:
            raise ValueError(f"cpu list {text!r:.80}: {part!r:.20} is no range within 0-{CPUS_MAX - 1}")
        found.update(range(low, high + 1))
    return frozenset(found)


def text_of(cpus: Iterable[int]) -> str:
    """The shortest list that `parse` reads as these cpus."""
    parts: list[str] = []
    ordered = sorted(cpus)
    start = 0
    for at in range(1, len(ordered) + 1):
        if at == len(ordered) or ordered[at] != ordered[at - 1] + 1:
            first, last = ordered[start], ordered[at - 1]
            parts.append(str(first) if first == last else f"{first}-{last}")
            start = at
    return ",".join(parts)
