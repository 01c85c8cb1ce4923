import asyncio
import threading
import time
import warnings

import pytest

from unirl.errors import RunWarning, UserError
from unirl.llm.tasks import Prompt, Task
from unirl.llm.tasks.reward_function import RewardFunction, load_reward_function


def reward(function, **options):
    return RewardFunction(f"mine.py:{function.__name__}", function, **options)


def columns(*completions):
    return {"prompts": [f"p{i}" for i in range(len(completions))], "completions": list(completions)}


def lengths(completions):
    return [1 / len(text) for text in completions]  # fails for an empty completion


async def slowly(completions):
    await asyncio.sleep(0.01)
    return [float(len(text)) for text in completions]


def test_an_async_function_is_awaited():
    assert reward(slowly)(columns("a", "bb"), 2) == [1.0, 2.0]
    assert reward(slowly, timeout=60)(columns("a", "bb"), 2) == [1.0, 2.0]


def test_a_function_that_returns_an_awaitable_is_awaited():
    def later(completions):
        return slowly(completions)

    assert reward(later)(columns("abc"), 1) == [3.0]


def test_an_async_function_can_be_called_while_a_loop_runs():
    async def outside():
        return reward(slowly)(columns("abc"), 1)

    assert asyncio.run(outside()) == [3.0]


def test_a_function_without_a_limit_runs_in_the_callers_thread():
    def thread(completions):
        return [float(threading.current_thread() is threading.main_thread())]

    assert reward(thread)(columns("a"), 1) == [1.0]


@pytest.mark.parametrize("on_failure", ["stop", "skip"])
def test_a_function_that_takes_too_long_is_named(on_failure):
    def sleeps(completions):
        time.sleep(5)
        return [0.0, 0.0]

    async def dozes(completions):
        await asyncio.sleep(5)

    for function in (sleeps, dozes):
        start = time.monotonic()
        with pytest.raises(UserError, match=rf"{function.__name__}' took more than 0.1 seconds"):
            reward(function, timeout=0.1, on_failure=on_failure)(columns("a", "b"), 2)
        assert time.monotonic() - start < 4


def test_the_row_that_a_function_fails_for_is_shown():
    with pytest.raises(UserError, match=r"raised ZeroDivisionError.*\(row 1: prompt 'p1', completion ''\)"):
        reward(lengths)(columns("a", "", "b"), 3)


def test_a_function_that_fails_for_no_row_alone_is_named_without_a_row():
    def pairs(completions):
        if len(completions) > 1:
            raise RuntimeError("one at a time")
        return [1.0]

    with pytest.raises(UserError, match="one at a time, but not for any of the rows alone"):
        reward(pairs, on_failure="skip")(columns("a", "b"), 2)


def test_rows_that_fail_are_skipped_shown_and_marked_when_allowed():
    with pytest.warns(RunWarning, match=r"ZeroDivisionError.*row 1: prompt 'p1'") as caught:
        first, skipped, last = reward(lengths, on_failure="skip")(columns("ab", "", "abcd"), 3)
    assert (first, last) == (0.5, 0.25) and skipped != skipped
    assert len(caught) == 1


def test_many_failing_rows_are_counted():
    with pytest.warns(RunWarning) as caught:
        reward(lengths, on_failure="skip")(columns("a", *[""] * 5), 6)
    assert len(caught) == 4 and "failed for 5 of 6 rows" in str(caught[-1].message)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "high"])
def test_values_that_are_no_finite_numbers_are_skipped_too(value):
    def odd(completions):
        return [1.0 if text else value for text in completions]

    with pytest.warns(RunWarning, match="for row"):
        scores = reward(odd, on_failure="skip")(columns("a", ""), 2)
    assert scores[0] == 1.0 and scores[1] != scores[1]


def test_a_function_that_fails_for_every_row_stops_even_when_rows_may_be_skipped():
    with pytest.raises(UserError, match="ZeroDivisionError"):
        reward(lengths, on_failure="skip")(columns("", ""), 2)


def test_a_wrong_length_always_stops():
    def short(completions):
        return [1.0]

    with pytest.raises(UserError, match="returned 1 numbers for 2 completions"):
        reward(short, on_failure="skip")(columns("a", "b"), 2)


def test_a_long_sample_is_shortened():
    def fails(completions):
        raise ValueError("no")

    with pytest.raises(UserError) as caught:
        reward(fails)(columns("x" * 10_000), 1)
    assert len(str(caught.value)) < 800


def test_a_skipped_row_takes_the_mean_of_its_prompt_and_is_counted():
    # prompt 1: scores 0.5, skipped, 0.25: the mean is 0.375; prompt 2: only a skipped row, so the mean of all, 0.375
    task = Task(None, None, 0, max_new_tokens=1, rewards=[reward(lengths, on_failure="skip")])
    prompts = [Prompt([1], "p", "r", prompt_id) for prompt_id in (1, 1, 1, 2)]
    with pytest.warns(RunWarning):
        found = task.reward(prompts, ["ab", "", "abcd", ""], [[1]] * 4)
    assert found["score"] == found["lengths"] == [0.5, 0.375, 0.25, 0.375]
    assert found["lengths_failed"] == [0.0, 1.0, 0.0, 1.0]


def test_without_failures_nothing_is_said_and_the_count_is_zero():
    task = Task(None, None, 0, max_new_tokens=1, rewards=[reward(lengths, on_failure="skip")])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = task.reward([Prompt([1], "p", "r", 1)], ["ab"], [[1]])
    assert found["score"] == [0.5] and found["lengths_failed"] == [0.0]


def test_a_verifier_that_scores_many_at_a_time_is_given_all():
    class Many:
        def score_all(self, completions, references):
            return [float(x == y) for x, y in zip(completions, references, strict=True)]

    task = Task(None, None, 0, max_new_tokens=1, verifier=Many())
    found = task.reward([Prompt([1], "p", "a", 1), Prompt([1], "p", "b", 2)], ["a", "a"], [[1], [1]])
    assert found["accuracy"] == found["score"] == [1.0, 0.0]


def test_options_stand_in_a_mapping(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def f(completions):\n    return [1.0]\n")
    made = load_reward_function({"function": f"{path}:f", "timeout": 3, "on_failure": "skip"})
    assert (made.timeout, made.on_failure, made.name) == (3, "skip", "f")
    for wrong, message in (
        ({"function": f"{path}:f", "time": 3}, "did you mean timeout"),
        ({"timeout": 3}, "has no `function`"),
        ({"function": f"{path}:f", "timeout": 0}, "must be positive"),
        ({"function": f"{path}:f", "on_failure": "ignore"}, "unknown on_failure"),
    ):
        with pytest.raises(UserError, match=message):
            load_reward_function(wrong)
