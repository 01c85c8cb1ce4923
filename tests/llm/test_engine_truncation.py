"""Truncated sampling and training: the set against a full sort, values, gradients, draws, and both sides alike."""

import math
from typing import Any

import pytest
import torch
from engine_stub import EOS, PAD, network, tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from unirl.config import compose
from unirl.errors import UserError
from unirl.llm.rollout import Responses, Sampling
from unirl.llm.rollout.draw import draw
from unirl.llm.rollout.transformers_engine import TransformersEngine
from unirl.llm.rows import left_padded, response_batch
from unirl.llm.scoring import Scorer
from unirl.llm.token_statistics import Head, token_statistics
from unirl.llm.truncation import RULED_OUT, Truncation, rule_out
from unirl.llm.variants import Variants, variants_of
from unirl.run import build

PROMPTS = [[5, 6, 7], [8], [3, 4], [9, 9, 2]]
TRUNCATIONS = [
    Truncation(top_k=3),
    Truncation(top_p=0.9),
    Truncation(top_p=0.5),
    Truncation(min_p=0.2),
    Truncation(top_k=5, top_p=0.8, min_p=0.05),
]

truncations = st.builds(
    Truncation,
    top_k=st.integers(0, 9),
    top_p=st.sampled_from([1.0, 0.999, 0.9, 0.5, 0.1, 1e-6]),
    min_p=st.sampled_from([0.0, 1e-3, 0.1, 0.5, 1.0]),
)


def brute_force(row: list[float], truncation: Truncation) -> set[int]:
    """The tokens that stay, by a full sort of the probabilities, one filter after another."""
    highest = max(row)
    p = [math.exp(z - highest) for z in row]
    kept = [i for i in range(len(row)) if p[i] >= truncation.min_p]
    if truncation.top_k:
        kth = sorted((row[i] for i in kept), reverse=True)[: truncation.top_k][-1]
        kept = [i for i in kept if row[i] >= kth]
    if truncation.top_p < 1:
        mass, last = 0.0, highest
        for i in sorted(kept, key=lambda i: -row[i]):
            if mass >= truncation.top_p * sum(p[j] for j in kept):
                break
            mass, last = mass + p[i], row[i]
        kept = [i for i in kept if row[i] >= last]
    return set(kept)


def logits_of(rows: int, vocabulary: int, ties: bool, seed: int) -> Tensor:
    """Normal logits; with ties, rounded so that many are equal."""
    logits = 2 * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return logits.round() if ties else logits


@given(truncations, st.integers(1, 4), st.sampled_from([1, 2, 7, 63, 64, 65, 300]), st.booleans(), st.integers(0, 99))
def test_the_set_is_that_of_a_full_sort(
    truncation: Truncation, rows: int, vocabulary: int, ties: bool, seed: int
) -> None:
    logits = logits_of(rows, vocabulary, ties, seed)
    least = truncation.least(logits)
    for row, smallest in zip(logits, least, strict=True):
        assert set((row >= smallest).nonzero().flatten().tolist()) == brute_force(row.tolist(), truncation)


