"""librdkafka's mock broker: speaks enough of Kafka's protocol for a first try and for fast tests. It is not Kafka."""

import ctypes
from functools import cache
from types import TracebackType
from typing import Any, Self

from confluent_kafka import cimpl

from commonplace.kafka.jars import BrokerError
from commonplace.words import counted

_PRODUCER = 0  # rd_kafka_type_t
_ERROR_TEXT_BYTES = 512
_TOPIC_ALREADY_EXISTS = 36  # Kafka's error code; librdkafka uses the same number


class EmbeddedBroker:
    """A mock broker inside this process, on a loopback port of its own choice. It is not Kafka.

    No compaction, no retention by time, no durability (all is gone when it stops), no admin calls, no lookup by
    timestamp; transactions look as if they worked and do not. The oldest batches of a partition are dropped past
    5 MiB or 100,000 batches. Nothing rests on it but the demo and fast tests.
    Clients should set `fetch.wait.max.ms` to 1: it can't cut a long poll short when a record arrives.
    Topics are made here, by the owner, or by the first client that names one (4 partitions).
    """

    def __init__(self) -> None:
        self._client: int | None = None
        self._cluster: int | None = None
        self._bootstrap = ""

    @property
    def bootstrap(self) -> str:
        """The address for clients, HOST:PORT. Raises BrokerError before `start`; another one after a new start."""
        self._started()
        return self._bootstrap

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Start, empty; it answers on return. Raises BrokerError when it can't, or runs already."""
        if self._cluster is not None:
            raise BrokerError(f"the embedded broker on {self._bootstrap} runs already: stop it first")
        library = _library()
        text = ctypes.create_string_buffer(_ERROR_TEXT_BYTES)
        # The mock lives on a client handle, which itself connects to nothing; level 3 keeps it from warning about that.
        conf = library.rd_kafka_conf_new()
        library.rd_kafka_conf_set(conf, b"log_level", b"3", text, _ERROR_TEXT_BYTES)
        self._client = library.rd_kafka_new(_PRODUCER, conf, text, _ERROR_TEXT_BYTES)
        if not self._client:
            raise BrokerError(f"librdkafka made no client for the embedded broker: {text.value.decode()}")
        self._cluster = library.rd_kafka_mock_cluster_new(self._client, 1)
        if not self._cluster:
            self.stop()
            raise BrokerError("librdkafka made no embedded broker: is loopback (127.0.0.1) up?")
        self._bootstrap = library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()
        # Else the first consumer of a group waits 3 s for others to join.
        library.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, 0)

    def create_topic(self, name: str, partitions: int) -> None:
        """Make a topic; one that is there keeps its partitions. Raises BrokerError when refused."""
        if partitions < 1:  # the mock would take 0 and make a topic nobody can write to
            raise BrokerError(f"topic {name} can't have {partitions} partitions: give it at least 1")
        code = _library().rd_kafka_mock_topic_create(self._started(), name.encode(), partitions, 1)
        if code not in (0, _TOPIC_ALREADY_EXISTS):
            reason = _library().rd_kafka_err2str(code).decode()
            raise BrokerError(
                f"the embedded broker refused topic {name} with {counted(partitions, 'partition')}: {reason}"
            )

    def stop(self) -> None:
        """End it and forget all it held. A stopped broker is left as it is."""
        library = _library()
        if self._cluster:
            library.rd_kafka_mock_cluster_destroy(self._cluster)
        if self._client:
            library.rd_kafka_destroy(self._client)
        self._cluster = self._client = None

    def _started(self) -> int:
        if self._cluster is None:
            raise BrokerError("the embedded broker does not run: start it first")
        return self._cluster


@cache
def _library() -> Any:
    """librdkafka as the Python client loaded it: symbols are looked up through the extension module's dependencies."""
    library = ctypes.CDLL(cimpl.__file__)
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    signatures: dict[str, tuple[Any, list[Any]]] = {
        "rd_kafka_conf_new": (pointer, []),
        "rd_kafka_conf_set": (number, [pointer, text, text, text, ctypes.c_size_t]),
        "rd_kafka_new": (pointer, [number, pointer, text, ctypes.c_size_t]),
        "rd_kafka_destroy": (None, [pointer]),
        "rd_kafka_err2str": (text, [number]),
        "rd_kafka_mock_cluster_new": (pointer, [pointer, number]),
        "rd_kafka_mock_cluster_destroy": (None, [pointer]),
        "rd_kafka_mock_cluster_bootstraps": (text, [pointer]),
        "rd_kafka_mock_topic_create": (number, [pointer, text, number, number]),
        "rd_kafka_mock_group_initial_rebalance_delay_ms": (None, [pointer, ctypes.c_int32]),
    }
    for name, (result, arguments) in signatures.items():
        try:
            function = getattr(library, name)
        except AttributeError as error:
            raise BrokerError(
                f"this librdkafka has no {name}, so no embedded broker: install confluent-kafka's own wheel"
            ) from error
        function.restype, function.argtypes = result, arguments
    return library
