"""Who owns which request partition since when, and what owners say while they do (invariants 2, 3 and 7).

The world tells who was told what, and what a replica hands to its outbox: who decides too early, or after it knows better, cannot be
seen in the log. A replica is named by its nonce, which begins the ids of its allocations, so that each of its lives is another one.
"""

from collections.abc import Callable, Iterator, Mapping

from commonplace.core.codec import decode
from commonplace.core.records.claims import Claim, Release
from commonplace.core.records.decisions import Decision
from commonplace.sim.answers import Answers, parse
from commonplace.sim.findings import Findings, Place
from commonplace.sim.model import FAR_MS, Host
from commonplace.sim.seen import Seen


class Owners:
    """Replicas as the world knows them."""

    def __init__(self, seen: Seen, findings: Findings, answers: Answers, find: Callable[[str], Host | None]) -> None:
        self._seen, self._findings, self._answers, self._find = seen, findings, answers, find
        self._records = 0  # counted, so that things can be told before from after
        self._since: dict[str, dict[int, int]] = {}
        """Replica → request partition → how many records stood when it was told."""
        self._serving: dict[str, int] = {}
        self._sent: dict[str, dict[str, int]] = {}  # allocation → name of a replica → its last claim or renewal of it
        # allocation → replica → when its last claim or renewal of it went to an outbox, which may be later
        self._handed: dict[str, dict[str, int]] = {}
        self._froze: dict[str, int] = {}  # replica → when its clock stood still last
        self._given_up: set[str] = set()  # allocations that some owner handed a release for
        self.lapses: dict[str, tuple[int, Place]] = {}  # allocation → when its lapse was reported, and where

    def serves(self, replica: str, positions: Mapping[int, int], ends: Mapping[int, int]) -> None:
        """A replica begins to serve, having read `hosts` to `positions`; `ends` were the ends when it started.

        −1 is no position: what it had read up to there was cut off behind it, and it will start anew once it hears of that.
        """
        self._serving[replica] = self._records
        for partition, end in ends.items():
            if 0 <= positions.get(partition, 0) < end:
                text = f"{replica} serves at {positions.get(partition, 0)} of hosts {partition}, which ended at {end} when it started"
                self._findings.violated(7, text, ("hosts", partition, end - 1))

    def assigned(self, replica: str, partition: int) -> None:
        """A replica was told that a request partition is its own."""
        self._since.setdefault(replica, {})[partition] = self._records

    def lost(self, replica: str, partition: int | None = None) -> None:
        """A replica was told that a request partition, or every one, is its own no more; or it is gone."""
        if partition is None:
            self._since.pop(replica, None)
        else:
            self._since.get(replica, {}).pop(partition, None)

    def claimed(self, claim: Claim) -> None:
        """A claim or a renewal stands in the log."""
        self._records += 1
        for allocation in claim.allocations:
            self._sent.setdefault(allocation.id, {})[claim.replica] = self._records

    def claims(self, replica: str, allocation: str) -> None:
        """A replica hands a claim or a renewal to its outbox."""
        self._handed.setdefault(allocation, {})[replica] = self._records

    def froze(self, replica: str) -> None:
        """A replica's clock stands still for a while."""
        self._records += 1
        self._froze[replica] = self._records

    def releases(self, value: bytes) -> None:
        """A replica hands a release to its outbox."""
        record = parse(value)
        if isinstance(record, Release):
            self._given_up.add(record.allocation)

    # -- decisions ------------------------------------------------------------------------------------------------------------------

    def decides(self, replica: str, partition: int, value: bytes, now_ms: int, *, again: bool = False) -> None:
        """A replica hands a decision to its outbox; `again`: one that was written before."""
        if partition not in self._since.get(replica, ()):
            self._findings.violated(7, f"{replica} decides on requests {partition}, which it knows not to be its own")
        record = None if again else decode("decisions", value)
        if isinstance(record, Decision) and record.result == "placed":
            for placed in record.placed:
                host = self._find(placed.host)
                if host is not None and not host.blind and self._told(replica, placed.allocation):
                    self._surely_held(replica, record, host, placed.allocation, now_ms)

    def _told(self, replica: str, allocation: str) -> bool:
        """Whether a replica can know what became of a lease: nothing about it was lost, and its clock ran on since its claim or renewal.

        Else the ledger's answer to the confirm is what counts.
        """
        lost = self._answers.unfound, self._seen.lost_claims, self._seen.gapped
        if any(allocation in some for some in lost):
            return False
        return self._handed.get(allocation, {}).get(replica, FAR_MS) >= self._froze.get(replica, 0)

    def _surely_held(self, replica: str, record: Decision, host: Host, identity: str, now_ms: int) -> None:
        """A replica answers only while it knows that the lease runs: by its own claim or renewal of this life."""
        says, here = f"{replica} answers {record.request} with {identity}", ("hosts", host.partition, host.offset)
        held, lease = host.held.get(identity), host.leases.get(identity)
        if held is None:
            if identity in self.lapses:
                self._findings.violated(3, f"{says}, which {host.name} holds no more", here)
        elif held.state == "leased":
            sent = self._sent.get(identity, {}).get(record.replica, -1)
            if sent <= self._serving.get(replica, -1) and not identity.startswith(f"{replica}-"):
                self._findings.violated(
                    3,
                    f"{says}, which it neither claimed nor renewed: its lease on {host.name} is not its to know",
                    here,
                )
            elif lease is not None and lease.latest_ms < now_ms:
                self._findings.violated(
                    3, f"{says}, whose lease on {host.name} ran out {now_ms - lease.latest_ms} ms ago", here
                )

    # -- the end --------------------------------------------------------------------------------------------------------------------

    def settle(self, calm_ms: int) -> None:
        """A loser that lapses in a calm, though whoever claimed it still owns its request and knows the decision, was never released."""
        if self._answers.windowless:
            return  # decisions may be forgotten by the log time that they have
        for identity, (at_ms, here) in self.lapses.items():
            replica = identity.rpartition("-")[0]
            if at_ms < calm_ms or identity in self._given_up or replica not in self._since:
                continue
            for key, offset, decided_ms in self._decisions_on(identity):
                claim, _ = self._answers.claims[identity]
                if self._answers.old(decided_ms, at_ms - claim.lease_ms):
                    continue  # it was granted when its decision may have been forgotten
                since = self._since[replica].get(key[0])
                sent = self._sent.get(identity, {})
                # what was in an outbox when it lost the partition may stand there only once it owns it again
                handed = max(self._handed.get(identity, {}).values(), default=self._records)
                asked = min(handed, *sent.values()) if sent else -1
                if since is not None and since < asked and decided_ms < calm_ms:
                    text = f"{replica} claimed {identity} for {key[1]} and owns it still, and let it lapse: the decision does not name it"
                    self._findings.violated(2, text, here, ("decisions", key[0], offset))

    def _decisions_on(self, identity: str) -> Iterator[tuple[tuple[int, str], int, int]]:
        """The effective decision on the request of an allocation that it does not name, if there is just one."""
        claim, _ = self._answers.claims.get(identity, (None, None))
        if claim is None or claim.request in self._answers.anew:
            return
        effective = self._answers.by_request.get(claim.request, [])
        if len(effective) == 1 and identity not in effective[0].placed:
            key = effective[0].key
            if key not in self._answers.undone and key not in self._answers.lost:
                yield key, effective[0].offset, effective[0].at_ms
