"""The engine's key-value cache and attention: values as without them, and nothing copied at a step."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from engine_stub import CHARACTERS, EOS, PAD, network, tokenizer
from torch.testing import assert_close
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from unirl.llm.rollout import Responses, Sampling, cache
from unirl.llm.rollout.cache import RoomyLayer, keep_rows, roomy_cache
from unirl.llm.rollout.grouped_attention import grouped, grouped_attention, grouping
from unirl.llm.rollout.transformers_engine import TransformersEngine
from unirl.llm.variants import variants_of

PROMPTS = [[5, 6, 7], [8], [3, 4], [9, 9, 2]]


def shared_heads(attention: str = "sdpa") -> PreTrainedModel:
    """Four heads of queries on two heads of keys."""
    model = network(dtype=torch.float64, num_attention_heads=4, head_dim=8, tie_word_embeddings=False)
    model.set_attn_implementation(attention)
    return model


def sliding() -> PreTrainedModel:
    """The second layer sees four tokens."""
    return network(dtype=torch.float64, use_sliding_window=True, sliding_window=4, max_window_layers=1)


def with_learned_positions() -> PreTrainedModel:
    config = GPT2Config(
        vocab_size=len(CHARACTERS), n_positions=64, n_embd=32, n_layer=2, n_head=2, initializer_range=0.3,
        bos_token_id=EOS, eos_token_id=EOS,
    )  # fmt: skip
    torch.manual_seed(0)
    return GPT2LMHeadModel(config).double().eval()


MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "heads of their own": lambda: network(dtype=torch.float64),
    "shared heads": shared_heads,
    "eager": lambda: shared_heads("eager").float(),  # whose softmax is in float32: masks made in float64 overflow it
    "sliding window": sliding,
    "learned positions": with_learned_positions,
}


def generated(model: PreTrainedModel, prompts: Any = PROMPTS, **options: Any) -> Responses:
    engine = TransformersEngine()
    engine.open(variants_of(model), tokenizer(), None)
    sampling = Sampling(**{"max_new_tokens": 12, "stop": (EOS, 5), "pad": PAD, **options})
    return engine.generate(prompts, 3, sampling, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("prompts", [PROMPTS, [[5, 6], [7, 8]]])  # with padding and without
def test_log_probabilities_are_those_of_a_pass_over_the_whole_text(name: str, prompts: Any) -> None:
    model = MODELS[name]()
    responses = generated(model, prompts)
    assert len(set(responses.mask.sum(1).tolist())) > 1
    for row, (tokens, mask) in enumerate(zip(responses.tokens, responses.mask, strict=True)):
        prompt, response = prompts[row // 3], tokens[mask].tolist()
        with torch.no_grad():
            log_p = model(input_ids=torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        expected = log_p.gather(-1, tokens[mask][:, None]).squeeze(-1)
        assert_close(responses.logp[row, mask], expected, rtol=1e-5, atol=1e-5 if name == "eager" else 1e-7)


@pytest.mark.parametrize("room", [1, 3, 100])
def test_a_cache_that_grows_gives_the_same_tokens(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = shared_heads()
    expected = generated(model)
    monkeypatch.setattr(cache, "ROOM", room)
    found = generated(model)
    assert torch.equal(found.tokens, expected.tokens)
    assert_close(found.logp, expected.logp)


def test_the_models_attention_is_as_before_afterwards() -> None:
    model = shared_heads()
    assert grouped(model) and not grouped(shared_heads("eager"))
    with pytest.raises(ZeroDivisionError), grouping(model):
        assert model.config._attn_implementation == "unirl_grouped" and grouped(model)
        raise ZeroDivisionError
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("length", [1, 3])
def test_grouped_attention_equals_that_of_transformers(masked: bool, length: int) -> None:
    generator = torch.Generator().manual_seed(0)

    def drawn(heads: int, columns: int) -> torch.Tensor:
        return torch.randn(5, heads, columns, 8, generator=generator, dtype=torch.float64)

    query, key, value = drawn(4, length), drawn(2, 7), drawn(2, 7)
    mask = torch.arange(7) >= torch.arange(5)[:, None, None, None] if masked or length > 1 else None
    layer = shared_heads().model.layers[0].self_attn
    found, _ = grouped_attention(layer, query, key, value, mask, scaling=0.3, sliding_window=None)
    expected, _ = sdpa_attention_forward(layer, query, key, value, mask, scaling=0.3)
    assert found.shape == (5, length, 4, 8)
    assert_close(found, expected)


def columns(count: int, rows: int = 4) -> torch.Tensor:
    return torch.randn(rows, 2, count, 8)


def test_a_step_writes_its_columns_where_they_stay() -> None:
    layer = RoomyLayer(limit=50)
    prompt = columns(6, rows=2)
    layer.update(prompt, -prompt)
    layer.batch_select_indices(torch.tensor([0, 0, 1, 1]))
    address, expected = layer.keys.data_ptr(), prompt[[0, 0, 1, 1]]
    for _ in range(44):
        new = columns(1)
        keys, values = layer.update(new, -new)
        expected = torch.cat([expected, new], 2)
        assert torch.equal(keys, expected) and torch.equal(values, -expected)
        assert keys.data_ptr() == address and layer.get_seq_length() == expected.shape[2]
    assert layer.keys.untyped_storage().nbytes() == 4 * 2 * 50 * 8 * 4  # rows, heads, limit, width, bytes: no more


def test_rows_leave_in_place() -> None:
    store = roomy_cache(shared_heads().config, 10)
    state = columns(3, rows=6)
    for index in range(2):
        store.update(state, -state, index)
    store.batch_select_indices(torch.arange(6))
    first: Any = store.layers[0]
    address = first.keys.data_ptr()
    keep_rows(store, torch.tensor([0, 5, 2, 4]))  # rows 1 and 3 have ended
    new = columns(1)
    for index in range(2):
        keys, values = store.update(new, -new, index)
        assert torch.equal(keys, torch.cat([state[[0, 5, 2, 4]], new], 2)) and torch.equal(values, -keys)
    assert first.keys.data_ptr() == address
