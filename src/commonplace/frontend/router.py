"""One client for all pools of a prefix: each request goes to the pool that serves its flavor, each answer comes from there.

submit ──▶ flavor ──routing on control──▶ pool ──▶ that pool's Frontend ──▶ its topics
             └── an id submitted before the route changed ──▶ the pool where it stands
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Self

from commonplace.clock import wall_s
from commonplace.core.records.decisions import Decision
from commonplace.core.records.requests import Build
from commonplace.core.traceparent import misfit
from commonplace.errors import CommonplaceError, TimedOut, UsageError
from commonplace.frontend import checks
from commonplace.frontend.answered import KEPT_MAX
from commonplace.frontend.client import Frontend
from commonplace.frontend.following import CLOCK_SLACK_MS
from commonplace.frontend.ids import Ids
from commonplace.frontend.lookup import Entry, Reader
from commonplace.frontend.members import Groups
from commonplace.frontend.moving import Moved, Source, move
from commonplace.frontend.pending import Pending
from commonplace.frontend.routes import Routes
from commonplace.frontend.settling import Outcome
from commonplace.kafka import client as kafka_client
from commonplace.kafka.tail import Lost, Tail
from commonplace.kafka.topics import Topics, pools, require_topics
from commonplace.settings import Settings

STALL_TIMEOUT_S: Final = 15.0
"""Reading `control` without an end: it is short, so this is a broker's fail-over."""

KNOWN_WAIT_S: Final = 5.0
"""How long a pool's client may take to read of a flavor that `control` holds: it follows it within moments."""


