"""`commonplace flavor`: set, list, delete."""

import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from commonplace.cli import common
from commonplace.cli.control_records import pairs
from commonplace.cli.output import Column, emit, emit_done, say
from commonplace.core.complaints import complaint
from commonplace.errors import UsageError

if TYPE_CHECKING:
    from commonplace.core.records.control import Flavor

app = typer.Typer(
    help="Set, list and delete flavors.",
    no_args_is_help=True,
    epilog="\b\nExamples:\n  commonplace flavor list\n  commonplace flavor set m1.huge --vcpus 16 --memory-mb 32768 --disk-gb 320",
)


@app.command(
    "set",
    epilog="\b\nExamples:\n  commonplace flavor set gpu.large --vcpus 8 --memory-mb 32768 --resource VGPU=1\n"
    "  commonplace flavor set numa.gpu --cell cpus_dedicated=4,memory_mb=16384 --device CUSTOM_GPU=1,policy=required",
)
def set_flavor(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The flavor's name.")],
    vcpus: Annotated[int | None, typer.Option(metavar="N", min=0, help="VCPU.")] = None,
    memory_mb: Annotated[int | None, typer.Option(metavar="MB", min=0, help="MEMORY_MB.")] = None,
    disk_gb: Annotated[int | None, typer.Option(metavar="GB", min=0, help="DISK_GB.")] = None,
    resource: Annotated[
        list[str] | None, typer.Option(metavar="CLASS=N", help="Any other class, in its unit; repeatable.")
    ] = None,
    trait: Annotated[list[str] | None, typer.Option(metavar="TRAIT", help="Required; repeatable.")] = None,
    forbid: Annotated[list[str] | None, typer.Option(metavar="TRAIT", help="Forbidden trait; repeatable.")] = None,
    profile: Annotated[str, typer.Option(metavar="NAME", help="Profile to rank by.")] = "default",
    spread: Annotated[int, typer.Option(metavar="N", min=1, help="Spread a hot flavor over so many keys.")] = 1,
    extra_spec: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="What hosts or aggregates must say; repeatable.")
    ] = None,
    cell: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=N,…",
            help="A NUMA cell: cpus, cpus_dedicated, memory_mb, page_kb, threads=prefer|require|isolate; repeatable.",
        ),
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CLASS=N[,…]",
            help="Devices: how many, shares=N of each, policy=required|preferred|legacy|socket beside its cells; repeatable.",
        ),
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME:CLASS=N[,…]",
            help="Granular group: resources of one cell; beside=NAME for that of another group; repeatable.",
        ),
    ] = None,
    group_policy: Annotated[
        str, typer.Option(metavar="POLICY", help="isolate: no two groups on one cell; none: any.")
    ] = "",
) -> None:
    """Create a flavor in the pool, or replace it whole. What cells and devices take is added to its resources where these name less."""
    from commonplace.core.ask import PROFILES
    from commonplace.kafka import client, control

    settings = common.settings()
    common_classes = {"VCPU": vcpus, "MEMORY_MB": memory_mb, "DISK_GB": disk_gb}
    cells, devices = [_cell(text) for text in cell or ()], [_device(text) for text in device or ()]
    groups = [_group(text) for text in group or ()]
    record = {
        "type": "flavor",
        "name": name,
        "resources": _parts(cells, devices, groups)
        | {k: v for k, v in common_classes.items() if v}
        | dict(map(_resource, resource or [])),
        "traits_required": trait or [],
        "traits_forbidden": forbid or [],
        "pool": settings.topics.pool,
        "profile": profile,
        "spread": spread,
        "extra_specs": pairs("--extra-spec", extra_spec),
        "cells": cells,
        "devices": devices,
        "groups": groups,
        "group_policy": group_policy,
    }
    flavor = _checked(record)
    client.require_broker(settings)
    before = control.flavors(settings).get(name)
    control.put_flavors(settings, flavor)
    say(f"flavor {name} set")
    if before is not None and before.spread != spread:
        say(
            f"warning: its spread was {before.spread}: a request submitted under the old one and again under the new may go to another "
            "partition and be decided twice; see that nothing open is submitted again, or give new spreads new names"
        )
    if before is not None and before.pool != flavor.pool:
        say(
            f"warning: its pool was {before.pool}: an id submitted before and again may be decided in both; set it back, and change "
            f"where {name} goes with `commonplace route set {name} --to {flavor.pool}`"
        )
    if profile not in PROFILES and f"profile/{profile}" not in control.read(settings):
        say(f"warning: no profile {profile!r} yet; requests for {name} are refused until it is written to control")
    emit_done(flavor)


