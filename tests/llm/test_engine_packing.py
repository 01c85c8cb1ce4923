"""Packed rows: the same states, log-probabilities and gradients as padded ones, for whatever model can be packed."""

from typing import Any

import pytest
import torch
from engine_stub import network
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from unirl import Batch
from unirl.llm.models import LoraSettings, adapt, value_head
from unirl.llm.packing import WASTE, Segment, bucketed, pack
from unirl.llm.scoring import Scorer
from unirl.llm.states import packable, states
from unirl.llm.variants import variants_of

VOCABULARY = 14
Row = tuple[int, int, int]  # which prompt, its length, the response's length


def batch_of(rows: list[Row], seed: int = 0) -> Batch:
    """Random tokens; rows with the same number and length of prompt have the same prompt."""
    drawn = torch.Generator().manual_seed(seed)
    before, after = max(row[1] for row in rows), max(1, *(row[2] for row in rows))
    prompt = torch.zeros(len(rows), before, dtype=torch.long)
    for i, (number, length, _) in enumerate(rows):
        own = torch.Generator().manual_seed(1000 * length + number)
        prompt[i, before - length :] = torch.randint(1, VOCABULARY, (length,), generator=own)
    prompts, responses = torch.tensor(rows)[:, 1:2], torch.tensor(rows)[:, 2:]
    mask = torch.arange(after) < responses
    return Batch(
        mask=mask,
        inputs={"token": torch.randint(VOCABULARY, (len(rows), after), generator=drawn)},
        context={"prompt": prompt, "prompt_mask": torch.arange(before) >= before - prompts},
        terminated=torch.zeros_like(mask),
    )


MIXED = [(0, 5, 3), (1, 2, 7), (0, 5, 6), (2, 9, 1), (0, 5, 1), (1, 2, 4), (3, 1, 2)]  # groups of 3, 2, 1 and 1


