"""Printing."""

import json
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from unirl.errors import RunWarning

PIPE_WIDTH = 160  # columns where the output is not a terminal and nobody says how wide it is


def console(stderr: bool = False) -> Console:
    """A console; into a pipe it writes wide lines, so that tables can be searched."""
    made = Console(stderr=stderr)
    if made.is_terminal or "COLUMNS" in os.environ:
        return made
    return Console(stderr=stderr, width=PIPE_WIDTH)


def print_json(value: Any) -> None:
    """JSON to standard output."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


@contextmanager
def warnings_in_one_line() -> Iterator[None]:
    """Print our own warnings as we print errors; other packages' as Python does."""
    usual = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, RunWarning):
            print(f"unirl: {message}", file=sys.stderr)
        else:
            usual(message, category, *where, **more)

    with warnings.catch_warnings():
        warnings.simplefilter("always", RunWarning)
        warnings.showwarning = show
        yield
