"""Tasks as text and token ids; the tokenizer is one token per character, so ids can be read."""

import gzip
import json
from dataclasses import dataclass

import pytest

from unirl import make
from unirl.errors import UserError
from unirl.llm.tasks import make_problems, make_task
from unirl.llm.tiny.tokenizer import byte_tokenizer, character_tokenizer
from unirl.registry import register


@pytest.fixture(scope="module")
def digits():
    return character_tokenizer("0123456789+-*/() :=")


@pytest.fixture(scope="module")
def words():
    return byte_tokenizer(["How many? The answer is 12. #### 12"] * 4, 300)


def decoded(tokenizer, ids):
    return tokenizer.decode(ids, skip_special_tokens=False)


def test_addition_writes_the_sum_backwards(digits):
    for prompt in make_task({"name": "addition"}, digits, 0).prompts(50):
        a, b = prompt.columns["a"], prompt.columns["b"]
        assert prompt.text == f"{a}+{b}=" and 10 <= a <= 99 and 10 <= b <= 99
        assert int(prompt.reference[::-1]) == a + b and len(prompt.reference) == 3
        assert prompt.prompt_id == 100 * a + b


def test_prompt_and_response_ids_spell_prompt_and_response(digits):
    task = make_task({"name": "addition"}, digits, 0)
    prompt, response = task.demonstrations(1)[0]
    assert decoded(digits, prompt.token_ids) == prompt.text
    assert decoded(digits, response) == prompt.reference + "<eos>"


@pytest.mark.parametrize("name", ["addition", "countdown"])
def test_held_out_problems_are_never_drawn_for_training(digits, name):
    task = make_task({"name": name}, digits, 0)
    held_out = {prompt.text for prompt in task.held_out(200)}
    assert len(held_out) == 200
    assert held_out.isdisjoint(prompt.text for prompt in task.prompts(3000))
    assert held_out.isdisjoint(prompt.text for prompt, _ in task.demonstrations(3000))


def test_addition_holds_out_both_orders_of_a_pair(digits):
    task = make_task({"name": "addition"}, digits, 0)
    pairs = {frozenset((p.columns["a"], p.columns["b"])) for p in task.held_out(10_000)}
    assert 300 < len(pairs) < 500  # about a tenth of the 90 * 91 / 2 = 4095
    assert pairs.isdisjoint(frozenset((p.columns["a"], p.columns["b"])) for p in task.prompts(3000))


def test_the_held_out_list_does_not_depend_on_the_seed_and_grows_at_its_end(digits):
    few, many = (make_task({"name": "countdown"}, digits, seed).held_out(n) for seed, n in ((0, 20), (1, 50)))
    assert few == many[:20]


@pytest.mark.parametrize("options", [{}, {"operators": "+-*/", "numbers": 4, "largest": 20}])
def test_every_countdown_demonstration_solves_its_problem(options):
    problems = make_problems({"name": "countdown", **options})
    verifier = make("verifier", "expression")
    for problem in problems.held_out(300):
        assert verifier(problem.answer, problem.reference) == 1.0, problem
        assert len(problem.answer) < problems.facts.max_new_tokens
        assert set(problem.prompt + problem.answer) <= set(problems.facts.alphabet)


def test_prompt_ids_tell_prompts_apart():
    problems = make_problems({"name": "countdown"}).held_out(200)
    assert len({p.prompt for p in problems}) == len({p.prompt_id for p in problems}) == 200


def test_reward_names_accuracy_format_and_length(digits):
    task = make_task({"name": "addition"}, digits, 0)
    prompt = task.prompts(1)[0]
    found = task.reward([prompt] * 3, [prompt.reference, "1", "000"], [[1, 2, 3, 4], [1], [1, 2, 3]])
    assert found["accuracy"] == found["score"] == [1.0, 0.0, 0.0]
    assert found["format"] == [1.0, 0.0, 1.0] and found["length"] == [4.0, 1.0, 3.0]


