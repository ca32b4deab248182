"""Planted bugs: each takes one sentence of the protocol out of the running core, and the checkers must notice.

A bug is a patch that holds while its context does; it lives in the simulator's process only. Nothing in shipped paths knows of it.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from msgspec import Struct

from commonplace.sim import planted_agents, planted_replicas, planted_shapes
from commonplace.sim.patches import Patch


class Bug(Struct, frozen=True):
    """One planted bug: its number, its name, its patch, whose first sentence says what it breaks, and the profile that is to notice it."""

    number: int
    name: str
    patch: Callable[[Patch], None]
    profile: str = "swarm"

    @property
    def breaks(self) -> str:
        return (self.patch.__doc__ or "").strip()


_A, _R, _S = planted_agents, planted_replicas, planted_shapes

BUGS: Final = (
    Bug(1, "decided before the grant", _R.decide_at_delivery),
    Bug(2, "expected hash ignored", _A.ignore_expected),
    Bug(3, "reserved share given away", _A.ignore_reserved),
    Bug(4, "delta on another base", _R.ignore_base),
    Bug(5, "incremental delta", _A.incremental_delta),
    Bug(6, "one key for snapshot and delta", _A.share_key),
    Bug(7, "served before caught up", _R.serve_early),
    Bug(8, "committed before acknowledged", _R.commit_when_sent),
    Bug(9, "loser not released", _R.release_no_loser),
    Bug(10, "lease by the replica's clock", _A.lease_by_replica_clock),
    Bug(11, "lapse not told", _A.lapse_in_silence),
    Bug(12, "epoch of another agent", _A.any_start_is_mine),
    Bug(13, "delta forgotten at restart", _A.forget_delta),
    Bug(14, "claims from the end", _A.resume_at_end),
    Bug(15, "watermark ahead", _A.watermark_ahead),
    Bug(16, "size not hashed", _A.hash_without_size),
    Bug(17, "confirm changes the hash", _A.hash_with_state),
    Bug(18, "decisions forgotten on takeover", _R.forget_history),
    Bug(19, "old epoch accepted", _A.accept_old_epochs),
    Bug(20, "overlay left behind", _R.keep_overlay),
    Bug(21, "removal ignored", _A.ignore_removal),
    Bug(22, "anti-affinity only ranked", _A.ignore_group_max),
    Bug(23, "part of a request kept", _R.place_a_part),
    Bug(24, "away past the tombstones", _R.never_stale),
    Bug(25, "winner swept", _R.sweep_the_winner),
    Bug(26, "claims before the first snapshot", _A.serve_before_read_back),
    Bug(27, "watermark of another topic", _A.keep_watermark),
    Bug(28, "wrong hash let through", _R.believe_any_hash),
    Bug(29, "start record does not fence", _A.no_fence),
    Bug(30, "one key for all epochs", _A.one_key_for_epochs),
    Bug(31, "keys deleted on acknowledgement", _A.tombstone_when_acknowledged),
    Bug(32, "leased one not renewed", _R.answer_unrenewed),
    Bug(33, "lapse without a look", _A.lapse_unread),
    Bug(34, "losers released too early", _R.release_when_sent),
    Bug(35, "decisions read too late", _R.read_history_late),
    Bug(36, "old claims of a new host", _A.new_host_from_start),
    Bug(37, "expired claims are none", _A.no_gap),
    Bug(38, "next of a group too early", _R.call_at_once),
    Bug(39, "allocation id used again", _R.reuse_ids),
    Bug(40, "cpu given twice", _S.give_cpus_twice, "shapes"),
    Bug(41, "cells not hashed", _S.hash_without_cells, "shapes"),
    Bug(42, "numbers forgotten at restart", _S.forget_numbers, "shapes"),
    Bug(43, "what is replaced stays", _S.keep_what_is_replaced, "shapes"),
    Bug(44, "resize claims nothing", _S.claim_nothing_more, "shapes"),
    Bug(45, "shares of a device not kept to", _S.leave_devices_to_chance, "shapes"),
    Bug(46, "half of what is asked for", _R.claim_half),
    Bug(47, "leases four times as long", _A.lease_longer),
    Bug(48, "operators not heeded", _A.heed_no_operator),
    Bug(49, "partition not given up", _R.keep_what_is_lost),
    Bug(50, "bounds of a host only ranked", _A.ignore_bounds),
    Bug(51, "lost decision not written again", _R.say_once),
    Bug(52, "decisions not read after a rebuild", _R.rebuild_without_history),
    Bug(53, "decisions forgotten too soon", _R.forget_too_soon),
)


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
