"""The simulated world: the same seed is the same world, every fault occurs, every checker is fed, and what fails can be shortened."""

import gc
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import requires, version
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

from cli import assert_one_line
from cli import run as cli
from commonplace.core import ledger
from commonplace.core.codec import decode, encode
from commonplace.core.records.control import HostControl
from commonplace.core.replica import Replica
from commonplace.core.replica_events import Lost
from commonplace.core.work import OPEN
from commonplace.sim import acting, at_rest, faults, plan, readers
from commonplace.sim.batch import CHUNK, Tally, run_range, run_seeds
from commonplace.sim.checkers import Checkers
from commonplace.sim.decoding import changed, remembered
from commonplace.sim.draw import MIXED, PROFILES, draw
from commonplace.sim.draw_faults import ON_RECORDS
from commonplace.sim.owners import Owners
from commonplace.sim.run import lived, run, run_seed
from commonplace.sim.shrink import shrink
from commonplace.sim.world import World

pytestmark = pytest.mark.timeout(300)  # the seeds of the regression list take half a minute of a whole core
QUIETLY = (lambda done, failed: None, lambda failure: None)
SRC = Path(__file__).parent.parent / "src"
DIGESTS = (
    "from commonplace.sim.run import run_seed\n"
    "for profile, seed in (('swarm', 3), ('swarm', 11), ('agents', 5), ('takeover', 7), ('compaction', 2), ('clocks', 4), ('shapes', 6)):\n"
    "    print(profile, seed, run_seed(seed, profile).digest)\n"
)


def known_bad() -> list[tuple[str, int]]:
    """Seeds that once failed: profile and seed stand first on each line, then what it was."""
    lines = (Path(__file__).parent / "seeds.txt").read_text().splitlines()
    return [(words[0], int(words[1])) for line in lines if (words := line.split()) and not line.startswith("#")]


REGRESSION = [
    *((profile, seed, seed) for profile, seed in known_bad()),
    ("swarm", 1, 60),
    ("agents", 1, 20),
    ("takeover", 1, 20),
    ("compaction", 1, 15),
    ("clocks", 1, 20),
    ("calm", 1, 10),
    ("shapes", 1, 25),
]
"""A fixed list, run every time: a change that breaks the protocol should not need luck to be seen."""


def digests(python: str, hash_seed: int) -> str:
    env = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "PYTHONPATH": str(SRC)}
    answer = subprocess.run([python, "-c", DIGESTS], env=env, capture_output=True, text=True, timeout=100, check=True)
    return answer.stdout


def newer_pythons() -> Iterator[str]:
    """Interpreters of later versions than this one, the newest first."""
    mine = sys.version_info[:2]
    found = [*Path.home().glob(".pyenv/versions/3.*/bin/python3"), *Path("/usr/bin").glob("python3.*[0-9]")]
    versions = []
    for python in found:
        code = "import sys, venv, ensurepip; print(*sys.version_info[:2])"
        answer = subprocess.run([str(python), "-c", code], capture_output=True, text=True, timeout=60, check=False)
        versions.append((tuple(map(int, answer.stdout.split())), str(python)))
    yield from (python for version, python in sorted(versions, reverse=True) if version > mine)


def with_packages(python: str, directory: Path) -> str:
    """The interpreter with this package's requirements, in the versions of here; "" where they cannot be had."""
    env = {**os.environ, "PYTHONPATH": str(SRC)}
    if not subprocess.run([python, "-c", "import commonplace.sim.run"], env=env, capture_output=True).returncode:
        return python
    subprocess.run([python, "-m", "venv", str(directory)], check=True, capture_output=True, timeout=100)
    there = str(directory / "bin/python")
    names = [re.match(r"[\w-]+", line)[0] for line in requires("commonplace") or () if "extra ==" not in line]  # type: ignore[index]  # all have one
    pip = [
        there,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--retries=0",
        "--only-binary=:all:",
    ]
    pinned = [f"{name}=={version(name)}" for name in names]
    answer = subprocess.run([*pip, *pinned], capture_output=True, text=True, timeout=150)
    print(answer.stderr[-500:])
    return "" if answer.returncode else there


