"""`commonplace completion`: a script for the shell."""

from typing import Literal

import typer

app = typer.Typer()


@app.command(epilog="\b\nExample:\n  source <(commonplace completion bash)")
def completion(
    shell: Literal["bash", "zsh", "fish"] = typer.Argument(..., metavar="SHELL", help="The shell to complete in."),
) -> None:
    """Print the shell's completion script, for commands and their options."""
    from typer._completion_shared import get_completion_script

    from commonplace.cli.main import COMPLETE_VARIABLE, PROGRAM

    print(get_completion_script(prog_name=PROGRAM, complete_var=COMPLETE_VARIABLE, shell=shell))
