"""The page of bounds is complete: every setting is on it, and every test it names is there."""

import re
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
