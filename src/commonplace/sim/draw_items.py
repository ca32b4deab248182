"""What people do in a schedule, drawn."""

from commonplace.sim.dice import Dice
from commonplace.sim.plan import Appear, Config, Item, Resize, Retire, Reuse, SetFlavor, SetStatus, Submit


def draw_items(dice: Dice, config: Config) -> tuple[Item, ...]:
    """What is asked, and what operators and machines do meanwhile, by time."""
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
