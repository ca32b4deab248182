"""What those who read `hosts` make of it, held against everything that ever stood there (invariants 7, 8, 10).

Nobody says it in the log: the world tells it of replicas that are caught up, and of agents that begin to take claims.
"""

from collections.abc import Callable, Collection, Mapping

from commonplace.sim.checkers import Checkers
from commonplace.sim.model import digest_at


def takes_claims(checkers: Checkers, agent: str, epochs: Mapping[str, int], position: int) -> None:
    """An agent begins to take claims for hosts in these epochs, having read their partition of `hosts` to `position` (rule 5)."""
    for name, epoch in epochs.items():
        host = checkers.hosts.get(name)
        if host is None or host.epoch != epoch or (name in checkers.seen.lost_hosts and not host.anew):
            continue  # a later start record stands, or its own was lost: it will read of it
        if host.reported != epoch or host.opened_at >= position:
            text = f"{agent} takes claims of {name} at {position} of hosts, "
            text += f"before it has read back the first snapshot of its epoch {epoch}"
            checkers.findings.violated(7, text, ("hosts", host.partition, epoch))


def fleet(checkers: Checkers, replica: str, positions: Mapping[int, int], names: Collection[str]) -> None:
    """A replica that read `hosts` to `positions` believes these hosts to be there (invariant 8)."""
    for name in names:
        host = checkers.hosts.get(name)
        if (
            host is not None
            and host.removed
            and positions.get(host.partition) == checkers.seen.ends.get(("hosts", host.partition))
        ):
            text = f"{replica} sees {name}, which was forgotten"
            checkers.findings.violated(8, text, ("hosts", host.partition, host.epoch))


def digest(
    checkers: Checkers, replica: str, positions: Mapping[int, int], digest_without: Callable[[Collection[str]], int]
) -> None:
    """A replica that is caught up and read `hosts` to `positions` has this state digest, some hosts left out (invariant 8)."""
    if any(position < 0 for position in positions.values()):
        return  # it is about to notice that records were lost
    found, unsure = digest_at(checkers.hosts.values(), positions)
    told = digest_without(unsure)
    if found != told:
        at = ", ".join(f"{partition}/{position}" for partition, position in sorted(positions.items()))
        places = [("hosts", partition, position - 1) for partition, position in sorted(positions.items())]
        text = f"{replica} has digest {told:016x} at hosts {at}, everything up to there makes {found:016x}"
        checkers.findings.violated(8, text, *places)


def accounts(checkers: Checkers, who: str, read: int, outcomes: Mapping[str, int]) -> None:
    """A replica has read so many records of `hosts`, and says what became of them (invariant 10)."""
    if read != sum(outcomes.values()):
        said = ", ".join(f"{count} {name}" for name, count in outcomes.items())
        checkers.findings.violated(10, f"{who} has read {read} records of hosts and accounts for {said}")
