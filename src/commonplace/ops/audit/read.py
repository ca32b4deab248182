"""The audit's shell: reads the raw topics of a pool up to the ends captured at start, and hands them to `check`."""

import time
from collections.abc import Iterator, Sequence
from typing import Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from commonplace.errors import TimedOut
from commonplace.frontend import history
from commonplace.kafka import client, topics
from commonplace.ops.audit.check import check
from commonplace.ops.audit.evidence import Entry, Log, Options
from commonplace.ops.audit.findings import AuditReport
from commonplace.settings import Settings

BATCH_RECORDS: Final = 5_000
"""Most records taken from the client at once: few enough to stay small, enough to amortise the call."""

SILENCE_S: Final = 30.0
"""How long a partition that has more records may give none before the audit gives up."""

CAPTURED: Final = ("decisions", "requests", "hosts", "claims", "control", "quarantine")
"""Order in which ends are captured: what a record points back to is captured after it (a decision's grant, a report's claim)."""

OVERTAKEN: Final = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}
"""How librdkafka says that a position is gone, told to reset none by itself."""

PLACED: Final = {*OVERTAKEN, KafkaError._PARTITION_EOF}
"""What it says of a place in the log; all else is of the way there."""

SEVERAL_BROKERS_SKEW_MS: Final = 1_000
"""How far the clocks of several brokers may differ: log times of two topics may come from two of them."""


def run(settings: Settings, options: Options | None = None) -> AuditReport:
    """Audit the pool that the settings name; blocks until all is read.

    Raises `BrokerUnavailable` without a broker, also one that goes and stays away, `TopicsNotReady` where a topic is missing or breaks a
    rule, `Denied` where ACLs refuse, `TimedOut` where reading stalls.
    """
    broker, facts, _ = topics.require_topics(settings, CAPTURED)
    settings = client.settings_for(settings, broker)
    options = options or options_for(settings, broker.brokers)
    names = topics.Topics(settings.topics.prefix, settings.topics.pool)
    consumers: list[Consumer] = []
    try:
        logs = {}
        for kind in CAPTURED:
            name = getattr(names, kind)
            consumers.append(client.consumer(settings, required={"enable.partition.eof": True}))
            logs[kind] = _log(consumers[-1], settings, name, facts[name].topic_id, facts[name].partitions)
        elsewhere = {}
        for pool, theirs in topics.pools(settings).items():
            if pool != settings.topics.pool:
                name = topics.Topics(settings.topics.prefix, pool).hosts
                consumers.append(client.consumer(settings, required={"enable.partition.eof": True}))
                elsewhere[pool] = _log(consumers[-1], settings, name, "", theirs.topics.hosts_partitions)
        return check(logs, options, elsewhere)
    finally:
        for consumer in consumers:
            consumer.close()


def options_for(settings: Settings, brokers: int) -> Options:
    """Tolerances that fit the settings: what agents and schedulers of this pool run with by default."""
    return Options(
        heartbeat_ms=int(settings.agent.heartbeat_interval_s * 1000),
        lapse_ms=int(settings.agent.lapse_interval_s * 1000),
        deadline_default_ms=settings.scheduler.deadline_ms_default,
        idempotency_window_ms=int(settings.scheduler.idempotency_window_s * 1000),
        quarantined_per_s_max=settings.limits.quarantined_per_s_max,
        skew_ms=0 if brokers == 1 else SEVERAL_BROKERS_SKEW_MS,
    )


def _log(consumer: Consumer, settings: Settings, name: str, topic_id: str, partitions: int) -> Log:
    low, high = {}, {}
    for partition in range(partitions):
        low[partition], high[partition] = history.watermarks(consumer, settings, name, partition)
    return Log(name, topic_id, low, high, _records(consumer, settings, name, low, high))


def _records(
    consumer: Consumer, settings: Settings, name: str, low: dict[int, int], high: dict[int, int]
) -> Iterator[Entry]:
    """All records of a topic up to the captured ends; assigned when first asked for, so that no topic is fetched ahead of its turn."""
    position = {partition: start for partition, start in low.items() if start < high[partition]}
    consumer.assign([TopicPartition(name, partition, start) for partition, start in position.items()])
    heard_s = time.monotonic()
    while position:
        for message in _batch(consumer, name, position):
            error = message.error()
            if error is not None and error.code() not in PLACED:
                history.check(message, settings)
                if time.monotonic() - heard_s > SILENCE_S:
                    raise client.explained(KafkaException(error), settings)
                continue
            heard_s = time.monotonic()
            partition, offset = message.partition(), message.offset()
            assert partition is not None, "what an assigned partition gives has a partition"
            assert offset is not None, "what an assigned partition gives has an offset"
            if error is not None and error.code() in OVERTAKEN:
                _skip_to_start(consumer, settings, name, partition, position, high)
                continue
            if partition not in position:
                continue  # it was read to its captured end, and goes on
            if error is None and offset < high[partition]:
                position[partition] = offset + 1
                yield Entry(partition, offset, message.timestamp()[1], _bytes(message.key()), _bytes(message.value()))
            # an end that is told: the last records may be compacted away
            if error is not None or offset + 1 >= high[partition]:
                del position[partition]
                consumer.incremental_unassign([TopicPartition(name, partition)])


def _batch(consumer: Consumer, name: str, position: dict[int, int]) -> Sequence[Message]:
    first = consumer.poll(SILENCE_S)
    if first is None:
        partition, offset = next(iter(position.items()))
        raise TimedOut(
            f"{name} [{partition}] gave nothing at offset {offset} for {SILENCE_S:g} s: see the broker, then audit again"
        )
    return [first, *consumer.consume(BATCH_RECORDS, 0)]


def _skip_to_start(
    consumer: Consumer, settings: Settings, name: str, partition: int, position: dict[int, int], high: dict[int, int]
) -> None:
    """Retention overtook the audit: go on with what is left; the gap in the offsets makes the rest unprovable."""
    if partition not in position:
        return
    low, _ = history.watermarks(consumer, settings, name, partition)
    consumer.incremental_unassign([TopicPartition(name, partition)])
    if low >= high[partition]:
        del position[partition]
        return
    position[partition] = low
    consumer.incremental_assign([TopicPartition(name, partition, low)])


def _bytes(data: str | bytes | None) -> bytes | None:
    return data.encode() if isinstance(data, str) else data
