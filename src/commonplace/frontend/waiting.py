"""A request that has no answer yet, and which decision answers it: one about its content, read before its time is over."""

from msgspec import Struct

from commonplace.core.codec import Bad, decode
from commonplace.core.records.decisions import ID_REUSED, Decision
from commonplace.core.records.requests import Build
from commonplace.core.requests import digest_of
from commonplace.frontend.checks import shown
from commonplace.frontend.events import Refusal, Why


class Waiting(Struct, gc=False):
    """A request that has no answer yet."""

    build: Build
    key: bytes
    value: bytes
    partition: int
    tokens: list[int]
    submitted_ms: int
    until_ms: int
    held: bool
    content: str = ""
    """Digest of the request, once it was needed."""
    acknowledged: bool = False
    early: Decision | None = None
    """Read while held: effective unless the history has an earlier one."""
    trace: str = ""


def content_of(waiting: Waiting) -> str:
    """The digest of the request, made once."""
    if not waiting.content:
        waiting.content = digest_of(waiting.value)
    return waiting.content


def decision_of(key: bytes, value: bytes | None) -> Decision | Bad:
    """The decision that stands under a request's key, or what is wrong with it."""
    if value is None:
        return Bad("a decision is never deleted")
    decision: Decision | Bad = decode("decisions", value)
    if isinstance(decision, Decision) and decision.request.encode(errors="replace") != key:
        return Bad(f"key {shown(key.decode(errors='replace'))} names another request than the record")
    return decision


def answers(decision: Decision, waiting: Waiting) -> bool:
    """Whether a decision is about this content; `id_reused` must name it, the others only may."""
    if decision.reason == ID_REUSED or decision.content:
        return decision.content == content_of(waiting)
    return True


def too_slow(waiting: Waiting, now_ms: int) -> Refusal:
    """What to say where no decision came in time."""
    state = "it stands in the log" if waiting.acknowledged else "the broker has not acknowledged it"
    message = (
        f"no decision for {waiting.build.id} within {(now_ms - waiting.submitted_ms) / 1000:.1f} s ({state}): see that "
        "a scheduler runs, and ask again with the same id; what was granted meanwhile lapses"
    )
    return Refusal(Why.TIMED_OUT, message)
