"""Fleets as records for tests of filters and weighers: hosts report, and a view folds what they said."""

from collections.abc import Mapping, Sequence
from typing import Any

from commonplace.core import hashing
from commonplace.core.aggregates import Aggregates
from commonplace.core.ask import PROFILES, ask_of
from commonplace.core.codec import encode
from commonplace.core.filter_table import filters_of
from commonplace.core.host_keys import snapshot_key, start_key
from commonplace.core.mixes import mix_of
from commonplace.core.records.control import Aggregate, Flavor, Profile
from commonplace.core.records.hosts import Allocation, Snapshot, Start
from commonplace.core.records.requests import Build
from commonplace.core.resources import Inventory
from commonplace.core.rows import Row
from commonplace.core.rules import Rules, Wishes
from commonplace.core.view import View

NOW_MS = 1_000_000


class Fleet:
    """Hosts of one view, on one partition."""

    def __init__(self) -> None:
        self.view = View(1)
        self._offset = 0

    def host(
        self,
        name: str,
        inventory: Mapping[str, Inventory] | None = None,
        allocations: Sequence[Allocation] = (),
        at_ms: int = NOW_MS,
        **said: Any,
    ) -> Row:
        """Let a host start and report; returns its row."""
        epoch, inventory = self._offset, dict(inventory or {})
        self._fold(start_key(name), Start(host=name), at_ms)
        part = hashing.host_part(
            inventory,
            said.get("traits", ()),
            said.get("labels", {}),
            said.get("status", "enabled"),
            said.get("cells", {}),
        )
        total = (part + sum(hashing.allocation_hash(one) for one in allocations)) & hashing.MASK
        snapshot = Snapshot(
            host=name,
            epoch=epoch,
            generation=1,
            claims_topic="t",
            claims_through=-1,
            hash=hashing.to_hex(total),
            inventory=inventory,
            allocations=list(allocations),
            **said,
        )
        self._fold(snapshot_key(name, epoch), snapshot, at_ms)
        row = self.view.rows[name]
        assert not row.host.stale, row.host.stale
        return row

    def _fold(self, key: bytes, record: Start | Snapshot, at_ms: int) -> None:
        _, reason = self.view.fold(0, self._offset, at_ms, key, encode(record), at_ms)
        assert not reason, reason
        self._offset += 1


def wishes(
    build: Build | None = None,
    flavor: Flavor | None = None,
    profile: Profile | None = None,
    aggregates: Sequence[Aggregate] = (),
) -> Wishes:
    """A request as filters see it."""
    flavor = flavor or Flavor(name="m1", resources={"VCPU": 1})
    build = build or Build(id="r-1", flavor=flavor.name)
    known = Aggregates()
    for one in aggregates:
        known.put(one.name, one)
    profile = profile or PROFILES["default"]
    mix = mix_of(profile, [flavor]) if "fgd" in profile.weighers else ()
    rules = Rules(flavor, profile, known, filters_of(profile.filters), 0, mix)
    return Wishes(build, ask_of(flavor, build, profile, rules), rules)
