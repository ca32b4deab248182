"""Client configuration: what passes through, what is refused, and what a missing broker looks like."""

import logging
import time

import pytest

from commonplace.errors import BrokerUnavailable, ExitCode, SettingsError
from commonplace.kafka import client
from commonplace.kafka.embedded import EmbeddedBroker
from commonplace.settings import SchedulerSettings, Settings
from kafka_fixtures import KafkaUnderTest

NOBODY = "127.0.0.1:1"  # tcpmux: nothing listens there

LIBRDKAFKA = "commonplace.kafka.librdkafka"  # its level may have been set by a test before


def of(**kafka: str) -> Settings:
    return Settings(kafka={"bootstrap.servers": NOBODY} | {k.replace("_", "."): v for k, v in kafka.items()})


def test_protocol_needs_are_merged_over_what_passes_through() -> None:
    config = client.producer_config(of(client_id="me", linger_ms="9"))
    assert config["client.id"] == "me"
    assert config["linger.ms"] == "9"
    assert config["enable.idempotence"] is True
    assert config["acks"] == "all"


def test_records_of_the_largest_size_fit_with_key_and_headers_below_the_brokers_limit() -> None:
    settings = of()
    assert settings.limits.record_bytes_max < client.producer_config(settings)["message.max.bytes"] < 1_048_588


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("acks", "1", "acks = all"),
        ("request.required.acks", "0", "acks = all"),
        ("enable.idempotence", "false", "enable.idempotence = True"),
    ],
)
def test_producer_setting_against_the_protocol_is_refused_by_name(key: str, value: str, named: str) -> None:
    with pytest.raises(SettingsError) as caught:
        client.producer_config(of(**{key: value}))
    assert f"{key} = {value}" in str(caught.value)
    assert named in str(caught.value)


@pytest.mark.parametrize(("key", "value"), [("acks", "-1"), ("acks", "ALL"), ("enable.idempotence", "True")])
def test_setting_that_says_the_same_is_no_conflict(key: str, value: str) -> None:
    assert client.producer_config(of(**{key: value}))["acks"] == "all"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("enable.auto.commit", "true"),
        ("auto.offset.reset", "earliest"),
        ("group.id", "mine"),
        ("session.timeout.ms", "45000"),
    ],
)
def test_consumer_setting_against_the_protocol_is_refused_by_name(key: str, value: str) -> None:
    with pytest.raises(SettingsError, match=key):
        client.consumer_config(of(**{key: value}), group="g")


def test_new_group_protocol_leaves_sessions_to_the_broker() -> None:
    settings = Settings(scheduler=SchedulerSettings(group_protocol="consumer"))
    config = client.consumer_config(settings, group="g")
    assert config["group.protocol"] == "consumer"
    assert not {"session.timeout.ms", "partition.assignment.strategy"} & set(config)


@pytest.mark.parametrize("settings", [Settings(), Settings(scheduler=SchedulerSettings(group_protocol="consumer"))])
def test_librdkafka_takes_every_configuration_we_make(settings: Settings) -> None:
    client.producer(settings).flush(0)
    for group in (None, "g"):
        client.consumer(settings, group).close()
    client.admin(settings)


def test_setting_that_librdkafka_does_not_know_is_named() -> None:
    with pytest.raises(SettingsError, match=r"no\.such\.thing"):
        client.producer(of(no_such_thing="1"))


def test_missing_broker_is_told_within_seconds_and_without_noise(capfd: pytest.CaptureFixture[str]) -> None:
    begun = time.monotonic()
    with pytest.raises(BrokerUnavailable) as caught:
        client.require_broker(of(), timeout_s=1.0)
    assert time.monotonic() - begun < 10
    assert caught.value.exit_code == ExitCode.NOT_READY
    assert NOBODY in str(caught.value)
    assert "commonplace broker" in str(caught.value)
    assert "-b" in str(caught.value)
    assert capfd.readouterr().err == ""


def test_librdkafkas_own_lines_go_through_logging(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG, logger=LIBRDKAFKA)
    producer = client.producer(of())
    until = time.monotonic() + 20
    while not caplog.records and time.monotonic() < until:
        producer.poll(0.1)
    assert any("127.0.0.1:1" in record.getMessage() for record in caplog.records)
    assert capfd.readouterr().err == ""


def test_setting_meant_for_the_other_kind_of_client_is_told_at_debug_only(caplog: pytest.LogCaptureFixture) -> None:
    def told(level: int) -> list[str]:
        caplog.clear()
        caplog.set_level(level, logger=LIBRDKAFKA)
        consumer = client.consumer(of(linger_ms="9"))
        consumer.poll(0.2)
        consumer.close()
        return [r.getMessage() for r in caplog.records if "CONFWARN" in r.getMessage()]

    assert told(logging.DEBUG) != []
    assert told(logging.INFO) == []


def test_broker_says_whether_it_is_kafka(kafka: KafkaUnderTest) -> None:
    broker = client.require_broker(Settings(kafka={"bootstrap.servers": kafka.bootstrap}))
    assert broker.brokers >= 1
    assert broker.embedded is not kafka.real


def test_embedded_broker_is_known_and_not_long_polled() -> None:
    with EmbeddedBroker() as embedded:
        settings = Settings(kafka={"bootstrap.servers": embedded.bootstrap})
        broker = client.require_broker(settings)
        assert broker.embedded
        assert client.settings_for(settings, broker).kafka["fetch.wait.max.ms"] == "1"