def test_filters_by_hand_in_their_order() -> None:
    # p = (.5, .2, .2, .08, .02). min_p .1 keeps p >= .05: the first four. top_k 2 keeps the two that tie with the
    # second as well: three tokens. top_p .6 of their .9 is .54: .5 is not enough, so the second tokens, which tie, stay
    logits = torch.tensor([[0.5, 0.2, 0.2, 0.08, 0.02]], dtype=torch.float64).log()

    def kept(**options: Any) -> int:
        return int((logits >= Truncation(**options).least(logits)).sum())

    assert [kept(min_p=0.1), kept(top_k=2), kept(min_p=0.1, top_k=2, top_p=0.6)] == [4, 3, 3]
    assert [kept(top_p=0.5), kept(top_p=0.51), kept(top_p=0.95), kept(top_k=2, top_p=0.55)] == [1, 3, 4, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": -1}, "domain.top_k is -1; it must be 0"),
        ({"top_k": 2.5}, "domain.top_k is 2.5"),
        ({"top_k": "many"}, "domain.top_k is 'many'"),
        ({"top_p": 0.0}, "domain.top_p is 0.0; it must be above 0"),
        ({"top_p": 1.01}, "domain.top_p is 1.01"),
        ({"top_p": math.nan}, "domain.top_p is nan"),
        ({"min_p": -0.1}, "domain.min_p is -0.1; it must be between 0"),
        ({"min_p": 2}, "domain.min_p is 2"),
    ],
)
def test_impossible_truncations_are_refused(options: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Truncation(**options)


def test_a_diverged_row_rules_nothing_out() -> None:
    logits = torch.full((2, 200), math.nan)
    least = Truncation(top_k=5, top_p=0.9, min_p=0.1).least(logits)
    assert rule_out(logits, least).isnan().all()


def naive(hidden: Tensor, targets: Tensor, head: Head) -> dict[str, Tensor]:
    """Log-probability and entropy over the set of a full sort with the target in it, left to autograd."""
    logits = (hidden @ head.weight.T + (0.0 if head.bias is None else head.bias)) / head.temperature
    logps, entropies = [], []
    for row, target in zip(logits, targets.tolist(), strict=True):
        kept = sorted(brute_force(row.tolist(), head.truncation) | {target})
        log_p = row[kept].log_softmax(-1)
        logps.append(log_p[kept.index(target)])
        entropies.append(-(log_p.exp() * log_p).sum())
    return {"logp": torch.stack(logps), "entropy": torch.stack(entropies)}


@given(
    truncation=truncations,
    rows=st.integers(1, 9),
    vocabulary=st.sampled_from([1, 5, 70]),
    temperature=st.sampled_from([0.3, 1.0, 2.0]),
    biased=st.booleans(),
    logits_at_once=st.integers(1, 500),
    seed=st.integers(0, 99),
)
def test_truncated_statistics_equal_autograd_on_the_sorted_set_in_values_and_gradients(
    truncation: Truncation,
    rows: int,
    vocabulary: int,
    temperature: float,
    biased: bool,
    logits_at_once: int,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(rows, 3), (vocabulary, 3), *([(vocabulary,)] if biased else [])]
    leaves = [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]
    head = Head(leaves[1], leaves[2] if biased else None, temperature, truncation)
    targets = torch.randint(vocabulary, (rows,), generator=generator)
    found = token_statistics(leaves[0], targets, head, entropy=True, logits_at_once=logits_at_once)
    expected = naive(leaves[0], targets, head)
    assert_close(found, expected, rtol=1e-11, atol=1e-11)
    slopes = {name: torch.randn(rows, generator=generator, dtype=torch.float64) for name in expected}
    gradients = [
        torch.autograd.grad(sum((slopes[name] * each[name]).sum() for name in expected), leaves)
        for each in (found, expected)
    ]
    assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-9)


