"""Membership in the group of replicas: gaining and ceding partitions, what is committed, and whose commits count."""

import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from commonplace.errors import BrokerUnavailable
from commonplace.kafka.intake import Ceded, Gained, Intake
from commonplace.settings import SchedulerSettings, Settings, TopicsSettings
from kafka_fixtures import KafkaUnderTest

WAIT_S = 40.0
PARTITIONS = 4
TOPIC_ID = "id-1"

Join = Callable[..., "Member"]


class Member:
    """An intake and the changes that it told of."""

    def __init__(self, settings: Settings, topic: str, topic_id: str) -> None:
        self.intake = Intake(settings, topic, topic_id)
        self.changes: list[Gained | Ceded] = []
        self.intake.join()

    @property
    def gained(self) -> dict[int, int]:
        """Partition → committed offset told when it was gained, of those that are held."""
        held: dict[int, int] = {}
        for change in self.changes:
            if isinstance(change, Gained):
                held[change.partition] = change.committed
            else:
                del held[change.partition]
        return held


@pytest.fixture
def join(kafka: KafkaUnderTest, prefix: str) -> Iterator[Join]:
    """Makes members of one group; all leave at the end."""
    kafka.create_topic(prefix, PARTITIONS)
    settings = Settings(
        kafka={"bootstrap.servers": kafka.bootstrap},
        topics=TopicsSettings(prefix=prefix),
        scheduler=SchedulerSettings(session_timeout_ms=20_000),
    )
    members: list[Member] = []

    def joined(topic_id: str = TOPIC_ID) -> Member:
        members.append(Member(settings, prefix, topic_id))
        return members[-1]

    yield joined
    for member in members:
        member.intake.leave()


def until(holds: Callable[[], bool], *members: Member) -> None:
    """Poll the members, as their replicas would, until it holds."""
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline, [member.changes for member in members]
        for member in members:
            member.changes += member.intake.poll()
        time.sleep(0.01)


def test_a_lone_member_gains_every_partition_and_nothing_is_committed(join: Join) -> None:
    member = join()
    until(lambda: len(member.gained) == PARTITIONS, member)
    assert member.gained == dict.fromkeys(range(PARTITIONS), -1)
    assert member.intake.owned == set(range(PARTITIONS))


def test_who_comes_next_is_told_what_was_committed(join: Join) -> None:
    first = join()
    until(lambda: len(first.gained) == PARTITIONS, first)
    first.intake.commit({0: 7, 1: 0})
    first.intake.commit({0: 9}, wait=True)
    first.intake.leave()
    second = join()
    until(lambda: len(second.gained) == PARTITIONS, second)
    assert second.gained == {0: 9, 1: 0, 2: -1, 3: -1}


def test_a_second_member_gets_a_share_and_what_it_leaves_goes_back_at_once(join: Join) -> None:
    first = join()
    until(lambda: len(first.gained) == PARTITIONS, first)
    first.intake.commit(dict.fromkeys(range(PARTITIONS), 5), wait=True)
    second = join()
    until(lambda: len(second.gained) == PARTITIONS // 2 and len(first.gained) == PARTITIONS // 2, first, second)
    assert set(first.gained) | set(second.gained) == set(range(PARTITIONS))
    # cooperative: what stays is never given up in between
    assert sum(isinstance(change, Ceded) for change in first.changes) == PARTITIONS // 2
    assert set(second.gained.values()) == {5}

    began = time.monotonic()
    second.intake.leave()
    until(lambda: len(first.gained) == PARTITIONS, first)
    assert time.monotonic() - began < 15, "its partitions waited for the session to end"


def test_offsets_of_a_partition_that_is_not_owned_are_not_committed(join: Join) -> None:
    first = join()
    until(lambda: len(first.gained) == PARTITIONS, first)
    second = join()
    until(lambda: len(second.gained) == PARTITIONS // 2 and len(first.gained) == PARTITIONS // 2, first, second)
    ceded = next(iter(second.gained))
    first.intake.commit({ceded: 100}, wait=True)
    first.intake.leave()
    second.intake.leave()
    third = join()
    until(lambda: len(third.gained) == PARTITIONS, third)
    assert third.gained[ceded] == -1


def test_an_offset_committed_for_an_earlier_topic_of_that_name_counts_for_nothing(
    join: Join, caplog: pytest.LogCaptureFixture
) -> None:
    first = join()
    until(lambda: len(first.gained) == PARTITIONS, first)
    first.intake.commit({0: 7}, wait=True)
    first.intake.leave()
    second = join("id-2")
    until(lambda: len(second.gained) == PARTITIONS, second)
    assert second.gained[0] == -1
    assert "offset 7 was committed for a topic of that name made before" in caplog.text


def test_an_offset_that_an_operators_tool_committed_without_a_topic_id_counts(join: Join) -> None:
    tool = join("")
    until(lambda: len(tool.gained) == PARTITIONS, tool)
    tool.intake.commit({2: 3}, wait=True)
    tool.intake.leave()
    member = join()
    until(lambda: len(member.gained) == PARTITIONS, member)
    assert member.gained[2] == 3


class Closing:
    """A consumer whose group gives it partitions while it closes, and whose broker does not answer any more."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self.asked = 0

    def close(self) -> None:
        self._intake._on_assign(self, [TopicPartition("requests", 0)])  # type: ignore[arg-type]  # as librdkafka would

    def committed(self, *_: object, **__: object) -> None:
        self.asked += 1
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))

    def incremental_assign(self, partitions: list[TopicPartition]) -> None:
        assert not partitions


def test_partitions_that_come_while_it_leaves_are_not_taken_up_and_nobody_is_asked_about_them(prefix: str) -> None:
    leaving = Intake(Settings(topics=TopicsSettings(prefix=prefix)), "requests")
    own, closing = leaving._consumer, Closing(leaving)
    leaving._consumer = closing  # type: ignore[assignment]
    leaving.leave()
    assert closing.asked == 0
    assert leaving.owned == set()
    own.close()


def test_a_group_that_refuses_while_it_leaves_does_not_stop_the_leaving(prefix: str) -> None:
    class Refusing(Closing):
        def close(self) -> None:
            self.committed()

    leaving = Intake(Settings(topics=TopicsSettings(prefix=prefix)), "requests")
    own = leaving._consumer
    leaving._consumer = Refusing(leaving)  # type: ignore[assignment]
    leaving.leave()
    own.close()


class Silent:
    """A consumer whose broker never says what is committed."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)

    def committed(self, partitions: list[TopicPartition], timeout: float) -> list[TopicPartition]:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))


def test_committed_offsets_that_nobody_tells_are_the_brokers_trouble_and_the_next_life_asks_again(
    join: Join, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        ask = Intake._on_assign
        patched.setattr(
            Intake, "_on_assign", lambda self, consumer, parts: ask(self, cast(Any, Silent(consumer)), parts)
        )
        member = join()
        with pytest.raises(BrokerUnavailable):
            until(lambda: bool(member.gained), member)
        assert member.gained == {}
        member.intake.leave()
    member = join()
    until(lambda: len(member.gained) == PARTITIONS, member)
