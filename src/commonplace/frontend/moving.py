"""Move and resize: claim on the target, confirm there, and only then release the source; between pools or within one.

    place ──no──▶ source as it was          confirm ──late, unknown──▶ source as it was          release ──unknown──▶ held twice
      └──placed──▶ confirm ──confirmed──▶ release ──▶ moved

Every step may be done again: the request id finds the decision, a confirm of what is active and a release of what is gone
change nothing. So a move that ended anywhere is finished by the same call with the same id.
"""

from typing import Protocol

from msgspec import Struct

from commonplace.core.records.decisions import Decision, Placed
from commonplace.core.records.requests import Build
from commonplace.errors import CommonplaceError, StateChanged, TimedOut
from commonplace.frontend.pending import Pending
from commonplace.frontend.settling import Confirmed, Outcome


class Source(Struct, frozen=True):
    """What is to be moved: allocations of a decision, in the pool that holds them; none named: all."""

    pool: str
    decision: Decision
    allocations: tuple[str, ...] = ()

    @property
    def placed(self) -> list[Placed]:
        """The instances that move."""
        return [p for p in self.decision.placed if not self.allocations or p.allocation in self.allocations]

    @property
    def instances(self) -> tuple[str, ...]:
        """Their names, which they keep."""
        return tuple(p.instance for p in self.placed)


class Moved(Struct, frozen=True):
    """What became of a move: `decision` is the target's; where that did not place, nothing was released.

    `confirmed` and `released` are the hosts' answers, one for each instance.
    """

    source_pool: str
    target_pool: str
    decision: Decision
    confirmed: list[Outcome] = []
    released: list[Outcome] = []


class Pools(Protocol):
    """Who knows all pools, as far as a move goes: `Router` has the contracts."""

    def submit(self, build: Build, *, timeout: float | None = None) -> Pending: ...

    def decided_in(self, decision: Decision) -> str: ...

    def confirm(
        self, decision: Decision, *allocations: str, wait: bool = False, timeout: float | None = None, pool: str = ""
    ) -> list[Outcome]: ...

    def release(
        self, decision: Decision, *allocations: str, wait: bool = False, timeout: float | None = None, pool: str = ""
    ) -> list[Outcome]: ...


def move(pools: Pools, source: Source, build: Build, timeout: float | None) -> Moved:
    """Carry a move out, or on; blocks. Raises what the step that failed raises, saying how the source stands."""
    if not source.placed:
        raise StateChanged(f"request {source.decision.request} holds nothing that could be moved")
    pending = pools.submit(build, timeout=timeout)
    try:
        decision = pending.result()
    except TimedOut as error:
        raise TimedOut(
            f"{error}; the source in pool {source.pool} is untouched, `cancel {build.id}` ends it"
        ) from error
    target = pools.decided_in(decision)
    if decision.result != "placed":
        return Moved(source.pool, target, decision)
    confirmed = _confirm(pools, source, decision, target, timeout)
    moved = {p.instance for p in decision.placed}  # fewer than asked, where count_min let it
    gone = [p.allocation for p in source.placed if p.instance in moved]
    try:
        released = pools.release(source.decision, *gone, wait=True, timeout=timeout, pool=source.pool)
    except CommonplaceError as error:
        raise type(error)(
            f"{build.id} stands in pool {target}, confirmed, and its source {source.decision.request} in pool {source.pool} still "
            f"holds its place ({error}): release that, or move again with the id {build.id}"
        ) from error
    return Moved(source.pool, target, decision, confirmed, released)


def _confirm(pools: Pools, source: Source, decision: Decision, target: str, timeout: float | None) -> list[Outcome]:
    """Confirm the target whole; what was confirmed of a target that lapsed in part is given back, and the source stays."""
    kept = f"the source {source.decision.request} in pool {source.pool} is untouched"
    try:
        outcomes = pools.confirm(decision, wait=True, timeout=timeout, pool=target)
    except StateChanged as error:
        raise StateChanged(f"{error}; {kept}") from error
    except CommonplaceError as error:
        message = f"{error}; {kept}: move again with the id {decision.request}, or release that in pool {target}"
        raise type(error)(message) from error
    late = [one for one in outcomes if not isinstance(one, Confirmed)]
    if late:
        pools.release(decision, pool=target)
        raise StateChanged(
            f"the target {decision.request} lapsed on {late[0].host} before it was confirmed; {kept}: move again under a new id"
        )
    return outcomes
