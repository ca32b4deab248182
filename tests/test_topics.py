"""Topics: names, creation, and each broken rule found and named."""

import logging
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import KafkaError
from confluent_kafka.admin import (
    AdminClient,
    NewPartitions,
)

from commonplace.errors import BrokerUnavailable, CommonplaceError, ExitCode, TopicsNotReady
from commonplace.kafka import client, control, topic_creation, topics
from commonplace.kafka.embedded import EmbeddedBroker
from commonplace.kafka.topic_checks import Finding
from commonplace.kafka.topic_rules import BOUND, Comparison, Rule
from commonplace.kafka.topics import Topics
from commonplace.settings import AgentSettings, Settings, TopicsSettings
from kafka_fixtures import KafkaUnderTest
from topics_changed import set_topic


def settings_on(bootstrap: str, prefix: str, **changed: object) -> Settings:
    section = msgspec.convert({"prefix": prefix, "pool": "p", **changed}, TopicsSettings)
    return Settings(kafka={"bootstrap.servers": bootstrap}, topics=section)


@pytest.fixture
def settings(kafka: KafkaUnderTest, prefix: str) -> Settings:
    return settings_on(kafka.bootstrap, prefix)


@pytest.fixture
def created(settings: Settings) -> Settings:
    topic_creation.create(client.admin(settings), settings, client.require_broker(settings))
    return settings


def verified(settings: Settings) -> list[Finding]:
    return topics.verify(client.admin(settings), settings, client.require_broker(settings))


def errors(settings: Settings) -> list[tuple[str, str, str]]:
    return [(f.topic, f.setting, f.found) for f in verified(settings) if f.level == "error"]


# --- names and table -----------------------------------------------------------------------------------------------


def test_names_carry_prefix_and_pool_and_control_the_prefix_alone() -> None:
    names = Topics("commonplace", "default")
    assert names.hosts == "commonplace.default.hosts"
    assert names.control == "commonplace.control"
    assert len(set(names.all())) == len(topics.TOPICS) == 8


def test_every_topic_is_specified_and_dated_by_the_log() -> None:
    specs = topics.specs(Settings())
    assert {spec.name for spec in specs} == set(Topics("commonplace", "default").all())
    for spec in specs:
        assert spec.config["message.timestamp.type"] == "LogAppendTime"
        assert spec.config["cleanup.policy"] in ("compact", "delete")


def test_compaction_lag_of_hosts_covers_two_snapshot_intervals_at_their_longest() -> None:
    settings = Settings(agent=AgentSettings(snapshot_interval_s=100, snapshot_jitter=0.5))
    hosts = next(spec for spec in topics.specs(settings) if spec.name.endswith(".hosts"))
    assert hosts.config["min.compaction.lag.ms"] == "300000"


def test_requests_are_created_with_their_own_retention_and_bound_by_that_of_decisions() -> None:
    t = Settings().topics
    requests = next(spec for spec in topics.specs(Settings()) if spec.name.endswith(".requests"))
    assert requests.config["retention.ms"] == str(t.requests_retention_ms)
    broken = [r for r in requests.rules if r.setting == "retention.ms" and r.broken_by(str(t.decisions_retention_ms))]
    assert [rule.comparison for rule in broken] == ["at most"]


def test_page_of_topics_names_every_topic_rule_and_value() -> None:
    rows = [
        [cell.strip(" `") for cell in line.strip("|").split("|")]
        for line in (Path(__file__).parent.parent / "docs" / "topics.md").read_text().splitlines()
        if line.startswith("| ")
    ]
    for spec in topics.specs(Settings()):
        topic = spec.name.rpartition(".")[2]
        for rule in spec.rules:
            wanted = f"{BOUND[rule.comparison]}{rule.wanted}"
            assert any(row[0] in (topic, "all") and row[1:3] == [rule.setting, wanted] for row in rows), (topic, rule)
        assert any(row[0] == topic and row[1] == str(spec.partitions) for row in rows), (topic, spec.partitions)


@pytest.mark.parametrize(
    ("comparison", "wanted", "kept", "broken"),
    [
        ("is", "compact", ["compact"], ["delete", "compact,delete", ""]),
        ("at least", "10", ["10", "11", "-1"], ["9", "absent"]),
        ("at most", "10", ["10", "9"], ["11", "-1", "absent"]),
    ],
)
def test_rule_compares_numbers_as_numbers_and_takes_minus_one_for_no_bound(
    comparison: Comparison, wanted: str, kept: list[str], broken: list[str]
) -> None:
    rule = Rule("x", comparison, wanted, "")
    assert not any(map(rule.broken_by, kept))
    assert all(map(rule.broken_by, broken))


