"""Models that do not fit their tokenizer, and recorded data that does not fit the model."""

import json
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from engine_stub import EOS, network, saved, tokenizer
from transformers import ByT5Tokenizer

from unirl.config import compose
from unirl.errors import RunWarning, UserError
from unirl.llm import LanguageDomain
from unirl.llm.datasets import demonstrations, recorded_pairs
from unirl.llm.models import check_vocabulary, context_length, use_liger
from unirl.llm.rows import judge
from unirl.llm.tasks import Prompt, make_task
from unirl.llm.tiny.tokenizer import character_tokenizer
from unirl.run import train


def prompt(*ids: int) -> Prompt:
    return Prompt(list(ids), "", "", 0)


class Recorded:
    """A task with these demonstrations and pairs, and no verifier."""

    has_reward = False

    def __init__(self, demonstrations=(), pairs=()):
        self._demonstrations, self._pairs = list(demonstrations), list(pairs)

    def demonstrations(self, count):
        return self._demonstrations

    def pairs(self, held_out):
        return self._pairs


def test_ids_that_only_the_model_knows_are_sampled_trained_on_and_read_as_nothing(tmp_path: Path) -> None:
    # the embedding is padded from 14 to 40, and the new tokens are the likelier ones
    model = network()
    model.resize_token_embeddings(40)
    with torch.no_grad():
        weight: Any = model.get_input_embeddings().weight
        weight[14:] = 2 * weight[5]
    model.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    words = ["method=grpo", "task=addition", "model=hf", "model.lora=null", f"model.path={tmp_path}", "iterations=2"]
    more = ["method.source.rows=16", "evaluation_episodes=8", "evaluations=1", f"out={tmp_path / 'run'}"]
    assert train(compose([*words, *more]))["steps"] == 2
    domain = LanguageDomain({"name": "addition"}, {"path": str(tmp_path)})
    batch = domain.rollout(16)
    assert int(batch.inputs["token"].max()) >= 14
    assert batch.score.isfinite().all() and batch.behavior_logp.isfinite().all()


def test_a_slow_tokenizer_is_only_asked_for_what_it_knows() -> None:
    class Echo:
        has_reward = True

        def reward(self, prompts, texts, ids):
            self.texts = texts
            return {"score": [0.0] * len(texts)}

    task, slow = Echo(), ByT5Tokenizer()
    h, i = slow("hi", add_special_tokens=False)["input_ids"]
    tokens = torch.tensor([[h, 5000, i], [4000, 4000, 4000]])
    judge(task, slow, [prompt(1)] * 2, tokens, torch.ones_like(tokens, dtype=torch.bool))
    assert task.texts == ["hi", ""]


def test_an_id_beyond_the_embedding_is_refused_though_there_are_few_tokens() -> None:
    gap = tokenizer()
    gap.get_vocab = lambda: {"a": 0, "b": 99}  # two tokens, the second far out
    with pytest.raises(UserError, match="has 100 tokens, but the model embeds only 14"):
        check_vocabulary(network(), gap)


