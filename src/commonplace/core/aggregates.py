"""Aggregates: hosts that operators group, by name or by labels, with metadata and zones for filters to go by."""

from math import isfinite

from commonplace.core.records.control import Aggregate
from commonplace.core.rows import Row

ZONE_DEFAULT = "default"
"""Zone of a host that neither an aggregate nor its label `zone` places in another."""


class Aggregates:
    """The aggregates of `control`, found by host. Changed by `put` alone."""

    def __init__(self) -> None:
        self.by_name: dict[str, Aggregate] = {}
        self.keys: set[str] = set()  # of the metadata of any of them: filters that go by none of these concern nobody
        self.zones: set[str] = set()
        self._listed: dict[str, list[Aggregate]] = {}
        self._labelled: list[Aggregate] = []

    def put(self, name: str, aggregate: Aggregate | None) -> None:
        """Set an aggregate, or delete it (None)."""
        if aggregate is None:
            self.by_name.pop(name, None)
        else:
            self.by_name[name] = aggregate
        self.keys = {key for one in self.by_name.values() for key in one.metadata}
        self.zones = {one.zone for one in self.by_name.values() if one.zone}
        self._labelled = [one for one in self.by_name.values() if one.labels]
        self._listed = {}
        for one in self.by_name.values():
            for host in one.hosts:
                self._listed.setdefault(host, []).append(one)

    def of(self, row: Row) -> list[Aggregate]:
        """The aggregates that a host is in."""
        listed = self._listed.get(row.host.name, [])
        if not self._labelled:
            return listed
        labels = row.host.labels.items()
        return listed + [one for one in self._labelled if one not in listed and one.labels.items() <= labels]

    def metadata(self, row: Row) -> dict[str, set[str]]:
        """Every key of the metadata of a host's aggregates, with all its values."""
        values: dict[str, set[str]] = {}
        for one in self.of(row):
            for key, text in one.metadata.items():
                values.setdefault(key, set()).update(part.strip() for part in text.split(","))
        return values

    def values(self, row: Row, key: str) -> list[str]:
        """What a host's aggregates say under a key, each as it stands."""
        return [one.metadata[key] for one in self.of(row) if key in one.metadata]

    def least(self, row: Row, key: str) -> float | None:
        """The smallest number that a host's aggregates say under a key; None where none does, or one says no finite number."""
        try:
            numbers = [float(text) for text in self.values(row, key)]
        except ValueError:
            return None
        return min(numbers) if numbers and all(map(isfinite, numbers)) else None

    def zone(self, row: Row) -> str:
        """The availability zone of a host."""
        named = next((one.zone for one in self.of(row) if one.zone), "")
        return named or row.host.labels.get("zone", "") or ZONE_DEFAULT


NO_AGGREGATES = Aggregates()
"""What a request of tests and tools goes by that know of none; nobody puts any into it."""
