"""`commonplace profile`: set, list, delete."""

import json
from typing import Annotated, Literal

import typer

from commonplace.cli import control_records
from commonplace.cli.control_records import numbers, pairs
from commonplace.cli.output import Column, emit
from commonplace.errors import UsageError

app = typer.Typer(
    help="Set, list and delete profiles: what hosts are ranked by.",
    no_args_is_help=True,
    epilog="\b\nExamples:\n  commonplace profile set tight --weigher cpu=-1 --weigher ram=-1\n"
    "  commonplace profile set ours --scale relative --weigher RAMWeigher=2 --filter JsonFilter --subset-size 3",
)

Texts = list[str] | None


@app.command("set", epilog="\b\nExample:\n  commonplace profile set spread2 --weigher cpu=1 --instances-max 80")
def set_profile(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The profile's name.")],
    weigher: Annotated[Texts, typer.Option(metavar="NAME=X", help="Weigher and multiplier; repeatable.")] = None,
    filter: Annotated[Texts, typer.Option(metavar="NAME", help="Filter to ask; repeatable. None: the usual.")] = None,
    scale: Annotated[
        Literal["absolute", "relative"],
        typer.Option(metavar="absolute|relative", help="relative: normalised over the hosts that pass, as in Nova."),
    ] = "absolute",
    subset_size: Annotated[int, typer.Option(metavar="N", min=1, help="Choose at random among the best N.")] = 1,
    builds_max: Annotated[int, typer.Option(metavar="N", min=0, help="Builds in progress on a host; 0: any.")] = 8,
    instances_max: Annotated[int, typer.Option(metavar="N", min=0, help="Instances on a host; 0: any.")] = 50,
    metric: Annotated[Texts, typer.Option(metavar="NAME=X", help="Metric and its ratio; repeatable.")] = None,
    isolated_host: Annotated[Texts, typer.Option(metavar="HOST", help="For isolated images; repeatable.")] = None,
    isolated_image: Annotated[Texts, typer.Option(metavar="ID", help="For isolated hosts; repeatable.")] = None,
    other: Annotated[
        Texts, typer.Option("--set", metavar="FIELD=JSON", help="Any other field of the record; repeatable.")
    ] = None,
) -> None:
    """Create a profile, or replace it whole; running schedulers take it up at once."""
    from commonplace.core.records.control import Profile

    fields = {
        "name": name,
        "weighers": numbers("--weigher", weigher),
        "filters": filter or [],
        "scale": scale,
        "subset_size": subset_size,
        "builds_max": builds_max,
        "instances_max": instances_max,
        "metrics": numbers("--metric", metric),
        "isolated_hosts": isolated_host or [],
        "isolated_images": isolated_image or [],
    }
    for field, text in pairs("--set", other).items():
        if field not in Profile.__struct_fields__:
            raise UsageError(f"--set {field}: a profile has {', '.join(Profile.__struct_fields__[1:])}")
        try:
            fields[field] = json.loads(text)
        except (ValueError, RecursionError) as e:
            raise UsageError(f"--set {field}: {text:.80} is no JSON; a text stands in quotes") from e
    control_records.put(Profile, fields)


@app.command("list", epilog="\b\nExample:\n  commonplace profile list -o json")
def list_profiles() -> None:
    """List the profiles: those built in, and those on control, which replace them."""
    from commonplace.core.ask import PROFILES
    from commonplace.core.records.control import Profile

    rows = sorted({**PROFILES, **control_records.known(Profile)}.values(), key=lambda profile: profile.name)
    wide = [Column(key, wide=True) for key in ("filters", "builds_max", "instances_max")]
    emit(rows, columns=["name", "scale", "weighers", "subset_size", *wide])


@app.command("delete", epilog="\b\nExample:\n  commonplace profile delete tight")
def delete(name: Annotated[str, typer.Argument(metavar="NAME", help="The profile's name.")]) -> None:
    """Delete a profile of control; one that is built in comes back into force."""
    from commonplace.core.records.control import Profile

    control_records.delete(Profile, name)
