"""`commonplace schema`: JSON Schema of the records on the wire."""

import typer

from commonplace.cli import common
from commonplace.cli.output import emit
from commonplace.errors import UsageError

app = typer.Typer()


@app.command(
    epilog="\b\nExample:\n  commonplace schema claims > claims.schema.json\nIt is JSON unless -o yaml says else."
)
def schema(
    topic: str = typer.Argument("", metavar="TOPIC", help="hosts, claims, requests, … ; all of them unless told."),
) -> None:
    """Print the JSON Schema of every record, or of those on one topic."""
    import msgspec

    from commonplace.core.records.topics import TOPIC_RECORDS

    form = common.output(unless_told="json")
    if form not in ("json", "yaml"):
        raise UsageError(f"-o {form}: the answer is a JSON Schema: choose json or yaml")
    if topic and topic not in TOPIC_RECORDS:
        raise UsageError(f"no records are defined for topic {topic!r}: choose one of {', '.join(TOPIC_RECORDS)}")
    wanted = {topic: TOPIC_RECORDS[topic]} if topic else TOPIC_RECORDS
    schemas, components = msgspec.json.schema_components(wanted.values(), ref_template="#/$defs/{name}")
    page = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Records of commonplace by topic",
        **(schemas[0] if topic else {"properties": dict(zip(wanted, schemas, strict=True))}),
        "$defs": components,
    }
    emit(page, form=form)
