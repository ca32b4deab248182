"""Groups that no single host can settle, affinity and spread: their members are ranked one after another (rule 8).

    request ──▶ line of its group ──first in line, what it must know is folded──▶ ranked, claimed, decided ──read back──▶ the next

Where the group stands is what effective decisions placed: an allocation that another owner claimed for a decision that came too late
is none of it, though hosts show it until it is released or lapses.
"""

from collections.abc import Callable, Mapping

from commonplace.core.records.decisions import Decision
from commonplace.core.records.hosts import Allocation
from commonplace.core.rules import Standing
from commonplace.core.view import View
from commonplace.core.work import OPEN, Work

Line = tuple[int, str]
"""Request partition and group."""


class GroupTurns:
    """Whose turn it is in each serialised group of the partitions that a replica owns."""

    def __init__(self) -> None:
        self._lines: dict[
            Line, dict[str, Work]
        ] = {}  # members without an effective decision, in the order of their requests
        self._grants: dict[Line, dict[int, int]] = {}  # partition of `hosts` → offset of a grant that is not folded yet
        self._stirred: dict[Line, None] = {}  # lines whose first may have its turn now
        self.waiting = 0

    def join(self, work: Work) -> None:
        """A member's request was admitted; it waits for its turn."""
        line = (work.partition, work.build.group)
        work.called = False
        self._lines.setdefault(line, {})[work.build.id] = work
        self._stirred[line] = None
        self.waiting += 1

    def leave(self, work: Work) -> None:
        """A member's effective decision was read back."""
        line = (work.partition, work.build.group)
        members = self._lines.get(line, {})
        if members.pop(work.build.id, None) is None:
            return
        self.waiting -= 1
        if members:
            self._stirred[line] = None
        else:
            del self._lines[line]

    def note(self, partition: int, decision: Decision, folded: Mapping[int, int]) -> None:
        """Another owner's decision placed members: the next one is not ranked before the reports that show them are folded."""
        for placed in decision.placed:
            grant = placed.grant
            if folded.get(grant.partition, -1) < grant.offset:
                grants = self._grants.setdefault((partition, decision.group), {})
                grants[grant.partition] = max(grant.offset, grants.get(grant.partition, -1))

    def drop(self, partition: int) -> None:
        """The partition is another replica's now."""
        self._lines = {line: members for line, members in self._lines.items() if line[0] != partition}
        self._grants = {line: grants for line, grants in self._grants.items() if line[0] != partition}
        self._stirred = {line: None for line in self._stirred if line[0] != partition}
        self.waiting = sum(map(len, self._lines.values()))

    def due(self, folded: Mapping[int, int]) -> list[Work]:
        """Call the members whose turn it is; `folded` has the last offset folded of each partition of `hosts`."""
        called = []
        for line in list(self._stirred):
            work = next(iter(self._lines.get(line, {}).values()), None)
            # one that expired in line is read back before the next
            if work is None or work.called or work.state != OPEN:
                del self._stirred[line]
            elif self._folded(line, folded):
                del self._stirred[line]
                work.called = True
                called.append(work)
        return called

    def _folded(self, line: Line, folded: Mapping[int, int]) -> bool:
        grants = self._grants.get(line)
        if grants is None:
            return True
        for partition in [p for p, offset in grants.items() if folded.get(p, -1) >= offset]:
            del grants[partition]
        if not grants:
            del self._grants[line]
        return not grants


def standing(view: View, work: Work, effective: Callable[[Allocation], bool]) -> Standing:
    """Where the group of a request stands as it is ranked, its own claims included; `effective` judges what is leased.

    The instances that the request names are left out: on a move they do not count where they stand.
    """
    build, rows = work.build, {}
    mine = {slot.held.allocation for slot in work.slots if slot.held}
    mine |= {slot.pending.allocation_id for slot in work.slots if slot.pending}

    def counts(allocation: Allocation) -> bool:
        if allocation.request == build.id:
            return allocation.id in mine
        if allocation.instance in build.instances:
            return False
        return allocation.state == "active" or effective(allocation)

    for index in view.groups.get(build.group, ()):
        row = view.by_index[index]
        here = sum(counts(one) for one in row.host.allocations.values() if one.group == build.group)
        here += sum(overlay.allocation_id in mine for overlay in row.pending)
        if here:
            rows[index] = here
    return Standing(rows)
