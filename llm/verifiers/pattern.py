"""Verifiers that compare text: exactly, by what a pattern extracts, or by form alone."""

import re
from dataclasses import dataclass

from unirl.errors import UserError
from unirl.registry import register


@register("verifier", "exact")
@dataclass(frozen=True)
class Exact:
    """1 if completion and reference are the same text, white space at both ends aside."""

    def __call__(self, completion: str, reference: str) -> float:
        return float(completion.strip() == reference.strip())


@register("verifier", "regex")
@dataclass(frozen=True)
class Regex:
    r"""1 if what `pattern` last finds in the completion is the reference, white space at both ends aside.

    The first group is what counts, or the whole match where there is none; ``.`` matches newlines.
    Example: ``pattern: '<answer>(.*?)</answer>'``. Raises `UserError` for a pattern that does not compile.
    """

    pattern: str

    def __post_init__(self) -> None:
        _compiled("regex", self.pattern)

    def __call__(self, completion: str, reference: str) -> float:
        pattern = _compiled("regex", self.pattern)
        found = list(pattern.finditer(completion))
        if not found:
            return 0.0
        answer = found[-1].group(1 if pattern.groups else 0) or ""
        return float(answer.strip() == reference.strip())


@register("verifier", "format")
@dataclass(frozen=True)
class Format:
    """1 if the whole completion has the form `pattern`, whatever the reference; ``.`` matches newlines.

    Raises `UserError` for a pattern that does not compile.
    """

    pattern: str

    def __post_init__(self) -> None:
        _compiled("format", self.pattern)

    def __call__(self, completion: str, reference: str) -> float:
        return float(_compiled("format", self.pattern).fullmatch(completion.strip()) is not None)


def _compiled(verifier: str, pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern, re.DOTALL)  # `re` keeps compiled patterns itself
    except (re.error, TypeError) as error:
        raise UserError(f"verifier '{verifier}': pattern '{pattern}' is no regular expression: {error}") from error
