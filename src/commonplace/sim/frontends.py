"""A simulated frontend: the shipped `Session`, and a submitter behind it who follows the plan of each request."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from commonplace.core.records.decisions import Decision
from commonplace.core.replica_events import Raw
from commonplace.core.requests import serialised_group
from commonplace.frontend.events import (
    Answer,
    AskConfirm,
    AskRelease,
    ControlRead,
    DecisionsRead,
    LookBack,
    Looked,
    Quarantine,
    Refusal,
    SendClaimRecord,
    SendFailed,
    SendRequest,
    Sent,
    Tick,
    Why,
    Withdraw,
)
from commonplace.frontend.events import Submit as SubmitEvent
from commonplace.frontend.session import Session
from commonplace.sim import plan
from commonplace.sim.members import Process
from commonplace.sim.surroundings import Surroundings
from commonplace.sim.wires import Source

IN_FLIGHT_MAX: Final = 10_000
MOVED_MS: Final = 500
INSIST_MAX: Final = 3
"""How often a submitter asks again under the same id."""
CONTROL, DECISIONS = range(2)
TICK: Final = Tick()


class FrontendProcess(Process):
    """One frontend and its submitters."""

    def __init__(self, world: Surroundings, name: str) -> None:
        super().__init__(world, name)
        config = world.config
        self.session = Session("default", config.request_partitions, config.partitions, IN_FLIGHT_MAX)
        self.plans: dict[int, tuple[plan.Submit, int]] = {}  # token → plan, which try
        self.partitions: dict[str, int] = {}  # request → its partition, as it was sent
        self.decisions: dict[str, Decision] = {}
        self.token = 0
        self.follow("control", 0, world.topics["control"].begin(0), CONTROL, self._control)
        decisions = world.topics["decisions"]
        self.decisions_id = decisions.id  # of the topic as it reads it: one made anew it may not notice
        for partition in range(config.request_partitions):
            self.follow("decisions", partition, decisions.end(partition), DECISIONS, self._decisions)

    def turn(self, now: int) -> None:
        """Read; what was lost to a topic made anew is read from its start."""
        if not self.read(now):
            for (topic, partition), source in self.sources.items():
                begin, end = source.topic.begin(partition), source.topic.end(partition)
                if not begin <= source.position <= end:
                    source.position = begin
                    if topic == "decisions":
                        self.decisions_id = source.topic.id
                if source.position < end:
                    self.mark(source)
                assert topic in ("control", "decisions")
        self.do(self.session.receive(TICK, self.clock()))
        if self.session._tick_ms is not None:
            self.wake(self.at_clock(self.session._tick_ms))

    def _control(self, source: Source, records: Sequence[Raw]) -> None:
        self.do(self.session.receive(ControlRead(records), self.clock()))

    def _decisions(self, source: Source, records: Sequence[Raw]) -> None:
        self.do(self.session.receive(DecisionsRead(source.partition, records), self.clock()))

    # -- what submitters do -------------------------------------------------------------------------------------------

    def submit(self, item: plan.Submit, attempt: int = 0) -> None:
        """Submit a request by plan; from the second time on what was decided before is looked up first."""
        build = self.world.build_of(item)
        # it has only just started: the flavor is not read yet
        if build.flavor not in self.session.flavors and attempt < INSIST_MAX:
            self.world.after(500, self, lambda: self.submit(item, attempt + 1))
            return
        self.token += 1
        self.plans[self.token] = (item, attempt)
        timeout_ms = (item.deadline_ms or self.world.config.deadline_ms) + 2_000
        self.do(self.session.receive(SubmitEvent(build, self.token, timeout_ms, attempt > 0), self.clock()))
        self.wake(self.world.now + timeout_ms + 1)

    def cancel(self, item: plan.Submit) -> None:
        """Withdraw a request."""
        group = serialised_group(self.world.build_of(item))
        self.token += 1
        self.do(self.session.receive(Withdraw(item.id, self.token, item.flavor, group), self.clock()))

    def do(self, effects: Sequence[Any]) -> None:
        """Do what the session asks."""
        for effect in effects:
            match effect:
                case SendRequest(partition, key, value, token):
                    kind = "request" if token in self.plans else "cancel"
                    if token in self.plans:
                        self.partitions[self.plans[token][0].id] = partition
                    self.send(kind, "requests", partition, key, value, partial(self._sent, token))
                case SendClaimRecord(partition, key, value, token, _):
                    self.send("release" if b'"release"' in value else "confirm", "claims", partition, key, value)
                case LookBack(partition, request, token):
                    self._look_back(partition, request, token)
                case Answer(token, answer):
                    self._answered(token, answer)
                case Quarantine():
                    self.world.count("quarantined")

    def partition_of(self, item: plan.Submit) -> int:
        """The partition of a request that was sent or looked up here, −1 where neither was."""
        return self.partitions.get(item.id, -1)

    def _sent(self, token: int, offset: int) -> None:
        if offset >= 0 and token in self.plans:
            item = self.plans[token][0]
            self.world.acknowledged.setdefault(item.id, self.world.build_of(item))
        event = Sent([token]) if offset >= 0 else SendFailed(token, "not acknowledged")
        self.do(self.session.receive(event, self.clock()))

    def _look_back(self, partition: int, request: str, token: int) -> None:
        """What was decided before the reading position of now, told a moment later."""
        self.partitions[request] = partition
        topic = self.world.topics["decisions"]
        position = self.sources["decisions", partition].position
        begin = topic.begin(partition)
        found, _ = topic.read(partition, begin, 1 << 30)
        rows = [row for row in found if row[0] < position]

        def done(_: int) -> None:
            self.do(self.session.receive(Looked(request, rows, token), self.clock()))

        due = self.soon()
        self.inbox.append((due, done, 0))
        self.wake(due)

    def _answered(self, token: int, answer: Decision | Refusal) -> None:
        found = self.plans.pop(token, None)
        if found is None:
            return  # of a confirm, release or cancel, which the session refused
        item, attempt = found
        world = self.world
        sure = self.decisions_id == world.topics["decisions"].id
        world.answered(self.name, item, self.partition_of(item), answer, sure)
        if isinstance(answer, Refusal):
            if answer.why in (Why.TIMED_OUT, Why.NOT_SENT) and item.insist and attempt < INSIST_MAX:
                world.after(1 + int(self.random() * 1_000), self, lambda: self.submit(item, attempt + 1))
            return
        self.decisions[item.id] = answer
        if answer.result != "placed" or item.confirm_ms < 0:
            return
        world.after(item.confirm_ms, self, lambda: self._confirm(item, answer))

    def _confirm(self, item: plan.Submit, decision: Decision) -> None:
        self.token += 1
        effects = self.session.receive(AskConfirm(decision, self.token), self.clock())
        refused = any(isinstance(effect, Answer) for effect in effects)
        source = self.world.build_of(item).source
        if source and source != decision.placed[0].host and not refused:  # it has moved: the place that it had is free
            old = self.decisions.get(item.resizes)
            if old is not None:
                self.world.after(MOVED_MS, self, lambda: self._release(old))
        if item.release_ms >= 0 and not refused:
            self.world.after(item.release_ms, self, lambda: self._release(decision))
        self.do(effects)

    def _release(self, decision: Decision) -> None:
        self.token += 1
        self.do(self.session.receive(AskRelease(decision, self.token), self.clock()))
