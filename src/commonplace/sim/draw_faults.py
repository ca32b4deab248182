"""What goes wrong in a schedule, drawn: whether a kind of fault occurs at all, how often, and when or to which record."""

from collections.abc import Iterator
from typing import Final

from commonplace.sim.dice import Dice
from commonplace.sim.plan import Config, Fault

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

OFTEN: Final = {"clean": 8, "delay": 5, "hold": 3, "lose": 3, "mute": 3, "double": 3, "marker": 3}
RARE: Final = {"truncate": 30, "recreate": 40, "clock_jump": 60, "broker_down": 300}
"""Chance, in thousandths, of a kind that rules out much else being drawn by a seed of the swarm."""

LATE_COMERS: Final = {
    "swarm": {"cut": 60, "wall_clock": 30, "disk_full": 30, "oversized": 30},
    "takeover": {"cut": 300, "wall_clock": 150},
    "agents": {"cut": 300, "disk_full": 100},
}
"""Chance, in thousandths, of kinds that came later: drawn apart, so that schedules without them stay as they were."""


def draw_faults(dice: Dice, config: Config, profile: str) -> tuple[Fault, ...]:
    """Faults of the kinds that the profile draws from, by time."""
    kinds = KINDS[profile]
    share = dice.of((100, 250, 400, 600)) if profile == "swarm" else 700
    drawn: list[Fault] = []
    for kind in kinds:
        if dice.chance(RARE.get(kind, share) if profile == "swarm" else share):
            for _ in range(dice.between(1, OFTEN.get(kind, 2))):
                drawn.append(_fault(dice, config, kind))
    if config.claims_retention_ms:
        drawn += [_fault(dice, config, "expire") for _ in range(6)]
    return tuple(sorted(drawn, key=lambda fault: fault.at_ms))


def late_comers(dice: Dice, config: Config, profile: str) -> Iterator[Fault]:
    """Faults of these kinds, if the schedule is to have any."""
    for kind, chance in LATE_COMERS.get(profile, {}).items():
        if dice.chance(chance):
            for _ in range(dice.between(1, 3)):
                yield _fault(dice, config, kind)


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