def test_truncated_statistics_agree_with_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(s, 3, generator=generator, dtype=torch.float64).requires_grad_() for s in (6, 9))
    targets = torch.arange(6)

    def statistics(hidden: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        head = Head(weight, None, 0.7, Truncation(top_p=0.8))
        return tuple(token_statistics(hidden, targets, head, entropy=True).values())

    assert torch.autograd.gradcheck(statistics, (hidden, weight), eps=1e-7, atol=1e-6)


def test_a_target_outside_the_set_has_a_finite_log_probability() -> None:
    # logits (2, 1, 0), top_k = 1: the set is {0}, with the target 2 in it {0, 2}: log p = 0 - log(e^2 + 1) = -2.1269
    head = Head(torch.tensor([[2.0], [1.0], [0.0]]), None, 1.0, Truncation(top_k=1))
    found = token_statistics(torch.ones(2, 1), torch.tensor([2, 0]), head, entropy=True)
    assert_close(found["logp"], torch.tensor([-math.log(math.exp(2) + 1), 0.0]))
    assert found["entropy"][1] == 0 and found["entropy"][0] > 0


def test_an_exact_divergence_to_an_anchor_is_refused_under_truncation() -> None:
    weight, hidden = torch.eye(3), torch.ones(2, 3)
    anchors = {"ref": (hidden, Head(weight, None, 1.0))}
    head = Head(weight, None, 1.0, Truncation(top_p=0.9))
    with pytest.raises(UserError, match="exact KL to an anchor is over the whole vocabulary"):
        token_statistics(hidden, torch.tensor([0, 1]), head, anchors=anchors)


@given(truncations, st.sampled_from([3, 130]), st.booleans(), st.integers(0, 99))
def test_draws_report_the_truncated_distribution(
    truncation: Truncation, vocabulary: int, ties: bool, seed: int
) -> None:
    logits = logits_of(5, vocabulary, ties, seed)
    sampling = Sampling(1, (), PAD, truncation=truncation, top_logprobs=4, entropy=True)
    drawn = draw(logits.clone(), sampling, torch.Generator().manual_seed(seed))
    assert drawn.top_tokens is not None and drawn.top_logp is not None and drawn.entropy is not None
    for row, token in enumerate(drawn.tokens.tolist()):
        kept = sorted(brute_force(logits[row].tolist(), truncation))
        log_p = logits.new_full((vocabulary,), -math.inf)
        log_p[kept] = logits[row, kept].log_softmax(-1)
        assert token in kept
        assert_close(drawn.logp[row], log_p[token], rtol=1e-11, atol=1e-11)
        assert_close(drawn.top_logp[row], log_p.topk(min(4, vocabulary)).values, rtol=1e-11, atol=1e-11)
        assert_close(drawn.top_logp[row], log_p[drawn.top_tokens[row]], rtol=1e-11, atol=1e-11)
        entropy = -(log_p[kept].exp() * log_p[kept]).sum()
        assert_close(drawn.entropy[row], entropy, rtol=1e-11, atol=1e-11)


def test_frequencies_of_draws_are_the_renormalised_probabilities() -> None:
    # top_k = 3 of (.4, .3, .2, .1): (4, 3, 2) / 9; standard errors at most sqrt(.25 / 40000) = 0.0025
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log().repeat(40_000, 1)
    drawn = draw(logits, Sampling(1, (), PAD, truncation=Truncation(top_k=3)), torch.Generator().manual_seed(0))
    frequencies = drawn.tokens.bincount(minlength=4) / 40_000
    assert (frequencies - torch.tensor([4, 3, 2, 0]) / 9).abs().max() < 0.01
    assert frequencies[3] == 0


def test_ruled_out_tokens_have_no_probability_even_beside_very_unlikely_ones() -> None:
    logits = torch.tensor([[1e4, -1e4, 0.0]])
    assert rule_out(logits, torch.tensor([[-1.0]])).tolist() == [[1e4, torch.tensor(RULED_OUT).item(), 0.0]]
    assert logits.softmax(-1).tolist() == [[1.0, 0.0, 0.0]]


def responded(variants: Variants, truncation: Truncation, **options: Any) -> Responses:
    engine = TransformersEngine()
    engine.open(variants, tokenizer(), None)
    sampling = Sampling(8, (EOS,), PAD, truncation=truncation, **options)
    return engine.generate(PROMPTS, 4, sampling, torch.Generator().manual_seed(0))


def scored(variants: Variants, responses: Responses, scorer: Scorer, need: set[str]) -> dict[str, Any]:
    prompt, mask = (leaf.repeat_interleave(4, 0) for leaf in left_padded(PROMPTS, PAD))
    scores = {"score": torch.zeros(len(prompt))}
    batch = response_batch(prompt, mask, responses.tokens, responses.mask, responses.ended, scores)
    return scorer(batch, need)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("truncation", TRUNCATIONS)
def test_the_engines_log_probabilities_equal_the_scorers_under_truncation(
    truncation: Truncation, dtype: torch.dtype, tolerance: float
) -> None:
    variants = variants_of(network(dtype=dtype))
    responses = responded(variants, truncation, temperature=1.3, entropy=True)
    scorer = Scorer(variants, None, 1.3, truncation=truncation)
    found = scored(variants, responses, scorer, {"logp", "entropy"})
    assert_close(responses.logp, found["logp"].detach(), rtol=tolerance, atol=tolerance)
    assert_close(responses.entropy, found["entropy"].detach(), rtol=tolerance, atol=tolerance)
    whole = scored(variants, responses, Scorer(variants, None, 1.3), {"old_logp"})["old_logp"]
    assert (responses.logp > whole + 1e-6)[responses.mask].any()  # the set is smaller than the vocabulary


@settings(deadline=None, max_examples=20)
@given(truncations)
def test_every_drawn_token_was_in_the_set_of_the_scorers_own_logits(truncation: Truncation) -> None:
    variants = variants_of(network(dtype=torch.float64))
    responses = responded(variants, truncation)
    found = scored(variants, responses, Scorer(variants, None, truncation=truncation), {"old_logp"})["old_logp"]
    assert_close(responses.logp, found, rtol=1e-10, atol=1e-10)


def test_the_ratio_of_a_grpo_iteration_is_one_at_its_first_step() -> None:
    words = ["method=grpo", "task=addition", "domain.top_p=0.9", "method.source.rows=32", "out=unused"]
    trainer = build(compose([*words, "method.update.epochs=1", "method.update.minibatches=1"]), None)
    trainer.iterate()
    measured = trainer._means.take()
    assert measured["policy/clip_fraction"] == 0 and abs(measured["policy/kl_old"]) < 1e-9
    batch = trainer.domain.score(trainer.domain.rollout(32, group_size=8), {"old_logp"})
    ratio = (trainer.domain.score(batch, {"logp"}).logp - batch.old_logp).exp()
    assert_close(ratio.detach(), torch.ones_like(ratio), rtol=0, atol=1e-6)
    assert_close(batch.old_logp, batch.behavior_logp, rtol=1e-4, atol=1e-4)
    assert (batch.behavior_logp[batch.mask] == 0).any()  # steps with a single token left
    assert (batch.version[batch.mask] == 1).all()  # the optimizer's step made a new policy
