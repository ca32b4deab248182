"""Settings: what they are, why each default, and where a value came from.

    defaults < /etc/commonplace.toml < $COMMONPLACE_CONFIG < COMMONPLACE__SECTION__KEY < flags

A section is a Struct, a setting one field of it: type with its bound, default, and the reason for the default below it.
Adding a setting is adding a field. Units stand last in the name. `[kafka]` is no Struct: it holds librdkafka's own
dotted names and passes them through unchanged.

    COMMONPLACE__AGENT__HEARTBEAT_INTERVAL_S=10      [agent] heartbeat_interval_s = 10
    COMMONPLACE__KAFKA__SASL_PASSWORD=...            [kafka] "sasl.password" = "..."
    COMMONPLACE__KAFKA__SASL_PASSWORD_FILE=/run/...  [kafka] "sasl.password_file" = "/run/..."   (the file's content)
"""

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from commonplace.core.records import RECORD_BYTES_MAX, SETTLED_MAX
from commonplace.errors import SettingsError

SYSTEM_CONFIG: Final = Path("/etc/commonplace.toml")
CONFIG_VARIABLE: Final = "COMMONPLACE_CONFIG"
VARIABLE_PREFIX: Final = "COMMONPLACE__"
MASK: Final = "********"

Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
CountOrNone = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Milliseconds = Annotated[int, Meta(ge=1, le=2**53 - 1)]
Seconds = Annotated[float, Meta(gt=0, le=10**9)]
Share = Annotated[float, Meta(ge=0, lt=1)]
# Kafka takes 249 characters in a topic's name; prefix, pool and the longest topic share them.
TopicWord = Annotated[
    str,
    Meta(pattern=r"\A[A-Za-z0-9_-]{1,100}\Z", description="letters, digits, _ and -, at most 100"),
]
TopicPrefix = Annotated[
    str,
    Meta(
        pattern=r"\A[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}\Z",
        description="letters, digits, dots, _ and -, at most 100, not beginning with a dot",
    ),
]
HttpAddress = Annotated[
    str,
    Meta(
        pattern=r"\A(|[^\s:]+:[0-9]{1,5}|\[[0-9a-fA-F:.]+\]:[0-9]{1,5})\Z",
        description="HOST:PORT, [IPV6]:PORT, or empty for off",
    ),
]

MINUTE_MS: Final = 60_000
HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS


class TopicsSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Names, shape and retention of the topics; every component of a pool must hold the same."""

    prefix: TopicPrefix = "commonplace"
    """First word of every topic; another prefix is another system on the same cluster."""
    pool: TopicWord = "default"
    """The set of hosts that this component works for."""
    hosts_partitions: Count = 4
    """Each partition costs a produce request a turn (librdkafka sends one a partition), so few; frozen at creation."""
    claims_partitions: Count = 4
    """As hosts; more where thousands of agents read, because an agent reads whole partitions; frozen at creation."""
    requests_partitions: Count = 6
    """The most replicas that can share the requests: 6 splits evenly over 1, 2, 3 and 6. `decisions` has as many."""
    replication_factor: CountOrNone = 0
    """0: three, or as many as there are brokers. Below three is for development only."""
    hosts_max_compaction_lag_ms: Milliseconds = 15 * MINUTE_MS
    """Bounds the uncompacted head that a starting replica reads; must exceed two snapshot intervals (11 min)."""
    delete_retention_ms: Milliseconds = DAY_MS
    """How long a tombstone lives; a replica older than half of it rebuilds, so a day forgives a night's outage."""
    claims_retention_ms: Milliseconds = DAY_MS
    """An agent down for longer may have lost claims and reports a gap; a day covers a host's repair."""
    requests_retention_ms: Milliseconds = DAY_MS
    """How long an undecided request survives; less than decisions, so that no request outlives its answer."""
    decisions_retention_ms: Milliseconds = 2 * DAY_MS
    """How long an answer can be read, and how far back the audit can prove."""
    quarantine_retention_ms: Milliseconds = 7 * DAY_MS
    """A week for a person to look at what could not be read."""


class AgentSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an agent reports and how long it waits."""

    snapshot_interval_s: Seconds = 300.0
    """A full report every 5 min: two of them bound what compaction may not touch."""
    snapshot_jitter: Share = 0.1
    """Share by which an interval varies either way, so that ten thousand hosts do not report in one second."""
    heartbeat_interval_s: Seconds = 20.0
    """Three heartbeats fit in the liveness timeout of 60 s, so two may be late."""
    delta_allocations_max: Count = 24
    """A delta with more changed allocations gives way to a snapshot: past that the delta is the larger record."""
    report_bytes_max: Count = 900_000
    """A grant whose snapshot would be larger is rejected as full: 10 % below limits.record_bytes_max."""
    settled_max: Annotated[int, Meta(ge=0, le=SETTLED_MAX)] = 64
    """Settled claims named in one report, for people and the audit; the watermark answers all the others."""
    lease_ms_max: Milliseconds = HOUR_MS
    """A claim that asks for a longer lease gets this one, so that no client can hold room for ever."""
    http: HttpAddress = ""
    """HOST:PORT of health and metrics, port 0 for any free one; empty: off."""


class SchedulerSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a replica ranks, claims, retries and answers."""

    liveness_timeout_s: Seconds = 60.0
    """A host whose newest report is older is silent and not ranked: three missed heartbeats."""
    mode: Literal["strict", "fits"] = "strict"
    """strict: granted on the expected state only. fits: granted if there is room and the constraints hold."""
    lease_ms: Milliseconds = 5 * MINUTE_MS
    """Time for a frontend to confirm a grant before it lapses."""
    lease_margin_ms: Milliseconds = 10_000
    """Taken off what a decision promises: clock rates, a report's way, the ledger's reading to the end."""
    claim_timeout_ms: Milliseconds = 10_000
    """A claim without a verdict is given up for another host; above an agent's restart and a broker's fail-over."""
    attempts_max: Count = 16
    """Claims tried for one request before the answer is no_valid_host with the reasons."""
    queue_max: Count = 20_000
    """Requests waiting in a replica: 2 s of work at 10,000 a second; past it the answer is overloaded."""
    claims_in_flight_max: Count = 10_000
    """Claims without a verdict in a replica: 1 s of work at 10,000 a second; past it the queue grows."""
    decisions_kept_max: Count = 500_000
    """Answers kept for redelivery; at 500 a second the idempotency window of 900 s needs 450,000."""
    idempotency_window_s: Seconds = 900.0
    """The same request id with other content is refused inside this window."""
    deadline_ms_default: Milliseconds = 30_000
    """Deadline of a request that names none: past it the answer is expired."""
    session_timeout_ms: Milliseconds = 6_000
    """The broker's minimum; a killed replica's partitions are taken over after it."""
    group_protocol: Literal["classic", "consumer"] = "classic"
    """consumer is KIP-848, whose brokers refuse sessions under 45 s unless told otherwise."""
    http: HttpAddress = ""
    """HOST:PORT of health and metrics, port 0 for any free one; empty: off."""


class FrontendSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the client library waits."""

    timeout_s: Seconds = 30.0
    """How long a submit with --wait waits: the default deadline of a request."""
    in_flight_max: Count = 10_000
    """Requests submitted and not yet answered in one client; past it submit waits."""


class LimitsSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds of what this component writes; the wire's own bounds (docs/protocol.md) hold in any case."""

    record_bytes_max: Annotated[int, Meta(ge=1_000, le=RECORD_BYTES_MAX)] = RECORD_BYTES_MAX
    """Below Kafka's max.message.bytes (1,048,588), with room for key and headers; larger ones no reader takes."""


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything a component may be told."""

    kafka: dict[str, str] = msgspec.field(default_factory=lambda: {"bootstrap.servers": "127.0.0.1:9092"})
    topics: TopicsSettings = TopicsSettings()
    agent: AgentSettings = AgentSettings()
    scheduler: SchedulerSettings = SchedulerSettings()
    frontend: FrontendSettings = FrontendSettings()
    limits: LimitsSettings = LimitsSettings()

    @property
    def bootstrap(self) -> str:
        """Addresses of the brokers, for messages."""
        return self.kafka.get("bootstrap.servers", "")


class Setting(Struct, frozen=True):
    """One setting as loaded: `origin` names the file, the variable or the flag that it came from."""

    section: str
    key: str
    value: Any
    origin: str


KAFKA: Final = "kafka"
SECTIONS: Final[dict[str, type[Struct]]] = {f.name: f.type for f in msgspec.structs.fields(Settings) if f.name != KAFKA}

_SECRET: Final = re.compile(r"password|secret|passphrase|\.key\.pem$|oauthbearer\.config$|token$")


def load(
    config: Path | None = None,
    *,
    flags: Mapping[str, Mapping[str, Any]] | None = None,
    environ: Mapping[str, str] | None = None,
    system_config: Path = SYSTEM_CONFIG,
) -> Settings:
    """The settings in force; see `load_with_origins`."""
    return load_with_origins(config, flags=flags, environ=environ, system_config=system_config)[0]


def load_with_origins(
    config: Path | None = None,
    *,
    flags: Mapping[str, Mapping[str, Any]] | None = None,
    environ: Mapping[str, str] | None = None,
    system_config: Path = SYSTEM_CONFIG,
) -> tuple[Settings, list[Setting]]:
    """Merge all sources into the settings in force, and where each came from (order: section, key).

    `config` stands in for $COMMONPLACE_CONFIG. `flags` is section → key → value; None values are flags not given.
    Raises `SettingsError` that names the source, the key and, for an unknown one, the nearest known.
    """
    env = os.environ if environ is None else environ
    merged = {(s.section, s.key): s for s in _defaults()}
    for source in (_files(config, env, system_config), _variables(env), _flags(flags or {})):
        for setting in source:
            _forget_other_form(merged, setting)
            merged[setting.section, setting.key] = setting
    settings = _build(merged)
    _check_together(settings, merged)
    order = [KAFKA, *SECTIONS]
    return settings, sorted(merged.values(), key=lambda s: order.index(s.section))


def masked(setting: Setting) -> Any:
    """The setting's value fit for people: secrets are replaced, files that hold them are named."""
    return MASK if is_secret(setting.key) and setting.section == KAFKA else setting.value