@pytest.fixture(scope="module")
def tallies() -> dict[str, Tally]:
    """The regression list, run once for all that look at it."""
    found: dict[str, Tally] = {}
    for profile, first, last in REGRESSION:
        found.setdefault(profile, Tally()).add(run_range(first, last, profile))
    return found


# --- determinism ---------------------------------------------------------------------------------------------------------


def test_a_seed_is_the_same_world_whatever_the_hash_seed() -> None:
    first = digests(sys.executable, 1)
    assert first.count("\n") == 7
    assert digests(sys.executable, 2) == first


def test_a_seed_is_the_same_world_on_the_newest_python(tmp_path: Path) -> None:
    newest = os.environ.get("COMMONPLACE_OTHER_PYTHON") or next(newer_pythons(), "")
    if not newest:
        pytest.skip(f"no newer Python than {sys.version.split()[0]} is installed")
    equipped = with_packages(newest, tmp_path / "venv")
    if not equipped:
        pytest.skip(f"the packages that commonplace needs cannot be installed for {newest}")
    assert digests(equipped, 0) == digests(sys.executable, 0)


def test_a_trace_changes_nothing_and_says_the_same_twice() -> None:
    from commonplace.sim.run import traced

    outcome, lines = traced(draw(11))
    again, lines_again = traced(draw(11))
    assert lines == lines_again
    assert outcome == again == run_seed(11)
    assert any("claim by" in line for line in lines)


def test_past_its_time_a_range_begins_nothing_more() -> None:
    chunk = run_range(1, CHUNK, "calm")
    for jobs in (1, 2):
        some = run_seeds(1, 10_000, "calm", jobs, *QUIETLY, seconds=0)
        assert (some.schedules, some.events) == (CHUNK, chunk.events)


def test_a_range_is_the_same_in_one_process_and_in_two() -> None:
    alone = run_seeds(1, 60, "calm", 1, *QUIETLY)
    shared = run_seeds(1, 60, "calm", 2, *QUIETLY)
    alone.cpu_s = shared.cpu_s = 0.0
    assert round(alone.virtual_s, 3) == round(shared.virtual_s, 3)
    alone.virtual_s = shared.virtual_s = 0.0
    assert alone == shared


def test_few_ledgers_leave_out_what_they_settled() -> None:
    drawn = Counter(draw(seed).config.settled_max for seed in range(1_000))
    assert drawn[0] < 50
    assert drawn[1] + drawn[3] < 150
    assert all(drawn[settled_max] for settled_max in (0, 1, 3))


def test_the_last_reader_meets_what_compaction_leaves_in_the_end() -> None:
    for seed in range(1, 6):
        world = lived(draw(seed, "agents"))
        for partition in range(world.config.partitions):
            left = world.topics["hosts"].read(partition, 0, 1 << 30)[0]
            assert len({key for _, _, key, _ in left}) == len(left)
            assert all(value is not None for *_, value in left)


def test_some_replicas_hear_that_a_partition_is_anothers_while_its_request_is_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at_work: list[bool] = []
    lose = Replica._lost

    def lost(self: Replica, event: Lost, now_ms: int) -> None:
        works = self.book.works.values()
        at_work.append(any(work.partition == event.partition and work.state == OPEN for work in works))
        lose(self, event, now_ms)

    monkeypatch.setattr(Replica, "_lost", lost)
    run_range(1, 50, "takeover")
    assert 0.1 < sum(at_work) / len(at_work) < 0.5


# --- shared records ------------------------------------------------------------------------------------------------------


def test_nobody_changes_a_decoded_record_that_all_readers_share() -> None:
    with remembered() as memory:
        for profile in PROFILES:
            run_range(1, 5, profile)
        assert sum(len(remembering.known) for remembering in memory.values()) > 1_000
        assert changed(memory) == []


def test_a_changed_record_would_be_told() -> None:
    value = encode(HostControl(name="h0"))
    with remembered() as memory:
        decode("control", value).name = "h1"
        assert changed(memory) == [value]
    assert decode("control", value).name == "h0"


def test_a_world_that_is_over_leaves_little_to_collect(monkeypatch: pytest.MonkeyPatch) -> None:
    def left() -> int:
        gc.collect()
        gc.disable()
        try:
            run_seed(3)
            return gc.collect()
        finally:
            gc.enable()

    left()  # what is made once
    dissolved = left()
    monkeypatch.setattr(World, "dissolve", lambda world: None)
    assert left() > 3 * dissolved


