"""Swarm: a seed draws which faults occur and how often, every bound and interval, and what people do (Groce et al., ISSTA 2012).

A schedule that has everything at once hides what two faults alone do to each other, so each seed leaves most of them out.
"""

from collections.abc import Sequence
from random import Random
from typing import Any, Final, TypeVar

from msgspec.structs import replace

from commonplace.sim.plan import (
    SENDER,
    Appear,
    Config,
    Fault,
    Item,
    Resize,
    Retire,
    Reuse,
    Schedule,
    SetFlavor,
    SetStatus,
    Submit,
)
from commonplace.sim.shapes import SHAPES

PROFILES: Final = ("swarm", "calm", "compaction", "takeover", "agents", "clocks", "groups", "shapes")
MIXED: Final = "mixed"
"""Every second seed of the swarm, the others of the other profiles in turn."""
T = TypeVar("T")


class Dice:
    """Chances of one seed. Only `random()` is used below: its numbers are the same in every version of Python."""

    def __init__(self, seed: int, salt: str) -> None:
        self._random = Random(f"{salt} {seed}").random

    def below(self, n: int) -> int:
        """0 ≤ x < n."""
        return int(self._random() * n)

    def between(self, low: int, high: int) -> int:
        """low ≤ x ≤ high."""
        return low + int(self._random() * (high - low + 1))

    def scale(self, low: int, high: int) -> int:
        """low ≤ x ≤ high, each order of magnitude alike."""
        return int(low * (high / low) ** self._random())

    def of(self, choices: Sequence[T]) -> T:
        """One of them."""
        return choices[int(self._random() * len(choices))]

    def chance(self, thousandths: int) -> bool:
        """True so often."""
        return self._random() * 1_000 < thousandths


RECORDS: Final = (
    ("start", 4), ("snapshot", 10), ("delta", 60), ("tombstone", 8), ("claim", 40), ("renew", 6), ("release", 15),
    ("confirm", 25), ("decision", 40), ("request", 40), ("cancel", 6),
)  # fmt: skip
"""Records on which a fault may fall, and the number of them that a schedule has or so: the nth is drawn below it."""

ON_RECORDS: Final = ("lose", "mute", "double", "hold", "die_before", "die_after")
"""Kinds that befall records."""

KINDS: Final[dict[str, tuple[str, ...]]] = {
    "swarm": (
        *ON_RECORDS, "commit", "replica_crash", "replica_pause", "replica_freeze", "replica_zombie", "replica_joins",
        "replica_leaves", "agent_crash", "agent_pause", "agent_clone", "frontend_crash", "frontend_pause", "broker_down",
        "partition_down", "delay", "clean", "marker", "offsets_gone", "garbage", "spoil", "recreate", "truncate",
        "clock_jump",
    ),
    "calm": ("clean", "delay"),
    "compaction": ("clean", "clean", "replica_crash", "agent_crash", "agent_clone", "replica_pause", "delay", "marker"),
    "takeover": (
        "mute", "lose", "die_before", "die_after", "commit", "replica_crash", "replica_pause", "replica_freeze",
        "replica_zombie", "replica_joins", "replica_leaves", "offsets_gone", "delay",
    ),
    "agents": ("lose", "mute", "die_before", "die_after", "agent_crash", "agent_pause", "agent_clone", "clean", "spoil", "delay"),
    "groups": (
        "mute", "lose", "hold", "die_before", "die_after", "commit", "replica_crash", "replica_pause", "replica_freeze",
        "replica_zombie", "replica_joins", "replica_leaves", "agent_crash", "delay",
    ),
    "clocks": ("clock_jump", "replica_freeze", "replica_pause", "agent_pause", "agent_crash", "replica_crash", "delay"),
    "shapes": (
        *ON_RECORDS, "commit", "replica_crash", "replica_pause", "replica_zombie", "replica_leaves", "replica_joins",
        "agent_crash", "agent_pause", "agent_clone", "frontend_crash", "clean", "delay", "spoil",
    ),
}  # fmt: skip
"""Which kinds a profile draws from; one that stands there twice comes twice as often."""


