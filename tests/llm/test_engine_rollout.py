"""Sampling: the cache, repeatability, the draw, finished rows, two samplers."""

from typing import Any

import pytest
import torch
from engine_stub import EOS, PAD, network, tokenizer
from torch.testing import assert_close

from unirl.llm.rollout import Responses, Sampling
from unirl.llm.rollout.draw import draw
from unirl.llm.rollout.transformers_engine import TransformersEngine
from unirl.llm.rows import left_padded, response_batch
from unirl.llm.scoring import Scorer
from unirl.llm.variants import POLICY, Variants, variants_of

PROMPTS = [[5, 6, 7], [8], [3, 4], [9, 9, 2]]
DRAWING = Sampling(max_new_tokens=1, stop=(), pad=PAD)


def sampled(
    variants: Variants, seed: int = 0, repeats: int = 3, mixture: Any = ((POLICY, 1.0),), **options: Any
) -> Responses:
    engine = TransformersEngine()
    engine.open(variants, tokenizer(), None)
    sampling = Sampling(**{"max_new_tokens": 8, "stop": (EOS,), "pad": PAD, **options})
    return engine.generate_mixture(mixture, PROMPTS, repeats, sampling, torch.Generator().manual_seed(seed))


def scored(variants: Variants, responses: Responses, repeats: int, need: str, temperature: float) -> Any:
    prompt, mask = (leaf.repeat_interleave(repeats, 0) for leaf in left_padded(PROMPTS, PAD))
    scores = {"score": torch.zeros(len(prompt))}
    batch = response_batch(prompt, mask, responses.tokens, responses.mask, responses.ended, scores)
    return Scorer(variants, None, temperature)(batch, {need})


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_reported_logp_equals_that_of_scoring_at_the_same_temperature(temperature: float) -> None:
    variants = variants_of(network(dtype=torch.float64))
    responses = sampled(variants, temperature=temperature)
    assert_close(responses.logp, scored(variants, responses, 3, "old_logp", temperature)["old_logp"])
    assert (responses.logp[responses.mask] < 0).all()


def test_the_same_generator_gives_the_same_tokens_and_another_seed_others() -> None:
    variants = variants_of(network())
    first, again, other = sampled(variants, 1), sampled(variants, 1), sampled(variants, 2)
    assert torch.equal(first.tokens, again.tokens) and torch.equal(first.logp, again.logp)
    assert first.tokens.shape != other.tokens.shape or not torch.equal(first.tokens, other.tokens)


def test_draw_is_distributed_as_the_softmax() -> None:
    # 40,000 draws from (0.7, 0.2, 0.1): standard errors at most sqrt(0.7 * 0.3 / 40000) = 0.0023
    probabilities = torch.tensor([0.7, 0.2, 0.1])
    generator = torch.Generator().manual_seed(0)
    drawn = draw(probabilities.log().repeat(40_000, 1), DRAWING, generator)
    frequencies = drawn.tokens.bincount(minlength=3) / 40_000
    assert (frequencies - probabilities).abs().max() < 0.01
    assert_close(drawn.logp, probabilities.log()[drawn.tokens])


def test_draw_finds_tokens_wherever_they_are_in_a_large_vocabulary() -> None:
    # 300 tokens are three blocks, the last one filled up; only the tokens 0, 127, 128 and 299 have any probability
    probabilities = torch.zeros(300)
    probabilities[[0, 127, 128, 299]] = torch.tensor([0.1, 0.2, 0.3, 0.4])
    drawn = draw(probabilities.log().repeat(40_000, 1), DRAWING, torch.Generator().manual_seed(0))
    frequencies = drawn.tokens.bincount(minlength=300) / 40_000
    assert (frequencies - probabilities).abs().max() < 0.01  # four standard errors, sqrt(0.4 * 0.6 / 40000) = 0.0025
    assert set(drawn.tokens.tolist()) == {0, 127, 128, 299}
    assert_close(drawn.logp, probabilities.log()[drawn.tokens])


