"""The parts of the chaos driver that need no broker: plan, links, histories, and the judge of what clients were told."""

import contextlib
import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chaos_real import garbage, history, judge, run, topics
from chaos_real.history import Asked, History, Told, Writer
from chaos_real.judge import Facts
from chaos_real.plan import CALM_S, CYCLE_S, KINDS, plan
from chaos_real.proxy import Link, Proxy
from commonplace.core.codec import Bad, decode
from commonplace.kafka.broker import LocalBroker
from commonplace.kafka.jars import BrokerError
from commonplace.kafka.ports import free_port
from e2e_world import until

# --- plan ------------------------------------------------------------------------------------------------------------


def test_the_same_seed_draws_the_same_plan_and_another_seed_another() -> None:
    assert plan(7, 600, 1.0) == plan(7, 600, 1.0)
    assert plan(7, 600, 1.0) != plan(8, 600, 1.0)


def test_a_plan_leaves_calm_in_each_cycle_and_befalls_only_whom_a_kind_may() -> None:
    targets = {kind.name: kind.targets for kind in KINDS}
    drawn = plan(1, 1_200, 0.5)
    assert drawn
    for injection in drawn:
        assert injection.at_s % CYCLE_S < CYCLE_S - CALM_S
        assert injection.target in targets[injection.kind]


def test_swarm_turns_kinds_off_and_without_it_each_comes_once_before_any_comes_twice() -> None:
    some = [{injection.kind for injection in plan(seed, 3_000, 0.3)} for seed in range(5)]
    assert all(len(kinds) < len(KINDS) for kinds in some)
    assert set().union(*some) == {kind.name for kind in KINDS}
    first = plan(1, 600, 1.0, swarm=False)[: len(KINDS)]
    assert Counter(injection.kind for injection in first) == Counter(kind.name for kind in KINDS)


# --- a start that fails ----------------------------------------------------------------------------------------------


class SmallDisk:
    """Stands for the mounted one."""

    why_not = "none is mounted here"
    mounted = False

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        SmallDisk.mounted = True

    def close(self) -> None:
        SmallDisk.mounted = False


def test_the_slack_covers_the_longest_fault_of_a_process_a_broker_and_a_link_in_a_row() -> None:
    longest = {kind: max(k.most_s for k in KINDS if k.name.startswith(kind)) for kind in ("replica", "broker", "link")}
    assert sum(longest.values()) < judge.SLACK_MS / 1000
    assert max(kind.most_s for kind in KINDS) == longest["replica"]


@pytest.mark.parametrize(("part", "of"), [("make", run), ("Proxy", run), ("start", LocalBroker)])
def test_a_run_that_cannot_start_says_why_and_leaves_no_disk_mounted(
    part: str, of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise BrokerError("no java, or a port taken")

    monkeypatch.setattr(run, "Disk", SmallDisk)
    monkeypatch.setattr(of, part, fails)
    with pytest.raises(BrokerError, match="no java"):
        run.Run(run.Options(1, 1.0, trace=tmp_path / "t.csv", say=lambda _: None), tmp_path).go()
    assert not SmallDisk.mounted
    assert not (tmp_path / "disk").exists()


def test_a_process_past_the_ceiling_of_memory_is_a_violation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "Disk", SmallDisk)
    monkeypatch.setattr(run.Run, "_prepare", lambda _: None)
    chaos = run.Run(run.Options(1, 1.0, say=lambda _: None), tmp_path)
    chaos.rss.update({"r1": run.RSS_MB_MAX, "fleet": run.RSS_MB_MAX + 1, "f1": run.RSS_MB_MAX + 1})
    chaos._bound_memory()
    assert [(problem.rule, problem.text.split()[0]) for problem in chaos.problems] == [("memory", "fleet")]


# --- links -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that sends back what it gets; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve(connection: socket.socket) -> None:
            with connection, contextlib.suppress(ConnectionError):
                while data := connection.recv(1000):
                    connection.sendall(data)

        def accept() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def link(echo: int) -> Iterator[Link]:
    link = Link("r1", free_port(), echo)
    proxy = Proxy({"r1": link})
    yield link
    proxy.close()


def connect(link: Link, timeout_s: float = 10.0) -> socket.socket:
    return socket.create_connection(("127.0.0.1", link.port), timeout=timeout_s)


def silent(connection: socket.socket) -> bool:
    connection.settimeout(0.3)
    try:
        return not connection.recv(10)
    except TimeoutError:
        return True
    finally:
        connection.settimeout(10)