def draw(seed: int, profile: str = "swarm") -> Schedule:
    """The schedule of a seed."""
    if profile == MIXED:
        profile = PROFILES[0] if seed % 2 else PROFILES[1 + seed // 2 % (len(PROFILES) - 1)]
    dice = Dice(seed, profile)
    config = _config(dice, profile)
    sleeper = profile in ("swarm", "compaction") and dice.chance(30)
    if sleeper:
        config = replace(config, **SLEEPER)
    items, faults = _items(dice, config), _faults(dice, config, profile)
    lost = Dice(seed, f"{profile} lost at work")  # drawn apart, so that other schedules stay as they were
    if lost.chance(LOST_AT_WORK.get(profile, 0)):
        faults = _by_time(*faults, *_lost_at_work(lost, config))
    forgets = Dice(seed, f"{profile} forgets")
    if profile in ("swarm", "takeover") and forgets.chance(FORGETFUL):
        config = replace(config, **_forgetful(forgets))
    late = Dice(seed, f"{profile} late comers")
    for kind, chance in LATE_COMERS.get(profile, {}).items():
        if late.chance(chance):
            faults = _by_time(*faults, *(_fault(late, config, kind) for _ in range(late.between(1, 3))))
    cut = Dice(seed, f"{profile} decisions cut")
    if profile == "swarm" and cut.chance(DECISIONS_CUT):
        faults = _by_time(*faults, *_decisions_cut(cut))
    grouped = Dice(seed, f"{profile} groups")  # drawn apart, so that other schedules stay as they were
    if profile == "groups" or (profile == "swarm" and grouped.chance(GROUPED)):
        config, items = _grouped(grouped, config, items)
    if profile == "shapes":
        config, items = _shaped(Dice(seed, "shapes of hosts"), config, items)
    if sleeper:
        items = _by_time(*items, *_while_asleep(dice))
        faults = _by_time(
            *(f for f in faults if not f.kind.startswith(("replica", "die", "broker", "recreate"))), *_sleep(dice)
        )
    return Schedule(seed=seed, profile=profile, config=config, items=items, faults=faults)


GROUPED: Final = 60
"""Chance, in thousandths, that a schedule of the swarm is about groups that are decided one member after another."""


def _grouped(dice: Dice, config: Config, items: tuple[Item, ...]) -> tuple[Config, tuple[Item, ...]]:
    """The same requests as members of such groups, on hosts enough for them to go apart, which stay in service for every flavor."""
    hosts = dice.between(3, 6)
    config = replace(
        config, hosts=hosts, racks=dice.between(2, 3), replicas=max(2, config.replicas), instances_max=50, builds_max=8
    )
    skew = dice.between(1, 2)
    policies: tuple[dict[str, Any], ...] = dice.of(
        (
            ({"group": "t", "group_policy": "affinity"},),
            ({"group": "a", "spread_over": "rack", "max_skew": skew},),
            (
                {"group": "t", "group_policy": "affinity"},
                {"group": "u", "group_policy": "affinity"},
                {"group": "a", "spread_over": "rack", "max_skew": skew},
                {"group": ""},
            ),
        )
    )
    kept = (item for item in items if not isinstance(item, SetStatus | SetFlavor | Retire))
    plain = {"group": "", "group_max": 0}
    grouped = [replace(item, **{**plain, **dice.of(policies)}) if isinstance(item, Submit) else item for item in kept]
    parts = dice.of((0, 300, 700))  # of those that may be placed in part
    return config, tuple(_in_part(dice, item, parts) if isinstance(item, Submit) else item for item in grouped)


def _in_part(dice: Dice, item: Submit, chance: int) -> Submit:
    """The same request, perhaps content with a part of what it asks for."""
    if item.count == 1 or item.max_skew or not dice.chance(chance):
        return item
    return replace(item, count_min=dice.between(1, item.count))


def _shaped(dice: Dice, config: Config, items: tuple[Item, ...]) -> tuple[Config, tuple[Item, ...]]:
    """The same requests for cells, cpus and devices by number, on hosts that have them; some resize what another brought."""
    config = replace(
        config,
        hosts=dice.of((1, 1, 2, 2, 3)),
        vcpus=dice.of((4, 8, 16)),
        cells=dice.of((1, 2, 2, 2, 4)),
        dedicated=dice.of((-1, 2, 4, 4, 6)),
        threads=dice.of((1, 2, 2)),
        huge_pages=dice.of((0, 0, 1_024)),
        cards=dice.of((0, 1, 2)),
        card_shares=dice.of((1, 2, 4)),
        apart=dice.chance(300),
        cpu_ratio=dice.of((1_000, 1_000, 2_000)),
        instances_max=50,
        builds_max=dice.of((0, 8, 8)),
    )
    names = [dice.of(SHAPES).name for _ in range(dice.between(1, 4))]
    plain, resized = dice.of((0, 100, 400)), dice.of((0, 200, 500, 800))
    sources: dict[str, Submit] = {}
    shaped: list[Item] = []
    for item in items:
        if isinstance(item, Submit):
            item = item if dice.chance(plain) else replace(item, flavor=dice.of(names))
            if sources and dice.chance(resized):
                item = replace(item, count=1, group="", group_max=0, resizes=dice.of(tuple(sources)))
            elif item.count == 1:
                item = replace(item, confirm_ms=dice.below(300), release_ms=-1) if dice.chance(700) else item
            if item.count == 1:
                sources[item.id] = item
        elif isinstance(item, SetFlavor) and dice.chance(700):
            item = replace(dice.of(SHAPES), at_ms=item.at_ms, memory_mb=dice.of((1_024, 2_048)))
        shaped.append(item)
    return config, tuple(shaped)


SLEEPER: Final[dict[str, Any]] = {
    "run_ms": 45_000, "heartbeat_ms": 1_500, "snapshot_ms": 3_000, "delete_retention_ms": 15_000, "segment_records": 1,
    "replicas": 2, "request_partitions": 2,
}  # fmt: skip
"""Bounds under which a tombstone comes and goes while a replica sleeps; by chance alone that would take a thousand schedules."""


def _while_asleep(dice: Dice) -> list[Item]:
    """A flavor is deleted, and another one set so that the tombstone's segment is closed."""
    return [
        SetFlavor(at_ms=6_000 + dice.below(1_000), name=dice.of(("small", "medium")), vcpus=0),
        SetFlavor(at_ms=8_000, name="new", vcpus=1),
    ]


def _sleep(dice: Dice) -> list[Fault]:
    """A replica stops past the tombstones' life, and the cleaner comes by: once to see the tombstone, once to take it."""
    faults = [Fault(kind="replica_pause", at_ms=5_000, pick=dice.below(1 << 20), ms=dice.between(30_000, 38_000))]
    return faults + [Fault(kind="clean", at_ms=at_ms) for at_ms in (16_000, 33_000)]


FORGETFUL: Final = 100
"""Chance, in thousandths, that replicas remember decisions for a part of the schedule, or few of them."""


def _forgetful(dice: Dice) -> dict[str, int]:
    if dice.chance(300):
        return {"decisions_kept_max": dice.between(3, 50)}
    return {"idempotency_window_ms": dice.scale(5_000, 60_000)}


LATE_COMERS: Final = {
    "swarm": {"cut": 60, "wall_clock": 30, "disk_full": 30, "oversized": 30},
    "takeover": {"cut": 300, "wall_clock": 150},
    "agents": {"cut": 300, "disk_full": 100},
}
"""Chance, in thousandths, of kinds that came later: drawn apart, so that schedules without them stay as they were."""

LOST_AT_WORK: Final = {"swarm": 100, "takeover": 600}
"""Chance, in thousandths, that a replica hears that a partition is another's while a request of it is open: else few do."""


def _lost_at_work(dice: Dice, config: Config) -> list[Fault]:
    """A claim is held up, and its sender is away from its group just long enough for another to be given its partitions."""
    faults = []
    for _ in range(dice.between(1, 3)):
        nth, beat_ms = 1 + dice.below(25), config.session_ms // 3
        ms = config.session_ms + dice.between(3, beat_ms)
        kind = dice.of(("replica_zombie", "replica_zombie", "replica_pause"))
        faults += [
            Fault(kind="hold", on="claim", nth=nth, ms=ms + beat_ms),
            Fault(kind=kind, on="claim", nth=nth, ms=ms, what=SENDER),
        ]
    return faults


DECISIONS_CUT: Final = 15
"""Chance, in thousandths, that decisions are lost as they are acknowledged, before anybody reads them; else hardly a seed has that."""


def _decisions_cut(dice: Dice) -> list[Fault]:
    """As an unclean election loses what only its leader had: the newest record of one of the partitions."""
    return [
        Fault(kind="truncate", on="decision", nth=1 + dice.below(20), pick=dice.below(16) << 4, what="decisions")
        for _ in range(dice.between(1, 4))
    ]


def _by_time(*things: Any) -> tuple[Any, ...]:
    return tuple(sorted(things, key=lambda thing: thing.at_ms))


SETTLED_MAX: Final = (0, 1, 1, 1, 3, 3, *(64,) * 44)
"""Where reports do not tell what they settled, a ledger can hardly be judged: so few schedules have that."""


def _config(dice: Dice, profile: str) -> Config:
    lease_ms = dice.scale(5_000, 300_000) if dice.chance(300) else dice.scale(5_000, 20_000)
    heartbeat_ms = max(2_500, lease_ms // dice.between(1, 4))
    compacting = profile == "compaction" or dice.chance(200)
    if compacting:  # what is younger than two snapshots is never compacted, so these must be short
        heartbeat_ms = dice.scale(1_000, 3_000)
    snapshot_ms = heartbeat_ms * (dice.between(1, 3) if compacting else dice.between(2, 8))
    hosts = dice.of((1, 1, 1, 2, 2, 2, 3, 3, 4, 6)) if dice.chance(970) else dice.scale(9, 200)
    clocks = profile == "clocks" or dice.chance(100)
    retention_ms = (
        dice.scale(6 * heartbeat_ms, 60 * heartbeat_ms) if dice.chance(500 if compacting else 100) else 3_600_000_000
    )
    return Config(
        hosts=hosts,
        vcpus=dice.of((4, 6, 8, 8, 16, 16, 32)),
        reserved=dice.of((0, 0, 0, 1)),
        agents=dice.of((1, 1, 1, 2, 3)),
        replicas=dice.of((1, 2, 2, 2, 3, 3, 4)) if dice.chance(960) else dice.between(5, 8),
        frontends=dice.of((1, 1, 2)),
        partitions=dice.of((1, 1, 2, 2, 3)),
        request_partitions=dice.of((1, 2, 2, 3)),
        run_ms=dice.scale(*((15_000, 60_000) if compacting else (4_000, 30_000)))
        + (lease_ms if dice.chance(400) else 0),
        latency_ms=dice.of((2, 5, 10, 30, 100, 300)),
        partial=dice.of((0, 0, 50, 200, 500)),
        skip=dice.of((0, 0, 50, 200, 400)),
        drift=dice.of((1, 3, 8)) if clocks else 0,
        mode="fits" if dice.chance(150) else "strict",
        lease_ms=lease_ms,
        lease_margin_ms=dice.scale(max(500, lease_ms // 20), max(1_000, lease_ms // 3)),
        deadline_ms=dice.scale(2_000, 20_000),
        claim_timeout_ms=dice.scale(500, 8_000),
        attempts_max=dice.of((1, 2, 4, 16, 16)),
        queue_max=dice.of((1, 5, 20, 1_000, 1_000, 1_000)),
        claims_in_flight_max=dice.of((1, 2, 6, 1_000, 1_000)),
        decisions_kept_max=100_000,
        liveness_ms=heartbeat_ms * dice.between(3, 6),
        report_ms=dice.scale(4_000, 20_000),
        session_ms=dice.scale(1_500, 12_000),
        tick_ms=dice.of((100, 250, 500, 1_000)),
        snapshot_ms=snapshot_ms,
        heartbeat_ms=heartbeat_ms,
        lapse_ms=dice.of((0, 0, 500, 2_000)),
        delta_allocations_max=dice.of((0, 1, 2, 4, 24)),
        settled_max=dice.of(SETTLED_MAX),
        boot_ms=dice.scale(50, 5_000),
        boot_failures=dice.of((0, 0, 0, 100, 300)),
        builds_max=dice.of((0, 1, 2, 8, 8, 8)),
        instances_max=dice.of((0, 2, 4, 50, 50, 50, 50)),
        segment_records=dice.of((1, 2, 5, 20, 100)),
        delete_retention_ms=max(15_000, retention_ms),
        claims_retention_ms=dice.scale(1_500, 2 * lease_ms)
        if dice.chance(400 if profile == "compaction" else 80)
        else 0,
        delivery_timeout_ms=dice.scale(500, 6_000),
        spread=dice.of((1, 1, 2, 4)),
    )


# --- what people do --------------------------------------------------------------------------------------------------


def _items(dice: Dice, config: Config) -> tuple[Item, ...]:
    items: list[Item] = list(_submits(dice, config))
    run_ms, hosts = config.run_ms, config.hosts
    ids = [item.id for item in items if isinstance(item, Submit)]
    if ids and dice.chance(200):
        items += [
            Reuse(
                at_ms=dice.below(run_ms), id=dice.of(ids), flavor=dice.of(("small", "medium")), count=dice.between(1, 3)
            )
            for _ in range(dice.between(1, 3))
        ]
    if dice.chance(250):
        items += [
            SetFlavor(
                at_ms=dice.below(run_ms),
                name=dice.of(("small", "medium", "large", "new")),
                vcpus=dice.of((0, 1, 2, 3, 4)),
                traits=dice.of(((), (), ("FAST",))),
            )
            for _ in range(dice.between(1, 3))
        ]
    if dice.chance(300):
        items += [
            SetStatus(
                at_ms=dice.below(run_ms),
                host=dice.below(hosts),
                status=dice.of(("disabled", "draining", "enabled", "enabled")),
            )
            for _ in range(dice.between(1, 4))
        ]
    if dice.chance(150):
        back_ms = dice.of((-1, dice.between(100, 5_000)))
        items.append(Retire(at_ms=dice.below(run_ms), host=dice.below(hosts), back_ms=back_ms))
    if dice.chance(250):
        items += [
            Appear(
                at_ms=dice.below(run_ms),
                host=dice.below(hosts),
                name=f"stranger{n}",
                vcpus=dice.between(1, 3),
                gone_ms=dice.of((-1, dice.between(500, run_ms))),
            )
            for n in range(dice.between(1, 3))
        ]
    if dice.chance(150):
        items += [
            Resize(
                at_ms=dice.below(run_ms),
                host=dice.below(hosts),
                vcpus=dice.of((2, 4, 8, 12)),
                reserved=dice.of((0, 0, 1)),
            )
            for _ in range(dice.between(1, 2))
        ]
    return tuple(sorted(items, key=lambda item: item.at_ms))


def _submits(dice: Dice, config: Config) -> list[Submit]:
    many = dice.scale(6, 50) if dice.chance(950) else dice.scale(50, 120)
    bursts = dice.of((0, 0, 300, 700, 900))
    flavors = dice.of((("small",), ("small", "medium"), ("small", "small", "medium", "large"), ("small", "large")))
    counts = dice.of(((1,), (1, 1, 2), (1, 2, 3, 4)))
    group_max = dice.of((0, 0, 0, 1, 2))
    confirms = dice.of((1_000, 900, 600, 300))
    releases = dice.of((0, 300, 700, 1_000))
    cancels = dice.of((0, 0, 100, 300))
    agains = dice.of((0, 0, 150))
    own_lease = dice.of((0, 0, 200))
    at = dice.below(config.run_ms)
    submits = []
    for number in range(many):
        if not dice.chance(bursts):
            at = dice.below(config.run_ms)
        if dice.chance(confirms):
            confirm_ms = dice.below(max(1, config.lease_ms // 3)) if dice.chance(700) else 0
        else:
            confirm_ms = dice.of((-1, config.lease_ms + dice.below(config.lease_ms)))
        submits.append(
            Submit(
                at_ms=at,
                id=f"q{number}",
                flavor=dice.of(flavors) if not dice.chance(20) else dice.of(("new", "FAST")),
                count=dice.of(counts),
                group="g" if group_max else "",
                group_max=group_max if dice.chance(700) else 0,
                lease_ms=dice.scale(3_000, 2 * config.lease_ms) if dice.chance(own_lease) else 0,
                deadline_ms=dice.scale(200, 10_000) if dice.chance(own_lease) else 0,
                frontend=number,
                confirm_ms=confirm_ms,
                release_ms=dice.scale(50, config.run_ms) if dice.chance(releases) else -1,
                cancel_ms=dice.below(config.deadline_ms) if dice.chance(cancels) else -1,
                again_ms=dice.below(config.run_ms) if dice.chance(agains) else -1,
                insist=dice.chance(700),
            )
        )
    return submits


# --- what goes wrong -------------------------------------------------------------------------------------------------

OFTEN: Final = {"clean": 8, "delay": 5, "hold": 3, "lose": 3, "mute": 3, "double": 3, "marker": 3}
RARE: Final = {"truncate": 30, "recreate": 40, "clock_jump": 60, "broker_down": 300}
"""Chance, in thousandths, of a kind that rules out much else being drawn by a seed of the swarm."""


def _faults(dice: Dice, config: Config, profile: str) -> tuple[Fault, ...]:
    kinds = KINDS[profile]
    share = dice.of((100, 250, 400, 600)) if profile == "swarm" else 700
    faults: list[Fault] = []
    for kind in kinds:
        if dice.chance(RARE.get(kind, share) if profile == "swarm" else share):
            for _ in range(dice.between(1, OFTEN.get(kind, 2))):
                faults.append(_fault(dice, config, kind))
    if config.claims_retention_ms:
        faults += [_fault(dice, config, "expire") for _ in range(6)]
    return tuple(sorted(faults, key=lambda fault: fault.at_ms))


def _fault(dice: Dice, config: Config, kind: str) -> Fault:
    pick = dice.below(1 << 20)
    if kind in ON_RECORDS:
        on, many = dice.of(RECORDS)
        what, ms = "", dice.scale(10, 3_000)
        if kind in ("die_before", "die_after"):
            what, ms = dice.of(("", "", "sent", "late")), dice.scale(50, 6_000)
        return Fault(kind=kind, on=on, nth=1 + dice.below(many), ms=ms, what=what)
    if kind == "commit":
        kind = dice.of(("lose", "hold", "die_before", "die_after"))
        return Fault(kind=kind, on="commit", nth=1 + dice.below(15), ms=dice.scale(100, 5_000))
    at_ms = dice.below(config.run_ms)
    match kind:
        case "replica_crash" | "agent_crash" | "frontend_crash":
            ms, what = dice.scale(50, 2 * config.session_ms), dice.of(("", "", "sent", "late"))
        case "replica_pause" | "replica_freeze" | "agent_pause" | "frontend_pause" | "replica_zombie":
            ms, what = dice.scale(200, dice.of((2 * config.session_ms, 2 * config.lease_ms))), ""
        case "agent_clone":
            ms, what = 0, dice.of(("", "race"))
        case "delay" if dice.chance(250):  # of claims past a lease, with the confirms that come meanwhile
            ms, what = dice.scale(config.lease_ms // 2, 2 * config.lease_ms), "claims"
        case "broker_down" | "partition_down" | "delay":
            ms, what = dice.scale(100, 2 * config.session_ms), ""
        case "cut":
            ms, what = dice.scale(200, 3 * config.lease_ms // 2), dice.of(("in", "out", "both"))
        case "wall_clock":
            ms, what = dice.of((-3_600_000, -25_000, -2_000, 2_000, 25_000, 3_600_000)), ""
        case "disk_full":
            ms, what = dice.scale(300, 8_000), ""
        case "clock_jump":
            ms, what = dice.of((-3_600_000, 3_600_000, -30_000, 30_000, -2_000, 2_000)), ""
        case "recreate":
            ms, what = 0, dice.of(("claims", "claims", "requests", "requests", "decisions", "control", "hosts"))
        case _:
            ms, what = 0, ""
    return Fault(kind=kind, at_ms=at_ms, pick=pick, ms=ms, what=what)


def without(schedule: Schedule, **changes: Any) -> Schedule:
    """A schedule with some of its data replaced."""
    return replace(schedule, **changes)
