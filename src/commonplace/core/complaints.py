"""What a decoder complains of, in our words: which field, what it must be. For the error path only."""

import re
from collections.abc import Callable
from typing import Final

_KINDS: Final = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}
_LENGTHS: Final = {"str": "characters", "array": "entries", "object": "entries"}
_PATTERNS: Final = (
    # beginning of a pattern of records/fields.py → what it asks for
    ("^[A-Za-z0-9][A-Za-z0-9._:@+-]*", "must begin with a letter or a digit and go on with those and . _ : @ + -"),
    ("^[A-Za-z0-9][A-Za-z0-9._:-]*", "must begin with a letter or a digit and go on with those and . _ : -"),
    ("^[A-Z][A-Z0-9_]*", "must begin with a capital letter and go on with those, digits and _"),
    ("^[0-9a-f]{16}", "must be 16 of the digits 0-9 and a-f"),
    ("^[^", "must hold no control characters"),
)

_PLACE: Final = re.compile(r"(.*?)(?: - at `(\S+)`(?: in `(\S+)`)?)?", re.DOTALL)


def complaint(said: str, whole: str = "the record") -> str:
    """One sentence on what msgspec said: where, and what must be there; what it does not know stays as it was said.

    `whole` is what to call that which was decoded.
    """
    match = _PLACE.fullmatch(said)
    assert match is not None
    what, path, outer = match.groups()
    place = _field(path) if outer is None else f"a key of {_field(outer) or whole}"
    for pattern, words in _OF_FIELDS:
        if found := pattern.fullmatch(what):
            return words(f"{place}.{found[1]}" if place else found[1])
    for pattern, told in _OF_VALUES:
        if found := pattern.fullmatch(what):
            return told(place or whole, found)
    return said


def _field(path: str | None) -> str:
    """`$.a[0].b` as `a[0].b`, the whole as nothing."""
    return (path or "").removeprefix("$").removeprefix(".").replace("[...]", "[*]")


def _kind(names: str) -> str:
    return " or ".join(_KINDS.get(name.strip(), name.strip()) for name in names.split("|"))


def _pattern(place: str, found: re.Match[str]) -> str:
    asked = next((words for start, words in _PATTERNS if found[1].startswith(start)), f"must match {found[1]}")
    return f"{place} {asked}"


_LIMITS: Final = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}

_OF_FIELDS: Final[tuple[tuple[re.Pattern[str], Callable[[str], str]], ...]] = (
    (re.compile(r"Object missing required field `(.*)`", re.DOTALL), lambda field: f"{field} is missing"),
    (
        re.compile(r"Object contains unknown field `(.*)`", re.DOTALL),
        lambda field: f"{field} is not known here: leave it out",
    ),
)
_OF_VALUES: Final[tuple[tuple[re.Pattern[str], Callable[[str, re.Match[str]], str]], ...]] = (
    (re.compile(r"Expected `str` matching regex '(.*)'", re.DOTALL), _pattern),
    (
        re.compile(r"Expected `(str|array|object)` of length (>=|<=) (\d+)"),
        lambda place, m: f"{place} must have {_LIMITS[m[2]]} {m[3]} {_LENGTHS[m[1]]}",
    ),
    (
        re.compile(r"Expected `(?:int|float)` (>=|<=|>|<) (\S+)"),
        lambda place, m: f"{place} must be {_LIMITS[m[1]]} {m[2]}",
    ),
    (
        re.compile(r"Expected `([^`]*)`, got `([^`]*)`"),
        lambda place, m: f"{place} must be {_kind(m[1])}, not {_kind(m[2])}",
    ),
    (re.compile(r"Invalid (?:enum )?value (.*)", re.DOTALL), lambda place, m: f"{place} can't be {m[1]}"),
    (re.compile(r"Input data was truncated"), lambda place, m: "it ends in the middle: not JSON"),
)