def test_a_link_carries_bytes_both_ways(link: Link) -> None:
    with connect(link) as connection:
        connection.sendall(b"there and back")
        assert connection.recv(100) == b"there and back"


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_cut_holds_bytes_one_way_and_lets_them_go_when_healed(link: Link, way: str) -> None:
    with connect(link) as connection:
        connection.sendall(b"1")
        assert connection.recv(10) == b"1"
        getattr(link, way).held = True
        before = link.up.bytes
        connection.sendall(b"2")
        assert silent(connection)
        assert (link.up.bytes > before) == (way == "down")
        link.heal()
        assert connection.recv(10) == b"2"


def test_what_a_client_sent_before_its_end_arrives_after_a_cut(link: Link, echo: int) -> None:
    connection = connect(link)
    connection.sendall(b"1")
    assert connection.recv(10) == b"1"
    link.up.held = True
    before = link.up.bytes
    connection.sendall(b"last words")
    connection.close()
    link.heal()
    until(lambda: "" if link.up.bytes == before + len(b"last words") else "nothing came")


def test_a_half_open_link_accepts_and_never_answers(link: Link) -> None:
    link.accepting = "half_open"
    with connect(link) as connection:
        connection.sendall(b"anybody?")
        assert silent(connection)
        link.heal()
        assert connection.recv(100) == b"anybody?"


def ending(link: Link) -> str:
    """How the other side ends a connection, whatever came before."""
    try:
        with connect(link) as connection:
            connection.sendall(b"1")
            while connection.recv(10):
                pass
    except ConnectionError:
        return "reset"
    return "closed"


def test_a_link_that_refuses_resets_at_once(link: Link) -> None:
    link.accepting = "refuse"
    assert ending(link) == "reset"


def test_a_lossy_link_resets_connections(link: Link) -> None:
    link.up.reset_share = 1.0
    assert ending(link) == "reset"
    until(lambda: "" if link.resets == 1 else "no reset is counted")


def test_a_delayed_link_keeps_the_order(link: Link) -> None:
    link.up.delay_s = 0.2
    with connect(link) as connection:
        began = time.monotonic()
        for number in range(10):
            connection.sendall(b"%d" % number)
            time.sleep(0.005)
        got = b""
        while len(got) < 10:
            got += connection.recv(10)
        assert got == b"0123456789"
        assert time.monotonic() - began >= 0.2


# --- topics and garbage ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [None, b"", b'{"a": "\xc3\xbc\\n"}', b"\xff\xfe{}", b"line\nand\r\xe2\x80\xa8more"])
def test_records_are_saved_byte_by_byte(data: bytes | None) -> None:
    line = json.dumps(topics.as_text(data), ensure_ascii=False)
    assert "\n" not in line
    assert topics.as_bytes(json.loads(line)) == data


GOLDEN = {"snapshot": "hosts", "delta": "hosts", "claim": "claims", "release": "claims", "build": "requests",
          "decision": "decisions", "flavor": "control", "replica": "replicas"}  # fmt: skip


@pytest.mark.parametrize(("name", "topic"), GOLDEN.items())
@pytest.mark.parametrize("seed", range(20))
def test_garbage_is_never_a_good_record(name: str, topic: str, seed: int) -> None:
    good = (Path(__file__).parent / "golden" / f"{name}.json").read_bytes().strip()
    for spoil in garbage.BREAKS:
        value = spoil(good, random.Random(seed))
        assert value is None or isinstance(decode(topic, value), Bad), value[:200]


# --- histories -------------------------------------------------------------------------------------------------------


def test_a_history_is_read_as_it_was_written_and_says_what_is_open_and_held(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "f1.jsonl")
    writer.write("begin")
    for request in ("a", "b"):
        writer.write("submit", build={"id": request})
    writer.write("acked", id="a", p=1, o=7)
    writer.write("answer", id="a", decision={"result": "placed"})
    writer.write("answer", id="b", error="TimedOut", text="…")
    writer.write("confirm", id="a", allocations=["x", "y"])
    writer.write("taken", type="confirm", allocation="x", p=0, o=3)
    writer.write("release", id="a", allocations=["y"])
    with (tmp_path / "f1.jsonl").open("ab") as file:
        file.write(b'{"what":"submit","at":1,"buil')
    found = history.read(tmp_path / "f1.jsonl")
    assert found.begins == 1
    assert found.asked["a"].acked == (1, 7)
    assert found.open() == [{"id": "b"}]
    assert found.held() == {"a": ["x"]}
    assert found.told["x"].places == [("confirm", 0, 3)]


# --- judge -----------------------------------------------------------------------------------------------------------


def placed(allocation: str = "x") -> dict[str, Any]:
    return {"result": "placed", "placed": [{"allocation": allocation}], "confirm_within_ms": 5_000}


