"""What an audit found: per invariant the facts checked, violated, unprovable and pending, and the figures of the log."""

from collections import Counter
from typing import Any, Final

from msgspec import Struct, field
from msgspec.structs import asdict

INVARIANTS: Final = {
    1: "no grant takes a ledger past capacity",
    2: "one effective decision per request",
    3: "placed was granted before, and holds",
    5: "one allocation per instance, none outlives its lease",
    6: "a strict claim is granted on its expected state only, and fits",
    9: "void reports never apply",
    10: "records read = applied + superseded + quarantined",
    11: "a host reports to one pool",
    12: "what is placed is where its request lets it be",
}
"""The invariants that the raw topics can prove, by their number in the architecture page; docs/audit.md says how."""

SHOWN_MAX: Final = 100
"""Most violations kept in full per invariant; the count goes on."""


class Violation(Struct, frozen=True):
    """One violated fact and the record that shows it."""

    text: str
    topic: str
    partition: int
    offset: int


class Tally(Struct):
    """Facts of one invariant. Unprovable: compaction or retention took the evidence; pending: not due yet. Neither counts as passed."""

    checked: int = 0
    violated: int = 0
    unprovable: int = 0
    pending: int = 0
    violations: list[Violation] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)


class Findings:
    """Collects findings while the log is read. A violated fact is one that was checked."""

    def __init__(self) -> None:
        self.tallies = {number: Tally() for number in INVARIANTS}
        self.figures: Counter[str] = Counter()

    def passed(self, invariant: int, facts: int = 1) -> None:
        self.tallies[invariant].checked += facts

    def violated(self, invariant: int, text: str, topic: str, partition: int, offset: int) -> None:
        tally = self.tallies[invariant]
        tally.checked += 1
        tally.violated += 1
        if len(tally.violations) < SHOWN_MAX:
            tally.violations.append(Violation(text, topic, partition, offset))

    def unprovable(self, invariant: int, why: str) -> None:
        tally = self.tallies[invariant]
        tally.unprovable += 1
        tally.reasons[why] += 1

    def pending(self, invariant: int, why: str) -> None:
        tally = self.tallies[invariant]
        tally.pending += 1
        tally.reasons[why] += 1


class AuditReport(Struct, frozen=True):
    """The result of an audit."""

    tallies: dict[int, Tally]
    figures: dict[str, int | float]

    @property
    def verdict(self) -> str:
        """`violated`, `nothing` (no fact could be checked) or `clean`."""
        if any(tally.violated for tally in self.tallies.values()):
            return "violated"
        return "clean" if any(tally.checked for tally in self.tallies.values()) else "nothing"

    @property
    def clean(self) -> bool:
        """Whether something was checked and nothing is violated."""
        return self.verdict == "clean"

    def to_dict(self) -> dict[str, Any]:
        """One object for `-o json`."""
        return {
            "audit": self.verdict,
            "invariants": {
                str(number): {
                    "name": INVARIANTS[number],
                    "checked": tally.checked,
                    "violated": tally.violated,
                    "unprovable": tally.unprovable,
                    "pending": tally.pending,
                    "reasons": dict(tally.reasons),
                    "violations": [asdict(violation) for violation in tally.violations],
                }
                for number, tally in self.tallies.items()
            },
            "figures": dict(sorted(self.figures.items())),
        }
