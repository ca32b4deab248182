"""What of the broker nobody reaches, and until when: all of it, a partition, or, with its disk full, nobody's writes."""


class Outages:
    """Times in the world's ms. `some`: there was an outage, which perhaps goes on; else nothing need be asked."""

    __slots__ = ("_broker_ms", "_partitions", "full_ms", "some")

    def __init__(self) -> None:
        self._partitions: dict[tuple[str, int], int] = {}
        self.end()

    def end(self) -> None:
        """Everything is to be reached again."""
        self.some = False
        self._broker_ms = self.full_ms = 0
        self._partitions.clear()

    def down_until(self, topic: str, partition: int) -> int:
        """When a partition is to be reached again."""
        return max(self._broker_ms, self._partitions.get((topic, partition), 0)) if self.some else 0

    def unwritable_until(self, topic: str, partition: int) -> int:
        """When a record is to be taken again there."""
        return max(self.down_until(topic, partition), self.full_ms) if self.some else 0

    def disk_full(self, until_ms: int) -> None:
        """Nobody can write before then, everybody reads."""
        self.some = True
        self.full_ms = max(self.full_ms, until_ms)

    def broker_down(self, until_ms: int) -> None:
        """Nobody reaches the broker before then."""
        self.some = True
        self._broker_ms = max(self._broker_ms, until_ms)

    def partition_down(self, topic: str, partition: int, until_ms: int) -> None:
        """Nobody reaches that partition before then."""
        self.some = True
        self._partitions[topic, partition] = max(self._partitions.get((topic, partition), 0), until_ms)
