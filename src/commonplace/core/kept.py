"""One host as its agent keeps it, and how it starts: replay of its past, the ledger that follows, where its claims go on."""

from collections import deque
from typing import Any, Final

from commonplace.core.codec import decode
from commonplace.core.host_keys import Key
from commonplace.core.hosts import QUARANTINED, HostState, fold
from commonplace.core.keeper_events import ClaimsRange, Effect, HostSpec
from commonplace.core.ledger import Ledger
from commonplace.core.ledger_events import Bounds
from commonplace.core.records.hosts import Start

STARTING: Final = "starting"
RESUMING: Final = "resuming"
OPENING: Final = "opening"
SERVING: Final = "serving"
FENCED: Final = "fenced"
REFUSED: Final = "refused"

UNREAD_SNAPSHOTS_MAX: Final = 4
"""Most snapshots held to know them by when they are read back, where deliveries fail: more than a broker that recovers has on the way."""

Sent = tuple[bytes, list[Effect], bool]
"""A report on its way: its bytes, what follows from it once it is read back, whether it is a snapshot."""


class Kept:
    """One host of an agent.

    `past` is what its log says, held while starting. `sent` are the reports not read back. `read_base`: the snapshot that deltas rest on
    was read back. `outbid`: somebody wrote reports that none of this epoch can follow, and a start record is on its way. `failures` were
    not delivered, one after another with nothing read back between; before `resend_ms` nothing is written anew for another.
    `old_epochs` still have keys in the log, `bad_keys` hold records that nothing good replaced. `running` are the allocations whose
    instances the driver was told of.
    """

    __slots__ = (
        "bad_keys",
        "failures",
        "lapse_phase",
        "ledger",
        "nonce",
        "old_epochs",
        "outbid",
        "partition",
        "past",
        "phase",
        "read_base",
        "resend_ms",
        "running",
        "sent",
        "snapshot_due_ms",
        "spec",
        "told_ms",
    )

    def __init__(self, spec: HostSpec, partition: int) -> None:
        self.spec, self.partition = spec, partition
        self.phase = STARTING
        self.nonce = ""
        self.past: HostState | None = HostState(spec.name)
        self.ledger: Ledger | None = None
        self.old_epochs: set[int] = set()
        self.bad_keys: dict[bytes, str] = {}
        self.sent: deque[Sent] = deque()
        self.read_base = self.outbid = False
        self.running: set[str] = set()
        self.told_ms = self.snapshot_due_ms = self.lapse_phase = 0
        self.failures = self.resend_ms = 0


def forget_oldest(kept: Kept) -> None:
    """Of many snapshots that were not read back the oldest go, with what was sent before them: what follows from them comes with the next.

    One that stands in the log all the same is then met as if somebody else had written it, and answered with a snapshot.
    """
    unread = sum(is_snapshot for _, _, is_snapshot in kept.sent)
    while unread > UNREAD_SNAPSHOTS_MAX:
        _, follows, is_snapshot = kept.sent.popleft()
        kept.sent[0][1][:0] = follows
        unread -= is_snapshot


def is_own_start(kept: Kept, key: Key, value: bytes | None) -> bool:
    """Whether a record is the start record that this agent wrote for the host."""
    if key.kind != "start" or value is None:
        return False
    record: Any = decode("hosts", value)
    return isinstance(record, Start) and record.nonce == kept.nonce


def replay(kept: Kept, parsed: Key, offset: int, log_time_ms: int, key: bytes, value: bytes | None) -> None:
    """Fold one record of the host's past; what can't be used is remembered until something good replaces it.

    A start record without reports takes nothing from the past: what the epoch before it still reported is void for readers, but
    compaction keeps just that, the last record of a key, and nothing of what it replaced (docs/decisions/0008).
    """
    past = kept.past
    assert past is not None, f"host {kept.spec.name} is {kept.phase}"
    if parsed.kind == "start" and value is not None and _is_plain_start(value):
        return
    if parsed.kind != "start":
        (kept.old_epochs.discard if value is None else kept.old_epochs.add)(parsed.epoch)
        if parsed.epoch >= offset:
            return  # of a topic before this one, or garbage: under such a key nothing good can have stood
    before = (past.epoch, past.generation)
    outcome, reason = fold(past, parsed, offset, log_time_ms, value)
    if outcome == QUARANTINED or (reason and past.version):
        kept.bad_keys[key] = f"offset {offset}: {reason}"
    elif value is None or past.removed:
        kept.bad_keys.clear() if past.removed else kept.bad_keys.pop(key, None)
    elif (past.epoch, past.generation) != before and parsed.kind != "start":
        if past.stale:
            kept.bad_keys[key] = f"offset {offset}: {past.stale}"
        elif parsed.kind == "snapshot":
            kept.bad_keys.clear()
        else:
            kept.bad_keys.pop(key, None)


def _is_plain_start(value: bytes) -> bool:
    """Whether it is a start record that an agent wrote, or a fence; not one that says the host was forgotten."""
    record: Any = decode("hosts", value)
    return isinstance(record, Start) and not record.removed


def incomplete(kept: Kept) -> str:
    """Why a ledger that goes on from the host's past might miss something, or ""."""
    if not kept.bad_keys:
        return ""
    key, reason = next(iter(kept.bad_keys.items()))
    return (
        f"its ledger may be incomplete: record under key {ascii(key.decode(errors='replace'))[1:-1]} is bad ({reason})"
    )


def recovered(kept: Kept, epoch: int, log_time_ms: int, now_ms: int, bounds: Bounds) -> Ledger:
    """The ledger of the epoch that begins at the start record `epoch`: from the last report, or empty where there is none."""
    past, kept.past = kept.past, None
    if past is not None and kept.old_epochs and not past.removed:
        return Ledger.recover(past, epoch, log_time_ms, now_ms, bounds)
    return Ledger(kept.spec.name, epoch, log_time_ms, "", -1, bounds)


def resume(ledger: Ledger, at: ClaimsRange) -> str:
    """Set where the ledger's claims go on; returns what an operator must see, or ""."""
    alarm = ""
    ledger.claims_end_at_start = at.high
    if not ledger.claims_topic:
        ledger.claims_through = at.high - 1  # a new host: nobody can have claimed it
    elif ledger.claims_topic != at.topic_id:
        alarm = "the claims topic was made anew: reading from its start"
        ledger.claims_through = at.low - 1
    elif ledger.claims_through >= at.high:
        alarm = "its watermark lies beyond the end of the claims: reading from their start"
        ledger.claims_through = at.low - 1
    elif at.low > ledger.claims_through + 1:
        alarm = f"claims {ledger.claims_through + 1} to {at.low - 1} have expired: what it holds stays held, gap"
        ledger.assume_active()
        ledger.claims_through = at.low - 1
    ledger.claims_topic = at.topic_id
    return alarm
