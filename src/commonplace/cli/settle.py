"""What `confirm` and `release` have in common: finding what was meant, and telling what became of it."""

from typing import TYPE_CHECKING, Final, Literal

from commonplace.cli import common
from commonplace.cli.output import emit, say
from commonplace.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from commonplace.core.records.decisions import Decision
    from commonplace.frontend.lookup import Entry
    from commonplace.frontend.moving import Source
    from commonplace.frontend.settling import Outcome
    from commonplace.settings import Settings

WORDS: Final = {"Confirmed": "confirmed", "TooLate": "too late", "Released": "released"}


def settle(what: Literal["confirm", "release"], names: list[str], timeout: float | None) -> int:
    """Confirm or release every request or allocation named (a unique prefix will do), and wait for the hosts' answers."""
    from commonplace.frontend import Frontend

    found = [_meant(what, name) for name in names]
    outcomes: list[Outcome] = []
    for pool in dict.fromkeys(settings.topics.pool for settings, _, _ in found):
        there = [one for one in found if one[0].topics.pool == pool]
        with Frontend(there[0][0]) as frontend:
            call = frontend.confirm if what == "confirm" else frontend.release
            for _, decision, allocations in there:
                outcomes += call(decision, *allocations, wait=True, timeout=timeout)
    return _told(outcomes)


def find_entry(name: str) -> "tuple[Settings, Entry]":
    """What a name means, with the settings of its pool: the one named with --pool, else the first that knows it."""
    from commonplace.frontend.lookup import find, find_anywhere

    settings = common.settings()
    return (settings, find(settings, name)) if common.pool_given() else find_anywhere(settings, name)


def find_entry_or_held(name: str) -> "tuple[Settings, Entry | Source]":
    """As `find_entry`, and where the log has nothing of that very name, what hosts hold under it: that outlives the log."""
    from commonplace.frontend.lookup import NothingFound

    try:
        settings, entry = find_entry(name)
    except NothingFound:
        return _held(name)
    placed = entry.decision.placed if entry.decision else []
    if (name == entry.request and (entry.build or entry.decision)) or any(name == p.allocation for p in placed):
        return settings, entry
    try:
        there, source = _held(name)
    except UsageError:
        return settings, entry
    whole = {source.decision.request, *(p.instance for p in source.placed), *(p.allocation for p in source.placed)}
    return (there, source) if name in whole else (settings, entry)


def _held(name: str) -> "tuple[Settings, Source]":
    from commonplace.kafka.topics import pools
    from commonplace.ops.held import find_held

    settings = common.settings()
    given = common.pool_given()
    there = {given: settings} if given else pools(settings)
    source, _ = find_held(there.values(), name)
    return there[source.pool], source


def _meant(what: Literal["confirm", "release"], name: str) -> "tuple[Settings, Decision, list[str]]":
    """The decision that `name` means, in its pool, and which of its allocations: none named, hence all."""
    from commonplace.frontend.moving import Source

    # what is old enough to have left the log can't be confirmed any more, only released
    settings, found = find_entry(name) if what == "confirm" else find_entry_or_held(name)
    if isinstance(found, Source):
        return settings, found.decision, []
    if found.decision is None:
        raise UsageError(f"request {found.request} has no decision yet: there is nothing to {what}")
    return settings, found.decision, _allocations(found, name)


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
