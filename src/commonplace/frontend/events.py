"""What a session is told, and what it wants done: the words between the pure state machine and whoever performs it."""

from collections.abc import Sequence
from enum import Enum

from msgspec import Struct

from commonplace.core.records.decisions import Decision
from commonplace.core.records.requests import Build

Rows = Sequence[tuple[int, int, bytes | None, bytes | None]]
"""Records of one partition in log order: offset, log time in ms, key, value."""


class Why(Enum):
    """Kinds of refusal, for whoever turns them into exceptions and exit codes."""

    INVALID = "invalid"
    OVERLOADED = "overloaded"
    LATE = "late"
    TIMED_OUT = "timed out"
    NOT_SENT = "not sent"


class Refusal(Struct, frozen=True, gc=False):
    """Why there is no decision, in one line for a person."""

    why: Why
    message: str


# --- events ------------------------------------------------------------------------------------------


class ControlRead(Struct, gc=False):
    """Records of `control` in log order; flavors and routing are taken, the rest is left to others."""

    rows: Rows


class Submit(Struct, gc=False):
    """A build request; `token` is the caller's name for this submit.

    `held`: the id may have been submitted before, so nothing is sent until `Looked` brings what stands in the log.
    `routed`: the caller chose this pool, whatever the flavor's route says: the request stands here already.
    """

    build: Build
    token: int
    timeout_ms: int
    held: bool = False
    routed: bool = False
    trace: str = ""
    """Trace context to send beside it (traceparent.py), "" for none."""


class Looked(Struct, gc=False):
    """The decisions on a held request's partition, from before its first submit to where `DecisionsRead` went on from this one.

    `token` is that of the `LookBack`: another submit of the request, after that one was given up, is no wiser for it.
    """

    request: str
    rows: Rows
    token: int


class Withdraw(Struct, gc=False):
    """Cancel a request; `flavor`, and `group` where that is serialised, are needed where this session does not know the request."""

    request: str
    token: int
    flavor: str = ""
    group: str = ""


class AskConfirm(Struct, gc=False):
    """Confirm what an effective decision placed, or those of its allocations that are named."""

    decision: Decision
    token: int
    allocations: tuple[str, ...] = ()


class AskRelease(Struct, gc=False):
    """Give back what a decision placed, or those of its allocations that are named."""

    decision: Decision
    token: int
    allocations: tuple[str, ...] = ()


class Sent(Struct, gc=False):
    """The log holds the records of these tokens; a decision may have come before."""

    tokens: Sequence[int]


class SendFailed(Struct, gc=False):
    """The record of this token was not acknowledged."""

    token: int
    error: str


class DecisionsRead(Struct, gc=False):
    """A batch of one partition of `decisions`, in log order."""

    partition: int
    rows: Rows


class Tick(Struct, gc=False):
    """Time has passed."""


Event = ControlRead | Submit | Looked | Withdraw | AskConfirm | AskRelease | Sent | SendFailed | DecisionsRead | Tick

# --- effects ------------------------------------------------------------------------------------------


class SendRequest(Struct, gc=False):
    """Write to `requests`, beside the trace context."""

    partition: int
    key: bytes
    value: bytes
    token: int
    trace: str = ""


class LookBack(Struct, gc=False):
    """Read the decisions on this partition from before the request's first submit, and bring them as `Looked`."""

    partition: int
    request: str
    token: int


class SendClaimRecord(Struct, gc=False):
    """Write a confirm or a release to `claims`."""

    partition: int
    key: bytes
    value: bytes
    token: int
    allocation: str


class Answer(Struct, gc=False):
    """What became of the submit (or confirm, release, cancel) of this token."""

    token: int
    answer: Decision | Refusal


class Quarantine(Struct, gc=False):
    """A record on `decisions` under one of our keys that can't be used."""

    partition: int
    offset: int
    reason: str
    key: bytes
    value: bytes


Effect = SendRequest | LookBack | SendClaimRecord | Answer | Quarantine
