"""The crew: drivers polled when they have something to tell, and found instances told to every keeper."""

from commonplace.agent.crew import LOAD_INTERVAL_S, POLL_INTERVAL_S, Crew
from commonplace.agent.drivers import Event, Found, Gone, StaticDriver, Up
from commonplace.core.keeper_events import AdoptInstance, DriverSaid, LoadMeasured, StartInstance, StopInstance
from commonplace.core.records.hosts import Allocation
from commonplace.core.resources import Inventory

INVENTORY = {"VCPU": Inventory(total=8)}
VM = Found(instance="vm", resources={"VCPU": 1})


class CountingDriver(StaticDriver):
    __slots__ = ("measured", "polls", "running")

    def __init__(self, boot_s: float = 0.0, running: list[Found] | None = None, load: float | None = None) -> None:
        self.running = running
        self.polls = 0
        self.measured = load
        super().__init__(INVENTORY, boot_s=boot_s, found=None if running is None else lambda: tuple(running))

    def poll(self, now: float) -> list[Event]:
        self.polls += 1
        return super().poll(now)

    def load(self) -> dict[str, float]:
        return {} if self.measured is None else {"cpu_share": self.measured}


def start(allocation: str) -> StartInstance:
    return StartInstance("h", Allocation(id=allocation, resources={"VCPU": 1}, state="active"))


def test_a_driver_with_nothing_to_do_is_never_polled() -> None:
    driver = CountingDriver()
    crew = Crew({"h": driver})
    for second in range(100):
        assert list(crew.poll(float(second))) == []
    assert driver.polls == 0


def test_an_instance_is_up_when_its_boot_is_over_and_polled_no_more_often_than_needed() -> None:
    driver = CountingDriver(boot_s=5.0)
    crew = Crew({"h": driver})
    crew.perform(start("a"), 0.0)
    told = [(tick / 20, said) for tick in range(200) for said in crew.poll(tick / 20)]
    assert [(at >= 5.0, at < 5.3, said) for at, said in told] == [(True, True, DriverSaid("h", Up("a")))]
    assert driver.polls <= 3


def test_a_stopped_instance_never_comes_up() -> None:
    crew = Crew({"h": CountingDriver(boot_s=1.0)})
    crew.perform(start("a"), 0.0)
    crew.perform(StopInstance("h", start("a").allocation), 0.1)
    assert [said for tick in range(100) for said in crew.poll(tick / 20)] == []


def test_a_driver_that_always_looks_is_polled_at_its_interval() -> None:
    running = [VM]
    crew = Crew({"h": CountingDriver(running=running)})
    assert crew.look("h", 0.0) == [DriverSaid("h", VM)]
    assert crew.has_looked("h")
    assert list(crew.poll(POLL_INTERVAL_S / 2)) == []
    running.clear()
    assert list(crew.poll(POLL_INTERVAL_S)) == [DriverSaid("h", Gone("vm"))]


def test_what_was_found_is_told_again_to_a_keeper_built_anew() -> None:
    crew = Crew({"h": CountingDriver(running=[VM])})
    crew.look("h", 0.0)
    assert crew.look("h", 1.0) == [DriverSaid("h", VM)]


def test_a_found_instance_that_ended_while_no_agent_ran_is_gone_after_adoption() -> None:
    crew = Crew({"h": CountingDriver()})
    held = Allocation(id="found:vm", instance="vm", resources={"VCPU": 1}, state="active", origin="found")
    crew.perform(AdoptInstance("h", held), 0.0)
    assert crew.look("h", 0.0) == [DriverSaid("h", Gone("vm"))]


def test_load_is_measured_at_its_interval_and_asked_once_of_hosts_that_measure_none() -> None:
    crew = Crew({"h": CountingDriver(load=0.5), "still": CountingDriver()})
    assert crew.loads(0.0) == [LoadMeasured("h", {"cpu_share": 0.5})]
    assert crew.loads(LOAD_INTERVAL_S / 2) == []
    assert crew.loads(LOAD_INTERVAL_S) == [LoadMeasured("h", {"cpu_share": 0.5})]