def test_demonstrations_longer_than_the_context_are_left_out_and_counted() -> None:
    answers = [(prompt(2, 3, 4), [5, EOS]), (prompt(2, 3, 4), [5, 6, EOS]), (prompt(2), [3, 4, 5, EOS])]
    with pytest.warns(RunWarning, match="1 of 3 demonstrations are longer than the model's context of 5 tokens and"):
        rows = demonstrations(Recorded(answers), tokenizer(), 3, 0, "cpu", context=5).rows
    assert rows.mask.sum(1).tolist() == [2, 4]
    with pytest.raises(UserError, match="3 of 3 demonstrations are longer than the model's context of 4 tokens; set"):
        demonstrations(Recorded(answers), tokenizer(), 3, 0, "cpu", context=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(demonstrations(Recorded(answers), tokenizer(), 3, 0, "cpu", context=6)) == 3


def test_pairs_of_which_one_response_is_longer_than_the_context_are_left_out_whole() -> None:
    compared = [(prompt(2), [3, EOS], [4, 5, 6, EOS]), (prompt(2), [3, EOS], [4, EOS])]
    with pytest.warns(RunWarning, match="1 of 2 pairs are longer than the model's context of 4 tokens"):
        rows = recorded_pairs(Recorded(pairs=compared), tokenizer(), "cpu", context=4)
    assert rows is not None
    assert (rows.pairs.tolist(), rows.mask.sum(1).tolist()) == ([[0, 1]], [2, 2])
    with pytest.warns(RunWarning, match="held-out pairs"):
        recorded_pairs(Recorded(pairs=compared), tokenizer(), "cpu", held_out=True, context=4)


def test_the_domain_knows_its_models_context(tmp_path: Path) -> None:
    long = {"prompt": "1" * 200, "chosen": "2", "rejected": "3"}
    short = [{"prompt": str(i), "chosen": "2", "rejected": ""} for i in range(40)]
    data = tmp_path / "pairs.jsonl"
    data.write_text("\n".join(json.dumps(record) for record in [long, *short]))
    domain = LanguageDomain({"name": "chat_preferences", "path": str(data)}, {"path": saved(tmp_path / "model")})
    assert context_length(domain.policy) == 128
    with pytest.warns(RunWarning, match="1 of .* pairs are longer than the model's context of 128"):
        pairs = domain.preferences()
    drawn = pairs.sample(8)
    assert drawn.mask.sum(1)[drawn.pairs].tolist() == [[2, 1]] * 8  # an empty response is its end token
    with pytest.warns(RunWarning, match=r"\d+ of 2048 demonstrations are longer"):
        assert domain.dataset({}).sample(4).mask.sum(1).tolist() == [2] * 4


def questions(tmp_path: Path, *texts: str) -> dict[str, object]:
    data = tmp_path / "questions.jsonl"
    data.write_text("\n".join(json.dumps({"question": text, "answer": "#### 1"}) for text in texts))
    return {"name": "gsm8k", "path": str(data), "test_path": str(data), "prompt": "{question}", "max_new_tokens": 4}


def test_prompts_without_a_token_are_left_out_and_told_of_once(tmp_path: Path) -> None:
    digits = character_tokenizer("0123456789+-*/() :=#")
    task = make_task(questions(tmp_path, "", *(str(i) for i in range(30))), digits, 0)
    with pytest.warns(RunWarning, match=r"\d+ of 200 prompts of the task have no tokens; these and others like them"):
        drawn = task.prompts(200)
    assert len(drawn) == 200
    assert all(prompt.token_ids for prompt in drawn)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(prompt.token_ids for prompt, _ in task.demonstrations(100))


def test_a_task_of_empty_prompts_is_one_line(tmp_path: Path) -> None:
    task = make_task(questions(tmp_path, *[""] * 20), character_tokenizer("0123456789#= "), 0)
    with pytest.warns(RunWarning), pytest.raises(UserError, match="hardly any prompt of the task has a token"):
        task.prompts(2)


def test_rows_that_a_reward_function_fails_for_are_counted_in_the_metrics(tmp_path: Path) -> None:
    (tmp_path / "judge.py").write_text(
        "def close(completions):\n"
        "    if any('1' in text for text in completions):\n        raise KeyError('one')\n"
        "    return [1.0] * len(completions)\n"
    )
    reward = f"task.reward={{function: '{tmp_path}/judge.py:close', on_failure: skip}}"
    words = ["method=grpo", "task=addition", reward, "iterations=1", "method.source.rows=64", "evaluation_episodes=16"]
    with pytest.warns(RunWarning, match=r"failed for \d+ of 64 rows"):
        train(compose([*words, "evaluations=1", "checkpoints=0", f"out={tmp_path / 'run'}"]))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    logged = next(line for line in lines if "loss/policy" in line)
    assert 0 < logged["train/close_failed"] < 1
    assert logged["train/close_failed"] * 64 == round(logged["train/close_failed"] * 64)
    assert logged["train/score"] == logged["train/close"] == 1.0
    assert lines[0]["eval/close_failed"] > 0


def test_fused_kernels_need_a_gpu_the_package_and_a_model_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"model\.liger=true needs a GPU: device=cuda, not cpu"):
        use_liger(network(), "cpu")
    name = "liger_kernel.transformers.monkey_patch"
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match="needs the package 'liger-kernel': pip install liger-kernel"):
        use_liger(network(), "cuda")
    package, calls = ModuleType(name), []
    package.MODEL_TYPE_TO_APPLY_LIGER_FN = {"llama": None}
    package._apply_liger_kernel_to_instance = lambda model, **options: calls.append(options)
    monkeypatch.setitem(sys.modules, name, package)
    with pytest.raises(UserError, match=r"unknown kind of model for model\.liger 'qwen3'"):
        use_liger(network(), "cuda")
    package.MODEL_TYPE_TO_APPLY_LIGER_FN["qwen3"] = None
    use_liger(network(), "cuda")
    assert calls == [{"cross_entropy": False, "fused_linear_cross_entropy": False}]
