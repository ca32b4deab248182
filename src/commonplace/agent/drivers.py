"""What an agent asks of a host: what it has, and to run instances on it. Events are the ledger's own.

    agent ── start, stop, adopt ──▶ driver        (asynchronous: none of them blocks or raises for the instance's sake)
      ▲                               │
      └──── Up, Failed, Found, Gone ──┘           (told at the next poll)

A driver serves one host. `StaticDriver` only accounts for instances, or simulates their boot; `host_driver` runs them.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Protocol

from commonplace.core.ledger_events import Failed, Found, Gone, Up
from commonplace.core.records.hosts import Allocation, HostCell
from commonplace.core.resources import Inventory

__all__ = ["Driver", "Event", "Failed", "Found", "Gone", "StaticDriver", "Up", "as_found"]

Event = Up | Failed | Found | Gone
"""What a driver tells, each thing once: `Found` and `Gone` of instances it was not told to start, `Up` and `Failed` of
those it was; an instance that ran and ended by itself has failed."""


class Driver(Protocol):
    """One host's resources and instances; called from one thread."""

    def inventory(self) -> dict[str, Inventory]:
        """What the host has, by resource class."""

    def traits(self) -> tuple[str, ...]:
        """What the host can do, sorted."""

    def labels(self) -> dict[str, str]:
        """Where the host stands (zone, rack …)."""

    def cells(self) -> dict[str, HostCell]:
        """NUMA cells by name, with the devices near them; empty where instances need not know."""

    def load(self) -> dict[str, float]:
        """Measured load; reported beside the state hash, never in it. Empty where nothing is measured."""

    def start(self, allocation: Allocation) -> None:
        """Begin to start the allocation's instance; `poll` says how it went."""

    def adopt(self, allocation: Allocation) -> None:
        """Take charge of what the ledger held before this driver was there: of a claim's, so that it can be stopped;
        of a found instance, so that its end is noticed. To be called before the first poll."""

    def stop(self, allocation_id: str) -> None:
        """Begin to stop the allocation's instance; unknown ids are nothing to stop."""

    def poll(self, now: float) -> list[Event]:
        """What happened since the last poll; `now` in seconds on any clock that only grows."""

    def looked(self) -> bool:
        """Whether the polls so far told all that runs: until then the host takes no claims, or it could be booked twice."""

    def due(self) -> float:
        """When the next poll may have something to tell, on the clock of `poll`; inf: not before start or stop."""


def as_found(allocation: Allocation) -> Found:
    """What a driver told of a found instance, from the allocation that the ledger made of it."""
    return Found(
        instance=allocation.instance,
        resources=allocation.resources,
        cells=allocation.cells,
        assigned=allocation.assigned,
        project=allocation.project,
        user=allocation.user,
        kind=allocation.kind,
        flavor=allocation.flavor,
        group=allocation.group,
    )


class StaticDriver:
    """A host whose inventory was written down; instances are accounted for, nothing runs.

    An instance is up at the first poll `boot_s` after the poll that took it in. `failure_rate` (0 to 1) of them fail
    instead, drawn from `seed` and the allocation id, so that a run can be repeated. `found` gives the instances that
    run already, as they are now; it is asked at every poll, so it should be cheap.
    """

    __slots__ = (
        "_boot_s",
        "_booting",
        "_cells",
        "_failure_rate",
        "_found",
        "_inventory",
        "_labels",
        "_new",
        "_reported",
        "_seed",
        "_traits",
    )

    def __init__(
        self,
        inventory: Mapping[str, Inventory],
        traits: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        *,
        boot_s: float = 0.0,
        failure_rate: float = 0.0,
        seed: int = 0,
        found: Callable[[], Sequence[Found]] | None = None,
        cells: Mapping[str, HostCell] | None = None,
    ) -> None:
        assert boot_s >= 0, f"boot_s {boot_s} is negative"
        assert 0 <= failure_rate <= 1, f"failure_rate {failure_rate} is no share"
        self._inventory = dict(inventory)
        self._traits = tuple(sorted(set(traits)))
        self._labels = dict(labels or {})
        self._cells = dict(cells or {})
        self._boot_s = boot_s
        self._failure_rate = failure_rate
        self._seed = seed
        self._found = found
        self._reported: dict[str, Found] = {}
        self._new: list[str] = []
        self._booting: dict[str, float] = {}

    def inventory(self) -> dict[str, Inventory]:
        return self._inventory

    def traits(self) -> tuple[str, ...]:
        return self._traits

    def labels(self) -> dict[str, str]:
        return self._labels

    def cells(self) -> dict[str, HostCell]:
        return self._cells

    def load(self) -> dict[str, float]:
        return {}

    def start(self, allocation: Allocation) -> None:
        self._new.append(allocation.id)

    def adopt(self, allocation: Allocation) -> None:
        """An accounted instance needs no care; a found one is as if told already."""
        if allocation.origin == "found":
            self._reported[allocation.instance] = as_found(allocation)

    def stop(self, allocation_id: str) -> None:
        self._booting.pop(allocation_id, None)
        if allocation_id in self._new:
            self._new.remove(allocation_id)

    def looked(self) -> bool:
        return True  # a poll tells at once what runs

    def due(self) -> float:
        if self._found or self._reported or self._new:
            return 0.0
        return min(self._booting.values(), default=inf)

    def poll(self, now: float) -> list[Event]:
        for allocation_id in self._new:
            self._booting[allocation_id] = now + self._boot_s
        self._new.clear()
        booted = [allocation_id for allocation_id, at in self._booting.items() if at <= now]
        for allocation_id in booted:
            del self._booting[allocation_id]
        events: list[Event] = [self._outcome(allocation_id) for allocation_id in booted]
        if self._found or self._reported:
            running = self._found() if self._found else ()
            events += self._changes({instance.instance: instance for instance in running})
        return events

    def _outcome(self, allocation_id: str) -> Event:
        if self._failure_rate and random.Random(f"{self._seed}/{allocation_id}").random() < self._failure_rate:
            return Failed(allocation_id, "simulated failure")
        return Up(allocation_id)

    def _changes(self, running: dict[str, Found]) -> list[Event]:
        """A changed instance is gone and found again, because what it holds is no longer what was told."""
        before, self._reported = self._reported, running
        gone: list[Event] = [Gone(name) for name, was in before.items() if running.get(name) != was]
        return gone + [instance for name, instance in running.items() if before.get(name) != instance]
