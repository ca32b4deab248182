"""What operators say on `control`: flavors, profiles, aggregates, routing, host status, as the last value under each key."""

import difflib
from collections.abc import Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from commonplace.core.aggregates import Aggregates
from commonplace.core.ask import PROFILES, ask_of
from commonplace.core.codec import Bad, decode
from commonplace.core.filter_table import ON_COLUMNS, TABLE, canonical, filters_of, unknown
from commonplace.core.laying import misuse as cells_misuse
from commonplace.core.mixes import Mix, mix_of
from commonplace.core.names import printable
from commonplace.core.raw_weighers import MULTIPLIER_MAX, RAW
from commonplace.core.records.control import Aggregate, Flavor, HostControl, Profile, Routing
from commonplace.core.records.fields import TRAITS_MAX
from commonplace.core.records.requests import Build
from commonplace.core.request_checks import misuse, special
from commonplace.core.rules import Ask, Rules, Wishes
from commonplace.core.weigher_names import BY_MIX, INCREMENTAL

KEYS: Mapping[str, type] = {"flavor": Flavor, "profile": Profile, "aggregate": Aggregate, "host": HostControl}


NAME_CHARS_MAX = 128
"""Longest name in a key; no record bears a longer one."""

TERMS_MAX = 4_096
"""Combinations of flavor and traits whose terms are kept; past it they are worked out anew."""


ROUTE_GRACE_MS = 60_000
"""How long after a flavor's route changed requests may still come to the old pool: frontends follow `control` within moments."""


Combination = tuple[str, str, tuple[str, ...], tuple[str, ...], bool]
"""Flavor, profile, traits required and forbidden, whether it boots from a volume."""


class Terms(Struct, frozen=True, gc=False):
    """What a flavor and a request's traits come to: an ask of the hosts, or why there can be none.

    `special` is the ask of requests that call for filters of their own; the same as `ask` where all requests of the flavor do.
    `elsewhere` says which other pool serves the flavor now: only requests from before that are placed here.
    """

    ask: Ask
    refusal: str = ""
    special: Ask | None = None
    elsewhere: str = ""


