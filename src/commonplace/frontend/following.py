"""What a client reads: `control` from its start, `decisions` from now on, and those from before where an id may be an old one."""

from collections.abc import Sequence
from typing import Final

from confluent_kafka import Consumer, Message, TopicPartition

from commonplace.clock import wall_s
from commonplace.frontend import history
from commonplace.frontend.events import ControlRead, DecisionsRead, Event, LookBack, Looked
from commonplace.kafka import client as kafka_client
from commonplace.kafka.topics import Topics
from commonplace.settings import Settings

CLOCK_SLACK_MS: Final = 60_000
"""How far our wall clock and the broker's may differ when the idempotency window is looked up by log time."""


def follow(settings: Settings, names: Topics, partitions: int) -> tuple[Consumer, list[history.Row], dict[int, int]]:
    """A consumer at the ends of `decisions` as of now, these ends, and what `control` holds, at whose end it stands too; blocks."""
    consumer = kafka_client.consumer(settings)
    start = history.since(consumer, settings, names.control, [0], None)
    stop = history.ends(consumer, settings, names.control, [0])
    control = [row for _, rows in history.read(settings, names.control, start, stop) for row in rows]
    positions = history.ends(consumer, settings, names.decisions, range(partitions))
    assigned = [TopicPartition(names.decisions, p, offset) for p, offset in positions.items()]
    consumer.assign([*assigned, TopicPartition(names.control, 0, stop[0])])
    return consumer, control, positions


def events_of(messages: list[Message], settings: Settings, names: Topics) -> list[Event]:
    """What came, as a session is told it; raises the typed error that a message stands for."""
    control: list[history.Row] = []
    decisions: dict[int, list[history.Row]] = {}
    decisions_topic = names.decisions
    for message in messages:
        if message.error() is not None:
            history.check(message, settings)
        elif message.topic() == decisions_topic:
            rows = decisions.setdefault(message.partition(), [])  # type: ignore[arg-type]  # a record has one
            rows.append(history.row(message))
        else:
            control.append(history.row(message))
    events: list[Event] = [DecisionsRead(partition, rows) for partition, rows in decisions.items()]
    return [*events, ControlRead(control)] if control else events


def look_back(
    settings: Settings, topic: str, looks: Sequence[LookBack], positions: dict[int, int], *, by_time: bool
) -> list[Event]:
    """What the idempotency window holds of the requests looked for, up to `positions`; blocks.

    Without `by_time` the broker cannot look up offsets by log time, and all before is read.
    """
    partitions = {look.partition for look in looks}
    wanted = {look.request.encode() for look in looks}
    consumer = kafka_client.consumer(settings)
    try:
        starts = history.since(consumer, settings, topic, partitions, _window_start_ms(settings) if by_time else None)
    finally:
        consumer.close()
    found: list[history.Row] = []
    for _, rows in history.read(settings, topic, starts, {p: positions[p] for p in partitions}):
        found += history.rows_for(rows, wanted)
    return [Looked(look.request, found, look.token) for look in looks]


def _window_start_ms(settings: Settings) -> int:
    window_ms = round(settings.scheduler.idempotency_window_s * 1000)
    return round(wall_s() * 1000) - window_ms - CLOCK_SLACK_MS
