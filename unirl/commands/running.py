"""What `train` and `resume` share: progress, interruption, the lines at the end."""

import argparse
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from unirl.commands.interruption import TrainingInterruptedError
from unirl.commands.screen import console
from unirl.trainer.interruption import Interrupted
from unirl.trainer.progress import FileProgress, ProgressSink, RichProgress, SilentProgress, format_score


def add_progress_options(parser: argparse.ArgumentParser) -> None:
    """`--quiet`, `--json`, and the file through which `compare` follows its cells."""
    parser.add_argument("--quiet", action="store_true", help="no progress bar and no summary")
    parser.add_argument("--json", action="store_true", help="print result.json's content instead of the summary")
    parser.add_argument("--progress-file", type=Path, help=argparse.SUPPRESS)


def run_with_progress(
    arguments: argparse.Namespace, folder: Path, start: Callable[[ProgressSink], dict[str, Any]]
) -> dict[str, Any]:
    """Run a training and show it as the options ask.

    Ctrl-C is raised with the command that continues the run; SIGTERM says the same and ends the process with code 143,
    as the shell reports a terminated one.
    """
    sink = _sink(arguments)
    try:
        return start(sink)
    except KeyboardInterrupt as stop:
        saved = any((folder / "checkpoints").glob("step_*"))
        since = "saved; continue" if saved else "no checkpoint yet; start again"
        terminated = isinstance(stop, Interrupted) and stop.signal == signal.SIGTERM
        line = f"{'terminated' if terminated else 'interrupted'}, {since} with: unirl resume {folder}"
        raise TrainingInterruptedError(line, 128 + (signal.SIGTERM if terminated else signal.SIGINT)) from None
    finally:
        if isinstance(sink, RichProgress):
            sink.close()


def print_result(arguments: argparse.Namespace, result: Mapping[str, Any], folder: Path) -> None:
    """Score before and after, cost, and where the run folder is."""
    if arguments.quiet or arguments.progress_file:
        return
    best = f" (best {format_score(result['score_best'])})"
    out = console()
    out.print(
        f"score    {format_score(result['score_start'])} → {format_score(result['score_end'])}{best}", highlight=False
    )
    speed = f"{result['samples_per_second']:,.0f} per second"
    out.print(f"samples  {result['samples']:,} in {result['seconds']:.1f} s, {speed}", highlight=False)
    out.print(f"folder   {folder}", highlight=False, markup=False, soft_wrap=True)


def _sink(arguments: argparse.Namespace) -> ProgressSink:
    if arguments.progress_file is not None:
        return FileProgress(arguments.progress_file)
    return SilentProgress() if arguments.quiet else RichProgress(console(stderr=True))
