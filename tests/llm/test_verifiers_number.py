import json
import os
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unirl import make
from unirl.errors import UserError
from unirl.llm.verifiers.number import final_numbers

DATA = Path(os.environ.get("UNIRL_TEST_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
GSM8K = [DATA / "text" / f"gsm8k_{part}.jsonl" for part in ("train", "test")]

SPELLINGS = [
    ("A: 18", "18"),
    ("#### 18", "18"),
    (r"so \boxed{18}", "18"),
    (r"\boxed{\frac{1}{2}}", "0.5"),
    (r"$\boxed{1{,}234}$", "1234"),
    ("That is $1,234.50", "1234.5"),
    ("18 dollars", "18"),
    ("1/2", "0.5"),
    ("3 1/2 hours", "3.5"),
    ("50%", "50"),
    ("50%", "0.5"),
    (r"50\%", "50"),
    ("It is 18.", "18"),
    ("The answer is 18.", "18"),
    ("**Answer:** 18", "18"),
    ("answer: 3 + 4 = 7 apples", "7"),
    ("-5 degrees", "-5"),
    ("a loss of -$5", "-5"),
    ("−5", "-5"),
    (".5", "1/2"),
    ("18.00", "18"),
    ("1.5e3", "1500"),
    ("first 3, then 4, so 7", "7"),
    ("1,234,567", "1234567"),
    ("€18", "18"),
    ("Answer:\n18", "18"),
    ("#### $1,234.50.", "1234.5"),
    ("#### 18\n\nThanks, all 2 of you", "18"),
    ("Answer: 18 (eighteen)", "18"),
    ("<answer>18</answer>", "18"),
    (r"\boxed{18\text{ dollars}}", "18"),
    (r"\boxed{18,000}", "18000"),
    ("18kg", "18"),
]


@pytest.mark.parametrize(("completion", "reference"), SPELLINGS)
def test_number_reads_the_usual_spellings(completion, reference):
    assert make("verifier", "number")(completion, reference) == 1.0


@pytest.mark.parametrize(("completion", "reference"), SPELLINGS)
def test_number_refuses_a_reference_that_is_one_off(completion, reference):
    other = str(final_numbers(reference)[0] + 1)
    assert make("verifier", "number")(completion, other) == 0.0


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "eighteen",
        r"18, so \boxed{19}",  # the box goes before everything
        "18\n#### 19",
        "The answer is 18. No: the answer is 19",
        "#### none of the 18",  # only the first number behind the marker counts ...
        r"\boxed{x} or 18",  # ... and a marker without one is no answer
        "1/0",
        "9" * 5000,
        "1e99999999",
        "180",
        "0.18",
        "18/7/2020",
    ],
)
def test_number_gives_no_credit_for(completion):
    expected = 1.0 if completion == "#### none of the 18" else 0.0
    assert make("verifier", "number")(completion, "18") == expected


def test_a_minus_between_two_numbers_is_not_a_sign():
    assert final_numbers("between 10-5") == (Fraction(5),)


def test_number_tolerances_are_absolute_and_relative():
    # |100.4 - 100| = 0.4 <= 0.5; relative: 0.4 <= 0.005 * 100 = 0.5; by default only 1e-6
    assert make("verifier", "number", tolerance=0.5)("100.4", "100") == 1.0
    assert make("verifier", "number", relative=0.005)("100.4", "100") == 1.0
    assert make("verifier", "number")("100.4", "100") == 0.0
    assert make("verifier", "number")("0.3333333", "1/3") == 1.0


def test_a_large_number_one_off_is_refused():
    assert make("verifier", "number")("70000001", "70000000") == 0.0


def test_a_reference_without_a_number_is_the_users_error():
    with pytest.raises(UserError, match="holds no number"):
        make("verifier", "number")("18", "unknown")


@given(st.integers(-(10**12), 10**12), st.integers(0, 99))
def test_grouped_and_decimal_writing_name_the_same_number(whole, cents):
    spelled = f"so it costs {'-' if whole < 0 else ''}${abs(whole):,}.{cents:02}."
    assert make("verifier", "number")(spelled, f"{'-' if whole < 0 else ''}{abs(whole)}.{cents:02}") == 1.0


@given(st.text(max_size=200))
def test_number_never_fails_on_any_text(text):
    assert make("verifier", "number")(text, "18") in (0.0, 1.0)


@pytest.mark.parametrize("path", GSM8K, ids=lambda path: path.stem)
def test_every_gsm8k_answer_is_accepted_and_its_successor_refused(path):
    if not path.is_file():
        pytest.skip("GSM8K is not here; UNIRL_TEST_DATA names the folder that holds text/gsm8k_train.jsonl")
    number = make("verifier", "number")
    for line in path.read_text().splitlines():
        answer = json.loads(line)["answer"]
        reference = answer.rpartition("####")[2].strip()
        assert number(answer, reference) == 1.0, answer
        assert number(answer, str(int(reference.replace(",", "")) + 1)) == 0.0, answer
        assert number(f"The answer is {reference}.", answer) == 1.0, answer
