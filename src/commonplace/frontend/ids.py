"""Request ids that one client makes for itself, and which of them it has submitted: of the others no decision can stand."""

import os
from itertools import count
from typing import Final

BEYOND_MAX: Final = 10_000
"""Numbers remembered past the first gap, some 1 MB: ids are mostly submitted in the order in which they were made."""


class Ids:
    """Numbered ids under a prefix that nobody else has. `new` may be called from any thread, `use` from one at a time.

    Forgets towards safety: an id of long ago that was never submitted passes for submitted.
    """

    def __init__(self) -> None:
        self._prefix = f"r-{os.urandom(5).hex()}-"
        self._numbers = count(1)
        self._through = 0  # up to here all count as submitted
        self._beyond: set[int] = set()

    def new(self) -> str:
        """An id that nobody has used."""
        return f"{self._prefix}{next(self._numbers):x}"

    def number(self, request: str) -> int:
        """Which of ours an id is, 0 for none."""
        if not request.startswith(self._prefix):
            return 0
        try:
            number = int(request.removeprefix(self._prefix), 16)
        except ValueError:
            return 0
        return number if request == f"{self._prefix}{number:x}" else 0

    def unused(self, number: int) -> bool:
        """Whether the id of this `number` was made here and not submitted since."""
        return number > self._through and number not in self._beyond

    def use(self, number: int) -> None:
        """The id of this `number` is submitted now; ids of others are none of ours."""
        if number <= self._through:
            return
        self._beyond.add(number)
        if len(self._beyond) > BEYOND_MAX:
            self._through = sorted(self._beyond)[BEYOND_MAX // 2]
            self._beyond = {one for one in self._beyond if one > self._through}
        while self._through + 1 in self._beyond:
            self._through += 1
            self._beyond.remove(self._through)
