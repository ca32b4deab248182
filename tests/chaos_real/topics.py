"""Every record of every topic, written down as it appears: before compaction takes it, and through broker restarts.

topics/NAME.jsonl.gz    [partition, offset, log time, key, value] a line; bytes that are no text as {"base64": …}
topics/topics.json      full name, id and end offsets of each topic
"""

import base64
import gzip
import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from commonplace.kafka.topics import TopicFacts
from commonplace.ops.audit import Entry, Log

FOLDER: Final = "topics"
INDEX: Final = "topics.json"
# A broker that is away is what this is about, and librdkafka tells of every try.
SILENT: Final = logging.Logger("tap", level=logging.CRITICAL + 1)
POLL_S: Final = 0.2
BATCH: Final = 1_000
STALL_S: Final = 60.0
# The tap must be back before compaction is: librdkafka's 10 s would be too late.
CONFIG: Final[Mapping[str, Any]] = {
    "group.id": "chaos-tap",
    "enable.auto.commit": False,
    "auto.offset.reset": "error",
    "enable.partition.eof": True,
    "fetch.queue.backoff.ms": 1,
    "reconnect.backoff.max.ms": 500,
    "message.max.bytes": 2_000_000,
}


class Tap:
    """Follows all topics from their first record on a thread of its own; `seen` is called for each record, on that thread."""

    def __init__(
        self, bootstrap: str, facts: Mapping[str, TopicFacts], directory: Path, seen: Callable[[str, Entry], None]
    ) -> None:
        self._bootstrap = bootstrap
        self._facts = facts  # by kind: hosts, claims …
        self._kinds = {fact.name: kind for kind, fact in facts.items()}
        self._directory = directory / FOLDER
        self._directory.mkdir(parents=True, exist_ok=True)
        self._files = {kind: gzip.open(self._path(kind), "wt", 1, encoding="utf-8") for kind in facts}  # noqa: SIM115
        self._seen = seen
        self._consumer = Consumer({**CONFIG, "bootstrap.servers": bootstrap}, logger=SILENT)
        self.positions = {(fact.name, p): 0 for fact in facts.values() for p in range(fact.partitions)}
        self._consumer.assign([TopicPartition(name, p, 0) for name, p in self.positions])
        self._stop = threading.Event()
        self.failure = ""
        self._thread = threading.Thread(target=self._follow, name="tap", daemon=True)
        self._thread.start()

    def behind(self) -> str:
        """What is not read yet of what the topics hold now; "" when nothing is. The broker must answer."""
        if self.failure:
            return self.failure
        asker = Consumer({**CONFIG, "bootstrap.servers": self._bootstrap}, logger=SILENT)
        try:
            for (name, p), position in self.positions.items():
                end = asker.get_watermark_offsets(TopicPartition(name, p), timeout=STALL_S)[1]
                if position < end:
                    return f"{name} [{p}] is read to {position} of {end}"
        finally:
            asker.close()
        return ""

    def close(self) -> None:
        """Stop reading, and write the index that makes the records a log."""
        self._stop.set()
        self._thread.join()
        for file in self._files.values():
            file.close()
        index = {
            kind: {
                "name": fact.name,
                "topic_id": fact.topic_id,
                "ends": [self.positions[fact.name, p] for p in range(fact.partitions)],
            }
            for kind, fact in self._facts.items()
        }
        (self._directory / INDEX).write_text(json.dumps(index, indent=1))

    def _path(self, kind: str) -> Path:
        return self._directory / f"{kind}.jsonl.gz"

    def _follow(self) -> None:
        try:
            while not self._stop.is_set():
                first = self._consumer.poll(POLL_S)
                if first is not None:
                    for message in (first, *self._consumer.consume(BATCH, 0)):
                        self._take(message)
        finally:
            self._consumer.close()

    def _take(self, message: Message) -> None:
        name, partition, offset = message.topic() or "", message.partition() or 0, message.offset() or 0
        error = message.error()
        if error is not None:
            if error.code() == KafkaError._PARTITION_EOF:
                self.positions[name, partition] = max(offset, self.positions[name, partition])
            elif error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
                self.failure = f"{name} [{partition}]: records are gone that were never read: {error.str()}"
            return
        key, value = message.key(), message.value()
        assert key is None or isinstance(key, bytes)
        assert value is None or isinstance(value, bytes)
        entry = Entry(partition, offset, message.timestamp()[1], key, value)
        kind = self._kinds[name]
        line = json.dumps([*entry[:3], as_text(key), as_text(value)], ensure_ascii=False)
        self._files[kind].write(line + "\n")
        self._seen(kind, entry)
        self.positions[name, partition] = offset + 1


def load(directory: Path) -> dict[str, Log]:
    """The logs that a run left, by kind, each to be read once."""
    index = json.loads((directory / FOLDER / INDEX).read_text())
    return {kind: _log(directory, kind, about) for kind, about in index.items()}


def entries(directory: Path, kind: str) -> Iterator[Entry]:
    """The records of one topic, in the order in which they were read: by offset within a partition."""
    with gzip.open(directory / FOLDER / f"{kind}.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            partition, offset, time_ms, key, value = json.loads(line)
            yield Entry(partition, offset, time_ms, as_bytes(key), as_bytes(value))


def _log(directory: Path, kind: str, about: Mapping[str, Any]) -> Log:
    ends = dict(enumerate(about["ends"]))
    return Log(about["name"], about["topic_id"], dict.fromkeys(ends, 0), ends, entries(directory, kind))


def as_text(data: bytes | None) -> str | dict[str, str] | None:
    """A key or value as it stands in a saved topic."""
    if data is None:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def as_bytes(text: str | dict[str, str] | None) -> bytes | None:
    """The inverse of `as_text`."""
    if text is None or isinstance(text, str):
        return None if text is None else text.encode()
    return base64.b64decode(text["base64"])
