"""Hosts and flavors that are more than sums: NUMA cells, cpus and devices given by number, pages.

A host of `config.cells` has its shared cpus spread evenly over them, numbered from 100 × cell; dedicated ones follow from 100 × cell + 50.
"""

from collections.abc import Iterator
from typing import Final

from commonplace.core.cpu_lists import text_of
from commonplace.core.records.control import CellAsk, DeviceAsk, Flavor
from commonplace.core.records.hosts import Device as Card
from commonplace.core.records.hosts import HostCell
from commonplace.core.resources import Inventory
from commonplace.sim.plan import Config, SetFlavor

CARD: Final = "VGPU"
"""The class of every device."""
APART: Final = "apart"
"""The cell that has devices and nothing else, near no cpu."""
HUGE_KB: Final = 2_048
MEMORY_MB: Final = 4_096
"""Memory of a host for each of its VCPUs, so that these run out first; with cells, of each cell for each of its cpus."""

SHAPES: Final = (
    SetFlavor(at_ms=0, name="pinned", vcpus=0, pcpus=1, cells=1),
    SetFlavor(at_ms=0, name="pair", vcpus=0, pcpus=2, cells=1, threads="require"),
    SetFlavor(at_ms=0, name="alone", vcpus=0, pcpus=1, cells=1, threads="isolate"),
    SetFlavor(at_ms=0, name="many", vcpus=1, pcpus=3, cells=1),
    SetFlavor(at_ms=0, name="wide", vcpus=0, pcpus=2, cells=2, memory_mb=2_048),
    SetFlavor(at_ms=0, name="split", vcpus=2, cells=2, memory_mb=2_048),
    SetFlavor(at_ms=0, name="loose", vcpus=1, pcpus=1),
    SetFlavor(at_ms=0, name="paged", vcpus=1, cells=1, page_kb=HUGE_KB),
    SetFlavor(at_ms=0, name="slice", vcpus=1, cells=1, cards=1, policy="required"),
    SetFlavor(at_ms=0, name="cards", vcpus=1, cells=1, cards=2, policy="preferred"),
    SetFlavor(at_ms=0, name="half", vcpus=1, cards=1, shares=2),
)
"""What operators offer besides where hosts have cells."""


def cells_of(config: Config, vcpus: int) -> dict[str, HostCell]:
    """The cells of a host with so many shared cpus; none where the schedule's hosts have none."""
    many = max(1, vcpus // config.cells) if config.cells else 0
    cells = {str(number): _cell(config, number, many) for number in range(config.cells)}
    if cells and config.apart:
        cells[APART] = HostCell(devices=_cards(config, APART))
    return cells


def _cell(config: Config, number: int, many: int) -> HostCell:
    shared = range(100 * number, 100 * number + many)
    own = range(100 * number + 50, 100 * number + 50 + config.dedicated) if config.dedicated >= 0 else shared
    cores = [own[at : at + config.threads] for at in range(0, len(own), config.threads)]
    memory_mb = MEMORY_MB * len({*shared, *own})
    return HostCell(
        cpus=text_of(shared),
        cpus_dedicated=text_of(own),
        siblings=tuple(map(text_of, cores)) if config.threads > 1 else (),
        memory_mb=memory_mb,
        pages={4: memory_mb * 256, HUGE_KB: config.huge_pages} if config.huge_pages else {},
        devices=_cards(config, str(number)),
    )


def _cards(config: Config, cell: str) -> tuple[Card, ...]:
    return tuple(Card(id=f"{cell}-{n}", resource_class=CARD, shares=config.card_shares) for n in range(config.cards))


def inventory_of(config: Config, vcpus: int, reserved: int) -> dict[str, Inventory]:
    """What a host has in all."""
    cells = cells_of(config, vcpus)
    if not cells:
        return {
            "VCPU": Inventory(total=vcpus, reserved=min(reserved, vcpus)),
            "MEMORY_MB": Inventory(total=MEMORY_MB * vcpus),
        }
    shared = max(1, vcpus // config.cells) * config.cells
    own = shared if config.dedicated < 0 else config.dedicated * config.cells
    totals = {
        "VCPU": Inventory(total=shared, reserved=min(reserved, shared), allocation_ratio_thousandths=config.cpu_ratio),
        "PCPU": Inventory(total=own),
        "MEMORY_MB": Inventory(total=sum(cell.memory_mb for cell in cells.values())),
        CARD: Inventory(total=sum(card.shares for cell in cells.values() for card in cell.devices)),
    }
    return {name: item for name, item in totals.items() if item.total}


def flavor_of(item: SetFlavor, spread: int) -> Flavor:
    """The flavor that an operator sets."""
    amounts = {
        "VCPU": item.vcpus, "MEMORY_MB": item.memory_mb, "PCPU": item.pcpus, CARD: item.cards * item.shares,
    }  # fmt: skip
    cards = (DeviceAsk(resource_class=CARD, count=item.cards, shares=item.shares, policy=item.policy),)  # type: ignore[arg-type]  # drawn from the four
    return Flavor(
        name=item.name,
        resources={name: amount for name, amount in amounts.items() if amount},
        traits_required=item.traits,
        spread=item.spread or spread,
        cells=tuple(_asks(item)),
        devices=cards if item.cards else (),
    )


def _asks(item: SetFlavor) -> Iterator[CellAsk]:
    """Each cell an even share, the first what is left over."""
    for number in range(item.cells):
        first = number == 0
        yield CellAsk(
            cpus=item.vcpus // item.cells + first * (item.vcpus % item.cells),
            cpus_dedicated=item.pcpus // item.cells + first * (item.pcpus % item.cells),
            memory_mb=item.memory_mb // item.cells,
            page_kb=item.page_kb,
            threads=item.threads,  # type: ignore[arg-type]  # drawn from the three
        )
