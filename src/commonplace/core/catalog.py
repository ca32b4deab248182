"""What operators say on `control`: flavors, profiles, routing, host status, as the last value under each key."""

import difflib
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from commonplace.core.ask import PROFILES, Ask, ask_of
from commonplace.core.records import TRAITS_MAX, Bad, Build, Flavor, HostControl, Profile, Routing, decode, printable
from commonplace.core.weighers import WEIGHERS

MULTIPLIER_MAX = 1e9
"""Largest multiplier of a weigher: sums of such stay far from infinity, which would rank a host as filtered."""

KEYS: Mapping[str, type] = {"flavor": Flavor, "profile": Profile, "host": HostControl}


NAME_CHARS_MAX = 128
"""Longest name in a key; no record bears a longer one."""

TERMS_MAX = 4_096
"""Combinations of flavor and traits whose terms are kept; past it they are worked out anew."""


class Terms(Struct, frozen=True, gc=False):
    """What a flavor and a request's traits come to: an ask of the hosts, or why there can be none."""

    ask: Ask
    refusal: str = ""


class Catalog:
    """Flavors, profiles and routing of one prefix; the hosts' records are handed on."""

    def __init__(self, pool: str) -> None:
        self.pool = pool
        self.flavors: dict[str, Flavor] = {}
        self.profiles: dict[str, Profile] = dict(PROFILES)
        self.routing = Routing()
        self._terms: dict[tuple[str, tuple[str, ...], tuple[str, ...]], Terms] = {}
        self.unusable: dict[str, str] = {}  # key → why its last record cannot be used

    def fold(self, key: bytes | None, value: bytes | None) -> tuple[str, HostControl | None, str]:
        """Fold one control record; returns the host it speaks of ("" for none), what it says, and why it must be quarantined, or ""."""
        self._terms.clear()
        kind, name = _parse(key)
        if not kind:
            return "", None, f"key {key!r:.80} is none of flavor/NAME, profile/NAME, host/NAME, routing"
        path = f"{kind}/{name}"
        self.unusable.pop(path, None)
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
        elif kind == "routing":
            self.routing = Routing()
        return (name if kind == "host" else ""), None, ""

    def _apply(self, record: Flavor | Profile | HostControl | Routing) -> tuple[str, HostControl | None, str]:
        match record:
            case Flavor():
                self.flavors[record.name] = record
            case Profile():
                self.profiles[record.name] = record
            case Routing():
                self.routing = record
            case HostControl():
                return record.name, record, ""
        return "", None, ""

    def pool_of(self, flavor: Flavor) -> str:
        """The pool that serves a flavor."""
        return self.routing.pools.get(flavor.name, flavor.pool)

    def terms(self, build: Build) -> Terms:
        """What a request comes to under the flavors and profiles of now."""
        key = (build.flavor, build.traits_required, build.traits_forbidden)
        terms = self._terms.get(key)
        if terms is None:
            if len(self._terms) >= TERMS_MAX:
                self._terms.clear()
            terms = self._terms[key] = self._work_out(build)
        return terms

    def _work_out(self, build: Build) -> Terms:
        refusal = self.refusal(build.flavor)
        if refusal:
            return Terms(Ask(()), refusal)
        flavor = self.flavors[build.flavor]
        ask = ask_of(flavor, build, self.profiles[flavor.profile])
        both = set(build.traits_required) & set(build.traits_forbidden)
        if both:
            return Terms(ask, f"trait {min(both)} is both required and forbidden: drop one of the two")
        if max(len(ask.traits_required), len(ask.traits_forbidden)) > TRAITS_MAX:
            return Terms(ask, f"more than {TRAITS_MAX} traits, the flavor's included: a claim carries no more")
        return Terms(ask)

    def refusal(self, flavor_name: str) -> str:
        """Why no request for this flavor can be served here: what, and what to do; "" when one can."""
        flavor = self.flavors.get(flavor_name)
        if flavor is None:
            newer = self.unusable.get(f"flavor/{flavor_name}")
            if newer:
                return f"flavor {flavor_name!r} cannot be used ({newer}): set it again, or upgrade the schedulers"
            near = difflib.get_close_matches(flavor_name, self.flavors, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "see `commonplace flavor list`"
            return f"unknown flavor {flavor_name!r}: {hint}"
        if self.pool_of(flavor) != self.pool:
            return (
                f"flavor {flavor_name!r} is served by pool {self.pool_of(flavor)!r}, not {self.pool!r}: submit it there"
            )
        unusable = self.unusable.get(f"profile/{flavor.profile}")
        if unusable:
            return f"profile {flavor.profile!r} cannot be used ({unusable}): set it again, or upgrade the schedulers"
        if flavor.profile not in self.profiles:
            return f"flavor {flavor_name!r} names profile {flavor.profile!r}, which is not known: set it, or change the flavor"
        return ""


def _misfit(kind: str, name: str, record: Flavor | Profile | HostControl | Routing) -> str:
    """Why a control record cannot stand under this key, or ""."""
    named = getattr(record, "name", "")
    if not isinstance(record, KEYS.get(kind, Routing)) or named != name:
        return f"key is {kind}/{name}, record is a {type(record).__name__.lower()} of {named!r}"
    if isinstance(record, Profile):
        for weigher, multiplier in record.weighers.items():
            if weigher not in WEIGHERS:
                return f"profile {name} names weigher {weigher!r}; known are {', '.join(WEIGHERS)}"
            if not abs(multiplier) <= MULTIPLIER_MAX:
                return f"profile {name} multiplies {weigher} by {multiplier}; at most ±{MULTIPLIER_MAX:.0f}"
    return ""


def _parse(key: bytes | None) -> tuple[str, str]:
    text = (key or b"").decode("utf-8", errors="replace")
    if text == "routing":
        return "routing", ""
    kind, _, name = text.partition("/")
    return (kind, name) if kind in KEYS and 0 < len(name) <= NAME_CHARS_MAX and printable(name) else ("", "")
