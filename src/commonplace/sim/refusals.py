"""Grounds on which a ledger must refuse a claim: the state that it expects, the checks of `fits`, and room.

`facts` are what the host may have been when the claim was taken, one or two: a claim must be refused where it must by all of them.
"""

from collections.abc import Iterator, Sequence, Set

from commonplace.core.records.claims import Claim
from commonplace.ops.audit.hashes import MODULUS, UNORDERED_MAX, sums
from commonplace.ops.audit.suits import unit_fits, unsuited
from commonplace.sim.cells import amounts_of, uneven
from commonplace.sim.model import Facts, Held
from commonplace.sim.replaced import alone, short


def may_expect(expected: str, state: int, unordered: Sequence[int], facts: Sequence[Facts]) -> bool:
    """Whether a host in this state, give or take steps without a place in the order, was ever in the one that is expected."""
    step = (int(expected, 16) - state) % MODULUS
    return not step or (len(unordered) <= UNORDERED_MAX and step in sums(unordered) | _untold(unordered, facts))


def misfits(claim: Claim, facts: Sequence[Facts], held: Held, after: Held, confirmed: Set[str]) -> Iterator[str]:
    """What of the checks of `fits` but room a claim fails, beside what is held and was confirmed; `after` is what the report shows."""
    asked = claim.allocations
    yield from unsuited(claim, facts)
    yield from (why for allocation in asked for why in short(allocation, held, confirmed))
    cells = [list(uneven(claim, f)) for f in facts if f.cells]
    if cells and all(cells):
        yield cells[-1][0]
    for allocation in asked:
        for name, amount in alone(allocation).resources.items():
            if amount and not any(unit_fits(f.inventory, name, amount) for f in facts):
                yield f"{amount} of {name} is no amount the host gives to one allocation"
    group, now = asked[0].group, held.values()
    if claim.group_max and group:
        moving = {(a.instance, a.project) for a in asked if a.instance}
        there = sum(
            a.group == group and (a.request == claim.request or (a.instance, a.project) not in moving) for a in now
        )
        if there + len(asked) > claim.group_max:
            yield f"{there} of group {group} are there and {claim.group_max} may be"
    leaving = sum(allocation.replaces in held for allocation in asked)
    if claim.instances_max and len(now) - leaving + len(asked) > claim.instances_max:
        yield f"{len(now)} instances are there and {claim.instances_max} may be"
    if claim.builds_max:
        ids = {*held, *(allocation.id for allocation in asked)}
        builds = sum(1 for i in ids if i in after and after[i].building)  # surely so at the grant
        if builds > claim.builds_max:
            yield f"{builds} builds are then in progress and {claim.builds_max} may be"


def past_capacity(claim: Claim, facts: Sequence[Facts], held: Held) -> str:
    """Of which class a claim takes more than there is beside what is held, or ""."""
    asked: dict[str, int] = {}
    for allocation in claim.allocations:
        for name, amount in amounts_of(allocation).items():
            asked[name] = asked.get(name, 0) + amount
    for name, amount in asked.items():
        used = sum(amounts_of(allocation).get(name, 0) for allocation in held.values())
        capacity = max(f.capacity(name) for f in facts)
        if amount and used + amount > capacity:
            return f"{used} + {amount} of {capacity} {name}"
    return ""


def _untold(unordered: Sequence[int], facts: Sequence[Facts]) -> set[int]:
    """Steps to states that no report showed: the machine changed, and the operator's word was for a while that it is enabled."""
    if len(facts) < 2:
        return set()
    rest, was = sums(unordered[1:]), facts[0].hash
    words = [f.said("enabled").hash - was for f in facts]
    return {(value + word) % MODULUS for value in rest for word in words}
