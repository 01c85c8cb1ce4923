"""Function calls, written as JSON or as Python calls."""

import ast
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from unirl.errors import UserError
from unirl.registry import register

Call: TypeAlias = tuple[str, dict[str, Any]]

_LONGEST = 20_000
_TAGGED = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)
_FENCED = re.compile(r"```(?:json|python|tool_code)?\s*\n(.*?)```", re.DOTALL)


@register("verifier", "json_call")
@dataclass(frozen=True)
class JsonCall:
    """Whether the completion makes the function calls of the reference: 1 or 0, or a share with `partial`.

    Both are read from `<tool_call>` tags (one call each), else from the last code fence, else from the whole text, as
    JSON (`{"name": ..., "arguments": {...}}`, also `parameters`, arguments as a JSON string, or a list of calls) or as
    Python calls with keyword arguments (`f(a=1)`, `[f(a=1), g()]`), which are parsed, never run. Names and
    arguments must be equal, numbers by value, `true` never as 1; calls may come in any order unless `ordered`.

    `partial`: each call of the reference gives (1 + right arguments) / (1 + arguments of both) where the name is right;
    the sum is divided by the larger number of calls. Raises `UserError` for a reference that cannot be read.
    """

    ordered: bool = False
    partial: bool = False

    def __call__(self, completion: str, reference: str) -> float:
        expected = parse_calls(reference)
        if expected is None:
            raise UserError(f"verifier 'json_call': the reference '{reference[:60]}' is no function call")
        found = parse_calls(completion)
        if found is None or not expected:
            return float(not expected and not found)
        if not self.partial and len(found) != len(expected):
            return 0.0
        similarity = _share if self.partial else _same
        total = _in_order(expected, found, similarity) if self.ordered else _matched(expected, found, similarity)
        score = total / max(len(expected), len(found))
        return score if self.partial else float(score == 1.0)


def parse_calls(text: str) -> list[Call] | None:
    """The function calls written in `text`, or None if it cannot be read as calls."""
    if len(text) > _LONGEST:
        return None
    tagged = _TAGGED.findall(text)
    fenced = _FENCED.findall(text)
    calls: list[Call] = []
    for piece in tagged or fenced[-1:] or [text]:
        read = _json_calls(piece.strip())
        if read is None:
            read = _python_calls(piece.strip())
        if read is None:
            return None
        calls += read
    return calls


def _json_calls(text: str) -> list[Call] | None:
    try:
        value = json.loads(text)
        items = value if isinstance(value, list) else [value]
        calls = [_json_call(item) for item in items]
    except (ValueError, RecursionError):
        return None
    return calls


def _json_call(item: Any) -> Call:
    if isinstance(item, dict) and isinstance(item.get("function"), dict):
        item = item["function"]
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        raise ValueError("a call has a name")
    arguments = item.get("arguments", item.get("parameters", {}))
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    if not isinstance(arguments, dict):
        raise ValueError("arguments are named")
    return item["name"], arguments


def _python_calls(text: str) -> list[Call] | None:
    try:
        body = ast.parse(text, mode="eval").body
        nodes = body.elts if isinstance(body, ast.List | ast.Tuple) else [body]
        return [_python_call(node) for node in nodes]
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return None


def _python_call(node: ast.expr) -> Call:
    if not isinstance(node, ast.Call) or node.args or any(keyword.arg is None for keyword in node.keywords):
        raise ValueError("a call has keyword arguments only")
    return ast.unparse(node.func), {str(k.arg): ast.literal_eval(k.value) for k in node.keywords}


def _same(expected: Call, found: Call) -> float:
    return float(expected[0] == found[0] and _equal(expected[1], found[1]))


def _share(expected: Call, found: Call) -> float:
    if expected[0] != found[0]:
        return 0.0
    named = expected[1].keys() | found[1].keys()
    right = sum(1 for k in expected[1].keys() & found[1].keys() if _equal(expected[1][k], found[1][k]))
    return (1 + right) / (1 + len(named))


def _in_order(expected: list[Call], found: list[Call], similarity: Callable[[Call, Call], float]) -> float:
    return sum(similarity(x, y) for x, y in zip(expected, found, strict=False))


def _matched(expected: list[Call], found: list[Call], similarity: Callable[[Call, Call], float]) -> float:
    """Give every expected call the most similar one that is left."""
    left, total = list(found), 0.0
    for call in expected:
        if left:
            scores = [similarity(call, other) for other in left]
            best = max(range(len(left)), key=scores.__getitem__)
            total += scores[best]
            del left[best]
    return total


def _equal(x: Any, y: Any) -> bool:
    if isinstance(x, bool) or isinstance(y, bool):
        return x is y
    if isinstance(x, dict) and isinstance(y, dict):
        return x.keys() == y.keys() and all(_equal(x[k], y[k]) for k in x)
    if isinstance(x, list | tuple) and isinstance(y, list | tuple):
        return len(x) == len(y) and all(_equal(a, b) for a, b in zip(x, y, strict=True))
    return bool(x == y)
