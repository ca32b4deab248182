"""The core alone, without Kafka: what ranking, one delta and one whole decision cost in CPU time.

    python -m bench.micro [--hosts 10000] [--flavors 8] [--batch 100] [--rounds 60]

Every figure is CPU time of this process. The plain scan is measured in the same run on the same view, and what is fast must choose what it
chooses: a difference stops the run.
"""

import argparse
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

from bench.facts import machine
from bench.loop import flavors, profile
from commonplace import collector
from commonplace.core import replica_events as re
from commonplace.core.ask import ask_of
from commonplace.core.hosts import delta_key, snapshot_key, start_key
from commonplace.core.ledger import Ledger
from commonplace.core.ledger_events import Bounds, Configure, Taken
from commonplace.core.ranking import ScoreRow, column_scores, first_best, plain_scores
from commonplace.core.records import Allocation, Build, Claim, Release, Start, decode, encode
from commonplace.core.replica import Replica
from commonplace.core.resources import Inventory
from commonplace.core.view import Overlay, View

CLAIMS = "claims"
HELD_ROUNDS = 10
"""An instance is released so many rounds after it was placed: the fleet neither fills nor stands still."""


class Fleet:
    """Ledgers of many hosts on one partition, written to and read from memory."""

    def __init__(self, count: int) -> None:
        self.hosts: dict[str, Ledger] = {}
        self.offset = self.claims = 0
        inventory = {
            "VCPU": Inventory(total=64, allocation_ratio_thousandths=1_000),
            "MEMORY_MB": Inventory(total=262_144),
            "DISK_GB": Inventory(total=4_000),
        }
        self.first: list[re.Raw] = []
        for i in range(count):
            name = f"host-{i:05d}"
            epoch = self.offset
            self.first.append(self._raw(start_key(name), encode(Start(host=name))))
            ledger = Ledger(name, epoch, 0, CLAIMS, -1, Bounds())
            ledger.receive(Configure(inventory=inventory, traits=("HW_CPU_X86_AVX2",), labels={"zone": "z1"}), 0)
            self.first.append(self._raw(snapshot_key(name, epoch), encode(ledger.snapshot("bench"))))
            self.hosts[name] = ledger

    def _raw(self, key: bytes, value: bytes) -> re.Raw:
        self.offset += 1
        return (self.offset - 1, 1_000 + self.offset // 1_000, key, value)

    def take(self, value: bytes) -> int:
        """A claim or release reaches its ledger; returns its offset."""
        record = decode("claims", value)
        self.claims += 1
        self.hosts[record.host].receive(Taken(self.claims, 0, record), 0)
        return self.claims

    def report(self, host: str) -> re.Raw:
        """The host's next report: a delta, or a snapshot when the delta has grown as agents let it grow."""
        ledger = self.hosts[host]
        if ledger.changes > max(24, len(ledger.allocations) // 2):
            return self._raw(snapshot_key(host, ledger.epoch), encode(ledger.snapshot("bench")))
        return self._raw(delta_key(host, ledger.epoch), encode(ledger.delta()))


def cpu_us(work: Callable[[], object]) -> float:
    """CPU time of one call, in µs."""
    start = time.process_time_ns()
    work()
    return (time.process_time_ns() - start) / 1_000


def lines_of_ranking(fleet: Fleet, count: int) -> Iterator[tuple[str, float, str]]:
    """One choice after one change, and one delta under many active flavors."""
    view = View(1)
    for offset, at_ms, key, value in fleet.first:
        view.fold(0, offset, at_ms, key, value, 0)
    asks = [ask_of(flavor, Build(id="r", flavor=flavor.name), profile("spread")) for flavor in flavors(64)]
    rows = [ScoreRow(view, ask) for ask in asks]
    row, ask = rows[0], asks[0]
    row.refresh()

    def choose(i: int) -> Any:
        row.refresh()
        return row.choose(b"%d" % i)

    fast = []
    for i in range(count):
        start = time.process_time_ns()
        chosen = choose(i)
        fast.append((time.process_time_ns() - start) / 1_000)
        view.lay(chosen, Overlay(f"o-{i}", dict(ask.resources), "", i))
    yield "rank one request (refresh of one changed host, choice)", median(fast), ""
    row.refresh()
    columns = median(cpu_us(lambda: first_best(column_scores(view, ask, slice(None)), 0)) for _ in range(20))
    yield "rank by filtering every host, columns", columns, f"{columns / median(fast):.0f} × as long"
    plain = median(cpu_us(lambda: max(plain_scores(view, ask))) for _ in range(3))
    yield "rank by filtering every host, plain", plain, f"{plain / median(fast):.0f} × as long"
    assert row.scores.tolist() == plain_scores(view, ask), "the score row is not the plain scan"

    ledgers = list(fleet.hosts.values())
    folds: list[float] = []
    refreshes: list[float] = []
    for each in rows:
        each.refresh()
    for i in range(2 * count):
        if i == count:  # from here on the keys are known, as all are after a host's first report
            folds.clear()
            refreshes.clear()
        ledger = ledgers[i % count * 7919 % len(ledgers)]
        flavor = flavors(64)[i % 64]
        claim = Claim(
            host=ledger.host,
            request=f"d{i}",
            mode="fits",
            lease_ms=60_000,
            allocations=[allocation(f"d-{i}", flavor.resources)],
        )
        fleet.take(encode(claim))
        offset, at_ms, key, value = fleet.report(ledger.host)
        start = time.process_time_ns()
        view.fold(0, offset, at_ms, key, value, 0)
        view.write()
        folded = time.process_time_ns()
        for each in rows:
            each.refresh()
        refreshes.append((time.process_time_ns() - folded) / 1_000)
        folds.append((folded - start) / 1_000)
    yield "fold one delta (one allocation more)", median(folds), ""
    yield "and bring 64 active flavors up to date", median(refreshes), f"{median(refreshes) / 64:.2f} µs a flavor"


def allocation(name: str, resources: dict[str, int]) -> Allocation:
    """An allocation to claim."""
    return Allocation(id=name, request=name, resources=resources)


class Loop:
    """A replica and the fleet, joined without delay; each event's CPU time is counted under its name."""

    def __init__(self, fleet: Fleet, flavor_count: int) -> None:
        self.fleet = fleet
        self.replica = Replica("r1", "n", 1, CLAIMS, re.ReplicaSettings())
        self.names = [flavor.name for flavor in flavors(flavor_count)]
        self.spent: Counter[str] = Counter()
        self.offsets: Counter[str] = Counter()
        self.now = 1_000
        self.held: list[list[tuple[str, bytes]]] = []
        control = [(f"flavor/{f.name}".encode(), encode(f)) for f in flavors(flavor_count)]
        control.append((b"profile/bench", encode(profile("spread"))))
        self.receive(re.ControlRead([(i, 0, key, value) for i, (key, value) in enumerate(control)]))
        self.receive(re.HostsRead(0, fleet.first))
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
        return (self.offsets[topic] - 1, 1_000, key, value)

    def round(self, number: int, batch: int) -> int:
        """A batch of requests from reading to reading back the decisions; returns how many were placed."""
        names = self.names
        builds = [Build(id=f"q{number}-{i}", flavor=names[i % len(names)], project="p", user="u") for i in range(batch)]
        self.receive(re.RequestsRead(0, [self.raw("requests", b.flavor.encode(), encode(b)) for b in builds]))
        self.receive(re.Tick())
        claims = [e for e in self.receive(re.Turn()) if isinstance(e, re.SendClaim)]
        touched = dict.fromkeys(claim.key.decode() for claim in claims)
        for claim in claims:
            self.receive(re.ClaimDelivered(claim.allocation, self.fleet.take(claim.value)))
        if len(self.held) == HELD_ROUNDS:
            for host, release in self.held.pop(0):
                self.fleet.take(release)
                touched[host] = None
        for host in touched:
            self.fleet.hosts[host].claims_through = self.fleet.claims
        decisions = [
            e
            for e in self.receive(re.HostsRead(0, [self.fleet.report(host) for host in touched]))
            if isinstance(e, re.SendDecision)
        ]
        for decision in decisions:
            self.receive(re.DecisionDelivered(decision.token, True))
        self.receive(re.DecisionsRead(0, [self.raw("decisions", d.key, d.value) for d in decisions]))
        self.receive(re.Turn())
        held = []
        for decision in decisions:
            for p in decode("decisions", decision.value).placed:
                held.append(
                    (p.host, encode(Release(host=p.host, request=decision.key.decode(), allocation=p.allocation)))
                )
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


def lines_of_decisions(fleet: Fleet, flavor_count: int, batch: int, rounds: int) -> Iterator[tuple[str, float, str]]:
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
        f"{loop.replica.placer.counts.conflict_fraction:.3f} conflicts",
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="CPU time of the scheduler's core, without Kafka")
    parser.add_argument("--hosts", type=int, default=10_000)
    parser.add_argument("--flavors", type=int, default=8)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=60)
    given = parser.parse_args()
    facts = ", ".join(f"{name} {value}" for name, value in machine().items())
    print(f"{given.hosts} hosts; {facts}\n")
    fleet = Fleet(given.hosts)
    collector.calm()  # as in the scheduler's own process
    for words, us, note in [
        *lines_of_decisions(fleet, given.flavors, given.batch, given.rounds),
        *lines_of_ranking(Fleet(given.hosts), 500),
    ]:
        print(f"{words:60} {us:10.1f} µs  {note}")


if __name__ == "__main__":
    main()
