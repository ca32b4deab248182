"""`commonplace flavors`: short for `flavor list`."""

import typer

from commonplace.cli import flavor

app = typer.Typer()
app.command(epilog="\b\nExample:\n  commonplace flavors -o wide")(flavor.list_flavors)
