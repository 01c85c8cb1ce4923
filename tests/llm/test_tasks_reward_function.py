import pytest

from unirl.errors import UserError
from unirl.llm.tasks import make_task
from unirl.llm.tasks.reward_function import load_reward_function
from unirl.llm.tiny.tokenizer import character_tokenizer

SOURCE = """
def by_length(prompts, completions, **columns):
    return [len(text) for text in completions]

def some(prompts, completions, a):
    return [None if x < 50 else 1.0 for x in a]

def everything(**columns):
    return [float(set(columns) == {"prompts", "completions", "completion_ids", "reference", "a", "b"})] * 2

def short(prompts, completions):
    return [1.0]

def broken(prompts, completions):
    return [1 / 0]

def not_a_number(prompts, completions):
    return [float("nan"), 1.0]

def words(prompts, completions):
    return ["high", "low"]

def nothing(prompts, completions):
    return None

LIMIT = 3
"""


@pytest.fixture(scope="module")
def tokenizer():
    return character_tokenizer("0123456789+=")


@pytest.fixture
def rewards(tmp_path):
    path = tmp_path / "rewards.py"
    path.write_text(SOURCE)
    return path


def scored(tokenizer, spec):
    task = make_task({"name": "addition", "reward": spec}, tokenizer, 0)
    prompts = task.prompts(2)
    return prompts, task.reward(prompts, ["12", prompts[1].reference], [[1, 2], [1, 2, 3]])


def test_a_function_of_a_file_gives_the_score_beside_the_verifier(tokenizer, rewards):
    _, found = scored(tokenizer, f"{rewards}:by_length")
    assert found["score"] == found["by_length"] == [2.0, 3.0]
    assert found["accuracy"] == [0.0, 1.0]


def test_a_function_of_a_module_is_found(tokenizer, rewards, monkeypatch):
    monkeypatch.syspath_prepend(str(rewards.parent))
    assert scored(tokenizer, "rewards:by_length")[1]["score"] == [2.0, 3.0]


def test_none_adds_nothing_and_several_functions_add_up(tokenizer, rewards):
    prompts, found = scored(tokenizer, [f"{rewards}:by_length", f"{rewards}:some"])
    some = [float(prompt.columns["a"] >= 50) for prompt in prompts]
    assert found["some"] == some
    assert found["score"] == [2.0 + some[0], 3.0 + some[1]]


def test_a_function_with_kwargs_gets_every_column(tokenizer, rewards):
    assert scored(tokenizer, f"{rewards}:everything")[1]["score"] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("short", "returned 1 numbers for 2 completions"),
        ("broken", "raised ZeroDivisionError"),
        ("not_a_number", "nan for row 0; rewards must be finite"),
        ("words", "'high' for row 0, not a number"),
        ("nothing", "returned None, not a list"),
    ],
)
def test_a_function_that_fails_is_named(tokenizer, rewards, name, message):
    with pytest.raises(UserError, match=rf"rewards\.py:{name}' .*{message}"):
        scored(tokenizer, f"{rewards}:{name}")


def test_what_cannot_be_found_is_named(rewards):
    for spec, message in (
        (f"{rewards}:by_lenght", "did you mean by_length"),
        (f"{rewards}:LIMIT", "is a int, not a function"),
        ("missing.py:f", "there is no file 'missing.py'"),
        ("missing_module_of_mine:f", "cannot import"),
        ("f", "module:function"),
    ):
        with pytest.raises(UserError, match=message):
            load_reward_function(spec)
