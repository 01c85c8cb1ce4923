"""[168] Prefix Grouper: a shared prompt encoded once gives the numbers and gradients of repeated prompts."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from unirl import Batch

pytest.importorskip("transformers")
from transformers import GPT2Config, GPT2LMHeadModel

from unirl.llm.attention import PackedAttention
from unirl.llm.packing import Packing, pack

PROMPT, SUFFIXES, VOCABULARY = 7, (3, 5, 2, 4), 23
DRAWN = torch.Generator().manual_seed(0)
PROMPT_TOKENS = torch.randint(VOCABULARY, (PROMPT,), generator=DRAWN)
RESPONSES = [torch.randint(VOCABULARY, (length,), generator=DRAWN) for length in SUFFIXES]


def network() -> GPT2LMHeadModel:
    """Two layers, d = 32, two heads, learned positions, float64 throughout (rotary models compute norms in float32)."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=32, n_embd=32, n_layer=2, n_head=2, initializer_range=0.3)
    return GPT2LMHeadModel(config).double().eval()


def group(responses: list[Tensor]) -> Batch:
    width = max(map(len, responses))
    return Batch(
        mask=torch.arange(width) < torch.tensor([[len(response)] for response in responses]),
        inputs={"token": torch.stack([torch.nn.functional.pad(r, (0, width - len(r))) for r in responses])},
        context={
            "prompt": PROMPT_TOKENS.expand(len(responses), -1),
            "prompt_mask": torch.ones(len(responses), PROMPT, dtype=torch.bool),
        },
    )


def shared_logp(model: GPT2LMHeadModel, batch: Batch, packing: Packing) -> list[Tensor]:
    with PackedAttention(model, packing):
        hidden = model.base_model(
            input_ids=packing.tokens[None], position_ids=packing.positions[None]
        ).last_hidden_state
    log_p = model.lm_head(hidden[0][packing.at[:, :-1]]).log_softmax(-1)
    chosen = log_p.gather(-1, batch.inputs["token"][..., None]).squeeze(-1)
    return [row[mask] for row, mask in zip(chosen, batch.mask, strict=True)]


def repeated_logp(model: GPT2LMHeadModel) -> list[Tensor]:
    found = []
    for response in RESPONSES:
        logits = model(input_ids=torch.cat([PROMPT_TOKENS, response])[None]).logits[0, PROMPT - 1 : -1]
        found.append(logits.log_softmax(-1).gather(-1, response[:, None]).squeeze(-1))
    return found


def gradients(model: GPT2LMHeadModel, logp: list[Tensor]) -> list[Tensor]:
    loss = sum((torch.arange(1, len(row) + 1) * row).sum() * (i + 1) for i, row in enumerate(logp))
    return list(torch.autograd.grad(loss, list(model.parameters())))


def test_the_prompt_is_in_the_sequence_once() -> None:
    packing = pack(group(RESPONSES))
    assert packing.tokens.tolist() == torch.cat([PROMPT_TOKENS, *RESPONSES]).tolist()  # 7 + 3 + 5 + 2 + 4 = 21, not 42
    assert packing.positions.tolist() == [*range(7), 7, 8, 9, *range(7, 12), 7, 8, *range(7, 11)]
    assert packing.at[:, 0].tolist() == [6, 6, 6, 6]  # every first token is chosen from the prompt's last state


def test_log_probabilities_and_gradients_are_those_of_repeated_prompts() -> None:
    model, batch = network(), group(RESPONSES)
    shared, repeated = shared_logp(model, batch, pack(batch)), repeated_logp(model)
    assert max(float((a - b).detach().abs().max()) for a, b in zip(shared, repeated, strict=True)) < 1e-9
    both = zip(gradients(model, shared), gradients(model, repeated), strict=True)
    assert max(float((a - b).abs().max()) for a, b in both) < 1e-9


def test_changing_one_suffix_leaves_the_others_as_they_are() -> None:
    model = network()
    changed = [*RESPONSES[:1], (RESPONSES[1] + 1) % VOCABULARY, *RESPONSES[2:]]
    batch, other = group(RESPONSES), group(changed)
    before, after = shared_logp(model, batch, pack(batch)), shared_logp(model, other, pack(other))
    assert all(torch.equal(before[i], after[i]) for i in (0, 2, 3))
    assert (before[1] - after[1]).abs().max() > 1e-3


def test_positions_that_do_not_restart_give_other_numbers() -> None:
    model, batch = network(), group(RESPONSES)
    packing = pack(batch)
    running = replace(packing, positions=torch.arange(len(packing.tokens)))
    wrong, right = shared_logp(model, batch, running), shared_logp(model, batch, packing)
    assert (wrong[0] - right[0]).abs().max() < 1e-9  # the first suffix follows the prompt in any case
    assert all((wrong[i] - right[i]).abs().max() > 1e-3 for i in (1, 2, 3))
