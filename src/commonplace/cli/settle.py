"""What `confirm` and `release` have in common: finding what was meant, and telling what became of it."""

from typing import TYPE_CHECKING, Final, Literal

from commonplace.cli import common
from commonplace.cli.output import emit, say
from commonplace.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from commonplace.frontend.lookup import Entry
    from commonplace.frontend.settling import Outcome
    from commonplace.settings import Settings

WORDS: Final = {"Confirmed": "confirmed", "TooLate": "too late", "Released": "released"}


def settle(what: Literal["confirm", "release"], names: list[str], timeout: float | None) -> int:
    """Confirm or release every request or allocation named (a unique prefix will do), and wait for the hosts' answers."""
    from commonplace.frontend import Frontend

    found = [(*find_entry(name), name) for name in names]
    undecided = [entry.request for _, entry, _ in found if entry.decision is None]
    if undecided:
        raise UsageError(f"request {undecided[0]} has no decision yet: there is nothing to {what}")
    outcomes: list[Outcome] = []
    for pool in dict.fromkeys(settings.topics.pool for settings, _, _ in found):
        there = [one for one in found if one[0].topics.pool == pool]
        with Frontend(there[0][0]) as frontend:
            call = frontend.confirm if what == "confirm" else frontend.release
            for _, entry, name in there:
                assert entry.decision is not None
                outcomes += call(entry.decision, *_allocations(entry, name), wait=True, timeout=timeout)
    return _told(outcomes)


def find_entry(name: str) -> "tuple[Settings, Entry]":
    """What a name means, with the settings of its pool: the one named with --pool, else the first that knows it."""
    from commonplace.frontend.lookup import find, find_anywhere

    settings = common.settings()
    return (settings, find(settings, name)) if common.pool_given() else find_anywhere(settings, name)


def _allocations(entry: "Entry", name: str) -> list[str]:
    """The allocations that `name` means: none named, hence all, where it is the request's id."""
    if entry.request.startswith(name) or entry.decision is None:
        return []
    named = [p.allocation for p in entry.decision.placed if p.allocation.startswith(name)]
    if not named:
        raise UsageError(f"allocation {name} is of a void decision of {entry.request}: it was released or will lapse")
    return named


def _told(outcomes: "list[Outcome]") -> int:
    words = [(o, WORDS[type(o).__name__]) for o in outcomes]
    rows = [{"allocation": o.allocation, "host": o.host, "outcome": word} for o, word in words]
    emit(rows, columns=["allocation", "host", "outcome"], name="allocation")
    late = sum(word == WORDS["TooLate"] for _, word in words)
    if late:
        say(f"{late} of {len(rows)} came too late: the lease had lapsed or it was released; submit under a new id")
    return ExitCode.STATE_CHANGED if late else ExitCode.OK
