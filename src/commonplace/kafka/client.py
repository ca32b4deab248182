"""Client configuration: [kafka] passed through, what the protocol needs merged last, and a broker that answers.

fallbacks (ours, may be changed)  <  [kafka]  <  required (ours, a conflict is refused by name)
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient
from msgspec import Struct

from commonplace.errors import BrokerUnavailable, CommonplaceError, Denied, NotReady, SettingsError
from commonplace.kafka import traffic
from commonplace.settings import KAFKA, Settings, TopicsSettings, is_secret

ANSWER_TIMEOUT_S: Final = 4.0  # one connection attempt and a retry; a person waits for this line

C = TypeVar("C")

_LOG: Final = logging.getLogger("commonplace.kafka.librdkafka")

# What librdkafka warns of and we mean to happen: a coordinator that loads while a broker starts is asked again, and
# [kafka] goes to producers and consumers alike, each of which ignores what is the other's. A broker that is away is told
# by the error callbacks when that begins; librdkafka tells of every try, twenty a second for each client (measured).
_EXPECTED: Final = (
    "Coordinator load in progress: retrying",
    "property and will be ignored by this",
    "Connection refused",
    "Connection reset by peer",
)


def _worth_telling(record: logging.LogRecord) -> bool:
    return _LOG.isEnabledFor(logging.DEBUG) or not any(part in record.getMessage() for part in _EXPECTED)


_LOG.addFilter(_worth_telling)

# Key and headers ride beside a record of limits.record_bytes_max; the sum stays below Kafka's default of 1,048,588.
_ENVELOPE_BYTES: Final = 32_768

_PRODUCER_REQUIRED: Final[dict[str, Any]] = {
    "enable.idempotence": True,  # no duplicates and no reordering inside a partition; costs nothing measurable
    "acks": "all",  # acknowledged means it survives a broker
}
_PRODUCER_FALLBACK: Final[dict[str, Any]] = {
    "linger.ms": 5,  # a turn ends with one flush, which overrides this; it only catches sends between turns
}
_CONSUMER_REQUIRED: Final[dict[str, Any]] = {
    "enable.auto.commit": False,  # a position is committed when its decision is acknowledged, never by a timer
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",  # a position that is gone means lost records: rebuild, never jump
    "isolation.level": "read_uncommitted",  # no transactions here, and a stranger's open one must not hold readers up
    "allow.auto.create.topics": False,
}
_CONSUMER_FALLBACK: Final[dict[str, Any]] = {
    "fetch.queue.backoff.ms": 1,  # librdkafka's 1 s can stall a consumer whose queue was full once
}
# One word of librdkafka's may be written two ways.
_ALIASES: Final = {
    "request.required.acks": "acks",
}
_ACKS_ALL: Final = {"all", "-1"}


class Broker(Struct, frozen=True):
    """Who answered at the bootstrap address."""

    cluster_id: str
    brokers: int
    embedded: bool
    """librdkafka's mock, which is not Kafka: no admin calls, no compaction, no durability."""


