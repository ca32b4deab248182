"""Exit codes and the typed errors that carry them.

Every operating error that a person can act on is a `CommonplaceError`: one line that says what was wrong, where, and
what to do. The command line prints that line and ends with the error's exit code; a traceback is always a bug.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """How a command ended; documented, so scripts and supervisors may rest on the numbers."""

    OK = 0
    ERROR = 1
    USAGE = 2
    NO_VALID_HOST = 3
    STATE_CHANGED = 4
    TIMED_OUT = 5
    NOT_READY = 6
    DENIED = 7
    VIOLATED = 8


class CommonplaceError(Exception):
    """An operating error: `str(error)` is one line for a person, `exit_code` what the process ends with."""

    exit_code = ExitCode.ERROR


class UsageError(CommonplaceError):
    """What the person typed cannot be meant: unknown name, bad value, flags that exclude each other."""

    exit_code = ExitCode.USAGE


class SettingsError(UsageError):
    """A settings file or variable is unreadable, or names an unknown key or an impossible value."""


class NoValidHost(CommonplaceError):
    """The request was decided: no host can take it."""

    exit_code = ExitCode.NO_VALID_HOST


class StateChanged(CommonplaceError):
    """What the command rested on is no longer so (allocation lapsed, plan outdated); look again, then retry."""

    exit_code = ExitCode.STATE_CHANGED


class TimedOut(CommonplaceError):
    """No answer came in time; whether the work was done is unknown."""

    exit_code = ExitCode.TIMED_OUT


class NotReady(CommonplaceError):
    """Something this command needs is not there yet, or there is nothing to check."""

    exit_code = ExitCode.NOT_READY


class BrokerUnavailable(NotReady):
    """No broker answers at the bootstrap address."""


class TopicsNotReady(NotReady):
    """A topic is missing, or one of its settings breaks a rule of the protocol."""


class Denied(CommonplaceError):
    """The broker's ACLs or a rule of the protocol refuse this."""

    exit_code = ExitCode.DENIED


class Fenced(CommonplaceError):
    """A later incarnation of this host's agent took over; supervisors must not restart the fenced one."""

    exit_code = ExitCode.DENIED


class InvariantViolated(CommonplaceError):
    """The audit found facts that break an invariant."""

    exit_code = ExitCode.VIOLATED
