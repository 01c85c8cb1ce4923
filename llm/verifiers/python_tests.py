"""Unit tests for Python code that a model wrote."""

import ast
import json
import textwrap
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from unirl.errors import UserError
from unirl.llm.sandbox import Job, Limits, Result, Sandbox
from unirl.registry import register

_FENCE = "```"
_LANGUAGES = ("", "python", "python3", "py")


@register("verifier", "python_tests")
@dataclass(frozen=True)
class PythonTests:
    """Whether the completion's Python code passes the reference's tests: 1 or 0, or the share passed with `partial`.

    The code is the last fenced block (without a language, or Python), or the whole completion where there is none.
    The reference is test code (`assert solve(2) == 4`), a JSON list of such pieces, or pairs of standard input and
    output, `[{"input": "2", "output": "4"}]` or `{"inputs": [...], "outputs": [...]}`; outputs are compared line by
    line, white space at line ends and empty last lines aside.

    seconds, memory_mb: limits of each run (see `unirl.llm.sandbox.Limits`).
    packages: whether code may import this environment's packages, not the standard library alone.
    allow_missing: layers of the sandbox that this machine may lack; without, a missing one is an error.

    Who must not cheat is the author of the code: the model. It knows the prompt; it wants a 1 without a solution. So
    tests run in a process of their own, which calls the code's functions through pipes and compares copies made of
    exact built-in types. The code has no frame, no object, no descriptor and no memory in common with the tests, and
    learns nothing of what they expect, but the arguments of the calls that it answers. Expected outputs of pairs never
    enter a sandbox. Hence some rules for tests: objects of the code's own classes equal only themselves, so look at
    their attributes; no function can be handed over; and names that tests neither define nor import are the code's,
    except those of built-in functions and of modules. What none of this prevents is code that recognises arguments.

    Raises `UserError` for a reference without tests, and where a layer of the sandbox is missing.
    """

    partial: bool = False
    seconds: float = 10.0
    memory_mb: int = 512
    packages: bool = False
    allow_missing: Sequence[str] = ()

    def __post_init__(self) -> None:
        self._sandbox()

    def __call__(self, completion: str, reference: str) -> float:
        return self._score(self.results(completion, reference))

    def score_all(self, completions: Sequence[str], references: Sequence[str]) -> list[float]:
        """The scores of many completions, as many at a time as there are usable cores."""
        with ThreadPoolExecutor(self._sandbox().at_a_time) as pool:
            return list(pool.map(self, completions, references))

    def results(self, completion: str, reference: str) -> list[Result]:
        """How each run of the code ended: one for all test code, one per pair; without `partial`, up to a failure."""
        source, given = last_code(completion), read_tests(reference)
        if isinstance(given[0], str):
            return [self._sandbox().run(Job(source, tests=tuple(map(str, given))))]
        found = []
        for stdin, expected in given:
            result = self._sandbox().run(Job(source, stdin=stdin))
            found.append(_compared(result, expected))
            if found[-1].kind != "ok" and not self.partial:
                break
        return found

    def _score(self, results: Sequence[Result]) -> float:
        if self.partial:
            return sum(result.passed for result in results) / sum(result.of for result in results)
        return float(all(result.kind == "ok" for result in results))

    def _sandbox(self) -> Sandbox:
        limits = Limits(seconds=self.seconds, memory_mb=self.memory_mb)
        return Sandbox(limits, tuple(self.allow_missing), self.packages)


def last_code(completion: str) -> str:
    """The last fenced block without a language or in Python, closed or not; all of the text where there is none."""
    block: list[str] | None = None
    found: str | None = None
    wanted = False
    for line in completion.splitlines(keepends=True):
        word = line.strip()
        if block is None and word.startswith(_FENCE):
            block, wanted = [], word.strip("`").strip().lower() in _LANGUAGES
        elif block is not None and word == _FENCE:
            found = "".join(block) if wanted else found
            block = None
        elif block is not None:
            block.append(line)
    if block and wanted:
        found = "".join(block)
    return textwrap.dedent(completion if found is None else found)


def read_tests(reference: str) -> list[str] | list[tuple[str, str]]:
    """Pieces of test code, or pairs of input and output; raises `UserError` where there is neither."""
    try:
        data = json.loads(reference)
    except ValueError:
        data = [reference]
    if isinstance(data, dict) and isinstance(data.get("inputs"), list) and isinstance(data.get("outputs"), list):
        if len(data["inputs"]) != len(data["outputs"]):
            raise _refused(reference, f"has {len(data['inputs'])} inputs and {len(data['outputs'])} outputs")
        data = [{"input": x, "output": y} for x, y in zip(data["inputs"], data["outputs"], strict=True)]
    if not isinstance(data, list) or not data:
        raise _refused(reference, "holds no tests")
    if all(isinstance(item, str) for item in data):
        _check(reference, data)
        return data
    pairs = [_pair(item) for item in data]
    if any(pair is None for pair in pairs):
        raise _refused(reference, "mixes pairs of input and output with something else")
    return [pair for pair in pairs if pair is not None]


def _check(reference: str, tests: Sequence[str]) -> None:
    for test in tests:
        try:
            tree = ast.parse(test)
        except (SyntaxError, ValueError) as error:
            raise _refused(reference, f"is no Python: {error}") from error
        if not any(_asserts(node) for node in ast.walk(tree)):
            raise _refused(reference, "holds a test that asserts nothing")
        if not any(_runs(node, tree) for node in tree.body):
            raise _refused(reference, "defines a check that is not called")


def _asserts(node: ast.AST) -> bool:
    return isinstance(node, ast.Assert | ast.Raise) or (
        isinstance(node, ast.Attribute) and "assert" in node.attr.lower()
    )


def _runs(node: ast.stmt, tree: ast.Module) -> bool:
    """Whether a top-level statement asserts something when the tests are run: a definition only if it is used."""
    if not any(_asserts(inner) for inner in ast.walk(node)):
        return False
    if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.lower().startswith("test"):
        return True
    used = {inner.id for inner in ast.walk(tree) if isinstance(inner, ast.Name)}
    return node.name in used or (isinstance(node, ast.ClassDef) and bool(node.bases))


def _pair(item: Any) -> tuple[str, str] | None:
    if not isinstance(item, dict) or not all(isinstance(item.get(key), str) for key in ("input", "output")):
        return None
    return item["input"], item["output"]


def _refused(reference: str, problem: str) -> UserError:
    return UserError(
        f"verifier 'python_tests': the reference '{reference[:60]}' {problem}; it should be Python with assertions, a "
        'JSON list of such, or JSON pairs as in [{"input": "2", "output": "4"}]'
    )


def _compared(result: Result, expected: str) -> Result:
    if result.kind != "ok":
        return replace(result, of=1)
    found, wanted = _lines(result.output), _lines(expected)
    for number, (x, y) in enumerate(zip(found, wanted, strict=False), start=1):
        if x != y:
            return replace(result, kind="wrong", reason=f"line {number} is {x[:100]!r}, not {y[:100]!r}", of=1)
    if len(found) != len(wanted):
        return replace(result, kind="wrong", reason=f"{len(found)} lines, not {len(wanted)}", of=1)
    return replace(result, passed=1, of=1)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]
