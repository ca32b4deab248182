"""Bugs planted where hosts have cells and sizes change in place; they show on the profile `shapes`. Each takes one sentence out."""

from typing import Any

from msgspec.structs import replace

from commonplace.core import cells, hashing, placing, replacing
from commonplace.core.ledger import Ledger
from commonplace.core.ledger_events import Change
from commonplace.sim.patches import Patch


def give_cpus_twice(patch: Patch) -> None:
    """The ledger picks dedicated cpus as if nobody had any."""
    patch.wrap(
        cells, "pick_cpus", lambda f, cell, wanted, threads: f(replace(cell, pinned=frozenset()), wanted, threads)
    )


def hash_without_cells(patch: Patch) -> None:
    """An allocation's hash leaves its cells out, everywhere."""
    patch.wrap(hashing, "tail_of", lambda f, resources, group, cells: f(resources, group, ()))


def forget_numbers(patch: Patch) -> None:
    """A starting agent gives cpus and devices anew to what its last report holds."""

    def recover(original: Any, state: Any, *rest: Any) -> Ledger:
        ledger: Ledger = original(state, *rest)
        for identity, allocation in list(ledger.allocations.items()):
            ledger.allocations[identity] = replace(allocation, assigned=None)
        return ledger

    patch.wrap_class(Ledger, "recover", recover)


def keep_what_is_replaced(patch: Patch) -> None:
    """The confirm of a resize leaves the smaller one where it is."""

    def replaced(original: Any, self: Ledger, confirmed: Any, offset: int) -> list[Change]:
        return self._become(confirmed, self.allocations.get(confirmed.replaces), "active")

    patch.wrap(Ledger, "_replace", replaced)


def claim_nothing_more(patch: Patch) -> None:
    """A resize in place claims nothing of what it grows by, and the ledger takes that for the difference."""
    for owner in (placing, replacing):
        patch.wrap(owner, "difference", lambda f, *told: None if f(*told) is None else ({}, {}))


def leave_devices_to_chance(patch: Patch) -> None:
    """Devices are given by shares in all, however many of each were asked for."""
    patch.wrap(cells, "pick_devices", lambda f, cell, name, amount, shares: f(cell, name, amount, 0))
