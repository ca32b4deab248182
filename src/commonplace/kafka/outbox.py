"""One idempotent producer for all that a component writes: bounded, flushed once a turn, failures counted and told.

A turn ends with one `flush(0.002)`: it overrides linger, wakes the network thread once and waits about one round trip,
so that batches grow with the load by themselves. An idle turn only serves delivery reports, and so may a full one.
"""

import logging
import time
from collections.abc import Callable
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Message

from commonplace.core.codec import encode
from commonplace.core.records.quarantine import Quarantined
from commonplace.errors import CommonplaceError, TimedOut
from commonplace.kafka import client
from commonplace.kafka.headers import of_trace
from commonplace.settings import Settings
from commonplace.words import counted

FLUSH_S: Final = 0.002
"""One flush a turn: it overrides linger and returns after one round trip; past 2 ms the next turn goes on."""

Delivered = Callable[[int, str], None]
"""Called with the record's offset and "", or with −1 and why it was not delivered, as far as anybody knows."""

_LOG: Final = logging.getLogger(__name__)


class Outbox:
    """Writes records; owned by one thread.

    With `errors_only` callbacks hear of failures alone: for whoever reads its own records back anyway.
    """

    def __init__(self, settings: Settings, *, errors_only: bool = False) -> None:
        self._settings = settings
        self.limits = limits = settings.limits
        self._trouble = ""
        self._sent = False
        self._fatal = ""
        self.failures = 0
        required: dict[str, Any] = {"delivery.report.only.error": errors_only, "error_cb": self._broker_trouble}
        bounds = {
            "queue.buffering.max.messages": limits.outbox_records_max,
            "queue.buffering.max.kbytes": limits.outbox_kbytes_max,
        }
        self._producer = client.producer(settings, {**required, **_unless_given(settings, bounds)})

    def send(
        self, topic: str, partition: int, key: bytes | None, value: bytes | None, on_delivered: Delivered | None = None,
        trace: str = "",
    ) -> None:  # fmt: skip
        """Queue a record; waits while the queue is full. `value` None is a tombstone, `trace` the trace context it bears.

        Raises `TimedOut` after limits.outbox_wait_s without room, `CommonplaceError` when the producer can't go on.
        """
        self._sent = True
        report = self._report(on_delivered)
        try:
            self._producer.produce(topic, value, key, partition, on_delivery=report, headers=of_trace(trace))
        except BufferError:
            self._send_when_room(topic, partition, key, value, report, trace)
        except KafkaException as e:
            self._not_queued(topic, e, on_delivered)

    def flush_turn(self, *, wait: bool = True) -> bool:
        """End a turn: push out what it sent and wait about a round trip, or only serve delivery reports. Returns whether it flushed.

        Without `wait` what was sent goes out by linger, while the next turn is under way: for who has enough to do.
        """
        flushes = self._sent and wait
        if flushes:
            self._sent = False
            self._producer.flush(FLUSH_S)
        else:
            self._producer.poll(0)
        if self._fatal:
            raise CommonplaceError(self._fatal)
        return flushes

    def __len__(self) -> int:
        """Records that are not acknowledged yet."""
        return len(self._producer)

    def settle(self, timeout_s: float) -> int:
        """Wait for the acknowledgements of all that was sent; returns how many are missing."""
        return int(self._producer.flush(timeout_s) or 0)

    def close(self, timeout_s: float) -> int:
        """Settle for the last time; returns how many acknowledgements are missing."""
        return self.settle(timeout_s)

    def _send_when_room(
        self,
        topic: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        report: Callable[..., None],
        trace: str,
    ) -> None:
        deadline = time.monotonic() + self.limits.outbox_wait_s
        while time.monotonic() < deadline:
            self._producer.flush(FLUSH_S)
            try:
                self._producer.produce(topic, value, key, partition, on_delivery=report, headers=of_trace(trace))
                return
            except BufferError:
                continue
        waiting = counted(len(self._producer), "record waits", "records wait")
        raise TimedOut(
            f"{topic} [{partition}]: {waiting} for the broker at {self._settings.bootstrap}, "
            f"none was acknowledged for {self.limits.outbox_wait_s:g} s: look at the broker"
        )

    def _not_queued(self, topic: str, error: KafkaException, on_delivered: Delivered | None) -> None:
        kafka_error: KafkaError = error.args[0]
        if kafka_error.code() != KafkaError.MSG_SIZE_TOO_LARGE:
            raise CommonplaceError(f"{topic}: the producer can't go on: {kafka_error.str()}") from error
        self._failed(topic, kafka_error)
        if on_delivered is not None:
            on_delivered(-1, kafka_error.str())

    def _report(self, on_delivered: Delivered | None) -> Callable[[KafkaError | None, Message], None]:
        if on_delivered is None:
            return self._count

        def report(error: KafkaError | None, message: Message) -> None:
            if error is None:
                on_delivered(message.offset() or 0, "")
            else:
                self._count(error, message)
                on_delivered(-1, error.str())

        return report

    def _count(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._failed(message.topic() or "", error)

    def _failed(self, topic: str, error: KafkaError) -> None:
        self.failures += 1
        if self.failures & (self.failures - 1) == 0:  # the 1st, 2nd, 4th …: a broker that is down must not fill the log
            _LOG.warning("%s: not delivered: %s (%d so far)", topic, error.str(), self.failures)

    def _broker_trouble(self, error: KafkaError) -> None:
        if error.fatal():
            self._fatal = f"the producer can't go on: {error.str()}"
        elif error.name() != self._trouble:
            self._trouble = error.name()
            _LOG.warning("broker at %s: %s (%s)", self._settings.bootstrap, error.str(), error.name())


def _unless_given(settings: Settings, bounds: dict[str, int]) -> dict[str, int]:
    return {name: value for name, value in bounds.items() if name not in settings.kafka}


# --- quarantine ------------------------------------------------------------------------------------------------------

_KINDS: Final = (
    # beginning of a reason → its kind, for metrics: reasons themselves hold other people's text
    ("record of ", "too_large"),
    ("version ", "version"),
    ("not a ", "undecodable"),
    ("no value", "undecodable"),
    ("key ", "key"),
    ("belongs on ", "partition"),
    ("allocation ", "name"),
)


class QuarantineWriter:
    """Puts bad records aside on the quarantine topic, at most limits.quarantined_per_s_max of them a second."""

    def __init__(self, outbox: Outbox, topic: str) -> None:
        self._outbox, self._topic = outbox, topic
        self._per_s_max = outbox.limits.quarantined_per_s_max
        self._second = -1
        self._in_second = 0
        self.counts: dict[tuple[str, str], int] = {}
        """(topic, kind of reason) → how many were met."""
        self.dropped = 0
        """How many of them were counted and not written."""

    def put(self, record: Quarantined, now_ms: int) -> bool:
        """Count a bad record and write it, unless this second had its share; returns whether it was written."""
        kind = (record.topic, reason_kind(record.reason))
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if now_ms // 1000 != self._second:
            self._second, self._in_second = now_ms // 1000, 0
        self._in_second += 1
        if self._in_second > self._per_s_max:
            self.dropped += 1
            return False
        self._outbox.send(self._topic, 0, None, encode(record))
        return True


def reason_kind(reason: str) -> str:
    """The kind of a quarantine reason, one of few words, fit for a metric's label."""
    return next((kind for beginning, kind in _KINDS if reason.startswith(beginning)), "other")