def test_a_restored_task_draws_the_same_prompts(digits):
    task, other = (make_task({"name": "addition"}, digits, seed) for seed in (0, 1))
    task.prompts(7)
    other.load_state_dict(json.loads(json.dumps(task.state_dict())))
    assert task.prompts(5) == other.prompts(5)


def test_demonstrations_are_fixed_and_leave_the_prompts_alone(digits):
    task, other = (make_task({"name": "addition"}, digits, 3) for _ in range(2))
    assert task.demonstrations(5) == task.demonstrations(9)[:5]
    assert task.prompts(5) == other.prompts(5)
    assert [p for p, _ in task.demonstrations(5)] != other.prompts(5)


def test_a_small_problem_set_gives_what_it_has(digits):
    # one digit: 100 ordered pairs of 0..9, of which the held-out tenth is few
    assert 0 < len(make_task({"name": "addition", "digits": 1}, digits, 0).held_out(256)) < 30


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"name": "adition"}, "addition"),
        ({"name": "addition", "digit": 2}, "did you mean digits"),
        ({"name": "addition", "digits": 0}, "from 1 to 9"),
        ({"name": "countdown", "operators": "+^"}, r"\+ - \* /"),
        ({"name": "addition", "max_new_tokens": 0}, "at least 1"),
        ({"name": "addition", "verifier": {"name": "exakt"}}, "exact"),
        ({"name": "gsm8k"}, "task.path"),
        ({"name": "hh"}, "task.path"),
        ({"name": "gsm8k", "path": "x.jsonl", "prompt": "Q:"}, "{question}"),
        ({"name": "addition", "reward": "nowhere"}, "module:function"),
        ({}, "no `name`"),
    ],
)
def test_wrong_configurations_are_named(digits, config, message):
    with pytest.raises(UserError, match=message):
        make_task(config, digits, 0)


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def word_problems(count):
    return [{"question": f"How many {i}?", "answer": f"It is {i}.\n#### {i:,}", "level": i} for i in range(count)]


def test_gsm8k_reads_question_answer_and_other_columns(tmp_path, words):
    path = write_lines(tmp_path / "train.jsonl", word_problems(40))
    task = make_task({"name": "gsm8k", "path": path}, words, 0)
    prompt, response = task.demonstrations(1)[0]
    number = prompt.columns["level"]
    assert prompt.messages == [{"role": "user", "content": f"How many {number}?"}]
    assert decoded(words, prompt.token_ids) == f"<|user|>How many {number}?<eos><|assistant|>"
    assert decoded(words, response) == f"It is {number}.\n#### {number}<eos>"
    assert task.reward([prompt], [f"so {number}"], [[0]])["score"] == [1.0]
    trained = {p.text for p in task.prompts(36)}
    assert trained.isdisjoint(p.text for p in task.held_out(10)) and task.held_out(10)


def test_gsm8k_takes_a_test_file_a_template_and_other_field_names(tmp_path, words):
    rows = [{"q": row["question"], "a": row["answer"]} for row in word_problems(4)]
    train, test = (
        write_lines(tmp_path / f"{name}.jsonl", rows[part]) for name, part in (("a", slice(3)), ("b", slice(3, 4)))
    )
    config = {"name": "gsm8k", "path": train, "test_path": test, "question": "q", "answer": "a"}
    task = make_task({**config, "prompt": "Q: {question}\nA:"}, words, 0)
    assert [p.text for p in task.held_out(9)] == ["Q: How many 3?\nA:"]
    assert {p.text for p in task.prompts(3)} == {f"Q: How many {i}?\nA:" for i in range(3)}


