"""Whether a host suits a claim by what it is, whoever is on it: status, traits, the part that was ranked, and amounts by unit.

By shape, so that the audit's records and those of the simulator's judge can both be asked. `hosts` are what a host may have been when
the claim was taken: a claim must be refused where it must by all of them.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from typing import Protocol


class Unit(Protocol):
    """Inventory of one class, as far as a single allocation goes."""

    @property
    def total(self) -> int: ...
    @property
    def min_unit(self) -> int: ...
    @property
    def max_unit(self) -> int: ...
    @property
    def step_size(self) -> int: ...


class Known(Protocol):
    """What a host is."""

    @property
    def status(self) -> str: ...
    @property
    def traits(self) -> Set[str]: ...
    @property
    def hash(self) -> int: ...


class Wishes(Protocol):
    """What a claim asks of what a host is."""

    @property
    def traits_required(self) -> Collection[str]: ...
    @property
    def traits_forbidden(self) -> Collection[str]: ...
    @property
    def traits_any_of(self) -> Collection[Collection[str]]: ...
    @property
    def host_hash(self) -> str: ...


def unsuited(claim: Wishes, hosts: Sequence[Known]) -> Iterator[str]:
    """What of a claim's wishes the host meets as none of these."""
    if all(host.status != "enabled" for host in hosts):
        yield f"the host is {hosts[-1].status}"
    for trait in claim.traits_required:
        if all(trait not in host.traits for host in hosts):
            yield f"the host lacks {trait}"
    for trait in claim.traits_forbidden:
        if all(trait in host.traits for host in hosts):
            yield f"the host has {trait}"
    for names in claim.traits_any_of:
        if all(host.traits.isdisjoint(names) for host in hosts):
            yield f"the host has none of {', '.join(names)}"
    if claim.host_hash and all(f"{host.hash:016x}" != claim.host_hash for host in hosts):
        yield f"the host is another than the {claim.host_hash} that was ranked"


def unit_fits(inventory: Mapping[str, Unit], name: str, amount: int) -> bool:
    """Whether one allocation may have that amount of a class."""
    item = inventory.get(name)
    return (
        item is not None and item.min_unit <= amount <= (item.max_unit or item.total) and amount % item.step_size == 0
    )
