"""The drivers of an agent's hosts together: polled when one has something to tell, and what they told kept for a keeper built anew."""

import heapq
from collections.abc import Callable, Iterator, Mapping
from math import inf
from typing import Final

from commonplace.agent.drivers import Driver, Found, Gone
from commonplace.core.keeper_events import (
    AdoptInstance,
    DriverSaid,
    HostSpec,
    LoadMeasured,
    StartInstance,
    StopInstance,
)

POLL_INTERVAL_S: Final = 0.05
"""A driver that always has something to look at is polled so often: an instance is up within a twentieth of a second."""

LOAD_INTERVAL_S: Final = 10.0
"""How often load is measured: twice a heartbeat, with which it travels."""


class Crew:
    """All drivers of one agent, by host; times are seconds of the agent's clock."""

    def __init__(self, drivers: Mapping[str, Driver]) -> None:
        self._drivers = drivers
        self._found: dict[str, dict[str, Found]] = {}
        self._due: list[tuple[float, str]] = []
        self._planned: dict[str, float] = {}
        self._measured = list(drivers)
        self._load_at = -inf

    def specs(self) -> list[HostSpec]:
        """The hosts as their drivers describe them."""
        return [
            HostSpec(
                name=name,
                inventory=driver.inventory(),
                traits=driver.traits(),
                labels=driver.labels(),
                cells=driver.cells(),
            )
            for name, driver in self._drivers.items()
        ]

    def look(self, host: str, now_s: float) -> list[DriverSaid]:
        """Poll a starting host's driver; what it told an earlier keeper is told again."""
        told_before = [DriverSaid(host, found) for found in self._found.get(host, {}).values()]
        return told_before + self._poll(host, now_s)

    def has_looked(self, host: str) -> bool:
        """Whether all that runs on the host was told."""
        return self._drivers[host].looked()

    def poll(self, now_s: float) -> Iterator[DriverSaid]:
        """What happened on hosts whose drivers have something to tell by now."""
        due, planned = self._due, self._planned
        while due and due[0][0] <= now_s:
            at, host = heapq.heappop(due)
            if planned.get(host) == at:
                del planned[host]
                yield from self._poll(host, now_s)

    def loads(self, now_s: float) -> list[LoadMeasured]:
        """Measured load, when it is time; hosts that measure nothing are asked once."""
        if now_s < self._load_at:
            return []
        self._load_at = now_s + LOAD_INTERVAL_S
        loads = [LoadMeasured(host, load) for host in self._measured if (load := self._drivers[host].load())]
        self._measured = [said.host for said in loads]
        return loads

    def perform(self, effect: StartInstance | StopInstance | AdoptInstance, now_s: float) -> None:
        """Have an instance's driver act."""
        driver = self._drivers[effect.host]
        if isinstance(effect, StartInstance):
            driver.start(effect.allocation)
        elif isinstance(effect, StopInstance):
            driver.stop(effect.allocation.id)
        else:
            driver.adopt(effect.allocation)
        self._plan(effect.host, driver, now_s)

    def close(self) -> None:
        """End what drivers still run for themselves; instances stay."""
        for driver in self._drivers.values():
            close: Callable[[], None] | None = getattr(driver, "close", None)
            if close is not None:
                close()

    def _poll(self, host: str, now_s: float) -> list[DriverSaid]:
        driver = self._drivers[host]
        events = driver.poll(now_s)
        for event in events:
            if isinstance(event, Found):
                self._found.setdefault(host, {})[event.instance] = event
            elif isinstance(event, Gone):
                self._found.get(host, {}).pop(event.instance, None)
        self._plan(host, driver, now_s)
        return [DriverSaid(host, event) for event in events]

    def _plan(self, host: str, driver: Driver, now_s: float) -> None:
        at = max(driver.due(), now_s + POLL_INTERVAL_S)
        if at < self._planned.get(host, inf):
            self._planned[host] = at
            heapq.heappush(self._due, (at, host))
