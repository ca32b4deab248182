"""Whether a reader of a compacted topic may have missed a tombstone, which lives for `delete.retention.ms` and then leaves no trace."""

from collections.abc import Hashable


class Tombstones:
    """How far partitions were read, and when. A reader that may have missed a tombstone knows of what is no more, and must begin anew.

    `stale_after_ms` is half of their life: a log's cleaner counts it from when it first met them, this from when they were written.
    """

    def __init__(self, stale_after_ms: float) -> None:
        self._stale_after_ms = stale_after_ms
        self._read: dict[Hashable, tuple[int, int]] = {}
        """Partition → its next offset, and when that was reached by the reader's clock."""

    def missed(
        self, place: Hashable, first: int, written_ms: int, position: int, wall_ms: float, clock_ms: int
    ) -> bool:
        """Whether one may be missing before or among records just read: the first stands at `first`, they end before `position`.

        Either that one is so old already; or something between it and what was read before is gone, and nothing was read for so long.
        """
        expected, read_ms = self._read.get(place, (first, clock_ms))
        self._read[place] = (position, clock_ms)
        behind = wall_ms - written_ms > self._stale_after_ms
        return behind or (first > expected and clock_ms - read_ms > self._stale_after_ms)
