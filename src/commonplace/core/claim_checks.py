"""Whether a host may grant a claim: the checks of `fits`, and the compare-and-swap of `strict` (rule 3)."""

from collections.abc import Iterable

from commonplace.core import hashing, replacing
from commonplace.core.cells import Terms, after, assign, ratios_of, refusal
from commonplace.core.holdings import Holdings, bytes_of, names_in
from commonplace.core.ledger_events import FOUND_PREFIX
from commonplace.core.records.claims import Claim
from commonplace.core.records.fields import ALLOCATIONS_MAX
from commonplace.core.records.hosts import Allocation, Reason
from commonplace.core.resources import misfit


def terms_of(claim: Claim) -> Terms:
    """The terms on which a claim asks for cpus and devices of cells."""
    return Terms(claim.threads, claim.shares)


def refusal_of(host: Holdings, claim: Claim, bytes_max: int) -> tuple[Reason, str]:
    """Why a claim must not be granted: every check of `fits`, and the compare-and-swap of `strict`.

    What a fresh view would not heal is told first: traits and group, then that the claim is stale. `bytes_max` bounds what the
    allocations take of a snapshot. Returns ("", "") where nothing stands against it.
    """
    if host.status != "enabled":
        return "disabled", f"the host is {host.status}"
    for trait in claim.traits_required:
        if trait not in host.traits:
            return "constraint", f"lacks {trait}"[:128]
    for trait in claim.traits_forbidden:
        if trait in host.traits:
            return "constraint", f"has {trait}"[:128]
    for names in claim.traits_any_of:
        if not any(name in host.traits for name in names):
            return "constraint", f"has none of {', '.join(names)}"[:128]
    group = claim.allocations[0].group
    if claim.group_max and group and _members(host, group, claim) + len(claim.allocations) > claim.group_max:
        return "constraint", f"group {group}"[:110] + " is full"
    if claim.mode == "strict" and claim.expected != hashing.to_hex(host.hash):
        return "stale", f"the state is {hashing.to_hex(host.hash)}"
    if claim.host_hash and claim.host_hash != hashing.to_hex(host.host_hash):
        return "stale", "the host itself is another than the one that was ranked"
    return _overfull(host, claim, bytes_max)


def _members(host: Holdings, group: str, claim: Claim) -> int:
    """Members of a group besides the instances that are claimed for: one that moves or grows does not count where it stands."""
    here = host.groups.get(group, 0)
    if not here or here + len(claim.allocations) <= claim.group_max:
        return here
    moving = {(a.instance, a.project) for a in claim.allocations if a.instance}
    held = (a for a in host.allocations.values() if a.group == group and a.request != claim.request)
    return here - sum((a.instance, a.project) in moving for a in held)


def _overfull(host: Holdings, claim: Claim, bytes_max: int) -> tuple[Reason, str]:
    """What of the host's bounds and room the claim would pass."""
    asked = claim.allocations
    malformed = _malformed(asked, bool(host.cells))
    if malformed:
        return "constraint", malformed
    reason, why = replacing.wrong(host.allocations, asked, terms_of(claim), host.cells)
    if reason:
        return reason, why
    old = host.allocations.get(asked[0].replaces)
    if claim.builds_max and host.builds + len(asked) > claim.builds_max:
        return "constraint", f"{host.builds} builds in progress"
    if claim.instances_max and len(host.allocations) + len(asked) - (old is not None) > claim.instances_max:
        return "constraint", f"{len(host.allocations)} instances"
    if len(host.allocations) + len(asked) > ALLOCATIONS_MAX or host.bytes + sum(map(bytes_of, asked)) > bytes_max:
        return "full", "its report would pass the record limit"
    reason, why = _no_room(host, asked) if old is None else _no_room_to_grow(host, old, asked[0])
    return _no_cells(host, claim, old) if host.cells and not reason else (reason, why)


def _no_room_to_grow(host: Holdings, old: Allocation, asked: Allocation) -> tuple[Reason, str]:
    """The first resource class that has no room for the difference, or would not give all of it to one allocation."""
    whole = asked.becomes
    assert whole is not None, "what replaces another says what it becomes"
    for name, amount in whole.resources.items():
        item, used = host.inventory.get(name), host.used.get(name, 0)
        why = misfit(item, used - old.resources.get(name, 0), amount)
        more = asked.resources.get(name, 0)
        if not why and more and (item is None or used + more > item.capacity):
            why = f"needs {more} more, {max(0, item.capacity - used) if item else 0} free"
        if why:
            return "full", f"{name}: {why}"[:128]
    return "", ""


def _no_cells(host: Holdings, claim: Claim, old: Allocation | None) -> tuple[Reason, str]:
    """The first cell that cannot give what is asked of it, each allocation on what those before it leave."""
    cells, terms, ratios = host.cells, terms_of(claim), ratios_of(host.inventory)
    whole = claim.allocations[0].becomes
    if old is not None and whole is not None:  # what it becomes must fit where it stands as if that were free
        free = after(cells, old.cells, old.assigned, -1)
        reason, why = refusal(free, whole.resources, whole.cells, terms, ratios)
        if reason:
            return reason, why
    for asked in claim.allocations:
        reason, why = refusal(cells, asked.resources, asked.cells, terms, ratios)
        if reason:
            return reason, why
        if len(claim.allocations) > 1:
            cells = after(cells, asked.cells, assign(cells, asked.cells, terms), 1)
    return "", ""


def _no_room(host: Holdings, asked: list[Allocation]) -> tuple[Reason, str]:
    """The first resource class that has no room for all that is asked together."""
    limits, used = host.limits, host.used
    if len(asked) > 1:
        used = dict(used)
    for allocation in asked:
        for name, amount in allocation.resources.items():
            had = used.get(name, 0)
            limit = limits.get(name)
            if not (
                limit is not None
                and had + amount <= limit[0]
                and limit[1] <= amount <= limit[2]
                and amount % limit[3] == 0
            ):  # the rule in words, and for amounts of 0
                why = misfit(host.inventory.get(name), had, amount)
                if why:
                    return "full", f"{name}: {why}"[:128]
            if used is not host.used:
                used[name] = had + amount
    return "", ""


def _malformed(asked: Iterable[Allocation], has_cells: bool) -> str:
    """What is wrong with a claim's allocations whatever the host, or "": names go into reports that all must be able to read."""
    ids = set()
    for allocation in asked:
        if allocation.id in ids or not allocation.id:
            return "an allocation without an id" if not allocation.id else "one allocation id twice"
        if allocation.id.startswith(FOUND_PREFIX):
            return f"allocation ids beginning with {FOUND_PREFIX} are of found instances"
        if allocation.cells and not has_cells:
            return "the host has no cells"
        ids.add(allocation.id)
        if not names_in(allocation).isprintable():
            return "a name with control characters"
    return ""