def good() -> tuple[History, Facts]:
    """One request, placed, confirmed in time and active; another one, refused."""
    asked = {
        "a": Asked({"id": "a"}, submitted_ms=1_000, acked=(0, 0), decision=placed()),
        "b": Asked({"id": "b"}, submitted_ms=1_000, acked=(0, 1), decision={"result": "no_valid_host"}),
    }
    told = {"x": Told("a", confirm_sent=True, confirmed_ms=3_000, places=[("confirm", 2, 5)])}
    answers = [(request, one.decision or {}) for request, one in asked.items()]
    facts = Facts(
        requests={(0, 0): "a", (0, 1): "b"},
        claims={(2, 5): ("confirm", "x")},
        effective={"a": placed(), "b": {"result": "no_valid_host"}},
        contents={"a": set(), "b": set()},
        held={"x": "active"},
        twice=[],
    )
    return History(asked=asked, told=told, answers=answers), facts


def lost_request(_: History, facts: Facts) -> None:
    del facts.requests[0, 0]


def undecided(history: History, facts: Facts) -> None:
    del facts.effective["b"]
    history.answers.pop()


def told_otherwise(_: History, facts: Facts) -> None:
    facts.effective["b"] = {"result": "expired"}


def told_another_placement(history: History, facts: Facts) -> None:
    history.answers[0] = ("a", placed("z"))


def told_of_a_reuse_that_nobody_wrote(history: History, _: Facts) -> None:
    history.answers.append(("a", {"result": "rejected", "reason": "id_reused", "content": "12"}))


def lost_confirm(_: History, facts: Facts) -> None:
    del facts.claims[2, 5]


def confirmed_and_gone(_: History, facts: Facts) -> None:
    facts.held.clear()


def confirmed_by_the_host_and_gone(history: History, facts: Facts) -> None:
    facts.held.clear()
    history.told["x"].confirmed_ms = -1
    history.told["x"].outcomes.append("Confirmed")


def given_back_and_held(history: History, _: Facts) -> None:
    history.told["x"].release_sent = history.told["x"].released = True


def leased_at_the_end(_: History, facts: Facts) -> None:
    facts.held["x"] = "leased"


def held_for_nobody(_: History, facts: Facts) -> None:
    facts.held["ghost"] = "active"


def active_without_a_confirm(history: History, facts: Facts) -> None:
    del history.told["x"]


def held_twice(_: History, facts: Facts) -> None:
    facts.twice.append("x")


BREACHES: dict[Callable[[History, Facts], None], str] = {
    lost_request: "acknowledged",
    undecided: "decided",
    told_otherwise: "told",
    told_another_placement: "told",
    told_of_a_reuse_that_nobody_wrote: "told",
    lost_confirm: "acknowledged",
    confirmed_and_gone: "holds",
    confirmed_by_the_host_and_gone: "holds",
    given_back_and_held: "given back",
    leased_at_the_end: "settled",
    held_for_nobody: "held",
    active_without_a_confirm: "held",
    held_twice: "one host",
}


def test_a_history_that_agrees_with_the_topics_is_clean() -> None:
    one, facts = good()
    assert judge.clients({"f1": one}, facts) == []


@pytest.mark.parametrize("breach", BREACHES, ids=lambda breach: breach.__name__)
def test_each_broken_promise_is_found(breach: Callable[[History, Facts], None]) -> None:
    one, facts = good()
    breach(one, facts)
    assert BREACHES[breach] in {violation.rule for violation in judge.clients({"f1": one}, facts)}


def late(history: History, facts: Facts) -> None:
    history.told["x"].confirmed_ms = 6_001
    facts.held.clear()


def cancelled(history: History, facts: Facts) -> None:
    history.asked["a"].cancelled = True
    facts.held.clear()


def given_back(history: History, facts: Facts) -> None:
    history.told["x"].release_sent = history.told["x"].released = True
    facts.held.clear()


def not_acknowledged(history: History, facts: Facts) -> None:
    history.asked["b"].acked = None
    del facts.effective["b"], facts.requests[0, 1]
    history.answers.pop()


@pytest.mark.parametrize("excuse", [late, cancelled, given_back, not_acknowledged], ids=lambda excuse: excuse.__name__)
def test_what_was_never_promised_is_no_violation(excuse: Callable[[History, Facts], None]) -> None:
    one, facts = good()
    excuse(one, facts)
    assert judge.clients({"f1": one}, facts) == []


def test_decisions_are_effective_in_log_order_and_refusals_of_a_reused_id_never_are() -> None:
    from commonplace.ops.audit import Entry

    facts = Facts({}, {}, {}, {"a": set()}, {}, [])
    reused = {"type": "decision", "request": "a", "result": "rejected", "reason": "id_reused", "content": "12"}
    first = {"type": "decision", "request": "a", **placed("x")}
    for offset, record in enumerate([reused, first, {**first, **placed("y")}]):
        facts.decide(Entry(0, offset, 0, b"a", json.dumps(record).encode()), record)
    assert facts.effective == {"a": first}
    assert facts.contents == {"a": {"12"}}
