"""What the pages show can be typed: command lines parse, links resolve, and settings exist."""

import contextlib
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
import typer
from typer._click.exceptions import MissingParameter

import cli
from commonplace.agent.commands import WORDS
from commonplace.agent.machine import HostDriverSettings, measured_load
from commonplace.cli.main import COMMANDS
from commonplace.core.filter_table import ON_COLUMNS, TABLE
from commonplace.core.raw_weighers import RAW
from commonplace.ops.audit import findings as audit
from commonplace.settings import SECTIONS
from commonplace.sim import findings as sim

ROOT: Final = Path(__file__).parent.parent
PAGES: Final = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "bench").glob("*.md")])

IN_PROFILES: Final = frozenset({*TABLE, *ON_COLUMNS, *RAW})  # as shipped: other tests load plugins

_FENCE: Final = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE: Final = re.compile(r"`([^`\n]+)`")
_LINK: Final = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_COMMENT: Final = re.compile(r"\s+#.*$")
_PROGRAM: Final = re.compile(r"^(?:\$ )?(?:\S*/)?(?:commonplace|cpl) (.*)$")
_SETTING: Final = re.compile(rf"^({'|'.join(SECTIONS)})\.([a-z_]+)$")
_ENDS_A_COMMAND: Final = {"|", "&", ">", ";", "&&", "2>"}
_SHORTENED: Final = re.compile(r"…|\.\.\.|[A-Za-z]\|[A-Za-z]")  # `host show|enable|…` names commands, and is none


def _blocks(text: str) -> Iterator[str]:
    """Lines of the code blocks for a shell, continued ones joined."""
    for language, block in _FENCE.findall(text):
        if language in ("", "sh", "bash", "console"):
            yield from block.replace("\\\n", " ").splitlines()


def _inline(text: str) -> Iterator[str]:
    yield from _INLINE.findall(_FENCE.sub("", text))


def _command(line: str) -> str | None:
    """What follows the program's name, where the line calls it and nothing is left out."""
    found = _PROGRAM.match(_COMMENT.sub("", line.strip()))
    return found[1] if found and found[1][0].islower() and not _SHORTENED.search(found[1]) else None


def _commands(lines: Callable[[str], Iterator[str]]) -> list[Any]:
    return [
        pytest.param(command, id=f"{page.relative_to(ROOT)}: {line.strip()}")
        for page in PAGES
        for line in lines(page.read_text())
        if (command := _command(line))
    ]


def _arguments(line: str) -> list[str]:
    words = shlex.split(line.replace("$(hostname)", "host-1"))
    stop = next((i for i, word in enumerate(words) if word in _ENDS_A_COMMAND), len(words))
    return words[:stop]


@pytest.mark.parametrize("line", _commands(_blocks))
def test_a_command_line_on_a_page_parses(line: str) -> None:
    cli.parse(_arguments(line))


@pytest.mark.parametrize("line", _commands(_inline))
def test_a_command_named_in_a_sentence_parses_as_far_as_it_goes(line: str) -> None:
    with contextlib.suppress(MissingParameter):  # `commonplace agent` in a sentence need not say which
        cli.parse(_arguments(line))


def test_a_command_line_with_an_unknown_option_would_be_found() -> None:
    with pytest.raises(typer.TyperException, match="--flavour"):
        cli.parse(_arguments("submit --flavour m1.small --wait | head"))


def test_the_readme_shows_the_commands_that_people_begin_with() -> None:
    shown = {command.split()[0] for line in _blocks((ROOT / "README.md").read_text()) if (command := _command(line))}
    assert {"broker", "topics", "fleet", "scheduler", "submit", "hosts", "audit"} <= shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_resolve(page: Path) -> None:
    targets = [t for t in _LINK.findall(_FENCE.sub("", page.read_text())) if not re.match(r"[a-z]+:|#", t)]
    assert [t for t in targets if not (page.parent / t.partition("#")[0]).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_settings_on_a_page_exist(page: Path) -> None:
    named = [found for word in _INLINE.findall(page.read_text()) if (found := _SETTING.match(word))]
    known = {(name, f.name) for name, section in SECTIONS.items() for f in msgspec.structs.fields(section)}
    assert [m[0] for m in named if (m[1], m[2]) not in known] == []


def test_every_package_and_every_module_of_the_core_is_on_the_map() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text().partition("\n## Map\n")[2].partition("\n## ")[0]
    named = set(re.findall(r"^\| (`.*?`) \|", page, re.MULTILINE))
    shown = {word for cell in named for word in _INLINE.findall(cell)}
    source = ROOT / "src" / "commonplace"
    core = {f"core/{path.stem}" for path in (source / "core").glob("[!_]*.py")}
    core |= {f"core/{path.parent.name}/" for path in (source / "core").glob("*/__init__.py")}
    packages = {f"{path.parent.name}/" for path in source.glob("*/__init__.py")} - {"core/"}
    assert shown == core | packages


def test_simulator_and_audit_judge_the_invariants_of_the_architecture_page_by_its_numbers() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text().partition("\n## Invariants\n")[2].partition("\n## ")[0]
    judged = {int(number): by for number, by in re.findall(r"^\| (\d+) \|.*\| ([^|]+) \|$", page, re.MULTILINE)}
    assert {number for number, by in judged.items() if "simulator" in by} == set(sim.INVARIANTS)
    assert {number for number, by in judged.items() if "audit" in by} == set(audit.INVARIANTS)


def test_a_rule_that_is_named_by_number_is_on_the_architecture_page() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text().partition("\n## Rules\n")[2].partition("\n## ")[0]
    rules = set(re.findall(r"^(\d+)\. \*\*", page, re.MULTILINE))
    named = {rule for path in (ROOT / "src").rglob("*.py") for rule in re.findall(r"\(rules? (\d+)", path.read_text())}
    assert len(named) > 5
    assert named <= rules


def test_what_a_profile_may_name_and_what_the_host_driver_measures_is_on_the_page_of_profiles() -> None:
    words = set(re.findall(r"`([a-z_0-9]+)`", (ROOT / "docs" / "profiles.md").read_text()))
    assert {*IN_PROFILES, *measured_load(), "disk_share"} - words == set()


def test_every_command_is_on_a_page() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    hidden = {"demo-load"}
    assert [name for name in COMMANDS if name not in hidden and f"commonplace {name}" not in text] == []


def test_the_host_drivers_settings_and_words_are_on_its_page() -> None:
    text = (ROOT / "docs" / "agent.md").read_text().partition("## Host driver")[2].partition("\n## ")[0]
    told = dict(re.findall(r"^\| `(\w+)` \| `(.+?)` \|", text, re.MULTILINE))
    defaults = msgspec.to_builtins(HostDriverSettings())
    assert {name: tomllib.loads(f"x = {value}")["x"] for name, value in told.items()} == {
        name: list(value) if isinstance(value, tuple) else value for name, value in defaults.items()
    }
    assert set(re.findall(r"`\{(\w+)\}`", text)) == set(WORDS)