# --- the protocol --------------------------------------------------------------------------------------------------------


def test_no_seed_of_the_regression_list_violates_an_invariant(tallies: dict[str, Tally]) -> None:
    assert {profile: tally.failures for profile, tally in tallies.items() if tally.failed} == {}


def test_states_are_compared_ten_times_a_schedule(tallies: dict[str, Tally]) -> None:
    for profile, tally in tallies.items():
        assert tally.digests >= 10 * tally.schedules, profile


def test_every_kind_of_fault_occurs(tallies: dict[str, Tally]) -> None:
    found: Counter[str] = Counter()
    for tally in tallies.values():
        found.update(tally.faults)
    assert [kind for kind in (*faults.KINDS, *ON_RECORDS) if not found[kind]] == []


def test_requests_end_in_every_way(tallies: dict[str, Tally]) -> None:
    found: Counter[str] = Counter()
    for tally in tallies.values():
        found.update(tally.results)
    assert [result for result in ("placed", "no_valid_host", "rejected", "expired") if found[result] < 20] == []


def test_every_checker_is_fed(monkeypatch: pytest.MonkeyPatch) -> None:
    fed: Counter[str] = Counter()
    for place in (Checkers, Owners, acting, at_rest, readers):
        for name, method in vars(place).items():
            if name.startswith("_") or not isinstance(method, FunctionType):
                continue

            def counted(*args: Any, _name: str = name, _method: Any = method, **more: Any) -> Any:
                fed[_name] += 1
                return _method(*args, **more)

            monkeypatch.setattr(place, name, counted)
    schedule = plan.Schedule(
        seed=1,
        config=plan.Config(claims_retention_ms=2_000, segment_records=1),
        items=tuple(plan.Submit(at_ms=200 * n, id=f"q{n}", confirm_ms=100) for n in range(20)),
        faults=(
            plan.Fault(kind="marker", at_ms=500, what="claims"),
            plan.Fault(kind="replica_crash", at_ms=6_000, ms=500),
            plan.Fault(kind="expire", at_ms=10_000),
            plan.Fault(kind="recreate", at_ms=12_000, what="requests"),
            plan.Fault(kind="truncate", at_ms=14_000, what="control"),
        ),
    )
    run(schedule)
    world = ["appended", "marked", "claims_read", "recreated", "truncated", "expired", "settled"]
    replicas = ["serves", "assigned", "lost", "claims", "decides", "committed", "told", "digest", "accounts"]
    assert [name for name in world + replicas if not fed[name]] == []


# --- a failing schedule --------------------------------------------------------------------------------------------------


