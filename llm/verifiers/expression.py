"""Arithmetic over given numbers: the countdown game."""

import ast
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from operator import add, mul, sub, truediv

from unirl.errors import UserError
from unirl.registry import register

_LONGEST = 200  # characters; keeps the parser's recursion and the numbers small
_ALLOWED = re.compile(r"[\d\s+\-*/()]+")
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_OPERATIONS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: add,
    ast.Sub: sub,
    ast.Mult: mul,
    ast.Div: truediv,
}


@register("verifier", "expression")
@dataclass(frozen=True)
class Expression:
    """Whether the completion is an expression over the given numbers that makes the target: 1 or 0.

    The reference holds target and numbers, "24|3,8,1". The expression is what stands in the last `<answer>` tags, or
    the last line that is not empty. It may use + - * / (also written ×, ÷) and parentheses on whole numbers, evaluated
    exactly, as fractions, without `eval`; every given number must be used exactly once, or at most once with
    `use_all=False`. In "3*8*1 = 24" both sides must make the target.

    Raises `UserError` for a reference of another form.
    """

    use_all: bool = True

    def __call__(self, completion: str, reference: str) -> float:
        target, numbers = _parse_reference(reference)
        first, *equals = _expression(completion).split("=")
        result = evaluate(first)
        if result is None or result[0] != target or not self._permitted(result[1], numbers):
            return 0.0
        others = [evaluate(side) for side in equals]
        return float(all(other is not None and other[0] == target for other in others))

    def _permitted(self, used: Counter[int], numbers: Counter[int]) -> bool:
        return used == numbers if self.use_all else used <= numbers


def evaluate(text: str) -> tuple[Fraction, Counter[int]] | None:
    """Exact value of an arithmetic expression and the whole numbers in it; None if it is none or divides by zero."""
    text = text.strip()
    if len(text) > _LONGEST or not _ALLOWED.fullmatch(text):
        return None
    used: Counter[int] = Counter()
    try:
        return _value(ast.parse(text, mode="eval").body, used), used
    except (SyntaxError, ValueError, ZeroDivisionError, MemoryError, RecursionError):
        return None


def _value(node: ast.expr, used: Counter[int]) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        used[node.value] += 1
        return Fraction(node.value)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        return _OPERATIONS[type(node.op)](_value(node.left, used), _value(node.right, used))
    raise ValueError("only + - * / on whole numbers")


def _expression(completion: str) -> str:
    tagged = _TAGGED.findall(completion)
    lines = [line for line in (tagged[-1] if tagged else completion).splitlines() if line.strip()]
    return lines[-1].replace("×", "*").replace("÷", "/") if lines else ""


def _parse_reference(reference: str) -> tuple[Fraction, Counter[int]]:
    target, _, numbers = reference.partition("|")
    try:
        return Fraction(target), Counter(int(number) for number in numbers.split(","))
    except (ValueError, ZeroDivisionError) as error:
        raise UserError(
            f"verifier 'expression': the reference '{reference}' should be 'target|number,number,...', as in '24|3,8,1'"
        ) from error
