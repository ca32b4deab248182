"""A story as a text file: what it is about, the schedule, and what must come of it.

    # the story, for people
    config hosts=1 vcpus=4
    submit at_ms=0 id=a
    fault die_before on=delta nth=1 ms=500
    ---
    a: placed on h0; active on h0
    verdicts: confirmed 1, granted 1
    faults: die_before 1
    violations: none

The part below the line is what `tell` makes of a run.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from msgspec import Struct

from commonplace.core.codec import Bad, decode
from commonplace.core.records.decisions import Decision
from commonplace.core.records.hosts import Delta, Snapshot
from commonplace.frontend.events import Refusal
from commonplace.sim import plan
from commonplace.sim.world import World

LINE: Final = "---"
QUIET: Final = ("compacted records", "expired records")


class Scenario(Struct, frozen=True):
    """A story's file, taken apart; `head` is all above the line, as written."""

    head: tuple[str, ...]
    schedule: plan.Schedule
    expected: tuple[str, ...]


def read(text: str) -> Scenario:
    """Take a file apart; raises ValueError that names the line which can't be read."""
    lines = text.splitlines()
    at = lines.index(LINE) if LINE in lines else len(lines)
    head = lines[:at]
    return Scenario(tuple(head), plan.parse(head), tuple(lines[at + 1 :]))


def write(head: Sequence[str], told: Sequence[str]) -> str:
    """A file from its head and what came of it."""
    return "\n".join([*head, LINE, *told]) + "\n"


def tell(world: World) -> list[str]:
    """What came of a run: each request's answers and what its hosts hold at the end, verdicts, faults, violations."""
    answers: dict[str, list[str]] = {}
    for _, request, answer in world.answers:
        said = answers.setdefault(request, [])
        words = _answer(answer)
        if words not in said:
            said.append(words)
    held: dict[str, list[str]] = {}
    for host in world.checkers.hosts.values():
        for allocation in host.held.values():
            held.setdefault(allocation.request or allocation.instance, []).append(f"{allocation.state} on {host.name}")
    lines = [
        f"{request}: {', then '.join(answers.get(request, ['no answer']))}; {', '.join(sorted(held.get(request, ['nothing held'])))}"
        for request in sorted({*answers, *held}, key=lambda name: (len(name), name))
    ]
    lines.append(f"decisions: {_counted(_decisions(world))}")
    lines.append(f"verdicts: {_counted(_verdicts(world))}")
    lines.append(f"faults: {_counted(Counter({k: n for k, n in world.counts.items() if k not in QUIET and n}))}")
    found = [f"{violation.invariant}: {violation.sentence}" for violation in world.checkers.violations]
    return lines + [f"violation: {line}" for line in found] if found else [*lines, "violations: none"]


def _answer(answer: Decision | Refusal) -> str:
    if isinstance(answer, Refusal):
        return answer.why.value
    where = ", ".join(placed.host for placed in answer.placed)
    return f"{answer.result} on {where}" if where else f"{answer.result} ({answer.reason})"


def _decisions(world: World) -> Counter[str]:
    found: Counter[str] = Counter()
    for record in _records(world, "decisions"):
        if isinstance(record, Decision):
            found[record.result] += 1
    return found


def _verdicts(world: World) -> Counter[str]:
    found: Counter[str] = Counter()
    for record in _records(world, "hosts"):
        if isinstance(record, Snapshot | Delta):
            for settled in record.settled:
                found[f"{settled.verdict} {settled.reason}".rstrip()] += 1
    return found


def _records(world: World, name: str) -> list[Any]:
    topic = world.topics[name]
    raws = [raw for partition in range(topic.partitions) for raw in topic.everything(partition)]
    return [record for raw in raws if raw[3] is not None and not isinstance(record := decode(name, raw[3]), Bad)]


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"
