"""What a schedule is made of, as data: its bounds, what people do, and what goes wrong. A list of these can be run, shortened and told.

Times are milliseconds from the moment at which the fleet serves. `pick` chooses among whoever is there by its remainder, so that a
schedule stays one when something before it is taken out.
"""

from typing import Any, Final

import msgspec
from msgspec import Struct


class Config(Struct, frozen=True, kw_only=True):
    """Bounds and intervals of one schedule; times in ms, chances in thousandths."""

    hosts: int = 3
    vcpus: int = 8
    reserved: int = 0
    """VCPUs of each host that nobody may have."""
    agents: int = 1
    replicas: int = 2
    frontends: int = 1
    partitions: int = 2
    request_partitions: int = 2
    run_ms: int = 20_000
    latency_ms: int = 10
    partial: int = 100
    """Chance that a reader gets only a part of what is there."""
    skip: int = 100
    """Chance that a reader gets nothing of a partition this time, though there is something."""
    drift: int = 0
    """Largest deviation of a process's clock rate."""
    mode: str = "strict"
    lease_ms: int = 10_000
    lease_margin_ms: int = 2_000
    deadline_ms: int = 8_000
    claim_timeout_ms: int = 2_000
    attempts_max: int = 16
    queue_max: int = 1_000
    claims_in_flight_max: int = 1_000
    decisions_kept_max: int = 100_000
    idempotency_window_ms: int = 900_000
    liveness_ms: int = 30_000
    report_ms: int = 10_000
    """Interval of a replica's cycle reports."""
    session_ms: int = 6_000
    tick_ms: int = 200
    snapshot_ms: int = 20_000
    heartbeat_ms: int = 5_000
    lapse_ms: int = 0
    delta_allocations_max: int = 8
    settled_max: int = 64
    boot_ms: int = 500
    boot_failures: int = 0
    builds_max: int = 8
    instances_max: int = 50
    segment_records: int = 20
    delete_retention_ms: int = 3_600_000
    claims_retention_ms: int = 0
    """0: claims are kept."""
    delivery_timeout_ms: int = 3_000
    racks: int = 0
    """Over so many racks the hosts stand, told by the label `rack`; 0: they tell none."""
    spread: int = 1
    """Over so many keys every flavor spreads its requests."""
    cells: int = 0
    """NUMA cells of each host; 0: it reports none, and what follows says nothing."""
    dedicated: int = 0
    """Dedicated cpus of each cell; −1: the shared ones are for both."""
    threads: int = 1
    """Threads of each dedicated core."""
    huge_pages: int = 0
    """Pages of 2 MB of each cell; 0: it reports no pages."""
    cards: int = 0
    """Devices of each cell."""
    card_shares: int = 1
    apart: bool = False
    """Whether hosts have devices that are near no cell, too."""
    cpu_ratio: int = 1_000
    """How far shared cpus are oversubscribed, in thousandths."""


# --- what people and machines do -------------------------------------------------------------------------------------


class Submit(Struct, frozen=True, kw_only=True, tag="submit"):
    """A request and what its submitter does about the answer; durations count from the answer, −1 is never."""

    at_ms: int
    id: str
    flavor: str = "small"
    count: int = 1
    group: str = ""
    group_max: int = 0
    group_policy: str = ""
    spread_over: str = ""
    max_skew: int = 0
    count_min: int = 0
    lease_ms: int = 0
    deadline_ms: int = 0
    frontend: int = 0
    confirm_ms: int = 0
    release_ms: int = -1
    cancel_ms: int = -1
    """From the submit."""
    again_ms: int = -1
    """From the submit: the same request once more, past the library, as a second submitter would send it."""
    insist: bool = True
    """Whether a submit without an answer is repeated under its id."""
    resizes: str = ""
    """A request whose instance is to have the size of this one, where it is if that is best; placed anew while it stands nowhere."""


class Reuse(Struct, frozen=True, kw_only=True, tag="reuse"):
    """An id that was used before, with another content."""

    at_ms: int
    id: str
    flavor: str
    count: int = 1


class SetFlavor(Struct, frozen=True, kw_only=True, tag="flavor"):
    """An operator sets a flavor; without any cpu it is deleted. The cpus are spread over so many `cells`; 0: lie as they may."""

    at_ms: int
    name: str
    vcpus: int = 1
    memory_mb: int = 1024
    traits: tuple[str, ...] = ()
    spread: int = 0
    """0: as every flavor of the schedule, because to change it under way moves ids to other partitions."""
    pcpus: int = 0
    cells: int = 0
    threads: str = "prefer"
    page_kb: int = 0
    cards: int = 0
    shares: int = 1
    policy: str = "legacy"