def is_secret(key: str) -> bool:
    """Whether a librdkafka setting must never be shown."""
    return not key.endswith(_FILE_SUFFIX) and _SECRET.search(key) is not None


# --- sources -------------------------------------------------------------------------------------------------------

_FILE_SUFFIX: Final = "_file"


def _defaults() -> Iterator[Setting]:
    for key, value in Settings().kafka.items():
        yield Setting(KAFKA, key, value, "default")
    for name, section in SECTIONS.items():
        for field in msgspec.structs.fields(section):
            yield Setting(name, field.name, field.default, "default")


def _files(config: Path | None, env: Mapping[str, str], system_config: Path) -> Iterator[Setting]:
    if system_config.exists():
        yield from _file(system_config)
    named = config or (Path(env[CONFIG_VARIABLE]) if env.get(CONFIG_VARIABLE) else None)
    if named is not None:
        yield from _file(named)


def _file(path: Path) -> Iterator[Setting]:
    try:
        tree = msgspec.toml.decode(path.read_bytes())
    except OSError as e:
        raise SettingsError(f"{path}: cannot be read: {e.strerror}") from e
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        raise SettingsError(f"{path}: not valid TOML: {e}") from e
    for section, table in tree.items():
        _known_section(section, str(path))
        if not isinstance(table, dict):
            raise SettingsError(f"{path}: [{section}] must be a table, not {table!r}")
        entries = _flatten(table) if section == KAFKA else table.items()
        for key, value in entries:
            yield _setting(section, key, value, str(path), text=False)


def _variables(env: Mapping[str, str]) -> Iterator[Setting]:
    for name in sorted(n for n in env if n.startswith(VARIABLE_PREFIX)):
        section, _, key = name.removeprefix(VARIABLE_PREFIX).lower().partition("__")
        _known_section(section, name)
        if section == KAFKA:
            key = _dotted(key)
        yield _setting(section, key, env[name], name, text=True)


def _flags(flags: Mapping[str, Mapping[str, Any]]) -> Iterator[Setting]:
    for section, values in flags.items():
        for key, value in values.items():
            if value is not None:
                yield _setting(section, key, value, "flag", text=True)


def _dotted(key: str) -> str:
    stem = key.removesuffix(_FILE_SUFFIX).replace("_", ".")
    return stem + _FILE_SUFFIX if key.endswith(_FILE_SUFFIX) and is_secret(stem) else key.replace("_", ".")


