"""What a check found, and how it is told."""

from collections.abc import Sequence
from typing import Final, Literal

from msgspec import Struct

Level = Literal["ok", "warn", "fail", "skip"]

NAMES_SHOWN: Final = 3


class Check(Struct, frozen=True):
    """One thing looked at; `todo` says what to do where it is not well, `not_ready` that it is a matter of starting something."""

    name: str
    level: Level
    found: str
    todo: str = ""
    not_ready: bool = False


def named(what: str, names: Sequence[str]) -> str:
    """How many they are, what they are, and the first few names."""
    more = ", …" if len(names) > NAMES_SHOWN else ""
    return f"{len(names)} {what}: {', '.join(names[:NAMES_SHOWN])}{more}"
