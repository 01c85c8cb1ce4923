import pytest
from hypothesis import given
from hypothesis import strategies as st

from unirl import make
from unirl.errors import UserError


@pytest.mark.parametrize(
    "completion",
    [
        "B",
        "B.",
        "(B)",
        "b)",
        "B) because 2 + 2 = 4",
        "B: Paris",
        "Answer: B",
        "ANSWER: (b)",
        "A: B",  # "A:" as in question and answer
        "#### B",
        "The answer is B.",
        "The answer is: **B**",
        "The correct answer is option B, not A.",
        "so the final answer is (B) Paris",
        r"Thus \boxed{B}",
        r"$\boxed{\text{B}}$",
        r"\boxed{(B)}",
        "<answer>B</answer>",
        "<think>A? No, C?</think>\nB",
        "It could be (A), but it is (B)",
        "A is wrong, C too.\nI choose B",
        "The answer is A. No: the answer is B",
        "Option A fails. I pick option B",
    ],
)
def test_choice_reads_the_usual_spellings(completion):
    assert make("verifier", "choice", letters="ABCD")(completion, "B") == 1.0
    assert make("verifier", "choice", letters="ABCD")(completion, "C") == 0.0


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "Banana",
        "I think A good answer needs time",  # words, not options
        "the answer is unknown",
        "the answer is beautiful",
        "(Z)",
        "it is rich in B-vitamins",
        r"\boxed{C} or B",
    ],
)
def test_choice_gives_no_credit_for(completion):
    assert make("verifier", "choice", letters="ABCD")(completion, "B") == 0.0


@pytest.mark.parametrize("reference", ["B", "b", "(B)", "B.", " B "])
def test_choice_reads_references_with_brackets(reference):
    assert make("verifier", "choice")("B", reference) == 1.0


@pytest.mark.parametrize("reference", ["", "Paris", "E", "AB", "1"])
def test_a_reference_that_is_no_option_is_the_users_error(reference):
    with pytest.raises(UserError, match="none of the letters ABCD"):
        make("verifier", "choice", letters="ABCD")("B", reference)


@pytest.mark.parametrize("letters", ["", "AA", "aA", "A1"])
def test_letters_must_be_different_letters(letters):
    with pytest.raises(UserError, match="different letters"):
        make("verifier", "choice", letters=letters)


@given(st.text(max_size=100))
def test_choice_never_fails_on_any_text(text):
    assert make("verifier", "choice")(text, "B") in (0.0, 1.0)
