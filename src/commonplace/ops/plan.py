"""Plans: requests decided on a copy of the live state, or of a past or supposed one, without a claim being sent.

The digest of a plan stands for what it rests on: flavor and profile of each request, the hosts it would use, and the state they are in.
Whatever changes elsewhere leaves it as it is.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from commonplace.agent.shapes import Shape
from commonplace.core.codec import encode
from commonplace.core.complaints import complaint
from commonplace.core.explaining import Table, table, wishes_of
from commonplace.core.hashing import digest64
from commonplace.core.records.decisions import Decision
from commonplace.core.records.requests import Build
from commonplace.core.replica_events import ReplicaSettings
from commonplace.core.room import divisible, room
from commonplace.errors import StateChanged, UsageError
from commonplace.ops import plan_copy, plan_drain
from commonplace.ops.plan_copy import Copy
from commonplace.ops.plan_trial import Trial
from commonplace.settings import Settings

FILL_MAX: Final = 200_000
"""Most instances one fill places: about a minute of work."""

REQUESTS_MAX: Final = 10_000
"""Most requests one plan decides."""

EXPLAINED_MAX: Final = 20
"""Refused requests that are explained in full."""


class Supposed(Struct, frozen=True, kw_only=True):
    """What a plan supposes: hosts gone, hosts added, hosts emptied, a profile for every request, a moment past (`--at` as written)."""

    without: tuple[str, ...] = ()
    add: tuple[Shape, ...] = ()
    drain: tuple[str, ...] = ()
    profile: str = ""
    at: str = ""


class Place(Struct, frozen=True):
    """Where an instance would go."""

    instance: str
    host: str


class Answer(Struct, frozen=True, kw_only=True):
    """What would become of one request. `fits` of the `count` asked for; of a fill, `hosts` has how many on each host instead."""

    request: str
    flavor: str
    count: int
    fits: int
    result: str
    message: str = ""
    placed: list[Place] = []
    hosts: dict[str, int] = {}
    table: Table | None = None


class Plan(Struct, frozen=True, kw_only=True):
    """A plan's answers, and the state it was made on: positions on `hosts`, digest of what it rests on, the log time it is of."""

    pool: str
    digest: str
    hosts: int
    log_time_ms: int
    positions: dict[str, int]
    answers: list[Answer]
    notes: list[str] = []

    @property
    def fits(self) -> bool:
        """Whether everything asked for would be placed."""
        return all(answer.fits == answer.count for answer in self.answers)


def plan(settings: Settings, builds: Sequence[Build], supposed: Supposed = Supposed(), fill: bool = False) -> Plan:  # noqa: B008 - frozen
    """Decide requests on a copy of the pool's state, one after another; with `fill` as many instances of each as there is room for.

    Reads the pool's topics and writes nothing. Raises `UsageError` for what cannot be meant.
    """
    now = plan_copy.read(settings)
    copy = now
    if supposed.at:
        copy = plan_copy.read(settings, plan_copy.moment_of(settings, supposed.at, now.partitions, now.now_ms))
    names = [*supposed.without, *supposed.drain]
    plan_copy.names_known(copy, names)
    plan_copy.flavors_known(settings.topics.pool, (now, copy), [build.flavor for build in builds])
    bounds = bounds_of(settings)
    positions = {f"hosts/{partition}": end for partition, end in copy.ends.items()}
    notes = _notes(settings, copy)
    wanted = [_numbered(build, number, supposed.profile) for number, build in enumerate(builds, 1)]
    named = [build.id for build in builds]
    if supposed.drain:
        moved = plan_drain.moves(settings, copy, Trial(copy, bounds).replica, supposed.drain, supposed.profile)
        wanted, named = [*moved.builds, *wanted], [*moved.instances, *named]
        notes += moved.notes
    for name in names:
        copy.without(name)
    copy.add(supposed.add)
    trial = Trial(copy, bounds)
    answers = _filled(trial, wanted, named) if fill else _placed(trial, wanted, named)
    return Plan(
        pool=settings.topics.pool,
        digest=digest(trial, wanted, answers),
        hosts=sum(not row.host.removed for row in trial.replica.view.by_index),
        log_time_ms=copy.now_ms,
        positions=positions,
        answers=answers,
        notes=notes,
    )


def check(settings: Settings, build: Build, expected: str) -> None:
    """Raise `StateChanged` unless a plan for this request has the digest `expected` still."""
    found = plan(settings, [build]).digest
    if found != expected:
        raise StateChanged(
            f"plan {expected}: the state that it rests on has moved, the digest is {found} now: nothing was submitted; plan again"
        )


def bounds_of(settings: Settings) -> ReplicaSettings:
    """A replica's settings, as far as they decide what goes where."""
    s = settings.scheduler
    return ReplicaSettings(
        pool=settings.topics.pool,
        mode=s.mode,
        liveness_timeout_ms=int(s.liveness_timeout_s * 1000),
        attempts_max=s.attempts_max,
    )


