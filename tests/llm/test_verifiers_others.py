import sys
import threading
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unirl import make
from unirl.errors import UserError
from unirl.llm.verifiers.expression import evaluate
from unirl.llm.verifiers.json_call import parse_calls


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        ("3*8*1", 1.0),
        ("(3*8)/1", 1.0),
        ("3 × 8 ÷ 1", 1.0),
        ("3*8*1=24", 1.0),
        ("let me see\n<answer>8*3*1</answer>", 1.0),
        ("3*8*1=25", 0.0),  # the other side is wrong
        ("3*8", 0.0),  # 1 is not used
        ("3*8*1*1", 0.0),  # 1 is used twice
        ("3*8+1", 0.0),
        ("3*8*2", 0.0),
        ("24", 0.0),
        ("8**3", 0.0),
        ("8//3*1", 0.0),
        ("1_8*3", 0.0),
        ("3.0*8*1", 0.0),
        ("__import__('os')", 0.0),
        ("3/(8-8)*1", 0.0),
        ("(" * 150 + "3*8*1" + ")" * 150, 0.0),
        ("", 0.0),
    ],
)
def test_expression(completion, right):
    assert make("verifier", "expression")(completion, "24|3,8,1") == right


def test_expression_is_evaluated_exactly():
    # 8 / (3 - 8/3) = 8 / (1/3) = 24, which floats miss
    assert make("verifier", "expression")("8/(3-8/3)", "24|8,3,8,3") == 1.0


def test_expression_may_leave_numbers_out_when_told():
    assert make("verifier", "expression", use_all=False)("3*8", "24|3,8,1") == 1.0
    assert make("verifier", "expression", use_all=False)("3*8*2/2", "24|3,8,1") == 0.0


def test_expression_names_a_malformed_reference():
    with pytest.raises(UserError, match=r"target\|number"):
        make("verifier", "expression")("1+1", "two|one,one")


@given(st.lists(st.integers(0, 99), min_size=1, max_size=6), st.data())
def test_evaluate_agrees_with_exact_arithmetic(numbers, data):
    text, value = str(numbers[0]), Fraction(numbers[0])
    for number in numbers[1:]:
        operator = data.draw(st.sampled_from("+-*"))
        text = f"({text}){operator}{number}"
        value = {"+": value + number, "-": value - number, "*": value * number}[operator]
    found = evaluate(text)
    assert found is not None and found[0] == value and sorted(found[1].elements()) == sorted(numbers)


@given(st.text(alphabet="0123456789+-*/()= .e", max_size=60))
def test_expression_never_fails_on_any_text(text):
    assert make("verifier", "expression")(text, "24|3,8,1") in (0.0, 1.0)


def test_exact_ignores_white_space_at_the_ends_only():
    exact = make("verifier", "exact")
    assert (exact(" 231\n", "231"), exact("2 31", "231"), exact("0231", "231")) == (1.0, 0.0, 0.0)


def test_regex_compares_what_its_group_last_found():
    regex = make("verifier", "regex", pattern="<answer>(.*?)</answer>")
    assert regex("<answer>no</answer> <answer>\nyes </answer>", "yes") == 1.0
    assert regex("<answer>yes</answer> <answer>no</answer>", "yes") == 0.0
    assert regex("yes", "yes") == 0.0
    assert make("verifier", "regex", pattern=r"[A-D]")("I choose B", "B") == 1.0


def test_format_looks_at_the_whole_completion_and_not_at_the_reference():
    form = make("verifier", "format", pattern="<think>.*</think>.+")
    assert form("<think>a\nb</think> c", "anything") == 1.0
    assert form("so <think>a</think> c", "anything") == 0.0


@pytest.mark.parametrize("name", ["regex", "format"])
def test_a_pattern_that_does_not_compile_is_the_users_error(name):
    with pytest.raises(UserError, match="no regular expression"):
        make("verifier", name, pattern="(")


CALL = '{"name": "book", "arguments": {"city": "Rome", "nights": 2}}'


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        (CALL, 1.0),
        (f"I will.\n<tool_call>\n{CALL}\n</tool_call>", 1.0),
        (f"```json\n{CALL}\n```", 1.0),
        ('{"name": "book", "parameters": {"nights": 2.0, "city": "Rome"}}', 1.0),
        ('{"function": {"name": "book", "arguments": "{\\"city\\": \\"Rome\\", \\"nights\\": 2}"}}', 1.0),
        ("book(city='Rome', nights=2)", 1.0),
        ("[book(nights=2, city='Rome')]", 1.0),
        ("book('Rome', 2)", 0.0),
        ("book(city='Rome', nights=1+1)", 0.0),
        ("book(city='Rome', nights=True)", 0.0),
        ("book(city='Paris', nights=2)", 0.0),
        ("book(city='Rome')", 0.0),
        ("book(city='Rome', nights=2, breakfast=True)", 0.0),
        ("hotels.book(city='Rome', nights=2)", 0.0),
        (f"[{CALL}, {CALL}]", 0.0),
        ("", 0.0),
        ("no call", 0.0),
    ],
)
def test_json_call(completion, right):
    assert make("verifier", "json_call")(completion, CALL) == right


def test_json_call_in_any_order_unless_ordered():
    assert make("verifier", "json_call")("[g(), f(a=1)]", "[f(a=1), g()]") == 1.0
    assert make("verifier", "json_call", ordered=True)("[g(), f(a=1)]", "[f(a=1), g()]") == 0.0


def test_json_call_partial_credit_by_hand():
    # right name, one of two arguments right: (1 + 1) / (1 + 2) = 2/3; one call of two: (2/3 + 0) / 2 = 1/3
    partial = make("verifier", "json_call", partial=True)
    assert partial("f(a=1, b=3)", "f(a=1, b=2)") == pytest.approx(2 / 3)
    assert partial("f(a=1, b=3)", "[f(a=1, b=2), g()]") == pytest.approx(1 / 3)
    assert partial("f(a=1, b=2)", "f(a=1, b=2)") == 1.0


def test_json_call_tells_one_from_true():
    assert make("verifier", "json_call")("f(a=True)", "f(a=1)") == 0.0


@given(st.text(max_size=100))
def test_parse_calls_never_fails(text):
    assert parse_calls(text) is None or isinstance(parse_calls(text), list)


def test_json_call_names_a_reference_that_is_no_call():
    with pytest.raises(UserError, match="no function call"):
        make("verifier", "json_call")("f()", "hello there")


@pytest.mark.parametrize(
    ("completion", "reference", "right"),
    [
        (r"so $x = \frac{1}{2}$", "0.5", 1.0),
        (r"\boxed{(x+1)^2}", "x^2 + 2x + 1", 1.0),
        (r"\boxed{2\sqrt{2}}", r"$\sqrt{8}$", 1.0),
        (r"\boxed{3}", "4", 0.0),
        ("", "4", 0.0),
    ],
)
def test_math_decides_equivalence(completion, reference, right):
    pytest.importorskip("math_verify")
    assert make("verifier", "math")(completion, reference) == right


def test_math_works_outside_the_main_thread():
    pytest.importorskip("math_verify")
    found = []
    thread = threading.Thread(target=lambda: found.append(make("verifier", "math")(r"\boxed{\frac{1}{2}}", "0.5")))
    thread.start()
    thread.join()
    assert found == [1.0]


def test_math_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(UserError, match="pip install math-verify"):
        make("verifier", "math")