@app.command("list", epilog="\b\nExample:\n  commonplace flavor list -o json")
def list_flavors() -> None:
    """List the flavors of all pools."""
    from commonplace.kafka import client, control

    settings = common.settings()
    client.require_broker(settings)
    rows = sorted(control.flavors(settings).values(), key=lambda flavor: flavor.name)
    rarer = ("profile", "traits_required", "traits_forbidden", "extra_specs", "cells", "devices")
    wide = [Column(key, wide=True) for key in rarer]
    emit(rows, columns=["name", "resources", "pool", "spread", *wide])


@app.command("delete", epilog="\b\nExample:\n  commonplace flavor delete m1.tiny")
def delete(name: Annotated[str, typer.Argument(metavar="NAME", help="The flavor's name.")]) -> None:
    """Delete a flavor; instances placed with it stay, new requests for it are refused."""
    from commonplace.kafka import client, control

    settings = common.settings()
    client.require_broker(settings)
    known = control.flavors(settings)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise UsageError(
            f"no flavor {name!r}" + (f"; the nearest is {near[0]}" if near else "; see `commonplace flavor list`")
        )
    control.write(settings, {control.FLAVOR_KEY + name: None})
    say(f"flavor {name} deleted")
    emit_done({"name": name, "deleted": True})


def _resource(text: str, option: str = "--resource") -> tuple[str, int]:
    name, _, amount = text.partition("=")
    if not name or not _is_number(amount):
        raise UsageError(f"{option} {text}: must be CLASS=N, as in VGPU=1")
    return name, int(amount)


DIGITS_MAX = 18
"""More than any amount on the wire has; Python reads no number of thousands of digits."""


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= DIGITS_MAX


CELL_KEYS = ("cpus", "cpus_dedicated", "memory_mb", "page_kb", "threads")
CLASSES = {"cpus": "VCPU", "cpus_dedicated": "PCPU", "memory_mb": "MEMORY_MB"}


def _terms(option: str, text: str, keys: Sequence[str]) -> dict[str, object]:
    """KEY=VALUE pairs separated by commas: whole numbers, or words where the key takes them."""
    terms: dict[str, object] = {}
    for part in text.split(","):
        key, _, value = part.partition("=")
        if key not in keys or not value:
            near = difflib.get_close_matches(key, keys, n=1)
            hint = f"did you mean {near[0]}?" if near else f"write KEY=VALUE with {', '.join(keys)}"
            raise UsageError(f"{option} {text}: {part!r}: {hint}")
        terms[key] = int(value) if _is_number(value.removeprefix("-")) else value
    return terms


def _cell(text: str) -> dict[str, object]:
    return _terms("--cell", text, CELL_KEYS)


def _device(text: str) -> dict[str, object]:
    head, _, rest = text.partition(",")
    resource_class, count = _resource(head, "--device")
    more = _terms("--device", rest, ("shares", "policy")) if rest else {}
    return {"class": resource_class, "count": count, **more}


def _group(text: str) -> dict[str, object]:
    """NAME:CLASS=N,CLASS=N,beside=NAME."""
    name, _, rest = text.partition(":")
    resources, beside = dict[str, int](), ""
    for part in rest.split(","):
        if part.startswith("beside="):
            beside = part.removeprefix("beside=")
        else:
            resource_class, amount = _resource(part, f"--group {name}:")
            resources[resource_class] = resources.get(resource_class, 0) + amount
    return {"name": name, "resources": resources, "beside": beside}


def _parts(
    cells: Sequence[Mapping[str, object]],
    devices: Sequence[Mapping[str, object]],
    groups: Sequence[Mapping[str, object]],
) -> dict[str, int]:
    """What cells, devices and groups take together, by class."""
    total: dict[str, int] = {}
    for group in groups:
        asked = group["resources"]
        for name, amount in asked.items() if isinstance(asked, dict) else ():
            total[name] = total.get(name, 0) + amount
    for cell in cells:
        for key, name in CLASSES.items():
            if isinstance(amount := cell.get(key), int):
                total[name] = total.get(name, 0) + amount
    for one in devices:
        count, shares = one["count"], one.get("shares", 1)
        if isinstance(count, int) and isinstance(shares, int):
            total[str(one["class"])] = total.get(str(one["class"]), 0) + count * shares
    return total


def _checked(record: dict[str, object]) -> "Flavor":
    """The flavor, if it keeps the wire's bounds."""
    import msgspec

    from commonplace.core.laying import misuse
    from commonplace.core.records.control import Flavor

    try:
        flavor = msgspec.convert(record, Flavor)
    except msgspec.ValidationError as e:
        raise UsageError(f"flavor {record['name']!r}: {complaint(str(e))}") from e
    if why := misuse(flavor):
        raise UsageError(f"flavor {record['name']!r}: {why}")
    return flavor
