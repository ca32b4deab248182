"""What some schedules are about, that chance alone would hardly draw: stories laid over what was drawn before.

Each has chances of its own, so that schedules without it stay as they were.
"""

from typing import Any, Final

from msgspec.structs import replace

from commonplace.sim.dice import Dice
from commonplace.sim.plan import SENDER, Config, Fault, Item, Retire, SetFlavor, SetStatus, Submit
from commonplace.sim.shapes import SHAPES

# --- requests of another kind ----------------------------------------------------------------------------------------

GROUPED: Final = 60
"""Chance, in thousandths, that a schedule of the swarm is about groups that are decided one member after another."""


def grouped(dice: Dice, config: Config, items: tuple[Item, ...]) -> tuple[Config, tuple[Item, ...]]:
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


def shaped(dice: Dice, config: Config, items: tuple[Item, ...]) -> tuple[Config, tuple[Item, ...]]:
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


# --- a replica that sleeps past the tombstones' life -----------------------------------------------------------------

SLEEPER: Final[dict[str, Any]] = {
    "run_ms": 45_000, "heartbeat_ms": 1_500, "snapshot_ms": 3_000, "delete_retention_ms": 15_000, "segment_records": 1,
    "replicas": 2, "request_partitions": 2,
}  # fmt: skip
"""Bounds under which a tombstone comes and goes while a replica sleeps; by chance alone that would take a thousand schedules."""


def while_asleep(dice: Dice) -> list[Item]:
    """A flavor is deleted, and another one set so that the tombstone's segment is closed."""
    return [
        SetFlavor(at_ms=6_000 + dice.below(1_000), name=dice.of(("small", "medium")), vcpus=0),
        SetFlavor(at_ms=8_000, name="new", vcpus=1),
    ]


def sleep(dice: Dice) -> list[Fault]:
    """A replica stops past the tombstones' life, and the cleaner comes by: once to see the tombstone, once to take it."""
    faults = [Fault(kind="replica_pause", at_ms=5_000, pick=dice.below(1 << 20), ms=dice.between(30_000, 38_000))]
    return faults + [Fault(kind="clean", at_ms=at_ms) for at_ms in (16_000, 33_000)]


# --- decisions that are forgotten or lost, partitions that are lost at work ------------------------------------------

FORGETFUL: Final = 100
"""Chance, in thousandths, that replicas remember decisions for a part of the schedule, or few of them."""


def forgetful(dice: Dice) -> dict[str, int]:
    """The bound that they have then."""
    if dice.chance(300):
        return {"decisions_kept_max": dice.between(3, 50)}
    return {"idempotency_window_ms": dice.scale(5_000, 60_000)}


LOST_AT_WORK: Final = {"swarm": 100, "takeover": 600}
"""Chance, in thousandths, that a replica hears that a partition is another's while a request of it is open: else few do."""


def lost_at_work(dice: Dice, config: Config) -> list[Fault]:
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


def decisions_cut(dice: Dice) -> list[Fault]:
    """As an unclean election loses what only its leader had: the newest record of one of the partitions."""
    return [
        Fault(kind="truncate", on="decision", nth=1 + dice.below(20), pick=dice.below(16) << 4, what="decisions")
        for _ in range(dice.between(1, 4))
    ]
