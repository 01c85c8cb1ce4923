import json
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from unirl.errors import UserError
from unirl.llm.tasks import make_task
from unirl.llm.tiny import Architecture, Pretraining, pretrain, tiny_model
from unirl.llm.tiny.pretrain import IGNORED, _loss, _tensors, new_model
from unirl.llm.tiny.tokenizer import SPECIAL, byte_tokenizer, character_tokenizer

SMALL = {"name": "tiny", "layers": 1, "hidden": 32, "heads": 2, "intermediate": 64}
QUICK = {"name": "addition", "digits": 1, "pretrain": {"steps": 3, "batch": 8, "examples": 64}}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIRL_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "tiny"


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_characters_are_tokens():
    tokenizer = character_tokenizer("0123456789+=")
    ids = tokenizer("47+85=")["input_ids"]
    assert len(tokenizer) == len(SPECIAL) + 12 and len(ids) == 6
    assert tokenizer.decode(ids) == "47+85="
    assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == "47+85="
    assert tokenizer("x")["input_ids"] == [tokenizer.unk_token_id]


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60))
def test_bytes_spell_any_text(text):
    tokenizer = byte_tokenizer(["some words to learn"], 300)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text or any(token in text for token in SPECIAL)


def test_a_byte_vocabulary_needs_room_for_the_bytes():
    with pytest.raises(UserError, match="at least 263"):
        byte_tokenizer(["text"], 200)


def test_the_model_comes_back_from_its_folder_unchanged(home):
    made, tokenizer = tiny_model(QUICK, SMALL, seed=0)
    read, again = tiny_model(QUICK, SMALL, seed=0)
    assert same(weights(made), weights(read))
    assert tokenizer.get_vocab() == again.get_vocab() and again.chat_template == tokenizer.chat_template
    assert (again.pad_token, again.eos_token, again.bos_token, again.padding_side) == (
        "<pad>",
        "<eos>",
        "<bos>",
        "left",
    )
    folder = next(path for path in home.iterdir() if path.is_dir())
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= {path.name for path in folder.iterdir()}
    assert made.config.model_type == "qwen3" and made.lm_head.weight is made.model.embed_tokens.weight


def test_making_it_again_gives_the_same_bits_and_leaves_the_global_generator_alone(tmp_path, monkeypatch):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, _ = tiny_model(QUICK, SMALL, seed=0)
    monkeypatch.setenv("UNIRL_HOME", str(tmp_path / "elsewhere"))
    torch.set_num_threads(2)
    try:
        second, _ = tiny_model(QUICK, SMALL, seed=0)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert same(weights(first), weights(second))
    assert torch.equal(torch.get_rng_state(), before)


def test_what_determines_the_weights_names_the_folder(home):
    folders = lambda: len([path for path in home.iterdir() if path.is_dir()])  # noqa: E731
    tiny_model(QUICK, SMALL, seed=0)
    tiny_model({**QUICK, "budget": {"online": {"iterations": 3}}, "verifier": {"name": "number"}}, SMALL, seed=0)
    tiny_model(QUICK, {**SMALL, "critic": "shared"}, seed=0)
    tiny_model(QUICK, {**SMALL, "seed": 0}, seed=9)  # the model's own seed goes first
    assert folders() == 1
    tiny_model(QUICK, SMALL, seed=1)
    tiny_model(QUICK, {**SMALL, "hidden": 16}, seed=0)
    tiny_model({**QUICK, "pretrain": {**QUICK["pretrain"], "lr": 1e-3}}, SMALL, seed=0)
    tiny_model({**QUICK, "digits": 2}, SMALL, seed=0)
    assert folders() == 5


def test_a_changed_data_file_gives_another_model(home, tmp_path):
    path = tmp_path / "data.jsonl"
    for answer in ("1", "2"):
        path.write_text("".join(json.dumps({"question": f"q{i}", "answer": answer}) + "\n" for i in range(30)))
        tiny_model({"name": "gsm8k", "path": str(path), "pretrain": {"steps": 0}}, {**SMALL, "vocabulary": 300}, seed=0)
    assert len([path for path in home.iterdir() if path.is_dir()]) == 2


def test_who_comes_second_waits_and_reads_what_the_first_made(home):
    started, release = threading.Event(), threading.Event()
    made, read = [], []

    def hold(done, steps):
        started.set()
        assert release.wait(60)

    first = threading.Thread(target=lambda: made.append(tiny_model(QUICK, SMALL, seed=0, progress=hold)))
    second = threading.Thread(target=lambda: read.append(tiny_model(QUICK, SMALL, seed=0, progress=_never)))
    first.start()
    assert started.wait(60)
    second.start()
    second.join(timeout=0.3)
    assert second.is_alive() and not made
    release.set()
    first.join()
    second.join()
    assert same(weights(made[0][0]), weights(read[0][0]))


