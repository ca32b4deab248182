"""Two pools on one broker, each with hosts and replicas of its own: routed, rerouted under load, stopped, crossed by moves and hosts."""

import json
import threading
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

import cli
from commonplace.core.records.control import Flavor, Profile
from commonplace.core.records.decisions import Decision
from commonplace.errors import CommonplaceError, UsageError
from commonplace.frontend import Confirmed, Pending, Released, Router
from commonplace.kafka import control
from commonplace.ops import audit
from e2e_world import SETTINGS, WAIT_S, World, until
from kafka_fixtures import KafkaUnderTest, skip_or_fail

pytestmark = [pytest.mark.real_kafka, pytest.mark.timeout(300)]

HOSTS = 6
SHAPE = "512vcpu:1024gb:1000gb"  # room for what every test leaves to lapse
# commands take seconds on a busy machine, and what they confirm must not have lapsed meanwhile
PATIENT = structs.replace(SETTINGS, scheduler=structs.replace(SETTINGS.scheduler, lease_ms=40_000))
FREE = Profile(name="free", builds_max=0, instances_max=0)
SMALL = {"VCPU": 1, "MEMORY_MB": 512}
FAST = Flavor(name="fast", resources=SMALL, pool="ssd", profile="free", spread=24)
WINDOWS = Flavor(name="windows", resources=SMALL, pool="licensed", profile="free", spread=24)


class Pools:
    """The pools ssd and licensed, and one router for both."""

    def __init__(self, bootstrap: str, work_dir: Path) -> None:
        prefix = f"pools-{uuid.uuid4().hex[:8]}"
        self.worlds: dict[str, World] = {}
        try:
            for number, (pool, flavor) in enumerate((("ssd", FAST), ("licensed", WINDOWS))):
                self.worlds[pool] = World(
                    bootstrap, prefix, work_dir / pool, hosts=HOSTS, shape=SHAPE, flavors=[flavor], profiles=[FREE], pool=pool,
                    first=1 + 1_000 * number, settings=PATIENT,
                )  # fmt: skip
            self.router = Router(self.ssd.settings)
        except BaseException:
            self.close()
            raise
        self.pendings: list[Pending] = []

    @property
    def ssd(self) -> World:
        return self.worlds["ssd"]

    @property
    def licensed(self) -> World:
        return self.worlds["licensed"]

    def close(self) -> None:
        if hasattr(self, "router"):
            self.router.close()
        for world in self.worlds.values():
            world.close()

    def submit(self, count: int, flavor: str, **fields: Any) -> list[Pending]:
        pendings = self.router.submit_many([self.router.request(flavor, **fields) for _ in range(count)])
        self.pendings += pendings
        return pendings

    def placed(self, pendings: Sequence[Pending]) -> list[Decision]:
        """Their decisions, all placed."""
        decisions = [pending.result(WAIT_S) for pending in pendings]
        assert {decision.result for decision in decisions} <= {"placed"}, decisions[:3]
        return decisions

    def run(self, *arguments: str, pool: str = "ssd") -> "tuple[int, str, str]":
        done = cli.run(*arguments, env=self.worlds[pool].stack.environ)
        return done.returncode, done.stdout, done.stderr

    def decided(self) -> dict[str, list[str]]:
        """The pools that hold a decision of a request, by request."""
        found: dict[str, list[str]] = {}
        for pool, world in self.worlds.items():
            for request in world.decisions():
                found.setdefault(request, []).append(pool)
        return found

    def held(self, pool: str, instance: str) -> list[str]:
        """States of the allocations of an instance in a pool."""
        held = self.worlds[pool].ledgers().held().values()
        return [allocation.get("state", "leased") for _, allocation in held if allocation.get("instance") == instance]

    def check(self) -> None:
        """Whatever was submitted has one decision, in one pool; both audits are clean."""
        asked = {pending.request.id for pending in self.pendings if isinstance(pending.answer(), Decision)}
        decided = self.decided()
        twice = {request: where for request, where in decided.items() if len(where) > 1}
        assert not twice, twice
        assert not asked - decided.keys()
        for pool, world in self.worlds.items():
            for request, found in world.decisions().items():
                assert len({json.dumps(record.get("placed")) for _, record in found}) == 1, (pool, request, found)
            report = audit.run(world.settings)
            broken = {n: tally.violations[:3] for n, tally in report.tallies.items() if tally.violated}
            assert report.verdict == "clean", (pool, broken)


