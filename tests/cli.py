"""The command line as a user runs it: a process, its exit code, its two streams."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import typer

from commonplace.cli import common, main
from commonplace.settings import Settings

RUN_TIMEOUT_S = 60
CALL = [sys.executable, "-c", "import sys; from commonplace.cli.main import main; sys.exit(main())"]


def run(*arguments: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run `commonplace ARGUMENTS` off a terminal, with no settings but those in `env`."""
    return subprocess.run(
        [*CALL, *arguments], env=environment(env), capture_output=True, text=True, timeout=RUN_TIMEOUT_S, check=False
    )


def at(settings: Settings) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`run` on the broker and under the prefix of these settings."""
    env = {
        "COMMONPLACE__KAFKA__BOOTSTRAP_SERVERS": settings.bootstrap,
        "COMMONPLACE__TOPICS__PREFIX": settings.topics.prefix,
    }
    return partial(run, env=env)


def start(*arguments: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Start `commonplace ARGUMENTS`; the caller ends it."""
    return subprocess.Popen(
        [*CALL, *arguments], env=environment(env), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def environment(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without settings of commonplace, and `env` on top."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("COMMONPLACE")}
    return {**clean, **(env or {})}


def parse(words: Sequence[str]) -> None:
    """Have the command line parse these words to the last; nothing is called. Raises what a person would be told."""
    root = typer.main.get_command(main.app)
    common.prepare(root)
    common.forget()
    _parse(root, words, None)


def _parse(command: Any, words: Sequence[str], parent: Any) -> None:
    context = command.make_context(command.name, list(words), parent=parent)
    with context:
        rest = [*context._protected_args, *context.args]
        if hasattr(command, "resolve_command") and rest:
            _, member, left = command.resolve_command(context, rest)
            _parse(member, left, context)


def assert_one_line(answer: subprocess.CompletedProcess[str], code: int, *parts: str) -> None:
    """The command failed as commands should: exit code, one line on stderr with these parts, nothing on stdout."""
    assert answer.returncode == code, answer.stderr
    assert answer.stdout == ""
    assert len(answer.stderr.splitlines()) == 1, answer.stderr
    for part in parts:
        assert part in answer.stderr
