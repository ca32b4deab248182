"""Which pool serves a flavor, as `control` says, and what a request may not span. Pure: records in, words out."""

from collections.abc import Iterable, Mapping

from commonplace.core.codec import decode
from commonplace.core.records.control import Flavor, Routing
from commonplace.frontend.checks import shown
from commonplace.frontend.events import Rows
from commonplace.words import counted


class Routes:
    """Flavors and their routes, folded from `control`; a record that cannot be used is counted, and the last good one stays."""

    def __init__(self) -> None:
        self.flavors: dict[str, Flavor] = {}
        self.routing = Routing()
        self.bad = 0
        self._said_ms: dict[str, int] = {}  # log time of `routing` and of each flavor's record

    def fold(self, rows: Rows) -> None:
        """Take records of `control` in log order; those of other kinds are passed over."""
        for _, at_ms, key, value in rows:
            self._record((key or b"").decode(errors="replace"), value, at_ms)

    def _record(self, key: str, value: bytes | None, at_ms: int) -> None:
        kind, _, name = key.partition("/")
        if kind not in ("flavor", "routing"):
            return
        self._said_ms[key] = at_ms
        record = decode("control", value) if value is not None else None
        if kind == "routing" and record is None:
            self.routing = Routing()
        elif kind == "routing" and isinstance(record, Routing):
            self.routing = record
        elif kind == "flavor" and record is None:
            self.flavors.pop(name, None)
        elif kind == "flavor" and isinstance(record, Flavor) and record.name == name:
            self.flavors[name] = record
        else:  # replicas read the same record, quarantine it and keep the last good one, as we do
            self.bad += 1

    def pool_of(self, flavor: str) -> str:
        """The pool that serves a flavor now; "" for one that is not known."""
        known = self.flavors.get(flavor)
        return self.routing.pools.get(flavor, known.pool) if known else ""

    def before(self, flavor: str, since_ms: int = 0) -> tuple[str, ...]:
        """Other pools in which a request submitted earlier may stand; none where the flavor's route is older than `since_ms`."""
        known = self.flavors.get(flavor)
        if max(self._said_ms.get("routing", 0), self._said_ms.get(f"flavor/{flavor}", 0)) < since_ms:
            return ()
        past = (*self.routing.before.get(flavor, ()), *([known.pool] if known else []))
        return tuple(dict.fromkeys(pool for pool in past if pool != self.pool_of(flavor)))


def rerouted(routing: Routing, flavors: Mapping[str, Flavor], names: Iterable[str], pool: str) -> Routing:
    """The routing with some flavors sent to a pool ("": to that of their own records), remembering where they were."""
    pools, before = dict(routing.pools), dict(routing.before)
    for name in names:
        home = flavors[name].pool if name in flavors else ""
        old, new = pools.pop(name, home), pool or home
        if new != home:
            pools[name] = new
        if old and old != new:
            past = dict.fromkeys((old, *before.get(name, ())))
            before[name] = tuple(one for one in past if one != new)[:PAST_MAX]
    return Routing(pools=pools, before=before)


PAST_MAX = 4
"""Pools remembered for each flavor: more changes of route than anybody makes within the idempotency window."""


def spans(request: str, flavor: str, group: str, pool: str, elsewhere: Mapping[str, int]) -> str:
    """Why a request may not join its group, "" when it may; `elsewhere` counts the group's members in other pools.

    No replica sees the hosts of two pools, so nobody could keep the policy of such a group.
    """
    found = sorted((other, count) for other, count in elsewhere.items() if count and other != pool)
    if not found:
        return ""
    other, count = found[0]
    return (
        f"request {shown(request)}: group {shown(group)} has {counted(count, 'member')} in pool {other}, and flavor {flavor} "
        f"is placed by pool {pool}: a group lives in one pool; ask for a flavor of pool {other}, or name another group"
    )
