"""What the commands that list something share."""

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from unirl.commands.screen import console, print_json

NAME = {"style": "bold", "no_wrap": True}  # the column of what may be typed


def add_json(parser: argparse.ArgumentParser, what: str) -> None:
    """The option `--json`."""
    parser.add_argument("--json", action="store_true", help=f"print JSON, with {what}")


def show(
    records: Sequence[Mapping[str, Any]],
    columns: Mapping[str, Mapping[str, Any]],
    row: Callable[[Mapping[str, Any]], Iterable[str]],
    *,
    as_json: bool,
    caption: str | None = None,
) -> int:
    """Print the records as they are, or as a table of these columns; returns the exit code."""
    if as_json:
        print_json(records)
        return 0
    table = Table(box=None, pad_edge=False, header_style="dim", caption=caption, caption_justify="left")
    for title, options in columns.items():
        table.add_column(title, **options)
    for record in records:
        table.add_row(*map(escape, row(record)))
    console().print(table)
    return 0
