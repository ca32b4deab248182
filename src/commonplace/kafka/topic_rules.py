"""What each topic is called, what it must be set to, and why: the table that creation and verification share."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Final, Literal

from msgspec import Struct

from commonplace.settings import Settings, TopicsSettings

TOPICS: Final = ("hosts", "claims", "requests", "decisions", "control", "commands", "replicas", "quarantine")

Comparison = Literal["is", "at least", "at most"]
Level = Literal["error", "warning"]

REPLICATION_WANTED: Final = 3
IN_SYNC_WANTED: Final = 2

BOUND: Final[dict[Comparison, str]] = {"is": "", "at least": "at least ", "at most": "at most "}


class Topics(Struct, frozen=True, dict=True):
    """The names of one pool's topics; `control` belongs to the prefix alone.

    Each is put together once, in the `dict`: shells ask for them with every record.
    """

    prefix: str
    pool: str

    @cached_property
    def hosts(self) -> str:
        return self._of_pool("hosts")

    @cached_property
    def claims(self) -> str:
        return self._of_pool("claims")

    @cached_property
    def requests(self) -> str:
        return self._of_pool("requests")

    @cached_property
    def decisions(self) -> str:
        return self._of_pool("decisions")

    @cached_property
    def commands(self) -> str:
        return self._of_pool("commands")

    @cached_property
    def replicas(self) -> str:
        return self._of_pool("replicas")

    @cached_property
    def quarantine(self) -> str:
        return self._of_pool("quarantine")

    @cached_property
    def control(self) -> str:
        return f"{self.prefix}.control"

    def all(self, only: Sequence[str] = TOPICS) -> tuple[str, ...]:
        """The full names of `only`, in the order of the table in docs/topics.md."""
        return tuple(getattr(self, topic) for topic in TOPICS if topic in only)

    def _of_pool(self, topic: str) -> str:
        return f"{self.prefix}.{self.pool}.{topic}"


class Rule(Struct, frozen=True):
    """What one setting of a topic must be; `why` ends the sentence "… because"."""

    setting: str
    comparison: Comparison
    wanted: str
    why: str
    level: Level = "error"

    def broken_by(self, found: str) -> bool:
        """Whether the value found breaks this rule; text that should be a number does. To Kafka −1 is no bound."""
        if self.comparison == "is":
            return found != self.wanted
        try:
            number, wanted = float("inf") if found == "-1" else int(found), int(self.wanted)
        except ValueError:
            return True
        return number < wanted if self.comparison == "at least" else number > wanted


class TopicSpec(Struct, frozen=True):
    """One topic as it must be: created with the wanted value of each rule, verified against all of them."""

    name: str
    partitions: int
    partitions_setting: str | None
    """The setting that holds the partition count, None where the protocol fixes it."""
    rules: tuple[Rule, ...]

    @property
    def config(self) -> dict[str, str]:
        """Topic settings to create it with; where two rules bound one setting, the first says the value."""
        return {rule.setting: rule.wanted for rule in reversed(self.rules)}


# --- the table -----------------------------------------------------------------------------------------------------


def specs(settings: Settings) -> tuple[TopicSpec, ...]:
    """All topics of the settings' prefix and pool, each with its rules."""
    t = settings.topics
    names = Topics(t.prefix, t.pool)
    return (
        _spec(names.hosts, t.hosts_partitions, "topics.hosts_partitions", [*_compacted(t), *_hosts(settings)]),
        _spec(
            names.claims,
            t.claims_partitions,
            "topics.claims_partitions",
            [*_deleted(t.claims_retention_ms, "an agent that was down reads its claims from here, or reports a gap")],
        ),
        _spec(
            names.requests,
            t.requests_partitions,
            "topics.requests_partitions",
            [
                *_deleted(t.requests_retention_ms, "an accepted request must live until it is decided"),
                _at_most("retention.ms", t.decisions_retention_ms - 1, "no request may outlive its answer"),
            ],
        ),
        _spec(
            names.decisions,
            t.requests_partitions,
            "topics.requests_partitions",
            _deleted(t.decisions_retention_ms, "redelivered requests, frontends and the audit read answers from here"),
        ),
        _spec(names.control, 1, None, _compacted(t)),
        _spec(names.commands, 1, None, _deleted(t.claims_retention_ms, "a component that was down must see it")),
        _spec(names.replicas, 1, None, [*_compacted(t), _head(t, "cycle reports pile up until they are compacted")]),
        _spec(
            names.quarantine,
            1,
            None,
            _deleted(t.quarantine_retention_ms, "a person must have time to look at it", level="warning"),
        ),
    )


def hosts_min_compaction_lag_ms(settings: Settings) -> int:
    """Two snapshot intervals at their longest: 2 × 300 s × 1.1 = 660 s by default."""
    a = settings.agent
    return round(2 * a.snapshot_interval_s * (1 + a.snapshot_jitter) * 1000)


def _hosts(settings: Settings) -> list[Rule]:
    t = settings.topics
    return [
        _at_least(
            "min.compaction.lag.ms",
            hosts_min_compaction_lag_ms(settings),
            "a delta must find the snapshot that it rests on: two snapshot intervals stay uncompacted",
        ),
        _head(t, "a starting replica reads the whole uncompacted head"),
    ]


def _head(t: TopicsSettings, why: str) -> Rule:
    return _at_most("max.compaction.lag.ms", t.hosts_max_compaction_lag_ms, why, level="warning")


def _compacted(t: TopicsSettings) -> list[Rule]:
    return [
        Rule("cleanup.policy", "is", "compact", "the last record of every key is state; deleting by age would lose it"),
        _at_least("delete.retention.ms", t.delete_retention_ms, "a reader slower than that would keep ghosts"),
    ]


def _deleted(retention_ms: int, why: str, level: Level = "error") -> list[Rule]:
    return [
        Rule("cleanup.policy", "is", "delete", "every record is an event to be seen; compaction keeps one a key"),
        _at_least("retention.ms", retention_ms, why, level),
        Rule("retention.bytes", "is", "-1", "a bound in bytes deletes records before their time", level),
    ]


def _spec(name: str, partitions: int, partitions_setting: str | None, rules: Iterable[Rule]) -> TopicSpec:
    everywhere = (
        Rule("message.timestamp.type", "is", "LogAppendTime", "one clock must date everybody's records"),
        Rule("unclean.leader.election.enable", "is", "false", "an unclean leader loses acknowledged records"),
    )
    return TopicSpec(name, partitions, partitions_setting, (*rules, *everywhere))


def _at_least(setting: str, wanted: int, why: str, level: Level = "error") -> Rule:
    return Rule(setting, "at least", str(wanted), why, level)


def _at_most(setting: str, wanted: int, why: str, level: Level = "error") -> Rule:
    return Rule(setting, "at most", str(wanted), why, level)
