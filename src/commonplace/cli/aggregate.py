"""`commonplace aggregate`: set, list, delete."""

from typing import Annotated

import typer

from commonplace.cli import control_records
from commonplace.cli.control_records import pairs
from commonplace.cli.output import Column, emit

app = typer.Typer(
    help="Set, list and delete aggregates: named sets of hosts with a zone and metadata.",
    no_args_is_help=True,
    epilog="\b\nExamples:\n  commonplace aggregate set east --label rack=r7 --zone z1\n"
    "  commonplace aggregate set blue --host h1 --host h2 --metadata filter_tenant_id=blue,green",
)

Texts = list[str] | None


@app.command("set", epilog="\b\nExample:\n  commonplace aggregate set ssd --host h1 --metadata ram_weight_multiplier=2")
def set_aggregate(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The aggregate's name.")],
    host: Annotated[Texts, typer.Option(metavar="HOST", help="A host in it; repeatable.")] = None,
    label: Annotated[Texts, typer.Option(metavar="KEY=VALUE", help="Hosts with all of these are in it.")] = None,
    zone: Annotated[str, typer.Option(metavar="ZONE", help="Availability zone of its hosts.")] = "",
    metadata: Annotated[Texts, typer.Option(metavar="KEY=VALUES", help="What filters go by; repeatable.")] = None,
) -> None:
    """Create an aggregate, or replace it whole; running schedulers take it up at once."""
    from commonplace.core.records.control import Aggregate

    fields = {
        "name": name,
        "hosts": host or [],
        "labels": pairs("--label", label),
        "zone": zone,
        "metadata": pairs("--metadata", metadata),
    }
    control_records.put(Aggregate, fields)


@app.command("list", epilog="\b\nExample:\n  commonplace aggregate list -o json")
def list_aggregates() -> None:
    """List the aggregates."""
    from commonplace.core.records.control import Aggregate

    rows = sorted(control_records.known(Aggregate).values(), key=lambda aggregate: aggregate.name)
    emit(rows, columns=["name", "zone", "hosts", "labels", Column("metadata", wide=True)])


@app.command("delete", epilog="\b\nExample:\n  commonplace aggregate delete east")
def delete(name: Annotated[str, typer.Argument(metavar="NAME", help="The aggregate's name.")]) -> None:
    """Delete an aggregate; its hosts stay where they are."""
    from commonplace.core.records.control import Aggregate

    control_records.delete(Aggregate, name)
