"""The control topic as a table: read it whole, put and delete records; for operators' commands, not for hot paths.

Keys are `flavor/NAME`, `profile/NAME`, `host/NAME`, `routing`; the last value of a key wins, a tombstone deletes.
"""

from collections.abc import Mapping
from typing import Final

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from commonplace.core.codec import Bad, decode, encode
from commonplace.core.records.control import Flavor
from commonplace.errors import TimedOut, TopicsNotReady
from commonplace.kafka import client
from commonplace.kafka.topics import Topics
from commonplace.settings import Settings

READ_TIMEOUT_S: Final = 15.0
WRITE_TIMEOUT_S: Final = 15.0
FLAVOR_KEY: Final = "flavor/"

# The sizes that OpenStack's devstack has shipped for years, so that people find what they know.
STARTER_FLAVORS: Final = tuple(
    Flavor(name=name, resources={"VCPU": vcpus, "MEMORY_MB": memory_mb, "DISK_GB": disk_gb})
    for name, vcpus, memory_mb, disk_gb in (
        ("m1.tiny", 1, 512, 1),
        ("m1.small", 1, 2048, 20),
        ("m1.medium", 2, 4096, 40),
        ("m1.large", 4, 8192, 80),
        ("m1.xlarge", 8, 16384, 160),
    )
)


def read(settings: Settings) -> dict[str, bytes]:
    """The last value of every key that is not deleted; blocks until the topic's end, at most READ_TIMEOUT_S."""
    name = Topics(settings.topics.prefix, settings.topics.pool).control
    reader = client.consumer(settings, required={"enable.partition.eof": True})
    try:
        return _read_to_end(reader, name, settings)
    finally:
        reader.close()


def write(settings: Settings, records: Mapping[str, bytes | None]) -> None:
    """Put each value under its key, None deletes; blocks until acknowledged, else raises naming the key."""
    name = Topics(settings.topics.prefix, settings.topics.pool).control
    failed: dict[str, KafkaError] = {}

    def delivered(error: KafkaError | None, message: Message) -> None:
        if error is not None:
            failed[(message.key() or b"").decode(errors="replace")] = error

    writer = client.producer(settings)
    for key, value in records.items():
        writer.produce(name, value=value, key=key.encode(), partition=0, on_delivery=delivered)
    if writer.flush(WRITE_TIMEOUT_S):
        raise TimedOut(
            f"{name}: the broker did not acknowledge within {WRITE_TIMEOUT_S:g} s; whether it wrote is unknown"
        )
    for key, error in failed.items():
        told = client.explained(KafkaException(error), settings)
        raise type(told)(f"{name}: {key} was not written: {told}")


def flavors(settings: Settings) -> dict[str, Flavor]:
    """The flavors by name; records that cannot be decoded are left out (the replicas quarantine them)."""
    found = {key: decode("control", value) for key, value in read(settings).items() if key.startswith(FLAVOR_KEY)}
    return {flavor.name: flavor for flavor in found.values() if not isinstance(flavor, Bad)}


def put_flavors(settings: Settings, *new: Flavor) -> None:
    """Write the flavors, replacing those of the same names."""
    write(settings, {FLAVOR_KEY + flavor.name: encode(flavor) for flavor in new})


def put_starter_flavors(settings: Settings) -> list[str]:
    """Write m1.tiny … m1.xlarge into the settings' pool where there is no flavor at all; returns those written."""
    if flavors(settings):
        return []
    new = [msgspec.structs.replace(flavor, pool=settings.topics.pool) for flavor in STARTER_FLAVORS]
    put_flavors(settings, *new)
    return [flavor.name for flavor in new]


def _read_to_end(reader: Consumer, name: str, settings: Settings) -> dict[str, bytes]:
    values: dict[str, bytes] = {}
    try:
        low, end = reader.get_watermark_offsets(TopicPartition(name, 0), timeout=READ_TIMEOUT_S)
        reader.assign([TopicPartition(name, 0, low)])
        reached = low
        while reached < end:
            message = reader.poll(READ_TIMEOUT_S)
            if message is None:
                raise TimedOut(
                    f"{name}: no end reached within {READ_TIMEOUT_S:g} s: is the broker at {settings.bootstrap} busy?"
                )
            error = message.error()
            if error is None:
                _apply(values, message)
                reached = (message.offset() or 0) + 1
            elif error.code() == KafkaError._PARTITION_EOF:  # the last record was compacted away
                reached = end
            else:
                raise KafkaException(error)
    except KafkaException as e:
        code = e.args[0].code()
        if code in (KafkaError._UNKNOWN_PARTITION, KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC):
            raise TopicsNotReady(f"{name}: missing at {settings.bootstrap}: run `{client.creation(settings)}`") from e
        raise client.explained(e, settings) from e
    return values


def _apply(values: dict[str, bytes], message: Message) -> None:
    key, value = (message.key() or b"").decode(errors="replace"), message.value()
    if value is None:
        values.pop(key, None)
    else:
        values[key] = value
