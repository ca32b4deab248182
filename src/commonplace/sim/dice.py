"""Chances of a seed: the same numbers in every version of Python, in the order in which they are asked for."""

from collections.abc import Sequence
from random import Random
from typing import TypeVar

T = TypeVar("T")


class Dice:
    """Chances of one seed. Only `random()` is used: its numbers are the same in every version of Python."""

    def __init__(self, seed: int, salt: str) -> None:
        self._random = Random(f"{salt} {seed}").random

    def below(self, n: int) -> int:
        """0 ≤ x < n."""
        return int(self._random() * n)

    def between(self, low: int, high: int) -> int:
        """low ≤ x ≤ high."""
        return low + int(self._random() * (high - low + 1))

    def scale(self, low: int, high: int) -> int:
        """low ≤ x ≤ high, each order of magnitude alike."""
        return int(low * (high / low) ** self._random())

    def of(self, choices: Sequence[T]) -> T:
        """One of them."""
        return choices[int(self._random() * len(choices))]

    def chance(self, thousandths: int) -> bool:
        """True so often."""
        return self._random() * 1_000 < thousandths
