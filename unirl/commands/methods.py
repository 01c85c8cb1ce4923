"""`unirl methods`."""

import argparse
from collections.abc import Mapping
from typing import Any

from unirl.commands.listing import NAME, add_json, show
from unirl.compare.used_parts import SLOTS, part_entries
from unirl.config import CONFIGS, choices, method_config

EXAMPLES = """
unirl methods
unirl methods --json
"""
FOLDER = CONFIGS / "method"
COLUMNS: dict[str, dict[str, Any]] = {
    "method": NAME,
    "domains": {},
    "parts": {"ratio": 3},
    "paper": {"ratio": 2},
    "entry": {"justify": "right"},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add_json(parser, "paths of the configuration files")


def run(arguments: argparse.Namespace) -> int:
    """Print the table."""
    records = [record(name) for name in choices("method")]
    return show(records, COLUMNS, _row, as_json=arguments.json, caption=f"files: {FOLDER}/<method>.yaml")


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
        "config": f"{FOLDER}/{name}.yaml",
    }


def _row(entry: Mapping[str, Any]) -> tuple[str, ...]:
    year = f" ({entry['year']})" if entry["year"] else ""
    parts = ", ".join(f"{kind} {'+'.join(used)}" for kind, used in entry["parts"].items())
    numbers = ", ".join(map(str, entry["entries"]))
    return entry["name"], ", ".join(entry["domains"]), parts, (entry["paper"] or "") + year, numbers
