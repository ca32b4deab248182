"""The answers to requests, and how a refusal explains itself."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from commonplace.core.records.fields import ALTERNATES_MAX, COUNT_MAX, Asked, DurationMs, Offset, Record, Short, Text

Result = Literal["placed", "no_valid_host", "rejected", "expired", "passed"]

ID_REUSED = "id_reused"
"""Reason of a `rejected` that answers another content under a used id; never the effective decision."""

IMPOSSIBLE = "impossible"
"""Reason of a `no_valid_host` that stands whatever becomes free: a host, zone, trait, class or size that the pool does not have."""


class Position(Struct, frozen=True, gc=False):
    """Where a record stands in its topic."""

    partition: Offset
    offset: Offset


class Placed(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One instance of a placed decision; `grant` is the position on `hosts` of the report that shows the grant."""

    index: int = 0
    instance: Short
    host: Short
    allocation: Short
    grant: Position


class Miss(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """The host that came closest, and by what it fell short (`resource` empty: it failed `filter` for another reason).

    `detail` beside a resource: what else it is short of.
    """

    host: Short
    filter: Short
    resource: Short = ""
    needed: int = 0
    had: int = 0
    detail: Text = ""


class Explanation(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """How many hosts were looked at and how many each filter turned away, in the order of the filters.

    `filters` counts a host at the first that turned it away, `without` at the only one: so many would do without that filter.
    `samples` has for each of `filters` the host that lacks least, `positions` the last offset read of each partition of `hosts`.
    """

    evaluated: int
    filters: dict[str, int] = {}
    without: dict[str, int] = {}
    closest: Miss | None = None
    samples: list[Miss] = []
    positions: dict[str, int] = {}


class Decision(Record, tag="decision", kw_only=True, gc=False):
    """The one answer to a request, self-contained. Effective is the first in log order that is no `id_reused`.

    `content` is the digest of the request it answers; `confirm_within_ms` counts from the frontend's submit. `alternates` would have
    taken an instance as well, best first; nothing is claimed on them.
    """

    request: Short
    result: Result
    reason: Short = ""
    message: Text = ""
    content: Short = ""
    position: Position
    replica: Short = ""
    flavor: Short = ""
    count: int = 1
    project: Short = ""
    user: Short = ""
    group: Short = ""
    resources: Asked = {}
    placed: Annotated[list[Placed], Meta(max_length=COUNT_MAX)] = []
    confirm_within_ms: DurationMs = 0
    attempts: int = 0
    conflicts: int = 0
    explanation: Explanation | None = None
    stages_ms: dict[str, float] = {}
    alternates: Annotated[tuple[Short, ...], Meta(max_length=ALTERNATES_MAX)] = ()
