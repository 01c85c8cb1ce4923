"""What a comparison looks like on the terminal while it runs: the default, and the plain lines of a log file."""

import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import TaskID

from unirl.compare.plan import Cell
from unirl.compare.results import Failure
from unirl.compare.wording import duration
from unirl.trainer.progress import bar, format_score


class LiveCells:
    """One bar per running cell and one for all; a line for every finished or failed cell. Use as a context manager."""

    def __init__(self, console: Console, cells: int) -> None:
        self._console = console
        self._bars = bar(console)
        self._running: dict[Cell, TaskID] = {}
        self._all = self._bars.add_task("all cells", total=cells, score="")
        self._done = 0

    def __enter__(self) -> "LiveCells":
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._console.is_terminal:
            self._bars.stop()

    def started(self, cell: Cell) -> None:
        """A cell begins: show its bar."""
        self._running[cell] = self._bars.add_task(escape(cell.title), total=1.0, score="")

    def moved(self, cell: Cell, progress: Mapping[str, Any]) -> None:
        """A running cell's state."""
        score = progress.get("score")
        shown = "" if score is None else f"score {format_score(score)}"
        self._bars.update(self._running[cell], completed=progress.get("fraction", 0.0), score=shown)
        partial = sum(self._bars.tasks[self._bars.task_ids.index(task)].completed for task in self._running.values())
        self._bars.update(self._all, completed=self._done + partial)

    def finished(self, cell: Cell, seconds: float) -> None:
        """A cell reached its end."""
        result = json.loads((cell.folder / "result.json").read_text())
        scores = f"{format_score(result.get('score_start'))} → {format_score(result.get('score_end'))}"
        self._ended(cell, f"[green]done[/]    {escape(cell.title)}   {scores}   [dim]{duration(seconds)}[/]")

    def failed(self, cell: Cell, failure: Failure) -> None:
        """A cell failed: its last words and where to read the rest."""
        told = f"{escape(failure.reason)}   [dim]{escape(failure.file)}[/]"
        self._ended(cell, f"[red]failed[/]  {escape(cell.title)}   {told}")

    def stopping(self, cells: int) -> None:
        """The comparison was interrupted."""
        self._console.print(stopping_text(cells), highlight=False, soft_wrap=True)

    def _ended(self, cell: Cell, line: str) -> None:
        self._bars.remove_task(self._running.pop(cell))
        self._done += 1
        self._bars.update(self._all, completed=self._done)
        self._console.print(line, highlight=False, soft_wrap=True)


def stopping_text(cells: int) -> str:
    """What is said after an interruption."""
    return (
        f"stopping: {cells} {'cells save' if cells > 1 else 'cell saves'} after this iteration; Ctrl-C again: at once"
    )
