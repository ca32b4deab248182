"""Each planted bug is noticed on a seed known to notice it, which is clean without the bug.

Seeds stand in planted.txt, as `bug seed invariant`. When workload or faults are drawn otherwise, they are found anew by
`pytest tests/test_sim_planted.py --regenerate-scenarios`, which takes some minutes.
"""

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from commonplace.core import cells, hashing, hosts, keeper, placing, replacing, write_ahead
from commonplace.core.admission import Admission
from commonplace.core.catalog import Catalog
from commonplace.core.claims import Claims
from commonplace.core.deciding import Decider
from commonplace.core.deliveries import Deliveries
from commonplace.core.group_turns import GroupTurns
from commonplace.core.history import History
from commonplace.core.hosts import HostState
from commonplace.core.keeper import Keeper
from commonplace.core.ledger import Ledger
from commonplace.core.ledger_reports import ReportedHoldings
from commonplace.core.ledgers import Ledgers
from commonplace.core.placing import Placer
from commonplace.core.readback import Readback
from commonplace.core.replica import Replica
from commonplace.core.resources import Inventory
from commonplace.core.work import Work
from commonplace.sim.agents import AgentProcess
from commonplace.sim.batch import CHUNK, run_seeds
from commonplace.sim.hunt import RANGES, clean_processes, hunt
from commonplace.sim.planted import BUGS, Bug, bug, planted
from commonplace.sim.replicas import ReplicaProcess
from commonplace.sim.run import run_seed
from commonplace.sim.world import World

KNOWN = Path(__file__).parent / "planted.txt"
PATCHED = (
    Admission, AgentProcess, Catalog, Claims, Decider, Deliveries, GroupTurns, History, HostState, Inventory, Keeper, Ledger, Ledgers,
    Placer, Readback, Replica, ReplicaProcess, ReportedHoldings, Work, World,
    cells, hashing, hosts, keeper, placing, replacing, write_ahead,
)  # fmt: skip


def known() -> dict[int, tuple[int, int]]:
    """Bug → seed that notices it, and the invariant that it then violates."""
    rows = [line.split() for line in KNOWN.read_text().splitlines() if line and not line.startswith("#")]
    return {int(number): (int(seed), int(invariant)) for number, seed, invariant in rows}


def violated(number: int, seed: int) -> list[str]:
    return [violation.sentence for violation in run_seed(seed, bug(number).profile).violations]


@pytest.mark.timeout(900)
def test_every_planted_bug_is_noticed_and_nothing_else_is(pytestconfig: pytest.Config) -> None:
    with ProcessPoolExecutor(2, mp_context=clean_processes(), max_tasks_per_child=1) as pool:
        if pytestconfig.getoption("regenerate_scenarios"):
            catches = list(pool.map(hunt, [bug.number for bug in BUGS], [RANGES[0]] * len(BUGS)))
            KNOWN.write_text("".join(f"{catch.number} {catch.seed} {catch.invariant}\n" for catch in catches))
        seeds = known()
        caught = list(pool.map(hunt, seeds, [seed for seed, _ in seeds.values()], [1] * len(seeds)))
        clean = dict(zip(seeds, pool.map(violated, seeds, [seed for seed, _ in seeds.values()]), strict=True))
    assert {catch.number: catch.invariant for catch in caught} == {n: invariant for n, (_, invariant) in seeds.items()}
    assert not {number: sentences for number, sentences in clean.items() if sentences}


def test_a_failing_seed_is_told_before_the_last_has_run() -> None:
    seed, invariant = known()[1]
    told: list[Any] = []
    with planted(bug(1)):
        tally = run_seeds(
            seed,
            seed + CHUNK,
            bug(1).profile,
            1,
            lambda done, failed: told.append(done),
            lambda found: told.append(found),
        )
    assert (told[0].seed, told[0].invariant) == (seed, invariant)
    assert told[-1] == CHUNK + 1
    assert [one for one in told if not isinstance(one, int)] == tally.failures


def test_every_bug_has_a_known_seed() -> None:
    assert set(known()) == {bug.number for bug in BUGS}
    assert all(seed > 0 and invariant for seed, invariant in known().values())


@pytest.mark.parametrize("bug", BUGS, ids=[f"{bug.number}-{bug.name.replace(' ', '-')}" for bug in BUGS])
def test_bug_changes_the_core_while_it_is_planted_and_leaves_nothing_behind(bug: Bug) -> None:
    before = [dict(vars(owner)) for owner in PATCHED]
    with planted(bug):
        assert [dict(vars(owner)) for owner in PATCHED] != before, (
            "the patch changes nothing that is known to be patched"
        )
    assert [dict(vars(owner)) for owner in PATCHED] == before


def test_bugs_are_numbered_and_say_what_they_break() -> None:
    assert len({bug.number for bug in BUGS}) == len(BUGS)
    assert all(bug.breaks.endswith(".") and "\n" not in bug.breaks for bug in BUGS)
    assert {bug.number for bug in BUGS} >= set(range(1, 40))
