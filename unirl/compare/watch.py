"""The dashboard of `unirl compare --watch`: every cell with its curve so far, its speed and what is left."""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from unirl.compare.live import stopping_text
from unirl.compare.plan import Cell
from unirl.compare.results import Failure, read_curve
from unirl.compare.wording import duration
from unirl.trainer.progress import format_score

BLOCKS = "▁▂▃▄▅▆▇█"
SPARK = 12  # characters
REFRESH = 2.0  # per second
REREAD = 1.0  # seconds between two looks into the metrics of a cell
STATES = ("running", "failed", "done", "waiting")  # in the order in which they are listed
COLOURS = {"running": "cyan", "failed": "red", "done": "green", "waiting": "dim"}


@dataclass
class _Seen:
    """What is known of a cell."""

    state: str = "waiting"
    started: float = 0.0
    began_at: float | None = None  # fraction when this session took it up; None: not heard of yet
    fraction: float = 0.0
    seconds: float = 0.0  # of the whole cell, where it has ended
    note: str = ""
    scores: tuple[float, ...] = ()
    rate: float = 0.0  # samples per second
    read: float = 0.0

    def left(self, now: float) -> float | None:
        """Seconds that a running cell still needs at its pace so far; None before it has one."""
        progress = self.fraction - (self.began_at or 0.0)
        return (now - self.started) / progress * (1 - self.fraction) if progress > 0 else None


class Dashboard:
    """Shows all cells of a comparison while they run. Use as a context manager, on a terminal."""

    def __init__(
        self, console: Console, cells: Sequence[Cell], jobs: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console, self._jobs, self._clock = console, jobs, clock
        self._cells = {cell: _Seen() for cell in cells}
        self._begun = clock()
        self._live = Live(get_renderable=self.render, console=console, refresh_per_second=REFRESH)

    def __enter__(self) -> "Dashboard":
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def started(self, cell: Cell) -> None:
        """A cell begins."""
        seen = self._cells[cell]
        seen.state, seen.started = "running", self._clock()

    def moved(self, cell: Cell, progress: Mapping[str, Any]) -> None:
        """A running cell's state."""
        seen, now = self._cells[cell], self._clock()
        if progress:
            seen.fraction = float(progress.get("fraction", 0.0))
            if seen.began_at is None:
                seen.began_at = seen.fraction
        if now - seen.read >= REREAD:
            seen.read = now
            self._read(cell)

    def finished(self, cell: Cell, seconds: float) -> None:
        """A cell reached its end."""
        self._read(cell)
        self._ended(cell, "done", 1.0, seconds)

    def failed(self, cell: Cell, failure: Failure) -> None:
        """A cell failed."""
        self._ended(cell, "failed", self._cells[cell].fraction, self._clock() - self._cells[cell].started)
        self._cells[cell].note = failure.reason

    def stopping(self, cells: int) -> None:
        """The comparison was interrupted."""
        self._console.print(stopping_text(cells), highlight=False)

    def seconds_left(self) -> float | None:
        """Until all cells are done; None before any has a pace.

        A waiting cell is taken to need what the others of its task need, or all others where its task has none yet.
        """
        now, known = self._clock(), dict[str, list[float]]()
        for cell, seen in self._cells.items():
            left = seen.left(now) if seen.state == "running" else None
            if seen.state == "done" or left is not None:
                known.setdefault(cell.task, []).append(seen.seconds if left is None else now - seen.started + left)
        if not known:
            return None
        everything = _mean(seconds for task in known.values() for seconds in task)
        total = 0.0
        for cell, seen in self._cells.items():
            if seen.state in ("running", "waiting"):
                whole = _mean(known[cell.task]) if cell.task in known else everything
                left = seen.left(now) if seen.state == "running" else whole
                total += whole if left is None else left
        return total / self._jobs

    def render(self) -> RenderableType:
        """A line about all cells, and a row for each as far as the screen is high."""
        counts = {state: sum(seen.state == state for seen in self._cells.values()) for state in STATES}
        parts = [f"[{COLOURS[state]}]{count} {state}[/]" for state, count in counts.items() if count]
        left = self.seconds_left()
        parts.append(f"[dim]{duration(self._clock() - self._begun)} so far[/]")
        parts += [f"[dim]about {duration(left)} left[/]"] if left else []
        listed = sorted(self._cells.items(), key=lambda item: (STATES.index(item[1].state), -item[1].started))
        room = max(3, self._console.height - 4)
        more = [Text(f"and {len(listed) - room} more", style="dim")] if len(listed) > room else []
        return Group(Text.from_markup(" · ".join(parts)), self._table(listed[:room]), *more)

    def _table(self, listed: Sequence[tuple[Cell, _Seen]]) -> Table:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for name in ("cell", "state", "", "scores", "latest"):
            table.add_column(name, no_wrap=True)
        table.add_column("samples/s", justify="right", no_wrap=True)
        table.add_column("left", justify="right", no_wrap=True)
        now = self._clock()
        for cell, seen in listed:
            left = seen.left(now) if seen.state == "running" else None
            bar: RenderableType = ProgressBar(1.0, seen.fraction, width=16)
            table.add_row(
                escape(cell.title),
                f"[{COLOURS[seen.state]}]{seen.state}[/]",
                Text(seen.note, style="red", overflow="ellipsis") if seen.note else bar,
                spark(seen.scores),
                format_score(seen.scores[-1]) if seen.scores else "",
                f"{seen.rate:,.0f}" if seen.rate else "",
                duration(left) if left is not None else duration(seen.seconds) if seen.seconds else "",
                style="dim" if seen.state == "waiting" else None,
            )
        return table

    def _ended(self, cell: Cell, state: str, fraction: float, seconds: float) -> None:
        seen = self._cells[cell]
        seen.state, seen.fraction, seen.seconds = state, fraction, seconds

    def _read(self, cell: Cell) -> None:
        metrics = cell.folder / "metrics.jsonl"
        seen = self._cells[cell]
        seen.scores = read_curve(metrics, {}).score
        seen.rate = _rate(metrics)


def spark(scores: Sequence[float]) -> str:
    """The last scores as little blocks, the lowest of them at the bottom and the highest at the top."""
    shown = list(scores)[-SPARK:]
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    steps = len(BLOCKS) - 1
    return "".join(BLOCKS[round(steps * (score - low) / (high - low)) if high > low else 0] for score in shown)


def _rate(metrics: Path) -> float:
    """Samples per second of training at the last line of a metrics file; 0 before there is one."""
    lines = metrics.read_text().splitlines() if metrics.is_file() else []
    for line in reversed(lines[-2:]):  # the last one may be half written
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        return float(row["samples"]) / float(row["seconds"]) if row.get("seconds") else 0.0
    return 0.0


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)