class Router:
    """Submits requests to the pools of their flavors; thread-safe, to be closed. `settings.topics.pool` says nothing here.

    A client of a pool is opened when it is first needed. A call for a pool that decides nothing blocks once
    frontend.in_flight_max are open there; calls for other pools go on, so give each pool a thread of its own or look at `full`.
    """

    def __init__(self, settings: Settings) -> None:
        broker, _, _ = require_topics(settings, ("control",))
        self._settings = kafka_client.settings_for(settings, broker)
        self._by_time = not broker.embedded
        self._routes = Routes()
        self._lock = threading.RLock()  # routes, groups, what stands where
        self._opening = threading.Lock()
        self._frontends: dict[str, Frontend] = {}
        self._placed_in: OrderedDict[str, str] = OrderedDict()  # request → pool, the newest KEPT_MAX
        self._groups = Groups(self._settings)
        self._ids = Ids()
        self._control = Topics(settings.topics.prefix, settings.topics.pool).control
        self._tail = Tail(self._settings)
        self._begin_control()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the clients of all pools; closing twice is nothing."""
        with self._opening:
            for frontend in self._frontends.values():
                frontend.close()
        with self._lock:
            self._groups.close()
            self._tail.close()

    # --- what callers do ---

    def new_id(self) -> str:
        """A request id that nobody has used."""
        return self._ids.new()

    def request(self, flavor: str, *, id: str | None = None, **fields: Any) -> Build:
        """A request for `flavor`, with a new id unless one is named; as `Frontend.request`."""
        if id == "":
            raise UsageError("the request id is empty: write 1 to 128 characters, or leave it out and one is made")
        return Build(id=id or self.new_id(), flavor=flavor, **fields)

    def pool_of(self, flavor: str) -> str:
        """The pool that serves a flavor now; raises `UsageError` for one that is not known."""
        with self._lock:
            return self._pool_of(flavor)

    def frontend(self, pool: str) -> Frontend:
        """The client of a pool, opened when it is first asked for; raises what `Frontend` does."""
        with self._opening:
            known = self._frontends.get(pool)
            if known is None:
                known = self._frontends[pool] = Frontend(self.settings_of(pool))
            return known

    def full(self, flavor: str) -> bool:
        """Whether another submit of this flavor would block for room in its pool."""
        return self.frontend(self.pool_of(flavor)).full

    def place(
        self, flavor: str, *, id: str | None = None, timeout: float | None = None, traceparent: str = "", **fields: Any
    ) -> Decision:
        """Submit and block until the effective decision; as `Frontend.place`."""
        return self.submit(self.request(flavor, id=id, **fields), timeout=timeout, traceparent=traceparent).result()

    def submit(
        self, build: Build, *, timeout: float | None = None, fresh: bool = False, traceparent: str = ""
    ) -> Pending:
        """Submit one request; see `submit_many`."""
        return self.submit_many((build,), timeout=timeout, fresh=fresh, traceparent=traceparent)[0]

    def submit_many(
        self, builds: Sequence[Build], *, timeout: float | None = None, fresh: bool = False, traceparent: str = ""
    ) -> list[Pending]:
        """Submit requests, each to its pool; what is refused is a Pending that raises. Arguments as for `Frontend`.

        Refused are an unknown flavor and a group with members in another pool. An id that may have been submitted before the
        flavor's route changed, within the idempotency window, is looked for in the pools before: it is settled where it stands.
        """
        if traceparent and (wrong := misfit(traceparent)):
            raise UsageError(wrong)
        refused: dict[int, Pending] = {}
        wanted: dict[tuple[str, bool], list[int]] = {}
        for at, build in enumerate(builds):
            new = fresh or self._ids.unused(self._ids.number(build.id))
            try:
                wanted.setdefault((self._admit(build, new), new), []).append(at)
            except CommonplaceError as error:
                refused[at] = Pending(build, -1)
                refused[at].resolve(error)
        answers = refused
        for (pool, new), places in wanted.items():
            chosen = [builds[at] for at in places]
            answers |= dict(zip(places, self._submit(pool, chosen, timeout, new, traceparent), strict=True))
        return [answers[at] for at in range(len(builds))]

    def confirm(
        self, decision: Decision, *allocations: str, wait: bool = False, timeout: float | None = None, pool: str = ""
    ) -> list[Outcome]:
        """As `Frontend.confirm`, in the pool that decided; `pool` names it where this router did not submit the request."""
        there = self.frontend(pool or self.decided_in(decision))
        return there.confirm(decision, *allocations, wait=wait, timeout=timeout)

    def release(
        self, decision: Decision, *allocations: str, wait: bool = False, timeout: float | None = None, pool: str = ""
    ) -> list[Outcome]:
        """As `Frontend.release`; `pool` as for `confirm`."""
        there = self.frontend(pool or self.decided_in(decision))
        return there.release(decision, *allocations, wait=wait, timeout=timeout)

    def cancel(
        self, request: str, flavor: str = "", group: str = "", pool: str = "", *,
        wait: bool = False, timeout: float | None = None,
    ) -> None:  # fmt: skip
        """As `Frontend.cancel`; the pool is the one where this router submitted the request, else its flavor's or `pool`."""
        with self._lock:
            there = pool or self._placed_in.get(request) or (self._pool_of(flavor) if flavor else "")
        if not there:
            raise UsageError(f"request {checks.shown(request)} is not known here: name its flavor, or its pool")
        self.frontend(there).cancel(request, flavor, group, wait=wait, timeout=timeout)

    def move(
        self, source: Decision | Source, flavor: str, *, pool: str = "", id: str | None = None,
        timeout: float | None = None, **fields: Any,
    ) -> Moved:  # fmt: skip
        """Give the instances that `source` holds a place by `flavor`, in whatever pool serves it, and let the source go then.

        Blocks: placed on the target ▸ confirmed there ▸ source released; `timeout` seconds for each, default frontend.timeout_s. Whatever
        fails before the confirm leaves the source as it was; called again with the same `id` it goes on where it ended.
        `pool` is the source's, where this router did not place it. Raises as `place`, `confirm` and `release` do.

        From one host and within a pool it is a resize: the request names that host as its `source`, where the instances stay if what
        they grow by fits, unless `hosts_ignored` or `host` say otherwise. To the flavor they have it is a migration: that host will not do.
        """
        if isinstance(source, Decision):
            source = Source(pool or self.decided_in(source), source)
        hosts = {placed.host for placed in source.placed}
        if len(hosts) == 1 and flavor == source.decision.flavor:
            fields["hosts_ignored"] = tuple(dict.fromkeys((*fields.get("hosts_ignored", ()), *hosts)))
        elif len(hosts) == 1 and self.pool_of(flavor) == source.pool:
            fields.setdefault("source", hosts.pop())
        build = self.request(flavor, id=id, count=len(source.placed), instances=source.instances, **fields)
        return move(self, source, build, timeout)

    def flush(self, timeout: float | None = None) -> None:
        """As `Frontend.flush`, in every pool that was used."""
        with self._opening:
            opened = list(self._frontends.values())
        for frontend in opened:
            frontend.flush(timeout)

    def decided_in(self, decision: Decision) -> str:
        """The pool whose decision this is; raises `UsageError` where nobody knows.

        Where this router did not submit the request and its flavor went elsewhere since, or is gone, it blocks: the logs of the pools
        before are asked, then the hosts of all.
        """
        with self._lock:
            known = self._placed_in.get(decision.request)
            if known:
                return known
            now = self._served_by(decision.flavor)
            past = self._routes.before(decision.flavor)
        if now and not past:
            return now
        for pool in past:
            entry = self._stands(pool, decision.request, None)
            if entry is not None and entry.decision == decision:
                return pool
        return self._held_in(decision) if decision.placed else now or self.pool_of(decision.flavor)

    def _held_in(self, decision: Decision) -> str:
        placed = decision.placed[0]
        with self._lock:
            pool = self._groups.holding(placed.host, placed.allocation)
        if not pool:
            raise UsageError(
                f"no pool knows {checks.shown(placed.host)}, where request {checks.shown(decision.request)} was placed: name its pool"
            )
        return pool

    # --- routing ---

    def _admit(self, build: Build, new: bool) -> str:
        """The pool for a request; raises `UsageError` where there is none for it."""
        with self._lock:
            pool = self._pool_of(build.flavor)
            stands = self._placed_in.get(build.id) or ("" if new else self._earlier(build, pool))
            if not stands and build.group and (why := self._groups.enter(build, pool)):
                raise UsageError(why)
            return stands or pool

    def _earlier(self, build: Build, pool: str) -> str:
        """The other pool in which a request stands that was submitted before its flavor's route changed, or ""."""
        window_s = self._settings.scheduler.idempotency_window_s + CLOCK_SLACK_MS / 1000
        since_ms = round((wall_s() - window_s) * 1000) if self._by_time else 0
        for other in self._routes.before(build.flavor, since_ms):
            if other != pool and self._stands(other, build.id, window_s) is not None:
                return other
        return ""

    def _stands(self, pool: str, request: str, since_s: float | None) -> Entry | None:
        """What a pool's log has of a request; None for nothing, or where there is no such pool."""
        known = pools(self._settings).get(pool)
        if known is None:
            return None
        book = Reader(known, since_s=since_s, wanted=request).read()
        found = [
            entry for entry in book.entries.values() if entry.request == request and (entry.build or entry.decision)
        ]
        return next((entry for entry in found if entry.decision), found[0] if found else None)

    def _submit(
        self, pool: str, builds: Sequence[Build], timeout: float | None, new: bool, traceparent: str
    ) -> list[Pending]:
        for build in builds:
            self._remember(build.id, pool)
        try:
            frontend = self.frontend(pool)
            self._await_flavors(frontend, {build.flavor for build in builds})
            pendings = frontend.submit_many(builds, timeout=timeout, fresh=new, routed=True, traceparent=traceparent)
        except CommonplaceError as error:
            pendings = [Pending(build, -1) for build in builds]
            for pending in pendings:
                pending.resolve(error)
        for pending in pendings:
            if pending.request.group:
                pending.add_done_callback(self._answered)
        return pendings

    def _answered(self, pending: Pending) -> None:
        with self._lock:
            self._groups.leave(pending.request.id)

    def _remember(self, request: str, pool: str) -> None:
        with self._lock:
            self._ids.use(self._ids.number(request))
            self._placed_in[request] = pool
            if len(self._placed_in) > KEPT_MAX:
                self._placed_in.popitem(last=False)

    def _await_flavors(self, frontend: Frontend, names: set[str]) -> None:
        """Wait until a pool's client has read of the flavors that we know: it follows `control` by itself."""
        deadline = time.monotonic() + KNOWN_WAIT_S
        while not names <= set(frontend.flavors) and time.monotonic() < deadline:
            time.sleep(0.005)

    def _pool_of(self, flavor: str) -> str:
        """The pool that serves a flavor now; raises `UsageError` for one that is not known."""
        pool = self._served_by(flavor)
        if not pool:
            raise UsageError(checks.unknown_flavor(flavor, self._routes.flavors))
        return pool

    def _served_by(self, flavor: str) -> str:
        """The pool that serves a flavor now, "" for one that is not known."""
        self._follow_control()
        if not (pool := self._routes.pool_of(flavor)):
            self._read_control()  # it may have been written a moment ago
            pool = self._routes.pool_of(flavor)
        return pool

    def _follow_control(self) -> None:
        """Fold what came on `control`; from its start where an error has ended the reading: the routes of then may be wrong."""
        if self._tail.position(self._control, 0) < 0:
            self._begin_control()
        try:
            for batch in self._tail.turn(0.0):
                self._routes.fold(batch.records)
        except Lost:
            self._begin_control()

    def _begin_control(self) -> None:
        """Fold `control` from its start to its end as of now."""
        self._tail.add(self._control, 0, self._tail.range(self._control, 0)[0])
        self._routes = Routes()
        try:
            self._read_control()
        except BaseException:
            self._tail.remove(self._control, 0)  # nobody is routed by a part of it
            raise

    def _read_control(self) -> None:
        """Fold `control` to its end as of now."""
        ends = self._tail.ends([(self._control, 0)])
        deadline = time.monotonic() + STALL_TIMEOUT_S
        while ends := self._tail.behind(ends):
            for batch in self._tail.turn(1.0):
                self._routes.fold(batch.records)
            if time.monotonic() > deadline:
                raise TimedOut(f"{self._control}: no end reached within {STALL_TIMEOUT_S:g} s: see the broker")

    def settings_of(self, pool: str) -> Settings:
        """The settings of a pool, with its own partition counts; raises `UsageError` where it has no topics."""
        known = pools(self._settings)
        if pool not in known:
            shown = ", ".join(known) or "none"
            raise UsageError(
                f"pool {pool} has no topics (pools of {self._settings.topics.prefix}: {shown}): "
                f"`commonplace topics create --pool {pool}`, or route the flavor elsewhere with `commonplace route`"
            )
        return known[pool]
