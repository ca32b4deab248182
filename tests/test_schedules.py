"""Random schedules of the shipped cores under faults: the invariants hold at the end of each. Seeded, so a failure replays."""

from collections import Counter, defaultdict
from itertools import pairwise
from typing import Any

import pytest

from chaos import Chaos, ChaosReplica, Log
from columns import unequal
from commonplace.core.codec import decode
from commonplace.core.host_keys import parse_key
from commonplace.core.hosts import APPLIED, HostState, fold
from commonplace.core.records.claims import Claim, Release
from commonplace.core.records.decisions import Decision
from commonplace.core.records.hosts import Allocation
from commonplace.core.records.requests import Cancel

SEEDS, SEEDS_A_TEST = 250, 25


class Story:
    """What the logs of a schedule say, told by a plain reading of them."""

    def __init__(self, world: Log) -> None:
        self.world = world
        self.states: dict[str, HostState] = {}
        self.shown: dict[tuple[int, int], set[str]] = {}  # position of a report → allocations it shows
        self.gone: dict[
            str, tuple[int, int]
        ] = {}  # allocation → log time and order of the report that no longer shows it
        self.first: dict[str, tuple[int, str]] = {}  # allocation → order of the report that showed it first, its host
        self.overfull: list[str] = []
        self.claims = {
            (p, offset): decode("claims", value)
            for p in range(world.partitions)
            for offset, _, _, value in world.log["claims", p]
            if value
        }
        for partition in range(world.partitions):
            for record in world.log["hosts", partition]:
                self._report(partition, *record)

    def _report(self, partition: int, offset: int, at_ms: int, key: bytes | None, value: bytes | None) -> None:
        parsed = parse_key(key)
        assert parsed is not None
        state = self.states.setdefault(parsed.host, HostState(parsed.host))
        before = dict(state.allocations)
        outcome, _ = fold(state, parsed, offset, at_ms, value)
        if outcome != APPLIED:
            return
        order = self.world.order["hosts", partition, offset]
        self.shown[partition, offset] = set(state.allocations)
        for allocation in before.keys() - state.allocations.keys():
            self.gone[allocation] = (at_ms, order)
        for allocation in state.allocations.keys() - before.keys():
            self.first.setdefault(allocation, (order, state.name))
        for name, used in state.used.items():
            if not state.stale and used > state.inventory[name].capacity:
                self.overfull.append(f"{state.name} {name} {used}")

    def held(self) -> list[Allocation]:
        return [a for state in self.states.values() for a in state.allocations.values()]

    def cancelled(self) -> set[str]:
        """Allocations that were released as cancelled; losers are released with `leased_only`, and what is named is never a loser."""
        return {r.allocation for r in self.claims.values() if isinstance(r, Release) and not r.leased_only}

    def claim_of(self) -> dict[str, Claim]:
        return {
            a.id: c for c in self.claims.values() if isinstance(c, Claim) and c.mode == "strict" for a in c.allocations
        }


def ran(seed: int) -> tuple[Chaos, Story]:
    chaos = Chaos(seed)
    chaos.run()
    return chaos, Story(chaos.world)


def problems(chaos: Chaos, story: Story) -> list[str]:
    found = [f"1: {entry}" for entry in story.overfull]
    world = chaos.world
    released = story.cancelled()
    effective: dict[str, Decision] = {}
    for request, (build, partition, submitted_ms) in chaos.builds.items():
        decisions = world.decisions(request)
        if not decisions:
            found.append(f"2: {request} has no decision")
            continue
        decision = effective[request] = decisions[0]
        order = next(
            world.order["decisions", partition, o]
            for o, _, k, _ in world.log["decisions", partition]
            if k == request.encode()
        )
        if decision.result != "placed":
            continue
        if sorted(p.index for p in decision.placed) != list(range(build.count)):
            found.append(f"3: {request} names {[p.index for p in decision.placed]} of {build.count}")
        for placed in decision.placed:
            grant = (placed.grant.partition, placed.grant.offset)
            if placed.allocation not in story.shown.get(grant, ()):
                found.append(f"3: {request}: {placed.allocation} is not in the report {grant}")
            elif world.order["hosts", *grant] > order:
                found.append(f"3: {request} was decided before its grant {grant}")
            gone = story.gone.get(placed.allocation)
            if gone and placed.allocation not in released and gone[0] < submitted_ms + decision.confirm_within_ms:
                found.append(
                    f"3: {request}: {placed.allocation} was gone {submitted_ms + decision.confirm_within_ms - gone[0]} ms early"
                )
    named = {p.allocation for d in effective.values() for p in d.placed}
    instances = Counter((a.request, a.index) for a in story.held())
    found += [f"5: {count} allocations of {instance}" for instance, count in instances.items() if count > 1]
    found += [f"5: {a.id} of {a.request} is still leased" for a in story.held() if a.state == "leased"]
    found += [
        f"2: {a.id} of {a.request} is held, but no effective decision names it"
        for a in story.held()
        if a.id not in named
    ]
    found += [f"2: {request} was confirmed and {p.allocation} is gone though nobody released it"
              for request, confirmed in chaos.confirmed.items() for p in effective[request].placed
              if p.allocation in story.gone and p.allocation not in released]  # fmt: skip
    grants: dict[tuple[str, str], list[str]] = defaultdict(list)
    claims = story.claim_of()
    for allocation, (_, host) in story.first.items():
        if allocation not in claims:
            found.append(f"6: {allocation} was granted, nobody claimed it")
        else:
            grants[host, claims[allocation].expected].append(allocation)
    for (host, expected), ids in grants.items():
        for one, other in pairwise(sorted(ids, key=story.first.__getitem__)):
            if one not in story.gone or story.gone[one][1] > story.first[other][0]:
                found.append(f"6: {host} granted both {one} and {other} at {expected}")
    for partition, owner in world.owner.items():
        committed, end = world.committed.get(partition, 0), len(world.log["requests", partition])
        if committed != end:
            found.append(f"2: {committed} of {end} requests of {partition} committed, {owner.replica.waiting} wait")
    cancelled = {
        c.id
        for p in range(2)
        for _, _, _, v in world.log["requests", p]
        if isinstance(c := decode("requests", v or b""), Cancel)
    }
    found += [f"2: {a.id} of {a.request} is held, which was cancelled" for a in story.held() if a.request in cancelled]
    return found + leftovers(chaos)


def leftovers(chaos: Chaos) -> list[str]:
    """What is in a replica's memory though nothing is under way, and views that are not what a fresh reader sees."""
    found = []
    fresh = ChaosReplica(chaos.world, "fresh", chaos.random).replica.view
    for replica in chaos.replicas:
        core, view = replica.replica, replica.replica.view
        if core.book.works or core.claims.pending or core.claims.renewals or core.placer.queue or core.placer.parked:
            found.append(
                f"10: {replica.name} still has {len(core.book.works)} works, {len(core.claims.pending)} claims"
            )
        if core.deliveries or any(row.pending or row.renewals or row.pending_hash for row in view.by_index):
            found.append(f"10: {replica.name} still has deliveries or overlays")
        if view.digest() != fresh.digest():
            found.append(f"8: the view of {replica.name} is not that of a fresh reader")
        found += [f"8: {replica.name}: {name}" for name in unequal(view, fresh)]
    return found


@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_A_TEST))
def test_invariants_hold_whatever_goes_wrong(first: int) -> None:
    failed: dict[int, Any] = {}
    for seed in range(first, first + SEEDS_A_TEST):
        found = problems(*ran(seed))
        if found:
            failed[seed] = found
    assert not failed
