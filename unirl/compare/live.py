"""What a comparison looks like on the terminal while it runs, and its table at the end."""

import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import TaskID
from rich.table import Table

from unirl.compare.plan import Cell
from unirl.compare.results import Failure, Results, Spread, summarise
from unirl.compare.wording import duration, signed, spread_text
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
        lines = [line for line in failure.log.splitlines()[:-1] if line.strip()] or [failure.log]
        reason = escape(lines[-1].strip().removeprefix("unirl: "))
        log = escape(str(cell.folder / "log.txt"))
        self._ended(cell, f"[red]failed[/]  {escape(cell.title)}   {reason}   [dim]{log}[/]")

    def _ended(self, cell: Cell, line: str) -> None:
        self._bars.remove_task(self._running.pop(cell))
        self._done += 1
        self._bars.update(self._all, completed=self._done)
        self._console.print(line, highlight=False, soft_wrap=True)


def results_table(results: Results) -> Table:
    """Method x domain: start, end, change, seconds, with the spread over seeds."""
    table = Table(box=None, pad_edge=False, header_style="dim", row_styles=None)
    for name in ("domain", "task", "method"):
        table.add_column(name)
    for name in ("start", "end", "change", "time", "seeds"):
        table.add_column(name, justify="right")
    rows = summarise(results)
    for domain, task in results.tasks:
        for row in (row for row in rows if row.task == task):
            seeds = str(len(row.seeds)) + (f" [red]+ {row.failed} failed[/]" if row.failed else "")
            numbers = (
                _with_spread(row.start),
                _with_spread(row.end),
                signed(row.change.mean),
                duration(row.seconds.mean),
            )
            table.add_row(
                domain, task, f"[bold]{escape(row.method)}[/]", *(numbers if row.seeds else ("-",) * 4), seeds
            )
        table.add_section()
    return table


def _with_spread(spread: Spread) -> str:
    return format_score(spread.mean) + (f" [dim]({spread_text(spread)})[/]" if spread_text(spread) else "")
