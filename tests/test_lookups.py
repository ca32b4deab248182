"""Lookups at a broker that refuses in passing."""

from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException
from msgspec.structs import replace

from commonplace.errors import BrokerUnavailable, CommonplaceError, NotReady, TopicsNotReady
from commonplace.kafka import client, lookups
from commonplace.settings import Settings, TopicsSettings

SETTINGS = Settings(kafka={"bootstrap.servers": "127.0.0.1:1"})


@pytest.fixture
def asker() -> Iterator[Consumer]:
    asker = client.consumer(SETTINGS)
    yield asker
    asker.close()


def refusing(*codes: int) -> Callable[[Consumer, float], str]:
    """A question that is refused with each of the codes, then answered."""
    left = list(codes)

    def ask(_asker: Consumer, _timeout_s: float) -> str:
        if left:
            raise KafkaException(KafkaError(left.pop(0)))
        return "found"

    return ask


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "METADATA_TIMEOUT_S", 0.05)


@pytest.mark.parametrize(
    "code",
    [
        KafkaError._DESTROY_BROKER,
        KafkaError._TRANSPORT,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.KAFKA_STORAGE_ERROR,
    ],
)
def test_what_a_restarting_broker_refuses_is_asked_again(asker: Consumer, code: int) -> None:
    assert lookups.answer(asker, SETTINGS, "topic", refusing(code, code)) == "found"


def test_a_connection_that_is_given_up_for_good_is_a_broker_that_is_away(
    asker: Consumer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookups, "TIMEOUT_S", 0.2)
    with pytest.raises(BrokerUnavailable):
        lookups.answer(asker, SETTINGS, "topic", refusing(*[KafkaError._DESTROY_BROKER] * 1000))


def test_a_disk_that_stays_full_is_told_as_the_brokers(asker: Consumer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "TIMEOUT_S", 0.2)
    with pytest.raises(NotReady, match="see its log and its disk"):
        lookups.answer(asker, SETTINGS, "topic", refusing(*[KafkaError.KAFKA_STORAGE_ERROR] * 1000))


def test_a_topic_that_is_not_there_is_named_with_what_to_do(asker: Consumer) -> None:
    with pytest.raises(TopicsNotReady, match=r"topic: missing at .* run `commonplace topics create`"):
        lookups.answer(asker, SETTINGS, "topic", refusing(KafkaError.UNKNOWN_TOPIC_OR_PART))


@pytest.mark.parametrize(
    ("named", "command"),
    [
        (TopicsSettings(pool="ssd"), "commonplace topics create --pool ssd"),
        (TopicsSettings(prefix="x", pool="ssd"), "commonplace topics create --prefix x --pool ssd"),
    ],
)
def test_what_to_do_makes_the_topics_that_are_missing_and_no_others(
    asker: Consumer, named: TopicsSettings, command: str
) -> None:
    settings = replace(SETTINGS, topics=named)
    with pytest.raises(TopicsNotReady, match=f"run `{command}`"):
        lookups.answer(asker, settings, "topic", refusing(KafkaError.UNKNOWN_TOPIC_OR_PART))


def test_what_does_not_pass_is_raised_at_once(asker: Consumer) -> None:
    with pytest.raises(CommonplaceError, match=r"127\.0\.0\.1:1"):
        lookups.answer(asker, SETTINGS, "topic", refusing(KafkaError.TOPIC_AUTHORIZATION_FAILED))


def test_a_broker_that_stays_away_is_told_after_the_bound(asker: Consumer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "TIMEOUT_S", 0.2)
    with pytest.raises(BrokerUnavailable):
        lookups.answer(asker, SETTINGS, "topic", refusing(*[KafkaError._TRANSPORT] * 1000))
