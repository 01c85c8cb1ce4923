"""Scoring: hidden states of padded rows, values, anchors, what is refused."""

import pytest
import torch
from engine_stub import network
from torch.testing import assert_close

from unirl import Batch
from unirl.errors import UserError
from unirl.llm.models import value_head
from unirl.llm.rows import response_batch
from unirl.llm.scoring import Scorer
from unirl.llm.variants import variants_of


def padded_batch() -> tuple[Batch, list[tuple[list[int], list[int]]]]:
    """Three rows of different prompt and response lengths, the first truncated, the others terminated."""
    rows = [([5, 6, 7], [2, 3, 4, 5]), ([8], [9, 1]), ([3, 4], [1])]
    prompt = torch.tensor([[5, 6, 7], [0, 0, 8], [0, 3, 4]])
    prompt_mask = torch.tensor([[1, 1, 1], [0, 0, 1], [0, 1, 1]]).bool()
    tokens = torch.tensor([[2, 3, 4, 5], [9, 1, 0, 0], [1, 0, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]]).bool()
    ended = torch.tensor([False, True, True])
    scores = {"score": torch.tensor([0.0, 1.0, 0.5])}
    return response_batch(prompt, prompt_mask, tokens, mask, ended, scores), rows


def test_logp_and_entropy_are_those_of_each_row_alone_without_padding() -> None:
    model = network(dtype=torch.float64)
    batch, rows = padded_batch()
    found = Scorer(variants_of(model), None, temperature=0.5)(batch, {"logp", "entropy"})
    for i, (prompt, response) in enumerate(rows):
        logits = model(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1] / 0.5
        log_p = logits.log_softmax(-1)
        assert_close(found["logp"][i, : len(response)], log_p[range(len(response)), response])
        assert_close(found["entropy"][i, : len(response)], -(log_p.exp() * log_p).sum(-1))
        assert (found["logp"][i, len(response) :] == 0).all()


def test_unmasked_text_inside_a_response_is_read_but_not_scored() -> None:
    # a tool's answer: its two tokens are context of the third decision, not decisions
    model = network(dtype=torch.float64)
    scorer = Scorer(variants_of(model), None)
    batch, _ = padded_batch()
    gap = batch[:1].replace(mask=torch.tensor([[True, False, False, True]]))
    whole, partial = scorer(batch[:1], {"logp"})["logp"], scorer(gap, {"logp"})["logp"]
    assert_close(partial[0, [0, 3]], whole[0, [0, 3]])
    assert (partial[0, [1, 2]] == 0).all()


def test_next_value_is_zero_after_the_end_and_the_last_states_value_at_a_truncation() -> None:
    model = network(dtype=torch.float64)
    head = value_head(model)
    torch.nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(0))
    batch, rows = padded_batch()
    found = Scorer(variants_of(model), head)(batch, {"value", "next_value", "value_pred"})
    for i, (prompt, response) in enumerate(rows):
        hidden = model.model(input_ids=torch.tensor([prompt + response])).last_hidden_state[0]
        of_states = head(hidden).squeeze(-1)[len(prompt) - 1 :]
        length = len(response)
        assert_close(found["value"][i, :length], of_states[:-1])
        expected = of_states[1:].clone()
        if i > 0:  # terminated
            expected[-1] = 0.0
        assert_close(found["next_value"][i, :length], expected)
        assert (found["next_value"][i, length:] == 0).all()
    assert found["value_pred"].requires_grad
    assert not found["value"].requires_grad and not found["next_value"].requires_grad


def test_a_shared_critic_alone_moves_only_its_head_and_together_with_logp_the_trunk() -> None:
    model = network()
    head = value_head(model)
    torch.nn.init.ones_(head.weight)
    batch, _ = padded_batch()
    scorer = Scorer(variants_of(model), head)
    scorer(batch, {"value_pred"})["value_pred"].sum().backward()
    assert head.weight.grad is not None and all(p.grad is None for p in model.parameters())
    scorer(batch, {"value_pred", "logp"})["value_pred"].sum().backward()
    assert model.model.layers[0].mlp.up_proj.weight.grad.abs().sum() > 0


def test_exact_kl_to_an_anchor_is_zero_at_the_anchor_with_zero_gradient() -> None:
    model = network(dtype=torch.float64)
    variants = variants_of(model)
    variants.copy_policy("ref", 0.0)
    batch, _ = padded_batch()
    kl = Scorer(variants, None)(batch, {"anchor_kl.ref"})["anchor_kl"]["ref"]
    kl.sum().backward()
    assert_close(kl, torch.zeros_like(kl), atol=1e-12, rtol=0)
    assert max(p.grad.abs().max() for p in model.parameters()) < 1e-10


def test_gradient_checkpointing_runs_layers_again_and_changes_no_gradient() -> None:
    batch, _ = padded_batch()
    gradients, runs = [], []
    for checkpointing in (False, True):
        model = network(dtype=torch.float64)
        calls: list[int] = []
        model.model.layers[0].mlp.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        Scorer(variants_of(model), None)(batch, {"logp"})["logp"].sum().backward()
        gradients.append([p.grad for p in model.parameters()])
        runs.append(len(calls))
        assert not any(module.training for module in model.modules())
    assert_close(gradients[0], gradients[1], rtol=1e-12, atol=1e-12)
    assert runs == [1, 2]


@pytest.mark.parametrize("field", ["q", "sample_logp", "policy_action", "next_q"])
def test_fields_of_control_are_refused_by_name(field: str) -> None:
    with pytest.raises(UserError, match=f"needs `{field}`, which the language domain does not offer"):
        Scorer(variants_of(network()), None).check({"logp", field})


def test_values_without_a_critic_and_unknown_anchors_are_refused() -> None:
    scorer = Scorer(variants_of(network()), None)
    with pytest.raises(UserError, match="`value` needs a critic"):
        scorer.check({"value"})
    with pytest.raises(UserError, match="names no anchor 'ref'"):
        scorer.check({"anchor_logp.ref"})
