"""TOML and JSON files that people write: read whole, or refused in a sentence that names the file."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from commonplace.errors import SettingsError

FILE_BYTES_MAX: Final = 64 * 2**20
"""Largest file read: an inventory of 100,000 hosts at some 600 bytes each."""

NESTED_MAX: Final = 32
"""Deepest tables and lists read: five times what the deepest of ours needs, far below where converting or quoting them ends."""

Form = Literal["TOML", "JSON"]

_DECODE: Final[Mapping[Form, Callable[[bytes], Any]]] = {"TOML": msgspec.toml.decode, "JSON": msgspec.json.decode}


def read_tree(path: Path, form: Form = "TOML") -> Any:
    """What a file says, in builtins; SettingsError where it cannot be read, is too large, nested too deep or malformed."""
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise SettingsError(f"{path}: larger than {FILE_BYTES_MAX} bytes: split it")
        tree = _DECODE[form](path.read_bytes())
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    except RecursionError:
        raise _too_deep(path) from None
    except ValueError as error:  # msgspec's, one of UTF-8, or an integer of more digits than Python reads
        raise SettingsError(f"{path}: not valid {form}: {error}") from error
    if _nested(tree):
        raise _too_deep(path)
    return tree


def _nested(tree: Any) -> bool:
    """Whether something lies too deep: a dotted name nests as deep as it is long, and no parser stumbles over it."""
    level = [tree]
    for _ in range(NESTED_MAX):
        inner = [part.values() if isinstance(part, dict) else part for part in level if isinstance(part, dict | list)]
        level = [item for items in inner for item in items if isinstance(item, dict | list)]
        if not level:
            return False
    return True


def _too_deep(path: Path) -> SettingsError:
    return SettingsError(f"{path}: nested too deep: more than {NESTED_MAX} tables or lists, one inside the other")
