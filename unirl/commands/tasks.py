"""`unirl tasks`."""

import argparse
from importlib.resources import files
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from unirl.commands.screen import console, print_json
from unirl.config import choices, group_config

EXAMPLES = """
unirl tasks
unirl tasks --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--json", action="store_true", help="print JSON, with paths of the configuration files")


def run(arguments: argparse.Namespace) -> int:
    """Print the table."""
    records = [record(name) for name in choices("task")]
    if arguments.json:
        print_json(records)
        return 0
    table = Table(
        box=None,
        pad_edge=False,
        header_style="dim",
        caption=f"files: {_folder()}/<task>.yaml; any other environment: task=gymnasium task.env=ID",
        caption_justify="left",
    )
    table.add_column("task", style="bold", no_wrap=True)
    table.add_column("domain")
    table.add_column("environment", no_wrap=True)
    table.add_column("what it is", ratio=1)
    for entry in records:
        table.add_row(entry["name"], entry["domain"], escape(entry["environment"] or ""), escape(entry["summary"]))
    console().print(table)
    return 0


def record(name: str) -> dict[str, Any]:
    """What is known of a task without making its world; language tasks have no `environment`."""
    config = group_config("task", name)
    file = _folder() / f"{name}.yaml"
    return {
        "name": name,
        "domain": config["domain"],
        "environment": config.get("env"),
        "summary": file.read_text(encoding="utf-8").partition("\n")[0].lstrip("# "),
        "config": str(file),
    }


def _folder() -> Path:
    return Path(str(files("unirl.configs"))) / "task"
