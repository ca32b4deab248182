"""`python -m fuzz.guided MINUTES`: fuzzing guided by coverage (atheris): bytes that reach new lines are kept and mutated further.

Decoding is C and cannot be seen; the Python behind it can. An input is a choice of target and key, and the records, one a line. The loop
of agent, replica and frontend goes on from input to input, and begins anew after some hundreds; the others begin anew each time.
"""

import os
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Final

import atheris

with atheris.instrument_imports(include=["commonplace.core", "commonplace.frontend"]):
    from commonplace.core.view import View
    from fold_logs import MOVES, Writer
    from fuzz.mutate import FIELDS, NUMBERS, STRINGS
    from fuzz.targets import (
        HOSTS,
        STRANGE_KEYS,
        TOPICS,
        Loop,
        Trial,
        check_decoded,
        check_reason,
        check_state,
        examples,
    )
    from world import Raw

INPUT_BYTES_MAX: Final = 16_384
INPUT_S_MAX: Final = 10
INPUTS_A_LIFE: Final = 300
KEYS: Final = (*STRANGE_KEYS[:16], b"h0/0", b"h0/0/delta", b"h0/start", b"h1/start", b"h0", b"h1", b"small", b"large/1", b"b0", b"r9",
               b"flavor/large", b"host/h1", b"profile/spread")  # fmt: skip


def guided(minutes: float) -> None:
    """Fuzz for some minutes; does not return, the process ends with 0, or otherwise with the input that broke a rule in a file."""
    directory = Path(tempfile.mkdtemp(prefix="commonplace-fuzz-"))
    corpus = directory / "corpus"
    corpus.mkdir()
    for i, (topic, found) in enumerate(examples()):
        (corpus / f"{i}").write_bytes(bytes((i % 3, TOPICS.index(topic), len(KEYS) - 1 - i % 13)) + b"".join(found))
    words = directory / "words"
    words.write_text("".join(f'"{_escaped(word)}"\n' for word in (*FIELDS, *NUMBERS[:20], *STRINGS[:20])))
    options = [
        f"-max_total_time={int(minutes * 60)}",
        f"-max_len={INPUT_BYTES_MAX}",
        f"-timeout={INPUT_S_MAX}",
        f"-dict={words}",
        f"-artifact_prefix={directory}/",
        "-rss_limit_mb=2048",
        "-print_final_stats=1",
    ]
    print(f"inputs, and the one that breaks a rule if any, are under {directory}", flush=True)
    os.chdir(directory)
    atheris.Setup([sys.argv[0], *options, str(corpus)], _inputs())
    atheris.Fuzz()


def _inputs() -> Callable[[bytes], None]:
    """The function that takes one input after another."""
    loop, taken = Loop(Random(0)), 0

    def take(data: bytes) -> None:
        nonlocal loop, taken
        if len(data) < 4:
            return
        what, topic, key = data[0] % 3, TOPICS[data[1] % len(TOPICS)], KEYS[data[2] % len(KEYS)]
        lines = data[3:].split(b"\n")
        if what == 0:
            for line in lines:
                check_decoded(topic, line)
        elif what == 1:
            fold(data[2], lines)
        else:
            taken += 1
            if loop.dead or taken % INPUTS_A_LIFE == 0:
                loop = Loop(Random(0))
            for line in lines[:20]:
                loop.take(Trial(topic, key, line))
            loop.settle()

    return take


def fold(choice: int, lines: list[bytes]) -> None:
    """Fold lines after the recorded log of two hosts, under a key of it."""
    log = _written(choice % 8)
    view, end = View(1), len(log)
    for offset, at_ms, key, value in log:
        view.fold(0, offset, at_ms, key, value, 0)
    key = log[choice % end][2]
    for i, line in enumerate(lines):
        row, reason = view.fold(0, end + i, 1_000 + end + i, key, line, 0)
        check_reason(reason)
        if row is not None:
            check_state(row.host)


@cache
def _written(seed: int) -> list[Raw]:
    random = Random(seed)
    log: list[Raw] = []
    writers = [Writer(host, log, random) for host in HOSTS]
    for _ in range(10 * seed):
        random.choice(writers).move(random.choice(MOVES))
    return log


def _escaped(word: bytes) -> str:
    return "".join(chr(b) if 32 <= b < 127 and b not in b'"\\' else f"\\x{b:02x}" for b in word)


if __name__ == "__main__":
    guided(float(sys.argv[1]))
