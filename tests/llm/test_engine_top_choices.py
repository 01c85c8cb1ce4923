"""The policy's likeliest tokens in scoring and training: truncation, packing, anchors, a run with a KL over them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_stub import PAD, ToyTask, network, saved
from hypothesis import given
from hypothesis import strategies as st
from test_engine_packing import MIXED, VOCABULARY, batch_of
from test_engine_truncation import brute_force, truncations
from torch import Tensor
from torch.testing import assert_close
from transformers import PreTrainedModel

import unirl.llm.domain
from unirl import Batch, make
from unirl.batch import MissingFieldError
from unirl.config import compose
from unirl.domain import Requirements
from unirl.errors import UserError
from unirl.llm import LanguageDomain
from unirl.llm.rollout import Sampling
from unirl.llm.rollout.draw import draw
from unirl.llm.scoring import Scorer
from unirl.llm.token_statistics import Head, token_statistics
from unirl.llm.truncation import Truncation
from unirl.llm.variants import Variants, variants_of
from unirl.run import build, train

FIRST = {"old_logp", "top_token", "anchor_logp.ref", "anchor_top_logp.ref"}  # once per batch
TOP_K = "method.regularizers=[{name: kl, to: ref, estimator: top_k, choices: 4, coef: 0.1}]"


def over_the_set(hidden: Tensor, targets: Tensor, head: Head) -> Tensor:
    """Log-probabilities [M, V] over the set of a full sort with the target in it, minus infinity outside."""
    logits = (hidden @ head.weight.T + (0.0 if head.bias is None else head.bias)) / head.temperature
    rows = []
    for row, target in zip(logits, targets.tolist(), strict=True):
        kept = sorted(brute_force(row.tolist(), head.truncation) | {target})
        rows.append(row.new_full(row.shape, -torch.inf).index_put((torch.tensor(kept),), row[kept].log_softmax(-1)))
    return torch.stack(rows)


@given(
    truncation=truncations,
    rows=st.integers(1, 9),
    vocabulary=st.sampled_from([1, 5, 70]),
    temperature=st.sampled_from([0.3, 1.0, 2.0]),
    biased=st.booleans(),
    top=st.integers(1, 9),
    logits_at_once=st.integers(1, 500),
    seed=st.integers(0, 99),
)
def test_truncated_choices_equal_autograd_on_the_sorted_set_in_values_and_gradients(
    truncation: Truncation,
    rows: int,
    vocabulary: int,
    temperature: float,
    biased: bool,
    top: int,
    logits_at_once: int,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(rows, 3), (vocabulary, 3), *([(vocabulary,)] if biased else [])]
    leaves = [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]
    head = Head(leaves[1], leaves[2] if biased else None, temperature, truncation)
    targets = torch.randint(vocabulary, (rows,), generator=generator)
    every = over_the_set(leaves[0], targets, head)
    likeliest = every.topk(min(top, vocabulary)).values
    some = torch.rand(rows, vocabulary, generator=generator).argsort(-1)[:, :top]  # also such as are ruled out
    for asked, expected in ((top, likeliest), (some, every.gather(-1, some))):
        found = token_statistics(leaves[0], targets, head, top=asked, logits_at_once=logits_at_once)
        assert_close(found["top_logp"], expected, rtol=1e-11, atol=1e-11)
        assert_close(found["top_logp"], every.gather(-1, found["top_token"]), rtol=1e-11, atol=1e-11)
        possible = expected.isfinite()
        slopes = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
        wild = torch.where(possible, slopes, torch.nan)  # as of p log p, left to autograd
        gradients = [
            torch.autograd.grad(found["top_logp"], leaves, wild),
            torch.autograd.grad(expected[possible], leaves, slopes[possible], retain_graph=True),
        ]
        assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-9)


def test_scoring_and_the_engine_report_the_same_choices() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(20, 3, generator=generator), torch.randn(9, 3, generator=generator)
    head = Head(weight, None, 0.7, Truncation(top_p=0.7))
    drawn = draw(head(hidden), Sampling(1, (), PAD, truncation=head.truncation, top_logprobs=4), generator)
    assert drawn.top_logp is not None and (drawn.top_logp == -torch.inf).any()
    found = token_statistics(hidden, drawn.tokens, head, top=4)
    assert_close(found["top_logp"], drawn.top_logp)
    possible = drawn.top_logp.isfinite()
    assert drawn.top_tokens is not None and torch.equal(found["top_token"][possible], drawn.top_tokens[possible])


def moved_from_its_anchor(**options: Any) -> tuple[PreTrainedModel, Variants]:
    """A policy a little away from the anchor `ref`."""
    model = network(dtype=torch.float64, **options)
    variants = variants_of(model)
    variants.copy_policy("ref", 0.0)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model, variants


def fixed(scorer: Scorer, batch: Batch) -> Batch:
    """The batch with what is computed before the update."""
    with torch.no_grad():
        return batch.replace(**scorer(batch, FIRST))


def test_choices_are_those_of_the_whole_vocabulary_at_the_temperature() -> None:
    model, variants = moved_from_its_anchor()
    scorer = Scorer(variants, None, temperature=0.5, top_choices=4)
    batch = fixed(scorer, batch_of(MIXED))
    top_logp = scorer(batch, {"top_logp"})["top_logp"]
    with variants.using("ref") as network:
        anchor = network
    for i, (_, prompt, response) in enumerate(MIXED):
        row = torch.cat([batch.context["prompt"][i, -prompt:], batch.inputs["token"][i, :response]])
        for of, found in ((model, top_logp), (anchor, batch.anchor_top_logp["ref"])):
            log_p = (of(input_ids=row[None]).logits[0, prompt - 1 : -1] / 0.5).log_softmax(-1)
            expected = log_p.gather(-1, batch.top_token[i, :response])
            assert_close(found[i, :response], expected, rtol=1e-6, atol=1e-6)
            if of is model:
                assert torch.equal(log_p.topk(4).indices, batch.top_token[i, :response])
    outside = ~batch.mask
    assert (top_logp[outside] == 0).all() and (batch.top_token[outside] == 0).all()
    assert not batch.anchor_top_logp["ref"].requires_grad and top_logp.requires_grad


def test_choices_of_packed_rows_are_those_of_padded_ones() -> None:
    model, variants = moved_from_its_anchor()
    found = []
    for packed in (True, False):
        scorer = Scorer(variants, None, packed=packed, top_choices=5)
        batch = fixed(scorer, batch_of(MIXED))
        scored = batch.replace(**scorer(batch, {"logp", "top_logp"}))
        loss = scored.logp.sum() + make("regularizer", "kl", estimator="top_k", choices=5)(scored).sum()
        found.append((batch, scored, torch.autograd.grad(loss, list(model.parameters()))))
    (packed, scored, gradient), (padded, expected, slopes) = found
    assert torch.equal(packed.top_token, padded.top_token)
    assert_close(scored.top_logp, expected.top_logp, rtol=1e-5, atol=1e-6)
    assert_close(packed.anchor_top_logp["ref"], padded.anchor_top_logp["ref"], rtol=1e-5, atol=1e-6)
    assert_close(gradient, slopes, rtol=1e-3, atol=1e-4)


def test_the_kl_over_all_tokens_is_the_exact_one_and_over_fewer_is_less() -> None:
    model, variants = moved_from_its_anchor()
    for choices, equal in ((VOCABULARY, True), (1000, True), (3, False), (1, False)):
        scorer = Scorer(variants, None, top_choices=choices)
        batch = fixed(scorer, batch_of(MIXED))
        assert batch.top_token.shape[2] == min(choices, VOCABULARY)
        scored = batch.replace(**scorer(batch, {"top_logp", "anchor_kl.ref"}))
        exact = scored.anchor_kl["ref"]
        found = make("regularizer", "kl", estimator="top_k", choices=choices)(scored)
        assert (found <= exact + 1e-6).all() and (found >= -1e-6).all()
        if equal:
            assert_close(found, exact, rtol=1e-9, atol=1e-9)
            wanted = list(model.parameters())
            assert_close(*(torch.autograd.grad(kl.sum(), wanted, retain_graph=True) for kl in (found, exact)))
        else:
            assert (found < exact - 1e-4)[batch.mask].any()


def test_one_pass_of_the_policy_and_one_of_the_anchor_serve_all_that_is_fixed() -> None:
    model, variants = moved_from_its_anchor()
    with variants.using("ref") as anchor:
        runs: dict[str, int] = {"policy": 0, "ref": 0}
    for name, each in (("policy", model), ("ref", anchor)):
        each.model.layers[0].register_forward_pre_hook(lambda *_, name=name: runs.update({name: runs[name] + 1}))
    scorer = Scorer(variants, None, top_choices=4)
    batch = fixed(scorer, batch_of(MIXED))
    assert runs == {"policy": 1, "ref": 1}
    scorer(batch, {"logp", "entropy", "top_logp"})
    assert runs == {"policy": 2, "ref": 1}


def test_what_cannot_be_said_of_choices_is_refused() -> None:
    _, variants = moved_from_its_anchor()
    with pytest.raises(UserError, match="`top_token` needs a number of choices"):
        Scorer(variants, None).check({"top_token"})
    with pytest.raises(UserError, match="names no anchor 'prev'"):
        Scorer(variants, None, top_choices=2).check({"anchor_top_logp.prev"})
    with pytest.raises(UserError, match=r"infinite where an anchor rules one of them out; with domain\.top_k"):
        Scorer(variants, None, truncation=Truncation(top_p=0.9), top_choices=2).check({"anchor_top_logp.ref"})
    Scorer(variants, None, truncation=Truncation(top_p=0.9), top_choices=2).check({"top_token", "top_logp"})
    for name in ("top_logp", "anchor_top_logp.ref"):
        with pytest.raises(MissingFieldError, match="the batch has no `top_token`"):
            Scorer(variants, None, top_choices=2)(batch_of(MIXED), {name})


def test_a_domain_scores_choices_in_pieces_and_minibatches_keep_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unirl.llm.domain, "make_task", lambda config, tokenizer, seed: ToyTask(seed))
    domain = LanguageDomain({"name": "toy"}, {"path": saved(tmp_path), "dtype": "float64"})
    domain.build(Requirements(anchors=frozenset({"ref"}), top_choices=3))
    batch = domain.rollout(16, group_size=4)
    whole = domain.score(batch, FIRST)
    domain.token_budget = 30
    pieces = domain.score(batch, FIRST)
    assert whole.top_token.shape == (*batch.mask.shape, 3) and whole.top_token.dtype == torch.long
    assert torch.equal(pieces.top_token, whole.top_token)
    assert_close(pieces.anchor_top_logp["ref"], whole.anchor_top_logp["ref"])
    for piece in domain.microbatches(whole[3:9]):
        scored = domain.score(piece, {"logp", "top_logp"})
        assert_close(scored.top_logp.detach(), scored.anchor_top_logp["ref"])
        assert (scored.top_logp[..., 0] >= scored.top_logp[..., 1])[scored.mask].all()


def test_grpo_trains_with_a_kl_over_likeliest_tokens(tmp_path: Path) -> None:
    def words(out: str) -> list[str]:
        small = ["iterations=4", "method.source.rows=16", "evaluation_episodes=8", "evaluations=1", "checkpoints=2"]
        more = ["method.update.minibatches=2", "domain.token_budget=256"]
        return ["method=grpo", "task=addition", *small, *more, TOP_K, f"out={tmp_path / out}"]

    train(compose(words("run")))
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [record["loss/policy"] for record in records if "loss/policy" in record]
    assert len(losses) == 4 and all(abs(loss) < 10 for loss in losses)

    trainer = build(compose(words("other")), None)
    asked: list[set[str]] = []
    domain: Any = trainer.domain
    score = domain.score

    def noted(batch: Batch, need: Any) -> Batch:
        asked.append(set(need))
        scored: Batch = score(batch, need)
        return scored

    domain.score = noted
    before = [parameter.clone() for parameter in trainer.domain.parameters("policy")]
    trainer.iterate()
    assert asked[0] == {"old_logp", "top_token", "anchor_top_logp.ref"}
    assert len(asked) > 2 and all(need == {"logp", "top_logp"} for need in asked[1:])
    assert any(not torch.equal(a, b) for a, b in zip(before, trainer.domain.parameters("policy"), strict=True))


def test_a_kl_over_likeliest_tokens_is_refused_under_truncation(tmp_path: Path) -> None:
    words = ["method=grpo", "task=addition", "domain.top_p=0.9", "method.source.rows=8", TOP_K, f"out={tmp_path}"]
    with pytest.raises(UserError, match="a KL over the likeliest tokens is infinite"):
        build(compose(words), None).iterate()
