"""`unirl parts`."""

import argparse
import inspect
from typing import Any

from rich.markup import escape
from rich.table import Table

from unirl.commands.screen import console, print_json
from unirl.compare.used_parts import source_file
from unirl.registry import kinds, names, part_class

EXAMPLES = """
unirl parts
unirl parts objective
unirl parts advantage --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("kind", nargs="?", metavar="KIND", help="one kind: objective, advantage, regularizer, ...")
    parser.add_argument("--json", action="store_true", help="print JSON, with the files of the classes")


def run(arguments: argparse.Namespace) -> int:
    """Print the table."""
    wanted = [arguments.kind] if arguments.kind else kinds()
    records = [record(kind, name, text) for kind in wanted for name, text in names(kind).items()]
    if arguments.json:
        print_json(records)
        return 0
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("kind", style="dim")
    table.add_column("name", style="bold", no_wrap=True)
    table.add_column("hyper-parameters", ratio=2)
    table.add_column("what it does", ratio=3)
    for entry in records:
        hyper = ", ".join(f"{key}={value}" for key, value in entry["hyper_parameters"].items())
        table.add_row(entry["kind"], entry["name"], escape(hyper), escape(entry["summary"]))
    console().print(table)
    return 0


def record(kind: str, name: str, summary: str) -> dict[str, Any]:
    """What is known of a part without building it; a hyper-parameter without default is `required`."""
    cls = part_class(kind, name)
    return {
        "kind": kind,
        "name": name,
        "summary": summary,
        "hyper_parameters": hyper_parameters(cls),
        "class": f"{cls.__module__}.{cls.__qualname__}",
        "file": source_file(cls),
    }


def hyper_parameters(cls: type) -> dict[str, str]:
    """Name -> default of a part's hyper-parameters, as Python would write them."""
    given = inspect.signature(cls).parameters.values()
    named = [
        parameter for parameter in given if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    return {each.name: "required" if each.default is each.empty else repr(each.default) for each in named}