def producer_config(settings: Settings, required: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Configuration of an idempotent producer; raises `SettingsError` where [kafka] contradicts what is required."""
    fallback = {**_PRODUCER_FALLBACK, "message.max.bytes": settings.limits.record_bytes_max + _ENVELOPE_BYTES}
    return _merge(settings, fallback, {**_PRODUCER_REQUIRED, **(required or {})})


def consumer_config(
    settings: Settings, group: str | None = None, required: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Configuration of a consumer that never commits by itself.

    With `group` a member of it (cooperative where the protocol is classic); without, one that assigns its partitions.
    """
    wanted = {**_CONSUMER_REQUIRED, **(_group(settings, group) if group else _no_group(settings)), **(required or {})}
    return _merge(settings, _CONSUMER_FALLBACK, wanted)


def check_passed_through(settings: Settings) -> None:
    """Raise `SettingsError` where [kafka] contradicts what some component needs; asks no broker."""
    producer_config(settings, {"delivery.report.only.error": False})
    consumer_config(settings, replica_group(settings))
    consumer_config(settings, required={"enable.partition.eof": True})


def replica_group(settings: Settings) -> str:
    """The consumer group that the replicas of a pool share."""
    return f"{settings.topics.prefix}.{settings.topics.pool}.replicas"


def producer(settings: Settings, required: Mapping[str, Any] | None = None) -> Producer:
    """A producer whose librdkafka log goes through `logging`; create it after a fork, never before."""
    return _created(Producer, producer_config(settings, required))


def consumer(settings: Settings, group: str | None = None, required: Mapping[str, Any] | None = None) -> Consumer:
    """A consumer whose librdkafka log goes through `logging`; owned by one thread."""
    return _created(Consumer, consumer_config(settings, group, required))


def admin(settings: Settings) -> AdminClient:
    """An admin client whose librdkafka log goes through `logging`."""
    return _created(AdminClient, _merge(settings, {}, {}))


def require_broker(settings: Settings, timeout_s: float = ANSWER_TIMEOUT_S) -> Broker:
    """Whoever answers at the bootstrap address; blocks up to `timeout_s`, then raises `BrokerUnavailable`."""
    client = admin(settings)
    try:
        metadata = client.list_topics(timeout=timeout_s)
    except KafkaException as e:
        raise explained(e, settings) from e
    cluster_id = str(metadata.cluster_id or "")
    return Broker(cluster_id=cluster_id, brokers=len(metadata.brokers), embedded=cluster_id.startswith("mockCluster"))


def settings_for(settings: Settings, broker: Broker) -> Settings:
    """The settings, fitted to that broker: the embedded one cannot cut a long poll short, so it must not start one."""
    if not broker.embedded or "fetch.wait.max.ms" in settings.kafka:
        return settings
    return msgspec.structs.replace(settings, kafka={**settings.kafka, "fetch.wait.max.ms": "1"})


def creation(settings: Settings) -> str:
    """The command that makes the topics of these settings, to be typed as it is."""
    topics, usual = settings.topics, TopicsSettings()
    prefix = f" --prefix {topics.prefix}" if topics.prefix != usual.prefix else ""
    return f"commonplace topics create{prefix}" + (f" --pool {topics.pool}" if topics.pool != usual.pool else "")


def explained(error: KafkaException, settings: Settings) -> CommonplaceError:
    """The typed error, one line for a person, of a call that the broker refused or never answered."""
    kafka_error: KafkaError = error.args[0]
    code, text = kafka_error.code(), kafka_error.str()
    if code in DENIED:
        return Denied(f"the broker at {settings.bootstrap} refuses: {text}; see the ACLs and [kafka]")
    if code in _NO_ANSWER:
        return BrokerUnavailable(
            f"no broker at {settings.bootstrap}: start one with `commonplace broker` or name one with -b ({text})"
        )
    if code == KafkaError.KAFKA_STORAGE_ERROR:
        return NotReady(f"the broker at {settings.bootstrap}: {text}: see its log and its disk")
    return CommonplaceError(f"the broker at {settings.bootstrap}: {text}")


_NO_ANSWER: Final = {
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._TIMED_OUT,
    KafkaError._RESOLVE,
    KafkaError._DESTROY_BROKER,  # the connection that a question waited on was given up, and its broker is known anew
}
DENIED: Final = {
    KafkaError._AUTHENTICATION,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
}
"""How a broker says that ACLs, or a password, are why."""


def _group(settings: Settings, group: str) -> dict[str, Any]:
    s = settings.scheduler
    if s.group_protocol == "consumer":
        return {"group.id": group, "group.protocol": "consumer"}
    return {
        "group.id": group,
        "group.protocol": "classic",
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": s.session_timeout_ms,
        "heartbeat.interval.ms": max(1, min(3_000, s.session_timeout_ms // 3)),
    }


def _no_group(settings: Settings) -> dict[str, Any]:
    """The Python client demands a group id even of a consumer that joins none."""
    return {"group.id": f"{settings.topics.prefix}.{settings.topics.pool}.no-group"}


def _merge(settings: Settings, fallback: Mapping[str, Any], required: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in settings.kafka.items():
        name = _ALIASES.get(key, key)
        if name in required and not _same(name, value, required[name]):
            shown = "(a secret)" if is_secret(key) else value
            raise SettingsError(
                f"[{KAFKA}] {key} = {shown} contradicts {name} = {required[name]}, which the protocol needs: remove it"
            )
    passed = {key: value for key, value in settings.kafka.items() if _ALIASES.get(key, key) not in required}
    return {**fallback, **passed, **required}


def _same(name: str, found: str, wanted: Any) -> bool:
    if name == "acks":
        return found.lower() in _ACKS_ALL
    return found.lower() == str(wanted).lower()


def _created(client: Callable[..., C], config: dict[str, Any]) -> C:
    """Build a client; librdkafka names the setting that it does not know or cannot take."""
    counted = traffic.counting(config) if client is not AdminClient else {}  # nobody polls an admin client
    try:
        return client({**config, **counted}, logger=_LOG)
    except KafkaException as e:
        raise SettingsError(f"[{KAFKA}] {e.args[0].str()}") from e
