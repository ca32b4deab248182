"""What an operator does to topics under way, seen by the broker before a test goes on."""

import logging
import time
from collections.abc import Callable, Mapping

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

WAIT_S = 30


def set_topic(bootstrap: str, topic: str, changed: Mapping[str, str]) -> None:
    """Change settings of a topic, and wait until the broker describes them so: the controller answers before it does."""
    entries = [ConfigEntry(k, v, incremental_operation=AlterConfigOpType.SET) for k, v in changed.items()]
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
    admin = _admin(bootstrap)
    admin.incremental_alter_configs([resource])[resource].result(WAIT_S)

    def described() -> bool:
        asked = ConfigResource(ResourceType.TOPIC, topic)
        told = admin.describe_configs([asked])[asked].result(WAIT_S)
        return all(told[setting].value == value for setting, value in changed.items())

    _until(described)


def delete_before(bootstrap: str, topic: str, partition: int, offset: int) -> None:
    """Delete the records before `offset`. A log that was just allowed to delete may refuse it for a moment more."""
    admin = _admin(bootstrap)
    until = TopicPartition(topic, partition, offset)

    def deleted() -> bool:
        try:
            admin.delete_records([until])[until].result(WAIT_S)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.POLICY_VIOLATION:
                raise
            return False
        return True

    _until(deleted)


def _admin(bootstrap: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": bootstrap}, logger=logging.getLogger("test-admin"))


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline, "the broker did not take the change up"
        time.sleep(0.05)
