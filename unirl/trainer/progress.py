"""How far a training is: one protocol and three ways to show it (a live bar, a file for a parent process, nothing)."""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

SCORE = "eval/score"
FAILED = "_failed"  # `train/NAME_failed` is the share of rows that the reward function NAME could not score
ETA_WINDOW = 3600.0  # seconds of history behind the remaining-time estimate; long, as evaluations make the pace uneven


class ProgressSink(Protocol):
    """Whoever wants to know how far a training is."""

    def start(self, total: int, unit: str, title: str) -> None:
        """Training begins: `total` samples, counted in `unit` (environment steps, tokens)."""
        ...

    def advance(self, iteration: int, fraction: float, metrics: Mapping[str, float]) -> None:
        """An iteration is done; `fraction` in [0, 1] of the budget is used, `metrics` are this iteration's."""
        ...

    def finish(self, result: Mapping[str, Any]) -> None:
        """Training ended; `result` is the content of `result.json`."""
        ...


class SilentProgress:
    """Shows nothing."""

    def start(self, total: int, unit: str, title: str) -> None:
        """Nothing."""

    def advance(self, iteration: int, fraction: float, metrics: Mapping[str, float]) -> None:
        """Nothing."""

    def finish(self, result: Mapping[str, Any]) -> None:
        """Nothing."""


class RichProgress:
    """A live bar: title, fraction, elapsed and remaining time, latest score, and how often reward functions fail.

    Where the output is no terminal (a log file, a pipe) it writes one line per evaluation instead.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._bar = bar(self._console)
        self._task: TaskID | None = None
        self._title = ""
        self._score = self._failures = ""

    def start(self, total: int, unit: str, title: str) -> None:
        """Show an empty bar."""
        self._title = title
        if not self._console.is_terminal:
            self._line(f"{title}: {total:,} {unit}")
            return
        self._task = self._bar.add_task(title, total=1.0, score="")
        self._bar.start()

    def advance(self, iteration: int, fraction: float, metrics: Mapping[str, float]) -> None:
        """Move the bar; on a log, write a line if there is a new score."""
        score = metrics.get(SCORE)
        if score is not None:
            self._score = f"score {format_score(score)}"
        if any(name.startswith("train/") for name in metrics):
            self._failures = "".join(f"  {text}" for text in failures(metrics))
        if self._task is not None:
            self._bar.update(self._task, completed=fraction, score=self._score + self._failures)
        elif score is not None:
            self._line(f"{self._title}: {fraction:4.0%}  {self._score}{self._failures}")

    def finish(self, result: Mapping[str, Any]) -> None:
        """Take the bar down, leaving its last state on the screen."""
        if self._task is not None:
            self._bar.update(self._task, completed=1.0)
        self.close()

    def close(self) -> None:
        """Give the terminal back; also after an interruption. May be called twice."""
        if self._task is not None:
            self._bar.stop()

    def _line(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)


class FileProgress:
    """Writes its state to a small JSON file, atomically, so that a parent process can show it.

    Keys: `title`, `unit`, `total`, `iteration`, `fraction`, `score` (the latest, or null), `finished`. Written at most
    every `every` seconds, except for the first and the last state.
    """

    def __init__(self, path: Path, every: float = 0.2) -> None:
        self._path, self._every = path, every
        self._state: dict[str, Any] = {}
        self._written = -math.inf

    def start(self, total: int, unit: str, title: str) -> None:
        """Write the state before the first iteration."""
        self._state = {"title": title, "unit": unit, "total": total, "iteration": 0, "fraction": 0.0, "score": None}
        self._write(finished=False)

    def advance(self, iteration: int, fraction: float, metrics: Mapping[str, float]) -> None:
        """Note the new state, and write it if the last writing is long enough ago."""
        self._state |= {"iteration": iteration, "fraction": fraction}
        if SCORE in metrics:
            self._state["score"] = float(metrics[SCORE])
        if time.monotonic() - self._written >= self._every:
            self._write(finished=False)

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write the last state."""
        self._state["score"] = result.get("score_end", self._state.get("score"))
        self._write(finished=True)

    def _write(self, finished: bool) -> None:
        half = self._path.with_name(self._path.name + ".part")
        half.write_text(json.dumps(self._state | {"finished": finished}))
        half.replace(self._path)
        self._written = time.monotonic()


def read_progress(path: Path) -> dict[str, Any]:
    """What a `FileProgress` last wrote to `path`; empty before its first writing."""
    try:
        state: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    return state


def bar(console: Console) -> Progress:
    """A live display of bars; each task has a `score` field."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[score]}"),
        console=console,
        speed_estimate_period=ETA_WINDOW,
    )


def failures(metrics: Mapping[str, float]) -> list[str]:
    """`judge failed for 2.5%` for every reward function that could not score some of the rows trained on."""
    shares = {name: share for name, share in metrics.items() if name.startswith("train/") and name.endswith(FAILED)}
    return [f"{name[6 : -len(FAILED)]} failed for {share:.1%}" for name, share in shares.items() if share]


def format_score(value: float | None) -> str:
    """Three significant digits without an exponent: 0.875, 12.3, 1,234."""
    if value is None or not math.isfinite(value):
        return "-"
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(digits, 4)}f}"
