"""Plugins are found by entry point and named by profiles; a bad one is counted, named, and left out of the request."""

import logging
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from commonplace import plugins
from commonplace.core.catalog import Catalog
from commonplace.core.choosing import choose
from commonplace.core.codec import encode
from commonplace.core.filter_table import TABLE
from commonplace.core.ranking import ScoreRow
from commonplace.core.raw_weighers import RAW
from commonplace.core.records.control import Flavor, Profile
from commonplace.core.records.requests import Build
from commonplace.core.resources import Inventory
from commonplace.core.rules import Wishes
from peer.fleet import Fleet

EXAMPLE = Path(__file__).parents[1] / "examples" / "plugin"
FLAVOR = Flavor(name="m1", resources={"VCPU": 1}, profile="theirs")
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs entry points as pip would; whatever was taken up is forgotten afterwards."""
    filters, weighers = dict(TABLE), dict(RAW)
    monkeypatch.delitem(sys.modules, "theirs_for_test", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(str(EXAMPLE))
    plugins.faults.clear()

    def made(source: str = "", **groups: dict[str, str]) -> None:
        (tmp_path / "theirs_for_test.py").write_text(source)
        info = tmp_path / "theirs-1.0.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
        lines = (
            f"[commonplace.{group}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items())
            for group, points in groups.items()
        )
        (info / "entry_points.txt").write_text("\n".join(lines))

    yield made
    tables: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = ((TABLE, filters), (RAW, weighers))
    for table, before in tables:
        table.clear()
        table.update(before)
    plugins.faults.clear()


def placed(fleet: Fleet, profile: Profile, request: str = "r-1", project: str = "") -> str:
    """The host that a request gets, "" when none."""
    made = Catalog("default")
    for key, record in ((b"flavor/m1", FLAVOR), (b"profile/theirs", profile)):
        assert made.fold(key, encode(record)) == ("", None, "")
    build = Build(id=request, flavor="m1", project=project)
    terms = made.terms(build)
    assert terms.ask.rules is not None
    scores = ScoreRow(fleet.view, terms.ask)
    scores.refresh()
    row = choose(scores, Wishes(build, terms.ask, terms.ask.rules), b"seed")
    return row.host.name if row else ""


def two_hosts() -> Fleet:
    fleet = Fleet()
    fleet.host("h1", {"VCPU": Inventory(total=4)})
    fleet.host("h2", {"VCPU": Inventory(total=9)}, labels={"spare": "true"})
    return fleet


def test_the_example_is_loaded_and_asked_under_profiles_that_name_it(install: Install) -> None:
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    points = {group.removeprefix("commonplace."): names for group, names in project["entry-points"].items()}
    install(**points)
    assert plugins.load() == ["spare_rack", "vcpu_headroom"]
    assert plugins.load() == ["spare_rack", "vcpu_headroom"]  # twice is once
    named = Profile(name="theirs", filters=("spare_rack",), weighers={"vcpu_headroom": 1.0})
    assert placed(two_hosts(), named) == "h1"
    assert placed(two_hosts(), named, project="ops") == "h2"
    assert len((EXAMPLE / "spare_rack.py").read_text().splitlines()) <= 15
    assert plugins.faults == {}


def test_the_page_on_writing_a_filter_shows_the_example_and_its_test_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    page = (EXAMPLE.parents[1] / "docs" / "writing-filters.md").read_text()
    shown, test = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert shown.strip() in (EXAMPLE / "spare_rack.py").read_text()
    monkeypatch.syspath_prepend(str(EXAMPLE))
    names: dict[str, Any] = {}
    exec(test, names)
    names["test_spare_racks_are_for_ops_alone"]()


BAD = """
def raises(view, row, wishes): raise RuntimeError("no such rack")
def says_no(view, row, wishes): return False
def endless(view, row, wishes): return float("inf")
def slow(view, row, wishes): time.sleep(0.02); return "is slow"
"""


@pytest.mark.parametrize("name", ["raises", "says_no", "slow"])
def test_a_bad_filter_is_counted_named_and_left_out_of_the_request(
    name: str, install: Install, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(plugins, "REQUEST_S_MAX", 0.03)
    install(BAD, filters={name: f"theirs_for_test:{name}"})
    assert plugins.load() == [name]
    profile = Profile(name="theirs", weighers={"cpu": 1.0}, filters=(name,))
    with caplog.at_level(logging.WARNING):
        assert placed(two_hosts(), profile) in ("h1", "h2")
    assert plugins.faults == {name: 1}
    assert f"plugin {name} left out of request r-1 at host h" in caplog.text
    assert placed(two_hosts(), profile, request="r-2") in ("h1", "h2")
    assert plugins.faults == {name: 2}


@pytest.mark.parametrize("name", ["raises", "says_no", "endless"])
def test_a_bad_weigher_weighs_nothing(name: str, install: Install) -> None:
    install(BAD.replace("return False", 'return "much"'), weighers={name: f"theirs_for_test:{name}"})
    assert plugins.load() == [name]
    profile = Profile(name="theirs", weighers={name: 1.0, "num_instances": 1.0})
    assert placed(two_hosts(), profile) in ("h1", "h2")
    assert plugins.faults == {name: 1}


@pytest.mark.parametrize(
    ("point", "said"),
    [
        ({"mine": "theirs_for_test:nothing"}, "mine (theirs_for_test:nothing) cannot be loaded"),
        ({"mine": "no_such_module_at_all:f"}, "cannot be loaded"),
        ({"mine": "theirs_for_test:__name__"}, "is no function"),
        ({"json": "theirs_for_test:raises"}, "the name is taken"),
        ({"capacity": "theirs_for_test:raises"}, "the name is taken"),
    ],
)
def test_what_cannot_be_taken_up_is_named_and_changes_nothing(
    point: dict[str, str], said: str, install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    before = dict(TABLE)
    install(BAD, filters=point)
    with caplog.at_level(logging.WARNING):
        assert plugins.load() == []
    assert said in caplog.text
    assert before == TABLE
    assert sum(plugins.faults.values()) == 1


def test_a_broken_plugin_fills_no_log_and_no_memory(
    install: Install, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(plugins, "LEFT_OUT_MAX", 4)
    fleet = two_hosts()

    def raises(*_: Any) -> str:
        raise RuntimeError("no")

    guard = plugins.Guard("mine", raises, "", lambda answer: True)
    for number in range(100):
        wishes: Any = type("W", (), {"build": Build(id=f"r-{number}", flavor="m1")})
        assert guard(fleet.view, fleet.view.rows["h1"], wishes) == ""
    assert plugins.faults == {"mine": 100}
    assert len(caplog.records) == 7  # faults 1, 2, 4 … 64
    assert len(guard._left_out) == 4
