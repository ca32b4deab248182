"""Reading what already stands in a topic: from a position, or from a log time, up to ends captured now."""

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from commonplace.errors import CommonplaceError, TimedOut
from commonplace.frontend.events import Rows
from commonplace.kafka import client as kafka_client
from commonplace.kafka import lookups
from commonplace.kafka.headers import trace_of
from commonplace.settings import Settings

STALL_TIMEOUT_S = 30.0
"""Reading without a single record or end: longer than a broker's fail-over."""
BATCH = 1_000

_log = logging.getLogger(__name__)

Row = tuple[int, int, bytes | None, bytes | None]


def ends(consumer: Consumer, settings: Settings, topic: str, partitions: Iterable[int]) -> dict[int, int]:
    """The end offset of each partition now; raises `BrokerUnavailable` without an answer."""
    return {p: watermarks(consumer, settings, topic, p)[1] for p in partitions}


def since(
    consumer: Consumer, settings: Settings, topic: str, partitions: Iterable[int], log_time_ms: int | None
) -> dict[int, int]:
    """The offset of the first record not older than a log time; from the log's start with None.

    The embedded broker has no lookup by time and answers with its end, so callers ask it for the start.
    """
    starts = {p: watermarks(consumer, settings, topic, p) for p in partitions}
    if log_time_ms is None:
        return {p: low for p, (low, _) in starts.items()}
    wanted = [TopicPartition(topic, p, max(0, log_time_ms)) for p in starts]
    found = lookups.answer(
        consumer, settings, topic, lambda asker, timeout_s: asker.offsets_for_times(wanted, timeout=timeout_s)
    )
    return {tp.partition: tp.offset if tp.offset >= 0 else starts[tp.partition][1] for tp in found}


def read(
    settings: Settings, topic: str, starts: Mapping[int, int], stops: Mapping[int, int]
) -> Iterator[tuple[int, list[Row]]]:
    """Batches of (partition, rows) from `starts` up to `stops`; blocks as it is read, with a consumer of its own.

    Raises `TimedOut` when nothing moves for STALL_TIMEOUT_S.
    """
    left = {p: stop for p, stop in stops.items() if starts[p] < stop}
    if not left:
        return
    consumer = kafka_client.consumer(settings, required={"enable.partition.eof": True})
    try:
        consumer.assign([TopicPartition(topic, p, starts[p]) for p in left])
        while left:
            messages = batch(consumer, STALL_TIMEOUT_S)
            if not messages:
                raise TimedOut(f"{topic}: nothing could be read for {STALL_TIMEOUT_S:.0f} s at {settings.bootstrap}")
            yield from _wanted(messages, left, settings)
    finally:
        consumer.close()


def trace_at(settings: Settings, topic: str, partition: int, offset: int) -> str:
    """The trace context beside one record, "" where there is none or the record is gone. Blocks, as `read` does."""
    consumer = kafka_client.consumer(settings, required={"enable.partition.eof": True})
    try:
        consumer.assign([TopicPartition(topic, partition, offset)])
        message = consumer.poll(STALL_TIMEOUT_S)
        return trace_of(message) if message is not None and not message.error() and message.offset() == offset else ""
    finally:
        consumer.close()


def batch(consumer: Consumer, timeout_s: float) -> list[Message]:
    """What is there, waiting for the first record only: `consume` alone would wait for a full batch."""
    first = consumer.poll(timeout_s)
    if first is None:
        return []
    return [first, *consumer.consume(BATCH, 0)]


def row(message: Message) -> Row:
    """A message as a session reads it; bytes stay bytes."""
    return message.offset(), message.timestamp()[1], message.key(), message.value()  # type: ignore[return-value]


def check(message: Message, settings: Settings) -> None:
    """Raise the typed error that a message stands for; ends of partitions are none, nor is a broker that is away."""
    error = message.error()
    if error is None or error.code() == KafkaError._PARTITION_EOF:
        return
    where = f"{message.topic()} partition {message.partition()}"
    if error.code() in _GONE:
        raise CommonplaceError(f"{where}: records were deleted before they were read ({error.str()}): start again")
    if error.retriable() or error.code() in _AWAY:
        _log.debug("librdkafka goes on by itself after: %s", error.str())
        return
    raise kafka_client.explained(KafkaException(error), settings)


_GONE: Final = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}
# The client reconnects by itself; whoever waits has a timeout of their own.
_AWAY: Final = {KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT, KafkaError._RESOLVE}


def _wanted(messages: list[Message], left: dict[int, int], settings: Settings) -> Iterator[tuple[int, list[Row]]]:
    found: dict[int, list[Row]] = {}
    for message in messages:
        check(message, settings)
        partition, offset, error = message.partition(), message.offset(), message.error()
        if partition is None or offset is None or (error and error.code() != KafkaError._PARTITION_EOF):
            continue
        stop = left.get(partition)
        if stop is None:
            continue
        if error is None and offset < stop:
            found.setdefault(partition, []).append(row(message))
        # an end of partition carries the end, a record counts itself
        if offset >= (stop if error else stop - 1):
            del left[partition]
    yield from found.items()


def watermarks(consumer: Consumer, settings: Settings, topic: str, partition: int) -> tuple[int, int]:
    """Where a partition begins and ends; asked again as `lookups.answer` does. Raises `TimedOut` where nobody says."""
    place = TopicPartition(topic, partition)
    found = lookups.answer(
        consumer, settings, topic, lambda asker, timeout_s: asker.get_watermark_offsets(place, timeout=timeout_s)
    )
    if found is None:
        raise TimedOut(f"{topic} partition {partition}: no offsets within {lookups.TIMEOUT_S:.0f} s")
    low, high = found
    return low, high


def rows_for(rows: Rows, keys: set[bytes]) -> list[Row]:
    """The rows under some keys."""
    return [r for r in rows if r[2] in keys]
