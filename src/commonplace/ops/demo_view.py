"""The demo as it is seen: a strip of hosts that fills up, and figures; in colour on a terminal, as plain lines elsewhere."""

from collections.abc import Callable, Sequence
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from commonplace.ops import render
from commonplace.ops.demo import Frame, Plan, Screen

BLOCKS: Final = "▁▂▃▄▅▆▇█"
EMPTY: Final = "·"
COLOURS: Final = ("green4", "green3", "chartreuse3", "yellow3", "gold3", "orange3", "dark_orange3", "red3")
ROWS_MAX: Final = 8
BAR: Final = 16
PLAIN_EVERY_S: Final = 2.0


class Plain(Screen):
    """A line for each stage, and one every two seconds."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._next_s = 0.0
        self._refused = False

    def stage(self, text: str) -> None:
        """Print it."""
        self._tell(text)

    def frame(self, frame: Frame) -> None:
        """Print the figures when two seconds have passed, and the refusal once."""
        if frame.refusal is not None and not self._refused:
            self._refused = True
            self._tell(render.decision(frame.refusal)[0])
        if frame.progress and frame.elapsed_s >= self._next_s:
            self._next_s = frame.elapsed_s + PLAIN_EVERY_S
            self._tell(f"{frame.elapsed_s:4.0f} s  {figures(frame)}")


class Terminal(Screen):
    """One live view, redrawn in place; a context manager."""

    def __init__(self, plan: Plan, console: Console) -> None:
        self._plan, self._console = plan, console
        self._stage = ""
        self._frame: Frame | None = None
        self._live = Live(console=console, refresh_per_second=8, transient=True)

    def __enter__(self) -> "Terminal":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def stage(self, text: str) -> None:
        """Say it in the title."""
        self._stage = text
        self._draw()

    def frame(self, frame: Frame) -> None:
        """Draw it."""
        self._frame = frame
        self._draw()

    def _draw(self) -> None:
        title = f"commonplace demo · {self._plan.broker}"
        self._live.update(Panel(self._content(), title=title, subtitle=self._stage, padding=(0, 1)), refresh=True)

    def _content(self) -> RenderableType:
        frame = self._frame
        if frame is None:
            return Text("…")
        parts: list[RenderableType] = [strip(frame.shares, max(20, self._console.width - 4)), Text(""), _table(frame)]
        if frame.refusal is not None:
            parts += [Text(""), Text("\n".join(render.decision(frame.refusal)), style="dim")]
        return Group(*parts)


def _table(frame: Frame) -> Table:
    table = Table.grid(padding=(0, 2))
    for _ in range(3):
        table.add_column(no_wrap=True)
    progress = frame.progress
    bars = [Text.assemble(f"{name:<10}", bar(share), f" {share:4.0%}") for name, share in frame.used.items()]
    counts = [
        Text(f"{frame.decisions_per_s:7.0f} decisions/s"),
        Text(f"latency p50 {_ms(progress.get('p50_ms'))}, p99 {_ms(progress.get('p99_ms'))}"),
        Text(f"conflicts {progress.get('conflicts', 0)} ({conflict_fraction(frame):.3f} per grant)"),
    ]
    amounts = [
        Text(f"{progress.get('placed', 0):7} placed, {refused(frame)} refused"),
        Text(f"{frame.instances:7} instances on {sum(s > 0 for s in frame.shares)} of {len(frame.shares)}"),
        Text(f"{frame.builds:7} building, {progress.get('released', 0)} released"),
    ]
    for i in range(max(len(bars), len(counts))):
        table.add_row(*(column[i] if i < len(column) else Text("") for column in (counts, amounts, bars)))
    return table


def strip(shares: Sequence[float], width: int) -> Text:
    """Hosts as cells in the order of their names, each as high and warm as it is full; several hosts a cell where they are many."""
    text = Text()
    cells = grouped(shares, width * ROWS_MAX)
    for at in range(0, len(cells), width):
        for share in cells[at : at + width]:
            level = min(len(BLOCKS) - 1, int(share * len(BLOCKS)))
            text.append(BLOCKS[level] if share > 0 else EMPTY, COLOURS[level] if share > 0 else "dim")
        text.append("\n" if at + width < len(cells) else "")
    return text


def grouped(shares: Sequence[float], cells_max: int) -> list[float]:
    """The shares in at most `cells_max` cells: the mean of as many neighbours as it takes, the same for each cell but the last."""
    size = -(-len(shares) // cells_max) or 1
    return [sum(part := shares[at : at + size]) / len(part) for at in range(0, len(shares), size)]


def bar(share: float) -> str:
    """A share as a bar of BAR cells."""
    full = round(max(0.0, min(1.0, share)) * BAR)
    return "█" * full + "░" * (BAR - full)


def figures(frame: Frame) -> str:
    """The figures in one line."""
    progress = frame.progress
    used = ", ".join(f"{name} {share:.0%}" for name, share in frame.used.items())
    return (
        f"{frame.decisions_per_s:.0f} decisions/s, {progress['placed']} placed, {refused(frame)} refused, "
        f"p50 {_ms(progress['p50_ms'])}, p99 {_ms(progress['p99_ms'])}, conflicts {conflict_fraction(frame):.3f}, "
        f"hosts used {sum(s > 0 for s in frame.shares)} of {len(frame.shares)} ({used})"
    )


def refused(frame: Frame) -> int:
    """Requests refused so far, the one that cannot fit among them; the load counts that one at its end."""
    return int(frame.progress.get("refused", 0)) + (frame.refusal is not None)


def conflict_fraction(frame: Frame) -> float:
    """Rejected claims per granted one so far."""
    granted = frame.progress.get("granted", 0)
    return float(frame.progress["conflicts"] / granted) if granted else 0.0


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} ms"
