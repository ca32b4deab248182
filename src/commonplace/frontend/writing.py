"""The client's writing thread: produces all that was queued, one flush a turn, and sleeps while nothing is unacknowledged.

It takes what was queued during its last flush, and leaves some room between two, so that no thread is woken per record while there is load.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Producer

from commonplace.core.codec import encode
from commonplace.core.records.quarantine import Quarantined
from commonplace.errors import CommonplaceError
from commonplace.frontend.events import Quarantine, SendClaimRecord, SendRequest
from commonplace.kafka.headers import of_trace
from commonplace.kafka.outbox import FLUSH_S
from commonplace.kafka.pace import Pace
from commonplace.kafka.topics import Topics

CLOSE_FLUSH_S: Final = 5.0

Delivered = Callable[..., None]
"""Called with a record's delivery report, error and message, on the writing thread; where there is an error without a message."""

_log = logging.getLogger(__name__)


class Writer:
    """Writes requests, cancels, confirms and releases. `put` and `wake` may be called from any thread.

    `flushed` is called after every flush. `broke` is called once where the thread ends before it was told to, with the
    error that it knows of; what it returns is told to all whose records were not written.
    """

    def __init__(
        self,
        producer: Producer,
        names: Topics,
        flushed: Callable[[], None],
        broke: Callable[[CommonplaceError | None], CommonplaceError],
    ) -> None:
        self.unwritten: CommonplaceError | None = None  # why it ended before it was told to
        self.thread = threading.Thread(target=self._run, name="frontend-writer", daemon=True)
        self._producer, self._names = producer, names
        self._requests_topic, self._claims_topic = names.requests, names.claims
        self._flushed, self._broke = flushed, broke
        self._queue: deque[tuple[SendRequest | SendClaimRecord, Delivered]] = deque()
        self._wake = threading.Event()
        self._pace = Pace()
        self._parked = False
        self._stopping = False

    @property
    def idle(self) -> bool:
        """Whether nothing is queued or unacknowledged: it parks only then, and unparks before it takes."""
        return not self._queue and (self._parked or not self.thread.is_alive())

    def put(self, record: SendRequest | SendClaimRecord, delivered: Delivered) -> None:
        """Queue a record; `wake` after the last of a batch."""
        self._queue.append((record, delivered))

    def wake(self) -> None:
        """Have it look at the queue."""
        if self._parked:
            self._wake.set()

    def stop(self) -> None:
        """Have it write what is queued and end."""
        self._stopping = True
        self._wake.set()

    def put_aside(self, bad: Quarantine) -> None:
        """Tell of a record that can't be used, on the caller's thread; where that fails, in the log only."""
        record = Quarantined(
            topic=self._names.decisions,
            partition=bad.partition,
            offset=bad.offset,
            reason=bad.reason[:1024],
            by="frontend",
            key=bad.key.decode(errors="replace")[:1024],
        )
        _log.warning("quarantined %s/%d@%d: %s", record.topic, bad.partition, bad.offset, bad.reason)
        try:
            self._producer.produce(self._names.quarantine, value=encode(record), partition=0)
        except (BufferError, KafkaException) as error:
            _log.warning("%s could not be written: %s", self._names.quarantine, error)

    # --- the thread ---

    def _run(self) -> None:
        done, known = False, None
        try:
            self._write()
            done = True
        except CommonplaceError as error:
            known = error
        finally:
            if not done:
                self.unwritten = self._broke(known)
                self._drop(self.unwritten)

    def _write(self) -> None:
        producer, queue = self._producer, self._queue
        while True:
            if not queue and len(producer) == 0:
                if self._stopping:
                    return
                self._park()
                continue
            stopping = self._stopping  # as it is before the flush: the last flush is the long one
            queued = len(queue)
            for _ in range(queued):
                self._produce(*queue.popleft())
            producer.flush(CLOSE_FLUSH_S if stopping else FLUSH_S)
            self._flushed()
            if stopping and len(producer):
                _log.warning("%d records were not acknowledged when the frontend closed", len(producer))
                producer.purge()
                producer.flush(FLUSH_S)
                return
            self._pace.rest(queued)

    def _park(self) -> None:
        self._parked = True
        if not self._queue and not self._stopping:  # else it was queued before it could see us parked
            self._wake.wait()
        self._parked = False
        self._wake.clear()

    def _produce(self, record: SendRequest | SendClaimRecord, delivered: Delivered) -> None:
        try:
            try:
                self._send(record, delivered)
            except BufferError:  # the client's queue is full: 100,000 records or 1 GB
                self._producer.flush(1.0)
                self._send(record, delivered)
        except BufferError as error:
            delivered(KafkaError(KafkaError._QUEUE_FULL, str(error)), None)
        except KafkaException as error:
            delivered(_told(error.args[0], record), None)
            if error.args[0].fatal():
                raise CommonplaceError(
                    f"the producer can't go on: {error.args[0].str()}: open another frontend, and ask again by the ids"
                ) from error

    def _send(self, record: SendRequest | SendClaimRecord, delivered: Delivered) -> None:
        topic, headers = self._claims_topic, None
        if isinstance(record, SendRequest):
            topic, headers = self._requests_topic, of_trace(record.trace)
        self._producer.produce(topic, record.value, record.key, record.partition, delivered, headers=headers)

    def _drop(self, error: CommonplaceError) -> None:
        """Nothing is written any more: whoever waits for an acknowledgement is told."""
        self._producer.purge()
        self._producer.flush(FLUSH_S)
        while self._queue:
            _, delivered = self._queue.popleft()
            delivered(KafkaError(KafkaError._PURGE_QUEUE, str(error)), None)


def _told(error: KafkaError, record: SendRequest | SendClaimRecord) -> KafkaError:
    """What the client said of a record that it did not take, with what to do about one that is too large."""
    if error.code() != KafkaError.MSG_SIZE_TOO_LARGE:
        return error
    bounds = "limits.record_bytes_max and message.max.bytes of [kafka]"
    return KafkaError(error.code(), f"{error.str()}: {len(record.value)} bytes, see {bounds}")