@pytest.fixture
def careless_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger that grants whatever the expected hash: the checkers must see it."""
    monkeypatch.setattr(ledger.Ledger, "_refusal", lambda self, claim: ("", ""))


@pytest.mark.usefixtures("careless_ledger")
def test_a_failing_schedule_shrinks_to_one_that_fails_alike() -> None:
    schedule = next(draw(seed) for seed in range(1, 60) if run(draw(seed)).violations)
    before = {violation.invariant for violation in run(schedule).violations}
    short = shrink(schedule)
    assert {violation.invariant for violation in run(short).violations} & before
    assert len(short.faults) < len(schedule.faults) or len(short.items) < len(schedule.items)
    assert len(short.items) <= 8


def test_a_schedule_that_violates_nothing_stays_as_it_is() -> None:
    schedule = draw(1, "calm")
    assert shrink(schedule) is schedule


def test_a_core_that_raises_is_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: ledger.Ledger, claim: Any) -> Any:
        raise RuntimeError("planted")

    monkeypatch.setattr(ledger.Ledger, "_refusal", broken)
    outcome = run(plan.Schedule(seed=1, items=(plan.Submit(at_ms=0, id="q"),)))
    assert [violation.invariant for violation in outcome.violations] == [9]
    assert "RuntimeError" in outcome.violations[0].sentence


def test_garbage_reaches_no_broker_that_nobody_reaches() -> None:
    def written(*more: plan.Fault) -> tuple[int, int]:
        garbage = plan.Fault(kind="garbage", at_ms=2_000, what="requests")
        spoil = plan.Fault(kind="spoil", at_ms=2_000)
        items = (plan.Submit(at_ms=0, id="q"),)
        counts = run(plan.Schedule(seed=1, items=items, faults=(*more, garbage, spoil))).counts
        return counts.get("garbage", 0), counts.get("spoil", 0)

    assert written() == (1, 1)
    assert written(plan.Fault(kind="broker_down", at_ms=1_000, ms=3_000)) == (0, 0)
    assert written(plan.Fault(kind="disk_full", at_ms=1_000, ms=3_000)) == (0, 0)


@pytest.mark.parametrize("topic", ["hosts", "claims", "requests", "control", "replicas"])
def test_what_is_larger_than_anybody_reads_is_put_aside(topic: str) -> None:
    faults = (plan.Fault(kind="oversized", at_ms=2_000, what=topic),)
    outcome = run(plan.Schedule(seed=1, items=(plan.Submit(at_ms=0, id="q"),), faults=faults))
    assert outcome.counts["oversized"] == 1
    assert outcome.counts["quarantined"] >= 1
    assert outcome.violations == []


# --- schedules as text ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", PROFILES)
def test_a_schedule_as_text_reads_as_the_same_schedule(profile: str) -> None:
    for seed in range(60):
        schedule = draw(seed, profile)
        assert plan.parse(plan.text(schedule)) == schedule


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("submit id=q", "at_ms"),
        ("fault", "index"),
        ("config hosts=many", "int"),
        ("dance at_ms=1", "dance"),
        ("submit at_ms=1 id", "name=value"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(line: str, part: str) -> None:
    with pytest.raises(ValueError, match="line 2") as error:
        plan.parse(["# story", line])
    assert part in str(error.value)


# --- the command line ----------------------------------------------------------------------------------------------------


def test_sim_run_prints_figures_and_ends_with_0() -> None:
    answer = cli("sim", "run", "--seeds", "1..20", "--profile", "calm", "--jobs", "1", "-o", "json")
    assert answer.returncode == 0, answer.stderr
    assert '"schedules": 20' in answer.stdout
    assert '"failures": []' in answer.stdout


def test_sim_run_on_fresh_seeds_prints_them_and_others_each_time() -> None:
    answers = [cli("sim", "run", "--schedules", "2", "--profile", "mixed", "-o", "json") for _ in range(2)]
    seeds = [json.loads(answer.stdout)["seeds"] for answer in answers]
    assert [f"seeds {said}" in answer.stderr for said, answer in zip(seeds, answers, strict=True)] == [True, True]
    assert seeds[0] != seeds[1]
    first, last = map(int, seeds[0].split(".."))
    assert last == first + 1


def test_mixed_seeds_come_from_every_profile_and_half_of_them_from_the_swarm() -> None:
    others = len(PROFILES) - 1
    drawn = Counter(draw(seed, MIXED).profile for seed in range(20 * others))
    assert drawn == {"swarm": 10 * others, **dict.fromkeys(PROFILES[1:], 10)}
    assert draw(7, MIXED) == draw(7, "swarm")


def test_sim_show_tells_a_seed_line_by_line() -> None:
    answer = cli("sim", "show", "1", "--profile", "calm")
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.startswith("seed 1 profile=calm\nconfig ")
    assert "caught up with" in answer.stdout


def test_sim_shrink_of_a_good_seed_says_that_there_is_nothing_to_shrink() -> None:
    answer = cli("sim", "shrink", "1", "--profile", "calm")
    assert (answer.returncode, answer.stdout) == (0, "")
    assert "violates nothing" in answer.stderr


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("run", "--seeds", "9..1"), "A ≤ B"),
        (("run", "--profile", "wild"), "swarm"),
        (("run", "--seeds", "1..2", "--schedules", "2"), "one of them"),
        (("show", "no-such-file"), "neither a seed nor a file"),
    ],
)
def test_sim_with_wrong_arguments_says_so_in_one_line(arguments: tuple[str, ...], part: str) -> None:
    assert_one_line(cli("sim", *arguments), 2, part)
