"""`unirl doctor`."""

import argparse
import os
import platform
from typing import Any

import torch
from rich.markup import escape
from rich.table import Table

from unirl import __version__
from unirl.commands.extras import Package, extras, pip_command
from unirl.commands.screen import console, print_json

EXAMPLES = """
unirl doctor
unirl doctor --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the findings; 1 if something that is always needed is missing or too old."""
    found = findings()
    if arguments.json:
        print_json(found)
    else:
        _print(found)
    return 0 if found["extras"]["core"]["complete"] else 1


def findings() -> dict[str, Any]:
    """Everything the command shows."""
    return {
        "unirl": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "devices": devices(),
        "processors": os.cpu_count(),
        "usable_processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "environment": {
            name: os.environ[name] for name in ("OMP_NUM_THREADS", "MUJOCO_GL", "HF_HOME") if name in os.environ
        },
        "extras": {name: _extra(name, packages) for name, packages in extras().items()},
    }


def devices() -> list[str]:
    """What torch can compute on."""
    found = ["cpu"]
    found += [f"cuda:{index} ({torch.cuda.get_device_name(index)})" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    return found


def _extra(name: str, packages: list[Package]) -> dict[str, Any]:
    complete = all(package.fits for package in packages)
    return {
        "complete": complete,
        "packages": [vars(package) for package in packages],
        "install": None if complete else pip_command(name) if name != "core" else "pip install --upgrade unirl",
    }


def _print(found: dict[str, Any]) -> None:
    screen = console()
    screen.print(f"unirl {found['unirl']}, Python {found['python']}, {found['system']}", highlight=False)
    screen.print(f"devices: {', '.join(found['devices'])}", highlight=False)
    threads = (
        f"{found['usable_processors']} of {found['processors']} processors, torch uses {found['torch_threads']} threads"
    )
    screen.print(f"{threads}; a training uses threads=1 unless told otherwise", highlight=False)
    for name, value in found["environment"].items():
        screen.print(f"{name}={value}", highlight=False, markup=False)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("extra", "package", "required", "installed"):
        table.add_column(column)
    for name, extra in found["extras"].items():
        for index, package in enumerate(extra["packages"]):
            state = package["installed"] or "[red]missing[/]"
            state += "" if package["fits"] or package["installed"] is None else " [red]does not fit[/]"
            table.add_row(f"[bold]{name}[/]" if index == 0 else "", package["name"], escape(package["required"]), state)
        table.add_section()
    screen.print()
    screen.print(table)
    missing = {name: extra["install"] for name, extra in found["extras"].items() if extra["install"]}
    screen.print("\nto install what is missing:" if missing else "\nnothing is missing")
    for command in missing.values():
        screen.print(f"  {command}", highlight=False, markup=False, soft_wrap=True)