def _never(done, steps):
    raise AssertionError("the model is made twice")


def test_a_failed_pretraining_leaves_no_model(home):
    def fail(done, steps):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny_model(QUICK, SMALL, seed=0, progress=fail)
    assert [path for path in home.iterdir() if path.is_dir()] == []


def test_the_loss_is_on_response_tokens_only():
    # each row: a prompt of 2 tokens (ignored) and a response of 1 or 2, padded with 0 on the right
    ids, targets, lengths = _tensors([(_P([5, 6]), [7, 1]), (_P([8, 9]), [1])], pad=0)
    assert ids.tolist() == [[5, 6, 7, 1], [8, 9, 1, 0]]
    assert targets.tolist() == [[IGNORED, IGNORED, 7, 1], [IGNORED, IGNORED, 1, IGNORED]]
    assert lengths.tolist() == [4, 3]


def test_padding_does_not_change_the_loss():
    tokenizer = character_tokenizer("0123456789+=")
    model = new_model(Architecture(layers=1, hidden=32, heads=2), tokenizer, seed=0)
    rows = [(_P([7, 8, 9]), [10, 1]), (_P([9, 8]), [1])]
    together = _loss(model, *_tensors(rows, pad=0)[:2])
    apart = [_loss(model, *_tensors([row], pad=0)[:2]) for row in rows]
    # mean over 3 response tokens: 2 of the first row, 1 of the second
    torch.testing.assert_close(together, (2 * apart[0] + apart[1]) / 3)


class _P:
    def __init__(self, token_ids):
        self.token_ids = token_ids


def test_the_learning_rate_rises_then_falls_to_a_tenth():
    settings = Pretraining(steps=101, lr=1.0, warmup=50)
    assert settings.rate(0) == pytest.approx(1 / 50)
    assert settings.rate(49) == settings.rate(50) == 1.0
    assert settings.rate(101) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("task", "model", "message"),
    [
        ({**QUICK, "pretrain": {"step": 3}}, SMALL, "did you mean steps"),
        ({**QUICK, "pretrain": {"steps": -1}}, SMALL, "pretrain.steps is -1"),
        ({**QUICK, "pretrain": {"lr": 0.0}}, SMALL, "lr must be positive"),
        (QUICK, {**SMALL, "heads": 3}, "multiple of model.heads=3"),
        (QUICK, {**SMALL, "layers": 0}, "model.layers is 0"),
    ],
)
def test_wrong_settings_are_named(task, model, message):
    with pytest.raises(UserError, match=message):
        tiny_model(task, model, seed=0)


def test_pretraining_teaches_one_digit_addition():
    config = {"name": "addition", "digits": 1}
    tokenizer = character_tokenizer("0123456789+=")
    task = make_task(config, tokenizer, 0)
    model = new_model(Architecture(layers=1, hidden=64, heads=2, intermediate=128), tokenizer, seed=0)
    prompts = list({prompt.text: prompt for prompt in task.prompts(300)}.values())
    assert np.mean(greedy_scores(model, tokenizer, task, prompts)) < 0.1
    pretrain(model, task, Pretraining(steps=400, batch=32, lr=5e-3, examples=512), seed=0)
    assert np.mean(greedy_scores(model, tokenizer, task, prompts)) > 0.5


def greedy_scores(model, tokenizer, task, prompts):
    ids = torch.tensor([prompt.token_ids for prompt in prompts])
    with torch.no_grad():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False)
    rows = out[:, ids.shape[1] :].tolist()
    return task.reward(prompts, tokenizer.batch_decode(rows, skip_special_tokens=True), rows)["score"]


@pytest.mark.slow
def test_the_addition_model_has_signal_and_room():
    config = yaml.safe_load((Path(__file__).parents[2] / "configs" / "task" / "addition.yaml").read_text())
    model, tokenizer = tiny_model(config, {}, seed=0)
    task = make_task(config, tokenizer, 0)
    prompts = task.held_out(256)
    ids = torch.tensor([prompt.token_ids for prompt in prompts])
    torch.manual_seed(0)
    with torch.no_grad():
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=True, top_k=0)
    rows = out[:, ids.shape[1] :].tolist()
    score = np.mean(task.reward(prompts, tokenizer.batch_decode(rows, skip_special_tokens=True), rows)["score"])
    assert 0.3 < score < 0.8
