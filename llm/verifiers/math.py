"""Mathematical equivalence, decided by the math-verify package."""

import threading
from dataclasses import dataclass
from importlib.util import find_spec

from unirl.errors import UserError
from unirl.registry import register

_LONGEST = 20_000  # characters of a completion that are read, from its end


@register("verifier", "math")
@dataclass(frozen=True)
class Math:
    """Whether the completion's final answer equals the reference mathematically: 1 or 0.

    LaTeX, sets, intervals, equations and expressions, as read and compared by math-verify (Hugging Face, Apache-2.0).
    A reference without LaTeX delimiters is read as the inside of ``$...$``. Each parse and comparison may take
    `timeout` seconds; the limit is a signal, so outside the main thread there is none. What cannot be read or compared
    scores 0.

    Raises `UserError` where math-verify is not installed, and for a reference that cannot be read.
    """

    timeout: int = 5

    def __post_init__(self) -> None:
        if find_spec("math_verify") is None:
            raise UserError("verifier 'math' needs the math-verify package: pip install math-verify")

    def __call__(self, completion: str, reference: str) -> float:
        from math_verify import verify  # here, because it brings sympy, which is slow to import

        expected = self._parse(reference if "$" in reference or "\\boxed" in reference else f"${reference}$")
        if not expected:
            raise UserError(f"verifier 'math': the reference '{reference[:60]}' cannot be read as mathematics")
        found = self._parse(completion[-_LONGEST:])
        return float(bool(found) and verify(expected, found, timeout_seconds=self._seconds()))

    def _parse(self, text: str) -> list[object]:
        from math_verify import parse

        return list(parse(text, parsing_timeout=self._seconds()))

    def _seconds(self) -> int | None:
        return self.timeout if threading.current_thread() is threading.main_thread() else None
