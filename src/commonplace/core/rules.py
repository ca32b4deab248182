"""What a request goes by besides its ask: its flavor, its profile, the aggregates, and the filters that may concern it."""

from collections.abc import Callable, Iterator, Mapping
from math import isfinite
from typing import Any

from commonplace.core.ask import Ask
from commonplace.core.fragments import Mix
from commonplace.core.records import Aggregate, Build, Flavor, Profile
from commonplace.core.rows import Row
from commonplace.core.view import View

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


class Rules:
    """What all requests of one flavor under one profile share. Equal when made of the same records, so that their asks share score rows."""

    __slots__ = ("aggregates", "filters", "flavor", "made_of", "mix", "profile")

    def __init__(
        self,
        flavor: Flavor,
        profile: Profile,
        aggregates: Aggregates,
        filters: "tuple[Filter, ...]",
        serial: int,
        mix: Mix = (),
    ) -> None:
        self.flavor, self.profile, self.aggregates, self.filters = flavor, profile, aggregates, filters
        self.mix = mix  # of flavors, where the profile weighs fragments
        self.made_of = (flavor.name, profile.name, serial)

    def __hash__(self) -> int:
        return hash(self.made_of)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rules) and self.made_of == other.made_of


class Standing:
    """Where the group of a serialised request stands: row → members. `domains` is worked out of it once (request_filters.py)."""

    __slots__ = ("domains", "rows")

    def __init__(self, rows: Mapping[int, int]) -> None:
        self.rows = rows
        self.domains: dict[str, int] | None = None


class Wishes:
    """One request as filters and weighers see it: the request itself, its ask, its rules, and where its group stands.

    Without a standing its group stands where the view shows members, pending claims included.
    """

    __slots__ = ("ask", "build", "rules", "standing")

    def __init__(self, build: Build, ask: Ask, rules: Rules, standing: Standing | None = None) -> None:
        self.build, self.ask, self.rules, self.standing = build, ask, rules, standing

    @property
    def flavor(self) -> Flavor:
        """The flavor's record."""
        return self.rules.flavor

    @property
    def profile(self) -> Profile:
        """The profile's record."""
        return self.rules.profile

    @property
    def aggregates(self) -> Aggregates:
        """The aggregates of `control`."""
        return self.rules.aggregates

    def hint(self, name: str) -> tuple[str, ...]:
        """A hint's values, () where it is not given."""
        return self.build.hints.get(name, ())

    def concerned(self) -> "Iterator[Filter]":
        """The filters that have something to say of this request."""
        return (one for one in self.rules.filters if one.applies(self))

    def allow(self, view: View, row: Row) -> bool:
        """Whether each of them passes a host."""
        return not any(one.plain(view, row, self) for one in self.concerned())


Plain = Callable[[View, Row, Wishes], str]


class Filter:
    """A filter that is asked host by host, and only by requests that it concerns: why the host will not do, or "".

    `lasting` says of a request that a host turned away is turned away for all of its ask, until the host changes.
    """

    __slots__ = ("applies", "lasting", "name", "plain")

    def __init__(
        self,
        name: str,
        plain: Plain,
        applies: Callable[[Wishes], Any],
        lasting: Callable[[Wishes], bool] = lambda wishes: False,
    ) -> None:
        self.name, self.plain, self.applies, self.lasting = name, plain, applies, lasting
