"""Pieces of test code: counting the assertions that are carried out, and calling the tests that are only defined."""

import ast
import sys
from collections.abc import Callable
from typing import Any

_COUNTER = "__asserted__"


class Assertions:
    """How many `assert` statements, and tests of `unittest`, have been carried out."""

    def __init__(self) -> None:
        self.count = 0

    def add(self) -> None:
        """One more."""
        self.count += 1


def run_case(tree: ast.Module, file: str, namespace: dict[str, Any]) -> None:
    """Run a piece of test code, then the tests that it defines.

    These are functions and methods of classes whose names begin with "test" or "Test", and cases of `unittest`. Raises
    AssertionError where there are assertions, but none was carried out: a program that gives an empty list to be
    looped over has not passed, nor has a check that nobody calls.
    """
    counted = Assertions()
    has_assertions = any(isinstance(node, ast.Assert) for node in ast.walk(tree))
    namespace[_COUNTER] = counted.add
    exec(compile(_counting(tree), file, "exec"), namespace)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
            namespace[node.name]()
        elif isinstance(node, ast.ClassDef):
            _run_class(namespace[node.name], counted.add)
    if has_assertions and counted.count == 0:
        raise AssertionError("the tests came to no assertion")


def _run_class(cls: Any, count: Callable[[], None]) -> None:
    unittest = sys.modules.get("unittest")
    if unittest is not None and isinstance(cls, type) and issubclass(cls, unittest.TestCase):
        result = unittest.TestResult()
        unittest.defaultTestLoader.loadTestsFromTestCase(cls).run(result)
        for _, trace in [*result.failures, *result.errors]:
            raise AssertionError(trace.strip().rpartition("\n")[2])
        if result.testsRun > len(result.skipped):
            count()
    elif cls.__name__.startswith("Test"):
        for name in [name for name in vars(cls) if name.startswith("test")]:
            getattr(cls(), name)()


class _Counting(ast.NodeTransformer):
    def visit_Assert(self, node: ast.Assert) -> list[ast.stmt]:
        call = ast.Expr(ast.Call(ast.Name(_COUNTER, ast.Load()), [], []))
        return [ast.copy_location(call, node), node]


def _counting(tree: ast.Module) -> ast.Module:
    """The tree with a call in front of every `assert`."""
    counting: ast.Module = ast.fix_missing_locations(_Counting().visit(tree))
    return counting