class Catalog:
    """Flavors, profiles, aggregates and routing of one prefix; the hosts' records are handed on."""

    def __init__(self, pool: str) -> None:
        self.pool = pool
        self.flavors: dict[str, Flavor] = {}
        self.profiles: dict[str, Profile] = dict(PROFILES)
        self.routing = Routing()
        self.aggregates = Aggregates()
        self._terms: dict[Combination, Terms] = {}
        self._serial = 0  # of the last change to what rules are made of
        self._said_ms: dict[str, int] = {}  # log time of `routing` and of each flavor's record
        self.unusable: dict[str, str] = {}  # key → why its last record cannot be used

    def fold(self, key: bytes | None, value: bytes | None, log_time_ms: int = 0) -> tuple[str, HostControl | None, str]:
        """Fold one control record; returns the host it speaks of ("" for none), what it says, and why it must be quarantined, or ""."""
        self._terms.clear()
        kind, name = _parse(key)
        if not kind:
            return "", None, f"key {key!r:.80} is none of flavor/NAME, profile/NAME, aggregate/NAME, host/NAME, routing"
        self._serial += kind != "host"
        path = f"{kind}/{name}"
        self.unusable.pop(path, None)
        if kind in ("flavor", "routing"):
            self._said_ms[path] = log_time_ms
        if value is None:
            return self._delete(kind, name)
        record: Any = decode("control", value)
        reason = record.reason if isinstance(record, Bad) else _misfit(kind, name, record)
        if not reason:
            return self._apply(record)
        if kind != "host":  # what operators said of a host before stays said; else a slip would enable it
            self._delete(kind, name)
            self.unusable[path] = reason
        return "", None, "" if isinstance(record, Bad) and record.newer else reason

    def _delete(self, kind: str, name: str) -> tuple[str, HostControl | None, str]:
        if kind == "flavor":
            self.flavors.pop(name, None)
        elif kind == "profile":
            self.profiles.pop(name, None)
            if name in PROFILES:
                self.profiles[name] = PROFILES[name]
        elif kind == "aggregate":
            self.aggregates.put(name, None)
        elif kind == "routing":
            self.routing = Routing()
        return (name if kind == "host" else ""), None, ""

    def _apply(
        self, record: Flavor | Profile | Aggregate | HostControl | Routing
    ) -> tuple[str, HostControl | None, str]:
        match record:
            case Flavor():
                self.flavors[record.name] = record
            case Profile():
                weighers = {canonical(name, "Weigher"): multiplier for name, multiplier in record.weighers.items()}
                self.profiles[record.name] = replace(record, weighers=weighers)
            case Aggregate():
                self.aggregates.put(record.name, record)
            case Routing():
                self.routing = record
            case HostControl():
                return record.name, record, ""
        return "", None, ""

    def pool_of(self, flavor: Flavor) -> str:
        """The pool that serves a flavor."""
        return self.routing.pools.get(flavor.name, flavor.pool)

    def elsewhere(self, build: Build, appended_ms: int) -> str:
        """Why a request appended at this log time is for another pool, or "": what came before the route changed is settled here."""
        why = self.terms(build).elsewhere
        if not why:
            return ""
        changed_ms = max(self._said_ms.get("routing/", 0), self._said_ms.get(f"flavor/{build.flavor}", 0))
        return why if appended_ms > changed_ms + ROUTE_GRACE_MS else ""

    def terms(self, build: Build) -> Terms:
        """What a request comes to under the flavors, profiles and aggregates of now."""
        key = (build.flavor, build.profile, build.traits_required, build.traits_forbidden, build.boot_from_volume)
        terms = self._terms.get(key)
        if terms is None:
            if len(self._terms) >= TERMS_MAX:
                self._terms.clear()
            terms = self._terms[key] = self._work_out(build)
        if terms.special is None or not special(build):
            return terms
        why = misuse(build, self.aggregates)
        return Terms(terms.special, why, elsewhere=terms.elsewhere)

    def _work_out(self, build: Build) -> Terms:
        refusal = self._unusable(build.flavor, build.profile)
        if refusal:
            return Terms(Ask(()), refusal)
        flavor = self.flavors[build.flavor]
        elsewhere = self._served_elsewhere(flavor)
        profile = self.profiles[build.profile or flavor.profile]
        rules = Rules(flavor, profile, self.aggregates, filters_of(profile.filters), self._serial, self._mix(profile))
        ask = ask_of(flavor, build, profile, rules)
        both = set(build.traits_required) & set(build.traits_forbidden)
        if both:
            return Terms(ask, f"trait {min(both)} is both required and forbidden: drop one of the two")
        if max(len(ask.traits_required), len(ask.traits_forbidden)) > TRAITS_MAX:
            return Terms(ask, f"more than {TRAITS_MAX} traits, the flavor's included: a claim carries no more")
        return Terms(ask if _all_special(build, ask, rules) else ask_of(flavor, build, profile), "", ask, elsewhere)

    def _mix(self, profile: Profile) -> Mix:
        """The pool's flavors as a profile mixes them, where it weighs by them."""
        if not BY_MIX.intersection(profile.weighers):
            return ()
        return mix_of(profile, [one for one in self.flavors.values() if self.pool_of(one) == self.pool])

    def refusal(self, flavor_name: str, profile_name: str = "") -> str:
        """Why no request for this flavor (under this profile, "": its own) can be served here: what, and what to do; "" when one can."""
        flavor = self.flavors.get(flavor_name)
        return (self._served_elsewhere(flavor) if flavor else "") or self._unusable(flavor_name, profile_name)

    def _served_elsewhere(self, flavor: Flavor) -> str:
        pool = self.pool_of(flavor)
        if pool == self.pool:
            return ""
        return f"flavor {flavor.name!r} is served by pool {pool!r}, not {self.pool!r}: submit it there"

    def _unusable(self, flavor_name: str, profile_name: str) -> str:
        flavor = self.flavors.get(flavor_name)
        if flavor is None:
            newer = self.unusable.get(f"flavor/{flavor_name}")
            if newer:
                return f"flavor {flavor_name!r} cannot be used ({newer}): set it again, or upgrade the schedulers"
            near = difflib.get_close_matches(flavor_name, self.flavors, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "see `commonplace flavor list`"
            return f"unknown flavor {flavor_name!r}: {hint}"
        name = profile_name or flavor.profile
        unusable = self.unusable.get(f"profile/{name}")
        if unusable:
            return f"profile {name!r} cannot be used ({unusable}): set it again, or upgrade the schedulers"
        if name in self.profiles:
            return ""
        near = difflib.get_close_matches(name, self.profiles, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "see `commonplace profile list`"
        if profile_name:
            return f"unknown profile {name!r}: {hint}"
        return f"flavor {flavor_name!r} names profile {name!r}, which is not known: set it, or change the flavor"


def _all_special(build: Build, ask: Ask, rules: Rules) -> bool:
    """Whether even the plainest request of a flavor calls for more than its ask."""
    profile = rules.profile
    if profile.scale == "relative" or profile.subset_size > 1:
        return True
    plain = Wishes(Build(id=build.id, flavor=build.flavor), ask, rules)
    return any(one.applies(plain) for one in rules.filters) or any(
        RAW[name].concerns(plain) for name in profile.weighers if name in BY_MIX or name not in INCREMENTAL
    )


def _misfit(kind: str, name: str, record: Flavor | Profile | Aggregate | HostControl | Routing) -> str:
    """Why a control record cannot stand under this key, or ""."""
    named = getattr(record, "name", "")
    if not isinstance(record, KEYS.get(kind, Routing)) or named != name:
        return f"key is {kind}/{name}, record is a {type(record).__name__.lower()} of {named!r}"
    if isinstance(record, Flavor) and (why := cells_misuse(record)):
        return f"flavor {record.name}: {why}"
    return _profile_misfit(record) if isinstance(record, Profile) else ""


def _profile_misfit(profile: Profile) -> str:
    why = unknown(profile.weighers, RAW, "Weigher", "weigher") or unknown(
        profile.filters, {*TABLE, *ON_COLUMNS}, "Filter", "filter"
    )
    if why:
        return f"profile {profile.name} {why}"
    for weigher, multiplier in profile.weighers.items():
        if not abs(multiplier) <= MULTIPLIER_MAX:
            return f"profile {profile.name} multiplies {weigher} by {multiplier}; at most ±{MULTIPLIER_MAX:.0f}"
    return ""


def _parse(key: bytes | None) -> tuple[str, str]:
    text = (key or b"").decode("utf-8", errors="replace")
    if text == "routing":
        return "routing", ""
    kind, _, name = text.partition("/")
    return (kind, name) if kind in KEYS and 0 < len(name) <= NAME_CHARS_MAX and printable(name) else ("", "")
