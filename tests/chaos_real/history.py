"""A client's own history, a JSON object a line, written before it acts and as it learns: what survives its SIGKILL is what it knew.

    begin    a process of the client begins               acked    the broker acknowledged the request: p, o
    submit   build                                        answer   decision, or error and text
    confirm  allocations; before they are sent            refused  the library refused the confirm: too late
    release  allocations; before they are sent            taken    the broker acknowledged a confirm or release: type, allocation, p, o
    cancel   before it is sent                            outcome  what the host answered: allocation, outcome

`at` is milliseconds of a clock that all processes of a machine share, grows only, and counts suspend.
"""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from msgspec import Struct, field

_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def now_ms() -> int:
    """The clock of the histories."""
    return time.clock_gettime_ns(_CLOCK) // 1_000_000


class Writer:
    """Appends to a history; each line is the kernel's before the call returns. Thread-safe."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        self._lock = threading.Lock()

    def write(self, what: str, **fields: Any) -> None:
        """One line."""
        line = json.dumps({"what": what, "at": now_ms(), **fields}, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            self._file.write(line)


class Asked(Struct):
    """What a client did about one request, and what it was told."""

    build: dict[str, Any]
    submitted_ms: int
    acked: tuple[int, int] | None = None
    decision: dict[str, Any] | None = None
    errors: list[str] = field(default_factory=list)
    cancelled: bool = False


class Told(Struct):
    """What a client did about one allocation, and what it was told."""

    request: str
    confirm_sent: bool = False
    confirm_refused: bool = False
    confirmed_ms: int = -1  # when the broker's acknowledgement of the first confirm came
    release_sent: bool = False
    released: bool = False  # acknowledged
    outcomes: list[str] = field(default_factory=list)
    places: list[tuple[str, int, int]] = field(
        default_factory=list
    )  # acknowledged records on claims: type, partition, offset


class History(Struct):
    """One client's history, folded."""

    asked: dict[str, Asked] = field(default_factory=dict)
    told: dict[str, Told] = field(default_factory=dict)
    begins: int = 0
    answers: list[tuple[str, dict[str, Any]]] = field(default_factory=list)  # every decision it was ever given

    def open(self) -> list[dict[str, Any]]:
        """Requests that were never answered with a decision, in the order of their submit."""
        return [asked.build for asked in self.asked.values() if asked.decision is None]

    def held(self) -> dict[str, list[str]]:
        """Request → allocations that it confirmed and never gave back."""
        found: dict[str, list[str]] = {}
        for allocation, told in self.told.items():
            if told.confirm_sent and not told.release_sent:
                found.setdefault(told.request, []).append(allocation)
        return found


def read(path: Path) -> History:
    """Fold a history; a last line that was cut off by the client's end is left out."""
    history = History()
    for line in lines(path):
        _fold(history, line)
    return history


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a history that were written whole."""
    if path.exists():
        with path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield json.loads(line)


def _fold(history: History, line: dict[str, Any]) -> None:
    match line["what"]:
        case "begin":
            history.begins += 1
        case "submit":
            build = line["build"]
            history.asked.setdefault(build["id"], Asked(build, line["at"]))
        case "acked":
            history.asked[line["id"]].acked = (line["p"], line["o"])
        case "answer" if "decision" in line:
            history.answers.append((line["id"], line["decision"]))
            history.asked[line["id"]].decision = line["decision"]
        case "answer":
            history.asked[line["id"]].errors.append(line["error"])
        case "cancel":
            history.asked[line["id"]].cancelled = True
        case "confirm" | "release" | "refused":
            for allocation in line["allocations"]:
                told = history.told.setdefault(allocation, Told(line["id"]))
                told.confirm_sent |= line["what"] == "confirm"
                told.release_sent |= line["what"] == "release"
                told.confirm_refused |= line["what"] == "refused"
        case "taken":
            _taken(history.told[line["allocation"]], line)
        case "outcome":
            history.told[line["allocation"]].outcomes.append(line["outcome"])
        case other:
            raise AssertionError(f"no line {other!r} is ever written")


def _taken(told: Told, line: dict[str, Any]) -> None:
    told.places.append((line["type"], line["p"], line["o"]))
    if line["type"] == "release":
        told.released = True
    elif told.confirmed_ms < 0:
        told.confirmed_ms = line["at"]
