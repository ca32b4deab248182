"""What is wrong with topics: the rules held against descriptions and settings that a broker told; no I/O."""

from collections.abc import Mapping, Sequence

from confluent_kafka.admin import TopicDescription
from msgspec import Struct

from commonplace.kafka.client import creation
from commonplace.kafka.topic_rules import BOUND, IN_SYNC_WANTED, REPLICATION_WANTED, Level, Topics, TopicSpec
from commonplace.settings import Settings


class Finding(Struct, frozen=True):
    """Something about a topic that is not as it must be (error) or should be (warning)."""

    level: Level
    topic: str
    setting: str
    found: str
    wanted: str
    why: str

    def __str__(self) -> str:
        must = "must" if self.level == "error" else "should"
        return f"{self.topic}: {self.setting} is {self.found}, {must} be {self.wanted}: {self.why}"


def findings(
    settings: Settings,
    wanted: Sequence[TopicSpec],
    found: Mapping[str, TopicDescription],
    configs: Mapping[str, Mapping[str, str]],
) -> list[Finding]:
    """Everything about the topics wanted that breaks a rule, errors first; by name, those that were found, and their settings."""
    told: list[Finding] = []
    for spec in wanted:
        if spec.name in found:
            told += _misset(spec, found[spec.name], configs[spec.name])
        else:
            told.append(missing(spec.name, settings))
    told += equal_counts(settings, {name: len(topic.partitions) for name, topic in found.items()})
    told += _durability(settings.topics.prefix, found, configs)
    return sorted(told, key=lambda f: f.level)


def missing(name: str, settings: Settings) -> Finding:
    """A topic that is not there."""
    return Finding("error", name, "topic", "missing", "there", f"run `{creation(settings)}`")


def equal_counts(settings: Settings, counts: Mapping[str, int]) -> list[Finding]:
    """Topics whose partition number says something of another topic's; `counts` are of those that are known."""
    names = Topics(settings.topics.prefix, settings.topics.pool)
    pairs = (
        (names.decisions, names.requests, "a decision is written to the partition number of its request"),
        (names.claims, names.hosts, "a host has one partition number, on hosts and on claims: set both counts alike"),
    )
    findings = []
    for name, like, why in pairs:
        found, wanted = counts.get(name), counts.get(like)
        if found is not None and wanted is not None and found != wanted:
            why = f"{why}, and {like} has {wanted}"
            findings.append(Finding("error", name, "partitions", str(found), str(wanted), why))
    return findings


def not_verified(settings: Settings) -> Finding:
    """What to say of a broker that has no settings to tell."""
    why = "the embedded broker is not Kafka and cannot be asked; for demo and tests only"
    return Finding("warning", f"{settings.topics.prefix}.*", "topics", "not verified", "verified", why)


def _misset(spec: TopicSpec, topic: TopicDescription, config: Mapping[str, str]) -> list[Finding]:
    findings = [
        Finding(rule.level, spec.name, rule.setting, found, f"{BOUND[rule.comparison]}{rule.wanted}", rule.why)
        for rule in spec.rules
        if rule.broken_by(found := config.get(rule.setting, "not told by the broker"))
    ]
    partitions = len(topic.partitions)
    if partitions != spec.partitions:
        findings.append(
            Finding("error", spec.name, "partitions", str(partitions), str(spec.partitions), _partitions_why(spec))
        )
    return findings


def _partitions_why(spec: TopicSpec) -> str:
    if spec.partitions_setting is None:
        return "its records need one order; make it again with one partition"
    return (
        "a key's partition follows from the count, so it is frozen at creation; set "
        f"{spec.partitions_setting} to what it was created with, or create the topics under another prefix"
    )


def _durability(
    prefix: str, found: Mapping[str, TopicDescription], configs: Mapping[str, Mapping[str, str]]
) -> list[Finding]:
    """One warning for all topics that share a shortfall: on a one-broker cluster all of them do."""
    short: dict[tuple[str, str, str], list[str]] = {}
    for name, topic in found.items():
        replication = min((len(p.replicas) for p in topic.partitions), default=0)
        in_sync = configs[name].get("min.insync.replicas", "1")
        if replication < REPLICATION_WANTED:
            short.setdefault(("replication.factor", str(replication), str(REPLICATION_WANTED)), []).append(name)
        elif int(in_sync) < IN_SYNC_WANTED:
            short.setdefault(("min.insync.replicas", in_sync, str(IN_SYNC_WANTED)), []).append(name)
    why = "development only: an acknowledged record can be lost with one broker"
    findings = []
    for (setting, is_, wanted), names in short.items():
        topic_names = [f"{prefix}.* ({len(names)} topics)"] if len(names) == len(found) else names
        findings += [Finding("warning", name, setting, is_, wanted, why) for name in topic_names]
    return findings
