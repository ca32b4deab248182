"""The topics on a broker: creating them, and reading their settings back.

The table `specs` of topic_rules.py is the only place that says how a topic is set. `create` sends it, `verify` compares
it with what the broker says, `require_topics` lets a component start only where no rule is broken.
"""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Final

from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    OffsetSpec,
    ResourceType,
    TopicDescription,
)
from msgspec import Struct, structs

from commonplace.errors import BrokerUnavailable, CommonplaceError, TopicsNotReady
from commonplace.kafka.client import Broker, admin, explained, require_broker
from commonplace.kafka.embedded import EmbeddedBroker
from commonplace.kafka.topic_rules import BOUND, TOPICS, Level, Rule, Topics, TopicSpec, specs
from commonplace.settings import Settings

__all__ = [
    "EMBEDDED_TOPIC_ID",
    "TOPICS",
    "Finding",
    "Rule",
    "TopicFacts",
    "TopicSpec",
    "Topics",
    "create",
    "create_embedded",
    "facts",
    "require_topics",
    "specs",
    "verify",
]

EMBEDDED_TOPIC_ID: Final = "embedded"
"""The topic id of every topic on the embedded broker, which has none."""

ADMIN_TIMEOUT_S: Final = 15.0  # creating nine topics on a cold one-node broker takes about 2 s
REPLICATION_WANTED: Final = 3
IN_SYNC_WANTED: Final = 2


class Finding(Struct, frozen=True):
    """Something about a topic that is not as it must be (error) or should be (warning)."""

    level: Level
    topic: str
    setting: str
    found: str
    wanted: str
    why: str

    def __str__(self) -> str:
        must = "must" if self.level == "error" else "should"
        return f"{self.topic}: {self.setting} is {self.found}, {must} be {self.wanted}: {self.why}"


class TopicFacts(Struct, frozen=True):
    """What the broker says of a topic; `topic_id` changes when it is deleted and made again."""

    name: str
    topic_id: str
    partitions: int


# --- create --------------------------------------------------------------------------------------------------------


def create(client: AdminClient, settings: Settings, broker: Broker) -> list[str]:
    """Create the topics that are missing and return their names; blocks until the broker has them.

    Existing topics are left as they are; `verify` says what is wrong with them. Raises `TopicsNotReady`, which names
    the topic.
    """
    if broker.embedded:
        raise TopicsNotReady(
            f"the embedded broker at {settings.bootstrap} has no admin calls: `commonplace broker --embedded` makes "
            "the topics of its own --prefix and --pool when it starts"
        )
    replication = settings.topics.replication_factor or min(REPLICATION_WANTED, broker.brokers)
    created = []
    for name, future in client.create_topics(
        [_new_topic(spec, replication) for spec in specs(settings)],
        operation_timeout=ADMIN_TIMEOUT_S,
        request_timeout=ADMIN_TIMEOUT_S,
    ).items():
        if _was_created(name, future, settings):
            created.append(name)
    _await_leaders(client, settings, created)
    return created


def create_embedded(broker: EmbeddedBroker, settings: Settings) -> list[str]:
    """Make the topics on an embedded broker, which only its owner can; returns their names."""
    for spec in specs(settings):
        broker.create_topic(spec.name, spec.partitions)
    return [spec.name for spec in specs(settings)]


def _await_leaders(client: AdminClient, settings: Settings, names: Sequence[str]) -> None:
    """The controller answers before the brokers serve: wait until the leader of every partition tells its offsets."""
    wanted = [spec for spec in specs(settings) if spec.name in names]
    missing = {TopicPartition(spec.name, number) for spec in wanted for number in range(spec.partitions)}
    until = time.monotonic() + ADMIN_TIMEOUT_S
    while missing := _not_serving(client, missing):
        if time.monotonic() > until:
            late = min(missing)
            raise TopicsNotReady(
                f"{late.topic}: created, but partition {late.partition} has no leader after {ADMIN_TIMEOUT_S:g} s: "
                "see the brokers"
            )
        with suppress(KafkaException):
            client.list_topics(timeout=1.0)  # a client that saw the topic gone goes by that else, and asks no broker
        time.sleep(0.05)


def _not_serving(client: AdminClient, partitions: set[TopicPartition]) -> set[TopicPartition]:
    if not partitions:
        return set()
    earliest = OffsetSpec.earliest()  # type: ignore[no-untyped-call]  # confluent-kafka 2.16 left it untyped
    asked = client.list_offsets(dict.fromkeys(partitions, earliest), request_timeout=ADMIN_TIMEOUT_S)
    return {partition for partition, future in asked.items() if future.exception() is not None}


def _new_topic(spec: TopicSpec, replication: int) -> NewTopic:
    config = spec.config
    if replication >= REPLICATION_WANTED:
        config["min.insync.replicas"] = str(IN_SYNC_WANTED)
    return NewTopic(spec.name, num_partitions=spec.partitions, replication_factor=replication, config=config)


