"""`unirl tasks`."""

import argparse
from collections.abc import Mapping
from typing import Any

from unirl.commands.listing import NAME, add_json, show
from unirl.config import CONFIGS, choices, group_config

EXAMPLES = """
unirl tasks
unirl tasks --json
"""
FOLDER = CONFIGS / "task"
COLUMNS: dict[str, dict[str, Any]] = {
    "task": NAME,
    "domain": {},
    "environment": {"no_wrap": True},
    "what it is": {"ratio": 1},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add_json(parser, "paths of the configuration files")


def run(arguments: argparse.Namespace) -> int:
    """Print the table."""
    caption = f"files: {FOLDER}/<task>.yaml; any other environment: task=gymnasium task.env=ID"
    records = [record(name) for name in choices("task")]
    return show(records, COLUMNS, _row, as_json=arguments.json, caption=caption)


def record(name: str) -> dict[str, Any]:
    """What is known of a task without making its world; language tasks have no `environment`."""
    config, file = group_config("task", name), FOLDER / f"{name}.yaml"
    return {
        "name": name,
        "domain": config["domain"],
        "environment": config.get("env"),
        "summary": file.read_text(encoding="utf-8").partition("\n")[0].lstrip("# "),
        "config": str(file),
    }


def _row(entry: Mapping[str, Any]) -> tuple[str, ...]:
    return entry["name"], entry["domain"], entry["environment"] or "", entry["summary"]
