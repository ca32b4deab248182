"""Replay: what is counted, what is sent when, how full the fleet is said to be, and what the command refuses."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commonplace.cli.replay import FORMAT_NAMES
from commonplace.core import hashing
from commonplace.core.codec import encode
from commonplace.core.host_keys import parse_key, snapshot_key
from commonplace.core.hosts import HostState, fold
from commonplace.core.records.decisions import Decision, Explanation, Placed, Position
from commonplace.core.records.hosts import Allocation, Snapshot
from commonplace.core.records.requests import Build
from commonplace.core.resources import Inventory
from commonplace.errors import CommonplaceError, StateChanged, TimedOut
from commonplace.ops.replay.book import Book, FirstRefusal, why
from commonplace.ops.replay.drive import Driver, WithCallback
from commonplace.ops.replay.fleet import packing
from commonplace.ops.replay.formats import FORMATS, Arrival
from commonplace.ops.replay.run import _split, latency_ms
from commonplace.ops.replay.samples import sample
from commonplace.ops.replay.schedule import Arrive, Depart, Event, events
from commonplace.ops.stack_environ import settings_environ
from commonplace.settings import Settings, load

HERE = Position(partition=0, offset=1)


def vm(name: str, at_s: float = 0, lifetime_s: float | None = None, **more: str) -> Arrival:
    return Arrival(id=name, at_s=at_s, lifetime_s=lifetime_s, flavor="f", resources={"VCPU": 2}, **more)  # type: ignore[arg-type]


def placed(request: str, conflicts: int = 0) -> Decision:
    one = Placed(instance=request, host="h", allocation=f"a-{request}", grant=HERE)
    return Decision(request=request, result="placed", position=HERE, placed=[one], conflicts=conflicts)


def refused(request: str) -> Decision:
    explained = Explanation(evaluated=9, filters={"status": 1, "memory": 8})
    return Decision(request=request, result="no_valid_host", position=HERE, explanation=explained)


# --- book -----------------------------------------------------------------------------------------------------------


def test_placed_requests_count_grants_conflicts_and_latency_from_when_they_were_due() -> None:
    book = Book({"VCPU": 8})
    for name, due in (("a", 1.0), ("b", 2.0)):
        book.ask(vm(name), due)
    assert book.answer("a", placed("a", conflicts=3), now_s=1.5)
    assert book.answer("b", placed("b"), now_s=2.25)
    assert (book.requests, book.placed, book.granted, book.conflicts) == (2, 2, 2, 3)
    assert list(book.latencies_s) == [0.5, 0.25]
    assert book.shares() == {"VCPU": 0.5}


def test_a_departure_gives_back_what_was_placed_once() -> None:
    book = Book({"VCPU": 8})
    book.ask(vm("a"), 0)
    decision = placed("a")
    book.answer("a", decision, 0)
    assert book.overdue("a") is None
    assert book.depart("a") is decision
    assert book.depart("a") is None
    assert (book.released, book.shares()) == (1, {"VCPU": 0.0})


def test_a_vm_that_departs_while_undecided_is_released_when_it_is_placed() -> None:
    book = Book({"VCPU": 8})
    book.ask(vm("a"), 0)
    assert book.depart("a") is None
    decision = placed("a")
    assert book.answer("a", decision, 0)
    assert book.overdue("a") is decision
    assert book.overdue("a") is None


@pytest.mark.parametrize("answer", [refused("a"), TimedOut("no answer")])
def test_a_vm_that_departs_while_undecided_and_is_not_placed_is_not_released(
    answer: Decision | CommonplaceError,
) -> None:
    book = Book({"VCPU": 8})
    book.ask(vm("a"), 0)
    book.depart("a")
    assert not book.answer("a", answer, 0)
    assert book.overdue("a") is None
    assert book.released == 0


def test_refusals_are_counted_by_reason_and_the_first_keeps_how_full_it_was() -> None:
    book = Book({"VCPU": 4})
    for name in "abc":
        book.ask(vm(name), 0)
    book.answer("a", placed("a"), 0)
    book.answer("b", refused("b"), 0)
    book.answer("c", TimedOut("x"), 0)
    assert (book.refused, book.unanswered) == (1, 1)
    assert book.reasons == {"no_valid_host: memory": 1, "TimedOut": 1}
    assert book.first_refusal == FirstRefusal(3, {"VCPU": 0.5})


def test_other_results_are_named_with_their_reason() -> None:
    assert why(Decision(request="a", result="rejected", reason="overloaded", position=HERE)) == "rejected: overloaded"
    assert why(Decision(request="a", result="expired", position=HERE)) == "expired"


def test_percentiles_are_in_milliseconds_and_absent_without_decisions() -> None:
    book = Book({})
    assert latency_ms(book) == {"p50": None, "p90": None, "p99": None}
    book.latencies_s.extend([0.001] * 99 + [1.0])
    assert latency_ms(book)["p50"] == 1.0


# --- drive ----------------------------------------------------------------------------------------------------------


class Future:
    """A request whose answer the test gives."""

    def __init__(self, request: Build) -> None:
        self.request = request
        self._answer: Decision | CommonplaceError | None = None
        self._call: Callable[[WithCallback], object] = lambda _: None

    def answer(self) -> Decision | CommonplaceError | None:
        return self._answer

    def add_done_callback(self, call: Callable[[WithCallback], object]) -> None:
        self._call = call
        if self._answer is not None:
            call(self)

    def give(self, answer: Decision | CommonplaceError) -> None:
        self._answer = answer
        self._call(self)


class FakeFrontend:
    """Notes what is sent; answers at once, or keeps the requests for the test to answer."""

    def __init__(
        self, answer: Callable[[str], Decision | CommonplaceError] | None = placed, late: bool = False
    ) -> None:
        self.sent: list[str] = []
        self.builds: list[Build] = []
        self.open: list[Future] = []
        self._answer = answer
        self._late = late

    def submit(self, build: Build, *, fresh: bool) -> Future:
        assert fresh
        self.sent.append(f"+{build.id}")
        self.builds.append(build)
        future = Future(build)
        if self._answer is None:
            self.open.append(future)
        else:
            future.give(self._answer(build.id))
        return future

    def confirm(self, decision: Decision) -> None:
        if self._late:
            raise StateChanged("too late")
        self.sent.append(f"={decision.request}")

    def release(self, decision: Decision) -> None:
        self.sent.append(f"-{decision.request}")


def driver(frontend: FakeFrontend, book: Book, in_flight_max: int = 8, speed: float = 0.0) -> Driver:
    return Driver(frontend, book, run_id="r", in_flight_max=in_flight_max, speed=speed)


def test_each_vm_is_submitted_confirmed_and_released_in_the_order_of_the_trace() -> None:
    frontend = FakeFrontend()
    driver(frontend, Book({})).run(events([vm("a", 0, 10), vm("b", 5), vm("c", 10, 1)]))
    assert frontend.sent == ["+r-a", "=r-a", "+r-b", "=r-b", "-r-a", "+r-c", "=r-c", "-r-c"]


def test_anti_affinity_rides_on_the_request() -> None:
    frontend = FakeFrontend()
    both = [vm("a", group="g", strategy="anti-affinity", project="p"), vm("b", group="g")]
    driver(frontend, Book({})).run(events(both))
    first, second = frontend.builds
    assert (first.group, first.group_max, first.project) == ("g", 1, "p")
    assert (second.group, second.group_max) == ("", 0)


def test_groups_that_a_host_can_hold_stay_together_and_larger_ones_ask_for_nothing() -> None:
    frontend = FakeFrontend()
    both = [vm("a", group="g", strategy="affinity"), vm("b", group="larger", strategy="affinity")]
    Driver(frontend, Book({}), run_id="r", in_flight_max=8, together={"g"}).run(events(both))
    first, second = frontend.builds
    assert (first.group, first.group_policy, first.group_max, first.profile) == ("g", "affinity", 0, "spread")
    assert (second.group, second.group_policy, second.profile) == ("", "", "")


def test_no_more_than_the_bound_are_in_flight() -> None:
    frontend, book, most = FakeFrontend(answer=None), Book({}), 0
    done = threading.Event()

    def answer_slowly() -> None:
        nonlocal most
        while not done.is_set():
            most = max(most, len(frontend.open))
            if frontend.open:
                frontend.open.pop(0).give(placed("r-x"))
            time.sleep(0.001)

    thread = threading.Thread(target=answer_slowly)
    thread.start()
    driver(frontend, book, in_flight_max=3).run(events([vm(str(n)) for n in range(40)]))
    done.set()
    thread.join()
    assert (book.placed, book.in_flight) == (40, 0)
    assert 1 <= most <= 3


def test_at_a_speed_requests_are_sent_when_due_and_latency_counts_from_then() -> None:
    frontend, book = FakeFrontend(answer=None), Book({})
    moments: list[float] = []
    submit = frontend.submit

    def timed(build: Build, *, fresh: bool) -> Future:
        moments.append(time.monotonic())
        future = submit(build, fresh=fresh)
        if len(moments) == 3:  # every answer comes only after the last request: an open loop does not wait for it
            for one in frontend.open:
                one.give(placed(one.request.id))
        return future

    frontend.submit = timed  # type: ignore[method-assign]
    driver(frontend, book, in_flight_max=1, speed=100).run(events([vm("a", 100), vm("b", 110), vm("c", 120)]))
    assert moments[1] - moments[0] >= 0.09
    assert moments[2] - moments[0] >= 0.19
    assert book.latencies_s[0] >= 0.19


def test_a_confirm_that_comes_too_late_is_counted() -> None:
    book = Book({})
    driver(FakeFrontend(late=True), book).run(events([vm("a")]))
    assert (book.placed, book.confirmed, book.reasons["confirm too late"]) == (1, 0, 1)


def test_a_dead_process_ends_a_replay_that_waits_for_answers() -> None:
    def watch() -> None:
        raise CommonplaceError("r1 ended by itself")

    waiting = Driver(FakeFrontend(answer=None), Book({}), run_id="r", in_flight_max=1, watch=watch)
    with pytest.raises(CommonplaceError, match="r1 ended"):
        waiting.run(events([vm("a"), vm("b")]))


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.none() | st.integers(0, 9), st.sampled_from(["yes", "no", "lost"]))),
    st.integers(1, 4),
)
def test_every_request_is_accounted_for_and_only_what_was_placed_is_released(
    vms: list[tuple[int, int | None, str]], in_flight_max: int
) -> None:
    fates = {f"r-{n}": fate for n, (_, _, fate) in enumerate(sorted(vms, key=lambda one: one[0]))}

    def answer(request: str) -> Decision | CommonplaceError:
        match fates[request]:
            case "yes":
                return placed(request)
            case "no":
                return refused(request)
        return TimedOut("lost")

    arrivals = [vm(str(n), at, life) for n, (at, life, _) in enumerate(sorted(vms, key=lambda one: one[0]))]
    frontend, book = FakeFrontend(answer), Book({"VCPU": 1000})
    driver(frontend, book, in_flight_max).run(events(arrivals))
    assert book.requests == book.placed + book.refused + book.unanswered == len(vms)
    mortal = {f"r-{a.id}" for a in arrivals if a.lifetime_s is not None}
    released = [one[1:] for one in frontend.sent if one.startswith("-")]
    assert sorted(released) == sorted(name for name in mortal if fates[name] == "yes")
    assert book.allocated["VCPU"] == 2 * (book.placed - book.released)


def test_events_split_at_the_last_arrival() -> None:
    sequence = events([vm("a", 0, 1), vm("b", 2, 5)])
    first, rest = _split(sequence, 2)
    assert _names(first) == ["a", "a", "b"]
    assert _names(rest()) == ["b"]


def _names(sequence: "object") -> list[str]:
    def name(event: Event) -> str:
        return event.arrival.id if isinstance(event, Arrive) else event.id

    return [name(event) for event in sequence if isinstance(event, Arrive | Depart)]  # type: ignore[attr-defined]


# --- fleet ----------------------------------------------------------------------------------------------------------


def host(name: str, vcpus: int, used: int) -> HostState:
    inventory = {"VCPU": Inventory(total=vcpus), "MEMORY_MB": Inventory(total=1000)}
    held = [Allocation(id=f"{name}-a", resources={"VCPU": used, "MEMORY_MB": 100})] if used else []
    value = hashing.host_part(inventory, (), {}, "enabled") + sum(hashing.allocation_hash(a) for a in held)
    snapshot = Snapshot(
        host=name,
        epoch=1,
        generation=0,
        claims_topic="t",
        claims_through=0,
        hash=hashing.to_hex(value & hashing.MASK),
        inventory=inventory,
        allocations=held,
    )
    state, key = HostState(name), parse_key(snapshot_key(name, 1))
    assert key is not None
    outcome, reason = fold(state, key, 5, 0, encode(snapshot))
    assert outcome == "applied", reason
    return state


def test_packing_counts_used_hosts_and_what_is_free_where_the_flavor_no_longer_fits() -> None:
    found = packing([host("a", 8, 7), host("b", 8, 0), host("c", 4, 2)], "f", {"VCPU": 2, "MEMORY_MB": 100})
    assert (found.hosts, found.hosts_used, found.hosts_empty) == (3, 2, 1)
    assert found.allocated_share == {"MEMORY_MB": 0.0667, "VCPU": 0.45}
    assert found.stranded_share == {"MEMORY_MB": 0.3, "VCPU": 0.05}


# --- command and stack ----------------------------------------------------------------------------------------------


def test_settings_reach_the_processes_of_a_stack_unchanged() -> None:
    given = load(
        environ={"COMMONPLACE__AGENT__HEARTBEAT_INTERVAL_S": "5", "COMMONPLACE__TOPICS__PREFIX": "other"},
        system_config=Path("/nonexistent"),
    )
    environ = settings_environ(given, "127.0.0.1:1")
    assert environ == {
        "COMMONPLACE__AGENT__HEARTBEAT_INTERVAL_S": "5.0",
        "COMMONPLACE__TOPICS__PREFIX": "other",
        "COMMONPLACE__KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1",
    }
    taken = load(environ=environ, system_config=Path("/nonexistent"))
    assert (taken.agent, taken.topics, taken.bootstrap) == (given.agent, given.topics, "127.0.0.1:1")


def test_a_cluster_s_secrets_stay_with_that_cluster() -> None:
    settings = Settings(kafka={"bootstrap.servers": "prod:9093", "sasl.password": "x"})
    assert "x" not in settings_environ(settings, "127.0.0.1:1").values()
    assert settings_environ(settings, "prod:9093")["COMMONPLACE__KAFKA__SASL_PASSWORD"] == "x"


TRACE = "(a good trace)"


def run_command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    program = "import sys; from commonplace.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "replay", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_names_every_format() -> None:
    assert set(FORMAT_NAMES) == set(FORMATS)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["x.csv", "--format", "azure"], "--format azure: must be one of azure-v1, azure-2020, huawei, csv"),
        (["x.csv", "--format", "csv"], "--hosts N"),
        (["x.csv", "--format", "csv", "-b", "h:1", "--hosts", "3"], "leave out --hosts"),
        (["x.csv", "--format", "csv", "--hosts", "3", "--host-shape", "big"], "host shape 'big'"),
        ([TRACE, "--format", "huawei", "--hosts", "3", "--profile", "packed"], "the nearest is pack"),
        (["no-such.csv", "--format", "csv", "--hosts", "3"], "no-such.csv: cannot be read: No such file"),
    ],
)
def test_what_cannot_be_meant_is_one_line_and_exit_2_before_anything_starts(
    tmp_path: Path, arguments: list[str], says: str
) -> None:
    (trace := tmp_path / "trace.csv").write_text("\n".join(sample("huawei", 3)))
    done = run_command(*(str(trace) if argument == TRACE else argument for argument in arguments))
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