@pytest.fixture(scope="module")
def started(kafka: KafkaUnderTest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pools]:
    if not kafka.real:
        skip_or_fail(f"end-to-end tests need Apache Kafka: {kafka.why_not_real}")
    made = Pools(kafka.bootstrap, Path(tmp_path_factory.mktemp("pools")))
    yield made
    made.close()


@pytest.fixture
def pools(started: Pools) -> Pools:
    """Both pools with all their processes, and no route but the flavors' own, whatever became of the test before."""
    for world in started.worlds.values():
        world.only("r1", "r2")
    control.write(started.ssd.settings, {"routing": None})
    until(lambda: "" if started.router.pool_of("fast") == "ssd" else "the route is not read")
    return started


def hosts_of(decisions: Sequence[Decision]) -> set[str]:
    return {placed.host for decision in decisions for placed in decision.placed}


def test_each_flavor_is_placed_by_its_pool_on_hosts_of_its_own(pools: Pools) -> None:
    fast, windows = pools.submit(40, "fast"), pools.submit(40, "windows")
    here, there = hosts_of(pools.placed(fast)), hosts_of(pools.placed(windows))
    assert here
    assert there
    assert not here & there
    decided = pools.decided()
    assert {tuple(decided[p.request.id]) for p in fast} == {("ssd",)}
    assert {tuple(decided[p.request.id]) for p in windows} == {("licensed",)}
    pools.check()


def test_capacity_and_its_metrics_carry_the_pool(pools: Pools) -> None:
    for pool, flavor, other in (("ssd", "fast", "windows"), ("licensed", "windows", "fast")):
        code, out, err = pools.run("capacity", "--pool", pool, "-o", "json")
        assert code == 0, err
        told = json.loads(out)
        names = {one["flavor"] for one in told["flavors"]}
        assert (told["pool"], told["hosts"], flavor in names, other in names) == (pool, HOSTS, True, False)
        samples = {name for name in pools.worlds[pool].metrics("r1") if name.startswith("commonplace_capacity{")}
        assert samples
        assert all(f'pool="{pool}"' in name for name in samples)


def test_a_route_changed_under_load_loses_nothing_and_decides_nothing_twice(pools: Pools) -> None:
    stop, mine, failed = threading.Event(), list[Pending](), list[CommonplaceError]()

    def load() -> None:
        try:
            while not stop.wait(0.1):
                mine.extend(pools.submit(5, "fast"))
        except CommonplaceError as e:
            failed.append(e)

    thread = threading.Thread(target=load)
    thread.start()
    try:
        for target in ("licensed", "ssd", "licensed"):
            seen = len(mine)
            until(lambda seen=seen: "" if len(mine) >= seen + 60 else "no load")  # type: ignore[misc]  # bound at once
            code, _, err = pools.run("route", "set", "fast", "--to", target)
            assert code == 0, err
            assert f"flavor fast is placed by pool {target}" in err
            assert "warning" not in err
        seen = len(mine)
        until(lambda: "" if len(mine) >= seen + 60 else "no load")
    finally:
        stop.set()
        thread.join()
    assert not failed, failed
    pools.placed(mine)
    decided = pools.decided()
    by_pool = {pool: sum(decided[p.request.id] == [pool] for p in mine) for pool in pools.worlds}
    assert sum(by_pool.values()) == len(mine)
    assert min(by_pool.values()) >= 60, by_pool

    # an id from before the change is answered from where it stands, by a frontend that knows of nothing but the log
    first = next(p for p in mine if decided[p.request.id] == ["ssd"])
    with Router(pools.licensed.settings) as another:
        assert another.pool_of("fast") == "licensed"
        assert another.submit(first.request).result(WAIT_S) == first.result()
    assert pools.run("route", "delete", "fast")[0] == 0
    pools.check()


