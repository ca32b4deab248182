"""Planted bugs: each takes one sentence of the protocol out of the running core, and the checkers must notice.

A bug is a patch that holds while its context does; it lives in the simulator's process only. Nothing in shipped paths knows of it.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from msgspec import Struct

from commonplace.sim import planted_agents, planted_replicas
from commonplace.sim.patches import Patch


class Bug(Struct, frozen=True):
    """One planted bug: its number in the list that this follows (from 40 on our own), what it breaks, and the patch."""

    number: int
    name: str
    breaks: str
    patch: Callable[[Patch], None]
    profiles: tuple[str, ...] = ("swarm",)


_A, _R = planted_agents, planted_replicas

BUGS: Final = (
    Bug(1, "decided before the grant", "A decision is written once the claim is delivered, before a report shows the grant.", _R.decide_at_delivery),
    Bug(2, "expected hash ignored", "The ledger grants a strict claim on whatever state it finds.", _A.ignore_expected),
    Bug(3, "reserved share given away", "Capacity is counted without the reserved share, by everybody.", _A.ignore_reserved),
    Bug(4, "delta on another base", "A reader applies a delta on whatever snapshot it holds.", _R.ignore_base),
    Bug(5, "incremental delta", "A delta tells what changed since the delta before, and not since the snapshot.", _A.incremental_delta),
    Bug(6, "one key for snapshot and delta", "Deltas stand under the key of their snapshot, so that compaction takes it.", _A.share_key),
    Bug(7, "served before caught up", "A replica serves before it has read the hosts to the ends captured at its start.", _R.serve_early),
    Bug(8, "committed before acknowledged", "The offset of a request is committed once its decision is sent.", _R.commit_when_sent),
    Bug(9, "loser not released", "What an effective decision of another replica does not name stays until it lapses.", _R.release_no_loser),
    Bug(10, "lease by the replica's clock", "A lease ends when the clock of the replica that claimed says so.", _A.lease_by_replica_clock),
    Bug(11, "lapse not told", "A lapsed allocation is gone from the report, and no settled entry says why.", _A.lapse_in_silence),
    Bug(12, "epoch of another agent", "An agent takes any start record for its own.", _A.any_start_is_mine),
    Bug(13, "delta forgotten at restart", "A starting agent goes on from the snapshot alone.", _A.forget_delta),
    Bug(14, "claims from the end", "A starting agent resumes its claims at their end.", _A.resume_at_end),
    Bug(15, "watermark ahead", "A report says that claims are taken which the ledger takes only after it.", _A.watermark_ahead),
    Bug(16, "size not hashed", "An allocation's hash leaves its resources out, everywhere.", _A.hash_without_size),
    Bug(17, "confirm changes the hash", "The ledger hashes whether an allocation is confirmed.", _A.hash_with_state),
    Bug(18, "decisions forgotten on takeover", "A new owner drops the decisions that it read before it serves.", _R.forget_history),
    Bug(19, "old epoch accepted", "Readers compare generations only.", _A.accept_old_epochs),
    Bug(20, "overlay left behind", "A rejected claim stays laid over its host.", _R.keep_overlay),
    Bug(21, "removal ignored", "Tombstones and the mark of a removed host change nothing for those who read them.", _A.ignore_removal),
    Bug(22, "anti-affinity only ranked", "The ledger does not check how many of a group it holds.", _A.ignore_group_max),
    Bug(23, "part of a request kept", "A request that got only some of its instances is answered with those.", _R.place_a_part),
    Bug(24, "away past the tombstones", "A replica that was away for longer than tombstones last goes on as if nothing was.", _R.never_stale),
    Bug(25, "winner swept", "Losers are told by one's own decision, not by the effective one.", _R.sweep_the_winner),
    Bug(26, "claims before the first snapshot", "A starting agent takes claims before it has read back its first snapshot.", _A.serve_before_read_back),
    Bug(27, "watermark of another topic", "A starting agent keeps its watermark although the claims topic was made anew.", _A.keep_watermark),
    Bug(28, "wrong hash let through", "A reader believes a report whose content does not hash to what it says.", _R.believe_any_hash),
    Bug(29, "start record does not fence", "Readers go on with an epoch although a later start record stands.", _A.no_fence),
    Bug(30, "one key for all epochs", "Snapshots of all epochs stand under one key, deltas under another.", _A.one_key_for_epochs),
    Bug(31, "keys deleted on acknowledgement", "An agent deletes the keys of earlier epochs when its snapshot is acknowledged.", _A.tombstone_when_acknowledged),
    Bug(32, "leased one not renewed", "A redelivered request is answered with a leased allocation as it is found.", _R.answer_unrenewed),
    Bug(33, "lapse without a look", "A lease lapses without reading the claims to an end captured after it.", _A.lapse_unread),
    Bug(34, "losers released too early", "Losers are released when the decision is sent, not when it was read back.", _R.release_when_sent),
    Bug(35, "decisions read too late", "A new owner reads the decisions from their end.", _R.read_history_late),
    Bug(36, "old claims of a new host", "A host without a report takes the claims from their beginning.", _A.new_host_from_start),
    Bug(37, "expired claims are none", "A starting agent takes claims that retention took for claims that never were.", _A.no_gap),
    Bug(39, "allocation id used again", "A restarted replica counts its allocations from 1 again, under the same nonce.", _R.reuse_ids),
)  # fmt: skip
"""38 is missing: affinity between instances, which it breaks, is not built."""


def bug(number: int) -> Bug:
    """The bug of that number; raises KeyError."""
    return next((bug for bug in BUGS if bug.number == number), None) or _unknown(number)


def _unknown(number: int) -> Bug:
    known = ", ".join(str(bug.number) for bug in BUGS)
    raise KeyError(f"no planted bug {number}: there are {known}")


@contextmanager
def planted(bug: Bug) -> Iterator[None]:
    """Everything that runs inside has the bug."""
    with ExitStack() as stack:
        bug.patch(Patch(stack))
        yield