@pytest.mark.parametrize("name", ["data.json", "data.json.gz", "data.jsonl.gz"])
def test_records_come_from_json_lists_and_gzip(tmp_path, words, name):
    rows = word_problems(30)
    text = json.dumps(rows) if ".jsonl" not in name else "\n".join(json.dumps(row) for row in rows)
    data = text.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    assert len(make_task({"name": "gsm8k", "path": str(tmp_path / name)}, words, 0).prompts(20)) == 20


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"question": "a", "answer": "1"}\n{"question": "b"}\n', r"t\.jsonl line 2: no key 'answer'; it has question"),
        ('{"question": "a", "answer": "1"}\n\n{oops\n', r"t\.jsonl line 3: not JSON"),
        ('["question"]\n', r"t\.jsonl line 1: expected an object"),
        ('{"question": 3, "answer": "1"}\n', r"t\.jsonl line 1, 'question': expected a string or a list"),
        ("\n", "no records"),
    ],
)
def test_a_bad_line_is_named(tmp_path, words, text, message):
    (tmp_path / "t.jsonl").write_text(text)
    with pytest.raises(UserError, match=message):
        make_task({"name": "gsm8k", "path": str(tmp_path / "t.jsonl")}, words, 0).prompts(1)


def test_a_missing_file_is_named(words):
    with pytest.raises(UserError, match=r"there is no file 'nowhere\.jsonl'"):
        make_task({"name": "gsm8k", "path": "nowhere.jsonl"}, words, 0).prompts(1)


def test_prompts_that_are_too_long_are_left_out(tmp_path, words):
    rows = [{"question": "x" * (200 if i % 2 else 2) + str(i), "answer": "1"} for i in range(60)]
    config = {"name": "gsm8k", "path": write_lines(tmp_path / "t.jsonl", rows), "max_prompt_tokens": 20}
    task = make_task(config, words, 0)
    assert len(task.prompts(25)) == 25
    assert all(len(p.token_ids) <= 20 for p in [*task.prompts(25), *task.held_out(60)])
    with pytest.raises(UserError, match="max_prompt_tokens"):
        make_task({**config, "max_prompt_tokens": 1}, words, 0).prompts(1)


@dataclass(frozen=True)
class Record:
    prompt: object
    chosen: object
    rejected: object


@register("pair_reader", "test_pairs")
@dataclass(frozen=True)
class Reader:
    """Three pairs to each of thirty prompts, in the conversational form or the plain one."""

    path: str

    def __call__(self):
        for i in range(30):
            for j in range(3):
                if self.path == "plain":
                    yield Record(f"Q{i} ", f"good {j}", f"bad {j}")
                else:
                    good, bad = ([{"role": "assistant", "content": f"{word} {j}"}] for word in ("good", "bad"))
                    yield Record([{"role": "user", "content": f"Q{i}"}], good, bad)


@pytest.mark.parametrize(("form", "prompt"), [("plain", "Q{} "), ("chat", "<|user|>Q{}<eos><|assistant|>")])
def test_preference_pairs_become_token_ids(words, form, prompt):
    task = make_task({"name": "chat_preferences", "path": form, "reader": "test_pairs"}, words, 0)
    training, held_out = task.pairs(), task.pairs(held_out=True)
    assert len(training) + len(held_out) == 90 and held_out
    assert {p.prompt_id for p, _, _ in training}.isdisjoint(p.prompt_id for p, _, _ in held_out)
    first, chosen, rejected = training[0]
    assert first.text == prompt.format(first.prompt_id)
    assert (decoded(words, chosen), decoded(words, rejected)) == ("good 0<eos>", "bad 0<eos>")
    assert decoded(words, task.demonstrations(1)[0][1]).startswith("good ")


def test_preferences_have_no_reward_of_their_own(words):
    task = make_task({"name": "chat_preferences", "path": "plain", "reader": "test_pairs"}, words, 0)
    assert not task.has_reward
    assert task.reward(task.prompts(2), ["a", "b"], [[1], [1, 2]]) == {"score": [0.0, 0.0], "length": [1.0, 2.0]}


def test_verifiable_tasks_record_no_pairs(digits):
    task = make_task({"name": "addition"}, digits, 0)
    assert task.pairs() is None and task.has_reward


def test_preferences_through_the_json_lines_reader(tmp_path, words):
    rows = [{"prompt": f"Q{i} ", "chosen": "yes", "rejected": "no"} for i in range(30)]
    task = make_task({"name": "chat_preferences", "path": write_lines(tmp_path / "p.jsonl", rows)}, words, 0)
    assert [decoded(words, ids) for ids in task.pairs()[0][1:]] == ["yes<eos>", "no<eos>"]
