"""`unirl methods`."""

import argparse
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from rich.markup import escape
from rich.table import Table

from unirl.commands.screen import console, print_json
from unirl.compare.used_parts import SLOTS, part_entries
from unirl.config import choices, method_config

EXAMPLES = """
unirl methods
unirl methods --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--json", action="store_true", help="print JSON, with paths of the configuration files")


def run(arguments: argparse.Namespace) -> int:
    """Print the table."""
    records = [record(name) for name in choices("method")]
    if arguments.json:
        print_json(records)
        return 0
    table = Table(
        box=None,
        pad_edge=False,
        header_style="dim",
        caption=f"files: {_folder()}/<method>.yaml",
        caption_justify="left",
    )
    table.add_column("method", style="bold", no_wrap=True)
    table.add_column("domains")
    table.add_column("parts", ratio=3)
    table.add_column("paper", ratio=2)
    table.add_column("entry", justify="right")
    for entry in records:
        year = f" ({entry['year']})" if entry["year"] else ""
        numbers = ", ".join(map(str, entry["entries"]))
        parts = ", ".join(f"{kind} {'+'.join(used)}" for kind, used in entry["parts"].items())
        table.add_row(
            entry["name"], ", ".join(entry["domains"]), escape(parts), escape((entry["paper"] or "") + year), numbers
        )
    console().print(table)
    return 0


def record(name: str) -> dict[str, Any]:
    """What is known of a method without building it."""
    config = method_config(name)
    paper: Mapping[str, Any] = config.get("paper") or {}
    entries = config.get("entries") or ([config["entry"]] if config.get("entry") is not None else [])
    parts = {
        kind: [used for used, _ in part_entries(config.get(slot))] for slot, kind in SLOTS.items() if config.get(slot)
    }
    return {
        "name": name,
        "paper": paper.get("title"),
        "year": paper.get("year"),
        "entries": list(entries),
        "domains": list(config.get("domains") or choices("domain")),
        "parts": parts,
        "config": f"{_folder()}/{name}.yaml",
    }


def _folder() -> str:
    return str(files("unirl.configs") / "method")
