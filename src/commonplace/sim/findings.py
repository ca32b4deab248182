"""What the checkers found: violated invariants, each as a sentence with the records that show it."""

from typing import Final

from msgspec import Struct

INVARIANTS: Final = {
    1: "no grant takes a ledger past capacity",
    2: "one effective decision per request",
    3: "placed was granted before, and holds",
    4: "every acknowledged request is decided",
    5: "one allocation per instance, none outlives its lease",
    6: "a strict claim is granted on its expected state only, and fits",
    7: "nobody decides before it has caught up, or after it knows that it lost the partition",
    8: "same positions, same state",
    9: "void reports never apply",
    10: "nothing is passed over in silence",
    12: "members of a group are placed together, or apart, as it asks",
}
"""The invariants by their number in the architecture page; 11 is about several pools, and 12 judged of groups (rule 8)."""

VIOLATIONS_MAX: Final = 50
"""Violations of one schedule that are kept; what follows from a broken ledger says nothing new."""

Place = tuple[str, int, int]
"""Topic, partition, offset."""


class Violation(Struct, frozen=True):
    """One violated fact and the records that show it."""

    invariant: int
    sentence: str
    places: tuple[Place, ...] = ()


class Findings:
    """Collects violations, in the order in which they were seen."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []

    def violated(self, invariant: int, sentence: str, *places: Place) -> None:
        if len(self.violations) < VIOLATIONS_MAX:
            self.violations.append(Violation(invariant, sentence, places))
