"""Addition of two numbers, the sum written backwards."""

from dataclasses import dataclass

from numpy.random import Generator

from unirl.errors import UserError
from unirl.llm.tasks.problem import Facts, Problem, draw_held_out, draw_training
from unirl.registry import register


@register("task", "addition")
@dataclass(frozen=True)
class Addition:
    """Add two numbers of `digits` digits; the sum is written in `digits + 1` digits, least significant first.

    "47+85=" has the answer "231" (47 + 85 = 132). Backwards, every digit depends on the digits before it alone, so a
    model of half a million parameters can learn it. One unordered pair of operands in ten is held out: neither
    a+b nor b+a is trained on.
    """

    digits: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.digits <= 9:
            raise UserError(f"task.digits is {self.digits}; it must be from 1 to 9")

    @property
    def facts(self) -> Facts:
        """What is known about prompts and answers in general."""
        return Facts(
            max_new_tokens=self.digits + 3,  # the sum, the end, and room for one mistake
            alphabet="0123456789+=",
            format=rf"\d{{{self.digits + 1}}}",
            verifier={"name": "exact"},
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
        low, high = 10 ** (self.digits - 1), 10**self.digits
        if self.digits == 1:
            low = 0
        a, b = (int(x) for x in generator.integers(low, high, size=2))
        answer = str(a + b).zfill(self.digits + 1)[::-1]
        return Problem(
            prompt=f"{a}+{b}=",
            reference=answer,
            answer=answer,
            prompt_id=a * high + b,
            key=f"{min(a, b)}+{max(a, b)}",
            columns={"a": a, "b": b},
        )
