"""Loading models, adapters and anchors."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from engine_stub import network, saved, tokenizer
from torch.testing import assert_close

from unirl.errors import UserError
from unirl.llm.models import (
    LoraSettings,
    adapt,
    check_head,
    check_tokenizer,
    check_vocabulary,
    load,
    model_settings,
    stop_tokens,
)
from unirl.llm.variants import CRITIC, POLICY, Adapters, Variants, variants_of


def loaded(path: str, **model: Any) -> Any:
    section = {"path": path, **model}
    return load({}, section, model_settings(section), 0, "cpu")


def output(variants: Variants, name: str) -> torch.Tensor:
    with variants.using(name) as model:
        hidden: torch.Tensor = model.base_model(input_ids=torch.tensor([[5, 6, 7]]), use_cache=False).last_hidden_state
        return hidden


def shift(variants: Variants, name: str = POLICY, by: float = 0.1) -> None:
    with torch.no_grad():
        for parameter in variants.parameters(name):
            parameter.add_(by)


def with_adapter(dtype: torch.dtype = torch.float64) -> Adapters:
    variants = variants_of(adapt(network(dtype=dtype), LoraSettings(rank=2), seed=3).to(dtype))
    assert isinstance(variants, Adapters)
    return variants


def test_a_saved_folder_loads_with_its_tokenizer(tmp_path: Path) -> None:
    model, tokens = loaded(saved(tmp_path))
    assert tokens("12+3=")["input_ids"] == [3, 4, 12, 5, 13]
    assert tokens.decode([3, 4, 12, 5, 13]).replace(" ", "") == "12+3="
    assert not model.training and model.dtype == torch.float32
    assert loaded(str(tmp_path), dtype="bfloat16")[0].dtype == torch.bfloat16


def test_mistakes_end_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "empty").mkdir()
    network().save_pretrained(tmp_path / "bare")
    wrong = {
        "it has no config.json": {"path": str(tmp_path / "empty")},
        "has no tokenizer; save one": {"path": str(tmp_path / "bare")},
        "no model 'nobody/nothing'": {"path": "nobody/nothing"},
        "needs either `name: tiny` or `path": {"name": "huge"},
        "unknown model.dtype 'float31' .did you mean float32": {"path": "x", "dtype": "float31"},
        "unknown key of model 'pathh'": {"path": "x", "pathh": 1},
        "unknown key of model.lora 'rang'": {"path": "x", "lora": {"rang": 8}},
        "dropout must be 0": {"path": "x", "lora": {"dropout": 0.1}},
        "there is no model folder '/no/where'": {"path": "/no/where"},
    }
    for message, section in wrong.items():
        with pytest.raises(UserError, match=message) as caught:
            load({}, section, model_settings(section), 0, "cpu")
        assert "\n" not in str(caught.value)


def test_a_tokenizer_without_padding_pads_with_the_end_and_one_without_an_end_is_refused() -> None:
    without_pad = tokenizer(pad_token=None)
    check_tokenizer(without_pad, "here")
    assert without_pad.pad_token_id == without_pad.eos_token_id == 1
    with pytest.raises(UserError, match="has no end-of-sequence token"):
        check_tokenizer(tokenizer(eos_token=None), "here")


def test_a_tokenizer_with_more_tokens_than_the_model_embeds_is_refused() -> None:
    larger = tokenizer()
    larger.add_tokens(["more"])
    check_vocabulary(network(), tokenizer())
    with pytest.raises(UserError, match="has 15 tokens, but the model embeds only 14"):
        check_vocabulary(network(), larger)


def test_every_stop_token_of_the_generation_settings_counts() -> None:
    model = network()
    model.generation_config.eos_token_id = [1, 7]
    assert stop_tokens(model, tokenizer()) == [1, 7]


def test_a_head_that_is_more_than_linear_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    check_head(model)
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda **k: SimpleNamespace(logits=forward(**k).logits.tanh()))
    with pytest.raises(UserError, match="changes its logits after the output projection"):
        check_head(model)


def test_an_anchor_is_a_frozen_copy_that_moves_by_exponential_averaging() -> None:
    variants = variants_of(network(dtype=torch.float64))
    variants.copy_policy("slow", 0.9)  # new: a copy
    before = [p.clone() for p in variants.anchors["slow"].parameters()]
    shift(variants, by=1.0)
    variants.copy_policy("slow", 0.9)
    for old, now in zip(before, variants.anchors["slow"].parameters(), strict=True):
        assert_close(now, old + 0.1)  # 0.9 * old + 0.1 * (old + 1)
        assert not now.requires_grad
    with pytest.raises(UserError, match="unknown anchor 'fast'"), variants.using("fast"):
        pass


def test_with_lora_the_reference_is_the_base_itself_and_stores_nothing() -> None:
    variants = with_adapter()
    base = sum(p.numel() for name, p in variants.network.named_parameters() if "lora_" not in name)
    adapter = sum(p.numel() for p in variants.parameters(POLICY))
    start = output(variants, POLICY)
    variants.copy_policy("ref", 0.0)
    shift(variants)
    assert_close(output(variants, "ref"), start)
    assert (output(variants, POLICY) - start).abs().max() > 1e-3
    assert sum(p.numel() for p in variants.model.parameters()) == base + adapter
    variants.copy_policy("prev", 0.0)
    assert sum(p.numel() for p in variants.model.parameters()) == base + 2 * adapter
    assert_close(output(variants, "prev"), output(variants, POLICY))
    shift(variants)
    assert (output(variants, "prev") - output(variants, POLICY)).abs().max() > 1e-3
    assert variants.state_dict()["anchors"]["ref"] is None


def test_with_lora_an_averaged_anchor_averages_the_factors() -> None:
    variants = with_adapter()
    variants.copy_policy("slow", 0.9)
    shift(variants, by=1.0)  # B: 0 -> 1
    variants.copy_policy("slow", 0.9)
    stored = variants.state_dict()["anchors"]["slow"]
    assert stored
    for name, weight in stored.items():
        if "lora_B" in name:
            assert_close(weight, torch.full_like(weight, 0.1))


def test_with_lora_only_the_adapter_learns_after_every_switch() -> None:
    variants = with_adapter()
    variants.add_critic()
    variants.copy_policy("ref", 0.0)
    shift(variants)
    variants.copy_policy("prev", 0.0)
    loss = output(variants, POLICY).sum() + 2 * output(variants, CRITIC).sum()
    for anchor in ("ref", "prev"):
        with torch.no_grad():
            output(variants, anchor)
    loss.backward()
    learning = {id(p) for name in (POLICY, CRITIC) for p in variants.parameters(name)}
    for parameter in variants.model.parameters():
        assert (parameter.grad is not None) == (id(parameter) in learning)
    assert any(p.grad.abs().sum() > 0 for p in variants.parameters(CRITIC))
    assert any(p.grad.abs().sum() > 0 for p in variants.parameters(POLICY))


@pytest.mark.parametrize("lora", [False, True])
def test_weights_survive_a_round_trip_of_the_state(lora: bool) -> None:
    make = with_adapter if lora else lambda: variants_of(network(dtype=torch.float64))
    variants = make()
    variants.add_critic()
    variants.copy_policy("ref", 0.0)
    shift(variants)
    variants.copy_policy("prev", 0.0)
    shift(variants)
    shift(variants, CRITIC, by=0.05)
    restored = make()
    restored.load_state_dict(variants.state_dict())
    for name in (POLICY, CRITIC, "ref", "prev"):
        assert torch.equal(output(restored, name), output(variants, name))
    assert len({output(variants, name).sum().item() for name in (POLICY, CRITIC, "ref", "prev")}) == 4


def test_adapters_start_the_same_for_the_same_seed_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    model = network()  # seeds the global generator with 0
    before = torch.get_rng_state()
    first = adapt(model, LoraSettings(rank=2), seed=3)
    assert torch.equal(torch.get_rng_state(), before) and expected.numel() == 1
    second = adapt(network(), LoraSettings(rank=2), seed=3)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_adapters_on_the_output_projection_are_refused() -> None:
    with pytest.raises(UserError, match="output projection"):
        adapt(network(), LoraSettings(targets=["lm_head"]), seed=0)
    with pytest.raises(UserError, match="targets"):
        adapt(network(), LoraSettings(targets=["nothing"]), seed=0)
