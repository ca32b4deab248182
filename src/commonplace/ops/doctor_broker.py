"""Checks of this machine, the broker and its topics, and of what was put aside there."""

import shutil
import time
from collections import Counter
from typing import Final

import confluent_kafka

from commonplace.core.codec import decode
from commonplace.core.records.quarantine import Quarantined
from commonplace.errors import CommonplaceError
from commonplace.kafka import client, jars, topics
from commonplace.kafka.client import Broker
from commonplace.kafka.java import find_java
from commonplace.kafka.outbox import reason_kind
from commonplace.kafka.tail import Tail
from commonplace.kafka.topics import Topics
from commonplace.ops.doctor_check import Check
from commonplace.ops.operators import broker_time
from commonplace.settings import DAY_MS, Settings
from commonplace.words import counted

CLOCK_WARN_MS: Final = 5_000
"""Placement rests on no clock but the brokers'; logs and `hosts` are easier to read when they agree."""


def local_broker() -> Check:
    """Whether `commonplace broker` can run Apache Kafka here; nothing else needs it."""
    try:
        java = find_java()
    except CommonplaceError as e:
        return Check("local kafka", "warn", f"{e}", "only `commonplace broker` and `demo --kafka` need it")
    if (jars.cache_dir() / jars.MANIFEST).exists():
        return Check("local kafka", "ok", f"{java}; Kafka {jars.KAFKA_VERSION} in {jars.cache_dir()}")
    if shutil.which("mvn") is None:
        todo = "install Maven, once; only `commonplace broker` and `demo --kafka` need it"
        return Check("local kafka", "warn", f"{java}, but neither Kafka's jars nor mvn", todo)
    return Check("local kafka", "ok", f"{java}; Maven will fetch Kafka {jars.KAFKA_VERSION} at the first start")


def answered(settings: Settings, broker: Broker) -> Check:
    """Who answers."""
    clients = f"librdkafka {confluent_kafka.libversion()[0]}"
    if broker.embedded:
        found = f"the embedded broker at {settings.bootstrap}, which is not Kafka; {clients}"
        return Check("broker", "warn", found, "for the demo and tests only: records end with its process")
    found = f"{counted(broker.brokers, 'broker')} at {settings.bootstrap}, cluster {broker.cluster_id}; {clients}"
    return Check("broker", "ok", found)


def topic_settings(settings: Settings, broker: Broker) -> list[Check]:
    """Every rule that a topic breaks."""
    findings = topics.verify(client.admin(settings), settings, broker)
    names = {"error": "fail", "warning": "warn"}
    checks = [
        Check("topics", names[f.level], str(f), "docs/topics.md has the rules", not_ready=f.level == "error")  # type: ignore[arg-type]
        for f in findings
    ]
    return checks or [Check("topics", "ok", f"all {len(topics.specs(settings))} as they must be")]


def clock(settings: Settings, broker: Broker) -> Check:
    """This machine's clock against the broker's."""
    if broker.embedded:
        return Check("clock", "skip", "the embedded broker keeps no time")
    told = broker_time(settings)
    ahead_ms, round_trip = told.ahead_ms, f"asked in {told.answered_ms - told.asked_ms} ms"
    if abs(ahead_ms) < CLOCK_WARN_MS:
        return Check("clock", "ok", f"within {max(1, abs(ahead_ms))} ms of the broker's ({round_trip})")
    found = f"{abs(ahead_ms) / 1000:.1f} s {'ahead of' if ahead_ms > 0 else 'behind'} the broker's ({round_trip})"
    return Check("clock", "warn", found, "run NTP: placement is not touched, but ages and logs mislead")


def quarantine(settings: Settings, broker: Broker) -> Check:
    """What was put aside in the last day, by topic and kind of reason."""
    name = Topics(settings.topics.prefix, settings.topics.pool).quarantine
    counts: Counter[tuple[str, str]] = Counter()
    newest = ""
    tail = Tail(settings)
    try:
        ends = tail.ends([(name, 0)])
        tail.add(name, 0, tail.offset_for_time(name, 0, int(time.time() * 1000) - DAY_MS))
        for batch in tail.up_to(ends):
            for *_, value in batch.records:
                record = decode("quarantine", value) if value is not None else None
                if isinstance(record, Quarantined):
                    counts[record.topic, reason_kind(record.reason)] += 1
                    newest = f"{record.topic} [{record.partition}] offset {record.offset}: {record.reason}"
    finally:
        tail.close()
    if not counts:
        return Check("quarantine", "ok", "nothing in the last day")
    told = ", ".join(f"{count} {kind} on {topic}" for (topic, kind), count in counts.most_common())
    todo = f"`kcat -C -t {name}` has all; find who writes them"
    return Check("quarantine", "warn", f"{told}; newest: {newest}", todo)
