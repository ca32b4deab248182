"""Columns of the view: what ranking reads of all hosts, one value a row, in the unit of its class."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

AMOUNT_BOUND = 2**62
"""Free amounts and capacities are cut to ± this in the columns: total × ratio passes 64 bits, and no request asks for more than 2^53."""

ROOM_MIN = 1_024
"""Rows at first; doubled whenever they are full."""

COUNTS = 2
"""Lines of the table before those of the classes: builds and instances."""

TABLES = ("free", "unit_min", "unit_max", "unit_step", "capacity")
"""Lines of the table for each class, in their order."""


class Columns:
    """Arrays with a row per host; `free` and `capacity` per class, grown by doubling.

    Amounts and counts are lines of one `table`, so that all that some hosts have is one `take`: builds, instances, then per class those
    of `TABLES`.

    Whole columns are read as arrays; single values through memoryviews of the same memory (`…_at`, and `at` by class: free, least, most and
    step of one allocation, capacity), because an item of a numpy array costs three times that.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.room = ROOM_MIN
        self.classes: list[str] = []
        self.uneven: set[str] = set()  # classes of which some host ever gave no fewer than several, or multiples only
        self.table: Ints = np.zeros((COUNTS, self.room), np.int64)
        self.trait: dict[str, Bools] = {}
        self.log_time_ms: Ints = np.zeros(self.room, np.int64)  # of the newest report
        self.seen_ms: Ints = np.zeros(self.room, np.int64)  # by our own monotonic clock
        self.usable: Bools = np.zeros(self.room, np.bool_)  # enabled, not stale
        self.alive: Bools = np.zeros(self.room, np.bool_)  # reported lately
        self.mine: Bools = np.ones(self.room, np.bool_)  # in this replica's soft shard
        self._look()

    def _look(self) -> None:
        """The lines of the table of now, and memoryviews of all arrays."""
        self.builds: Ints = self.table[0]
        self.instances: Ints = self.table[1]
        lines: list[dict[str, Ints]] = [
            dict(zip(self.classes, self.table[COUNTS + number :: len(TABLES)], strict=True))
            for number in range(len(TABLES))
        ]
        self.free, self.unit_min, self.unit_max, self.unit_step, self.capacity = lines
        self.at = {
            name: (
                self.free[name].data,
                self.unit_min[name].data,
                self.unit_max[name].data,
                self.unit_step[name].data,
                self.capacity[name].data,
            )
            for name in self.free
        }
        self.builds_at, self.instances_at = self.builds.data, self.instances.data
        self.log_time_ms_at, self.seen_ms_at = self.log_time_ms.data, self.seen_ms.data
        self.usable_at, self.alive_at, self.mine_at = self.usable.data, self.alive.data, self.mine.data

    def add_row(self) -> int:
        """Room for one more host."""
        if self.rows == self.room:
            self.room *= 2
            self.table = np.concatenate([self.table, np.zeros_like(self.table)], axis=1)
            for name, column in self.trait.items():
                self.trait[name] = np.concatenate([column, np.zeros_like(column)])
            for name in ("log_time_ms", "seen_ms", "usable", "alive", "mine"):
                column = getattr(self, name)
                setattr(self, name, np.concatenate([column, np.zeros_like(column)]))
            self.mine[self.rows :] = True
            self._look()
        self.rows += 1
        return self.rows - 1

    def line(self, kind: str, name: str) -> int:
        """Number of the table's line with this figure of a class."""
        return COUNTS + len(TABLES) * self.classes.index(name) + TABLES.index(kind)

    def add_class(self, name: str) -> None:
        """Columns for one more resource class, of which every host so far has none."""
        self.classes.append(name)
        self.table = np.concatenate([self.table, np.zeros((len(TABLES), self.room), np.int64)])
        self._look()
