"""Verifiers: `(completion, reference) -> float in [0, 1]`: programmes that tell right answers from wrong ones."""

from unirl.llm.verifiers.choice import Choice
from unirl.llm.verifiers.expression import Expression
from unirl.llm.verifiers.json_call import JsonCall
from unirl.llm.verifiers.math import Math
from unirl.llm.verifiers.number import Number
from unirl.llm.verifiers.pattern import Exact, Format, Regex
from unirl.llm.verifiers.python_tests import PythonTests

__all__ = ["Choice", "Exact", "Expression", "Format", "JsonCall", "Math", "Number", "PythonTests", "Regex"]
