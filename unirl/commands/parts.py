"""`unirl parts`."""

import argparse
import inspect
from collections.abc import Mapping
from typing import Any

from unirl.commands.listing import NAME, add_json, show
from unirl.compare.used_parts import source_file
from unirl.registry import kinds, names, part_class

EXAMPLES = """
unirl parts
unirl parts objective
unirl parts advantage --json
"""
COLUMNS: dict[str, dict[str, Any]] = {
    "kind": {"style": "dim"},
    "name": NAME,
    "hyper-parameters": {"ratio": 2},
    "what it does": {"ratio": 3},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("kind", nargs="?", metavar="KIND", help="one kind: objective, advantage, regularizer, ...")
    add_json(parser, "the files of the classes")


def run(arguments: argparse.Namespace) -> int:
    """Print the table."""
    wanted = [arguments.kind] if arguments.kind else kinds()
    records = [record(kind, name, text) for kind in wanted for name, text in names(kind).items()]
    return show(records, COLUMNS, _row, as_json=arguments.json)


def _row(entry: Mapping[str, Any]) -> tuple[str, ...]:
    hyper = ", ".join(f"{key}={value}" for key, value in entry["hyper_parameters"].items())
    return entry["kind"], entry["name"], hyper, entry["summary"]


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