def test_what_stands_in_the_old_pools_topic_is_settled_there_once_it_has_a_replica_again(pools: Pools) -> None:
    for name in ("r1", "r2"):
        pools.ssd.stack.end(name)
    waiting = pools.submit(30, "fast")
    pools.router.flush(WAIT_S)
    assert pools.run("route", "set", "fast", "--to", "licensed")[0] == 0
    until(lambda: "" if pools.router.pool_of("fast") == "licensed" else "the route is not read")
    after = pools.submit(30, "fast")
    pools.placed(after)
    assert not any(pending.done() for pending in waiting)
    pools.ssd.only("r1", "r2")
    pools.placed(waiting)
    decided = pools.decided()
    assert {tuple(decided[p.request.id]) for p in waiting} == {("ssd",)}
    assert {tuple(decided[p.request.id]) for p in after} == {("licensed",)}
    assert pools.run("route", "delete", "fast")[0] == 0
    until(lambda: "" if pools.router.pool_of("fast") == "ssd" else "the route is not read")
    pools.check()


def test_a_pool_that_is_stopped_does_not_touch_the_other(pools: Pools) -> None:
    for name in ("r1", "r2", "fleet"):
        pools.licensed.stack.end(name)
    waiting = pools.submit(20, "windows")
    for _ in range(5):
        pools.placed(pools.submit(20, "fast"))
    code, out, _ = pools.run("doctor", "--pool", "ssd")
    assert (code, "fail" in out) == (0, False), out
    assert not any(pending.done() for pending in waiting)
    pools.licensed.only("r1", "r2")
    pools.placed(waiting)
    pools.check()


def test_a_group_across_pools_is_refused_by_name_and_goes_on_in_its_own(pools: Pools) -> None:
    for decision in pools.placed(pools.submit(3, "fast", group="web", group_max=1)):
        pools.router.confirm(decision, wait=True)
    said = (
        r"group web has 3 members in pool ssd, and flavor windows is placed by pool licensed: .* or name another group"
    )
    with pytest.raises(UsageError, match=said):
        pools.submit(1, "windows", group="web")[0].result(WAIT_S)
    code, out, err = pools.run("submit", "--flavor", "windows", "--group", "web", "--wait", pool="licensed")
    assert (code, out) == (2, "")
    assert "group web has 3 members in pool ssd" in err
    pools.placed(pools.submit(1, "fast", group="web", group_max=1))
    pools.placed(pools.submit(2, "windows", group="mail"))
    pools.check()


def test_a_resize_into_the_other_pool_claims_and_confirms_there_before_it_releases_here(pools: Pools) -> None:
    (source,) = pools.placed(pools.submit(1, "fast"))
    pools.router.confirm(source, wait=True)
    instance = source.placed[0].instance
    moved = pools.router.move(source, "windows")
    assert (moved.source_pool, moved.target_pool) == ("ssd", "licensed")
    assert [type(one) for one in (*moved.confirmed, *moved.released)] == [Confirmed, Released]
    assert (pools.held("ssd", instance), pools.held("licensed", instance)) == ([], ["active"])

    # and back, by the command line, which finds it where it is
    code, out, err = pools.run("move", instance, "--flavor", "fast", "-o", "json")
    assert code == 0, err
    assert [(row["instance"], row["pool"]) for row in json.loads(out)] == [(instance, "ssd")]
    assert (pools.held("ssd", instance), pools.held("licensed", instance)) == (["active"], [])
    pools.check()


def test_a_move_that_fails_on_either_side_keeps_the_source_and_goes_on_with_the_same_id(pools: Pools) -> None:
    (source,) = pools.placed(pools.submit(1, "fast"))
    pools.router.confirm(source, wait=True)
    instance = source.placed[0].instance
    # no room on the other side
    moved = pools.router.move(source, "windows", host=source.placed[0].host)
    assert (moved.decision.result, moved.released) == ("no_valid_host", [])
    assert (pools.held("ssd", instance), pools.held("licensed", instance)) == (["active"], [])
    # nobody decides on the other side
    for name in ("r1", "r2"):
        pools.licensed.stack.end(name)
    code, _, err = pools.run("move", instance, "--flavor", "windows", "--id", f"move-{instance}", "--timeout", "2")
    assert code == 5
    assert "the source in pool ssd is untouched" in err
    assert pools.held("ssd", instance) == ["active"]
    pools.licensed.only("r1", "r2")
    # nobody answers on this side: the target is confirmed, the source still holds, and both are told
    pools.ssd.stack.end("fleet")
    code, _, err = pools.run("move", instance, "--flavor", "windows", "--id", f"move-{instance}", "--timeout", "20")
    assert code == 5, err
    assert "confirmed, and its source" in err
    assert (pools.held("ssd", instance), pools.held("licensed", instance)) == (["active"], ["active"])
    pools.ssd.only("r1", "r2")
    code, _, err = pools.run("move", instance, "--flavor", "windows", "--id", f"move-{instance}")
    assert code == 0, err
    assert (pools.held("ssd", instance), pools.held("licensed", instance)) == ([], ["active"])
    pools.check()


