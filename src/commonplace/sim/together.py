"""Groups that are decided one member after another, as their effective decisions placed them (rule 8, docs/decisions/0010).

What is judged must hold whatever a replica saw: members leave at any time, a view lags, and what a ledger granted counts until somebody
decided otherwise. So of the value with fewest members everything counts that was ever granted there, of the others what is placed there
now; and a value counts once the replica that claimed had claimed on a host of it.
"""

from collections.abc import Iterable, Mapping
from typing import Final

from commonplace.core.records.decisions import Decision
from commonplace.core.records.requests import Build
from commonplace.sim.findings import Findings, Place
from commonplace.sim.model import Host

NUMBER: Final = 12


class Together:
    """Members of every group, in the order of their effective decisions."""

    def __init__(self, findings: Findings, hosts: Mapping[str, Host]) -> None:
        self._findings, self._hosts = findings, hosts
        self._members: dict[str, list[tuple[str, str]]] = {}  # group → host and allocation
        self._granted: dict[str, dict[str, str]] = {}  # group → allocation → host that granted it, decided or not
        self.doubtful: set[str] = set()  # groups of which records were lost, or hidden
        self.forged: set[str] = set()  # hosts under whose keys somebody wrote, till their next good report
        self._known: dict[str, set[str]] = {}  # replica → hosts that it has claimed on: it knows these for sure
        self._knew: dict[str, frozenset[str]] = {}  # allocation → what its replica knew so when it claimed it first

    def claimed(self, replica: str, host: str, allocations: Iterable[str]) -> None:
        """A replica claimed allocations on a host."""
        known = self._known.setdefault(replica, set())
        known.add(host)
        for allocation in allocations:
            self._knew.setdefault(allocation, frozenset(known))

    def granted(self, group: str, allocation: str, host: str) -> None:
        """A ledger granted an allocation of a group."""
        self._granted.setdefault(group, {})[allocation] = host
        if host in self.forged:
            self.doubtful.add(group)

    def forge(self, host: str) -> None:
        """Somebody wrote under a host's keys: whoever reads that, however late, sees no member of a group there."""
        self.forged.add(host)
        self.doubtful |= {group for group, granted in self._granted.items() if host in granted.values()}

    def decided(self, build: Build, decision: Decision, here: Place) -> None:
        """A request of a group was effectively placed."""
        before = self._members.setdefault(build.group, [])
        doubtful = build.group in self.doubtful
        if build.group_policy == "affinity" and not doubtful:
            self._affinity(build, decision, before, here)
        if build.max_skew and decision.placed and not doubtful:
            self._skew(build, decision, before, here)
        before += [(placed.host, placed.allocation) for placed in decision.placed]

    def _affinity(self, build: Build, decision: Decision, before: list[tuple[str, str]], here: Place) -> None:
        now, ever = {placed.host for placed in decision.placed}, {host for host, _ in before}
        held = sorted({host for host, allocation in before if self._holds(host, allocation)})
        if held and not now <= ever:
            text = f"{build.id} of group {build.group} is placed on {min(now - ever)}, its members are on {', '.join(held)}"
            self._findings.violated(NUMBER, text, here)
        elif not held and len(now - ever) > 1:
            text = f"{build.id} begins group {build.group} on several hosts: {', '.join(sorted(now))}"
            self._findings.violated(NUMBER, text, here)

    def _skew(self, build: Build, decision: Decision, before: list[tuple[str, str]], here: Place) -> None:
        # Who decides may have found the claim of another, made when a value had no host yet.
        known = frozenset.intersection(*(self._knew.get(placed.allocation, frozenset()) for placed in decision.placed))
        labels = {name: host.facts.content[2].get(build.spread_over) for name, host in self._hosts.items()}
        values = {value for name, value in labels.items() if value is not None and name in known}
        most, least = dict.fromkeys(values, 0), dict.fromkeys(values, 0)
        members = {allocation: host for host, allocation in before}
        members |= {placed.allocation: placed.host for placed in decision.placed}
        for allocation, host in (self._granted.get(build.group, {}) | members).items():
            value = labels.get(host)
            if value is not None and value in values:
                least[value] += 1
                most[value] += allocation in members and self._holds(host, allocation)
        for value in values & {labels.get(placed.host) for placed in decision.placed}:
            if most[value] - min(least.values()) > build.max_skew:
                text = f"{build.id} is number {most[value]} of group {build.group} at {build.spread_over} {value}, "
                text += f"another has had {min(least.values())}: more than {build.max_skew} apart"
                self._findings.violated(NUMBER, text, here)

    def _holds(self, host: str, allocation: str) -> bool:
        found = self._hosts.get(host)
        return found is not None and allocation in found.held