class SetStatus(Struct, frozen=True, kw_only=True, tag="status"):
    """An operator enables, disables or drains a host."""

    at_ms: int
    host: int
    status: str


class Retire(Struct, frozen=True, kw_only=True, tag="retire"):
    """A host is drained, its agent stops serving it, it is forgotten once silent; `back_ms` later it is added anew, −1: never."""

    at_ms: int
    host: int
    back_ms: int = -1


class Appear(Struct, frozen=True, kw_only=True, tag="appear"):
    """An instance that nobody claimed runs on a host; it ends after `gone_ms`, −1: never."""

    at_ms: int
    host: int
    name: str
    vcpus: int = 1
    gone_ms: int = -1


class Resize(Struct, frozen=True, kw_only=True, tag="resize"):
    """A host's inventory changes."""

    at_ms: int
    host: int
    vcpus: int
    reserved: int = 0


Item = Submit | Reuse | SetFlavor | SetStatus | Retire | Appear | Resize


# --- what goes wrong -------------------------------------------------------------------------------------------------


SENDER: Final = "sender"
"""As `what` of a fault on a record that befalls a process: the one that sends it."""


class Fault(Struct, frozen=True, kw_only=True):
    """One thing that goes wrong: at a time, or with the `nth` record (from 1) of a kind that anybody sends or appends.

    `on` names the kind: start, snapshot, delta, tombstone, claim, renew, release, confirm, decision, request, cancel, commit.
    """

    kind: str
    at_ms: int = -1
    on: str = ""
    nth: int = 0
    pick: int = 0
    ms: int = 0
    what: str = ""


class Schedule(Struct, frozen=True, kw_only=True):
    """One run of the world, as data."""

    seed: int
    profile: str = "swarm"
    config: Config = Config()
    items: tuple[Item, ...] = ()
    faults: tuple[Fault, ...] = ()


def build_of(submit: Submit) -> dict[str, Any]:
    """The fields of the request that an item submits."""
    return {name: value for name in _ASKED if (value := getattr(submit, name))}


_ASKED: Final = (
    "id", "flavor", "count", "group", "group_max", "group_policy", "spread_over", "max_skew", "count_min", "lease_ms",
    "deadline_ms",
)  # fmt: skip


# --- as text ---------------------------------------------------------------------------------------------------------


def text(schedule: Schedule) -> list[str]:
    """A schedule as lines that `parse` reads; what is as by default is left out."""
    lines = [f"seed {schedule.seed} profile={schedule.profile}", _line("config", schedule.config, Config())]
    lines += [_line(str(item.__struct_config__.tag), item) for item in schedule.items]
    return lines + [_line("fault", fault) for fault in schedule.faults]


def parse(lines: list[str]) -> Schedule:
    """Read a schedule from lines; raises ValueError that names the line."""
    seed, profile, config = 0, "scenario", Config()
    items: list[Item] = []
    faults: list[Fault] = []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            if words[0] == "seed":
                seed = int(words[1])
                profile = _fields(words[2:]).get("profile", profile)
            elif words[0] == "config":
                config = msgspec.convert({**msgspec.to_builtins(config), **_fields(words[1:])}, Config, strict=False)
            elif words[0] == "fault":
                faults.append(msgspec.convert({"kind": words[1], **_fields(words[2:])}, Fault, strict=False))
            else:
                items.append(msgspec.convert({"type": words[0], **_fields(words[1:])}, Item, strict=False))
        except (msgspec.ValidationError, ValueError, IndexError) as error:
            raise ValueError(f"line {number}: {line.strip()!r}: {error}") from error
    return Schedule(seed=seed, profile=profile, config=config, items=tuple(items), faults=tuple(faults))


def _line(word: str, record: Struct, default: Struct | None = None) -> str:
    fields = [word]
    if isinstance(record, Fault):
        fields.append(record.kind)
    defaults = {f.name: f.default for f in msgspec.structs.fields(record)}
    for name, value in msgspec.structs.asdict(record).items():
        if (name, word) == ("kind", "fault") or value == (getattr(default, name) if default else defaults[name]):
            continue
        fields.append(
            f"{name}={','.join(value) if isinstance(value, tuple) else str(value).lower() if isinstance(value, bool) else value}"
        )
    return " ".join(fields)


def _fields(words: list[str]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"{word!r} is not name=value")
        fields[name] = tuple(filter(None, value.split(","))) if name == "traits" else value
    return fields
