"""A fleet: simulated hosts with real ledgers over real topics, so that anyone can try ten thousand of them on a laptop."""

from itertools import islice

from commonplace.agent.drivers import StaticDriver
from commonplace.agent.shapes import Shape, hosts


def drivers(
    count: int,
    shapes: tuple[Shape, ...],
    *,
    boot_s: float = 0.0,
    failure_rate: float = 0.0,
    seed: int = 0,
    first: int = 1,
) -> dict[str, StaticDriver]:
    """Simulated drivers by host name, the same for the same arguments.

    `first` > 1 skips the hosts before it, so that several processes share one fleet; `count` 0 takes the shapes' own counts.
    """
    everyone = hosts(count and count + first - 1, shapes, seed)
    return {
        name: StaticDriver(inventory, traits, labels, boot_s=boot_s, failure_rate=failure_rate, seed=seed, cells=cells)
        for name, inventory, traits, labels, cells in islice(everyone, first - 1, None)
    }