def _was_created(name: str, future: "Future[None]", settings: Settings) -> bool:
    try:
        future.result()
    except KafkaException as e:
        error: KafkaError = e.args[0]
        if error.code() == KafkaError.TOPIC_ALREADY_EXISTS:
            return False
        raise _topic_error(name, "cannot be created", e, settings) from e
    return True


# --- verify --------------------------------------------------------------------------------------------------------


def verify(client: AdminClient, settings: Settings, broker: Broker, only: Sequence[str] = TOPICS) -> list[Finding]:
    """Everything about the topics (of TOPICS, those in `only`) that breaks a rule, errors first; empty when all is well."""
    if broker.embedded:
        return [_not_verified(settings)]
    wanted = [spec for spec in specs(settings) if spec.name.rpartition(".")[2] in only]
    found = _descriptions(client, settings, [spec.name for spec in wanted])
    configs = _configs(client, settings, list(found))
    findings: list[Finding] = []
    for spec in wanted:
        if spec.name in found:
            findings += _check(spec, found[spec.name], configs[spec.name])
        else:
            findings.append(_missing(spec.name))
    findings += _equal_counts(settings, {name: len(topic.partitions) for name, topic in found.items()})
    findings += _durability(settings.topics.prefix, found, configs)
    return sorted(findings, key=lambda f: f.level)


def _missing(name: str) -> Finding:
    return Finding("error", name, "topic", "missing", "there", "run `commonplace topics create`")


def _check(spec: TopicSpec, topic: TopicDescription, config: Mapping[str, str]) -> list[Finding]:
    findings = [
        Finding(rule.level, spec.name, rule.setting, found, f"{BOUND[rule.comparison]}{rule.wanted}", rule.why)
        for rule in spec.rules
        if rule.broken_by(found := config.get(rule.setting, "not told by the broker"))
    ]
    partitions = len(topic.partitions)
    if partitions != spec.partitions:
        findings.append(
            Finding("error", spec.name, "partitions", str(partitions), str(spec.partitions), _partitions_why(spec))
        )
    return findings


def _partitions_why(spec: TopicSpec) -> str:
    if spec.partitions_setting is None:
        return "its records need one order; make it again with one partition"
    return (
        "a key's partition follows from the count, so it is frozen at creation; set "
        f"{spec.partitions_setting} to what it was created with, or create the topics under another prefix"
    )


def _durability(
    prefix: str, found: Mapping[str, TopicDescription], configs: Mapping[str, Mapping[str, str]]
) -> list[Finding]:
    """One warning for all topics that share a shortfall: on a one-broker cluster all of them do."""
    short: dict[tuple[str, str, str], list[str]] = {}
    for name, topic in found.items():
        replication = min((len(p.replicas) for p in topic.partitions), default=0)
        in_sync = configs[name].get("min.insync.replicas", "1")
        if replication < REPLICATION_WANTED:
            short.setdefault(("replication.factor", str(replication), str(REPLICATION_WANTED)), []).append(name)
        elif int(in_sync) < IN_SYNC_WANTED:
            short.setdefault(("min.insync.replicas", in_sync, str(IN_SYNC_WANTED)), []).append(name)
    why = "development only: an acknowledged record can be lost with one broker"
    findings = []
    for (setting, is_, wanted), names in short.items():
        topic_names = [f"{prefix}.* ({len(names)} topics)"] if len(names) == len(found) else names
        findings += [Finding("warning", name, setting, is_, wanted, why) for name in topic_names]
    return findings


def _equal_counts(settings: Settings, counts: Mapping[str, int]) -> list[Finding]:
    """Topics whose partition number says something of another topic's; `counts` are of those that are known."""
    names = Topics(settings.topics.prefix, settings.topics.pool)
    pairs = (
        (names.decisions, names.requests, "a decision is written to the partition number of its request"),
        (names.claims, names.hosts, "a host has one partition number, on hosts and on claims: set both counts alike"),
    )
    findings = []
    for name, like, why in pairs:
        found, wanted = counts.get(name), counts.get(like)
        if found is not None and wanted is not None and found != wanted:
            why = f"{why}, and {like} has {wanted}"
            findings.append(Finding("error", name, "partitions", str(found), str(wanted), why))
    return findings


def _not_verified(settings: Settings) -> Finding:
    why = "the embedded broker is not Kafka and cannot be asked; for demo and tests only"
    return Finding("warning", f"{settings.topics.prefix}.*", "topics", "not verified", "verified", why)


# --- require -------------------------------------------------------------------------------------------------------