def inventory(path: Path, *hosts: str) -> Path:
    classes = {"VCPU": 8, "MEMORY_MB": 16_384}
    path.write_text(
        "".join(f"[hosts.{h}.inventory.{name}]\ntotal = {n}\n" for h in hosts for name, n in classes.items())
    )
    return path


def test_a_host_moves_to_the_other_pool_by_the_procedure_of_the_operations_page(pools: Pools, tmp_path: Path) -> None:
    file = inventory(tmp_path / "mover.toml", "mover")
    pools.ssd.stack.start_agent("mover", file)
    until(lambda: "" if "mover" in pools.run("hosts", "--pool", "ssd", "-o", "name")[1].split() else "not seen")
    (running,) = pools.placed(pools.submit(1, "fast", host="mover"))
    pools.router.confirm(running, wait=True)

    assert pools.run("host", "drain", "mover", "--pool", "ssd", "--reason", "to licensed")[0] == 0
    code, out, err = pools.run("move", running.request, "--flavor", "fast", "--ignore-host", "mover", "-o", "json")
    assert code == 0, err
    assert json.loads(out)[0]["host"] != "mover"
    assert pools.run("host", "drain", "mover", "--pool", "ssd", "--wait", "--timeout", "30")[0] == 0
    refused = pools.run("host", "forget", "mover", "--pool", "ssd")
    assert (refused[0], "stop its agent" in refused[2]) == (4, True)
    pools.ssd.stack.end("mover")
    until(lambda: pools.run("host", "forget", "mover", "--pool", "ssd")[2] if not forgotten(pools) else "", pause_s=1.0)

    pools.licensed.stack.start_agent("mover", file)
    until(lambda: "" if "mover" in pools.run("hosts", "--pool", "licensed", "-o", "name")[1].split() else "not seen")
    (there,) = pools.placed(pools.submit(1, "windows", host="mover"))
    assert there.placed[0].host == "mover"
    code, out, _ = pools.run("doctor", "--pool", "licensed")
    assert (code, "no host is live on two pools" in out) == (0, True), out
    pools.check()


def forgotten(pools: Pools) -> bool:
    return "mover" not in pools.run("hosts", "--pool", "ssd", "-o", "name")[1].split()


def test_a_host_that_is_live_in_two_pools_is_flagged_by_doctor_and_audit(
    kafka: KafkaUnderTest, prefix: str, tmp_path: Path
) -> None:
    agents = []
    file = inventory(tmp_path / "both.toml", "torn", "torn-2")
    env = {
        "COMMONPLACE__KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap,
        "COMMONPLACE__TOPICS__PREFIX": prefix,
        "COMMONPLACE__AGENT__HEARTBEAT_INTERVAL_S": "1",
    }
    try:
        for pool in ("ssd", "licensed"):
            assert cli.run("topics", "create", "--pool", pool, env=env).returncode == 0
            arguments = ("agent", "--name", f"{pool}-agent", "--driver", "static", "--file", str(file), "--pool", pool)
            agents.append(cli.start(*arguments, env=env))

        def not_flagged() -> str:
            done = cli.run("audit", "--pool", "ssd", env=env)
            return "" if done.returncode == 8 else done.stdout + done.stderr

        until(not_flagged, pause_s=1.0)
        audited = cli.run("audit", "--pool", "ssd", env=env)
        assert "torn reported here and to pool licensed for" in audited.stderr
        assert "torn-2 reported here and to pool licensed for" in audited.stderr
        for pool, other in (("ssd", "licensed"), ("licensed", "ssd")):
            done = cli.run("doctor", "--pool", pool, env=env)
            assert done.returncode == 1
            assert f"2 live on two pools: torn (also {other}), torn-2 (also {other})" in done.stdout
    finally:
        for process in agents:
            process.terminate()
        for process in agents:
            process.communicate(timeout=30)