# --- on a broker ---------------------------------------------------------------------------------------------------


@pytest.mark.real_kafka
def test_created_topics_keep_every_rule_and_one_broker_is_development_only(created: Settings) -> None:
    broker, facts, findings = topics.require_topics(created)
    assert {(f.level, f.setting) for f in findings} <= {("warning", "replication.factor")}
    if broker.brokers == 1:
        assert len(findings) == 1
        assert "development only" in str(findings[0])
    t = created.topics
    names = Topics(t.prefix, t.pool)
    assert [facts[n].partitions for n in (names.hosts, names.requests, names.decisions, names.control)] == [4, 6, 6, 1]
    assert len({fact.topic_id for fact in facts.values()}) == len(topics.TOPICS)


@pytest.mark.real_kafka
def test_creating_again_changes_nothing(created: Settings) -> None:
    before = topics.require_topics(created)[1]
    assert topic_creation.create(client.admin(created), created, client.require_broker(created)) == []
    assert topics.require_topics(created)[1] == before


@pytest.mark.real_kafka
def test_second_pool_shares_the_control_topic(created: Settings) -> None:
    other = msgspec.structs.replace(created, topics=msgspec.structs.replace(created.topics, pool="q"))
    made = topic_creation.create(client.admin(other), other, client.require_broker(other))
    assert Topics(created.topics.prefix, "q").hosts in made
    assert Topics(created.topics.prefix, "q").control not in made


@pytest.mark.real_kafka
def test_missing_topics_are_named_with_what_to_do(settings: Settings) -> None:
    with pytest.raises(TopicsNotReady) as caught:
        topics.require_topics(settings)
    assert caught.value.exit_code == ExitCode.NOT_READY
    assert Topics(settings.topics.prefix, "p").hosts in str(caught.value)
    assert "commonplace topics create" in str(caught.value)


@pytest.mark.real_kafka
def test_each_broken_setting_is_named_with_topic_and_value(created: Settings) -> None:
    names = Topics(created.topics.prefix, created.topics.pool)
    broken = [
        (names.hosts, "min.compaction.lag.ms", "1000"),
        (names.hosts, "delete.retention.ms", "60000"),
        (names.control, "cleanup.policy", "delete"),
        (names.claims, "retention.bytes", "1000000"),
        (names.claims, "unclean.leader.election.enable", "true"),
        (names.requests, "retention.ms", str(created.topics.decisions_retention_ms)),
        (names.decisions, "message.timestamp.type", "CreateTime"),
        (names.decisions, "retention.ms", "1000"),
    ]
    for topic in {topic for topic, _, _ in broken}:
        set_topic(created.bootstrap, topic, {setting: value for t, setting, value in broken if t == topic})
    assert sorted(errors(created)) == sorted(broken)
    with pytest.raises(TopicsNotReady, match=f"{len(broken) - 1} more"):
        topics.require_topics(created)


@pytest.mark.real_kafka
def test_component_asks_only_for_the_topics_it_may_touch(created: Settings) -> None:
    names = Topics(created.topics.prefix, created.topics.pool)
    set_topic(created.bootstrap, names.quarantine, {"cleanup.policy": "compact"})
    facts = topics.require_topics(created, only=("hosts", "control"))[1]
    assert set(facts) == {names.hosts, names.control}
    with pytest.raises(TopicsNotReady, match="quarantine: cleanup"):
        topics.require_topics(created)


