"""What a refusal and its explanation cost, without Kafka; a placement pays for none of it.

    python -m bench.explaining [--hosts 1000 10000] [--rounds 9]

CPU time of this process, median of the rounds. Hosts are of one shape with one zone, empty; what is asked for fits on none.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Final

from commonplace.bench.facts import cpu_us, machine
from commonplace.bench.ledgers import Ledgers
from commonplace.bench.rank import view_of
from commonplace.core.catalog import Catalog
from commonplace.core.codec import encode
from commonplace.core.explaining import table, wishes_of
from commonplace.core.impossible import impossible
from commonplace.core.ranking import ScoreRow
from commonplace.core.records.control import Flavor, Profile
from commonplace.core.records.requests import Build
from commonplace.core.rules import Wishes
from commonplace.core.turned_away import explain
from commonplace.core.view import View

FITS: Final = Flavor(name="fits", resources={"VCPU": 2, "MEMORY_MB": 4096})
HUGE: Final = Flavor(name="huge", resources={"VCPU": 65, "MEMORY_MB": 4096})
PLAIN: Final = Build(id="r", flavor="huge")
ASKED: Final = Build(id="r", flavor="huge", zone="z1", hints={"query": ('[">=", "$free_ram_mb", 1024]',)})
ROOMY: Final = Build(id="r", flavor="fits")
NOVA: Final = Build(id="r", flavor="fits", profile="nova")


def lines(hosts: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """Each thing measured, and the call that does it."""
    view, catalog = view_of(Ledgers(hosts)), Catalog("default")
    for record in (FITS, HUGE, Profile(name="default", weighers={"cpu": 1.0, "ram": 1.0, "io_ops": -0.05})):
        assert not catalog.fold(f"{type(record).__name__.lower()}/{record.name}".encode(), encode(record))[2]
    row = ScoreRow(view, wishes(catalog, ROOMY).ask)
    row.refresh()
    yield "a placement: one choice, nothing explained", lambda: row.choose(b"seed")
    for words, build in (("plain", PLAIN), ("with a zone and a query, asked host by host", ASKED)):
        asked = wishes(catalog, build)
        rules = asked if build is ASKED else None
        yield f"a refusal, on the replica: {words}", partial(_refuse, view, asked, rules)
    tables = {
        "a refusal, plain": PLAIN,
        "a refusal with zone and query": ASKED,
        "of hosts that pass": ROOMY,
        "of hosts that pass, profile nova": NOVA,
    }
    for words, build in tables.items():
        yield f"the whole table, on request: {words}", partial(table, view, catalog, build)


def _refuse(view: View, asked: Wishes, rules: Wishes | None) -> None:
    impossible(view, asked.ask, asked.build)
    explain(view, asked.ask, (), rules)


def wishes(catalog: Catalog, build: Build) -> Wishes:
    """The request as filters see it."""
    found = wishes_of(catalog, build)
    assert isinstance(found, Wishes), found
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="CPU time of refusals and explanations, without Kafka")
    parser.add_argument("--hosts", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    print(", ".join(f"{name} {value}" for name, value in machine().items()))
    for hosts in given.hosts:
        print(f"\n{hosts} hosts")
        for words, call in lines(hosts):
            call()
            print(f"  {words:<70}{median(cpu_us(call) for _ in range(given.rounds)) / 1_000:10.3f} ms")


if __name__ == "__main__":
    main()
