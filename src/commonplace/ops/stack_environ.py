"""Settings as environment variables, for processes that we start."""

from typing import Any

import msgspec

from commonplace.settings import KAFKA, SECTIONS, VARIABLE_PREFIX, Settings


def settings_environ(settings: Settings, bootstrap: str) -> dict[str, str]:
    """Settings as environment variables: what differs from the defaults; of [kafka] the rest goes only with its broker."""
    variables = {}
    for name, section in SECTIONS.items():
        values = getattr(settings, name)
        for field in msgspec.structs.fields(section):
            value = getattr(values, field.name)
            if value != field.default:
                variables[f"{VARIABLE_PREFIX}{name}__{field.name}".upper()] = _text(value)
    kafka = settings.kafka if bootstrap and bootstrap == settings.bootstrap else {}
    for key, value in {**kafka, "bootstrap.servers": bootstrap}.items():
        if value:
            variables[f"{VARIABLE_PREFIX}{KAFKA}__{key.replace('.', '_')}".upper()] = value
    return variables


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
