"""`commonplace flavor`: set, list, delete."""

import difflib
from typing import TYPE_CHECKING, Annotated

import typer

from commonplace.cli import common
from commonplace.cli.control_records import pairs
from commonplace.cli.output import Column, emit, say
from commonplace.core.complaints import complaint
from commonplace.errors import UsageError

if TYPE_CHECKING:
    from commonplace.core.records import Flavor

app = typer.Typer(
    help="Set, list and delete flavors.",
    no_args_is_help=True,
    epilog="\b\nExamples:\n  commonplace flavor list\n  commonplace flavor set m1.huge --vcpus 16 --memory-mb 32768 --disk-gb 320",
)


@app.command(
    "set", epilog="\b\nExample:\n  commonplace flavor set gpu.large --vcpus 8 --memory-mb 32768 --resource VGPU=1"
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
) -> None:
    """Create a flavor in the pool, or replace it whole."""
    from commonplace.core.ask import PROFILES
    from commonplace.kafka import client, control

    settings = common.settings()
    common_classes = {"VCPU": vcpus, "MEMORY_MB": memory_mb, "DISK_GB": disk_gb}
    record = {
        "type": "flavor",
        "name": name,
        "resources": {k: v for k, v in common_classes.items() if v} | dict(map(_resource, resource or [])),
        "traits_required": trait or [],
        "traits_forbidden": forbid or [],
        "pool": settings.topics.pool,
        "profile": profile,
        "spread": spread,
        "extra_specs": pairs("--extra-spec", extra_spec),
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
    if profile not in PROFILES and f"profile/{profile}" not in control.read(settings):
        say(f"warning: no profile {profile!r} yet; requests for {name} are refused until it is written to control")


@app.command("list", epilog="\b\nExample:\n  commonplace flavor list -o json")
def list_flavors() -> None:
    """List the flavors of all pools."""
    from commonplace.kafka import client, control

    settings = common.settings()
    client.require_broker(settings)
    rows = sorted(control.flavors(settings).values(), key=lambda flavor: flavor.name)
    wide = [Column(key, wide=True) for key in ("profile", "traits_required", "traits_forbidden", "extra_specs")]
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
        raise UsageError(f"no flavor {name!r}" + (f"; the nearest is {near[0]}" if near else "; see `flavor list`"))
    control.write(settings, {control.FLAVOR_KEY + name: None})
    say(f"flavor {name} deleted")


def _resource(text: str) -> tuple[str, int]:
    name, _, amount = text.partition("=")
    if not name or not amount.isascii() or not amount.isdigit():
        raise UsageError(f"--resource {text}: must be CLASS=N, as in VGPU=1")
    return name, int(amount)


def _checked(record: dict[str, object]) -> "Flavor":
    """The flavor, if it keeps the wire's bounds."""
    import msgspec

    from commonplace.core.records import Flavor

    try:
        return msgspec.convert(record, Flavor)
    except msgspec.ValidationError as e:
        raise UsageError(f"flavor {record['name']!r}: {complaint(str(e))}") from e
