"""Stories that stay: each file under tests/scenarios is a schedule and what must come of it.

To write what comes of them now below the line of each file: `pytest tests/test_scenarios.py --regenerate-scenarios`, then read the diff.
"""

from pathlib import Path

import pytest

from commonplace.sim import scenario
from commonplace.sim.run import lived

FILES = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_scenario_ends_as_its_story_says(path: Path, pytestconfig: pytest.Config) -> None:
    found = scenario.read(path.read_text())
    told = scenario.tell(lived(found.schedule, probing=False))
    if pytestconfig.getoption("regenerate_scenarios"):
        path.write_text(scenario.write(found.head, told))
        return
    assert told == list(found.expected)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_scenario_begins_with_its_story(path: Path) -> None:
    head = scenario.read(path.read_text()).head
    assert head[0].startswith("# ")
    assert any(line.startswith("submit ") for line in head)
