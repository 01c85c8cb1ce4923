"""The letter of a multiple-choice answer."""

import re
from dataclasses import dataclass

from unirl.errors import UserError
from unirl.registry import register

_BOXED = re.compile(r"\\boxed\{\s*(?:\\(?:text|mathrm|textbf|mathbf)\{)?\s*[(\[]?\s*([A-Za-z])\s*[)\].]?\s*\}")
_MARKED = re.compile(
    r"(?:\banswer\b\s*(?:is\b\s*:?|:|=)|\banswer\s+is\b|####|^[ \t]*A[ \t]*:|\b(?:option|choice)\b)"
    r"\s*(?:(?:option|choice)\b)?\s*[:(\[]*\s*([A-Za-z])(?![\w'])",
    re.IGNORECASE | re.MULTILINE,
)
_BRACKETED = re.compile(r"[(\[]([A-Za-z])[)\]]")
_ALONE = re.compile(r"^[ \t]*([A-Za-z])[ \t]*(?:[.):].*)?$", re.MULTILINE)
_CAPITAL = re.compile(r"(?<![\w'-])([B-HJ-Z])(?![\w'-])")  # "A" and "I" are words as well
_MARKUP = re.compile(r"\*\*|__|[$`]|<[^<>]*>")


@register("verifier", "choice")
@dataclass(frozen=True)
class Choice:
    r"""Whether the completion chooses the reference's option: 1 or 0.

    The choice is the letter in the last ``\boxed{B}``; else after the last "Answer:", "the answer is", "A:", "####",
    "option" or "choice"; else the last one in brackets, "(B)"; else the last one that begins a line of its own, "B" or
    "B) because"; else the last capital letter that stands alone and is no English word. Case does not matter, nor
    does bold type. A letter behind the last of `letters` is none.

    letters: the options there are. Raises `UserError` when the reference is not one of them, "B", "(B)" or "B.".
    """

    letters: str = "ABCDEFGHIJ"

    def __post_init__(self) -> None:
        if not self.letters.isalpha() or len(set(self.letters.upper())) != len(self.letters):
            raise UserError(
                f"verifier 'choice': letters is '{self.letters}'; it should be different letters, as in 'ABCD'"
            )

    def __call__(self, completion: str, reference: str) -> float:
        expected = reference.strip().strip("()[].").strip().upper()
        if len(expected) != 1 or expected not in self.letters.upper():
            raise UserError(
                f"verifier 'choice': the reference '{reference[:60]}' is none of the letters {self.letters.upper()}"
            )
        return float(self._chosen(completion) == expected)

    def _chosen(self, completion: str) -> str | None:
        text = _MARKUP.sub("", completion)
        for pattern in (_BOXED, _MARKED, _BRACKETED, _ALONE, _CAPITAL):
            letters: list[str] = [letter.upper() for letter in pattern.findall(text)]
            known = [letter for letter in letters if letter in self.letters.upper()]
            if known:
                return known[-1]
        return None
