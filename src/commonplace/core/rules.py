"""What a request goes by: its ask, which equal requests share; the rules of its flavor and profile; the filters that may concern it."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from msgspec import Struct

from commonplace.core.aggregates import Aggregates
from commonplace.core.mixes import Mix
from commonplace.core.records.control import Flavor, Profile
from commonplace.core.records.requests import Build
from commonplace.core.rows import Row
from commonplace.core.view import View


class Ask(Struct, frozen=True, gc=False):
    """Everything a filter or a weigher may look at, hashable: equal asks share one score row. The group is not part of the row.

    `weighers` are those whose scores a row keeps up to date; `rules` is None for requests that call for nothing beyond what stands here.
    """

    resources: tuple[tuple[str, int], ...]
    traits_required: tuple[str, ...] = ()
    traits_forbidden: tuple[str, ...] = ()
    weighers: tuple[tuple[str, float], ...] = ()
    builds_max: int = 0
    instances_max: int = 0
    rules: "Rules | None" = None


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