def test_a_policy_that_has_diverged_still_draws_tokens_of_its_vocabulary() -> None:
    logits = torch.full((2, 300), torch.nan)  # 384 columns once filled up to whole blocks
    drawn = draw(logits, DRAWING, torch.Generator().manual_seed(0))
    assert drawn.tokens.tolist() == [299, 299] and drawn.logp.isnan().all()


def test_greedy_decoding_equals_that_of_transformers() -> None:
    model = network(dtype=torch.float64)
    prompt, mask = left_padded(PROMPTS, PAD)
    expected = model.generate(
        input_ids=prompt, attention_mask=mask, do_sample=False, max_new_tokens=8, eos_token_id=EOS, pad_token_id=PAD
    )[:, prompt.shape[1] :]
    found = sampled(variants_of(model), repeats=1, greedy=True)
    assert torch.equal(found.tokens, expected[:, : found.tokens.shape[1]])


@pytest.mark.parametrize("sliding", [False, True])
def test_rows_that_leave_the_batch_change_no_other_row(sliding: bool) -> None:
    options = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1} if sliding else {}
    variants = variants_of(network(dtype=torch.float64, **options))
    sizes: list[int] = []
    variants.policy.model.register_forward_hook(lambda _, __, out: sizes.append(len(out.last_hidden_state)))
    stop = (EOS, 5, 9)  # a fifth of the vocabulary ends a response, so rows end at different times
    leaving = sampled(variants, stop=stop, max_new_tokens=12, greedy=True)
    assert len(set(sizes[1:])) > 1
    staying = sampled(variants, stop=(), max_new_tokens=12, greedy=True)
    for row, mask in enumerate(leaving.mask):
        count = int(mask.sum())
        assert torch.equal(leaving.tokens[row, :count], staying.tokens[row, :count])
        assert_close(leaving.logp[row, :count], staying.logp[row, :count])


def test_a_groups_prompt_is_read_once() -> None:
    variants = variants_of(network())
    shapes: list[tuple[int, ...]] = []
    variants.policy.model.register_forward_hook(lambda _, __, out: shapes.append(tuple(out.last_hidden_state.shape)))
    sampled(variants, repeats=5, stop=(-1,))
    assert shapes[0] == (4, 3, 32)  # four prompts of width three, not twenty
    assert shapes[1:] == [(20, 1, 32)] * 7


def test_the_stop_token_is_the_last_of_the_mask_and_only_the_limit_leaves_a_row_unended() -> None:
    responses = sampled(variants_of(network()), repeats=16)
    assert responses.ended.any() and not responses.ended.all()
    for tokens, mask, ended in zip(responses.tokens, responses.mask, responses.ended, strict=True):
        length = int(mask.sum())
        assert mask[:length].all() and (tokens[length:] == PAD).all()
        assert (EOS in tokens[:length].tolist()) == bool(ended)
        assert not ended or tokens[length - 1] == EOS
        assert ended or length == 8


def test_an_opponent_draws_from_the_geometric_mixture() -> None:
    variants = variants_of(network(0, dtype=torch.float64))
    variants.copy_policy("ref", 0.0)
    with torch.no_grad():
        variants.anchors["ref"].model.embed_tokens.weight.mul_(0.5)
    responses = sampled(variants, mixture=[(POLICY, 0.25), ("ref", 0.75)])
    prompts = [prompt for prompt in PROMPTS for _ in range(3)]
    for prompt, tokens, mask, logp in zip(prompts, responses.tokens, responses.mask, responses.logp, strict=True):
        ids = torch.tensor([prompt + tokens[mask].tolist()])
        own, other = variants.policy(input_ids=ids).logits[0], variants.anchors["ref"](input_ids=ids).logits[0]
        log_p = (0.25 * own.log_softmax(-1) + 0.75 * other.log_softmax(-1)).log_softmax(-1)
        expected = log_p[len(prompt) - 1 : -1].gather(-1, tokens[mask][:, None]).squeeze(-1)
        assert_close(logp[mask], expected)
    assert_close(
        sampled(variants, mixture=[(POLICY, 0.0), ("ref", 1.0)]).logp,
        sampled(variants, mixture=[("ref", 1.0)]).logp,
    )
