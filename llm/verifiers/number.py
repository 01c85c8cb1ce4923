"""The final number of an answer, in its usual spellings."""

import re
from dataclasses import dataclass
from fractions import Fraction

from unirl.errors import UserError
from unirl.registry import register

_LONGEST = 60  # characters of one number; longer ones are no answers, and big powers are slow to build
_PLAIN = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_NUMBER = re.compile(
    rf"""
    (?<![\w.)])                       # not inside a word or another number; `10-5` holds no -5
    (?P<sign>-\s?)?
    (?:[$€£¥]\s?)?
    (?P<inner>-)?
    (?:
        (?:(?P<whole>\d+)\s+)?(?P<over>\d+)\s?/\s?(?P<under>\d+)(?![\d/])      # 1/2, 3 1/2
      | (?P<plain>{_PLAIN})(?:[eE](?P<power>[+-]?\d{{1,2}})(?!\w))?            # 1,234.50, 1.5e3
    )
    (?P<percent>\s?(?:%|percent\b))?
    """,
    re.VERBOSE,
)
_HASHES = re.compile(r"####")
_SAID = re.compile(r"(?:^|\n)[ \t]*A[ \t]*:|\banswer\b\s*(?:is\b\s*:?|:|=)", re.IGNORECASE)
_LATEX = (
    (re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}"), r" \1/\2 "),
    (re.compile(r"\\[,!;: ]"), ""),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\([%$])"), r"\1"),
    (re.compile("[−–]"), "-"),
    (re.compile(r"\*\*|__"), ""),
)


@register("verifier", "number")
@dataclass(frozen=True)
class Number:
    r"""Whether the final number of the completion is the reference's: 1 or 0.

    The final number is the one in the last ``\boxed{...}``; else after the last ``####``; else after the last "A:",
    "Answer:" or "the answer is"; else the last number of the text. After a marker its first number counts, or the first
    behind the last "=" of that line. Read exactly, as fractions: signs, "1,234.50", "$18", "18 dollars", "1/2",
    "3 1/2", "1.5e3", LaTeX fractions; "50%" equals both 50 and 0.5.

    `tolerance` (absolute) and `relative` allow a difference |x - y| <= max(tolerance, relative * |y|); the default of
    1e-6 only forgives decimals of fractions. Raises `UserError` when the reference holds no number.
    """

    tolerance: float = 1e-6
    relative: float = 0.0

    def __post_init__(self) -> None:
        if not (self.tolerance >= 0 and self.relative >= 0):
            raise UserError("verifier 'number': tolerance and relative must not be negative")

    def __call__(self, completion: str, reference: str) -> float:
        expected = final_numbers(reference)
        if not expected:
            raise UserError(f"verifier 'number': the reference '{reference[-60:]}' holds no number")
        found = final_numbers(completion)
        return float(any(self._close(x, y) for x in found for y in expected))

    def _close(self, found: Fraction, expected: Fraction) -> bool:
        allowed = max(Fraction(self.tolerance), Fraction(self.relative) * abs(expected))
        return abs(found - expected) <= allowed


def final_numbers(text: str) -> tuple[Fraction, ...]:
    """The values that the final number of `text` may stand for: none, one, or two for a percentage."""
    marked = _boxed(text)
    if marked is None:
        marked = _after_last(_HASHES, text)
    if marked is None:
        marked = _after_last(_SAID, text)
    if marked is None:
        found = list(_NUMBER.finditer(_without_latex(text)))
        return _values(found[-1]) if found else ()
    line = _without_latex(marked).strip().partition("\n")[0]
    first = _NUMBER.search(line.rpartition("=")[2]) or _NUMBER.search(line)
    return _values(first) if first else ()


def _boxed(text: str) -> str | None:
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    start += len("\\boxed{")
    depth = 1
    for end in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[end], 0)
        if depth == 0:
            return text[start:end]
    return text[start:]


def _after_last(marker: re.Pattern[str], text: str) -> str | None:
    ends = [match.end() for match in marker.finditer(text)]
    return text[ends[-1] :] if ends else None


def _without_latex(text: str) -> str:
    for pattern, plain in _LATEX:
        text = pattern.sub(plain, text)
    return text


def _values(match: re.Match[str]) -> tuple[Fraction, ...]:
    if len(match.group()) > _LONGEST:
        return ()
    value = _magnitude(match)
    if value is None:
        return ()
    if match["sign"] or match["inner"]:
        value = -value
    return (value, value / 100) if match["percent"] else (value,)


def _magnitude(match: re.Match[str]) -> Fraction | None:
    if match["over"] is not None:
        if int(match["under"]) == 0:
            return None
        return int(match["whole"] or 0) + Fraction(int(match["over"]), int(match["under"]))
    return Fraction(match["plain"].replace(",", "")) * Fraction(10) ** int(match["power"] or 0)
