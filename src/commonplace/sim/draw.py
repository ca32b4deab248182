"""Swarm: a seed draws which faults occur and how often, every bound and interval, and what people do (Groce et al., ISSTA 2012).

    seed, profile ──▶ bounds ──▶ items, faults ──▶ stories laid over them ──▶ schedule

A schedule that has everything at once hides what two faults alone do to each other, so each seed leaves most of them out.
"""

from typing import Any, Final

from msgspec.structs import replace

from commonplace.sim import draw_stories as stories
from commonplace.sim.dice import Dice
from commonplace.sim.draw_bounds import draw_bounds
from commonplace.sim.draw_faults import draw_faults, late_comers
from commonplace.sim.draw_items import draw_items
from commonplace.sim.plan import Schedule

PROFILES: Final = ("swarm", "calm", "compaction", "takeover", "agents", "clocks", "groups", "shapes")
MIXED: Final = "mixed"
"""Every second seed of the swarm, the others of the other profiles in turn."""


def draw(seed: int, profile: str = "swarm") -> Schedule:
    """The schedule of a seed. What came later has dice of its own, so that schedules without it stay as they were."""
    if profile == MIXED:
        profile = PROFILES[0] if seed % 2 else PROFILES[1 + seed // 2 % (len(PROFILES) - 1)]
    dice = Dice(seed, profile)
    config = draw_bounds(dice, profile)
    sleeper = profile in ("swarm", "compaction") and dice.chance(30)
    if sleeper:
        config = replace(config, **stories.SLEEPER)
    items, faults = draw_items(dice, config), draw_faults(dice, config, profile)
    lost = Dice(seed, f"{profile} lost at work")
    if lost.chance(stories.LOST_AT_WORK.get(profile, 0)):
        faults = _by_time(*faults, *stories.lost_at_work(lost, config))
    forgets = Dice(seed, f"{profile} forgets")
    if profile in ("swarm", "takeover") and forgets.chance(stories.FORGETFUL):
        config = replace(config, **stories.forgetful(forgets))
    faults = _by_time(*faults, *late_comers(Dice(seed, f"{profile} late comers"), config, profile))
    cut = Dice(seed, f"{profile} decisions cut")
    if profile == "swarm" and cut.chance(stories.DECISIONS_CUT):
        faults = _by_time(*faults, *stories.decisions_cut(cut))
    grouped = Dice(seed, f"{profile} groups")
    if profile == "groups" or (profile == "swarm" and grouped.chance(stories.GROUPED)):
        config, items = stories.grouped(grouped, config, items)
    if profile == "shapes":
        config, items = stories.shaped(Dice(seed, "shapes of hosts"), config, items)
    if sleeper:
        items = _by_time(*items, *stories.while_asleep(dice))
        faults = _by_time(
            *(f for f in faults if not f.kind.startswith(("replica", "die", "broker", "recreate"))),
            *stories.sleep(dice),
        )
    return Schedule(seed=seed, profile=profile, config=config, items=items, faults=faults)


def _by_time(*things: Any) -> tuple[Any, ...]:
    return tuple(sorted(things, key=lambda thing: thing.at_ms))
