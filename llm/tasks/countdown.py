"""The countdown game: make a target from given numbers."""

from dataclasses import dataclass
from fractions import Fraction

from numpy.random import Generator

from unirl.errors import UserError
from unirl.llm.tasks.problem import Facts, Problem, draw_held_out, draw_training
from unirl.registry import register

_STRENGTH = {"+": 1, "-": 1, "*": 2, "/": 2, "": 3}  # "" is a number by itself


@dataclass(frozen=True)
class _Term:
    text: str
    value: Fraction
    operator: str = ""


@register("task", "countdown")
@dataclass(frozen=True)
class Countdown:
    """Write an expression that uses each of the given numbers exactly once and makes the target.

    "3 1 8 24:" has the answer "3*1*8", among others. A problem is made by joining random numbers 1..`largest` by random
    `operators`, two terms at a time, until one is left: its value is the target if it is a whole number in
    1..`largest_target`, and the expression, with no more parentheses than it needs, is the demonstration. Divisions
    are made only where they come out even. One problem in ten (numbers in any order, and target) is held out.
    """

    numbers: int = 3
    largest: int = 9
    largest_target: int = 99
    operators: str = "+-*"

    def __post_init__(self) -> None:
        if not 2 <= self.numbers <= 8:
            raise UserError(f"task.numbers is {self.numbers}; it must be from 2 to 8")
        if not (1 <= self.largest <= 999 and 1 <= self.largest_target <= 999_999):
            raise UserError("task.largest must be from 1 to 999 and task.largest_target from 1 to 999999")
        if not self.operators or not set(self.operators) <= set("+-*/"):
            raise UserError(f"task.operators is '{self.operators}'; it must be made of + - * /")

    @property
    def facts(self) -> Facts:
        """What is known about prompts and answers in general."""
        longest = self.numbers * (len(str(self.largest)) + 1) - 1 + 2 * (self.numbers - 2)
        return Facts(
            max_new_tokens=longest + 3,
            alphabet="0123456789+-*/() :",
            format=r"[\d+\-*/() ]+",
            verifier={"name": "expression"},
        )

    def draw(self, generator: Generator, n: int) -> list[Problem]:
        """`n` training problems."""
        return draw_training(self._make, generator, n)

    def held_out(self, n: int) -> list[Problem]:
        """The first `n` of the held-out problems."""
        return draw_held_out(self._make, n)

    def preferences(self, held_out: bool) -> None:
        """None are recorded."""

    def _make(self, generator: Generator) -> Problem:
        while True:
            numbers = [int(x) for x in generator.integers(1, self.largest + 1, size=self.numbers)]
            solution = self._join(numbers, generator)
            if solution is not None and 1 <= solution.value <= self.largest_target:
                return self._problem(numbers, solution)

    def _join(self, numbers: list[int], generator: Generator) -> _Term | None:
        """Join two random terms at a time; None where a division leaves a remainder."""
        terms = [_Term(str(number), Fraction(number)) for number in numbers]
        while len(terms) > 1:
            left, right = (int(i) for i in generator.choice(len(terms), size=2, replace=False))
            operator = self.operators[int(generator.integers(len(self.operators)))]
            joined = _joined(terms[left], operator, terms[right])
            if joined is None:
                return None
            terms = [term for i, term in enumerate(terms) if i not in (left, right)] + [joined]
        return terms[0]

    def _problem(self, numbers: list[int], solution: _Term) -> Problem:
        target = int(solution.value)
        identity = 0
        for number in numbers:
            identity = identity * (self.largest + 1) + number
        return Problem(
            prompt=f"{' '.join(map(str, numbers))} {target}:",
            reference=f"{target}|{','.join(map(str, numbers))}",
            answer=solution.text,
            prompt_id=identity * (self.largest_target + 1) + target,
            key=f"{target}|{sorted(numbers)}",
            columns={"numbers": numbers, "target": target},
        )


def _joined(left: _Term, operator: str, right: _Term) -> _Term | None:
    if operator == "/" and (right.value == 0 or (left.value / right.value).denominator != 1):
        return None
    value = {
        "+": lambda: left.value + right.value,
        "-": lambda: left.value - right.value,
        "*": lambda: left.value * right.value,
        "/": lambda: left.value / right.value,
    }[operator]()
    strength = _STRENGTH[operator]
    first = left.text if _STRENGTH[left.operator] >= strength else f"({left.text})"
    binds = _STRENGTH[right.operator] > strength or (_STRENGTH[right.operator] == strength and operator in "+*")
    # a*(b/c) is a*b/c, but only because divisions are exact fractions; a+(b-c) is a+b-c
    second = right.text if binds else f"({right.text})"
    return _Term(f"{first}{operator}{second}", value, operator)
