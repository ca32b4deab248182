"""`commonplace capacity`: how many more instances of each flavor fit, and what of the free resources is of no use."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from commonplace.cli import common
from commonplace.cli.output import emit, emit_line
from commonplace.errors import UsageError
from commonplace.words import counted

if TYPE_CHECKING:
    from commonplace.ops.capacity import Capacity
    from commonplace.settings import Settings

app = typer.Typer()

FLAVOR_HEAD = ("FLAVOR", "FITS", "HOSTS", "MIX", "BOUND BY", "ZONES", "HOST CLASSES")
RESOURCE_HEAD = ("RESOURCE", "CAPACITY", "FREE", "USABLE", "FRAGMENTED", "STRANDED")
ALTERNATIVES = "figures of flavors are alternatives, not sums: an instance of one takes the room of others"


@app.command(
    epilog="\b\nExamples:\n  commonplace capacity\n  commonplace capacity m1.large -o wide\n  commonplace capacity --all-pools -o json\n"
    "With --all-pools -o json prints a list, else one object."
)
def capacity(
    flavor: Annotated[list[str] | None, typer.Argument(metavar="FLAVOR…", help="Only these; all when none.")] = None,
    all_pools: Annotated[
        bool, typer.Option("--all-pools", help="Every pool of the prefix, one after another.")
    ] = False,
) -> None:
    """Count per flavor how many more instances fit, by zone and host class; fragmented and stranded resources."""
    settings = common.settings()
    if all_pools and common.pool_given():
        raise UsageError("--all-pools and --pool exclude each other: drop one")
    found = [_counted(one, flavor or ()) for one in _pools(settings, all_pools)]
    match common.output():
        case "table" | "wide" as form:
            for one in found:
                emit_line(one, lines=[*([""] if one is not found[0] else []), *_lines(one, wide=form == "wide")])
        case "name":
            emit([flavor for one in found for flavor in one.flavors], name="flavor")
        case _:
            emit(found if all_pools else found[0])


def _pools(settings: "Settings", every: bool) -> "list[Settings]":
    from commonplace.kafka.topics import pools

    found = list(pools(settings).values()) if every else [settings]
    if not found:
        raise UsageError(f"{settings.topics.prefix} has no pools: `commonplace topics create` makes one")
    return found


def _counted(settings: "Settings", only: Sequence[str]) -> "Capacity":
    from commonplace.ops.capacity import capacity as counted
    from commonplace.ops.capacity_cells import counter
    from commonplace.ops.fleet_view import FleetView

    with FleetView(settings) as fleet:
        fleet.read()
        unknown = set(only) - fleet.catalog.flavors.keys()
        if unknown:
            raise UsageError(fleet.catalog.refusal(min(unknown)))
        return counted(fleet.view, fleet.catalog, counter(settings), tuple(only))


def _lines(found: "Capacity", wide: bool) -> list[str]:
    from commonplace.ops.explain_render import grid

    lines = [f"pool {found.pool}: {found.ready} of {found.hosts} hosts may be ranked"]
    flavors = [_flavor(one, wide) for one in found.flavors]
    lines += ["", *grid(FLAVOR_HEAD, flavors, right=(1, 2, 3)), f"({ALTERNATIVES})"]
    lines += [f"{one.flavor}: {one.refusal}" for one in found.flavors if one.refusal]
    resources = [
        (
            one.resource,
            str(one.capacity),
            str(one.free),
            str(one.usable),
            f"{one.fragmented:.1%}",
            f"{one.stranded} ({one.stranded_share:.1%})",
        )
        for one in found.resources
    ]
    lines += ["", *grid(RESOURCE_HEAD, resources, right=(1, 2, 3, 4, 5))]
    lines.append("usable: free where an instance drawn from the mix fits; stranded: free where no flavor fits any more")
    if found.elsewhere:
        elsewhere = counted(found.elsewhere, "flavor is", "flavors are")
        lines.append(f"{elsewhere} served by other pools: name one with --pool, or --all-pools")
    return lines


def _flavor(one: Any, wide: bool) -> tuple[str, ...]:
    return (
        one.flavor,
        str(one.fits),
        str(one.hosts),
        f"{one.mix:.0%}",
        _shares(one.bound_by, wide),
        _shares(one.zones, wide),
        _shares(one.classes, wide),
    )


def _shares(sums: dict[str, int], wide: bool) -> str:
    """The largest three, all with -o wide."""
    shown = list(sums.items()) if wide else list(sums.items())[:3]
    more = f", +{len(sums) - len(shown)}" if len(sums) > len(shown) else ""
    return ", ".join(f"{name} {count}" for name, count in shown) + more or "-"
