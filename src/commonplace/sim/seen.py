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
        # allocations claimed before claims were lost: confirms and releases of them may be among these
        self.lost_claims: set[str] = set()
        # allocations held when retention had taken claims: they are kept, whatever these said
        self.gapped: set[str] = set()
        # host → the watermark at which reports of it were lost, or claims whose offsets were given again: who starts it anew may take
        # a second time what lies below
        self.lost_hosts: dict[str, int] = {}
        self.cut_claims: dict[str, int] = {}
        self.cut_hosts: set[int] = set()  # partitions of `hosts` that lost records
        self.bad: dict[Place, str] = {}  # records that somebody must put aside
        self.set_aside: set[Place] = set()

    def excuse_claims(self, partition: int) -> None:
        """No host of a partition is known: whoever comes next begins at the end of its claims."""
        self.bad = {place: why for place, why in self.bad.items() if place[:2] != ("claims", partition)}

    def passed(self, host: str, through: int) -> None:
        """A ledger that was started since has taken the claims up to there: what was answered twice lies behind it."""
        for lost in (self.lost_hosts, self.cut_claims):
            if lost.get(host, through + 1) <= through:
                del lost[host]

    def must_set_aside(self, topic: str, partition: int, offset: int, why: str) -> None:
        """Nobody can use a record: whoever reads it says so."""
        self.bad[topic, partition, offset] = why