def exact() -> GPT2LMHeadModel:
    """A model that computes everything in float64; rotary ones compute norms and angles in float32."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=64, n_embd=16, n_layer=2, n_head=2, initializer_range=0.3)
    return GPT2LMHeadModel(config).double().eval()


def model_of(kind: str, **options: Any) -> PreTrainedModel:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    more = {"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128, "initializer_range": 0.3}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    config = AutoConfig.for_model(kind, vocab_size=VOCABULARY, **{**sizes, **more, **special, **options})
    torch.manual_seed(0)
    made: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    return made


def scored(model: PreTrainedModel, batch: Batch, packed: bool) -> tuple[Tensor, list[Tensor]]:
    """Log-probabilities, and the gradient of a loss that weighs every one differently."""
    logp = Scorer(variants_of(model), None, packed=packed)(batch, {"logp"})["logp"]
    weights = torch.linspace(0.5, 2.0, logp.numel(), dtype=logp.dtype).reshape(logp.shape)
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return logp.detach(), list(torch.autograd.grad((weights * logp).sum(), wanted))


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 6), st.integers(0, 9)), min_size=1, max_size=9))
def test_packed_equals_padded_for_any_lengths_and_groups(rows: list[Row]) -> None:
    model, batch = exact(), batch_of(rows)
    (logp, gradient), (expected, slopes) = (scored(model, batch, packed) for packed in (True, False))
    assert_close(logp, expected, rtol=1e-9, atol=1e-9)
    assert_close(gradient, slopes, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("llama", {}),
        ("llama", {"num_key_value_heads": 4}),
        ("qwen2", {}),
        ("qwen3", {"num_key_value_heads": 1}),
        ("gemma", {}),
        ("mistral", {"sliding_window": None}),
        ("mistral", {"sliding_window": 4}),
        ("gemma3_text", {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
        ("opt", {"ffn_dim": 64, "word_embed_proj_dim": 32}),
    ],
)
def test_families_of_models_are_packed_with_windows_and_fewer_heads_of_keys(kind: str, options: Any) -> None:
    model, batch = model_of(kind, **options), batch_of([*MIXED, (4, 9, 9)])
    assert packable(model)
    (logp, gradient), (expected, slopes) = (scored(model, batch, packed) for packed in (True, False))
    assert_close(logp, expected, rtol=1e-5, atol=1e-5)
    assert_close(gradient, slopes, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("gemma2", {}),  # caps its scores
        ("mamba", {}),  # recurrent
        ("recurrent_gemma", {}),
        ("bloom", {"n_layer": 2, "n_head": 4}),  # its attention is its own
        ("qwen2_moe", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1, "num_experts": 2,
                       "num_experts_per_tok": 1}),  # does not tell its window
    ],
)  # fmt: skip
def test_models_that_cannot_be_packed_are_found_out(kind: str, options: Any) -> None:
    model = model_of(kind, **options)
    implementation = model.config._attn_implementation
    assert not packable(model)
    assert model.config._attn_implementation == implementation


def test_a_model_that_mixes_tokens_beside_its_attention_is_found_out() -> None:
    model = model_of("llama")
    assert packable(model)
    mixing = model.model.layers[0].mlp.register_forward_hook(lambda module, inputs, out: out + out.roll(1, dims=1))
    assert not packable(model)
    mixing.remove()
    assert packable(model)


def test_half_precision_is_packed_too() -> None:
    model, batch = model_of("llama", initializer_range=0.1).bfloat16(), batch_of(MIXED)
    assert packable(model)
    logp, expected = (scored(model, batch, packed)[0] for packed in (True, False))
    assert_close(logp, expected, rtol=0.05, atol=0.05)


def test_the_states_after_the_last_token_are_there_and_a_shared_prompts_last_state_is_one() -> None:
    model, batch = exact(), batch_of(MIXED)
    packed, padded = states(model, batch, True), states(model, batch, False)
    for row, (_, _, length) in enumerate(MIXED):
        assert_close(packed.of(packed.at[row, : length + 1]), padded.of(padded.at[row, : length + 1]))
    assert len(packed.hidden) == (5 + 3 + 6 + 1) + (2 + 7 + 4) + (9 + 1) + (1 + 2)  # of 7 * (9 + 7) = 112 with padding
    assert packed.at[0, 0] == packed.at[2, 0] == packed.at[4, 0]


@pytest.mark.parametrize("packed", [False, True])
def test_checkpointed_layers_attend_as_before_when_they_are_computed_again(packed: bool) -> None:
    batch, found = batch_of(MIXED), []
    for checkpointing in (False, True):
        model = exact()
        calls: list[int] = []
        model.transformer.h[0].mlp.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        found.append(scored(model, batch, packed))
        assert len(calls) == 1 + checkpointing
        assert model.config._attn_implementation == "sdpa"
        assert not any(module.training for module in model.modules())
    assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


def test_two_checkpointed_batches_may_be_differentiated_in_one_backward_pass() -> None:
    model, batches = exact(), [batch_of(MIXED), batch_of(MIXED[:3], seed=1)]
    scorer = Scorer(variants_of(model), None)

    def gradient() -> list[Tensor]:
        loss = sum(scorer(batch, {"logp"})["logp"].sum() for batch in batches)
        return list(torch.autograd.grad(loss, list(model.parameters())))

    plain = gradient()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert_close(gradient(), plain, rtol=1e-12, atol=1e-12)


def test_adapters_of_policy_anchors_and_critic_are_packed() -> None:
    policy = adapt(network(), LoraSettings(rank=2), seed=0)
    variants = variants_of(policy)
    variants.copy_policy("ref", 0.0)
    variants.add_critic()
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.1 if "default" in name else -0.2)
    variants.copy_policy("prev", 0.0)
    with torch.no_grad():
        for parameter in variants.parameters("<policy>"):
            parameter.mul_(1.5)
    head = value_head(network())
    torch.nn.init.ones_(head.weight)
    need = {"logp", "entropy", "value_pred", "next_value", "anchor_logp.ref", "anchor_logp.prev", "anchor_kl.ref"}
    batch = batch_of(MIXED)
    found = []
    for packed in (True, False):
        fields = Scorer(variants, head, packed=packed)(batch, need)
        loss = fields["logp"].sum() + fields["value_pred"].square().sum() + fields["anchor_kl"]["ref"].sum()
        trained = [*variants.parameters("<policy>"), *variants.parameters("<critic>"), *head.parameters()]
        found.append((fields, torch.autograd.grad(loss, trained)))
    assert_close(found[0][0], found[1][0], rtol=1e-4, atol=1e-4)
    assert_close(found[0][1], found[1][1], rtol=1e-3, atol=1e-3)
    assert (found[0][0]["anchor_logp"]["prev"] - found[0][0]["anchor_logp"]["ref"]).abs().max() > 1e-2


def test_a_row_of_its_own_is_one_segment_and_shared_prompts_are_another() -> None:
    # rows: prompt a (2 tokens) + 1, prompt b (1) + 2, prompt a + 2. Written: a, then row 0, all of row 1, row 2
    batch = batch_of([(0, 2, 1), (1, 1, 2), (0, 2, 2)])
    packing, tokens, prompt = pack(batch), batch.inputs["token"], batch.context["prompt"]
    expected = [*prompt[0], tokens[0, 0], prompt[1, 1], *tokens[1], *tokens[2]]
    assert packing.tokens.tolist() == [int(token) for token in expected]
    assert packing.positions.tolist() == [0, 1, 2, 0, 1, 2, 2, 3]
    assert packing.at.tolist() == [[1, 2, 2], [3, 4, 5], [1, 6, 7]]


def test_a_bucket_is_closed_before_padding_costs_more_than_another_call() -> None:
    # causal segments of 200: a second one of 150 wastes 200 * 200 - 150 * 150 = 17,500 scores, more than WASTE = 16,384
    assert WASTE == 16384
    lengths = [[s.length for s in bucket] for bucket in bucketed([Segment(0, n) for n in (150, 200, 1, 200, 100)])]
    # 150 after 200, 200 is closed off; 100 after 150 wastes 150 * 150 - 100 * 100 = 12,500; then 1 wastes 22,499 more
    assert lengths == [[200, 200], [150, 100], [1]]


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(0, 300)), min_size=1, max_size=40))
def test_every_segment_is_in_one_bucket_and_masked_ones_are_apart(sizes: list[tuple[int, int]]) -> None:
    segments = [Segment(i, length, 0, prompt) for i, (length, prompt) in enumerate(sizes)]
    buckets = bucketed(segments)
    assert sorted(s.start for bucket in buckets for s in bucket) == list(range(len(segments)))
    assert all(len({s.prompt_length > 0 for s in bucket}) == 1 for bucket in buckets)