def _flatten(table: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """TOML reads `sasl.password = "x"` as nested tables; librdkafka's names are flat."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{path}{key}.")
        else:
            yield path + key, value


# --- one setting ---------------------------------------------------------------------------------------------------


def _setting(section: str, key: str, value: Any, origin: str, *, text: bool) -> Setting:
    if section == KAFKA:
        return Setting(section, key, _librdkafka_text(key, value, origin), origin)
    fields = {f.name: f.type for f in msgspec.structs.fields(SECTIONS[section])}
    if key not in fields:
        raise SettingsError(f"{origin}: unknown setting {section}.{key}{_nearest(section, key)}")
    try:
        return Setting(section, key, msgspec.convert(value, fields[key], strict=not text), origin)
    except msgspec.ValidationError as e:
        raise SettingsError(f"{origin}: {section}.{key} = {value!r}: {_described(fields[key]) or e}") from e


def _described(kind: Any) -> str:
    """What a type says of itself in words, where its pattern would say nothing to a person."""
    descriptions = [meta.description for meta in getattr(kind, "__metadata__", ()) if meta.description]
    return f"must be {descriptions[0]}" if descriptions else ""


def _librdkafka_text(key: str, value: Any, origin: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise SettingsError(f"{origin}: kafka.{key} must be text, a number or a boolean, not {type(value).__name__}")


def _known_section(section: str, origin: str) -> None:
    known = [KAFKA, *SECTIONS]
    if section not in known:
        near = difflib.get_close_matches(section, known, n=1, cutoff=0.0)
        raise SettingsError(f"{origin}: unknown section [{section}]; the nearest known is [{near[0]}]")


def _nearest(section: str, key: str) -> str:
    """The nearest known key: of this section if one is close, else of any section, else the closest of this one."""
    here = [f.name for f in msgspec.structs.fields(SECTIONS[section])]
    if near := difflib.get_close_matches(key, here, n=1):
        return f"; the nearest known is {section}.{near[0]}"
    everywhere = [f"{name}.{f.name}" for name, s in SECTIONS.items() for f in msgspec.structs.fields(s)]
    for known in everywhere:
        if known.partition(".")[2] == key:
            return f"; the nearest known is {known}"
    near = difflib.get_close_matches(key, here, n=1, cutoff=0.0)
    return f"; the nearest known is {section}.{near[0]}"


def _forget_other_form(merged: dict[tuple[str, str], Setting], setting: Setting) -> None:
    """A password and the file that holds it are one setting: the later source wins, whatever its form."""
    if setting.section == KAFKA:
        stem = setting.key.removesuffix(_FILE_SUFFIX)
        if is_secret(stem):
            merged.pop((KAFKA, stem), None)
            merged.pop((KAFKA, stem + _FILE_SUFFIX), None)


def _read_secret(setting: Setting) -> str:
    try:
        return Path(setting.value).read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as e:
        raise SettingsError(f"{setting.origin}: kafka.{setting.key} = {setting.value}: cannot be read: {e}") from e


# --- all settings --------------------------------------------------------------------------------------------------


def _build(merged: Mapping[tuple[str, str], Setting]) -> Settings:
    kafka: dict[str, str] = {}
    values: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    for (section, key), setting in merged.items():
        if section != KAFKA:
            values[section][key] = setting.value
        elif key.endswith(_FILE_SUFFIX) and is_secret(key.removesuffix(_FILE_SUFFIX)):
            kafka[key.removesuffix(_FILE_SUFFIX)] = _read_secret(setting)
        else:
            kafka[key] = setting.value
    sections: dict[str, Any] = {name: section(**values[name]) for name, section in SECTIONS.items()}
    return Settings(kafka=kafka, **sections)


def _check_together(settings: Settings, merged: Mapping[tuple[str, str], Setting]) -> None:
    """Rules between settings: each says which of two values is too small."""
    t, a, s = settings.topics, settings.agent, settings.scheduler
    rules = (
        # (smaller setting, its value, larger setting, its value, why), values in one unit
        (
            "agent.snapshot_interval_s",
            2 * a.snapshot_interval_s * (1 + a.snapshot_jitter) * 1000,
            "topics.hosts_max_compaction_lag_ms",
            t.hosts_max_compaction_lag_ms,
            "two snapshot intervals with their jitter must fit below the compaction lag",
        ),
        (
            "topics.requests_retention_ms",
            t.requests_retention_ms,
            "topics.decisions_retention_ms",
            t.decisions_retention_ms,
            "no request may outlive its answer",
        ),
        (
            "agent.heartbeat_interval_s",
            a.heartbeat_interval_s,
            "scheduler.liveness_timeout_s",
            s.liveness_timeout_s,
            "a living host would count as silent",
        ),
        (
            "scheduler.lease_margin_ms",
            s.lease_margin_ms,
            "scheduler.lease_ms",
            s.lease_ms,
            "nothing of the lease would be left to confirm in",
        ),
        (
            "scheduler.claim_timeout_ms",
            s.claim_timeout_ms,
            "scheduler.lease_ms",
            s.lease_ms,
            "a grant would lapse before its claim is given up",
        ),
        (
            "agent.report_bytes_max",
            a.report_bytes_max,
            "limits.record_bytes_max",
            settings.limits.record_bytes_max,
            "a report must fit in a record",
        ),
    )
    for small, low, large, high, why in rules:
        if low >= high:
            origins = {merged[small.partition(".")[0], small.partition(".")[2]].origin}
            origins.add(merged[large.partition(".")[0], large.partition(".")[2]].origin)
            where = ", ".join(sorted(origins - {"default"})) or "defaults"
            raise SettingsError(f"{where}: {small} is too large for {large} = {high:g}: {why}")