def require_topics(
    settings: Settings, only: Sequence[str] = TOPICS
) -> tuple[Broker, dict[str, TopicFacts], list[Finding]]:
    """The broker, the facts of the topics by full name, and warnings; what a component calls before it starts.

    `only` names those of TOPICS that the component may touch: ACLs can hide the others from it. Blocks for a few round
    trips. Raises `BrokerUnavailable` without a broker, and `TopicsNotReady` naming the first topic and setting that
    breaks a rule.
    """
    broker = require_broker(settings)
    client = admin(settings)
    findings = verify(client, settings, broker, only)
    errors = [f for f in findings if f.level == "error"]
    if errors:
        raise TopicsNotReady(_first_of(errors))
    known = facts(client, settings, broker, only)
    gone = [
        _missing(name) for name in Topics(settings.topics.prefix, settings.topics.pool).all(only) if name not in known
    ]
    if gone:  # deleted since it was verified
        raise TopicsNotReady(_first_of(gone))
    if broker.embedded and (errors := _equal_counts(settings, {name: fact.partitions for name, fact in known.items()})):
        raise TopicsNotReady(_first_of(errors))
    return broker, known, findings


def facts(
    client: AdminClient, settings: Settings, broker: Broker, only: Sequence[str] = TOPICS
) -> dict[str, TopicFacts]:
    """The facts of the topics that exist, by full name."""
    names = Topics(settings.topics.prefix, settings.topics.pool).all(only)
    if broker.embedded:
        return _embedded_facts(client, settings, names)
    return {
        name: TopicFacts(name, str(topic.topic_id), len(topic.partitions))
        for name, topic in _descriptions(client, settings, names).items()
    }


def pools(settings: Settings) -> dict[str, Settings]:
    """The settings for each pool of the prefix that this client may see: its name, and its own partition counts. Blocks."""
    try:
        there = admin(settings).list_topics(timeout=ADMIN_TIMEOUT_S).topics
    except KafkaException as e:
        raise explained(e, settings) from e
    counts = {name: len(topic.partitions) for name, topic in there.items()}
    start, end = f"{settings.topics.prefix}.", ".hosts"
    names = [name[len(start) : -len(end)] for name in counts if name.startswith(start) and name.endswith(end)]
    return {name: _of_pool(settings, name, counts) for name in sorted(names) if name and "." not in name}


def _of_pool(settings: Settings, pool: str, counts: Mapping[str, int]) -> Settings:
    names, shape = Topics(settings.topics.prefix, pool), settings.topics
    changed = structs.replace(
        shape,
        pool=pool,
        hosts_partitions=counts.get(names.hosts, shape.hosts_partitions),
        claims_partitions=counts.get(names.claims, shape.claims_partitions),
        requests_partitions=counts.get(names.requests, shape.requests_partitions),
    )
    return structs.replace(settings, topics=changed)


def _embedded_facts(client: AdminClient, settings: Settings, names: Sequence[str]) -> dict[str, TopicFacts]:
    try:
        there = client.list_topics(timeout=ADMIN_TIMEOUT_S).topics
    except KafkaException as e:
        raise explained(e, settings) from e
    missing = [name for name in names if name not in there]
    if missing:
        raise TopicsNotReady(
            f"{missing[0]}: missing on the embedded broker at {settings.bootstrap}, which makes the topics of its own "
            "--prefix and --pool only; start it with the same ones"
        )
    return {name: TopicFacts(name, EMBEDDED_TOPIC_ID, len(there[name].partitions)) for name in names}


def _first_of(errors: Sequence[Finding]) -> str:
    more = f" (and {len(errors) - 1} more: `commonplace topics verify`)" if len(errors) > 1 else ""
    return f"{errors[0]}{more}"


# --- asking the broker ---------------------------------------------------------------------------------------------


def _descriptions(client: AdminClient, settings: Settings, names: Sequence[str]) -> dict[str, TopicDescription]:
    """Descriptions of those of `names` that exist."""
    found = {}
    futures = client.describe_topics(TopicCollection(list(names)), request_timeout=ADMIN_TIMEOUT_S)
    for name, future in futures.items():
        try:
            found[name] = future.result()
        except KafkaException as e:
            if e.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise _topic_error(name, "cannot be described", e, settings) from e
    return found


def _configs(client: AdminClient, settings: Settings, names: Sequence[str]) -> dict[str, dict[str, str]]:
    if not names:
        return {}
    found: dict[str, dict[str, str]] = {}
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
    for resource, future in client.describe_configs(resources, request_timeout=ADMIN_TIMEOUT_S).items():
        try:
            entries: dict[str, ConfigEntry] = future.result()
        except KafkaException as e:
            raise _topic_error(resource.name, "its settings cannot be read", e, settings) from e
        found[resource.name] = {name: str(entry.value) for name, entry in entries.items()}
    return found


def _topic_error(name: str, what: str, error: KafkaException, settings: Settings) -> CommonplaceError:
    known = explained(error, settings)
    return known if isinstance(known, BrokerUnavailable) else type(known)(f"{name}: {what}: {known}")
