"""What commands of other packages do, read from their source: importing them would import their whole domain."""

import ast
import sys
from importlib.machinery import ModuleSpec
from importlib.metadata import EntryPoint
from pathlib import Path


def summary_of(entry: EntryPoint) -> str:
    """What follows the colon in the first line of the module's documentation (else which package it is from)."""
    spec = _spec(entry.module)
    if spec is not None and spec.origin is not None and spec.origin.endswith(".py"):
        text = ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
        summary = text.partition("\n")[0].partition(": ")[2].rstrip(".")
        if summary:
            return summary
    return f"(from {entry.module.rpartition('.')[0] or entry.module})"


def _spec(module: str) -> ModuleSpec | None:
    """Find a module without importing the packages above it, as `importlib.util.find_spec` would."""
    spec: ModuleSpec | None = None
    names = module.split(".")
    for depth in range(1, len(names) + 1):
        above = None if spec is None else spec.submodule_search_locations
        found = (finder.find_spec(".".join(names[:depth]), above) for finder in sys.meta_path)
        spec = next((each for each in found if each is not None), None)
        if spec is None:
            return None
    return spec
