"""Printing."""

import json
import os
from typing import Any

from rich.console import Console

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
