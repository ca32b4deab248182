"""Data to stdout in the form asked for: table, wide, json, yaml, name; talk to stderr."""

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, TextIO

import msgspec
from msgspec import Struct

from commonplace.cli.common import Output, output
from commonplace.errors import UsageError
from commonplace.terminal import escaped, every_line, one_line
from commonplace.words import figure

_GAP: Final = "   "
_PLAIN: Final = re.compile(r"[A-Za-z/][A-Za-z0-9_./@-]*( [A-Za-z0-9_./@-]+)*")
_YAML_WORDS: Final = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}


class Column(Struct, frozen=True):
    """One column of a table: the key in a row and its heading; `wide` ones show with -o wide only."""

    key: str
    title: str = ""
    wide: bool = False


def emit(data: Any, *, columns: Sequence[Column | str] = (), name: str = "name", form: Output | None = None) -> None:
    """Print rows (a sequence) or one object (a mapping or Struct) in the form asked for with -o.

    `columns` order the table (all keys of the first row when empty); `name` is the key that -o name prints.
    """
    plain = _plain(data)
    match form or output():
        case "json":
            _print(_json(plain, indent=2))
        case "yaml":
            _print("\n".join(_yaml(plain)))
        case "name":
            for row in plain if isinstance(plain, list) else [plain]:
                _print(_cell(row[name]))
        case ("table" | "wide") as shape:
            if isinstance(plain, list):
                _print_table(plain, _columns(plain, columns), wide=shape == "wide")
            else:
                _print_object(plain)


def emit_done(data: Any, *, name: str = "name") -> None:
    """Print what was done for a machine, in the form asked for; a person has read it on stderr."""
    if output() in ("json", "yaml", "name"):
        emit(data, name=name)


def emit_line(record: Any, *, lines: Iterable[str] | None = None, form: Output | None = None) -> None:
    """Print one record of a stream at once: a JSON line, a YAML document, or as `lines` (default: one, key=value)."""
    plain = _plain(record)
    match form or output():
        case "json":
            _print(_json(plain))
        case "yaml":
            _print("\n".join(["---", *_yaml(plain)]))
        case _:
            told = ["  ".join(f"{k}={_cell(v)}" for k, v in plain.items())] if lines is None else lines
            _print("\n".join(map(one_line, told)))
    sys.stdout.flush()


def require_no_name() -> None:
    """Refuse -o name where the answer is one report without a name, before the work for it begins."""
    if output() == "name":
        raise UsageError("-o name: the answer is a report, which has no name: choose table, wide, json or yaml")


def say(text: str) -> None:
    """Tell a person something, on stderr."""
    print(every_line(text), file=sys.stderr, flush=True)


@contextmanager
def until_stopped(watch: bool) -> Iterator[None]:
    """Where `watch`, Ctrl-C and SIGTERM end the block and all is well: a watch that is stopped has done its work."""
    try:
        yield
    except KeyboardInterrupt:
        if not watch:
            raise


def coloured(stream: TextIO) -> bool:
    """Whether colour may be written there: a terminal, and NO_COLOR unset."""
    import os

    return stream.isatty() and not os.environ.get("NO_COLOR")


def _plain(data: Any) -> Any:
    """Builtins of rows or an object; a record shows its defaults, which stay off the wire."""
    if isinstance(data, Struct):
        data = msgspec.structs.asdict(data)
    elif isinstance(data, list | tuple):
        data = [_plain(row) for row in data]
    return msgspec.to_builtins(data, enc_hook=str)


def _print(text: str) -> None:
    print(text, file=sys.stdout)


def _columns(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column | str]) -> list[Column]:
    wanted = columns or (list(rows[0]) if rows else [])
    return [c if isinstance(c, Column) else Column(c) for c in wanted]


def _print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], *, wide: bool) -> None:
    shown = [c for c in columns if wide or not c.wide]
    head = [(c.title or c.key.replace("_", " ")).upper() for c in shown]
    right = [bool(rows) and all(_is_number(row.get(c.key)) for row in rows) for c in shown]
    cells = [head, *([_cell(row.get(c.key)) for c in shown] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(shown))]
    for line in cells:
        padded = (text.rjust(w) if r else text.ljust(w) for text, w, r in zip(line, widths, right, strict=True))
        _print(_GAP.join(padded).rstrip())


def _print_object(data: Mapping[str, Any]) -> None:
    cells = [(_cell(key), _cell(value)) for key, value in data.items()]
    width = max((len(key) for key, _ in cells), default=0)
    for key, value in cells:
        _print(f"{key.ljust(width)}{_GAP}{value}".rstrip())


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(value: Any) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return figure(value)
        case dict():
            return one_line(",".join(f"{k}={_cell(v)}" for k, v in value.items()))
        case list() | tuple():
            return one_line(",".join(_cell(v) for v in value))
        case _:
            return one_line(str(value))


def _json(value: Any, indent: int | None = None) -> str:
    """JSON that people can read, without what drives a terminal: only what is printed as itself is not escaped."""
    lines = json.dumps(value, indent=indent, ensure_ascii=False).split("\n")
    return "\n".join(escaped(line, lambda c: json.dumps(c)[1:-1]) for line in lines)


def _yaml(value: Any, indent: str = "") -> list[str]:
    """Block YAML of plain data; a scalar that could be misread is written as JSON, which YAML contains."""
    if isinstance(value, dict) and value:
        return [line for key, item in value.items() for line in _yaml_entry(f"{indent}{_scalar(key)}:", item, indent)]
    if isinstance(value, list) and value:
        lines = []
        for item in value:
            first, *rest = _yaml(item, indent + "  ")
            lines += [f"{indent}- {first.lstrip()}", *rest]
        return lines
    return [indent + _scalar(value)]


def _yaml_entry(label: str, item: Any, indent: str) -> list[str]:
    if isinstance(item, dict | list) and item:
        return [label, *_yaml(item, indent + "  ")]
    return [f"{label} {_scalar(item)}"]


def _scalar(value: Any) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _YAML_WORDS:
        return value
    return json.dumps(value, ensure_ascii=True)
