"""The topics on a broker, as it describes them: whether they are as they must be, and what they are.

The table `specs` of topic_rules.py is the only place that says how a topic is set. topic_creation.py sends it, `verify` has
topic_checks.py compare it with what the broker says, `require_topics` lets a component start only where no rule is broken.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import (
    AdminClient,
    ConfigEntry,
    ConfigResource,
    ResourceType,
    TopicDescription,
)
from msgspec import Struct, structs

from commonplace.errors import BrokerUnavailable, CommonplaceError, TopicsNotReady
from commonplace.kafka import topic_checks
from commonplace.kafka.client import Broker, admin, explained, require_broker
from commonplace.kafka.topic_checks import Finding
from commonplace.kafka.topic_rules import TOPICS, Topics, specs
from commonplace.settings import Settings

__all__ = [
    "EMBEDDED_TOPIC_ID",
    "TOPICS",
    "TopicFacts",
    "Topics",
    "facts",
    "require_topics",
    "specs",
    "verify",
]

EMBEDDED_TOPIC_ID: Final = "embedded"
"""The topic id of every topic on the embedded broker, which has none."""

ADMIN_TIMEOUT_S: Final = 15.0  # creating nine topics on a cold one-node broker takes about 2 s


class TopicFacts(Struct, frozen=True):
    """What the broker says of a topic; `topic_id` changes when it is deleted and made again."""

    name: str
    topic_id: str
    partitions: int


# --- verify --------------------------------------------------------------------------------------------------------


def verify(client: AdminClient, settings: Settings, broker: Broker, only: Sequence[str] = TOPICS) -> list[Finding]:
    """Everything about the topics (of TOPICS, those in `only`) that breaks a rule, errors first; empty when all is well."""
    if broker.embedded:
        return [topic_checks.not_verified(settings)]
    wanted = [spec for spec in specs(settings) if spec.name.rpartition(".")[2] in only]
    found = _descriptions(client, settings, [spec.name for spec in wanted])
    return topic_checks.findings(settings, wanted, found, _configs(client, settings, list(found)))


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
    names = Topics(settings.topics.prefix, settings.topics.pool).all(only)
    gone = [topic_checks.missing(name, settings) for name in names if name not in known]
    if gone:  # deleted since it was verified
        raise TopicsNotReady(_first_of(gone))
    if broker.embedded and (
        errors := topic_checks.equal_counts(settings, {name: fact.partitions for name, fact in known.items()})
    ):
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
                raise topic_error(name, "cannot be described", e, settings) from e
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
            raise topic_error(resource.name, "its settings cannot be read", e, settings) from e
        found[resource.name] = {name: str(entry.value) for name, entry in entries.items()}
    return found


def topic_error(name: str, what: str, error: KafkaException, settings: Settings) -> CommonplaceError:
    known = explained(error, settings)
    return known if isinstance(known, BrokerUnavailable) else type(known)(f"{name}: {what}: {known}")
