"""The pages of bounds are complete: every setting and every bound of the wire is on them, and every test they name is there."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from commonplace.settings import SECTIONS

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "bounds.md").read_text()
BOUNDS = dict(re.findall(r"^\| `(\w+\.\w+)` \|.*\| `([\w/.]+::\w+)` \|$", PAGE, re.M))
OTHERS = set(re.findall(r"`(\w+\.\w+)`", PAGE.partition("Intervals, names")[2].partition("##")[0]))
SETTINGS = {f"{name}.{f.name}" for name, s in SECTIONS.items() if name != "topics" for f in msgspec.structs.fields(s)}


def test_every_setting_is_a_bound_with_a_test_or_bounds_nothing() -> None:
    assert not BOUNDS.keys() & OTHERS
    assert BOUNDS.keys() | OTHERS == SETTINGS


def test_every_maximum_is_a_bound() -> None:
    assert {name for name in SETTINGS if re.search(r"_max(_|$)|timeout", name)} <= BOUNDS.keys()


@pytest.mark.parametrize("setting", BOUNDS)
def test_the_test_that_reaches_a_bound_is_there(setting: str) -> None:
    file, _, name = BOUNDS[setting].partition("::")
    assert f"def {name}(" in (TESTS / file).read_text()


# --- the wire -------------------------------------------------------------------------------------------------------

SCHEMA = json.loads((TESTS / "golden" / "schema.json").read_text())
WIRE = (TESTS.parent / "docs" / "protocol.md").read_text().partition("## Sizes and bounds")[2].partition("\n## ")[0]
ROWS = [[cell.strip() for cell in line.split("|")[1:-1]] for line in WIRE.splitlines() if line.startswith("| ")]
OF_ALL = {2**53 - 1, 604_800_000}
"""Integers, durations: their bounds are those of their kind."""


def bounded(node: object, field: str = "") -> Iterator[tuple[str, str, int]]:
    """Field, kind and value of every bound in the schema; strings of names and of common length left out."""
    if isinstance(node, list):
        for item in node:
            yield from bounded(item, field)
    if isinstance(node, dict):
        for kind, least in (("maxItems", 1), ("maxProperties", 1), ("maximum", 1), ("maxLength", 129)):
            if least <= node.get(kind, 0) and node[kind] not in OF_ALL:
                yield field, kind, node[kind]
        for key, value in node.items():
            if key == "properties":
                for name, below in value.items():
                    yield from bounded(below, name)
            else:
                yield from bounded(value, field)


@pytest.mark.parametrize(("field", "kind", "bound"), sorted(set(bounded(list(SCHEMA.values())))))
def test_every_bound_of_the_wire_is_on_the_protocol_page(field: str, kind: str, bound: int) -> None:
    said = f"{bound:,}"
    if kind == "maxLength":
        assert [row for row in ROWS if f"{said} characters" in row[1] and f"`{field}`" in row[0]]
    else:
        column = 2 if kind == "maximum" else 1
        assert [row for row in ROWS if row[0] == said and f"`{field}`" in row[column]]