@pytest.mark.real_kafka
def test_topic_deleted_since_it_was_verified_is_told_as_missing(
    created: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = Topics(created.topics.prefix, created.topics.pool).hosts
    facts = topics.facts
    monkeypatch.setattr(topics, "facts", lambda *a: {name: one for name, one in facts(*a).items() if name != hosts})
    with pytest.raises(TopicsNotReady, match=f"{hosts}: topic is missing"):
        topics.require_topics(created)


@pytest.mark.real_kafka
def test_longer_compaction_lag_and_shorter_quarantine_only_warn(created: Settings) -> None:
    names = Topics(created.topics.prefix, created.topics.pool)
    set_topic(created.bootstrap, names.hosts, {"max.compaction.lag.ms": "9000000"})
    set_topic(created.bootstrap, names.quarantine, {"retention.ms": "1000"})
    warned = {(f.topic, f.setting) for f in verified(created) if f.level == "warning"}
    assert {(names.hosts, "max.compaction.lag.ms"), (names.quarantine, "retention.ms")} <= warned
    assert errors(created) == []


@pytest.mark.real_kafka
def test_another_partition_count_is_refused_naming_the_setting(created: Settings) -> None:
    other = settings_on(created.bootstrap, created.topics.prefix, hosts_partitions=8)
    with pytest.raises(TopicsNotReady, match=r"hosts: partitions is 4, must be 8.*topics\.hosts_partitions"):
        topics.require_topics(other)


@pytest.mark.real_kafka
def test_decisions_with_other_partitions_than_requests_are_refused(created: Settings) -> None:
    names = Topics(created.topics.prefix, created.topics.pool)
    admin = AdminClient({"bootstrap.servers": created.bootstrap}, logger=logging.getLogger("test-admin"))
    admin.create_partitions([NewPartitions(names.decisions, 9)])[names.decisions].result(20)
    whys: list[str] = []
    deadline = time.monotonic() + 20  # a partition that was just made may be told of later
    while not whys and time.monotonic() < deadline:
        whys = [f.why for f in verified(created) if f.topic == names.decisions and f.setting == "partitions"]
    assert any("partition number of its request" in why for why in whys)


def test_no_broker_is_not_taken_for_missing_topics() -> None:
    with pytest.raises(BrokerUnavailable):
        topics.require_topics(settings_on("127.0.0.1:1", "x"))


def test_embedded_topics_are_not_verified_and_say_so() -> None:
    with EmbeddedBroker() as embedded:
        settings = settings_on(embedded.bootstrap, "commonplace")
        made = topic_creation.create_embedded(embedded, settings)
        broker, facts, findings = topics.require_topics(settings)
        assert broker.embedded
        assert [f.level for f in findings] == ["warning"]
        assert "not verified" in str(findings[0])
        assert sorted(facts) == sorted(made)
        assert {fact.topic_id for fact in facts.values()} == {topics.EMBEDDED_TOPIC_ID}
        assert facts[Topics("commonplace", "p").requests].partitions == 6


def test_embedded_broker_of_another_pool_is_refused() -> None:
    with EmbeddedBroker() as embedded:
        topic_creation.create_embedded(embedded, settings_on(embedded.bootstrap, "commonplace"))
        with pytest.raises(TopicsNotReady, match=r"other\.p\.hosts"):
            topics.require_topics(settings_on(embedded.bootstrap, "other"))


# --- control -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [(KafkaError.TOPIC_AUTHORIZATION_FAILED, ExitCode.DENIED), (KafkaError.INVALID_RECORD, ExitCode.ERROR)],
)
def test_a_record_that_the_broker_refuses_is_named_and_a_denial_ends_as_one(
    code: int, exit_code: ExitCode, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refused:
        def key(self) -> bytes:
            return b"flavor/m1.tiny"

    class Producer:
        def produce(self, name: str, *, on_delivery: Callable[[KafkaError, Refused], None], **_: object) -> None:
            on_delivery(KafkaError(code), Refused())

        def flush(self, _: float) -> int:
            return 0

    monkeypatch.setattr(client, "producer", lambda _: Producer())
    with pytest.raises(CommonplaceError, match=r"control: flavor/m1\.tiny was not written: the broker at") as raised:
        control.write(Settings(), {"flavor/m1.tiny": None})
    assert raised.value.exit_code == exit_code


@pytest.mark.real_kafka
def test_starter_flavors_are_written_once_and_never_over_others(created: Settings) -> None:
    assert control.put_starter_flavors(created) == ["m1.tiny", "m1.small", "m1.medium", "m1.large", "m1.xlarge"]
    assert control.put_starter_flavors(created) == []
    assert control.flavors(created)["m1.large"].resources == {"VCPU": 4, "MEMORY_MB": 8192, "DISK_GB": 80}
    assert {flavor.pool for flavor in control.flavors(created).values()} == {"p"}


@pytest.mark.real_kafka
def test_last_value_of_a_control_key_wins_and_a_tombstone_deletes(created: Settings) -> None:
    control.write(created, {"routing": b"1", "host/a": b"x"})
    control.write(created, {"routing": b"2", "host/a": None})
    assert control.read(created) == {"routing": b"2"}


@pytest.mark.real_kafka
def test_undecodable_flavor_is_left_out(created: Settings) -> None:
    control.put_starter_flavors(created)
    control.write(created, {"flavor/bad": b"{"})
    assert len(control.flavors(created)) == 5


@pytest.mark.real_kafka
def test_missing_control_topic_is_named(settings: Settings) -> None:
    with pytest.raises(TopicsNotReady, match=r"\.control: missing"):
        control.read(settings)
