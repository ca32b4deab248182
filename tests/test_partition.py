"""The partition of a name: Kafka's own partitioner."""

import pytest
from confluent_kafka import KafkaError, Message, Producer
from hypothesis import given
from hypothesis import strategies as st

from commonplace.core.partition import murmur2, partition_of
from kafka_fixtures import KafkaUnderTest

# The vectors of Kafka's own UtilsTest.testMurmur2, signed 32-bit as Java prints them.
VECTORS = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize(("data", "signed"), VECTORS.items())
def test_murmur2_matches_kafkas_vectors(data: bytes, signed: int) -> None:
    assert murmur2(data) == signed % 2**32


@given(st.binary(max_size=40), st.integers(1, 1000))
def test_partition_is_inside_the_topic(name: bytes, partitions: int) -> None:
    assert 0 <= partition_of(name, partitions) < partitions


def test_text_and_its_utf8_are_the_same_name() -> None:
    assert partition_of("wirt-ä", 97) == partition_of("wirt-ä".encode(), 97)


def test_a_producer_with_that_partitioner_agrees(kafka: KafkaUnderTest, prefix: str) -> None:
    names = [f"host-{n:04d}" + "x" * (n % 5) for n in range(200)]
    topic, partitions = f"{prefix}.agree", 7
    kafka.create_topic(topic, partitions)
    written: dict[str, int | None] = {}

    def delivered(error: KafkaError | None, message: Message) -> None:
        assert error is None
        written[(message.key() or b"").decode()] = message.partition()

    producer = Producer({"bootstrap.servers": kafka.bootstrap, "partitioner": "murmur2"})
    for name in names:
        producer.produce(topic, key=name, value=b"", on_delivery=delivered)
    assert producer.flush(20) == 0
    assert written == {name: partition_of(name, partitions) for name in names}
