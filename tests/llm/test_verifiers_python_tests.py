import json

import pytest

from unirl import make
from unirl.errors import UserError
from unirl.llm.sandbox import Result, layers, missing_layers
from unirl.llm.verifiers.python_tests import _compared, last_code, read_tests

needs_sandbox = pytest.mark.skipif(bool(missing_layers()), reason=f"the sandbox lacks {missing_layers()}")
TESTS = "assert solve(2) == 4\nassert solve(5) == 10"
RIGHT = "def solve(n):\n    return 2 * n"
HALF = "def solve(n):\n    return 4"


def fenced(code, language="python"):
    return f"Let me think.\n```{language}\n{code}\n```\nThat is it."


@pytest.mark.parametrize(
    ("completion", "code"),
    [
        ("x = 1", "x = 1"),
        (fenced("x = 1"), "x = 1\n"),
        (fenced("x = 1", "py"), "x = 1\n"),
        (fenced("x = 1", ""), "x = 1\n"),
        (fenced("x = 1") + "\n" + fenced("x = 2"), "x = 2\n"),
        (fenced("x = 1") + "\n" + fenced("4", "text"), "x = 1\n"),  # a block of output is no code
        ("```text\n4\n```\nhence\n```python\nx = 1\n```", "x = 1\n"),
        ("so\n```python\nx = 1\n", "x = 1\n"),  # cut off before the end of the block
        (fenced("x = 1") + "\n```python\nx = 2\n", "x = 2\n"),
        ("1. code\n   ```python\n   if x:\n       y = 1\n   ```", "if x:\n    y = 1\n"),
        ("", ""),
    ],
)
def test_the_code_is_the_last_fenced_block(completion, code):
    assert last_code(completion) == code


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        (TESTS, [TESTS]),
        (json.dumps(["assert f(1) == 1", "assert f(2) == 2"]), ["assert f(1) == 1", "assert f(2) == 2"]),
        ('[{"input": "1", "output": "2"}]', [("1", "2")]),
        ('{"inputs": ["1", "2"], "outputs": ["2", "4"]}', [("1", "2"), ("2", "4")]),
        ("def test_it():\n    assert f(1) == 2", ["def test_it():\n    assert f(1) == 2"]),
        ("def check(f):\n    assert f(1) == 2\ncheck(solve)", ["def check(f):\n    assert f(1) == 2\ncheck(solve)"]),
    ],
)
def test_a_reference_is_test_code_or_pairs(reference, found):
    assert read_tests(reference) == found


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("", "holds a test that asserts nothing"),
        ("def check(f):\n    assert f(2) == 4", "defines a check that is not called"),
        ("[]", "holds no tests"),
        ("3", "holds no tests"),
        ("solve(2)", "asserts nothing"),
        ("assert solve(2) = 4", "is no Python"),
        ('["assert solve(2) == 4", "solve(3)"]', "asserts nothing"),
        ('[{"input": "1"}]', "mixes pairs"),
        ('[{"input": 1, "output": 2}]', "mixes pairs"),
        ('{"inputs": ["1"], "outputs": []}', "has 1 inputs and 0 outputs"),
    ],
)
def test_a_reference_without_tests_is_the_users_error(reference, message):
    with pytest.raises(UserError, match=message):
        read_tests(reference)


@pytest.mark.parametrize(
    ("output", "expected", "reason"),
    [
        ("4\n", "4", ""),
        ("4  \r\n5\n\n", "4\n5\n", ""),
        ("", "\n", ""),
        ("4", "5", "line 1 is '4', not '5'"),
        ("4\n5", "4", "2 lines, not 1"),
        (" 4", "4", "line 1 is ' 4', not '4'"),
        ("4.0", "4", "line 1 is '4.0', not '4'"),
    ],
)
def test_output_is_compared_line_by_line(output, expected, reason):
    compared = _compared(Result("ok", output=output), expected)
    assert (compared.kind, compared.reason, compared.passed) == ("wrong" if reason else "ok", reason, int(not reason))


@needs_sandbox
def test_code_that_passes_all_tests_scores_one():
    verifier = make("verifier", "python_tests", seconds=60.0)
    assert verifier(fenced(RIGHT), TESTS) == 1.0
    assert verifier(fenced(HALF), TESTS) == 0.0
    assert verifier("I do not know.", TESTS) == 0.0
    assert verifier("", TESTS) == 0.0


@needs_sandbox
def test_partial_credit_is_the_share_of_tests():
    # `HALF` is right for 2 and wrong for 5 and 7: one of three
    verifier = make("verifier", "python_tests", partial=True, seconds=60.0)
    tests = json.dumps([f"assert solve({n}) == {2 * n}" for n in (5, 2, 7)])
    assert verifier(HALF, tests) == pytest.approx(1 / 3)
    assert verifier("print(4)", '[{"input": "5", "output": "10"}, {"input": "2", "output": "4"}]') == 0.5
    assert verifier("print(", tests) == 0.0


@needs_sandbox
def test_without_partial_credit_the_pairs_after_a_failure_are_not_run():
    verifier = make("verifier", "python_tests", seconds=60.0)
    results = verifier.results("print(4)", '[{"input": "5", "output": "10"}, {"input": "2", "output": "4"}]')
    assert [result.reason for result in results] == ["line 1 is '4', not '10'"]


@needs_sandbox
def test_many_are_scored_in_their_order():
    verifier = make("verifier", "python_tests", seconds=60.0)
    assert verifier.score_all([RIGHT, HALF, RIGHT], [TESTS] * 3) == [1.0, 0.0, 1.0]


def test_it_is_refused_where_a_layer_is_missing(monkeypatch):
    monkeypatch.setattr(layers, "missing_layers", lambda: {"seccomp": "not this machine"})
    with pytest.raises(UserError, match="lacks seccomp"):
        make("verifier", "python_tests")
    make("verifier", "python_tests", allow_missing=["seccomp"])
