"""Settings: what they are, why each default, and where a value came from.

    defaults < /etc/commonplace.toml < $COMMONPLACE_CONFIG < COMMONPLACE__SECTION__KEY < flags

The settings themselves, with bounds and reasons, stand in sections.py. `[kafka]` holds librdkafka's own dotted names and
passes them through unchanged.

    COMMONPLACE__AGENT__HEARTBEAT_INTERVAL_S=10      [agent] heartbeat_interval_s = 10
    COMMONPLACE__KAFKA__SASL_PASSWORD=...            [kafka] "sasl.password" = "..."
    COMMONPLACE__KAFKA__SASL_PASSWORD_FILE=/run/...  [kafka] "sasl.password_file" = "/run/..."   (the file's content)
"""

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from commonplace.core.complaints import complaint
from commonplace.errors import SettingsError
from commonplace.files import read_tree
from commonplace.sections import (
    DAY_MS,
    HOUR_MS,
    KAFKA,
    MINUTE_MS,
    SECTIONS,
    AgentSettings,
    FrontendSettings,
    LimitsSettings,
    SchedulerSettings,
    Settings,
    TopicsSettings,
)

__all__ = [
    "CONFIG_VARIABLE",
    "DAY_MS",
    "HOUR_MS",
    "KAFKA",
    "MASK",
    "MINUTE_MS",
    "SECTIONS",
    "SYSTEM_CONFIG",
    "VARIABLE_PREFIX",
    "AgentSettings",
    "FrontendSettings",
    "LimitsSettings",
    "SchedulerSettings",
    "Setting",
    "Settings",
    "TopicsSettings",
    "is_secret",
    "load",
    "load_with_origins",
    "masked",
]

SYSTEM_CONFIG: Final = Path("/etc/commonplace.toml")
CONFIG_VARIABLE: Final = "COMMONPLACE_CONFIG"
VARIABLE_PREFIX: Final = "COMMONPLACE__"
MASK: Final = "********"


class Setting(Struct, frozen=True):
    """One setting as loaded: `origin` names the file, the variable or the flag that it came from."""

    section: str
    key: str
    value: Any
    origin: str


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
    for section, table in read_tree(path).items():
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


def _flatten(table: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """TOML reads `sasl.password = "x"` as nested tables; librdkafka's names are flat."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from ((f"{key}.{inner}", item) for inner, item in _flatten(value))
        else:
            yield key, value


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
        raise SettingsError(
            f"{origin}: {section}.{key} = {value!r}: {_described(fields[key]) or complaint(str(e), 'it')}"
        ) from e


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