def builds_of(text: str, where: str) -> list[Build]:
    """Requests as written: a JSON object, a list of them, or one a line, `id` and `type` optional; UsageError says which is wrong."""
    found = []
    for number, item in enumerate(_objects(text, where), 1):
        if not isinstance(item, dict):
            raise UsageError(f'{where}: request {number} is no object: write one as in {{"flavor": "m1.small"}}')
        try:
            found.append(msgspec.convert({"type": "build", "id": f"plan-{number}", **item}, Build))
        except msgspec.ValidationError as error:
            raise UsageError(f"{where}: request {number}: {complaint(str(error))}") from error
    if not 1 <= len(found) <= REQUESTS_MAX:
        raise UsageError(f"{where}: {len(found)} requests: a plan takes 1 to {REQUESTS_MAX}")
    return found


def _objects(text: str, where: str) -> list[Any]:
    lines = [line for line in text.splitlines() if line.strip()]
    try:
        try:
            whole = msgspec.json.decode(text)
            return whole if isinstance(whole, list) else [whole]
        except msgspec.DecodeError as error:
            if len(lines) < 2:
                raise UsageError(f"{where}: no JSON: {error}") from error
        return [msgspec.json.decode(line) for line in lines]
    except RecursionError:
        raise UsageError(f'{where}: nested too deep: write requests as in {{"flavor": "m1.small"}}') from None
    except msgspec.DecodeError as error:
        raise UsageError(f"{where}: neither JSON nor JSON lines: {error}") from error


# --- the state ---------------------------------------------------------------------------------------------------------


def _notes(settings: Settings, copy: Copy) -> list[str]:
    if copy.moment is None:
        return []
    kept_s = 2 * settings.agent.snapshot_interval_s
    return [
        f"a past is exact for about the last {kept_s / 60:g} min: `hosts` is compacted, and what later reports replaced may be gone"
    ]


def _numbered(build: Build, number: int, profile: str) -> Build:
    """The request under an id of its place in the plan, so that the same plan breaks ties alike whatever the ids were."""
    return replace(build, id=f"plan-{number}", profile=profile or build.profile, deadline_ms=0, lease_ms=0)


# --- answers -----------------------------------------------------------------------------------------------------------


def _placed(trial: Trial, builds: Sequence[Build], names: Sequence[str]) -> list[Answer]:
    answers: list[Answer] = []
    explained = 0
    for build, name in zip(builds, names, strict=True):
        (decision,) = trial.place([build])
        refused = decision.result != "placed"
        explained += refused
        answers.append(_answer(trial, build, name, decision, refused and explained <= EXPLAINED_MAX))
    return answers


def _answer(trial: Trial, build: Build, name: str, decision: Decision, explain: bool) -> Answer:
    return Answer(
        request=name,
        flavor=build.flavor,
        count=build.count,
        fits=len(decision.placed),
        result=decision.result,
        message=decision.message + _one_by_one(trial, build, decision),
        placed=[Place(_named(one.instance, build.id, name), one.host) for one in decision.placed],
        table=_table(trial, build) if explain and decision.result == "no_valid_host" else None,
    )


def _one_by_one(trial: Trial, build: Build, decision: Decision) -> str:
    """How many of a refused request's instances there is room for, where division tells."""
    if decision.result != "no_valid_host" or build.count == 1 or build.group:
        return ""
    wishes = wishes_of(trial.replica.catalog, build)
    if isinstance(wishes, str) or not divisible(trial.replica.view, wishes):
        return ""
    return f"; {min(build.count, int(room(trial.replica.view, wishes).sum()))} of them would fit one by one"


def _named(instance: str, planned: str, name: str) -> str:
    """An instance's name under the request's own id."""
    return name + instance.removeprefix(planned) if instance.startswith(f"{planned}.") else instance


def _filled(trial: Trial, builds: Sequence[Build], names: Sequence[str]) -> list[Answer]:
    answers = []
    for build, name in zip(builds, names, strict=True):
        found = trial.fill(build, FILL_MAX)
        refusal = found.refusal
        answers.append(
            Answer(
                request=name,
                flavor=build.flavor,
                count=found.count or build.count,
                fits=found.count,
                result="placed" if found.count else refusal.result if refusal else "no_valid_host",
                message=refusal.message if refusal is not None else f"stopped at {FILL_MAX}",
                hosts=found.hosts,
                table=_table(trial, build) if refusal is not None and refusal.result == "no_valid_host" else None,
            )
        )
    return answers


def _table(trial: Trial, build: Build) -> Table:
    return table(trial.replica.view, trial.replica.catalog, build, best=0)


# --- digest ------------------------------------------------------------------------------------------------------------


def digest(trial: Trial, builds: Sequence[Build], answers: Iterable[Answer]) -> str:
    """Digest of what a plan rests on, 16 hex digits: the same while flavors, profiles and the hosts it would use stay as they were."""
    catalog = trial.replica.catalog
    parts: list[str] = []
    for build, answer in zip(builds, answers, strict=True):
        flavor = catalog.flavors.get(build.flavor)
        profile = catalog.profiles.get(build.profile or (flavor.profile if flavor else ""))
        parts += [encode(one).decode() if one is not None else "unknown" for one in (flavor, profile)]
        parts.append(f"{answer.result} {answer.fits}")
        hosts = [*answer.hosts, *(one.host for one in answer.placed)]
        for host in sorted(set(hosts)):
            row = trial.replica.view.rows[host]
            groups = sorted(one.name for one in catalog.aggregates.of(row))
            parts.append(f"{host} {trial.before[host]} {catalog.aggregates.zone(row)} {groups}")
    return f"{digest64(chr(10).join(parts).encode()):016x}"
