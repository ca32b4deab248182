"""What all checkers share: which topics stand, what they lost, what is bad in them."""

from commonplace.sim.findings import Place

Raw = tuple[int, int, bytes | None, bytes | None]
"""Offset, log time in ms, key, value."""


class Seen:
    """The topics as far as they were read. `drift` is by how much the clock of a process may run fast or slow, as a share.

    While `injecting` is set, appended records are garbage that a fault wrote: they are folded like any, and nobody is blamed for them.
    """

    def __init__(self, partitions: int, drift: float) -> None:
        self.partitions, self.drift = partitions, drift
        self.injecting = False
        self.ids: dict[str, str] = {}  # topic → its id
        self.ends: dict[tuple[str, int], int] = {}
        self.lows: dict[int, int] = {}  # claims partition → first offset kept
        self.lost_claims: set[int] = set()  # partitions of claims that lost acknowledged records
        self.cut_claims: set[int] = set()  # those of them whose offsets were given again
        self.lost_hosts: set[int] = set()  # the same of hosts
        self.bad: dict[Place, str] = {}  # records that somebody must put aside
        self.set_aside: set[Place] = set()

    def excuse_claims(self, partition: int) -> None:
        """No host of a partition is known: whoever comes next begins at the end of its claims."""
        self.bad = {place: why for place, why in self.bad.items() if place[:2] != ("claims", partition)}

    def must_set_aside(self, topic: str, partition: int, offset: int, why: str) -> None:
        """Nobody can use a record: whoever reads it says so."""
        if topic == "hosts" and partition in self.lost_hosts:
            return  # agents of the topic before write on until they notice, perhaps before anybody reads the new one
        self.bad[topic, partition, offset] = why
