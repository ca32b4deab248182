"""One whole decision in the scheduler's core, without Kafka, step by step: CPU time of this process.

    python -m bench.decision [--hosts 10000] [--flavors 8] [--batch 100] [--rounds 60]

What ranking and folding cost by themselves, `commonplace bench rank` and `fold` say.
"""

import argparse
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from statistics import median
from typing import Any

from commonplace import collector
from commonplace.bench.facts import machine
from commonplace.bench.flavors import flavors, profile
from commonplace.bench.ledgers import Ledgers
from commonplace.clock import wall_s
from commonplace.core import replica_events as re
from commonplace.core.codec import decode, encode
from commonplace.core.records.claims import Release
from commonplace.core.records.requests import Build
from commonplace.core.replica import Replica

HELD_ROUNDS = 10
"""An instance is released so many rounds after it was placed: the fleet neither fills nor stands still."""


class Loop:
    """A replica and the fleet, joined without delay; each event's CPU time is counted under its name."""

    def __init__(self, fleet: Ledgers, flavor_count: int) -> None:
        self.fleet = fleet
        self.replica = Replica("r1", "n", 1, fleet.topic, re.ReplicaSettings())
        self.names = [flavor.name for flavor in flavors(flavor_count)]
        self.spent: Counter[str] = Counter()
        self.offsets: Counter[str] = Counter()
        self.now = 1_000
        self.held: list[list[Release]] = []
        control = [(f"flavor/{f.name}".encode(), encode(f)) for f in flavors(flavor_count)]
        control.append((b"profile/bench", encode(profile("spread"))))
        self.receive(re.ControlRead([(i, 0, key, value) for i, (key, value) in enumerate(control)]))
        self.receive(re.HostsRead(0, [record.raw for record in fleet.begin()]))
        self.receive(re.CaughtUp())
        self.receive(re.Assigned(0, 0))
        self.receive(re.RequestsRead(0, [(0, 0, b"x", b"{")]))
        self.receive(re.HistoryRead(0))
        self.offsets["requests"] = 1

    def receive(self, event: Any) -> list[Any]:
        start = time.process_time_ns()
        effects = self.replica.receive(event, self.now)
        self.spent[type(event).__name__] += time.process_time_ns() - start
        return effects

    def raw(self, topic: str, key: bytes, value: bytes) -> re.Raw:
        self.offsets[topic] += 1
        return (self.offsets[topic] - 1, int(wall_s() * 1_000), key, value)

    def round(self, number: int, batch: int) -> int:
        """A batch of requests from reading to reading back the decisions; returns how many were placed."""
        names = self.names
        builds = [Build(id=f"q{number}-{i}", flavor=names[i % len(names)], project="p", user="u") for i in range(batch)]
        self.receive(re.RequestsRead(0, [self.raw("requests", b.flavor.encode(), encode(b)) for b in builds]))
        self.receive(re.Tick())
        claims = [e for e in self.receive(re.Turn()) if isinstance(e, re.SendClaim)]
        touched = dict.fromkeys(claim.key.decode() for claim in claims)
        for claim in claims:
            self.receive(re.ClaimDelivered(claim.allocation, self.fleet.take(decode("claims", claim.value)).offset))
        if len(self.held) == HELD_ROUNDS:
            for release in self.held.pop(0):
                self.fleet.take(release)
                touched[release.host] = None
        decisions = [
            e
            for e in self.receive(re.HostsRead(0, [self.fleet.report(host).raw for host in touched]))
            if isinstance(e, re.SendDecision)
        ]
        for decision in decisions:
            self.receive(re.DecisionDelivered(decision.token, True))
        self.receive(re.DecisionsRead(0, [self.raw("decisions", d.key, d.value) for d in decisions]))
        self.receive(re.Turn())
        held = [
            Release(host=placed.host, request=decision.key.decode(), allocation=placed.allocation)
            for decision in decisions
            for placed in decode("decisions", decision.value).placed
        ]
        self.held.append(held)
        self.now += 20
        return len(held)


STEPS = {
    "RequestsRead": "admit",
    "Turn": "rank, claim, commit",
    "ClaimDelivered": "note the claim's offset",
    "HostsRead": "fold, settle, decide (releases included)",
    "DecisionDelivered": "note the decision's acknowledgement",
    "DecisionsRead": "read back",
}


def lines_of_decisions(fleet: Ledgers, flavor_count: int, batch: int, rounds: int) -> Iterator[tuple[str, float, str]]:
    """A whole decision, step by step."""
    loop = Loop(fleet, flavor_count)
    for number in range(HELD_ROUNDS + 2):
        loop.round(number, batch)
    spent: dict[str, list[float]] = defaultdict(list)
    placed = 0
    for number in range(1_000, 1_000 + rounds):
        loop.spent.clear()
        placed += loop.round(number, batch)
        for name, ns in loop.spent.items():
            spent[name].append(ns / 1_000 / batch)
        spent["whole"].append(sum(loop.spent.values()) / 1_000 / batch)
    assert placed == rounds * batch, f"{rounds * batch - placed} of {rounds * batch} requests were not placed"
    for name, words in STEPS.items():
        yield f"  {words}", median(spent[name]), ""
    yield (
        f"one decision, batches of {batch}, {flavor_count} flavors",
        median(spent["whole"]),
        f"{loop.replica.claims.counts.conflict_fraction:.3f} conflicts",
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.decision", description="CPU time of the scheduler's core")
    parser.add_argument("--hosts", type=int, default=10_000)
    parser.add_argument("--flavors", type=int, default=8)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=60)
    given = parser.parse_args()
    facts = ", ".join(f"{name} {value}" for name, value in machine().items())
    print(f"{given.hosts} hosts; {facts}\n")
    fleet = Ledgers(given.hosts)
    collector.calm()  # as in the scheduler's own process
    for words, us, note in lines_of_decisions(fleet, given.flavors, given.batch, given.rounds):
        print(f"{words:60} {us:10.1f} µs  {note}")


if __name__ == "__main__":
    main()
